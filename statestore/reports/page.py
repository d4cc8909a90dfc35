"""The page that shows all reports: one file, no script, nothing fetched from anywhere."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import Any

from statestore.reports import charts, figures
from statestore.reports.charts import Axis, Series
from statestore.reports.report_data import Collected, collect
from statestore.reports.style import CSS
from statestore.reports.text import escape
from statestore.values.usage import ModelUsage, UsageTotals

__all__ = ["collect", "render"]

# Formats how much a figure has changed, from its value now and before.
Moved = Callable[[float | None, float | None], str]

_MODELS = 6
# More bars than this would be too thin to point at, so a bar is then a week or longer.
_MOST_BARS = 120
_YEAR = 366
_WIDE, _NARROW = 568, 334
_KINDS = {
    "expired_sessions": "expired sessions",
    "idle_sessions": "idle sessions",
    "expired_state": "expired state keys",
    "expired_cache": "expired cache entries",
}


def render(found: Collected) -> str:
    """The page, as HTML."""
    span = _days_text(found.first, found.last)
    title = f"Usage of {found.namespace}, {span}"
    body = "".join(
        (
            f"<h1>Usage of {escape(found.namespace)}</h1>",
            f'<p class="when">{span}, days in {escape(found.tz)} · made {found.made_at:%Y-%m-%d %H:%M} · '
            "deleted conversations included</p>",
            _key_figures(found),
            f'<div class="panels">{"".join(_panels(found))}</div>',
            "<footer>Each panel names the database view that it is made from. Latencies are computed from entries that "
            "still exist.</footer>",
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main>{body}</main></body></html>\n"
    )


def _key_figures(found: Collected) -> str:
    now, before = found.totals, found.before

    def figure(
        name: str, of: Callable[[UsageTotals], float | None], text: Callable[[Any], str], moved: Moved = figures.change
    ) -> str:
        return _figure(name, text(of(now)), "" if before is None else _change(of(now), of(before), text, moved))

    users = "" if found.users_before is None else _change(found.users, found.users_before, figures.whole)
    unpriced = "their cost is unknown" if now.unpriced_calls else ""
    cells = [
        figure("cost", _cost, figures.money),
        figure("tokens", _tokens, figures.short),
        figure("model calls", lambda totals: totals.model_calls, figures.whole),
        figure("turns", lambda totals: totals.turns, figures.whole),
        figure("sessions", lambda totals: totals.sessions, figures.whole),
        _figure("users", figures.whole(found.users), users),
        figure("tool calls", lambda totals: totals.tool_calls, figures.whole),
        figure("errors", lambda totals: totals.errors, figures.whole),
        figure("prompt cache hits", _cached, figures.percent, figures.points),
        figure("median latency", lambda totals: _seconds(totals.latency_p50), _seconds_text),
        figure("95th pct. latency", lambda totals: _seconds(totals.latency_p95), _seconds_text),
        _figure("unpriced calls", figures.whole(now.unpriced_calls), unpriced),
    ]
    return f'<div class="figures">{"".join(cells)}</div>'


def _change(now: float | None, before: float | None, text: Callable[[Any], str], moved: Moved = figures.change) -> str:
    found = moved(now, before)
    return f"{found}, before {text(before)}" if found not in ("", figures.UNCHANGED) else found


def _figure(name: str, text: str, note: str) -> str:
    return f'<div class="figure"><span>{name}</span><b>{escape(text)}</b><small>{_kept_together(note)}</small></div>'


def _kept_together(note: str) -> str:
    """A number and its unit stay on one line."""
    return escape(note.replace(" %", "\u00a0%"))


def _panels(found: Collected) -> Iterable[str]:
    bins = _Bins(found.first, found.last)
    yield _panel("Tokens by day and model", "usage_by_model", _by_model(found, bins, _tokens, "tokens", figures.short))
    yield _panel(
        "Cost by day and model", "usage_by_model", _by_model(found, bins, _cost, "US dollars", figures.short_money)
    )
    yield _panel("Cache hit rates by day", "usage_by_day, cache_usage_by_day", _hit_rates(found, bins))
    yield _panel("Latency by day", "usage_by_day", _latencies(found, bins))
    yield _panel("Activity by weekday and hour", "usage_lines", _activity(found))
    yield _panel(
        "Models", "usage_by_model", _ranking([(row.model, row) for row in found.by_model if row.model], "model")
    )
    yield _panel(
        "Users with the highest cost", "usage_by_user", _ranking([(r.user_id, r) for r in found.by_user], "user")
    )
    yield _panel(
        "Sessions with the highest cost",
        "usage_by_session",
        _ranking([(r.session_id, r) for r in found.sessions], "session"),
    )
    yield _panel("Agents", "usage_by_agent", _ranking([(r.agent_name, r) for r in found.by_agent], "agent"))
    yield _panel("Tools", "usage_by_tool", _tools(found))
    yield _panel("What is stored now", "storage_usage", _storage(found) or '<p class="none">nothing is stored</p>')
    yield _panel("What is due to be deleted", "expiry_backlog", _backlog(found))


def _panel(title: str, view: str, content: str) -> str:
    inside = content or '<p class="none">nothing in this period</p>'
    return f'<section class="panel"><div class="head"><h2>{title}</h2><code>{view}</code></div>{inside}</section>'


class _Bins:
    """The bars of the time axis: days, or weeks or longer if there are too many days."""

    def __init__(self, first: date, last: date) -> None:
        self._first = first
        days = (last - first).days + 1
        self._length = 1 if days <= _MOST_BARS else 7 if days <= 7 * _MOST_BARS else max(30, -(-days // _MOST_BARS))
        begins = range(0, days, self._length)
        starts = [first + timedelta(days=day) for day in begins]
        ends = [first + timedelta(days=min(day + self._length, days) - 1) for day in begins]
        self.count = len(starts)
        self.axis = Axis(
            [f"{start:%b} {start.day if days <= _YEAR else start.year}" for start in starts],
            [_days_text(start, end) for start, end in zip(starts, ends, strict=True)],
        )

    @property
    def single(self) -> bool:
        """Whether a bar is a day."""
        return self._length == 1

    def sums(self, points: Iterable[tuple[date, float]]) -> list[float]:
        sums = [0.0] * self.count
        for day, value in points:
            index = (day - self._first).days // self._length
            if 0 <= index < self.count:
                sums[index] += value
        return sums


def _by_model(
    found: Collected, bins: _Bins, measure: Callable[[Any], float | None], unit: str, text: Callable[[float], str]
) -> str:
    named = [row for row in found.by_model_and_day if row.model and measure(row)]
    if not named:
        return ""
    totals: dict[str, float] = {}
    for row in found.by_model:
        if row.model:
            totals[row.model] = totals.get(row.model, 0) + (_tokens(row))

    def points(rows: Iterable[ModelUsage]) -> Iterator[tuple[date, float]]:
        return ((row.day, measure(row) or 0) for row in rows if row.day is not None)

    # The same models in the same colours in both charts.
    leading = sorted(totals, key=lambda model: -totals[model])[:_MODELS]
    series = [
        Series(model, bins.sums(points(row for row in named if row.model == model)), f"c{index}")
        for index, model in enumerate(leading)
    ]
    rest = [row for row in named if row.model not in leading]
    if rest:
        series.append(Series("other models", bins.sums(points(rest)), "other"))
    shown = [one for one in series if any(one.values)]
    return _both(
        lambda width: charts.stacked(
            shown, bins.axis, width=width, unit=unit, tick=text, full=text, title=f"{unit} by day and model"
        )
    ) + _legend(shown)


def _hit_rates(found: Collected, bins: _Bins) -> str:
    read = bins.sums((row.day, row.cache_read_input_tokens) for row in found.by_day)
    asked = bins.sums((row.day, row.input_tokens) for row in found.by_day)
    hits = bins.sums((row.day, row.hits) for row in found.cache)
    lookups = bins.sums((row.day, row.hits + row.misses) for row in found.cache)
    series = [
        Series("prompt cache, share of input tokens", _rates(read, asked), "c0"),
        Series("result cache, share of lookups", _rates(hits, lookups), "c1"),
    ]
    shown = [one for one in series if any(value is not None for value in one.values)]
    if not shown:
        return ""
    return _both(
        lambda width: charts.lines(
            shown,
            bins.axis,
            width=width,
            unit="percent",
            tick=lambda value: f"{value * 100:.0f} %",
            full=figures.percent,
            title="cache hit rates by day",
            highest=1,
        )
    ) + _legend(shown)


def _rates(part: Sequence[float], whole: Sequence[float]) -> list[float | None]:
    return [a / b if b else None for a, b in zip(part, whole, strict=True)]


def _latencies(found: Collected, bins: _Bins) -> str:
    timed = [row for row in found.by_day if row.timed_entries]
    if not timed:
        return ""
    series = []
    for name, colour, attribute in (("95th percentile", "c1", "latency_p95"), ("median", "c0", "latency_p50")):
        # Percentiles of days cannot be combined into those of a week, so its slowest day represents it.
        values: list[float | None] = [None] * bins.count
        for row in timed:
            day = bins.sums([(row.day, 1.0)])
            if 1.0 in day:
                index = day.index(1.0)
                values[index] = max(values[index] or 0.0, getattr(row, attribute).total_seconds())
        series.append(Series(name if bins.single else f"{name}, slowest day", values, colour))
    highest = max(value for one in series for value in one.values if value is not None)
    unit, scale = ("seconds", 1) if highest >= 1 else ("milliseconds", 1000)
    return (
        _both(
            lambda width: charts.lines(
                series,
                bins.axis,
                width=width,
                unit=unit,
                tick=lambda value: figures.short(value * scale),
                full=lambda value: figures.duration(timedelta(seconds=value)),
                title="latency by day",
            )
        )
        + _legend(series)
        + '<p class="note">Durations of entries that still exist.</p>'
    )


def _activity(found: Collected) -> str:
    counts = {(row.weekday, row.hour): float(row.entries) for row in found.by_hour}
    if not counts:
        return ""
    return (
        _both(
            lambda width: charts.week(
                counts, width=width, full=lambda value: f"{value:,.0f} entries", title="entries by weekday and hour"
            )
        )
        + f'<p class="note">Entries, in {escape(found.tz)}.</p>'
    )


def _ranking(rows: Sequence[tuple[str | None, UsageTotals]], what: str) -> str:
    rows = rows[:10]
    if not rows:
        return ""
    by_cost = any(row.cost_usd for _, row in rows)
    weights = [float(row.cost_usd or 0) if by_cost else float(_tokens(row)) for _, row in rows]
    lines = [
        (name or f"no {what}", weight, (figures.whole(row.entries), figures.short(_tokens(row)), _cost_text(row)))
        for (name, row), weight in zip(rows, weights, strict=True)
    ]
    return _table((what, "entries", "tokens", "cost"), lines, less=(1,))


def _tools(found: Collected) -> str:
    rows = sorted((row for row in found.by_tool if row.tool_name), key=lambda row: -row.entries)[:10]
    lines = [
        (
            row.tool_name or "",
            float(row.tool_calls or row.entries),
            (
                figures.whole(row.tool_calls),
                figures.whole(row.errors),
                figures.duration(row.latency_p50),
                figures.duration(row.latency_p95),
            ),
        )
        for row in rows
    ]
    return _table(("tool", "calls", "errors", "median", "95th pct."), lines, less=(3,)) if lines else ""


def _storage(found: Collected) -> str:
    rows: dict[str, list[int]] = {}
    for row in found.storage:
        held = rows.setdefault(row.table_name, [0, 0])
        held[0] += row.row_count
        held[1] += row.bytes
    lines = [
        (table, float(size), (figures.whole(count), figures.size(size)))
        for table, (count, size) in sorted(rows.items(), key=lambda item: -item[1][1])
    ]
    note = '<p class="note">Bytes are what callers stored, without the database\'s overhead.</p>'
    return _table(("table", "rows", "bytes"), lines) + note if lines else ""


def _backlog(found: Collected) -> str:
    if not found.backlog:
        return '<p class="none">nothing is overdue</p>'
    lines = [
        (_KINDS[row.kind], float(row.due), (figures.whole(row.due), figures.duration(row.overdue)))
        for row in found.backlog
    ]
    return _table(("kind", "due", "oldest overdue by"), lines)


def _table(head: Sequence[str], lines: Sequence[tuple[str, float, Sequence[str]]], *, less: Sequence[int] = ()) -> str:
    """A table whose first column has a bar; the columns *less* are left out on a phone."""
    most = max((weight for _, weight, _ in lines), default=0) or 1

    def cell(tag: str, index: int, text: str) -> str:
        return f"<{tag}{' class=less' if index in less else ''}>{text}</{tag}>"

    rows = []
    for name, weight, values in lines:
        bar = f'<span class="bar"><i style="width:{100 * weight / most:.1f}%"></i></span>'
        cells = [cell("td", 0, escape(name) + bar)]
        cells += [cell("td", index, escape(value)) for index, value in enumerate(values, 1)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(cell("th", index, escape(text)) for index, text in enumerate(head))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _both(draw: Callable[[int], str]) -> str:
    """The chart for a wide page and the one for a phone; the style shows one of them."""
    return f'<div class="wide">{draw(_WIDE)}</div><div class="narrow">{draw(_NARROW)}</div>'


def _legend(series: Sequence[Series]) -> str:
    items = "".join(f'<li><i style="background:var(--{one.colour})"></i>{escape(one.name)}</li>' for one in series)
    return f'<ul class="legend">{items}</ul>'


def _days_text(first: date, last: date) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _tokens(row: UsageTotals) -> int:
    return row.input_tokens + row.output_tokens


def _cost(row: UsageTotals) -> float | None:
    return None if row.cost_usd is None else float(row.cost_usd)


def _cost_text(row: UsageTotals) -> str:
    if row.cost_usd is None:
        return "unknown" if row.unpriced_calls else figures.NONE
    return figures.money(row.cost_usd)


def _cached(row: UsageTotals) -> float | None:
    return row.cache_read_input_tokens / row.input_tokens if row.input_tokens else None


def _seconds_text(value: float | None) -> str:
    return figures.duration(None if value is None else timedelta(seconds=value))


def _seconds(value: timedelta | None) -> float | None:
    return None if value is None else value.total_seconds()
