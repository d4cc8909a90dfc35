"""The overview: all reports of a period on one page, which needs no script, and nothing from anywhere."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from statestore.reports import charts, figures, panels
from statestore.reports.bins import span_text
from statestore.reports.charts import Axis, Series
from statestore.reports.layout import (
    Place,
    both,
    data_table,
    document,
    figures_list,
    legend,
    panel,
)
from statestore.reports.queries import Spent, number
from statestore.reports.report_data import Collected, collect
from statestore.reports.text import escape
from statestore.values.usage import UsageTotals

__all__ = ["collect", "render"]

# Formats how much a figure has changed, from its value now and before.
Moved = Callable[[float | None, float | None], str]

_MODELS = 6
# Who took the time, and the colours of the two lines.
_LATENCIES = (
    ("model", "models", ("c0", "c6")),
    ("tool", "tools", ("c1", "c5")),
    ("other", "others", ("c2", "c3")),
)


def render(found: Collected, *, place: Place | None = None, addresses: Mapping[str, str] | None = None) -> str:
    """The page, as HTML.

    Args:
        found: What it shows.
        place: Where it is in a folder of pages; None for a page of its own.
        addresses: The pages of sessions, by id.
    """
    span = span_text(found.first, found.last)
    whose = "" if found.user_id is None else f", user {found.user_id}"
    body = "".join(
        (
            f"<h1>Usage of {escape(found.namespace + whose)}</h1>",
            f'<p class="when">{span}, days in {escape(found.tz)} · made {found.made_at:%Y-%m-%d %H:%M} · '
            "deleted conversations included</p>",
            _unpriced(found),
            _key_figures(found),
            f'<div class="panels">{"".join(_panels(found, addresses or {}))}</div>',
        )
    )
    return document(
        f"Usage of {found.namespace}{whose}, {span}",
        body,
        namespace=found.namespace,
        place=place,
        footer="Each panel names the database view that it is made from. Input tokens include cached ones unless a "
        "figure says otherwise; cost is in US dollars. Latencies are computed from entries that still exist.",
    )


def _unpriced(found: Collected) -> str:
    """What the cost leaves out."""
    calls = found.totals.unpriced_calls
    if not calls:
        return ""
    models = [row.model for row in found.by_model if row.unpriced_calls and row.model]
    shown = ", ".join(escape(model) for model in dict.fromkeys(models[:5]))
    more = f" and {len(models) - 5} more" if len(models) > 5 else ""
    calls_have = f"model calls {'has' if calls == 1 else 'have'}"
    return (
        f'<p class="notice" role="note"><b>{calls:,} of {found.totals.model_calls:,} {calls_have} no price</b>, so '
        f"the cost is higher than shown{f': {shown}{more}' if shown else ''}. "
        "<code>statestore prices --help</code> says how to set prices and to apply them to what is stored.</p>"
    )


def _key_figures(found: Collected) -> str:
    now, before = found.totals, found.before

    def figure(
        name: str,
        of: Callable[[UsageTotals], float | None],
        text: Callable[[Any], str],
        note: str = "",
        moved: Moved = figures.change,
    ) -> tuple[str, str, str]:
        changed = "" if before is None else _change(of(now), of(before), text, moved)
        return name, text(of(now)), changed or note

    def latency(name: str, kind: str) -> tuple[str, str, str]:
        one = found.all_latencies.get(kind)
        note = "" if one is None else f"95th percentile {panels.milliseconds(one.high)}"
        return name, figures.NONE if one is None else panels.milliseconds(one.median), note

    users = "" if found.users_before is None else _change(found.users, found.users_before, figures.whole)
    unpriced = f"without {figures.counted(now.unpriced_calls, 'unpriced call')}" if now.unpriced_calls else ""
    cached = now.cache_read_input_tokens
    fresh = f"{figures.short(max(now.input_tokens - cached, 0))} of them not cached" if cached else ""
    failed = f"in {now.tool_calls:,} tool and {now.model_calls:,} model calls"
    return figures_list(
        [
            figure("cost", lambda totals: number(totals.cost_usd), figures.money, unpriced),
            figure("input tokens", lambda totals: totals.input_tokens, figures.short, fresh),
            figure("cached input", panels.cached, figures.percent, f"{figures.short(cached)} tokens", figures.points),
            figure("output tokens", lambda totals: totals.output_tokens, figures.short),
            figure("model calls", lambda totals: totals.model_calls, figures.whole),
            figure("tool calls", lambda totals: totals.tool_calls, figures.whole),
            figure("sessions", lambda totals: totals.sessions, figures.whole),
            figure("turns", lambda totals: totals.turns, figures.whole),
            ("users", figures.whole(found.users), users),
            figure("errors", lambda totals: totals.errors, figures.whole, failed if now.errors else ""),
            latency("median model latency", "model"),
            latency("median tool latency", "tool"),
        ]
    )


def _change(now: float | None, before: float | None, text: Callable[[Any], str], moved: Moved = figures.change) -> str:
    found = moved(now, before)
    return f"{found}, before {text(before)}" if found not in ("", figures.UNCHANGED) else found


def _panels(found: Collected, addresses: Mapping[str, str]) -> Iterable[str]:
    unit = found.bins.unit
    axis = _axis(found)
    yield panel(f"Tokens by {unit}", _by_token(found, axis), source="usage_by_model")
    yield panel(f"Cost by {unit} and model", _by_model(found, axis), source="usage_by_model")
    yield panel(f"Latency by {unit}", _latencies(found, axis), source="usage_lines")
    yield panel("Activity by weekday and hour", _activity(found), source="usage_lines")
    yield panel("Models", panels.models(found), source="usage_by_model", whole=True)
    yield panel("Tools", panels.tools(found), source="usage_by_tool", whole=True)
    yield panel(
        "Sessions with the highest cost", panels.sessions(found, addresses), source="usage_by_session", whole=True
    )
    yield panel("Users", panels.ranking([(r.user_id, r) for r in found.by_user], "user"), source="usage_by_user")
    yield panel("Agents", panels.ranking([(r.agent_name, r) for r in found.by_agent], "agent"), source="usage_by_agent")
    if found.user_id is not None:  # The rest is not a user's.
        return
    yield panel(
        "What is stored now", panels.storage(found) or '<p class="none">nothing is stored</p>', source="storage_usage"
    )
    yield panel("What is due to be deleted", panels.backlog(found), source="expiry_backlog")
    yield panel("Result cache", panels.result_cache(found, axis), source="cache_usage_by_day")


def _axis(found: Collected) -> Axis:
    bars = range(found.bins.count)
    steps = (1, 2, 3, 6, 12, 24) if found.bins.unit == "hour" else ()
    return Axis([found.bins.label(bar) for bar in bars], [found.bins.title(bar) for bar in bars], steps)


def _by_token(found: Collected, axis: Axis) -> str:
    parts: tuple[tuple[str, str, Callable[[Spent], int]], ...] = (
        ("cached input", "c6", lambda row: row.cache_read_input_tokens),
        ("other input", "c0", lambda row: max(row.input_tokens - row.cache_read_input_tokens, 0)),
        ("output", "c1", lambda row: row.output_tokens),
    )
    series = [
        Series(name, found.bins.sums((row.bar, of(row)) for row in found.spent), colour) for name, colour, of in parts
    ]
    title = f"tokens by {found.bins.unit}"
    return _stacked([one for one in series if any(one.values)], axis, title, "tokens", figures.short, figures.whole)


def _by_model(found: Collected, axis: Axis) -> str:
    totals: dict[str, float] = {}
    for row in found.spent:
        if row.model and row.cost_usd:
            totals[row.model] = totals.get(row.model, 0) + row.cost_usd
    leading = sorted(totals, key=lambda model: -totals[model])[:_MODELS]
    rows = [(row.bar, row.model, row.cost_usd) for row in found.spent if row.cost_usd and row.model]
    series = [
        Series(model, found.bins.sums((bar, cost) for bar, name, cost in rows if name == model), f"c{index}")
        for index, model in enumerate(leading)
    ]
    rest = [(bar, cost) for bar, name, cost in rows if name not in leading]
    if rest:
        series.append(Series("other models", found.bins.sums(rest), "other"))
    title = f"US dollars by {found.bins.unit} and model"
    return _stacked(series, axis, title, "US dollars", figures.short_money, figures.money)


def _stacked(
    series: Sequence[Series],
    axis: Axis,
    title: str,
    unit: str,
    tick: Callable[[float], str],
    full: Callable[[Any], str],
) -> str:
    if not series:
        return ""
    return (
        both(lambda width: charts.stacked(series, axis, width=width, unit=unit, tick=tick, full=tick, title=title))
        + legend(series)
        + data_table("from", axis.titles, series, lambda value: full(round(value) if full is figures.whole else value),
                     name=title)
    )  # fmt: skip


def _latencies(found: Collected, axis: Axis) -> str:
    series = []
    for kind, what, colours in _LATENCIES:
        for name, colour, attribute in (("95th percentile", colours[0], "high"), ("median", colours[1], "median")):
            values = [found.latencies.get((bar, kind)) for bar in range(found.bins.count)]
            seconds = [None if one is None else getattr(one, attribute) / 1000 for one in values]
            if any(value is not None for value in seconds):
                series.append(Series(f"{what}, {name}", seconds, colour))
    if not series:
        return ""
    highest = max(value for one in series for value in one.values if value is not None)
    unit, scale = ("seconds", 1) if highest >= 1 else ("milliseconds", 1000)
    title = f"latency by {found.bins.unit}"
    return (
        both(
            lambda width: charts.lines(
                series,
                axis,
                width=width,
                unit=unit,
                tick=lambda value: figures.short(value * scale),
                full=_seconds_text,
                title=title,
            )
        )
        + legend(series)
        + data_table("from", axis.titles, series, _seconds_text, name=title)
    )


def _activity(found: Collected) -> str:
    counts = {(row.weekday, row.hour): float(row.entries) for row in found.by_hour}
    if not counts:
        return ""
    title = "entries by weekday and hour"
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    by_day = [Series("entries", [counts.get((n // 24, n % 24)) for n in range(168)], "c0")]
    return (
        both(lambda width: charts.week(counts, width=width, full=lambda value: f"{value:,.0f} entries", title=title))
        + f'<p class="note">Entries, in {escape(found.tz)}.</p>'
        + data_table("hour", [f"{days[n // 24]} {n % 24:02d}:00" for n in range(168)], by_day,
                     lambda value: f"{value:,.0f}", name=title)
    )  # fmt: skip


def _seconds_text(value: float) -> str:
    return figures.duration(timedelta(seconds=value))
