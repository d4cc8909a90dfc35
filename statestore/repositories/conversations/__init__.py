"""Whole conversations, loaded and saved, and turns: what needs a session, its history and its state at once."""
