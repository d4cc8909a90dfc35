"""Sessions as a file, and back: JSON Lines that are the same whichever database they come from.

The first line names the format and its version, the last one counts the lines before it, so that a file that was cut
off is noticed. Between them stand all sessions, then for each of them its segments, entries, state and summaries, and
what the usage ledger knows. A fork stays a fork: entries that it shares with another session of the file stand there
once. Those that it shares with a session that is not in the file become its own, marked so that they bill nobody again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, BinaryIO

import orjson

from statestore.async_store import AsyncStateStore
from statestore.courses import Course, run, run_async
from statestore.errors import DatabaseError, InvalidValueError, SessionExistsError, SessionNotFoundError
from statestore.repositories.base import Call
from statestore.repositories.portable_checks import Histories
from statestore.repositories.portable_rows import TABLES, PortableWork, Record, decode
from statestore.store import StateStore

FORMAT, VERSION = "statestore", 1
_BATCH = 500
_HEADER = {"type": "header", "format": FORMAT, "version": VERSION}

Progress = Callable[[int], None]


@dataclass(slots=True)
class Totals:
    """How much went out or in."""

    sessions: int = 0
    segments: int = 0
    entries: int = 0
    state_entries: int = 0
    summaries: int = 0
    usage_lines: int = 0

    def add(self, kind: str, count: int) -> None:
        name = _TOTALS[kind]
        setattr(self, name, getattr(self, name) + count)

    @property
    def lines(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


_TOTALS = dict(zip(TABLES, (field.name for field in fields(Totals)), strict=True))


def export_sessions(
    store: StateStore,
    file: BinaryIO,
    *,
    session_ids: Sequence[str] | None = None,
    user_id: str | None = None,
    expect: Progress = lambda lines: None,
    progress: Progress = lambda lines: None,
) -> Totals:
    """Write sessions to *file*, as they are at one moment; expired ones are left out.

    Args:
        store: Where they are.
        file: Open for writing. It is written from front to end.
        session_ids: Only these; by default all of the store's namespace.
        user_id: Only those of this user.
        expect: Called once, before the first entry, with about the number of lines that there will be.
        progress: Called with the number of lines that were written since the last call.

    Raises:
        SessionNotFoundError: There is no session with one of the ids.
    """
    course = _Export(store.namespace, file, expect, progress).course(session_ids, user_id)
    with store._database.snapshot() as runner:
        return run(runner, course)


async def export_sessions_async(
    store: AsyncStateStore,
    file: BinaryIO,
    *,
    session_ids: Sequence[str] | None = None,
    user_id: str | None = None,
    expect: Progress = lambda lines: None,
    progress: Progress = lambda lines: None,
) -> Totals:
    """As `export_sessions`, awaited. *file* is written, and *expect* and *progress* are called, in worker threads."""
    course = _Export(store.namespace, file, expect, progress).course(session_ids, user_id)
    async with store._database.snapshot() as runner:
        return await run_async(runner, course, in_thread=True)


class _Export:
    def __init__(self, namespace: str, file: BinaryIO, expect: Progress, progress: Progress) -> None:
        self._namespace = namespace
        self._file = file
        self._expect = expect
        self._progress = progress
        self._totals = Totals()

    def course(self, session_ids: Sequence[str] | None, user_id: str | None) -> Course[Totals]:
        self._line(_HEADER)
        exported: set[str] = set()
        entries = 0
        options: dict[str, Any] = {"session_ids": session_ids, "user_id": user_id, "after": ""}
        while page := (yield _call(PortableWork.sessions, **options)):
            for session in page:
                exported.add(session["session_id"])
                entries += session["next_seq"] - session["first_seq"]
            self._write("session", page)
            options["after"] = page[-1]["session_id"]
        for missing in sorted(set(session_ids or ()) - exported):
            raise SessionNotFoundError(missing, self._namespace)
        self._expect(len(exported) + entries)
        everything = session_ids is None and user_id is None
        for session_id in sorted(exported):
            yield from self._history(session_id, exported)
            self._write("state", (yield _call(PortableWork.state, session_id)))
            self._write("summary", (yield _call(PortableWork.summaries, session_id)))
            if not everything:
                self._write("usage", (yield _call(PortableWork.usage, session_id)))
        lines = (yield _call(PortableWork.all_usage, None)) if everything else []
        while lines:
            self._write("usage", lines)
            lines = yield _call(PortableWork.all_usage, lines[-1])
        self._line({"type": "end", "lines": self._totals.lines})
        return self._totals

    def _history(self, session_id: str, exported: set[str]) -> Course[None]:
        pieces = yield _call(PortableWork.pieces, session_id)
        shared = [piece for piece in pieces if piece.owner != session_id and piece.owner in exported]
        for piece in shared:
            line = {
                "session_id": session_id,
                "from_seq": piece.from_seq,
                "to_seq": piece.to_seq,
                "owner_session_id": piece.owner,
            }
            self._write("segment", [line])
        for piece in pieces:
            if piece in shared:
                continue
            position = piece.from_seq
            while position <= piece.to_seq:
                entries = yield _call(PortableWork.entries, piece.owner, position, piece.to_seq)
                if not entries:
                    break
                position = entries[-1]["seq"] + 1
                if piece.owner != session_id:
                    entries = [{**entry, "session_id": session_id, "usage_folded": 1} for entry in entries]
                self._write("entry", entries)

    def _write(self, kind: str, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            self._line({"type": kind, **row})
        self._totals.add(kind, len(rows))
        self._progress(len(rows))

    def _line(self, values: dict[str, Any]) -> None:
        self._file.write(orjson.dumps(values) + b"\n")


def import_sessions(
    store: StateStore,
    file: BinaryIO,
    *,
    replace: bool = False,
    progress: Progress = lambda size: None,
) -> Totals:
    """Bring the sessions of an exported *file* into the store's namespace: all or none.

    Args:
        store: Where to.
        file: Open for reading. It is read from front to end.
        replace: Overwrite sessions that are there already. Forks of theirs keep what they see.
        progress: Called with the number of bytes that were read since the last call.

    Raises:
        SessionExistsError: A session is there already, and *replace* is false. Nothing was written.
        InvalidValueError: The file is none of `export_sessions`, is damaged, or ends too early. Nothing was written.
    """
    return insert_records(store, _read(file, progress), replace=replace)


async def import_sessions_async(
    store: AsyncStateStore,
    file: BinaryIO,
    *,
    replace: bool = False,
    progress: Progress = lambda size: None,
) -> Totals:
    """As `import_sessions`, awaited. *file* is read, and *progress* is called, in worker threads."""
    course = _insert(store.namespace, _read(file, progress), replace=replace)
    async with store.transaction() as tx:
        return await run_async(tx._runner, course, in_thread=True)


def insert_records(store: StateStore, records: Iterable[Record], *, replace: bool) -> Totals:
    """Write records, those of sessions first, in one transaction. See `import_sessions`."""
    course = _insert(store.namespace, records, replace=replace)
    with store.transaction() as tx:
        return run(tx._runner, course)


def _insert(namespace: str, records: Iterable[Record], *, replace: bool) -> Course[Totals]:
    totals = Totals()
    histories = Histories()
    ledger: set[str] = set()
    for batch in _batches(records):
        kind = batch[0].kind
        for record in batch:
            histories.add(kind, record.values, record.where)
        sessions = list(dict.fromkeys(record.values.get("session_id", "") for record in batch))
        if kind == "session":
            for living in (yield _call(PortableWork.make_room, sessions, replace=replace)):
                raise SessionExistsError(living, namespace)
        if kind == "usage":
            for session_id in sessions:
                if session_id not in ledger:
                    yield _call(PortableWork.make_room_for_usage, session_id, replace=replace)
            ledger.update(sessions)
        try:
            yield _call(PortableWork.insert, batch)
        except DatabaseError as error:
            if type(error) is not DatabaseError:
                raise
            where = batch[0].where if len(batch) == 1 else f"{batch[0].where} to {batch[-1].where}"
            problem = f"does not go together with the rest, says the database ({error.code}); the file is damaged"
            raise InvalidValueError(where, problem) from error
        totals.add(kind, len(batch))
    histories.check()
    return totals


def _call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return Call(PortableWork, method, args, kwargs)


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        if batch and (record.kind != batch[0].kind or len(batch) == _BATCH):
            yield batch
            batch = []
        batch.append(record)
    if batch:
        yield batch


def _read(file: BinaryIO, progress: Progress) -> Iterator[Record]:
    count = 0
    ended = False
    for number, line in enumerate(file, start=1):
        progress(len(line))
        where = f"line {number}"
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise InvalidValueError(where, "is not JSON; the file is damaged, or none of statestore's") from None
        if not isinstance(values, dict):
            raise InvalidValueError(where, "is not a JSON object; the file is none of statestore's")
        kind = values.pop("type", None)
        if number == 1:
            _check_header(kind, values)
        elif ended:
            raise InvalidValueError(where, "stands behind the end; the file is damaged")
        elif kind == "end":
            ended = True
            if values.get("lines") != count:
                raise InvalidValueError(
                    where, f"ends {values.get('lines')} lines, but there are {count}; some are missing"
                )
        else:
            count += 1
            yield decode(kind, values, where)
    if not ended:
        raise InvalidValueError("file", "ends too early; it was cut off, or is none of statestore's")


def _check_header(kind: Any, values: dict[str, Any]) -> None:
    if kind != "header" or values.get("format") != FORMAT:
        raise InvalidValueError("line 1", "is no header of a statestore export")
    if values.get("version") != VERSION:
        raise InvalidValueError(
            "line 1", f"says version {values.get('version')}, but this statestore reads version {VERSION}; upgrade it"
        )
