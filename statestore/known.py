"""What a store remembers of what it has seen, where that only makes it faster."""


class Known:
    """Names that were seen lately: bounded, safe between threads, and right to forget at any time."""

    __slots__ = ("_most", "_names")

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._names: set[str] = set()

    def add(self, name: str) -> None:
        if len(self._names) >= self._most:
            self._names = set()
        self._names.add(name)

    def __contains__(self, name: str) -> bool:
        return name in self._names
