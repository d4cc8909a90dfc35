"""Which reports there are, what they can be narrowed to, and their rows under the column names of their views."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Self

_MILLISECOND = timedelta(milliseconds=1)

PERIOD = ("since", "until", "tz")
NAMESPACES = ("namespaces",)
NARROW = ("user_id", "agent_name", "provider_name", "model", "tool_name", "session_id")

MEASURES = (
    "sessions",
    "entries",
    "turns",
    "model_calls",
    "tool_calls",
    "errors",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "reasoning_output_tokens",
    "cost_usd",
    "unpriced_calls",
    "duration_ms",
    "content_bytes",
    "timed_entries",
    "latency_p50_ms",
    "latency_p95_ms",
)
# The measures that fit on a line of a terminal.
_SHOWN = (
    "sessions",
    "entries",
    "turns",
    "model_calls",
    "tool_calls",
    "errors",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cost_usd",
    "unpriced_calls",
    "latency_p50_ms",
    "latency_p95_ms",
)


@dataclass(frozen=True, slots=True)
class Report:
    """A report: its name on the command line, its view, its method of `store.usage`, and its columns."""

    view: str
    method: str
    summary: str
    keys: tuple[str, ...]
    arguments: tuple[str, ...]
    columns: tuple[str, ...] = MEASURES
    shown: tuple[str, ...] = _SHOWN

    @property
    def name(self) -> str:
        return self.view.replace("_", "-")

    def over_namespaces(self) -> Self:
        """The same of several namespaces, in which there may be sessions of one id."""
        return replace(self, keys=("namespace", *self.keys)) if self.view == "usage_by_session" else self


_ALL = (*PERIOD, *NARROW, *NAMESPACES)
_HEAVY = (*_ALL, "limit")

REPORTS = {
    report.name: report
    for report in (
        Report("usage_by_day", "by_day", "what was used on each day", ("day",), _ALL),
        Report(
            "usage_by_session",
            "by_session",
            "by each session, deleted ones included",
            ("session_id", "user_id", "first_day", "last_day"),
            _HEAVY,
            MEASURES[1:],
            _SHOWN[1:],
        ),
        Report("usage_by_user", "by_user", "by each user", ("day", "user_id"), (*_HEAVY, "daily")),
        Report("usage_by_agent", "by_agent", "by each agent", ("day", "agent_name"), (*_HEAVY, "daily")),
        Report("usage_by_model", "by_model", "by each model", ("day", "provider_name", "model"), (*_HEAVY, "daily")),
        Report("usage_by_tool", "by_tool", "by each tool", ("day", "tool_name"), (*_HEAVY, "daily")),
        Report(
            "cache_usage_by_day",
            "cache_by_day",
            "what happened in the result cache",
            ("day", "agent_name"),
            ("since", "until", "agent_name", *NAMESPACES),
            ("hits", "misses", "sets", "evictions", "expirations", "invalidations", "hit_rate"),
            ("hits", "misses", "sets", "evictions", "expirations", "invalidations", "hit_rate"),
        ),
        Report(
            "storage_usage",
            "storage",
            "what is stored, by table and user",
            ("table_name", "user_id"),
            NAMESPACES,
            ("row_count", "bytes"),
            ("row_count", "bytes"),
        ),
        Report(
            "expiry_backlog",
            "expiry_backlog",
            "what is due to be deleted but was not swept yet",
            ("kind",),
            NAMESPACES,
            ("due", "oldest_due_at", "overdue_seconds"),
            ("due", "oldest_due_at", "overdue_seconds"),
        ),
        Report(
            "session_lineage",
            "lineage",
            "where living sessions come from",
            ("session_id", "user_id", "parent_session_id", "root_session_id"),
            (),
            ("forked_at_seq", "depth", "forks", "entries", "own_entries", "created_at"),
            ("forked_at_seq", "depth", "forks", "entries", "own_entries", "created_at"),
        ),
    )
}


def records(report: Report, rows: Sequence[Any], *, daily: bool = False) -> list[dict[str, Any]]:
    """The rows with the columns of the report's view; without `day` if a row covers the whole period."""
    names = [name for name in report.keys if name != "day" or daily or report.view.endswith("_by_day")]
    return [{name: _column(row, name) for name in (*names, *report.columns)} for row in rows]


def _column(row: Any, name: str) -> Any:
    """The attribute for a column of the view, in the unit that the column's name ends with."""
    for suffix, unit in (("_ms", _MILLISECOND), ("_seconds", timedelta(seconds=1))):
        if name.endswith(suffix):
            value = getattr(row, name.removesuffix(suffix))
            return None if value is None else round(value / unit, 6)
    return getattr(row, name)
