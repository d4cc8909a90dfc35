"""Conversations as agents have them, with everything that their pages show: tools, errors, forks, parts, summaries."""

from datetime import UTC, datetime, timedelta
from typing import Any

from statestore import NewEntry, NewSession, StateStore, Usage

START = datetime(2026, 3, 2, 9, 12, tzinfo=UTC)
PROMPTS = (
    "The nightly import fails since Tuesday with a timeout. Find out why, and mend it.",
    "Write a summary of the open incidents for the Monday meeting.",
    "Which customers have invoices overdue by more than 30 days?",
    "Add a retry with backoff to the HTTP client, with tests.",
    "Translate the release notes into German and French.",
    "Why is the p95 latency of /search twice as high as last week?",
)
TITLES = (None, "Incidents for Monday", None, "Retry in the HTTP client", "Release notes", None)
PROJECTS = (
    "/home/ada/src/shop/importer",
    "/home/ada/src/ops",
    None,
    "/home/grace/src/http-client",
    None,
    "/srv/search",
)
MODELS = (("anthropic", "claude-sonnet-4-5", 0.021), ("openai", "gpt-4o", 0.008), ("local", "llama-home", None))
TOOLS = (("read_file", {"path": "importer/nightly.py"}), ("run_tests", {"selection": "tests/importer"}),
         ("search_logs", {"query": "timeout", "since": "2026-02-24", "limit": 50}))  # fmt: skip


def fill(store: StateStore, *, sessions: int = 12, turns: int = 3, start: datetime = START) -> None:
    for number in range(sessions):
        kind = number % len(PROMPTS)
        session_id = f"0194f7{number:02x}-5b1c-7c3a-9d0e-3f{number:010x}"
        store.sessions.create(
            session_id,
            user_id=("ada", "grace", "linus", None)[number % 4],
            agent_name=("coder", "reporter")[number % 2],
            title=TITLES[kind],
            project_root=PROJECTS[kind],
            instructions="Be brief. Ask before you delete anything." if number % 3 == 0 else None,
        )
        at = start + timedelta(hours=5 * number)
        store.history.append(session_id, list(_entries(number, turns, at)))
    first = f"0194f700-5b1c-7c3a-9d0e-3f{0:010x}"
    fork = store.sessions.fork(first, "fork-of-the-import", at_seq=7).session_id
    store.history.append(fork, [
        NewEntry({"role": "user", "content": "Try it without the lock instead."},
                 created_at=start + timedelta(hours=2)),
        NewEntry({"role": "assistant", "content": "Without it two runs collide, as the log of February 24 shows."},
                 response_model="gpt-4o", provider_name="openai", usage=Usage(input_tokens=5200, output_tokens=61),
                 cost_usd=0.014, created_at=start + timedelta(hours=2, minutes=1)),
    ])  # fmt: skip
    store.history.append(
        "sub-agent-of-the-import",
        [
            NewEntry(
                {"role": "user", "content": "Read all logs since February 20, and list the timeouts."}, created_at=start
            )
        ],
        create=NewSession(belongs_to=first, agent_name="log-reader"),
    )
    store.history.add_summary(first, "The import waits for a lock that the backup holds.", start_seq=1, end_seq=4)


def _entries(number: int, turns: int, at: datetime) -> Any:
    for turn in range(turns):
        at += timedelta(minutes=3)
        prompt = PROMPTS[(number + turn) % len(PROMPTS)] if turn else PROMPTS[number % len(PROMPTS)]
        yield NewEntry({"role": "user", "content": prompt}, created_at=at)
        provider, model, cost = MODELS[(number + turn) % 3]
        call_id = f"call-{number}-{turn}"
        name, arguments = TOOLS[(number + turn) % 3]
        at += timedelta(seconds=20)
        yield NewEntry(
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "The log should say when it began. I look there first."},
                {"type": "text", "text": "I look at it."},
                {"type": "tool_use", "id": call_id, "name": name, "input": arguments}]},
            provider_name=provider, response_model=model, cost_usd=cost,
            usage=Usage(input_tokens=4200 + 900 * turn, output_tokens=180, cache_read_input_tokens=3900 * (turn > 0)),
            duration=timedelta(seconds=2.4 + number % 5), created_at=at)  # fmt: skip
        failed = (number + turn) % 4 == 1
        yield NewEntry(
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call_id, "is_error": failed,
                                          "content": "Traceback: TimeoutError" if failed else "def nightly(): …"}]},
            role="tool", tool_name=name, tool_call_id=call_id, duration=timedelta(milliseconds=340 + 90 * turn),
            error_type="TimeoutError" if failed else None, created_at=at + timedelta(seconds=1))  # fmt: skip
        yield NewEntry(
            {"role": "assistant", "content": "The import takes the lock before it asks for the list, and waits:\n\n"
             "1. the backup holds it until 04:10,\n2. the import gives up after 300 s.\n\nSo: list first."},
            provider_name=provider, response_model=model, cost_usd=cost,
            usage=Usage(input_tokens=5100 + 900 * turn, output_tokens=420, cache_read_input_tokens=4700),
            duration=timedelta(seconds=5.1), created_at=at + timedelta(seconds=9))  # fmt: skip
