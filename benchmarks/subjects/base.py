"""What a subject can be asked to do."""

from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]


class Subject:
    """A library with a database under it. Each verb does one operation of the public API.

    The verbs of an asynchronous subject return awaitables. A verb that a subject lacks is simply not defined: the
    work that needs it is then left out for this subject.
    """

    asynchronous = False

    def open(self, url: str) -> Any:
        """Connect to *url*, where the data of `seed` may be found."""
        raise NotImplementedError

    def close(self) -> Any:
        """Let go of the connections."""

    def can(self, verb: str) -> bool:
        return hasattr(self, verb)

    def callers(self, count: int) -> "Sequence[Any]":
        """*count* handles for concurrent callers: by default this very subject, if it may be shared."""
        return [self] * count


class SeededSubject(Subject):
    """A subject that works on the tables, and finds the data, of `seed`."""

    seeded = True


# The verbs, for the reader; subjects define those that they have.
#
#   create(session_id)                       make a session
#   append(session_id, messages)             add messages to the end, durably, at once
#   read(session_id, last=None)              the newest messages, decoded, oldest first
#   messages(session_id, last)               their contents alone, decoded by the quickest reader of JSON
#   select_contents(session_id, last)        the same, decoded as the driver does, or by Python's json
#   get(session_id, key) / set(session_id, key, value)
#   fork(source_id, fork_id)
#   page(user_id)                            the user's 50 newest sessions
#   cache_get(key) / cache_set(key, value, tags) / cache_invalidate_tag(tag) / sweep()
