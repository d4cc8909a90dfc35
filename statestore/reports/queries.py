"""What the pages ask of the database beyond the usage reports: a page of sessions at a time, and never a write."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from statestore.engine.calls import reads
from statestore.engine.columns import Columns
from statestore.engine.sql import Statement
from statestore.operations.base import Group, operation
from statestore.repositories.base import Repository
from statestore.repositories.history import entry_rows
from statestore.repositories.sessions.listing import ListingRepository
from statestore.schema.column_types import UtcTime
from statestore.store import Transaction
from statestore.values.history import Entry

# Beyond this the content of an entry is cut in the database: a page shows its beginning, and nobody needs the memory.
LARGEST_CONTENT = 65_536
BEGINNING = 8_000
# So many forks, and so many parts, are listed on the page of a session.
MOST_LINKS = 200
# A session that begins with this many entries of others than a user has no first prompt.
_PROMPT_WITHIN = 50
_SUMMARY = 20_000

_LABEL = Columns(
    None,
    *("session_id", "title", "agent_name", "user_id", "project_root", "parent_session_id", "forked_at_seq"),
    *("belongs_to", "first_seq", "created_at", "last_activity_at", "prompt_content", "prompt_is_whole"),
    types={"created_at": UtcTime, "last_activity_at": UtcTime},
)
# The first prompt among the session's own entries: of a fork the one that makes it differ.
_PROMPT = f"""(SELECT {{}} FROM $history_entries AS h
            WHERE h.namespace = :namespace AND h.session_id = s.session_id AND h.role = 'user'
                AND h.seq < coalesce(s.forked_at_seq + 1, s.first_seq) + {_PROMPT_WITHIN}
            ORDER BY h.seq LIMIT 1)"""
_LABEL_COLUMNS = _LABEL.select(
    "s",
    prompt_content=_PROMPT.format(
        f"CASE WHEN h.content_bytes <= {BEGINNING} THEN CAST(h.content AS text)"
        f" ELSE substr(CAST(h.content AS text), 1, {BEGINNING}) END"
    ),
    prompt_is_whole=_PROMPT.format(f"CASE WHEN h.content_bytes <= {BEGINNING} THEN 1 ELSE 0 END"),
)
_LABELS = Statement(f"""
    SELECT {_LABEL_COLUMNS} FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND $live""")


def _descendants(column: str) -> Statement:
    return Statement(f"""
    SELECT {_LABEL_COLUMNS}, c.total FROM (
        SELECT s.session_id, count(*) OVER (PARTITION BY s.{column}) AS total,
            row_number() OVER (PARTITION BY s.{column} ORDER BY s.created_at, s.session_id) AS place
        FROM $sessions AS s WHERE s.namespace = :namespace AND s.{column} $in(:session_ids) AND $live) AS c
    JOIN $sessions AS s ON s.namespace = :namespace AND s.session_id = c.session_id
    WHERE c.place <= {MOST_LINKS} ORDER BY s.created_at, s.session_id""")


_FORKS = _descendants("parent_session_id")
_PARTS = _descendants("belongs_to")

_SUMS = ("turns", "model_calls", "tool_calls", "errors", "input_tokens", "output_tokens", "cache_read_input_tokens")
_SUMMED = ", ".join(f"sum({name})" for name in (*_SUMS, "unpriced_calls", "cost_usd"))


def _counted(turn: str, result: str) -> str:
    """Turns, calls and errors of a row `t`, as in the report views."""
    has_tokens = "(t.input_tokens IS NOT NULL OR t.output_tokens IS NOT NULL)"
    return f"""{turn} AS turns, CASE WHEN {has_tokens} THEN 1 ELSE 0 END AS model_calls,
            CASE WHEN t.tool_name IS NOT NULL AND NOT {result} THEN 1 ELSE 0 END AS tool_calls,
            CASE WHEN t.error_type IS NOT NULL THEN 1 ELSE 0 END AS errors,
            coalesce(t.input_tokens, 0) AS input_tokens, coalesce(t.output_tokens, 0) AS output_tokens,
            coalesce(t.cache_read_input_tokens, 0) AS cache_read_input_tokens,
            CASE WHEN t.cost_usd IS NULL AND {has_tokens} THEN 1 ELSE 0 END AS unpriced_calls, t.cost_usd"""


# As `usage_lines` has it. Through that view SQLite would go through all entries of the namespace for each page.
_WHICH = "t.namespace = :namespace AND t.session_id $in(:session_ids)"
_IS_RESULT = "(coalesce(t.role, '') = 'tool' AND t.tool_call_id IS NOT NULL)"
_BILLED = Statement(f"""
    SELECT session_id, {_SUMMED} FROM (
        SELECT t.session_id, {_counted("CASE WHEN t.role = 'user' THEN 1 ELSE 0 END", _IS_RESULT)}
        FROM $history_entries AS t WHERE {_WHICH} AND t.usage_folded = 0
        UNION ALL
        SELECT t.session_id, {", ".join(f"t.{name}" for name in (*_SUMS, "unpriced_calls", "cost_usd"))}
        FROM $usage_ledger AS t WHERE {_WHICH}
        UNION ALL
        SELECT t.session_id, {_counted("0", "false")} FROM $usage_records AS t WHERE {_WHICH}) AS lines
    GROUP BY session_id""")

_BEGINNING = f"CASE WHEN h.content_bytes > {LARGEST_CONTENT} THEN substr(CAST(h.content AS text), 1, {BEGINNING}) END"
_SHOWN = entry_rows.ENTRY.select(
    "h", content=f"CASE WHEN h.content_bytes <= {LARGEST_CONTENT} THEN CAST(h.content AS text) ELSE 'null' END"
)
# The bounds are inside each piece, as in `entry_reads`, so that they end up in the index scan.
_ENTRIES = Statement(
    postgresql=f"""
    SELECT s.session_id, h.* FROM $sessions AS s CROSS JOIN LATERAL (
        SELECT s.session_id AS owner, greatest(s.first_seq, CAST(:after AS bigint) + 1) AS from_seq,
            least(s.next_seq - 1, CAST(:until AS bigint)) AS to_seq
        UNION ALL
        SELECT g.owner_session_id, greatest(g.from_seq, CAST(:after AS bigint) + 1),
            least(g.to_seq, CAST(:until AS bigint))
        FROM $session_segments AS g WHERE g.namespace = :namespace AND g.session_id = s.session_id
            AND g.from_seq <= CAST(:until AS bigint) AND g.to_seq > CAST(:after AS bigint)
    ) AS piece CROSS JOIN LATERAL (
        SELECT {_BEGINNING} AS beginning, {_SHOWN} FROM $history_entries AS h WHERE h.namespace = :namespace
            AND h.session_id = piece.owner AND h.seq BETWEEN piece.from_seq AND piece.to_seq OFFSET 0) AS h
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids)""",
    sqlite=f"""
    SELECT s.session_id, {_BEGINNING}, {_SHOWN} FROM $sessions AS s
    CROSS JOIN $history_entries AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
        AND h.seq BETWEEN max(s.first_seq, :after + 1) AND min(s.next_seq - 1, :until)
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids)
    UNION ALL
    SELECT s.session_id, {_BEGINNING}, {_SHOWN} FROM $sessions AS s
    JOIN $session_segments AS g ON g.namespace = s.namespace AND g.session_id = s.session_id
    CROSS JOIN $history_entries AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
        AND h.seq BETWEEN max(g.from_seq, :after + 1) AND min(g.to_seq, :until)
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids)""",
)

_SUMMARIES = Statement(f"""
    SELECT m.session_id, m.start_seq, m.end_seq, substr(m.content, 1, {_SUMMARY}) FROM $summaries AS m
    WHERE m.namespace = :namespace AND m.session_id $in(:session_ids) ORDER BY m.session_id, m.start_seq""")

# So many keys of a session's state are shown, and so many characters of each value.
MOST_KEYS = 50
LONGEST_VALUE = 2_000
_STATE = Statement(f"""
    SELECT session_id, key, CASE WHEN $bytes(value) <= {LONGEST_VALUE} THEN CAST(value AS text)
            ELSE substr(CAST(value AS text), 1, {LONGEST_VALUE}) END,
        CASE WHEN $bytes(value) <= {LONGEST_VALUE} THEN 1 ELSE 0 END, total
    FROM (SELECT t.session_id, t.key, t.value, count(*) OVER (PARTITION BY t.session_id) AS total,
            row_number() OVER (PARTITION BY t.session_id ORDER BY t.key) AS place
        FROM $state_entries AS t WHERE {_WHICH} AND (t.expires_at IS NULL OR t.expires_at > $now)) AS t
    WHERE place <= {MOST_KEYS} ORDER BY session_id, place""")

# Who took the time: a model's answer that calls a tool has its name, too.
_KIND = """CASE WHEN model_calls > 0 OR model IS NOT NULL THEN 'model' WHEN tool_name IS NOT NULL THEN 'tool'
        ELSE 'other' END"""
_OF_PERIOD = """namespace = :namespace AND at >= :since AND at < :until
        AND (CAST(:user_id AS text) IS NULL OR user_id = :user_id)"""
_TOOL = "CASE WHEN model_calls = 0 AND model IS NULL THEN latency_ms END"


@lru_cache(maxsize=256)
def _latencies(boundaries: int) -> Statement:
    """The median and the 95th percentile by bar of the time axis, and by kind: durations that really occurred."""
    return _percentiles(("bar", "kind"), f"{_bar(0, boundaries)} AS bar, {_KIND} AS kind, latency_ms")


@lru_cache(maxsize=256)
def _sums(boundaries: int) -> Statement:
    """Tokens and cost by bar and model."""
    return Statement(f"""
    SELECT {_bar(0, boundaries)} AS bar, model, sum(input_tokens), sum(output_tokens), sum(cache_read_input_tokens),
        sum(cost_usd) FROM $usage_lines WHERE {_OF_PERIOD} GROUP BY 1, 2""")


def _percentiles(keys: tuple[str, ...], selected: str) -> Statement:
    """Keys, how many have a duration, and two percentiles of it."""
    by = ", ".join(keys)
    lines = f"SELECT {selected} FROM $usage_lines WHERE {_OF_PERIOD}"
    return Statement(
        postgresql=f"""
    SELECT {by}, count(latency_ms), percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_ms),
        percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms)
    FROM ({lines}) AS l WHERE latency_ms IS NOT NULL GROUP BY {by}""",
        sqlite=f"""
    SELECT {by}, max(timed), max(CASE WHEN place = (timed + 1) / 2 THEN latency_ms END),
        max(CASE WHEN place = (timed * 19 + 19) / 20 THEN latency_ms END)
    FROM (SELECT *, count(*) OVER (PARTITION BY {by}) AS timed,
            row_number() OVER (PARTITION BY {by} ORDER BY latency_ms) AS place
        FROM ({lines}) WHERE latency_ms IS NOT NULL) GROUP BY {by}""",
    )


_TOOL_LATENCIES = _percentiles(("tool_name",), f"tool_name, {_TOOL} AS latency_ms")


def _bar(first: int, count: int) -> str:
    """The number of the bar that a time belongs to, by comparing it with the boundaries between them."""
    if not count:
        return str(first)
    half = count // 2
    return (
        f"CASE WHEN at < $time(:at_{first + half}) THEN {_bar(first, half)}"
        f" ELSE {_bar(first + half + 1, count - half - 1)} END"
    )


@dataclass(frozen=True, slots=True)
class Label:
    """What a session is called by: its title, its project, its first prompt."""

    session_id: str
    title: str | None
    agent_name: str | None
    user_id: str | None
    project_root: str | None
    parent_session_id: str | None
    forked_at_seq: int | None
    belongs_to: str | None
    first_seq: int
    created_at: datetime
    last_activity_at: datetime
    prompt_content: str | None
    """JSON, or the beginning of it."""
    prompt_is_whole: int | None


@dataclass(frozen=True, slots=True)
class Billed:
    """What a session used, trimmed entries included; those that a fork shares belong to the session it came from."""

    turns: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    unpriced_calls: int = 0
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class ShownEntry:
    """An entry; if its content is large, without it, but with the beginning of its JSON."""

    entry: Entry
    beginning: str | None


@dataclass(frozen=True, slots=True)
class ShownSummary:
    start_seq: int
    end_seq: int
    content: str


@dataclass(frozen=True, slots=True)
class ShownState:
    """The first keys of a session's state, each with its value as JSON and whether that is whole; and how many."""

    total: int
    values: list[tuple[str, str, bool]]


@dataclass(frozen=True, slots=True)
class Descendants:
    """Forks or parts of a session: the oldest of them, and how many there are."""

    total: int
    labels: list[Label]


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    count: int
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Spent:
    bar: int
    model: str | None
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cost_usd: float | None


class PageRepository(Repository):
    """Nothing here extends a TTL, and each method runs one statement, for however many sessions."""

    @reads
    def labels(self, session_ids: Sequence[str]) -> dict[str, Label]:
        """What living sessions are called, by id."""
        rows = self._link.all(_LABELS, session_ids=list(session_ids)) if session_ids else ()
        return {label.session_id: label for label in map(self._label, rows)}

    @reads
    def forks(self, session_ids: Sequence[str]) -> dict[str, Descendants]:
        """The sessions that were forked from these, by the one that they came from."""
        return self._descendants(_FORKS, "parent_session_id", session_ids)

    @reads
    def parts(self, session_ids: Sequence[str]) -> dict[str, Descendants]:
        """The sessions that belong to these, by the one that they belong to."""
        return self._descendants(_PARTS, "belongs_to", session_ids)

    @reads
    def billed(self, session_ids: Sequence[str]) -> dict[str, Billed]:
        found = {}
        for name, *sums, cost in self._link.all(_BILLED, session_ids=list(session_ids)):
            counts: list[Any] = [*map(int, sums), number(cost)]
            found[name] = Billed(*counts)
        return found

    @reads
    def entries(self, session_ids: Sequence[str], *, after: int = 0, until: int = 2**61) -> dict[str, list[ShownEntry]]:
        """What the sessions see, from behind *after* up to *until*, oldest first."""
        found: dict[str, list[tuple[Any, ...]]] = {}
        for session_id, *row in self._link.all(_ENTRIES, session_ids=list(session_ids), after=after, until=until):
            found.setdefault(session_id, []).append(tuple(row))
        shown = {}
        for session_id, rows in found.items():
            rows.sort(key=lambda row: row[1])
            entries = entry_rows.from_rows(self._link, session_id, rows)
            shown[session_id] = [ShownEntry(entry, row[0]) for entry, row in zip(entries, rows, strict=True)]
        return shown

    @reads
    def summaries(self, session_ids: Sequence[str]) -> dict[str, list[ShownSummary]]:
        found: dict[str, list[ShownSummary]] = {}
        for session_id, *row in self._link.all(_SUMMARIES, session_ids=list(session_ids)):
            found.setdefault(session_id, []).append(ShownSummary(*row))
        return found

    @reads
    def state(self, session_ids: Sequence[str]) -> dict[str, ShownState]:
        found: dict[str, ShownState] = {}
        for session_id, key, value, is_whole, total in self._link.all(_STATE, session_ids=list(session_ids)):
            found.setdefault(session_id, ShownState(total, [])).values.append((key, value, bool(is_whole)))
        return found

    @reads
    def latencies(
        self, since: datetime, until: datetime, boundaries: Sequence[datetime], user_id: str | None
    ) -> dict[tuple[int, str], Latency]:
        """By bar and kind: of models, of tools, of others."""
        statement = _latencies(len(boundaries))
        rows = self._link.all(statement, since=since, until=until, user_id=user_id, **_times(boundaries))
        return {(bar, kind): Latency(*figures) for bar, kind, *figures in rows}

    @reads
    def tool_latencies(self, since: datetime, until: datetime, user_id: str | None) -> dict[str | None, Latency]:
        """By tool, without the time that models took to call it."""
        rows = self._link.all(_TOOL_LATENCIES, since=since, until=until, user_id=user_id)
        return {name: Latency(*figures) for name, *figures in rows}

    @reads
    def sums(
        self, since: datetime, until: datetime, boundaries: Sequence[datetime], user_id: str | None
    ) -> list[Spent]:
        statement = _sums(len(boundaries))
        rows = self._link.all(statement, since=since, until=until, user_id=user_id, **_times(boundaries))
        return [
            Spent(bar, model, int(tokens_in), int(tokens_out), int(cached), number(cost))
            for bar, model, tokens_in, tokens_out, cached, cost in rows
        ]

    def _label(self, row: Sequence[Any]) -> Label:
        return Label(*_LABEL.values(self._link.dialect, row))

    def _descendants(self, statement: Statement, column: str, session_ids: Sequence[str]) -> dict[str, Descendants]:
        found: dict[str, Descendants] = {}
        for row in self._link.all(statement, session_ids=list(session_ids)):
            label, total = self._label(row), row[-1]
            found.setdefault(getattr(label, column), Descendants(total, [])).labels.append(label)
        return found


def number(cost: Any) -> float | None:
    return None if cost is None else float(cost)


def _times(boundaries: Sequence[datetime]) -> dict[str, datetime]:
    return {f"at_{index}": at for index, at in enumerate(boundaries)}


class PageQueries(Group):
    """The queries of the pages, as of the moment at which a transaction began."""

    page = operation(ListingRepository.page)
    count = operation(ListingRepository.count)
    labels = operation(PageRepository.labels)
    forks = operation(PageRepository.forks)
    parts = operation(PageRepository.parts)
    billed = operation(PageRepository.billed)
    entries = operation(PageRepository.entries)
    summaries = operation(PageRepository.summaries)
    state = operation(PageRepository.state)
    latencies = operation(PageRepository.latencies)
    tool_latencies = operation(PageRepository.tool_latencies)
    sums = operation(PageRepository.sums)

    @classmethod
    def of(cls, tx: Transaction) -> "PageQueries":
        return cls(tx._runner, tx._namespace)
