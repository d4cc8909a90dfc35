"""The result cache: entries, tags, limits, counts. Knows nothing of sessions."""
