"""The operations of a store by group, one list for sync and async, and what is composed of several of them."""
