"""The history of a session: entries and summaries, appended, read, followed and let go."""
