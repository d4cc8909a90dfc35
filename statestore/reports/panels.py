"""The panels of the overview that are tables."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from statestore.reports import charts, figures, names
from statestore.reports.charts import Axis, Series
from statestore.reports.layout import Column, Html, Row, both, data_table, table
from statestore.reports.report_data import Collected
from statestore.reports.text import escape
from statestore.values.usage import SessionUsage, UsageTotals

_MILLISECOND = timedelta(milliseconds=1)
_KINDS = {
    "expired_sessions": "expired sessions",
    "idle_sessions": "idle sessions",
    "expired_state": "expired state keys",
    "expired_cache": "expired cache entries",
}


def models(found: Collected) -> str:
    rows = [row for row in found.by_model if row.model][:20]
    columns = [
        Column("model"),
        Column("calls", less=True),
        Column("input"),
        Column("cached"),
        Column("output"),
        Column("errors", less=True),
        Column("unpriced", less=True),
        Column("cost"),
    ]
    lines = [
        Row(
            Html(f'{escape(row.model or "")}<span class="sub">{escape(row.provider_name or "")}</span>'),
            weight,
            (
                figures.whole(row.model_calls),
                figures.short(row.input_tokens),
                figures.percent(cached(row)),
                figures.short(row.output_tokens),
                _count(row.errors),
                _count(row.unpriced_calls),
                _cost_text(row),
            ),
        )
        for row, weight in zip(rows, _weights(rows), strict=True)
    ]  # fmt: skip
    return table(columns, lines) if lines else ""


def tools(found: Collected) -> str:
    rows = sorted((row for row in found.by_tool if row.tool_name), key=lambda row: (-row.tool_calls, -row.entries))
    columns = [
        Column("tool"),
        Column("calls"),
        Column("errors"),
        Column("of calls", less=True),
        Column("timed", less=True),
        Column("median"),
        Column("95th pct.", less=True),
    ]
    lines = []
    for row in rows[:20]:
        timed = found.tool_latencies.get(row.tool_name)
        share = figures.percent(row.errors / row.tool_calls) if row.tool_calls and row.errors else ""
        lines.append(
            Row(
                row.tool_name or "",
                float(row.tool_calls or row.entries),
                (
                    figures.whole(row.tool_calls),
                    _count(row.errors),
                    share,
                    figures.NONE if timed is None else figures.whole(timed.count),
                    figures.NONE if timed is None else milliseconds(timed.median),
                    figures.NONE if timed is None else milliseconds(timed.high),
                ),
            )
        )
    note = '<p class="note">Latency is that of the tools alone, without the models\' time to call them.</p>'
    return table(columns, lines) + note if lines else ""


def sessions(found: Collected, addresses: Mapping[str, str]) -> str:
    columns = [
        Column("session"),
        Column("user", less=True, text=True),
        Column("turns", less=True),
        Column("input"),
        Column("output", less=True),
        Column("cost"),
    ]
    lines = [
        Row(
            _session_name(row, found, addresses),
            weight,
            (
                row.user_id or "",
                figures.whole(row.turns),
                figures.short(row.input_tokens),
                figures.short(row.output_tokens),
                _cost_text(row),
            ),
        )
        for row, weight in zip(found.sessions, _weights(found.sessions), strict=True)
    ]
    return table(columns, lines) if lines else ""


def _session_name(row: SessionUsage, found: Collected, addresses: Mapping[str, str]) -> str | Html:
    if row.session_id is None:
        return "recorded calls of no session"
    label = found.labels.get(row.session_id)
    if label is None:
        return Html(f'{escape(row.session_id)} <span class="tag plain">no longer there</span>')
    return names.described(label, address=addresses.get(row.session_id))


def _weights(rows: Sequence[UsageTotals]) -> list[float]:
    """How long the bars are: by cost, or by tokens if no cost is known."""
    by_cost = any(row.cost_usd for row in rows)
    return [float(row.cost_usd or 0) if by_cost else float(_tokens(row)) for row in rows]


def ranking(rows: Sequence[tuple[str | None, UsageTotals]], what: str) -> str:
    rows = rows[:10]
    lines = [
        Row(
            name or f"no {what}",
            weight,
            (
                figures.whole(row.turns),
                figures.short(row.input_tokens),
                figures.short(row.output_tokens),
                _cost_text(row),
            ),
        )
        for (name, row), weight in zip(rows, _weights([row for _, row in rows]), strict=True)
    ]
    columns = [Column(what), Column("turns", less=True), Column("input"), Column("output"), Column("cost")]
    return table(columns, lines) if lines else ""


def result_cache(found: Collected, axis: Axis) -> str:
    hits = found.bins.sums((found.bins.of_day(row.day), row.hits) for row in found.cache)
    lookups = found.bins.sums((found.bins.of_day(row.day), row.hits + row.misses) for row in found.cache)
    asked, hit = sum(lookups), sum(hits)
    if not asked:
        return ""
    sums = [("lookups", asked), ("hits", hit), ("sets", sum(row.sets for row in found.cache)),
            ("evictions", sum(row.evictions for row in found.cache)),
            ("expired or invalidated", sum(row.expirations + row.invalidations for row in found.cache))]  # fmt: skip
    rows = [Row(name, float(count), (f"{count:,.0f}", figures.percent(count / asked))) for name, count in sums]
    counts = table([Column("what"), Column("times"), Column("of lookups")], rows)
    if found.bins.unit == "hour":  # The cache is counted by day.
        return counts
    series = [
        Series("hits, share of lookups", [a / b if b else None for a, b in zip(hits, lookups, strict=True)], "c2")
    ]
    title = f"result cache hits by {found.bins.unit}"
    return counts + both(
        lambda width: charts.lines(
            series,
            axis,
            width=width,
            unit="percent",
            tick=lambda value: f"{value * 100:.0f} %",
            full=figures.percent,
            title=title,
            highest=1,
        )
    ) + data_table("from", axis.titles, series, figures.percent, name=title)  # fmt: skip


def storage(found: Collected) -> str:
    rows: dict[str, list[int]] = {}
    for row in found.storage:
        held = rows.setdefault(row.table_name, [0, 0])
        held[0] += row.row_count
        held[1] += row.bytes
    lines = [
        Row(name, float(size), (figures.whole(count), figures.size(size)))
        for name, (count, size) in sorted(rows.items(), key=lambda item: -item[1][1])
    ]
    note = '<p class="note">Bytes are what callers stored, without the database\'s overhead.</p>'
    return table([Column("table"), Column("rows"), Column("bytes")], lines) + note if lines else ""


def backlog(found: Collected) -> str:
    if not found.backlog:
        return '<p class="none">nothing is overdue</p>'
    lines = [
        Row(_KINDS[row.kind], float(row.due), (figures.whole(row.due), figures.duration(row.overdue)))
        for row in found.backlog
    ]
    return table([Column("kind"), Column("due"), Column("oldest overdue by")], lines)


def _count(number: int) -> str | Html:
    """A count of something bad: none is nothing to look at."""
    return Html(f'<span class="bad">{number:,}</span>') if number else figures.NONE


def _tokens(row: UsageTotals) -> int:
    return row.input_tokens + row.output_tokens


def _cost_text(row: UsageTotals) -> str:
    if row.cost_usd is None:
        return "unknown" if row.unpriced_calls else figures.NONE
    return figures.money(row.cost_usd)


def cached(row: UsageTotals) -> float | None:
    return row.cache_read_input_tokens / row.input_tokens if row.input_tokens else None


def milliseconds(value: float) -> str:
    return figures.duration(value * _MILLISECOND)
