"""What runs used: recorded for the reports, and kept by turn, with the entry that begins the turn."""

from collections.abc import Sequence
from typing import Any, Final

from agents import Usage as RunUsage
from agents.result import RunResultBase

from statestore import AsyncStateStore, AsyncTransaction, Entry, Usage
from statestore.adapters.layouts.openai_agents import USAGE

FIGURES: Final = ("requests", "input_tokens", "output_tokens", "total_tokens")
DETAILS: Final = ("input_tokens_details", "output_tokens_details")


async def record(store: AsyncStateStore, session_id: str, result: RunResultBase) -> None:
    """Record what is new in the usage of a run, and keep all of it as the usage of the newest turn, in one commit.

    Raises:
        SessionNotFoundError: There is no such session.
    """
    used = result.context_wrapper.usage
    model = _model_of(result)

    async def write(tx: AsyncTransaction) -> None:
        begins = await _beginning_of_turn(tx, session_id)
        if begins is None:
            return
        before = of_turn(begins) or {}
        now = _figures(used)
        recorded: int = begins.metadata.get(USAGE, {}).get("records", 0) if before else 0
        known = now == {name: before.get(name) for name in now}
        requests: dict[tuple[str, ...], Any] = {
            ("response", name, str(usage.input_tokens), str(usage.output_tokens)): usage
            for name, usage in _responses(result).items()
        }
        if not requests and not known:
            new = enumerate(_new_requests(used, before), start=recorded)
            requests = {(begins.entry_id, str(number)): request for number, request in new}
            recorded += len(requests)
        for names, request in requests.items():
            record_id = tx.sessions.derive_id("openai-agents", session_id, *names)
            await tx.usage.record(
                record_id=record_id, usage=Usage.of(request, strict=False), session_id=session_id, model=model
            )
        if known:
            return
        kept = {"session_id": session_id, **now, "records": recorded}
        await tx.history.annotate(session_id, begins.seq, {USAGE: kept})

    await store.run_transaction(write)


def of_turn(begins: Entry) -> dict[str, Any] | None:
    """What the turn used that an entry begins; None if that is not known, or was used before a fork was made."""
    kept = begins.metadata.get(USAGE)
    if kept is None or kept["session_id"] != begins.session_id:
        return None
    return {name: kept[name] for name in (*FIGURES, *DETAILS)}


async def _beginning_of_turn(tx: AsyncTransaction, session_id: str) -> Entry | None:
    found = await tx.history.read(session_id, role="user", last=1) or await tx.history.read(session_id, limit=1)
    return found[0] if found else None


def _figures(used: RunUsage) -> dict[str, Any]:
    figures: dict[str, Any] = {name: getattr(used, name) or 0 for name in FIGURES}
    for name in DETAILS:
        details = getattr(used, name, None)
        figures[name] = None if details is None else details.model_dump(exclude_none=True)
    return figures


def _responses(result: RunResultBase) -> dict[str, RunUsage]:
    """What each response used, by its id; nothing if the provider gives no ids, or agents that were tools used more."""
    responses = getattr(result, "raw_responses", ())
    found = {response.response_id: response.usage for response in responses if response.response_id}
    used = result.context_wrapper.usage
    return found if _tokens(list(found.values())) == (used.input_tokens, used.output_tokens) else {}


def _new_requests(used: RunUsage, before: dict[str, Any]) -> Sequence[Any]:
    """The requests that came after those of *before*; all of them if that was another run in the same turn."""
    requests: Sequence[Any] = used.request_usage_entries
    if _tokens(requests) != (used.input_tokens, used.output_tokens):
        requests = [used]
    known = before.get("input_tokens", 0), before.get("output_tokens", 0)
    for number in range(len(requests) + 1):
        if _tokens(requests[:number]) == known:
            return requests[number:]
    return requests


def _tokens(requests: Sequence[Any]) -> tuple[int, int]:
    return sum(one.input_tokens for one in requests), sum(one.output_tokens for one in requests)


def _model_of(result: RunResultBase) -> str | None:
    """The name of the model, as far as the agent that ran last says it."""
    model = getattr(result.last_agent, "model", None)
    name = model if isinstance(model, str) else getattr(model, "model", None)
    return name if isinstance(name, str) and name else None
