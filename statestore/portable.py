"""Sessions as a file, and back: JSON Lines that are the same for both databases.

The first line names the format and its version; the last one counts the lines in between, so that a truncated file is
noticed. Between them are all sessions, then for each session its segments, entries, state, summaries and lists, and its
lines of the usage ledger. A fork stays a fork: the file has the entries that it shares with another session of the file
only once. Those that it shares with a session outside the file become its own, marked so that they are not billed
again.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any, BinaryIO

import orjson

from statestore.async_store import AsyncStateStore, AsyncTransaction
from statestore.engine.async_database import finished
from statestore.engine.calls import Call
from statestore.engine.flows import Flow, run, run_async
from statestore.errors import ConflictError, DatabaseError, InvalidValueError, SessionExistsError, SessionNotFoundError
from statestore.portable_export import Exported, write_sessions
from statestore.portable_files import FORMAT, VERSION, Part, Progress, Survey
from statestore.repositories.portable import portable_ledger, portable_sessions
from statestore.repositories.portable.portable_checks import Histories
from statestore.repositories.portable.portable_pages import Page, PortablePages
from statestore.repositories.portable.portable_rows import PortableWork
from statestore.repositories.portable.portable_values import TABLES, Record
from statestore.store import StateStore, Transaction
from statestore.values.saved_sessions import SavedSession

# Rows that are written together, of all kinds, and about how many bytes they take at most.
_BATCH = 2000
_ROOM = 8 * 1024 * 1024
_HEADER = {"type": "header", "format": FORMAT, "version": VERSION}


@dataclass(slots=True)
class Totals:
    """How much was exported or imported."""

    sessions: int = 0
    segments: int = 0
    entries: int = 0
    state_entries: int = 0
    summaries: int = 0
    usage_lines: int = 0
    lists: int = 0
    list_items: int = 0

    def add(self, kind: str, count: int) -> None:
        name = _TOTALS[kind]
        setattr(self, name, getattr(self, name) + count)

    def include(self, other: "Totals") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

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
    """Write sessions to *file*, all as of one moment; expired ones are left out.

    Args:
        store: The store that has them.
        file: Open for writing. It is written from start to end.
        session_ids: Only these, with what belongs to them; by default all of the store's namespace.
        user_id: Only those of this user, with what belongs to them.
        expect: Called once, before the first entry, with the approximate number of lines to come.
        progress: Called with the number of lines written since the last call.

    Raises:
        SessionNotFoundError: One of the ids has no session.
    """
    flow = _Export(store.namespace, file, expect, progress).flow(session_ids, user_id)
    with store._database.snapshot() as runner:
        return run(store._database.telemetry.watched(runner), flow)


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
    flow = _Export(store.namespace, file, expect, progress).flow(session_ids, user_id)
    async with store._database.snapshot() as runner:
        return await run_async(store._database.telemetry.watched_async(runner), flow, in_thread=True)


class _Export:
    def __init__(self, namespace: str, file: BinaryIO, expect: Progress, progress: Progress) -> None:
        self._namespace = namespace
        self._file = file
        self._expect = expect
        self._progress = progress
        self._totals = Totals()

    def flow(self, session_ids: Sequence[str] | None, user_id: str | None) -> Flow[Totals]:
        with closing(Exported()) as exported:
            self._line(_HEADER)
            options: dict[str, Any] = {"session_ids": session_ids, "user_id": user_id, "after": None}
            while page := (yield _call(PortablePages.sessions, **options)):
                exported.add(page)
                self._write("session", page)
                options["after"] = page[-1]
            wanted = set(session_ids or ())
            for missing in sorted(wanted - exported.having(wanted)):
                raise SessionNotFoundError(missing, self._namespace)
            self._expect(exported.sessions + exported.entries)
            everything = session_ids is None and user_id is None
            for sessions in exported.chunks():
                yield from write_sessions(sessions, exported, self._write, usage=not everything)
            lines: Page | None = (yield _call(PortablePages.all_usage, None)) if everything else None
            while lines is not None and lines.rows:
                self._write("usage", lines.rows)
                lines = (yield _call(PortablePages.all_usage, lines.rows[-1])) if lines.more else None
        self._line({"type": "end", "lines": self._totals.lines})
        return self._totals

    def _write(self, kind: str, rows: Sequence[dict[str, Any]]) -> None:
        self._file.write(
            b"".join([orjson.dumps({"type": kind, **row}, option=orjson.OPT_APPEND_NEWLINE) for row in rows])
        )
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
    """Import the sessions of an exported *file* into the store's namespace.

    All or none, in one transaction. With *replace*, in several short transactions, each of which replaces some
    sessions, so that nobody waits long; running the same import again completes one that was interrupted. A session
    that belongs to another becomes one of its own if that other is neither in the file nor in the store.

    Args:
        store: The store to import into.
        file: Open for reading. It is read twice: checked as a whole before anything is written, then imported.
        replace: Overwrite sessions that exist already, with what belongs to them. Their forks keep what they see, and
            recorded usage that is not in the file stays recorded.
        progress: Called with the number of bytes read since the last call.

    Raises:
        SessionExistsError: A session exists already, and *replace* is false. Nothing was written.
        InvalidValueError: The file was not written by `export_sessions`, is damaged, or ends too early. Nothing was
            written, unless the sessions conflict with others that exist already.
    """
    totals = Totals()
    with closing(Survey(file, progress)) as survey:
        if replace:
            for part in survey.parts():

                def bring(tx: Transaction, part: Part = part) -> Totals:
                    return run(tx._runner, _insert(store.namespace, part.records(), replace=True))

                totals.include(store.run_transaction(bring))
        else:
            with store.transaction() as tx:
                for part in survey.parts():
                    totals.include(run(tx._runner, _insert(store.namespace, part.records(), replace=False)))
    return totals


async def import_sessions_async(
    store: AsyncStateStore,
    file: BinaryIO,
    *,
    replace: bool = False,
    progress: Progress = lambda size: None,
) -> Totals:
    """As `import_sessions`, awaited. *file* is read, and *progress* is called, in worker threads."""
    totals = Totals()
    with closing(await finished(asyncio.to_thread(Survey, file, progress))) as survey:
        if replace:
            for part in survey.parts():

                async def bring(tx: AsyncTransaction, part: Part = part) -> Totals:
                    flow = _insert(store.namespace, part.records(), replace=True)
                    return await run_async(tx._runner, flow, in_thread=True)

                totals.include(await store.run_transaction(bring))
        else:
            async with store.transaction() as tx:
                for part in survey.parts():
                    flow = _insert(store.namespace, part.records(), replace=False)
                    totals.include(await run_async(tx._runner, flow, in_thread=True))
    return totals


def insert_session(store: StateStore, session: SavedSession, *, replace: bool = False) -> Totals:
    """Write a session that another system kept, with all that belongs to it, in one transaction.

    Args:
        store: The store to write to.
        session: The session, as read from the other system.
        replace: Overwrite a session that exists already. See `import_sessions`.

    Raises:
        SessionExistsError: The session exists already, and *replace* is false. Nothing was written.
        InvalidValueError: A value cannot be stored, or values contradict each other; the message begins with the place
            that the value came from. Nothing was written.
    """
    records = portable_sessions.records(session)
    histories = Histories()
    for record in records:
        histories.add(record.kind, record.values, record.where)
    histories.check()
    with store.transaction() as tx:
        return run(tx._runner, _insert(store.namespace, records, replace=replace))


def _insert(namespace: str, records: Iterable[Record], *, replace: bool) -> Flow[Totals]:
    """Insert checked records into the tables; with *replace*, instead of what is there."""
    totals = Totals()
    sessions: dict[str, str] = {}
    forks: list[str] = []
    parts: dict[str, str] = {}
    taken: dict[str, list[portable_ledger.Line]] = {}
    looked_up: set[str] = set()
    for kind, batch in _batches(records):
        ids = list(dict.fromkeys(record.values["session_id"] for record in batch))
        if kind == "session":
            for living in (yield _call(PortableWork.make_room, ids, replace=replace)):
                raise SessionExistsError(living, namespace)
            sessions |= {record.values["session_id"]: record.where for record in batch}
            parts |= {r.values["session_id"]: r.values["belongs_to"] for r in batch if r.values.get("belongs_to")}
            forks += [r.values["session_id"] for r in batch if r.values.get("parent_session_id") is not None]
        if replace and kind in ("session", "usage"):
            taken |= yield _call(PortableWork.take_usage, [one for one in ids if one not in looked_up])
            looked_up.update(ids)
        elif kind == "usage":
            recorded = yield _call(PortableWork.find_usage, [one for one in ids if one not in looked_up])
            if recorded is not None:
                raise ConflictError(
                    f"the usage ledger already has lines of session {recorded!r}; replace them, or import into an "
                    "empty namespace",
                    session_id=recorded,
                )
            looked_up.update(ids)
        try:
            yield _call(PortableWork.insert, kind, batch)
        except DatabaseError as error:
            if type(error) is not DatabaseError:
                raise
            where = batch[0].where if len(batch) == 1 else f"{batch[0].where} to {batch[-1].where}"
            problem = f"was refused by the database ({error.code}): it does not fit the rest; the file is damaged"
            raise InvalidValueError(where, problem) from error
        totals.add(kind, len(batch))
    if strangers := [session_id for session_id, whole in parts.items() if whole not in sessions]:
        yield _call(PortableWork.settle_parts, strangers)
    for session_id, lines in taken.items():
        yield _call(PortableWork.keep_usage, session_id, lines, entries=session_id in sessions)
    if forks and (found := (yield _call(PortableWork.own_ancestor, forks))) is not None:
        raise InvalidValueError(sessions[found], "is a session that is forked from itself, through existing sessions")
    return totals


def _call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return Call(method, args, kwargs)


def _batches(records: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Records of one kind at a time, before those that refer to them: so many that few statements write them."""
    held: dict[str, list[Record]] = {kind: [] for kind in TABLES}
    count = size = 0
    for record in records:
        held[record.kind].append(record)
        count += 1
        size += record.size
        if count >= _BATCH or size >= _ROOM:
            yield from ((kind, batch) for kind, batch in held.items() if batch)
            held = {kind: [] for kind in TABLES}
            count = size = 0
    yield from ((kind, batch) for kind, batch in held.items() if batch)
