"""Adapters: what agent frameworks, web frameworks and test runners ask of a store, each over the public API alone."""
