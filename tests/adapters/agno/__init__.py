"""The adapter for agno: the sessions part of its database."""
