"""Whole namespaces: listed, swept together, and dropped."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from statestore import ConflictError, InvalidValueError, NewEntry, StateStore, Sweeper, Usage
from statestore.repositories.expiry.namespaces import TABLES
from statestore.schema import USAGE_COUNTS, metadata
from tests.support.clock import MovableClock
from tests.support.content import Content

Store = Any


def fill(store: Store, sessions: int = 3) -> None:
    """Something in each table."""
    for n in range(sessions):
        store.sessions.create(f"s{n}", user_id="ada")
        store.history.append(f"s{n}", [NewEntry("größer", usage=Usage(input_tokens=1)), NewEntry("b")])
        store.state.set(f"s{n}", "k", [n])
    store.sessions.fork("s0", "fork")
    store.history.append("fork", [NewEntry("c")])
    store.sessions.fork("fork", "fork of fork")
    store.history.add_summary("fork", start_seq=1, end_seq=2, content="text")
    store.sessions.delete("s1")
    store.cache.set("k", {"a": 1}, tags=["t"], agent_name="planner")
    store.cache.get("k")
    store.cache.flush()
    store.usage.record(record_id="r", usage=Usage(input_tokens=5, output_tokens=1), session_id="s0")
    store.prices.set("gpt-4o", input_price=1, output_price=1)
    store.set_retention(timedelta(days=1000))


def fill_behind_its_back(content: Content, namespace: str) -> None:
    """The tables that `fill` does not reach."""
    now = "'2026-01-01T00:00:00.000000Z'"
    for statement in (
        f"INSERT INTO shared_state (namespace, scope, owner_id, key, value, created_at, updated_at)"
        f" VALUES (:namespace, 'user', 'ada', 'k', '1', {now}, {now})",
        f"INSERT INTO session_lists (namespace, session_id, name, created_at, updated_at)"
        f" VALUES (:namespace, 's0', 'l', {now}, {now})",
        f"INSERT INTO session_list_items (namespace, session_id, name, position, value, created_at)"
        f" VALUES (:namespace, 's0', 'l', 1, '1', {now})",
        f"INSERT INTO cache_claims (namespace, key, token, claimed_until) VALUES (:namespace, 'x', 'y', {now})",
        f"INSERT INTO usage_rollup (namespace, kind, part, line, first_day, last_day, sessions,"
        f" {', '.join(USAGE_COUNTS)}, duration_us, timed_entries) VALUES (:namespace, 'session', 's0', 1,"
        f" '2026-01-31', '2026-01-31', 1, {', '.join('0' for _ in USAGE_COUNTS)}, 0, 0)",
        "INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (:namespace, 'session', 's0', 1)",
        "INSERT INTO usage_rollup_state (namespace, announced_until)"
        " VALUES (:namespace, '2000-01-01T00:00:00.000000Z')",
    ):
        content.query(statement, namespace=namespace)


def of_namespace(content: Content, namespace: str) -> dict[str, Any]:
    found = {table: content.rows(table, namespace=namespace) for table in metadata.tables}
    return {table: rows for table, rows in found.items() if rows}


def test_all_namespaces_are_listed_with_what_they_hold(
    open_store: Callable[..., Store], clock: MovableClock, content: Content
) -> None:
    ours, theirs = open_store(namespace="ours", clock=clock), open_store(namespace="theirs", clock=clock)
    assert ours.namespaces() == []
    fill(theirs)
    clock.advance(minutes=5)
    theirs.sessions.create("late")
    open_store(namespace="cache only").cache.set("k", 1)
    open_store(namespace="price only").prices.set("m", input_price=1, output_price=1)
    found = {one.name: one for one in ours.namespaces()}
    assert list(found) == sorted(found) == ["cache only", "price only", "theirs"]
    assert (found["theirs"].sessions, found["theirs"].entries) == (5, 5)
    assert found["theirs"].last_activity_at == clock()
    stored = content.query("SELECT sum(bytes) AS n FROM storage_usage WHERE namespace = 'theirs'")
    assert found["theirs"].bytes == int(stored[0]["n"]) > 0
    assert found["cache only"].last_activity_at is None
    assert found["cache only"].bytes > 0
    assert (found["price only"].sessions, found["price only"].bytes) == (0, 0)
    with theirs.transaction() as tx:
        tx.sessions.delete("late")
    assert {one.name: one.sessions for one in ours.namespaces()}["theirs"] == 4


def test_tables_with_as_many_bytes_count_each(store: Store, content: Content) -> None:
    store.state.set("s", "k", 1, create=True)
    store.lists.append("s", "l", [1])
    tables = content.query(
        "SELECT bytes AS n FROM storage_usage WHERE table_name IN ('state_entries', 'session_list_items')"
    )
    assert len({row["n"] for row in tables}) == 1
    stored = content.query("SELECT sum(bytes) AS n FROM storage_usage")
    assert [one.bytes for one in store.namespaces()] == [int(stored[0]["n"])]


def test_a_dropped_namespace_is_gone_and_others_are_untouched(
    open_store: Callable[..., Store], content: Content
) -> None:
    ours, theirs, operator = (open_store(namespace=name) for name in ("ours", "theirs", "operator"))
    for store in (ours, theirs):
        fill(store)
        fill_behind_its_back(content, store.namespace)
    before, doomed = of_namespace(content, "ours"), of_namespace(content, "theirs")
    assert set(doomed) == set(TABLES) == {name for name, table in metadata.tables.items() if "namespace" in table.c}
    progress: list[Any] = []
    receipt = operator.drop_namespace("theirs", progress=progress.append)
    assert of_namespace(content, "ours") == before
    # How often prices changed is kept: an open store must notice that they are gone.
    left = of_namespace(content, "theirs")
    assert [(table, row["name"]) for table, rows in left.items() for row in rows] == [("store_settings", "prices")]
    assert receipt.name == "theirs"
    expected = {table: len(rows) for table, rows in doomed.items()}
    assert dict(receipt.rows) == expected | {"store_settings": expected["store_settings"] - 1}
    assert (receipt.sessions, receipt.entries) == (expected["sessions"], expected["history_entries"])
    assert progress[-1].rows == receipt.rows
    assert [one.name for one in operator.namespaces()] == ["ours"]
    # A store that is open on it goes on.
    assert theirs.sessions.find("s0") is None
    assert theirs.prices.all() == []
    theirs.history.append(
        "s0", [NewEntry("x", response_model="gpt-4o", usage=Usage(input_tokens=1, output_tokens=1))], create=True
    )
    [entry] = theirs.history.read("s0")
    assert (entry.seq, entry.cost_usd) == (1, None)
    again = operator.drop_namespace("never there")
    assert (again.rows, again.sessions) == ({}, 0)


def test_a_store_may_drop_its_own_namespace(store: Store, content: Content) -> None:
    fill(store)
    store.drop_namespace(store.namespace)
    assert set(of_namespace(content, store.namespace)) <= {"store_settings"}
    assert store.sessions.count() == 0


def test_a_namespace_is_dropped_in_batches_and_an_interrupted_drop_goes_on(
    open_store: Callable[..., Store], content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statestore.operations.namespaces.BATCH", 2)
    store, operator = open_store(namespace="theirs"), open_store()
    fill(store, sessions=9)

    def stop(receipt: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        operator.drop_namespace("theirs", progress=stop)
    assert of_namespace(content, "theirs")["sessions"]
    # Nobody sees half a session.
    assert store.sessions.page().sessions == []
    receipt = operator.drop_namespace("theirs")
    assert receipt.sessions == 10
    assert set(of_namespace(content, "theirs")) <= {"store_settings"}


def test_what_is_written_while_a_namespace_is_dropped_goes_too(
    store: Store, database_url: str, content: Content
) -> None:
    fill(store)
    written = []
    with StateStore.open(database_url) as writer:

        def write(receipt: Any) -> None:
            if len(written) < 2 and list(receipt.rows)[-1] in ("history_entries", "sessions"):
                written.append(writer.history.append(f"new {len(written)}", [NewEntry("late")], create=True))
                writer.sessions.fork(f"new {len(written) - 1}")

        receipt = store.drop_namespace("default", progress=write)
    assert len(written) == 2
    assert receipt.rows["history_entries"] > 3
    assert content.rows("sessions") == content.rows("history_entries") == []


def test_a_namespace_with_a_lease_is_not_dropped(open_store: Callable[..., Store], content: Content) -> None:
    store, operator = open_store(namespace="theirs"), open_store()
    fill(store)
    lease = store.sessions.acquire("s0", owner="worker", ttl=timedelta(minutes=5))
    before = of_namespace(content, "theirs")
    with pytest.raises(ConflictError, match="under a lease"):
        operator.drop_namespace("theirs")
    assert of_namespace(content, "theirs") == before
    store.sessions.release(lease)
    operator.drop_namespace("theirs")
    assert operator.namespaces() == []


@pytest.mark.parametrize("name", ["", None, 7, "a\0b", "x" * 513])
def test_the_name_has_to_be_one(store: Store, content: Content, name: Any) -> None:
    fill(store)
    before = content.snapshot()
    with pytest.raises(InvalidValueError) as caught:
        store.drop_namespace(name)
    assert caught.value.argument == "name"
    assert content.snapshot() == before


def test_without_any_name_it_says_how_to_give_one(store: Store, content: Content) -> None:
    fill(store)
    before = content.snapshot()
    with pytest.raises(InvalidValueError, match=r"^name: is missing.*namespaces="):
        store.drop_namespace()
    with pytest.raises(InvalidValueError, match=r"^namespaces: is empty; name at least one"):
        store.drop_namespace(namespaces=[])
    assert content.snapshot() == before


def test_all_namespaces_are_swept_each_by_its_own_retention(
    open_store: Callable[..., Store], clock: MovableClock, content: Content
) -> None:
    stores = {name: open_store(namespace=name, clock=clock) for name in ("a", "b", "c")}
    for store in stores.values():
        store.sessions.create("short", ttl=timedelta(minutes=1))
        store.history.append("short", [NewEntry("x")])
        store.sessions.create("idle")
        store.state.set("idle", "k", 1, ttl=timedelta(minutes=1))
        for n in range(3):
            store.cache.set(f"k{n}", n, ttl=timedelta(minutes=1 if n else 999))
    stores["b"].set_retention(timedelta(hours=1))
    clock.advance(hours=2)
    operator = open_store(namespace="b", clock=clock, cache_max_entries=1)
    due = operator.sweep(all_namespaces=True, dry_run=True)
    report = operator.sweep(all_namespaces=True)
    assert {kind: swept.rows for kind, swept in report.kinds.items()} == {
        "expired_sessions": 3,
        "idle_sessions": 1,
        "history_entries": 3,
        "expired_state": 2,
        "expired_cache": 6,
    }
    assert due.kinds == report.kinds
    assert report.complete
    assert stores["a"].sessions.exists("idle")
    assert not stores["b"].sessions.exists("idle")
    assert operator.sweep(all_namespaces=True).rows == 0
    assert content.rows("sessions", session_id="short") == []


def test_a_limit_of_the_cache_holds_for_the_own_namespace_only(open_store: Callable[..., Store]) -> None:
    ours, theirs = open_store(namespace="ours"), open_store(namespace="theirs")
    for store in (ours, theirs):
        store.cache.set_many({f"k{n}": n for n in range(5)})
    operator = open_store(namespace="ours", cache_max_entries=2)
    assert operator.sweep(all_namespaces=True, dry_run=True)["cache_overflow"].rows == 3
    assert operator.sweep(all_namespaces=True)["cache_overflow"].rows == 3
    assert theirs.cache.stats().entries == 5


def test_a_sweep_of_one_namespace_leaves_the_others(open_store: Callable[..., Store], clock: MovableClock) -> None:
    ours, theirs = open_store(namespace="ours", clock=clock), open_store(namespace="theirs", clock=clock)
    theirs.sessions.create("short", ttl=timedelta(minutes=1))
    clock.advance(hours=2)
    assert ours.sweep().rows == 0
    assert theirs.sweep().rows == 1


def test_a_sweeper_sweeps_all_namespaces(database_url: str) -> None:
    import threading

    swept = threading.Event()
    with StateStore.open(database_url, namespace="ours") as ours, StateStore.open(database_url) as theirs:
        theirs.sessions.create("short", ttl=timedelta(microseconds=1))
        found: list[Any] = []

        def note(report: Any) -> None:
            found.append(report)
            swept.set()

        every = timedelta(hours=1)
        with Sweeper(ours, every=every, jitter=timedelta(0), on_sweep=note, all_namespaces=True):
            assert swept.wait(20)
    assert found[0]["expired_sessions"].rows == 1
