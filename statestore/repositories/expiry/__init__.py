"""Deleting what has expired or was erased, in batches: of every family."""
