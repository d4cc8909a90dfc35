"""Sessions that are known to take another statement than most, which is right for all of them but slower."""


class Hints:
    """Ids that were seen lately: bounded, safe between threads, and right to forget at any time."""

    __slots__ = ("_ids", "_most")

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._ids: set[str] = set()

    def add(self, session_id: str) -> None:
        if len(self._ids) >= self._most:
            self._ids = set()
        self._ids.add(session_id)

    def __contains__(self, session_id: object) -> bool:
        return isinstance(session_id, str) and session_id in self._ids


class ForkHints(Hints):
    """Forks: their histories are read from several sessions."""

    __slots__ = ()


class PartHints(Hints):
    """Parts of other sessions: an append to one looks whether the TTL of the whole has to be extended."""

    __slots__ = ()
