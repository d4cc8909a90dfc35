"""Whole sessions, in and out."""

from statestore.repositories.base import Repository


class ConversationsRepository(Repository):
    """Whole sessions."""
