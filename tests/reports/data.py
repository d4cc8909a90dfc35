"""Usage of many days, users and models, made up but the same each time."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from statestore import NewEntry, StateStore, Usage

MODELS = [
    ("anthropic", "claude-sonnet-4-5"),
    ("openai", "gpt-4o"),
    ("google", "gemini-2.5-pro"),
    ("openai", "gpt-4o-mini"),
    (None, "home-grown"),
]
TOOLS = ["search", "read_file", "run_tests"]


def sessions(
    *, days: int, users: int, each_day: int, start: datetime = datetime(2026, 1, 1, tzinfo=UTC), seed: int = 1
) -> Iterator[tuple[str, dict[str, Any], list[NewEntry]]]:
    """Id, attributes and entries of one session after the other."""
    chance = random.Random(seed)
    for day in range(days):
        for number in range(each_day):
            user = chance.randrange(users + 1)
            attributes = {
                "user_id": f"user-{user}" if user < users else None,
                "agent_name": chance.choice([None, "planner", "coder"]),
            }
            at = start + timedelta(days=day, seconds=chance.randrange(86_400), microseconds=chance.randrange(10**6))
            entries = []
            for turn in range(chance.randrange(1, 5)):
                for entry in _turn(chance, turn):
                    at += timedelta(milliseconds=chance.randrange(90_000))
                    entries.append(NewEntry(**entry, created_at=at))
            yield f"day-{day}-{number}", attributes, entries


def _turn(chance: random.Random, turn: int) -> Iterator[dict[str, Any]]:
    provider, model = MODELS[chance.randrange(len(MODELS))]
    tokens = chance.randrange(100_000)
    yield {"content": {"role": "user", "content": f"question {turn}"}, "metadata": {"turn": turn}}
    yield {
        "content": {"role": "assistant", "content": "answer"},
        "usage": Usage(
            input_tokens=tokens,
            output_tokens=chance.randrange(5000),
            cache_read_input_tokens=chance.choice([None, tokens // 3]),
            cache_write_input_tokens=chance.choice([None, 0, tokens // 7]),
            reasoning_output_tokens=chance.choice([None, 100]),
        ),
        "provider_name": provider,
        "response_model": model,
        "cost_usd": chance.choice([None, Decimal(chance.randrange(10**10)) / 10**10]),
        "duration": timedelta(microseconds=chance.randrange(20_000_000)),
        "agent_name": chance.choice([None, None, "critic"]),
    }
    for _ in range(chance.randrange(3)):
        yield {
            "content": {"role": "tool", "content": "result"},
            "tool_name": chance.choice(TOOLS),
            "duration": timedelta(microseconds=chance.randrange(3_000_000)),
            "error_type": chance.choice([None, None, "timeout"]),
        }


def fill(store: StateStore, **kwargs: Any) -> None:
    for session_id, attributes, entries in sessions(**kwargs):
        store.sessions.create(session_id, **attributes)
        store.history.append(session_id, entries)
