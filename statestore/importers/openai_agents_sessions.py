"""Sessions of the OpenAI Agents SDK, from the tables of SQLiteSession, SQLAlchemySession and AdvancedSQLiteSession."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, RowMapping, column, select, table

from statestore.adapters.layouts.openai_agents import MAIN, USAGE, branch_session_id, name_key
from statestore.errors import ConflictError, InvalidValueError
from statestore.importers.databases import PAGE, Address, DatabaseReport, Import, Progress, Source, importing
from statestore.importers.problems import OnProblem
from statestore.importers.source_values import json_of, time_of
from statestore.values.history import NewEntry, Usage
from statestore.values.sessions import NewSession

if TYPE_CHECKING:
    from statestore.store import StateStore

_SESSIONS = "agent_sessions"
_MESSAGES = "agent_messages"
_STRUCTURE = "message_structure"
_USAGE = "turn_usage"
_RESERVED = "branch_reservations"

_FIGURES = ("requests", "input_tokens", "output_tokens", "total_tokens")
_DETAILS = ("input_tokens_details", "output_tokens_details")


def openai_agents(
    store: "StateStore", url: Address, *, progress: Progress | None = None, on_problem: OnProblem | None = None
) -> DatabaseReport:
    """Import the sessions of the OpenAI Agents SDK from its own database.

    Each session becomes one of the same id, with its items as they are, and with its times. Branches become the
    branches of `AdvancedStatestoreSession`, and what turns used is recorded once. Repeating an import adds what is new.

    Args:
        store: The store to import into.
        url: The database, by URL or by path. It is opened read-only. The tables have the SDK's own names.
        progress: Called with the number of items that were read since the last call.
        on_problem: Called with each session that is left out because it cannot be stored. If None, the first raises.

    Returns:
        How many sessions and entries there are, how many were added, and which sessions differ from the source. A
        branch counts as a session, with all of its items.

    Raises:
        InvalidValueError: *store* is not a `StateStore`, or *url* leads to no database of the SDK: nothing was written.
            Or a session cannot be stored, and there is no *on_problem*: those before it stay.
        DatabaseError: One of the databases failed. What was written before stays.
    """
    with importing(store, url, progress, on_problem) as (source, bringing):
        source.require(_MESSAGES, "the OpenAI Agents SDK")
        tables = source.tables()
        # SQLAlchemySession goes by time, and has an index for that.
        by_time = f"idx_{_MESSAGES}_session_time" in source.indexes(_MESSAGES)
        key = ("created_at", "id") if by_time else ("id",)
        for row in source.rows(_SESSIONS, "created_at", key=("session_id",)):
            session_id = row["session_id"]
            try:
                new = NewSession(created_at=time_of(row["created_at"], "created_at"))
            except InvalidValueError as error:
                bringing.refuse(session_id, error)
                continue
            branches = _branches(source, session_id) if _STRUCTURE in tables else {}
            if not branches:
                bringing.bring(session_id, new, _items(source, session_id, key))
                continue
            reserved = {name["branch_id"] for name in _rows(source, _RESERVED, tables, session_id, "branch_id")}
            _Session(bringing, source, session_id, branches).bring(new, reserved - branches.keys())
            for used in _rows(source, _USAGE, tables, session_id, "id"):
                _bring_usage(bringing, session_id, used)
    return bringing.report()


def _items(source: Source, session_id: str, key: tuple[str, ...]) -> Iterator[NewEntry]:
    columns = ("id", "message_data", "created_at")
    for row in source.rows(_MESSAGES, *columns, key=key, where={"session_id": session_id}):
        yield _entry(row)


def _entry(row: RowMapping) -> NewEntry:
    where = f"item {row['id']}"
    return NewEntry(
        json_of(row["message_data"], where),
        entry_id=_entry_id(row["id"]),
        created_at=time_of(row["created_at"], where),
    )


def _entry_id(message_id: int) -> str:
    return f"openai-agents-{message_id}"


def _branches(source: Source, session_id: str) -> dict[str, list[int]]:
    """The ids of the items of each branch, by its name: `main` first, then the others as they were made."""
    branches: dict[str, list[int]] = {MAIN: []}
    first: dict[str, int] = {MAIN: -1}
    key = ("sequence_number", "id")
    for row in source.rows(_STRUCTURE, "branch_id", "message_id", key=key, where={"session_id": session_id}):
        branches.setdefault(row["branch_id"], []).append(row["message_id"])
        first[row["branch_id"]] = min(row["id"], first.get(row["branch_id"], row["id"]))
    found = {name: branches[name] for name in sorted(branches, key=first.__getitem__)}
    return found if any(found.values()) else {}


class _Session:
    """A session with branches, on its way into the store."""

    def __init__(self, bringing: Import, source: Source, session_id: str, branches: dict[str, list[int]]) -> None:
        self._bringing = bringing
        self._store = bringing.store
        self._source = source
        self._session_id = session_id
        self._branches = branches

    def bring(self, new: NewSession, deleted: set[str]) -> None:
        """Bring all branches, and the names of those that were *deleted*, which stay used."""
        done: list[str] = []
        for name, ids in self._branches.items():
            place = branch_session_id(self._session_id, name)
            forked = False
            if name != MAIN:
                if MAIN not in done:
                    return  # It was reported.
                try:
                    forked = self._fork(name, done)
                except (ConflictError, InvalidValueError) as error:
                    self._bringing.refuse(place, error)
                    continue
            whole = self._bringing.bring(place, new, self._entries(ids), just_made=forked)
            if whole or _exists(self._store, place):
                done.append(name)
        for name in deleted if MAIN in done else ():
            key = name_key(branch_session_id(self._session_id, name))
            self._store.state.set(self._session_id, key, "deleted", only_if="missing")

    def _fork(self, name: str, done: Sequence[str]) -> bool:
        """Make a branch of the one with which it begins in the same way for longest, unless it is there."""
        place = branch_session_id(self._session_id, name)
        self._store.state.set(self._session_id, name_key(place), "used", only_if="missing")
        if self._store.sessions.exists(place):
            return False
        ids = self._branches[name]
        shared = {other: _common(ids, self._branches[other]) for other in done}
        source = max(shared, key=shared.__getitem__)
        source_place = branch_session_id(self._session_id, source)
        last = None
        if shared[source]:
            last = self._store.history.find(source_place, _entry_id(ids[shared[source] - 1]))
        at_seq = 0 if last is None else last.seq
        self._store.sessions.fork(source_place, place, at_seq=at_seq, with_state=False, as_part=True)
        return True

    def _entries(self, ids: Sequence[int]) -> Iterator[NewEntry]:
        remaining = iter(ids)
        wanted: list[ColumnElement[Any]] = [column("id"), column("message_data"), column("created_at")]
        while page := list(islice(remaining, PAGE)):
            statement = select(*wanted).select_from(table(_MESSAGES)).where(column("id").in_(page))
            rows = {row["id"]: row for row in self._source.read(statement)}
            for message_id in page:
                if message_id in rows:  # What has no message is not read by the SDK, either.
                    yield _entry(rows[message_id])


def _exists(store: "StateStore", session_id: str) -> bool:
    try:
        return store.sessions.exists(session_id)
    except InvalidValueError:
        return False  # No session can have this id, as was reported.


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two lists have in common at their beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _rows(source: Source, name: str, tables: frozenset[str], session_id: str, key: str) -> Iterator[RowMapping]:
    if name in tables:
        columns = ("branch_id", "user_turn_number", *_FIGURES, *_DETAILS, "created_at") if name == _USAGE else ()
        yield from source.rows(name, *columns, key=(key,), where={"session_id": session_id})


def _bring_usage(bringing: Import, session_id: str, row: RowMapping) -> None:
    """Record what a turn used, as the adapter does, and keep it with the entry that begins the turn."""
    store, where = bringing.store, f"usage {row['id']}"
    place = branch_session_id(session_id, row["branch_id"])
    turn = row["user_turn_number"]
    if not _exists(store, place):
        return  # Its branch has no items, or was reported.
    begins = store.history.read(place, turn=turn, limit=1)
    if not begins or begins[0].metadata.get(USAGE, {}).get("session_id") == place:
        return
    figures = {name: row[name] or 0 for name in _FIGURES}
    try:
        details = {name: None if row[name] is None else json_of(row[name], where) for name in _DETAILS}
        given, made = (details[name] or {} for name in _DETAILS)
        store.usage.record(
            record_id=store.sessions.derive_id("openai-agents", place, begins[0].entry_id, "0"),
            usage=Usage(
                input_tokens=figures["input_tokens"],
                output_tokens=figures["output_tokens"],
                cache_read_input_tokens=given.get("cached_tokens"),
                cache_write_input_tokens=given.get("cache_write_tokens"),
                reasoning_output_tokens=made.get("reasoning_tokens"),
            ),
            session_id=place,
            at=time_of(row["created_at"], where),
        )
    except (ConflictError, InvalidValueError) as error:
        bringing.refuse(place, error)
        return
    store.history.annotate(place, begins[0].seq, {USAGE: {"session_id": place, **figures, **details, "records": 1}})
