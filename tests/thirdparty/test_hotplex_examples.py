"""The examples of HotPlex' documentation on its sessions, translated: each documented example is one test.

They stand in its guide to state, the READMEs of its packages (engine, internal/engine, internal/persistence,
plugins/storage), its design of the session's life, and its example go_claude_lifecycle. What it promises besides is in
tests/contract/test_scenarios.py.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from statestore import InvalidTransitionError, NewEntry, SessionNotFoundError, Usage
from tests.support.clock import MovableClock
from tests.support.crowd import at_once
from tests.support.worlds import entering

Store = Any

IDLE = timedelta(minutes=30)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def execute(store: Store, session_id: str, prompt: str, **config: Any) -> list[str]:
    """One command to an agent: its session is resumed or created, busy meanwhile, and has what was said before.

    Returns what the agent was sent.
    """
    session = store.sessions.open(session_id, status="starting", **config)
    if session.status == "starting":
        store.sessions.set_status(session_id, "ready")
    store.sessions.set_status(session_id, "busy")
    with entering(store, store.turn(session_id)) as turn:
        sent = [entry.content["content"] for entry in turn.window] + [prompt]
        turn.append([user(prompt), answer(f"answer to {prompt}")])
    store.sessions.set_status(session_id, "ready")
    return sent


def answer(text: str) -> NewEntry:
    usage = Usage(input_tokens=30, output_tokens=12, cache_read_input_tokens=20)
    return NewEntry({"role": "assistant", "content": text}, usage=usage, cost_usd=0.5, duration=timedelta(seconds=2))


# --- guide/state


def test_a_session_goes_from_starting_to_ready_to_busy_to_dead(store: Store) -> None:
    store.sessions.create("s", status="starting")
    with pytest.raises(InvalidTransitionError):
        store.sessions.set_status("s", "busy")
    for status in ("ready", "busy", "ready", "busy", "dead"):
        store.sessions.set_status("s", status)
    assert store.sessions.get("s").status == "dead"


def test_a_session_is_resumed_if_there_is_one(store: Store) -> None:
    assert not store.sessions.open("session-abc123").resumed
    assert store.sessions.open("session-abc123").resumed
    store.sessions.delete("session-abc123")
    assert not store.sessions.open("session-abc123").resumed


def test_applications_have_sessions_of_their_own_that_end_when_idle(
    open_store: Callable[..., Store], clock: MovableClock
) -> None:
    ours = open_store(namespace="my-app-prod", default_ttl=IDLE, clock=clock)
    theirs = open_store(namespace="other-app", clock=clock)
    ours.sessions.create("s")
    assert not theirs.sessions.exists("s")
    clock.advance(minutes=29)
    ours.history.append("s", [user("still here")])
    clock.advance(minutes=29)
    assert ours.sessions.exists("s")
    clock.advance(minutes=1)
    assert not ours.sessions.exists("s")


def test_the_same_name_is_the_same_session_on_every_instance(open_store: Callable[..., Store]) -> None:
    one, another = open_store(namespace="my-app-prod"), open_store(namespace="my-app-prod")
    session_id = one.sessions.derive_id("user-123-session")
    execute(one, session_id, "Remember ALBATROSS", instructions="You are a Go code reviewer.")
    assert another.sessions.derive_id("user-123-session") == session_id
    sent = execute(another, session_id, "Which word?")
    assert sent == ["Remember ALBATROSS", "answer to Remember ALBATROSS", "Which word?"]
    assert another.sessions.get(session_id).instructions == "You are a Go code reviewer."


def test_the_second_turn_knows_the_first(store: Store) -> None:
    execute(store, "coding-assistant", "Refactor auth.go to use JWT", cwd="/project")
    assert "Refactor auth.go to use JWT" in execute(store, "coding-assistant", "Now add unit tests", cwd="/project")
    assert store.sessions.get("coding-assistant").cwd == "/project"


def test_the_figures_of_a_session(store: Store, clock: MovableClock) -> None:
    created = clock.now
    execute(store, "session-123", "Run the tests")
    call = {"id": "1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
    store.history.append(
        "session-123",
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "ok"},
        ],
    )
    clock.advance(minutes=3)
    stats = store.sessions.stats("session-123")
    assert (stats.usage.input_tokens, stats.usage.output_tokens) == (30, 12)
    assert stats.usage.cache_read_input_tokens == 20
    assert (stats.turns, stats.uptime, stats.last_activity_at) == (1, timedelta(minutes=3), created)
    assert stats.tool_invocations == {"bash": 1}
    assert float(stats.cost_usd) == 0.5


@pytest.mark.parametrize("idle", [timedelta(minutes=5), IDLE], ids=["development", "production"])
def test_idle_sessions_are_removed_by_the_sweep(store: Store, clock: MovableClock, idle: timedelta) -> None:
    execute(store, "idle", "x")
    clock.advance(seconds=idle.total_seconds() - 1)
    execute(store, "used", "x")
    clock.advance(seconds=1)
    store.set_retention(idle)
    store.sweep()
    assert (store.sessions.exists("idle"), store.sessions.exists("used")) == (False, True)


def test_instructions_hold_for_all_turns(store: Store) -> None:
    rules = "You are a senior Go engineer.\n- Always run tests after changes"
    execute(store, "s", "first", instructions=rules)
    for _ in range(2):
        with entering(store, store.turn("s")) as turn:
            assert turn.instructions == rules
            turn.append(user("next"))


def test_a_session_that_does_not_resume_is_looked_for_and_ended(store: Store) -> None:
    assert not store.sessions.exists("session-123")
    execute(store, "session-123", "x")
    assert store.sessions.exists("session-123")
    store.sessions.terminate("session-123")
    assert store.sessions.get("session-123").status == "dead"


# --- design/session-lifecycle-management, engine, internal/persistence


def test_disconnect_keeps_the_context_and_reset_clears_it_both_under_the_same_id(store: Store) -> None:
    session_id = store.sessions.derive_id("slack", "U12345", "C67890", "Ts12345")
    execute(store, session_id, "The password is ALBATROSS")
    store.sessions.terminate(session_id)
    assert len(execute(store, session_id, "Which password?")) == 3
    store.sessions.terminate(session_id)
    store.sessions.delete(session_id)
    assert execute(store, session_id, "Which password?") == ["Which password?"]


def test_a_fresh_context_keeps_the_session_and_what_it_cost(store: Store) -> None:
    execute(store, "s", "x", instructions="Be brief.")
    store.history.clear("s")
    session = store.sessions.get("s")
    assert (session.entry_count, session.instructions) == (0, "Be brief.")
    assert store.usage.totals(session_id="s").input_tokens == 30


def test_a_start_that_failed_leaves_nothing_to_resume(store: Store) -> None:
    def start() -> None:
        with store.transaction() as tx:
            tx.sessions.create("s", status="starting")
            raise ChildProcessError

    with pytest.raises(ChildProcessError):
        start()
    assert not store.sessions.exists("s")


def test_one_session_is_made_however_many_requests_come_first(store: Store) -> None:
    opened = at_once(*[lambda: store.sessions.open("s")] * 8)
    assert sorted(session.resumed for session in opened) == [False] + [True] * 7


def test_a_session_stuck_in_starting_ends(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", status="starting")
    clock.advance(minutes=6)
    assert store.sessions.repair_abandoned(older_than=timedelta(minutes=5)) == 1
    assert store.sessions.get("s").status == "dead"


# --- _examples/go_claude_lifecycle


def test_a_life_from_cold_start_over_reuse_and_recovery_to_its_end(open_store: Callable[..., Store]) -> None:
    first = open_store(namespace="demo_lifecycle")
    assert len(execute(first, "s", "Remember the password ALBATROSS")) == 1
    assert len(execute(first, "s", "What is the password?")) == 3
    first.close()
    second = open_store(namespace="demo_lifecycle")
    assert len(execute(second, "s", "I have just restarted; what is the password?")) == 5
    second.sessions.terminate("s")
    stats = second.sessions.stats("s")
    assert (stats.status, stats.turns, stats.usage.input_tokens, stats.usage.output_tokens) == ("dead", 3, 90, 36)
    assert second.usage.totals(session_id="s").duration == timedelta(seconds=6)


# --- plugins/storage


def test_messages_of_a_chat_are_stored_and_listed(store: Store) -> None:
    session_id = "slack:U123:U456:C789:TS123"
    store.sessions.create(session_id, user_id="slack:U123", metadata={"platform": "slack", "channel": "C789"})
    store.history.append(session_id, [user("Hello, bot!")])
    store.history.append(session_id, [{"role": "assistant", "content": "Hello! How can I help?"}])
    said = [entry.content["content"] for entry in store.history.read(session_id, limit=50)]
    assert said == ["Hello, bot!", "Hello! How can I help?"]
    assert [entry.role for entry in store.history.read(session_id, role="assistant")] == ["assistant"]


def test_what_is_known_of_a_chat_and_the_chats_of_a_user(store: Store, clock: MovableClock) -> None:
    for number, platform in enumerate(["slack", "slack", "feishu"]):
        store.sessions.create(f"{platform}:{number}", user_id=f"{platform}:U1", metadata={"platform": platform})
    clock.advance(minutes=1)
    store.history.append("slack:0", [user("a"), user("b")])
    [newest, _] = store.sessions.page(user_id="slack:U1").sessions
    assert (newest.session_id, newest.entry_count, newest.last_activity_at) == ("slack:0", 2, clock.now)
    found = store.sessions.page(metadata={"platform": "feishu"}).sessions
    assert [session.session_id for session in found] == ["feishu:2"]
    store.sessions.delete("slack:0")
    with pytest.raises(SessionNotFoundError):
        store.history.read("slack:0")


def test_a_stream_is_stored_as_one_message_when_it_is_complete(store: Store) -> None:
    store.sessions.create("s")
    with entering(store, store.turn("s")) as turn:
        chunks = []
        for chunk in ("Hel", "lo", "!"):
            chunks.append(chunk)
            assert store.history.count("s") == 0
        turn.append(NewEntry({"role": "assistant", "content": "".join(chunks)}, finish_reason="stop"))
    assert [entry.content["content"] for entry in store.history.read("s")] == ["Hello!"]
