"""Deleting what is due: what goes, what stays, and what is said about it."""

import itertools
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from statestore import ClockError, InvalidValueError, NewEntry, SessionNotFoundError, SweepReport, Swept, Usage
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound
from tests.support.crowd import at_once

Store = Any

HOUR = timedelta(hours=1)
NOTHING = timedelta()
MANY = 1_000_000 if os.environ.get("STATESTORE_HYPOTHESIS_PROFILE") == "long" else 3_000


def say(count: int, **kwargs: Any) -> list[NewEntry]:
    return [NewEntry({"role": "user", "content": f"{n}"}, **kwargs) for n in range(count)]


def rows(report: SweepReport) -> dict[str, int]:
    return {kind: swept.rows for kind, swept in report.kinds.items()}


def test_an_expired_session_goes_with_all_that_is_its_own(store: Store, content: Content, clock: MovableClock) -> None:
    store.sessions.create("gone", ttl=HOUR, title="four")
    store.history.append("gone", say(3, metadata={"a": 1}))
    store.state.set("gone", "key", "value")
    store.history.add_summary("gone", start_seq=1, end_seq=2, content="sum")
    store.sessions.create("stays")
    store.history.append("stays", say(2))
    clock.advance(hours=1)
    report = store.sweep()
    assert rows(report) == {"expired_sessions": 1, "history_entries": 3}
    entries = sum(len(f'{{"role":"user","content":"{n}"}}') + len('{"a":1}') for n in range(3))
    assert report["history_entries"] == Swept(3, entries)
    assert report["expired_sessions"].bytes == len("four") + len("{}") + len('"value"') + len("sum")
    assert (report.rows, report.complete, report.dry_run) == (4, True, False)
    sizes = content.sizes()
    assert (sizes["sessions"], sizes["history_entries"], sizes["state_entries"], sizes["summaries"]) == (1, 2, 0, 0)


def test_what_has_not_expired_stays_to_the_last_moment(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=HOUR)
    clock.advance(hours=1, microseconds=-1)
    assert store.sweep().rows == 0
    clock.advance(microseconds=1)
    assert store.sweep()["expired_sessions"].rows == 1


def test_a_sweep_refuses_a_clock_that_is_far_ahead(
    open_store: Any, clock: MovableClock, content: Content, store: Store
) -> None:
    """It is about to delete what lives for everybody else: of whoever writes, nobody was there for a day."""
    fast = open_store(clock=lambda: clock.now + timedelta(days=1))
    store.sessions.create("s", ttl=HOUR)
    store.cache.set("k", 1, ttl=HOUR)
    fast.cache.get("k")  # A hit by that clock, noted and not yet written, is no evidence.
    before = content.snapshot()
    for dry_run in (True, False):
        with pytest.raises(ClockError, match="max_clock_gap") as caught:
            fast.sweep(max_clock_gap=timedelta(hours=23), dry_run=dry_run)
        assert (caught.value.now - caught.value.newest, caught.value.retryable) == (timedelta(days=1), False)
    assert content.snapshot() == before
    assert store.sweep(max_clock_gap=timedelta(hours=23)).rows == 0
    # Nobody was there indeed.
    assert fast.sweep(max_clock_gap=timedelta(hours=25), dry_run=True).rows == 2
    assert fast.sweep().rows == 2


def test_one_namespace_in_use_shows_that_the_clock_is_right(open_store: Any, clock: MovableClock) -> None:
    stores = {name: open_store(namespace=name, clock=clock) for name in ("a", "b", "empty")}
    for name in "ab":
        stores[name].sessions.create("s", ttl=HOUR)
    clock.advance(days=2)
    bound = {"max_clock_gap": timedelta(days=1)}
    for which in ({}, {"all_namespaces": True}, {"namespaces": ["b", "empty"]}):
        with pytest.raises(ClockError):
            stores["a"].sweep(**which, **bound)
    assert stores["empty"].sweep(**bound).rows == 0
    stores["b"].cache.set("k", 1)
    with pytest.raises(ClockError):
        stores["a"].sweep(**bound)
    assert stores["a"].sweep(all_namespaces=True, **bound)["expired_sessions"].rows == 2
    with pytest.raises(InvalidValueError, match="max_clock_gap"):
        stores["a"].sweep(max_clock_gap=NOTHING)


def test_a_session_that_was_used_meanwhile_stays(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=HOUR)
    clock.advance(minutes=59)
    store.sessions.touch("s")
    clock.advance(minutes=59)
    assert store.sweep().rows == 0
    assert store.sessions.exists("s")


def test_idle_sessions_go_by_the_namespace_s_retention(
    store: Store, open_store: Any, clock: MovableClock, content: Content
) -> None:
    other = open_store(namespace="other", clock=clock)
    for one in (store, other):
        one.sessions.create("idle")
        one.sessions.create("used", ttl=timedelta(days=400))
    store.set_retention(timedelta(days=30))
    assert (store.retention(), other.retention()) == (timedelta(days=30), None)
    clock.advance(days=29)
    store.sessions.touch("used")
    assert store.sweep().rows == 0
    clock.advance(days=1)
    assert rows(store.sweep()) == {"idle_sessions": 1}
    assert other.sweep().rows == 0
    assert store.sessions.exists("used")
    store.set_retention(None)
    clock.advance(days=100)
    assert store.sweep().rows == 0


def test_a_session_with_a_lease_is_not_idle(store: Store, clock: MovableClock) -> None:
    store.sessions.create("held")
    store.set_retention(HOUR)
    store.sessions.acquire("held", owner="me", ttl=timedelta(hours=3))
    clock.advance(hours=2)
    assert store.sweep().rows == 0
    clock.advance(hours=2)
    assert store.sweep()["idle_sessions"].rows == 1


def test_retention_spares_who_is_busy_and_who_is_read(store: Store, clock: MovableClock) -> None:
    for name in ("busy", "read", "idle", "read without a TTL"):
        store.sessions.create(name, ttl=None if "without" in name else timedelta(days=10))
        store.history.append(name, say(2))
    store.sessions.set_status("busy", "busy")
    store.set_retention(timedelta(days=3))
    for _ in range(4):
        clock.advance(days=1, hours=1)
        store.history.read("read", last=1)
        store.history.read("read without a TTL", last=1)  # Leaves nothing behind by which it would be known.
    assert [row.due for row in store.usage.expiry_backlog()] == [2]
    assert rows(store.sweep(dry_run=True)) == rows(store.sweep()) == {"idle_sessions": 2, "history_entries": 4}
    assert store.sessions.exists("busy")
    assert store.sessions.exists("read")
    store.sessions.set_status("busy", "ready")
    clock.advance(days=3, microseconds=1)
    assert store.sweep()["idle_sessions"].rows == 2


def test_an_append_that_waited_while_its_session_was_ended_brings_nothing_back(
    open_store: Callable[..., Store], content: Content
) -> None:
    """By the server's clock the append began before the end. It is refused, or the session stays: never both done."""
    stores = [open_store() for _ in range(3)]
    for n in range(15):
        stores[0].sessions.create("s")
        appended: list[bool] = []

        def append(store: Store, appended: list[bool] = appended) -> None:
            try:
                store.history.append("s", say(1))
            except SessionNotFoundError:
                appended.append(False)
            else:
                appended.append(True)

        at_once(
            lambda: stores[0].cleanup_inactive(timedelta(microseconds=1)),
            *(partial(append, store) for store in stores[1:]),
        )
        if stores[0].sessions.exists("s"):
            assert stores[0].history.count("s") == sum(appended), n
            stores[0].sessions.delete("s")
        assert stores[0].usage.totals().entries >= 0
        assert unsound(content) == []


def test_cleanup_counts_as_conexus_does(store: Store, clock: MovableClock) -> None:
    store.sessions.create("two hours ago")
    clock.advance(hours=2)
    store.sessions.create("now")
    assert store.cleanup_inactive(HOUR) == 1
    assert not store.sessions.exists("two hours ago")
    store.cache.set_many({"a": 1, "b": 2}, ttl=HOUR)
    store.cache.set("c", 3, ttl=3 * HOUR)
    store.state.set("now", "key", 1, ttl=HOUR)
    clock.advance(hours=1)
    assert store.cleanup_expired() == 3
    assert store.cleanup_expired() == 0
    assert store.cache.get("c") == 3


def test_expired_state_keys_go(store: Store, content: Content, clock: MovableClock) -> None:
    store.sessions.create("s")
    store.state.set_many("s", {"a": "x", "b": "y"}, ttl=HOUR)
    store.state.set("s", "c", 1)
    clock.advance(hours=1)
    assert store.sweep(batch_size=1).kinds == {"expired_state": Swept(2, 6)}
    assert [row["key"] for row in content.rows("state_entries")] == ["c"]


def test_expired_cache_entries_and_overflow_go_and_are_counted_in_the_cache_s_ledger(
    open_store: Any, content: Content, clock: MovableClock
) -> None:
    large = open_store(clock=clock, cache_max_entries=None)
    large.cache.set_many({f"old-{n}": n for n in range(3)}, ttl=HOUR, tags=["t"], agent_name="a")
    for n in range(7):
        clock.advance(seconds=1)
        large.cache.set(f"new-{n}", n, ttl=9 * HOUR)
    clock.advance(hours=1)
    small = open_store(clock=clock, cache_max_entries=4)
    due = small.sweep(dry_run=True)
    report = small.sweep(batch_size=2)
    assert rows(report) == rows(due) == {"expired_cache": 3, "cache_overflow": 3}
    assert report.kinds == due.kinds
    assert sorted(row["key"] for row in content.rows("cache_entries")) == ["new-3", "new-4", "new-5", "new-6"]
    assert content.rows("cache_tags") == []
    ledger = {row["agent_name"]: (row["expirations"], row["evictions"]) for row in content.rows("cache_ledger")}
    assert ledger == {"a": (3, 0), "": (0, 3)}


def test_forks_keep_what_they_see(store: Store, content: Content, clock: MovableClock) -> None:
    store.sessions.create("source", ttl=HOUR, user_id="ada")
    store.history.append("source", say(10))
    store.sessions.fork("source", "fork", at_seq=6)
    store.sessions.fork("source", "short-lived", at_seq=8)
    store.sessions.update("fork", ttl=None)
    before = store.usage.by_user()
    clock.advance(hours=1)
    due = store.sweep(dry_run=True)
    report = store.sweep()
    assert report.kinds == due.kinds
    assert rows(report) == {"expired_sessions": 2, "history_entries": 4}
    assert [entry.content["content"] for entry in store.history.read("fork")] == [str(n) for n in range(6)]
    assert unsound(content) == []
    assert [(row.user_id, row.entries) for row in store.usage.by_user()] == [("ada", 10)]
    assert before[0].entries == 10


def test_a_dry_run_counts_the_entries_beside_those_that_others_share(store: Store, clock: MovableClock) -> None:
    store.sessions.create("gone", ttl=HOUR)
    store.sessions.create("shared")
    for session_id in ("gone", "shared"):
        store.history.append(session_id, say(3))
    store.sessions.fork("shared", "fork")
    clock.advance(hours=1)
    due = store.sweep(dry_run=True)
    assert rows(due) == {"expired_sessions": 1, "history_entries": 3}
    assert store.sweep().kinds == due.kinds


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_a_large_session_goes_in_slices_and_leaves_its_forks_one_segment(
    store: Store, content: Content, clock: MovableClock, batch_size: int
) -> None:
    store.sessions.create("large", ttl=HOUR)
    store.history.append("large", say(120))
    store.state.set_many("large", {f"k{n:02}": n for n in range(20)})
    for name, at in (("a", 100), ("b", 100), ("c", 60)):
        store.sessions.fork("large", name, at_seq=at)
        store.sessions.update(name, ttl=None)
    clock.advance(hours=1)
    steps: list[SweepReport] = []
    problems: list[str] = []

    def step(report: SweepReport) -> None:
        steps.append(report)
        problems.extend(unsound(content))

    due = store.sweep(dry_run=True)
    report = store.sweep(batch_size=batch_size, progress=step)
    assert report.kinds == due.kinds
    assert rows(report) == {"expired_sessions": 1, "history_entries": 20}
    assert len(steps) > 120 / batch_size
    assert problems == []
    for name, at in (("a", 100), ("b", 100), ("c", 60)):
        assert store.history.count(name) == len(store.history.read(name)) == at
    assert unsound(content) == []
    assert len(content.rows("session_segments")) == 2


def test_entries_that_nobody_sees_go(store: Store, content: Content) -> None:
    store.sessions.create("s", user_id="ada")
    store.history.append("s", say(5))
    content.query("UPDATE sessions SET first_seq = 3, next_seq = 5 WHERE session_id = 's'")
    due = store.sweep(dry_run=True)
    report = store.sweep(batch_size=1)
    assert report.kinds == due.kinds
    assert rows(report) == {"unseen_entries": 3}
    assert [row["seq"] for row in content.rows("history_entries")] == [3, 4]
    assert store.usage.totals().entries == 5


def test_a_dry_run_changes_nothing(store: Store, content: Content, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=HOUR)
    store.history.append("s", say(3))
    store.sessions.create("idle")
    store.set_retention(HOUR)
    clock.advance(hours=2)
    before = content.snapshot()
    report = store.sweep(dry_run=True)
    assert report.dry_run
    assert rows(report) == {"expired_sessions": 1, "idle_sessions": 1, "history_entries": 3}
    assert content.snapshot() == before


def test_what_has_expired_cannot_be_revived_while_it_is_swept(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=HOUR)
    store.history.append("s", say(10))
    store.sessions.create("idle")
    store.history.append("idle", say(10))
    store.set_retention(HOUR)
    clock.advance(hours=2)
    store.sweep(batch_size=3, time_budget=timedelta(microseconds=1))  # At most a slice.
    for session_id in ("s", "idle"):
        if session_id == "s" or not store.sessions.exists("idle"):
            with pytest.raises(SessionNotFoundError):
                store.sessions.touch(session_id)
            with pytest.raises(SessionNotFoundError):
                store.history.append(session_id, say(1))
    store.sessions.create("s")  # A new one, with nothing of the old.
    assert store.history.count("s") == 0
    store.sweep()
    assert store.sessions.exists("s")
    assert store.usage.totals().entries == 20


def test_a_time_budget_ends_a_sweep_between_two_batches(store: Store, clock: MovableClock) -> None:
    for n in range(20):
        store.sessions.create(f"s{n}", ttl=HOUR)
    clock.advance(hours=1)
    report = store.sweep(batch_size=1, time_budget=timedelta(microseconds=1))
    assert not report.complete
    assert report.rows < 20
    assert store.sweep().complete
    assert store.sweep(dry_run=True).rows == 0


def test_the_overflow_spares_what_was_hit_last(store: Store, open_store: Any, clock: MovableClock) -> None:
    for n in range(5):
        store.cache.set(f"k{n}", n)
        clock.advance(seconds=1)
    small = open_store(clock=clock, cache_max_entries=2)
    assert small.cache.get("k0") == 0
    assert rows(small.sweep()) == {"cache_overflow": 3}
    assert small.cache.get_many([f"k{n}" for n in range(5)]) == {"k0": 0, "k4": 4}


def test_a_leased_session_is_not_in_the_backlog(store: Store, content: Content, clock: MovableClock) -> None:
    store.sessions.create("s")
    store.set_retention(HOUR)
    store.sessions.acquire("s", owner="me", ttl=3 * HOUR)
    clock.advance(hours=2)
    assert store.usage.expiry_backlog() == []
    clock.advance(hours=2)
    assert [row.kind for row in store.usage.expiry_backlog()] == ["idle_sessions"]


def test_another_namespace_is_not_swept(store: Store, open_store: Any, clock: MovableClock) -> None:
    other = open_store(namespace="other", clock=clock)
    other.sessions.create("s", ttl=HOUR)
    other.cache.set("k", 1, ttl=HOUR)
    clock.advance(hours=1)
    assert store.sweep().rows == 0
    assert rows(other.sweep()) == {"expired_sessions": 1, "expired_cache": 1}


def test_the_backlog_says_what_is_due_and_for_how_long(store: Store, clock: MovableClock) -> None:
    assert store.usage.expiry_backlog() == []
    began = clock()
    store.sessions.create("a", ttl=HOUR)
    store.sessions.create("b", ttl=2 * HOUR)
    store.sessions.create("idle")
    store.set_retention(3 * HOUR)
    store.cache.set("k", 1, ttl=HOUR)
    clock.advance(hours=4)
    found = {row.kind: row for row in store.usage.expiry_backlog()}
    assert {kind: row.due for kind, row in found.items()} == {
        "expired_sessions": 2,
        "idle_sessions": 1,
        "expired_cache": 1,
    }
    assert (found["expired_sessions"].oldest_due_at, found["expired_sessions"].overdue) == (began + HOUR, 3 * HOUR)
    assert (found["idle_sessions"].oldest_due_at, found["idle_sessions"].overdue) == (began + 3 * HOUR, HOUR)
    store.sweep()
    assert store.usage.expiry_backlog() == []


def test_a_sweep_keeps_its_transactions_small(store: Store, clock: MovableClock) -> None:
    """What each batch adds to the report is what its transaction deleted."""
    for n in range(40):
        store.sessions.create(f"s{n}", ttl=HOUR)
        store.history.append(f"s{n}", say(n % 9))
        store.state.set(f"s{n}", "key", n)
    store.cache.set_many({f"k{n}": n for n in range(100)}, ttl=HOUR)
    clock.advance(hours=1)
    totals = [0]
    store.sweep(batch_size=25, progress=lambda report: totals.append(report.rows))
    steps = [after - before for before, after in itertools.pairwise(totals)]
    assert max(steps) <= 25
    assert sum(steps) == 40 + sum(n % 9 for n in range(40)) + 100


@pytest.mark.timeout(3600)
def test_a_sweep_of_many_cache_entries_keeps_its_transactions_short(open_store: Any, clock: MovableClock) -> None:
    store = open_store(clock=clock, cache_max_entries=None)
    for start in range(0, MANY, 1000):
        store.cache.set_many({f"k{n}": 1 for n in range(start, start + 1000)}, ttl=HOUR)
    clock.advance(hours=1)
    totals = [0]
    report = store.sweep(progress=lambda report: totals.append(report.rows))
    assert (report["expired_cache"].rows, report.complete) == (MANY, True)
    assert max(after - before for before, after in itertools.pairwise(totals)) == 500
    assert store.cache.stats().entries == 0


@pytest.mark.parametrize(
    "arguments", [{"batch_size": 0}, {"batch_size": 1.5}, {"time_budget": timedelta(0)}, {"time_budget": 3}]
)
def test_arguments_that_make_no_sense_are_refused(store: Store, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        store.sweep(**arguments)


@pytest.mark.parametrize("max_idle", [timedelta(0), timedelta(-1), 3])
def test_a_retention_that_makes_no_sense_is_refused(store: Store, max_idle: Any) -> None:
    with pytest.raises(InvalidValueError):
        store.set_retention(max_idle)


def test_usage_that_nobody_can_have_is_refused(store: Store) -> None:
    store.sessions.create("s")
    with pytest.raises(InvalidValueError):
        store.history.append("s", [NewEntry(1, usage=Usage(input_tokens=10**9 + 1))])
    store.history.append("s", [NewEntry(1, usage=Usage(input_tokens=10**9)) for _ in range(100)])
    store.history.clear("s")
    assert store.usage.totals().input_tokens == 10**11
