"""Figures about a session and about a namespace."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from statestore import NewEntry, SessionNotFoundError, Usage
from tests.support.clock import NOON, MovableClock
from tests.support.wire import Traffic

Store = Any


def call(name: str, call_id: str) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [{"id": call_id, "function": {"name": name}}]}


def answer(name: str, call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "name": name, "content": "r"}


@pytest.fixture
def session(store: Store) -> str:
    store.sessions.create("s", user_id="ada")
    store.history.append(
        "s",
        [
            {"role": "user", "content": "é"},
            NewEntry(
                call("look", "c1"),
                usage=Usage(input_tokens=10, output_tokens=2, cache_read_input_tokens=3),
                cost_usd=Decimal("0.1"),
            ),
            answer("look", "c1"),
            NewEntry(call("look", "c2"), usage=Usage(input_tokens=20, reasoning_output_tokens=1), cost_usd=0.2),
            NewEntry(answer("look", "c2"), error_type="timeout"),
            {"role": "user", "content": "x"},
            NewEntry("done", role="tool", tool_name="write"),
        ],
    )
    return "s"


def test_the_figures_of_a_session(store: Store, session: str, clock: MovableClock) -> None:
    store.state.set(session, "k", "é")
    store.history.add_summary(session, "abc", start_seq=1, end_seq=2)
    store.sessions.fork(session, "f")
    clock.advance(minutes=5)
    stats = store.sessions.stats(session)
    assert (stats.session_id, stats.status) == (session, "ready")
    assert (stats.entries, stats.turns, stats.errors, stats.forks) == (7, 2, 1, 1)
    assert stats.usage == Usage(input_tokens=30, output_tokens=2, cache_read_input_tokens=3, reasoning_output_tokens=1)
    assert stats.cost_usd == Decimal("0.3")
    assert stats.tool_invocations == {"look": 2, "write": 1}
    assert (stats.created_at, stats.last_activity_at, stats.uptime) == (NOON, NOON, timedelta(minutes=5))
    content = sum(entry.content_bytes for entry in store.history.read(session))
    assert stats.stored_bytes == content + len('"é"'.encode()) + len("abc")


def test_an_empty_session(store: Store) -> None:
    store.sessions.create("s")
    stats = store.sessions.stats("s")
    assert (stats.entries, stats.turns, stats.errors, stats.stored_bytes, stats.forks) == (0, 0, 0, 0, 0)
    assert (stats.usage, stats.cost_usd, stats.tool_invocations) == (Usage(), None, {})


def test_a_fork_counts_what_it_sees_and_stores_what_it_owns(store: Store, session: str) -> None:
    store.sessions.fork(session, "f", at_seq=4)
    store.history.append("f", [NewEntry("own", cost_usd=1)])
    stats = store.sessions.stats("f")
    assert (stats.entries, stats.turns, stats.cost_usd) == (5, 1, Decimal("1.3"))
    assert stats.stored_bytes == len('"own"')
    assert store.sessions.stats(session).entries == 7


def test_the_sum_of_what_sessions_store_is_what_is_stored(store: Store, session: str) -> None:
    store.state.set(session, "k", 1)
    store.sessions.fork(session, "f")
    store.history.append("f", [NewEntry("own")])
    store.history.add_summary("f", "abc", start_seq=1, end_seq=8)
    names = (session, "f")
    assert sum(store.sessions.stats(name).stored_bytes for name in names) == store.stats().stored_bytes


def test_trimmed_entries_are_not_counted(store: Store, session: str) -> None:
    store.history.trim(session, keep_last=2)
    stats = store.sessions.stats(session)
    assert (stats.entries, stats.turns, stats.cost_usd) == (2, 1, None)


def test_expired_forks_are_not_counted(store: Store, session: str, clock: MovableClock) -> None:
    store.sessions.fork(session, "f")
    store.sessions.update("f", ttl=timedelta(hours=1))
    clock.advance(hours=1)
    assert store.sessions.stats(session).forks == 0


def test_figures_do_not_keep_a_session_alive(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=timedelta(hours=1))
    clock.advance(minutes=59)
    store.sessions.stats("s")
    clock.advance(minutes=1)
    with pytest.raises(SessionNotFoundError):
        store.sessions.stats("s")


def test_a_missing_session_has_no_figures(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        store.sessions.stats("missing")


def test_the_figures_of_a_namespace(store: Store, session: str, open_store: Any, clock: MovableClock) -> None:
    store.sessions.create("dead", status="dead")
    store.sessions.create("busy", status="busy")
    store.sessions.create("expired", ttl=timedelta(hours=1))
    store.history.append("busy", [NewEntry("x")])
    other = open_store(namespace="other", clock=clock)
    other.sessions.create("s")
    other.history.append("s", [NewEntry("y" * 1000)])
    clock.advance(hours=1)
    stats = store.stats()
    assert stats.namespace == "default"
    assert stats.sessions == {"starting": 0, "ready": 1, "busy": 1, "dead": 1}
    assert (stats.active_sessions, stats.entries) == (2, 8)
    assert stats.average_entries == pytest.approx(8 / 3)
    assert stats.stored_bytes == sum(e.content_bytes for e in store.history.read("s")) + len('"x"')


def test_an_empty_namespace(store: Store) -> None:
    stats = store.stats()
    assert (stats.active_sessions, stats.entries, stats.average_entries, stats.stored_bytes) == (0, 0, 0.0, 0)


def test_figures_cost_one_statement(connect: Any, traffic: Traffic) -> None:
    store = connect(traffic.url)
    store.sessions.create("s")
    store.history.append("s", [NewEntry("x")])
    for figures in (lambda: store.sessions.stats("s"), store.stats):
        figures()
        traffic.clear()
        figures()
        assert len(traffic.statements) == 1
