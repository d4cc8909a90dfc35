"""Entries on their way into the table, where they get their cost from the prices in the database, and out of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson

from statestore import schema
from statestore.checking import checks, exactjson, messages
from statestore.engine.calls import Call, ModelCalls
from statestore.engine.columns import Columns, kinds
from statestore.engine.sql import Link, Params, Row, Statement
from statestore.engine.sql_parts import each, numbered, value_rows
from statestore.errors import InvalidValueError
from statestore.repositories.usage import price_rows
from statestore.repositories.usage.records import usage_columns
from statestore.values import ids
from statestore.values.fast_dataclass import builder, draft
from statestore.values.history import Entry, EntryLike, NewEntry, Usage
from statestore.values.operations import ModelCall
from statestore.values.prices import PriceBook, Prices

KINDS = kinds(schema.history_entries)
_REQUIRED = ("entry_id", "turn", "role", "content", "content_bytes")
_REQUIRED_COLUMNS = {name: KINDS[name] for name in _REQUIRED}
# Columns that most entries leave empty, with their types: a statement names only those that one of its entries fills.
# The others have no say in it: they are the session's, the position, and whether the ledger has what it used.
OPTIONAL_COLUMNS = {
    name: kind
    for name, kind in KINDS.items()
    if name not in (*_REQUIRED, "namespace", "session_id", "seq", "usage_folded")
}

# In front of these, each statement that reads entries has one column of its own. In the order in which `from_rows`
# takes them.
ENTRY = Columns(
    schema.history_entries,
    *("seq", "turn", "entry_id", "role", "agent_name", "content", "metadata"),
    *schema.TOKEN_COLUMNS,
    *("provider_name", "request_model", "response_model", "cost_usd", "tool_name", "tool_call_id", "duration_ms"),
    *("finish_reason", "error_type", "content_bytes", "created_at"),
)
COLUMNS = ENTRY.select("h")
SEQ = 1 + ENTRY.names.index("seq")
"""Where a row has the position, which is None if the row holds no entry."""


@dataclass(frozen=True, slots=True)
class PreparedEntry:
    """An entry that has passed every check. `columns` are as stored, but `turn` counts from the batch's start.

    `given` are the columns that the caller named, beside those that were read from the content; None for a plain
    message, which says nothing of the fields beside it.
    """

    columns: Params
    content: Any
    metadata: dict[str, Any]
    given: Params | None
    own_id: bool

    @property
    def entry_id(self) -> str:
        entry_id: str = self.columns["entry_id"]
        return entry_id


def prepare(entries: Sequence[EntryLike], *, max_bytes: int) -> list[PreparedEntry]:
    """Check all entries and turn them into rows, before anything is written."""
    given: Any = entries
    if isinstance(given, str | bytes) or not isinstance(given, Iterable) or messages.is_entry(given):
        raise InvalidValueError("entries", "must be a sequence of entries; put a single one into a list")
    prepared: list[PreparedEntry] = []
    turn = 0
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        one = prepare_one(entry, f"entries[{index}]", max_bytes=max_bytes, turn=turn)
        if one.entry_id in seen:
            raise InvalidValueError(f"entries[{index}].entry_id", "occurs twice in this call; use each id once")
        seen.add(one.entry_id)
        turn = one.columns["turn"]
        prepared.append(one)
    return prepared


def prepare_one(entry: EntryLike, name: str, *, max_bytes: int, turn: int = 0) -> PreparedEntry:
    """As `prepare`, for an entry that follows turn number *turn*. *name* is what errors call it."""
    given: Params | None = None
    taken = messages.as_entry(entry, name)
    if isinstance(taken, NewEntry):
        given, value = _given(taken, name, max_bytes), taken.content
    else:
        value = taken
    data, copy = exactjson.encode(value, f"{name}.content", max_bytes=max_bytes)
    said: Params = {}
    if isinstance(copy, dict):
        said = messages.columns(copy)
        if ("usage" in copy or "usage_metadata" in copy) and (given is None or "usage" not in given):
            said |= usage_columns(messages.usage(copy), f"{name}.usage")
    if given is not None:
        given.pop("usage", None)
    columns = said if given is None else said | given
    role = columns.setdefault("role", None)
    if given is None and role is None:
        raise InvalidValueError(name, messages.missing_role(copy))
    own_id = "entry_id" in columns
    if not own_id:
        columns["entry_id"] = ids.uuid7()
    columns["turn"] = turn + (role == "user")
    columns["content"] = data.decode()
    columns["content_bytes"] = len(data)
    metadata = exactjson.loads(columns["metadata"]) if "metadata" in columns else {}
    return PreparedEntry(columns, copy, metadata, given, own_id=own_id)


NAMES = (
    "role",
    "agent_name",
    "provider_name",
    "request_model",
    "response_model",
    "tool_name",
    "tool_call_id",
    "finish_reason",
    "error_type",
)


def _given(entry: NewEntry, name: str, max_bytes: int) -> Params:
    """What the caller says of an entry, as columns. `usage` among them says that the message is not to be asked."""
    given: Params = {}
    for field in ("entry_id", *NAMES):
        value = getattr(entry, field)
        if value is not None:
            given[field] = checks.key(value, f"{name}.{field}")
    if entry.usage is not None:
        given |= usage_columns(entry.usage, f"{name}.usage") | {"usage": True}
    if entry.metadata is not None:
        given["metadata"] = checks.metadata(entry.metadata, f"{name}.metadata", max_bytes=max_bytes)
    if entry.cost_usd is not None:
        given["cost_usd"] = checks.optional_cost(entry.cost_usd, f"{name}.cost_usd")
    if (duration_ms := milliseconds(entry.duration, f"{name}.duration")) is not None:
        given["duration_ms"] = duration_ms
    if entry.created_at is not None:
        given["created_at"] = checks.optional_time(entry.created_at, f"{name}.created_at")
    return given


def milliseconds(duration: timedelta | None, argument: str) -> float | None:
    """A duration as its column keeps it."""
    checked = checks.optional_duration(duration, argument)
    return None if checked is None else checked / timedelta(milliseconds=1)


def reports_usage(entry: PreparedEntry) -> bool:
    """Whether there is something to be billed."""
    return any(entry.columns.get(name) is not None for name in (*schema.TOKEN_COLUMNS, "cost_usd"))


def own_ids(entries: Iterable[PreparedEntry]) -> list[str]:
    """The ids that the caller has given."""
    return [entry.columns["entry_id"] for entry in entries if entry.own_id]


def shape(entries: Sequence[PreparedEntry]) -> tuple[str, ...]:
    """The optional columns that at least one of the entries fills."""
    filled = {column for entry in entries for column in entry.columns}
    return tuple(column for column in OPTIONAL_COLUMNS if column in filled)


def params(entries: Sequence[PreparedEntry], columns: Sequence[str]) -> Params:
    """Parameters of a statement over several entries: each column's name with the entry's index behind it."""
    return numbered((entry.columns for entry in entries), (*_REQUIRED, *columns))


def insert_after_update(count: int, columns: tuple[str, ...], update: str, then: str) -> Statement:
    """Change the session's row and insert *count* entries behind its last one, in one statement of PostgreSQL.

    *update* is a statement that returns `first_seq`, `base_turn` and what *then* needs; if it finds no session
    nothing is inserted. *then* is the rest of the statement, from a comma or a SELECT on: it may use `added`, the rows
    as they are stored, and `session`.
    Callers keep it: built for each call it would double the cost of the call.
    """
    casts = _REQUIRED_COLUMNS | {column: OPTIONAL_COLUMNS[column] for column in columns}
    row = ", ".join(f"CAST(:{column}_# AS {kind})" for column, kind in casts.items())
    values = value_rows(f"(#, {row})", count)
    names = [*casts] + ([] if "created_at" in columns else ["created_at"])
    selected = [_SELECTED.get(column, f"v.{column}") for column in names]
    if "created_at" not in columns:
        selected[-1] = "$now"
    return Statement(
        postgresql=f"""
        WITH session AS ({update}),
        added AS (
            INSERT INTO $history_entries AS h (namespace, session_id, seq, {", ".join(names)})
            SELECT $home, :session_id, session.first_seq + v.i, {", ".join(selected)}
            FROM session$at_home(sessions, session_id = :session_id), (VALUES {values}) AS v (i, {", ".join(casts)})
            RETURNING h.seq, h.turn, h.created_at)
        {then}"""
    )


_SELECTED = {"turn": "session.base_turn + v.turn", "created_at": "coalesce(v.created_at, $now)"}


@lru_cache(maxsize=128)
def insert_one(columns: tuple[str, ...]) -> Statement:
    """Insert one entry at a position that is already known: on SQLite, and for all who hold the session's lock."""
    names = (*_REQUIRED_COLUMNS, *(column for column in columns if column != "created_at"))
    return Statement(f"""
        INSERT INTO $history_entries (namespace, session_id, seq, created_at, {", ".join(names)})
        VALUES (:namespace, :session_id, :seq, :created_at, {each(":{}", names)})""")


def stored(link: Link, session_id: str, entry: PreparedEntry, seq: int, turn: int, created_at: Any) -> Entry:
    """The entry as it is now in the table."""
    get = entry.columns.get
    milliseconds = get("duration_ms")
    tokens = [get(column) for column in schema.TOKEN_COLUMNS]
    # In the order of the fields of Entry.
    return _entry(
        session_id,
        seq,
        turn,
        entry.entry_id,
        get("role"),
        get("agent_name"),
        entry.content,
        entry.metadata,
        _NO_USAGE if tokens == _NO_TOKENS else _usage(*tokens),
        get("provider_name"),
        get("request_model"),
        get("response_model"),
        get("cost_usd"),
        get("tool_name"),
        get("tool_call_id"),
        None if milliseconds is None else timedelta(milliseconds=milliseconds),
        get("finish_reason"),
        get("error_type"),
        entry.columns["content_bytes"],
        link.dialect.time(created_at),
    )


_NO_TOKENS = [None] * len(schema.TOKEN_COLUMNS)
_NO_USAGE = Usage()
_usage = builder(Usage)
_entry = builder(Entry)
_Draft = draft(Entry)


def from_rows(link: Link, session_id: str, rows: Sequence[Row]) -> list[Entry]:
    """Entries from rows of one column and `COLUMNS`. To their reader they belong to *session_id*, whoever has them.

    One loop, without a call for each row: this is what reading costs in Python. So the columns are named here once
    more, where `Columns.values` takes nearly twice as long; a test compares the lists.
    """
    make, loads, time = object.__new__, exactjson.plain_loads, link.dialect.instant
    plain, any_loads = exactjson.PLAIN, exactjson.loads
    entries: list[Entry] = []
    seq = 0
    try:
        for (_, seq, turn, entry_id, role, agent_name, content, metadata, tokens_in, tokens_out, cache_read,
             cache_write, reasoning, provider_name, request_model, response_model, cost_usd, tool_name, tool_call_id,
             milliseconds, finish_reason, error_type, content_bytes, created_at) in rows:  # fmt: skip
            entry = make(_Draft)
            entry.session_id = session_id
            entry.seq = seq
            entry.turn = turn
            entry.entry_id = entry_id
            entry.role = role
            entry.agent_name = agent_name
            entry.content = loads(content) if content >= plain else any_loads(content)
            entry.metadata = {} if metadata is None else any_loads(metadata)
            if tokens_in is tokens_out is cache_read is cache_write is reasoning is None:
                entry.usage = _NO_USAGE
            else:
                entry.usage = _usage(tokens_in, tokens_out, cache_read, cache_write, reasoning)
            entry.provider_name = provider_name
            entry.request_model = request_model
            entry.response_model = response_model
            entry.cost_usd = None if cost_usd is None else link.dialect.money(cost_usd)
            entry.tool_name = tool_name
            entry.tool_call_id = tool_call_id
            entry.duration = None if milliseconds is None else timedelta(milliseconds=milliseconds)
            entry.finish_reason = finish_reason
            entry.error_type = error_type
            entry.content_bytes = content_bytes
            entry.created_at = time(created_at)
            entry.__class__ = Entry
            entries.append(entry)
        return entries
    except orjson.JSONDecodeError:
        pass  # Not raised from here: the error would hold this one, and this one holds the content.
    raise exactjson.damaged(
        "history_entries", f"position {seq} of session {session_id!r}", session_id=session_id, seq=seq
    )


def model_calls(_: Call, stored: Sequence[Entry]) -> ModelCalls:
    """The calls of models among entries that were stored, for those who watch operations."""
    called = tuple(
        ModelCall(
            usage=entry.usage,
            provider_name=entry.provider_name,
            request_model=entry.request_model,
            response_model=entry.response_model,
            duration=entry.duration,
        )
        for entry in stored
        if entry.usage.input_tokens is not None or entry.usage.output_tokens is not None
    )
    return (stored[0].session_id, called) if called else (None, ())


def price(link: Link, batch: Sequence[PreparedEntry]) -> tuple[Sequence[PreparedEntry], int | None]:
    """Give the entries of *batch* their cost if they have used tokens and do not say what they cost.

    Returns:
        The entries, and the revision of the prices if it still has to be compared: outside a transaction of
        PostgreSQL the prices that are known here are taken, and asked for only if the append finds others.
    """
    if not any(price_rows.is_unpriced(entry.columns) for entry in batch):
        return batch, None
    book, revision = price_rows.current(link)
    today = link.now_here().date()
    return [_priced(entry, book, today) for entry in batch], revision


def known_prices_revision(link: Link) -> int:
    """The revision of the prices that are known here; 0 if there are none."""
    return link.settings.of(Prices).revision


def cost_of(link: Link, columns: Mapping[str, Any], content: Any) -> tuple[Decimal | None, int | None]:
    """What an entry that is stored costs with these columns, by the prices of now.

    Returns:
        With it, the revision of the prices if it still has to be compared, as by `price`.
    """
    if not price_rows.is_unpriced({**columns, "cost_usd": None}):
        return None, None
    book, revision = price_rows.current(link)
    today = link.now_here().date()
    return price_rows.cost_of(columns, content, book, today), revision


def _priced(entry: PreparedEntry, book: PriceBook, today: date) -> PreparedEntry:
    if not price_rows.is_unpriced(entry.columns):
        return entry
    found = price_rows.cost_of(entry.columns, entry.content, book, today)
    return entry if found is None else replace(entry, columns={**entry.columns, "cost_usd": found})
