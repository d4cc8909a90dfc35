"""What is in the file of an export after its sessions: all that belongs to them, one session after the other.

How a row is written is in `repositories/portable/portable_values.py`, and the format as a whole in `__init__.py` here.
"""

import sqlite3
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import orjson

from statestore.engine.calls import Call
from statestore.engine.flows import Flow, within
from statestore.repositories.portable.portable_pages import PAGE, Overview, Page, Piece, PortablePages
from statestore.repositories.sessions import segments
from statestore.repositories.sessions.segments import Segment

Lines: TypeAlias = list[dict[str, Any]]
Write: TypeAlias = Callable[[str, Lines], None]


class Exported:
    """The sessions of an export, by namespace in the order of their ids: on disk if they are many."""

    def __init__(self, path: str = "", *, reading: bool = False) -> None:
        """*path*: of a file that other processes read. Without one it is a temporary one, mostly in memory."""
        self.path = path
        self.sessions = self.entries = 0
        self._kept = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        if reading:
            return
        self._kept.execute("PRAGMA journal_mode = OFF")
        self._kept.execute("PRAGMA synchronous = OFF")
        self._kept.execute(
            "CREATE TABLE kept (namespace TEXT, session_id TEXT, first_seq, next_seq,"
            " PRIMARY KEY (namespace, session_id)) WITHOUT ROWID"
        )

    def close(self) -> None:
        self._kept.close()

    def add(self, namespace: str, page: Lines) -> None:
        rows = [(namespace, one["session_id"], one["first_seq"], one["next_seq"]) for one in page]
        self._kept.execute("BEGIN")
        self._kept.executemany("INSERT INTO kept VALUES (?, ?, ?, ?)", rows)
        self._kept.execute("COMMIT")
        self.sessions += len(rows)
        self.entries += sum(next_seq - first_seq for _, _, first_seq, next_seq in rows)

    def having(self, namespace: str, session_ids: Iterable[str]) -> set[str]:
        """Those of some sessions that are exported."""
        found = "SELECT 1 FROM kept WHERE namespace = ? AND session_id = ?"
        return {one for one in session_ids if self._kept.execute(found, (namespace, one)).fetchone()}

    def chunks(self) -> Iterator[tuple[str, list["Kept"]]]:
        """The sessions with their namespace, as many at a time as are read together."""
        after = ("", "")
        page = "SELECT * FROM kept WHERE (namespace, session_id) > (?, ?) ORDER BY namespace, session_id LIMIT ?"
        while rows := self._kept.execute(page, (*after, PAGE)).fetchall():
            after = rows[-1][:2]
            for namespace, some in groupby(rows, key=lambda row: row[0]):
                yield namespace, [Kept(*row[1:]) for row in some]


class Kept(NamedTuple):
    """A session that is exported."""

    session_id: str
    first_seq: int
    next_seq: int


def encoded(kind: str, rows: Lines, namespace: str | None) -> bytes:
    """The lines of the file for rows of a kind, which say their *namespace* if it is given."""
    place = {"type": kind} if namespace is None else {"type": kind, "namespace": namespace}
    return b"".join([orjson.dumps({**place, **row}, option=orjson.OPT_APPEND_NEWLINE) for row in rows])


def write_sessions(
    namespace: str, sessions: Sequence[Kept], exported: Exported, write: Write, *, usage: bool
) -> Flow[None]:
    """Write what belongs to some sessions of a namespace, the lines of the ledger only with *usage*."""
    return within(namespace, _write_sessions(namespace, sessions, exported, write, usage))


def _write_sessions(
    namespace: str, sessions: Sequence[Kept], exported: Exported, write: Write, usage: bool
) -> Flow[None]:
    overview: Overview = yield Call(PortablePages.overview, ([one.session_id for one in sessions],))
    owners = exported.having(namespace, {one.owner for found in overview.segments.values() for one in found})
    shared: dict[str, list[Segment]] = {}
    pieces: list[Piece] = []
    for session_id, first_seq, next_seq in sessions:
        for seen in segments.view(overview.segments.get(session_id, ()), session_id, first_seq, next_seq - 1):
            if seen.owner != session_id and seen.owner in owners:
                shared.setdefault(session_id, []).append(seen)
            else:
                pieces.append(Piece(session_id, seen.owner, seen.from_seq, seen.to_seq))
    readers: dict[str, _Reader] = {"entry": _Entries(pieces)}
    for kind, counts in overview.counts.items():
        if kind != "usage" or usage:
            readers[kind] = _Rows(kind, deque((one, counts[one]) for one, _, _ in sessions if one in counts))
    for session_id, _, _ in sessions:
        for seen in shared.get(session_id, ()):
            line = {"from_seq": seen.from_seq, "to_seq": seen.to_seq, "owner_session_id": seen.owner}
            write("segment", [{"session_id": session_id, **line}])
        for kind, reader in readers.items():
            while rows := (yield from reader.next_of(session_id)):
                write(kind, rows)


class _Reader(ABC):
    """Rows of a kind, in the order of the sessions: read a page at a time, and given out by session."""

    def __init__(self) -> None:
        self._rows: deque[dict[str, Any]] = deque()

    def next_of(self, session_id: str) -> Flow[Lines]:
        """The next rows of a session, from one page; none at its end."""
        while not self._rows and self._next_session() == session_id:
            self._rows.extend((yield from self._next_page()))
        found = []
        while self._rows and self._rows[0]["session_id"] == session_id:
            found.append(self._rows.popleft())
        return found

    @abstractmethod
    def _next_session(self) -> str | None:
        """Whose rows are read next."""

    @abstractmethod
    def _next_page(self) -> Flow[Lines]: ...


class _Rows(_Reader):
    """Rows of a kind that sessions have so many of."""

    def __init__(self, kind: str, counts: deque[tuple[str, int]]) -> None:
        super().__init__()
        self._kind = kind
        self._counts = counts
        self._after: dict[str, Any] | None = None

    def _next_session(self) -> str | None:
        return self._counts[0][0] if self._counts else None

    def _next_page(self) -> Flow[Lines]:
        ids: list[str] = []
        room = PAGE
        for session_id, count in self._counts:
            room -= count
            if ids and room < 0:
                break
            ids.append(session_id)
        page: Page = yield Call(PortablePages.rows, (self._kind, ids, self._after))
        self._after = page.rows[-1] if page.more else None
        done = ids.index(page.rows[-1]["session_id"]) if page.more else len(ids)
        for _ in range(done):
            self._counts.popleft()
        return page.rows


class _Entries(_Reader):
    """The entries of pieces of histories."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        super().__init__()
        self._pieces = deque(pieces)

    def _next_session(self) -> str | None:
        return self._pieces[0].session_id if self._pieces else None

    def _next_page(self) -> Flow[Lines]:
        wanted: list[Piece] = []
        room = PAGE
        while self._pieces and room > 0:
            session_id, owner, from_seq, to_seq = self._pieces.popleft()
            last = min(to_seq, from_seq + room - 1)
            wanted.append(Piece(session_id, owner, from_seq, last))
            room -= last - from_seq + 1
            if last < to_seq:
                self._pieces.appendleft(Piece(session_id, owner, last + 1, to_seq))
        page: Page = yield Call(PortablePages.entries, (wanted,))
        if page.more:
            # They are large: what did not fit comes next.
            session_id, owner, _, to_seq = wanted[page.places[-1]]
            left = [Piece(session_id, owner, page.rows[-1]["seq"] + 1, to_seq), *wanted[page.places[-1] + 1 :]]
            self._pieces.extendleft(piece for piece in reversed(left) if piece.from_seq <= piece.to_seq)
        return [
            row if row["session_id"] == (whose := wanted[place].session_id) else _taken_along(row, whose)
            for row, place in zip(page.rows, page.places, strict=True)
        ]


def _taken_along(entry: dict[str, Any], session_id: str) -> dict[str, Any]:
    """An entry of a session that is not in the file, as that of a fork of it, for which it is not billed again."""
    return {**entry, "session_id": session_id, "usage_folded": 1}
