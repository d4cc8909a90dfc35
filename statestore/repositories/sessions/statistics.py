"""Figures about a session, and about a namespace: one statement each."""

from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Any

from statestore import schema
from statestore.checking import checks, exactjson
from statestore.checking.namespaces import chosen
from statestore.engine.calls import reads
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import each, in_namespaces
from statestore.errors import ReadOnlyError
from statestore.repositories.base import Repository
from statestore.repositories.sessions import session_rows
from statestore.schema.liveness import LIVE_ANYWHERE
from statestore.values.history import Usage
from statestore.values.sessions import STATUSES, SessionStats, StoreStats

_COST_STEP = Decimal("1e-10")

_SEEN = "h.role, h.tool_name, h.tool_call_id, h.error_type, h.cost_usd, h.content_bytes, " + each(
    "h.{}", schema.TOKEN_COLUMNS
)

# State and summaries are measured in place: they are few, and small compared with the history.
_OWN_BYTES = """
    (SELECT coalesce(sum($bytes(e.value)), 0) FROM $state_entries AS e WHERE %(e)s)
    + (SELECT coalesce(sum($bytes(i.value)), 0) FROM $session_list_items AS i WHERE %(i)s)
    + (SELECT coalesce(sum($bytes(m.content)), 0) FROM $summaries AS m WHERE %(m)s)"""

# A call and its result count once, as in the usage reports: the result names the call that it answers.
_SESSION = f"""
    WITH seen AS (
        SELECT {_SEEN}, 1 AS own FROM $history_entries AS h
        WHERE h.namespace = :namespace AND h.session_id = :session_id
        UNION ALL
        SELECT {_SEEN}, 0 AS own FROM $session_segments AS g
        JOIN $history_entries AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
            AND h.seq BETWEEN g.from_seq AND g.to_seq
        WHERE g.namespace = :namespace AND g.session_id = :session_id
    ), totals AS (
        SELECT count(*) AS entries, sum(CASE WHEN role = 'user' THEN 1 ELSE 0 END) AS turns,
            sum(input_tokens) AS input, sum(output_tokens) AS output, sum(cache_read_input_tokens) AS cache_read,
            sum(cache_write_input_tokens) AS cache_write, sum(reasoning_output_tokens) AS reasoning,
            sum(cost_usd) AS cost, count(error_type) AS errors,
            sum(CASE WHEN own = 1 THEN content_bytes ELSE 0 END) AS own_bytes
        FROM seen
    ), tools AS (
        SELECT tool_name, count(*) AS calls FROM seen
        WHERE tool_name IS NOT NULL AND (role IS NULL OR role <> 'tool' OR tool_call_id IS NULL) GROUP BY tool_name
    )
    SELECT s.status, s.created_at, s.last_activity_at, $now, t.entries, t.turns, t.input, t.output, t.cache_read,
        t.cache_write, t.reasoning, t.cost, t.errors, t.own_bytes, (SELECT %s(tool_name, calls) FROM tools),
        (SELECT count(*) FROM $sessions AS f WHERE f.namespace = :namespace AND f.parent_session_id = :session_id
            AND f.created_at >= s.created_at AND (f.expires_at IS NULL OR f.expires_at > $now)),
        {_OWN_BYTES % {row: f"{row}.namespace = :namespace AND {row}.session_id = :session_id" for row in "eim"}}
    FROM $sessions AS s CROSS JOIN totals AS t
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live"""

OWN = "r.namespace = :namespace"
_BY_STATUS = ", ".join(f"sum(CASE WHEN s.status = '{status}' THEN 1 ELSE 0 END) AS {status}" for status in STATUSES)

_SIZES = {
    "h": ("history_entries", "h.content_bytes"),
    "e": ("state_entries", "$bytes(e.value)"),
    "i": ("session_list_items", "$bytes(i.value)"),
    "m": ("summaries", "$bytes(m.content)"),
}


@lru_cache(maxsize=16)
def store_stats(within: str) -> Statement:
    """What namespaces contain, together. *within* says of row `r` in which it is.

    Each table by itself: what is beside aggregates in a SELECT, a distributed database reads for one namespace only.
    """
    rows = {row: within.replace("r.", f"{row}.") for row in "ehims"}
    live = "$live" if within == OWN else LIVE_ANYWHERE
    sizes = "".join(
        f"""
    CROSS JOIN (SELECT coalesce(sum({size}), 0) AS bytes FROM ${table} AS {row} WHERE {rows[row]}) AS {row}"""
        for row, (table, size) in _SIZES.items()
    )
    return Statement(f"""
    SELECT s.*, {" + ".join(f"{row}.bytes" for row in _SIZES)}
    FROM (SELECT count(*) AS sessions, {_BY_STATUS}, coalesce(sum(s.next_seq - s.first_seq), 0) AS entries
        FROM $sessions AS s WHERE {rows["s"]} AND {live}) AS s{sizes}""")


# By the primary key: as quick as it gets, and nothing is ever found.
_PING = Statement("""
    SELECT $writable, (SELECT s.status FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = '')""")

_SESSION_STATS = Statement(postgresql=_SESSION % "json_object_agg", sqlite=_SESSION % "json_group_object")


class StatisticsRepository(Repository):
    """Figures about one session."""

    @reads
    def stats(self, session_id: str) -> SessionStats:
        """What the session consists of now: entries, turns, tokens, cost, tools, errors, bytes, forks.

        Does not extend its TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        checks.key(session_id, "session_id")
        row = self._link.one(_SESSION_STATS, session_id=session_id)
        if row is None:
            raise session_rows.not_found(self._link, session_id)
        (status, created_at, active_at, now, entries, turns, tokens_in, tokens_out, cache_read, cache_write, reasoning,
         cost, errors, entry_bytes, tools, forks, other_bytes) = row  # fmt: skip
        time = self._link.dialect.time
        tools = (exactjson.loads(tools) if isinstance(tools, str) else tools) or {}
        return SessionStats(
            session_id=session_id,
            status=status,
            entries=entries,
            turns=int(turns or 0),
            usage=Usage(
                input_tokens=_whole(tokens_in),
                output_tokens=_whole(tokens_out),
                cache_read_input_tokens=_whole(cache_read),
                cache_write_input_tokens=_whole(cache_write),
                reasoning_output_tokens=_whole(reasoning),
            ),
            cost_usd=None if cost is None else Decimal(str(cost)).quantize(_COST_STEP),
            tool_invocations={name: tools[name] for name in sorted(tools)},
            errors=errors,
            created_at=time(created_at),
            last_activity_at=time(active_at),
            uptime=time(now) - time(created_at),
            stored_bytes=int(entry_bytes or 0) + int(other_bytes),
            forks=forks,
        )


class Readiness(Repository, group="store"):
    """Whether the database answers; always of the primary."""

    @reads
    def ping(self, *, writes: bool = False) -> None:
        """Make sure that the database answers: for a service's readiness, in one round trip.

        It shows that a connection can be had, that the server answers on it, and that the tables can be read. It does
        not show that there is room on the disk, nor that locks are free. A connection that was lost is made anew, and
        tried for as long as the store's `retry_for` allows; `with statestore.deadline(1): store.ping()` answers within
        a second, whatever happens. For liveness, ask nothing: to restart a process does not bring a database back.

        Args:
            writes: Also make sure that this server takes writes from this role: that it is not a standby, and not
                read-only. On SQLite this says nothing; there the first write finds out.

        Raises:
            UnavailableError: The database does not answer, or not in time.
            ReadOnlyError: *writes* is true, and the server takes none.
        """
        checks.flag(writes, "writes")
        found = self._link.one(_PING)
        if writes and found and found[0] and self._link.dialect.distributed:
            found = self._link.one(session_rows.WRITABLE)
        if writes and not (found and found[0]):
            raise ReadOnlyError("the database does not accept writes: it is a standby, read-only, or lacks grants")


class StoreStatistics(Repository, group="store"):
    """Figures about a namespace."""

    may_lag = True

    @reads
    def stats(self, *, namespaces: str | Iterable[str] | None = None) -> StoreStats:
        """What the namespace contains now: sessions by status, entries, bytes, without what has expired.

        It reads everything, so its cost grows with the history: call it for people to look at, not in loops.

        Args:
            namespaces: What these namespaces contain together, instead of the store's own: a name, a prefix such as
                `acme/*`, or a list of these; see `sessions.page`. `StoreStats.namespace` then says what was asked for.
        """
        several = chosen(namespaces)
        within, params = in_namespaces(several, "r")
        row = self._link.one(store_stats(within), **params)
        assert row is not None
        sessions, *counts, entries, stored = row
        by_status = {status: int(count or 0) for status, count in zip(STATUSES, counts, strict=True)}
        return StoreStats(
            namespace=self._link.settings.namespace if several is None else str(several),
            sessions=by_status,
            active_sessions=sessions - by_status["dead"],
            entries=int(entries),
            average_entries=float(entries) / sessions if sessions else 0.0,
            stored_bytes=int(stored),
        )


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
