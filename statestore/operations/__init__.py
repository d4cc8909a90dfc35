"""The operations of a store by group, sync and async, one file per group."""
