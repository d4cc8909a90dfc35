"""The cache beyond its contract: the suites of the field, processes, and any sequence of operations."""
