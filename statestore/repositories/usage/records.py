"""Calls of models and tools that are not entries of a history: recorded once each, and counted in all reports."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from statestore import schema
from statestore.checking import checks
from statestore.engine.calls import Call, ModelCalls, reported_as, writes_in_one_statement
from statestore.engine.columns import kinds
from statestore.engine.sql import Link, Params, Statement
from statestore.engine.sql_parts import arrays, unnest
from statestore.errors import ConflictError, InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.usage import price_rows
from statestore.values.history import Usage
from statestore.values.operations import ModelCall
from statestore.values.reported_usage import MAX_TOKENS

ERASED = "erased-"
"""How the random id begins that takes the place of an id which may tell of an erased user."""

_KINDS = {name: kind for name, kind in kinds(schema.usage_records).items() if name not in ("namespace", "record_id")}
_NAMES = ("session_id", "user_id", "agent_name", "provider_name", "model", "tool_name", "error_type")
# If the caller leaves them out, the row has what the session or the price says, or the time.
_FILLED_IN = ("user_id", "agent_name", "cost_usd", "created_at")

_OF_SESSION = """(SELECT s.{0} FROM $sessions AS s
        WHERE s.namespace = CAST(:namespace AS varchar) AND s.session_id = CAST(:session_id AS varchar) AND $live)"""
_DEFAULTS = {
    "user_id": f"coalesce({{}}, {_OF_SESSION.format('user_id')})",
    "agent_name": f"coalesce({{}}, {_OF_SESSION.format('agent_name')})",
    "created_at": "coalesce({}, $now)",
}


def _insert(parameter: str, also: str = "") -> str:
    selected = ", ".join(
        _DEFAULTS.get(name, "{}").format(parameter.format(name, kind)) for name, kind in _KINDS.items()
    )
    return f"""
    INSERT INTO $usage_records (namespace, record_id, {", ".join(_KINDS)})
    SELECT CAST(:namespace AS varchar), CAST(:record_id AS varchar), {selected} WHERE true{also}
    ON CONFLICT (namespace, record_id) DO NOTHING"""


_STORED = ", ".join(f"r.{name}" for name in _KINDS)
_INSERT_POSTGRESQL = _insert("CAST(:{} AS {})")
# What it returns says whether there is a new row: Citus counts the rows that are selected.
_INSERT = Statement(postgresql=f"{_INSERT_POSTGRESQL} RETURNING 1", sqlite=f"{_insert(':{}')} RETURNING 1")
_IS_IT = "r.namespace = CAST(:namespace AS varchar) AND r.record_id = CAST(:record_id AS varchar)"
_FIND = Statement(f"SELECT {_STORED} FROM $usage_records AS r WHERE {_IS_IT}")


def _insert_or_find(also: str) -> Statement:
    """Both in one round trip. A row that another transaction adds meanwhile is neither written nor found."""
    return Statement(
        postgresql=f"""
    WITH added AS ({_INSERT_POSTGRESQL.replace("WHERE true", f"WHERE true{also}")} RETURNING 1)
    SELECT (SELECT count(*) FROM added), r.record_id, {_STORED} FROM (SELECT 1) AS one
    LEFT JOIN $usage_records AS r ON {_IS_IT}"""
    )


_AT_ONCE = _insert_or_find("")
_AT_ONCE_PRICED = _insert_or_find(price_rows.UNCHANGED)


# Ids that tell nothing. On PostgreSQL beside the rows: what an UPDATE computes itself may not be random in a
# distributed database.
_RANDOM_SQLITE = f"'{ERASED}' || lower(hex(randomblob(16)))"
_RANDOM_POSTGRESQL = f"""
    WITH those AS MATERIALIZED (
        SELECT r.record_id, '{ERASED}' || gen_random_uuid() AS random_id FROM $usage_records AS r
        WHERE r.namespace = :namespace AND %s)"""

# The session's id stays until the session goes, or until `rename`: all that was used in it gets the same random one.
_OF_USER = """r.user_id = :user_id AND (r.session_id IS NULL OR r.session_id IN (
            SELECT s.session_id FROM $sessions AS s WHERE s.namespace = :namespace AND s.ttl = :erased))"""
_DISOWN = Statement(
    postgresql=f"""{_RANDOM_POSTGRESQL % _OF_USER}
    UPDATE $usage_records AS r SET user_id = NULL, record_id = those.random_id FROM those
    WHERE r.namespace = :namespace AND r.record_id = those.record_id AND {_OF_USER}""",
    sqlite=f"""
    UPDATE $usage_records AS r SET user_id = NULL, record_id = {_RANDOM_SQLITE}
    WHERE r.namespace = :namespace AND {_OF_USER}""",
)
# Records of another user in the session stay that user's, under their own id.
_RENAME = """
    UPDATE $usage_records AS r SET session_id = {new}, user_id = nullif(r.user_id, {user}),
        record_id = CASE WHEN r.user_id IS NULL OR r.user_id = {user} THEN {random} ELSE r.record_id END{source}
    WHERE r.namespace = :namespace AND r.session_id = {old} AND (r.user_id = {user} OR {user} IS NULL)"""
_PAIRS = unnest("n", {"session_id": "text", "random_id": "text"})
_RENAME_POSTGRESQL = Statement(
    postgresql=_RANDOM_POSTGRESQL % "r.session_id = ANY (CAST(:session_id_array AS text[]))"
    + _RENAME.format(
        new="n.random_id",
        old="n.session_id AND r.record_id = those.record_id",
        user="CAST(:user_id AS text)",
        random="those.random_id",
        source=f" FROM those, {_PAIRS}",
    )
)
_RENAME_SQLITE = Statement(
    sqlite=_RENAME.format(new=":random_id", old=":session_id", user=":user_id", random=_RANDOM_SQLITE, source="")
)


def _model_call(call: Call, _: None) -> ModelCalls:
    given = call.kwargs
    try:
        usage = Usage.of(given.get("usage"))
    except InvalidValueError:
        return None, ()
    known = ModelCall(
        usage=usage,
        provider_name=given.get("provider_name"),
        response_model=given.get("model"),
        duration=checks.optional_duration(given.get("duration"), "duration"),
    )
    return given.get("session_id"), (known,)


class RecordsRepository(Repository, group="usage"):
    """What was used by calls that are not entries."""

    @reported_as(model_calls=_model_call)
    @writes_in_one_statement
    def record(
        self,
        *,
        record_id: str,
        usage: Usage,
        user_id: str | None = None,
        session_id: str | None = None,
        agent_name: str | None = None,
        provider_name: str | None = None,
        model: str | None = None,
        tool_name: str | None = None,
        cost_usd: Decimal | float | None = None,
        duration: timedelta | None = None,
        error_type: str | None = None,
        at: datetime | None = None,
    ) -> None:
        """Record a call of a model or a tool that is not an entry of a history, such as an embedding or a whole run.

        All reports count it like an entry with the same figures, but as no entry and no turn. The same id again does
        nothing. The record outlives its session, whose TTL and last activity do not change.

        Args:
            record_id: The caller's own id of the call, unique in the namespace. Make it of something that the same
                call always has, such as the id of the run.
            usage: What was used; `Usage()` for a call of a tool.
            user_id: Who is billed; by default the session's user, if the session lives.
            session_id: The session that the call was made for. It does not have to exist.
            agent_name: The agent that made the call; by default the session's.
            provider_name: Who ran the model. Used to look up prices.
            model: The model that answered.
            tool_name: The tool that was called; counts as a tool call.
            cost_usd: US dollars. By default the cost is computed, if both token counts and a price are known.
            duration: How long the call took.
            error_type: The kind of error it ended with, if any.
            at: When the call was made, as an aware datetime; by default now.

        Raises:
            ConflictError: *record_id* is recorded with other figures; `field` says which. Nothing was written.
            InvalidValueError: An argument is invalid. Nothing was written.
        """
        columns: Params = dict.fromkeys(_KINDS)
        checks.key(record_id, "record_id")
        given = (session_id, user_id, agent_name, provider_name, model, tool_name, error_type)
        columns |= {name: checks.optional_key(value, name) for name, value in zip(_NAMES, given, strict=True)}
        columns |= usage_columns(usage, "usage")
        columns["cost_usd"] = checks.optional_cost(cost_usd)
        if (took := checks.optional_duration(duration, "duration")) is not None:
            columns["duration_ms"] = took / timedelta(milliseconds=1)
        columns["created_at"] = checks.optional_time(at, "at")
        while (stored := self._insert(record_id, columns)) is None:
            pass  # Somebody erased it between the two statements.
        if stored:
            self._compare(record_id, columns, dict(zip(_KINDS, stored, strict=True)))

    def _insert(self, record_id: str, columns: Params) -> Sequence[Any] | None:
        """Insert the record, and return nothing; or what is there already; None if that was gone."""
        link = self._link
        row, revision = {**columns, "record_id": record_id}, None
        call = {**columns, "response_model": columns["model"]}
        if price_rows.is_unpriced(call):
            book, revision = price_rows.current(link)
            row["cost_usd"] = price_rows.cost_of(call, None, book, link.now_here().date())
        if link.dialect.name == "sqlite" or link.in_transaction:
            return () if link.one(_INSERT, **row) else link.one(_FIND, record_id=record_id)
        statement = _AT_ONCE if revision is None else _AT_ONCE_PRICED
        added, found, *stored = link.one(statement, **row, prices_revision=revision) or (0, None)
        if not added and found is None:
            self._needs_transaction()
        return () if added else stored

    def _compare(self, record_id: str, columns: Params, stored: Params) -> None:
        for name, value in columns.items():
            if (value is not None or name not in _FILLED_IN) and self._link.dialect.encode(value) != stored[name]:
                field = {"created_at": "at", "duration_ms": "duration"}.get(name, name)
                raise ConflictError(
                    f"{record_id!r} is recorded already, with another {field}; use another record_id", field=field
                )


def usage_columns(usage: Any, argument: str) -> Params:
    """The token counts that are known, as columns."""
    if not isinstance(usage, Usage):
        try:
            usage = Usage.of(usage)
        except InvalidValueError as error:
            raise InvalidValueError(argument, str(error).removeprefix("usage: ")) from None
    return {
        field: checks.count(tokens, f"{argument}.{field}", most=MAX_TOKENS)
        for field in schema.TOKEN_COLUMNS
        if (tokens := getattr(usage, field)) is not None
    }


def disown(link: Link, user_id: str, *, erased: timedelta) -> None:
    """Take a user out of records of no session, and of sessions that are being erased, whose TTL is *erased*."""
    link.run(_DISOWN, user_id=user_id, erased=erased)


def rename(link: Link, rows: Sequence[Params], user_id: str | None) -> None:
    """Put the `random_id` of each row in place of its `session_id`; only in the records of a user, if one is given."""
    if link.dialect.name == "postgresql":
        link.run(_RENAME_POSTGRESQL, user_id=user_id, **arrays(rows, ("session_id", "random_id")))
    else:
        link.many(_RENAME_SQLITE, rows, user_id=user_id)
