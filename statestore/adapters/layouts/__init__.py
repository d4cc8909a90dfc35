"""How adapters keep things in a store: ids, keys and contents. Needs no framework, so that imports write the same."""
