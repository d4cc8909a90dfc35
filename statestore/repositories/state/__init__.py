"""The key-value state of a session."""
