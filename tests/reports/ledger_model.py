"""What was used, added up in plain Python: what the reports must say whatever becomes of the entries."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from statestore import Entry, Usage

COUNTED = (
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
    "unpriced_calls",
    "content_bytes",
    "cost_usd",
    "microseconds",
)


def used(entry: Entry) -> dict[str, Any]:
    """What one entry adds to each column."""
    usage = entry.usage
    called = usage.input_tokens is not None or usage.output_tokens is not None
    duration = entry.duration
    return {
        "entries": 1,
        "turns": int(entry.role == "user"),
        "model_calls": int(called),
        "tool_calls": int(entry.tool_name is not None and not (entry.role == "tool" and entry.tool_call_id)),
        "errors": int(entry.error_type is not None),
        "input_tokens": usage.input_tokens or 0,
        "output_tokens": usage.output_tokens or 0,
        "cache_read_input_tokens": usage.cache_read_input_tokens or 0,
        "cache_write_input_tokens": usage.cache_write_input_tokens or 0,
        "reasoning_output_tokens": usage.reasoning_output_tokens or 0,
        "unpriced_calls": int(called and entry.cost_usd is None),
        "content_bytes": entry.content_bytes,
        "cost_usd": entry.cost_usd or Decimal(0),
        "microseconds": 0 if duration is None else duration // duration.resolution,
    }


def of_row(row: Any) -> dict[str, Any]:
    """The same columns of a row of a report."""
    found = {name: getattr(row, name) for name in COUNTED if name not in ("cost_usd", "microseconds")}
    return found | {"cost_usd": row.cost_usd or Decimal(0), "microseconds": row.duration // row.duration.resolution}


def total(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = dict.fromkeys(COUNTED, 0)
    for row in rows:
        for name, value in row.items():
            result[name] += value
    return result


@dataclass
class Expected:
    """Everything that was ever appended or recorded."""

    everything: list[dict[str, Any]] = field(default_factory=list)
    by_day: dict[date, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    by_model: dict[str | None, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    by_tool: dict[str | None, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            line = used(entry)
            self.everything.append(line)
            self.by_day[entry.created_at.date()].append(line)
            self.by_model[entry.response_model or entry.request_model].append(line)
            self.by_tool[entry.tool_name].append(line)

    def exchange(self, before: Entry, after: Entry) -> None:
        """What was appended as one entry counts as another from now on."""
        away = {name: -value for name, value in used(before).items()}
        self.everything.append(away)
        self.by_day[before.created_at.date()].append(away)
        self.by_model[before.response_model or before.request_model].append(away)
        self.by_tool[before.tool_name].append(away)
        self.add([after])

    def add_call(
        self, day: date, model: str | None, usage: Usage, cost_usd: Decimal | None, duration: timedelta
    ) -> None:
        """A recorded call, which is no entry."""
        called = usage.input_tokens is not None
        line = dict.fromkeys(COUNTED, 0) | {
            "model_calls": int(called),
            "input_tokens": usage.input_tokens or 0,
            "unpriced_calls": int(called and cost_usd is None),
            "cost_usd": cost_usd or Decimal(0),
            "microseconds": duration // duration.resolution,
        }
        for lines in (self.everything, self.by_day[day], self.by_model[model], self.by_tool[None]):
            lines.append(line)
