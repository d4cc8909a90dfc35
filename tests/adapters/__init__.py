"""Adapters beside the frameworks they are for. `./run adapters` runs each in an environment of its own."""
