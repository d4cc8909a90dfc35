"""The examples of Conexus' documentation on its sessions and its result cache, translated: one test each.

They stand in the README of its package internal/orchestrator/state. What it promises besides is in
tests/contract/test_scenarios.py; its files are read by `importers.conexus` and `importers.cache_entries`.
"""

import hashlib
import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from statestore import NewEntry, SessionNotFoundError
from tests.support.clock import MovableClock
from tests.support.worlds import export_sessions, import_sessions

Store = Any

HOUR = timedelta(hours=1)
AGENT = "codebase-locator"
PERMISSIONS = {"read_only": True, "allowed_directories": ["/home/user/project"]}


def interaction(request: str, **fields: Any) -> NewEntry:
    content = {"UserRequest": request, "Response": {"agent": AGENT, "findings": [request]}}
    return NewEntry(content, role="user", agent_name=AGENT, **fields)


def work(store: Store, user_id: str = "user123") -> str:
    """A session with an interaction and two keys of state."""
    session_id: str = store.sessions.create(user_id=user_id).session_id
    store.history.append(session_id, [interaction("find all Go files", duration=timedelta(milliseconds=500))])
    store.state.set_many(session_id, {"current_directory": "/home/user/project", "language": "Go"})
    return session_id


def hash_of(*files: str) -> str:
    return hashlib.sha256("".join(files).encode()).hexdigest()


# --- Session management


def test_a_session_keeps_interactions_and_state_until_it_is_inactive(store: Store, clock: MovableClock) -> None:
    session_id = work(store)
    store.history.append(session_id, [interaction(f"request {n}") for n in range(15)])
    last = store.history.read(session_id, last=10)
    assert [entry.content["UserRequest"] for entry in last] == [f"request {n}" for n in range(5, 15)]
    first = store.history.get(session_id, 1)
    assert (first.agent_name, first.duration, first.content["Response"]["agent"]) == (
        AGENT,
        timedelta(milliseconds=500),
        AGENT,
    )
    assert store.state.get(session_id, "current_directory") == "/home/user/project"
    clock.advance(hours=24)
    assert store.cleanup_inactive(timedelta(hours=24)) == 1
    assert store.sessions.page().sessions == []


def test_active_sessions_are_counted_and_deleted(store: Store) -> None:
    first, second = work(store), work(store)
    assert store.sessions.count() == 2
    store.sessions.delete(first)
    assert [session.session_id for session in store.sessions.page().sessions] == [second]
    with pytest.raises(SessionNotFoundError):
        store.sessions.get(first)


# --- Result caching


def test_a_result_is_looked_up_computed_and_invalidated_in_three_ways(open_store: Callable[..., Store]) -> None:
    store = open_store(cache_max_entries=1000, cache_default_ttl=HOUR, content_hash_invalidation=True)
    key = store.cache.make_key(AGENT, "find Go files", PERMISSIONS)
    hashed = hash_of("main.go", "util.go")

    def execute() -> None:
        assert store.cache.get(key) is None
        about = {"agent_name": AGENT, "request": "find Go files", "content_hash": hashed, "tags": ["go", "search"]}
        store.cache.set(key, {"found": ["main.go", "util.go"]}, **about)
        assert store.cache.get(key) == {"found": ["main.go", "util.go"]}

    for invalidate, by in (
        (store.cache.invalidate_content_hash, hashed),
        (store.cache.invalidate_agent, AGENT),
        (store.cache.invalidate_tag, "go"),
    ):
        execute()
        assert invalidate(by) == 1
    execute()
    assert store.cache.entry(key).access_count == 1
    figures = store.cache.stats()
    assert (figures.entries, figures.average_access_count, figures.hits, figures.misses) == (1, 1.0, 4, 4)


@pytest.mark.parametrize(
    ("most", "ttl", "by_content"),
    [(10_000, timedelta(minutes=30), True), (100, timedelta(minutes=5), False), (1000, timedelta(hours=24), True)],
    ids=["high traffic", "low memory", "long analyses"],
)
def test_a_cache_is_tuned(
    open_store: Callable[..., Store], clock: MovableClock, most: int, ttl: timedelta, by_content: bool
) -> None:
    how = {"cache_max_entries": most, "cache_default_ttl": ttl, "content_hash_invalidation": by_content}
    store = open_store(clock=clock, **how)
    store.cache.set_many({str(n): n for n in range(100)}, content_hash="h")
    store.cache.set("k", 1)
    assert store.cache.stats().entries == min(most, 101)
    assert (store.cache.invalidate_content_hash("h") > 0) is by_content
    store.cache.set("k", 1)
    clock.advance(seconds=ttl.total_seconds() - 1)
    assert store.cache.get("k") == 1
    clock.advance(seconds=1)
    assert store.cache.get("k") is None


def test_a_full_cache_drops_what_was_not_used_for_longest(
    open_store: Callable[..., Store], clock: MovableClock
) -> None:
    store = open_store(cache_max_entries=100, clock=clock)
    for n in range(100):
        store.cache.set(f"key{n}", n)
        clock.advance(seconds=1)
    for n in (0, 1):
        assert store.cache.get(f"key{n}") == n
    store.cache.set("key101", 101)
    assert [store.cache.get(key) for key in ("key0", "key1", "key2", "key101")] == [0, 1, None, 101]


def test_results_of_the_old_content_go_when_files_change(store: Store) -> None:
    old, new = hash_of("main.go v1"), hash_of("main.go v2")
    store.cache.set("of the old", 1, content_hash=old)
    store.cache.set("of other files", 2, content_hash=hash_of("README"))
    assert new != old
    assert store.cache.invalidate_content_hash(old) == 1
    assert store.cache.get_many(["of the old", "of other files"]) == {"of other files": 2}


def test_everything_with_a_tag_goes(store: Store) -> None:
    store.cache.set("a", 1, tags=["go", "search", "internal-dir"])
    store.cache.set("b", 2, tags=["python", "search"])
    assert store.cache.invalidate_tag("go") == 1
    assert store.cache.get_many(["a", "b"]) == {"b": 2}


def test_what_is_inactive_and_expired_is_cleaned_up_hourly(store: Store, clock: MovableClock) -> None:
    work(store)
    store.cache.set("expires", 1, ttl=HOUR)
    clock.advance(hours=23)
    work(store, "still here")
    store.cache.set("fresh", 1, ttl=2 * HOUR)
    clock.advance(hours=1)
    assert (store.cleanup_inactive(timedelta(hours=24)), store.cleanup_expired()) == (1, 1)
    assert [session.user_id for session in store.sessions.page().sessions] == ["still here"]
    assert [entry.key for entry in store.cache.entries()] == ["fresh"]


# --- Persistence


def test_sessions_are_saved_to_a_file_and_loaded_from_it(open_store: Callable[..., Store]) -> None:
    store, restarted = open_store(), open_store(namespace="restarted")
    saved = {work(store, user): user for user in ("user123", "user456")}
    file = io.BytesIO()
    export_sessions(store, file)
    file.seek(0)
    import_sessions(restarted, file)
    assert {session.session_id: session.user_id for session in restarted.sessions.page().sessions} == saved
    for session_id in saved:
        assert restarted.sessions.load(session_id).state == store.sessions.load(session_id).state
        assert restarted.history.messages(session_id) == store.history.messages(session_id)


def test_a_cache_is_saved_and_loaded_at_the_start(open_store: Callable[..., Store]) -> None:
    store, restarted = open_store(), open_store(namespace="restarted")
    store.cache.set("k", {"out": 1}, agent_name=AGENT, tags=["go"], content_hash="h", metadata={"m": 1})
    for entry in store.cache.entries():
        restarted.cache.restore(entry)
    assert restarted.cache.entry("k") == store.cache.entry("k")
    assert restarted.cache.invalidate_tag("go") == 1


def test_everything_that_was_kept_is_removed(open_store: Callable[..., Store]) -> None:
    store, other = open_store(), open_store(namespace="other")
    for one in (store, other):
        work(one)
        one.cache.set("k", 1)
    store.drop_namespace("default")
    assert (store.sessions.count(), store.cache.get("k")) == (0, None)
    assert (other.sessions.count(), other.cache.get("k")) == (1, 1)
