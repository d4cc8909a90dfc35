"""How agno's sessions and runs are stored: for the adapter, and for the import, which does without agno.

The id, the user, the time and the name of a session are those of the store's session, and its agent, team or workflow
is the store's agent. All else is metadata: which kind it is, its data and its summary. Each run is an entry.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from statestore import NewEntry, Usage

AGNO = {"framework": "agno"}
KINDS = ("agent", "team", "workflow")
DATA = ("session_data", "agent_data", "team_data", "workflow_data", "metadata", "summary")
# The role of runs that agno puts into a context: not those of members, nor those in one of these states.
CONTEXT = "assistant"
NOT_IN_CONTEXT = frozenset({"PAUSED", "CANCELLED", "ERROR", "REGENERATED"})
_TOKENS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
    "cache_write_tokens": "cache_write_input_tokens",
    "reasoning_tokens": "reasoning_output_tokens",
}


def metadata_of(kind: str, data: Mapping[str, Any], *, updated_at: int | None) -> dict[str, Any]:
    """The metadata of a session: *data* is what agno has in the columns `DATA`, as exact JSON."""
    kept = {name: data[name] for name in DATA if data.get(name) is not None}
    return {**AGNO, "session_type": kind, "updated_at": updated_at, **kept}


def name_of(data: Mapping[str, Any]) -> str | None:
    """The name that a session has among its data."""
    name = (data.get("session_data") or {}).get("session_name")
    return name if isinstance(name, str) and name else None


def entry_of(run: Mapping[str, Any], *, user_id: str | None) -> NewEntry:
    """A run, as agno dumps it, as an entry with its id, time and usage."""
    status, began = run.get("status"), run.get("created_at")
    in_context = run.get("parent_run_id") is None and status not in NOT_IN_CONTEXT
    entry = NewEntry(
        run,
        role=CONTEXT if in_context else None,
        agent_name=run.get("agent_id") or run.get("team_id") or run.get("workflow_id"),
        provider_name=run.get("model_provider"),
        response_model=run.get("model"),
        error_type="RunError" if status == "ERROR" else None,
        metadata=None if user_id is None else {"user_id": user_id},
        entry_id=run["run_id"],
        created_at=None if began is None else datetime.fromtimestamp(began, UTC),
    )
    return _with_usage(entry, run.get("metrics") or {})


def _with_usage(entry: NewEntry, metrics: Mapping[str, Any]) -> NewEntry:
    """The entry with what the run used: the run of a workflow, which has no model of its own, what its steps used."""
    steps = [step.get("metrics") or {} for step in (metrics.get("steps") or {}).values()]
    parts = steps or [metrics]
    used = {
        ours: sum(part[name] for part in parts if part.get(name))
        for name, ours in _TOKENS.items()
        if any(part.get(name) for part in parts)
    }
    costs = [part["cost"] for part in parts if part.get("cost") is not None]
    seconds = metrics.get("duration")
    return replace(
        entry,
        usage=Usage(**used) if used else None,
        cost_usd=sum(costs) if costs else None,
        duration=None if seconds is None else timedelta(seconds=seconds),
    )
