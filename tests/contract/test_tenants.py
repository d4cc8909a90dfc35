"""A tenant that spreads over several namespaces, and operations that look over all of them."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from queue import Queue
from typing import Any

import pytest

from statestore import ConflictError, InvalidValueError, NewEntry, StateStore, Sweeper, SweepReport, Usage, spread
from tests.support.clock import MovableClock
from tests.support.content import Content

Store = Any

USERS = tuple(f"user-{number}" for number in range(8))
SHARDS = tuple(f"acme/{number}" for number in range(4))
# Beside acme's, in the order of their names: a prefix must not take them for acme's.
OTHERS = ("acme", "acme-eu/1", "acme0", "default", "ac%e/1", "acme/_", "ACME/1")


def at_home(user_id: str) -> str:
    return spread("acme", user_id, shards=4)


@pytest.fixture
def stores(open_store: Callable[..., Store], clock: MovableClock) -> dict[str, Store]:
    """A store of each namespace. `acme/_` is acme's, too."""
    assert {at_home(user_id) for user_id in USERS} == set(SHARDS)
    return {name: open_store(namespace=name, clock=clock) for name in (*SHARDS, *OTHERS)}


@pytest.fixture
def filled(stores: dict[str, Store], clock: MovableClock) -> dict[str, Store]:
    """Each user has two sessions at home, with ids that are the same for all; each other namespace has one."""
    for number in range(2):
        for user_id in USERS:
            clock.advance(minutes=17)
            stores[at_home(user_id)].sessions.create(f"{number}-{user_id}", user_id=user_id, title="Größe")
    for name in (*SHARDS, *OTHERS):
        stores[name].sessions.create("same", user_id="stranger")
    return stores


def walk(store: Store, **arguments: Any) -> list[tuple[str, str]]:
    """All pages, as namespaces and ids."""
    found, cursor = [], None
    while True:
        page = store.sessions.page(cursor=cursor, **arguments)
        found += [(session.namespace, session.session_id) for session in page.sessions]
        cursor = page.next_cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("order_by", ["last_activity_at", "created_at"])
@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_a_page_is_in_one_order_over_all_namespaces(
    filled: dict[str, Store], order_by: str, descending: bool, limit: int
) -> None:
    found = walk(filled["default"], namespaces="acme/*", order_by=order_by, descending=descending, limit=limit)
    in_order = [(at_home(user_id), f"{number}-{user_id}") for number in range(2) for user_id in USERS]
    in_order += [(name, "same") for name in (*SHARDS, "acme/_")]
    assert found == (in_order[::-1] if descending else in_order)


def test_namespaces_are_those_that_are_named(filled: dict[str, Store]) -> None:
    store = filled["acme/1"]
    names = {namespace for namespace, _ in walk(store)}
    assert names == {"acme/1"}
    for asked, expected in (
        (["acme/0", "acme/3"], {"acme/0", "acme/3"}),
        (list(SHARDS), set(SHARDS)),
        ("acme*", {*SHARDS, "acme", "acme-eu/1", "acme0", "acme/_"}),
        (["acme-eu/*", "ac%*", "acme/_"], {"acme-eu/1", "ac%e/1", "acme/_"}),
        ("*", {*SHARDS, *OTHERS}),
        ("acme\\*", set()),
        ("nowhere", set()),
    ):
        assert {namespace for namespace, _ in walk(store, namespaces=asked, limit=7)} == expected


def test_filters_and_counts_hold_for_all_namespaces(filled: dict[str, Store], clock: MovableClock) -> None:
    store = filled["default"]
    assert store.sessions.count() == 1
    assert store.sessions.count(namespaces="acme/*") == 21
    assert store.sessions.count(namespaces=["acme/_", "default"]) == 2
    assert store.sessions.count(namespaces="acme/*", user_id="user-3", title_contains="größe") == 2
    assert walk(store, namespaces="acme/*", id_prefix="0-", user_id="user-5") == [(at_home("user-5"), "0-user-5")]
    page = store.sessions.page(namespaces="acme/*", user_id="user-3", with_total=True, limit=1)
    assert (page.total, [session.namespace for session in page.sessions]) == (2, [at_home("user-3")])
    assert store.sessions.page(namespaces="nowhere", with_total=True).total == 0
    with store.transaction() as tx:
        assert tx.sessions.count(namespaces="acme/*") == 21
    whole = filled["acme/2"].sessions.page(id_prefix="0-", limit=1).sessions[0].session_id
    filled["acme/2"].sessions.create("part", belongs_to=whole)
    assert store.sessions.count(namespaces="acme/*") == 21
    assert walk(store, namespaces="acme/*", belongs_to=whole) == [("acme/2", "part")]
    filled["acme/2"].sessions.create("short", ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    assert store.sessions.count(namespaces="acme/*") == 21


def test_a_cursor_of_one_namespace_is_not_one_of_several(filled: dict[str, Store]) -> None:
    store = filled["acme/1"]
    of_one = store.sessions.page(limit=1).next_cursor
    of_several = store.sessions.page(limit=1, namespaces="acme/*").next_cursor
    for arguments in ({"cursor": of_one, "namespaces": "acme/*"}, {"cursor": of_several}):
        with pytest.raises(InvalidValueError, match="start without a cursor"):
            store.sessions.page(**arguments)


@pytest.mark.parametrize("asked", [[], "", ["acme/*", 3], 7])
def test_what_names_no_namespaces_is_refused(store: Store, asked: Any) -> None:
    for look in (store.sessions.page, store.sessions.count, store.sweep):
        with pytest.raises(InvalidValueError, match=r"^namespaces"):
            look(namespaces=asked)


def test_a_sweep_is_of_the_namespaces_that_are_asked_for(stores: dict[str, Store], clock: MovableClock) -> None:
    for store in stores.values():
        store.sessions.create("short", ttl=timedelta(minutes=1))
    clock.advance(hours=1)
    operator = stores["default"]
    due = operator.sweep(namespaces="acme/*", dry_run=True)
    report = operator.sweep(namespaces="acme/*")
    assert due.kinds == report.kinds
    assert report["expired_sessions"].rows == 5
    # The store's own only if it is among them.
    assert stores["acme/1"].sweep().rows == 0
    assert operator.sweep(namespaces=["acme", "default", "nowhere"])["expired_sessions"].rows == 2
    assert operator.sweep(all_namespaces=True)["expired_sessions"].rows == 4


def test_the_limits_of_a_store_hold_for_its_own_namespace_only(
    stores: dict[str, Store], open_store: Callable[..., Store], clock: MovableClock
) -> None:
    for store in stores.values():
        store.cache.set_many({f"k{n}": n for n in range(5)})
    assert open_store(namespace="acme", clock=clock, cache_max_entries=2).sweep(namespaces="acme/*").rows == 0
    assert open_store(namespace="acme/3", clock=clock, cache_max_entries=2).sweep(namespaces="acme/*").rows == 3
    assert [stores[name].cache.stats().entries for name in SHARDS] == [5, 5, 5, 2]


def test_all_namespaces_are_not_asked_for_together_with_some(store: Store) -> None:
    with pytest.raises(InvalidValueError, match="all_namespaces"):
        store.sweep(namespaces="acme/*", all_namespaces=True)


def test_a_sweeper_sweeps_the_namespaces_that_are_asked_for(database_url: str, content: Content) -> None:
    with StateStore.open(database_url) as operator:
        for name in (*SHARDS, *OTHERS):
            with StateStore.open(database_url, namespace=name) as store:
                store.sessions.create("short", ttl=timedelta(microseconds=1))
        found: Queue[SweepReport] = Queue()
        every = timedelta(hours=1)
        with Sweeper(operator, every=every, jitter=timedelta(0), on_sweep=found.put, namespaces="acme/*"):
            assert found.get(timeout=20)["expired_sessions"].rows == 5
    assert {row["namespace"] for row in content.rows("sessions")} == {*OTHERS} - {"acme/_"}


def test_a_tenant_is_dropped_with_all_of_its_namespaces(filled: dict[str, Store], content: Content) -> None:
    operator = filled["default"]
    for name in ("acme/0", "acme0"):
        filled[name].history.append("same", [{"role": "user", "content": "Hi"}])
        filled[name].set_retention(timedelta(days=1))
    filled["acme/1"].prices.set("gpt-4o", input_price=1, output_price=1)
    filled["acme"].cache.set("k", 1)
    seen: list[Any] = []
    receipt = operator.drop_namespace(namespaces="acme/*", progress=seen.append)
    assert (receipt.name, receipt.names) == ("acme/*", ("acme/0", "acme/1", "acme/2", "acme/3", "acme/_"))
    assert (receipt.sessions, receipt.entries, receipt.rows["store_settings"]) == (21, 1, 1)
    assert seen[-1].rows == receipt.rows
    left = {
        row["namespace"] for table in ("sessions", "history_entries", "cache_entries") for row in content.rows(table)
    }
    assert left == {*OTHERS} - {"acme/_"}
    again = operator.drop_namespace(namespaces="acme/*")
    assert (again.rows, again.names, again.dropped_at.tzinfo is None) == ({}, (), False)
    some = operator.drop_namespace(namespaces=["acme", "nowhere", "ac%*"])
    assert (some.name, some.names, some.sessions) == ("acme, nowhere, ac%*", ("ac%e/1", "acme", "nowhere"), 2)
    assert operator.drop_namespace("acme0").names == ("acme0",)


def test_a_star_in_the_name_of_a_namespace_is_dropped_as_it_is(open_store: Callable[..., Store]) -> None:
    for name in ("a*", "ab"):
        open_store(namespace=name).sessions.create("s")
    operator = open_store()
    assert operator.drop_namespace("a*").sessions == 1
    open_store(namespace="a*").sessions.create("s")
    assert operator.drop_namespace(namespaces="a\\*").names == ("a*",)
    assert [one.name for one in operator.namespaces()] == ["ab"]


def test_nothing_is_dropped_while_somebody_works_in_one_of_the_namespaces(
    filled: dict[str, Store], content: Content
) -> None:
    lease = filled["acme/3"].sessions.acquire("same", owner="worker", ttl=timedelta(minutes=5))
    before = content.snapshot()
    with pytest.raises(ConflictError, match="1 sessions of namespace 'acme/3' are under a lease"):
        filled["default"].drop_namespace(namespaces="acme/*")
    assert content.snapshot() == before
    filled["acme/3"].sessions.release(lease)
    assert filled["default"].drop_namespace(namespaces="acme/*").sessions == 21


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({}, "name"),
        ({"name": "acme", "namespaces": "acme/*"}, "namespaces"),
        ({"namespaces": "*"}, "namespaces"),
        ({"namespaces": ["acme", "*"]}, "namespaces"),
        ({"namespaces": []}, "namespaces"),
        ({"namespaces": ["acme", ""]}, "namespaces[1]"),
    ],
)
def test_nothing_is_dropped_by_mistake(
    store: Store, content: Content, arguments: dict[str, Any], argument: str
) -> None:
    store.sessions.create("s")
    before = content.snapshot()
    with pytest.raises(InvalidValueError) as caught:
        store.drop_namespace(**arguments)
    assert caught.value.argument == argument
    assert content.snapshot() == before


def test_reports_are_of_all_namespaces_together(filled: dict[str, Store]) -> None:
    store = filled["default"]
    for number, user_id in enumerate(USERS):
        shard = filled[at_home(user_id)]
        usage = Usage(input_tokens=100 + number, output_tokens=number)
        entry = NewEntry("x", agent_name="coder", response_model="m", usage=usage, cost_usd=Decimal("0.1"))
        shard.history.append(f"0-{user_id}", [entry, NewEntry("y", role="tool", tool_name="t")])
        shard.history.append("same", [entry])
        if number % 2:  # What it used is in the ledger then.
            shard.sessions.delete("same")
            shard.sessions.create("same", user_id="stranger")
    filled["acme0"].history.append("same", [NewEntry("z", usage=Usage(input_tokens=9999))])
    everything = store.usage.totals(namespaces="acme/*")
    assert (everything.input_tokens, everything.entries) == (2 * sum(100 + n for n in range(8)), 24)
    assert everything.cost_usd == Decimal("1.6")
    shards = {at_home(user_id) for user_id in USERS}
    assert everything.sessions == len(USERS) + len(shards)
    assert store.usage.totals().entries == 0
    users = {row.user_id: row.input_tokens for row in store.usage.by_user(namespaces=list(SHARDS))}
    assert users == {user_id: 100 + n for n, user_id in enumerate(USERS)} | {"stranger": sum(100 + n for n in range(8))}
    rows = store.usage.by_session(namespaces="acme/*", tz="Europe/Berlin")
    assert {(row.namespace, row.session_id) for row in rows} == {
        *((at_home(user_id), f"0-{user_id}") for user_id in USERS),
        *((name, "same") for name in shards),
    }
    assert [row.namespace for row in filled["acme0"].usage.by_session()] == ["acme0"]
    for report in ("by_day", "by_agent", "by_model", "by_tool", "by_hour"):
        found = getattr(store.usage, report)(namespaces="acme/*")
        assert sum(row.entries for row in found) == 24, report
    assert len(store.usage.by_user(namespaces="acme/*", user_id="user-3", daily=True)) == 1
    for number in range(3):
        filled[f"acme/{number}"].cache.set("k", 1)
        filled[f"acme/{number}"].cache.get("k")
        filled[f"acme/{number}"].cache.get("nothing")
        filled[f"acme/{number}"].cache.flush()
    [day] = store.usage.cache_by_day(namespaces="acme/*")
    assert (day.sets, day.hits, day.misses, day.hit_rate) == (3, 3, 3, 0.5)
    stored = {(row.table_name, row.user_id): row.row_count for row in store.usage.storage(namespaces="acme/*")}
    assert (stored["sessions", "user-3"], stored["sessions", "stranger"], stored["cache_entries", None]) == (2, 5, 3)
    assert store.usage.storage() == filled["default"].usage.storage(namespaces="default")


def test_reports_with_parts_know_their_namespace(filled: dict[str, Store]) -> None:
    for name in ("acme/0", "acme/1"):
        filled[name].sessions.create("part", belongs_to="same" if name == "acme/0" else None)
        filled[name].history.append("part", [NewEntry("x", usage=Usage(input_tokens=5))])
        filled[name].history.append("same", [NewEntry("x", usage=Usage(input_tokens=1))])
    store = filled["default"]
    totals = store.usage.totals(namespaces="acme/*", session_id="same", include_parts=True)
    assert totals.input_tokens == 7
    assert filled["acme/0"].usage.totals(session_id="same", include_parts=True).input_tokens == 6


def test_the_backlog_of_several_goes_by_the_retention_of_each(filled: dict[str, Store], clock: MovableClock) -> None:
    for name, hours in ("acme/0", 10), ("acme/1", 10), ("acme/2", 20), ("default", 1):
        filled[name].set_retention(timedelta(hours=hours))
    filled["acme/0"].sessions.create("short", ttl=timedelta(minutes=1))
    filled["acme/3"].cache.set("k", 1, ttl=timedelta(minutes=2))
    filled["acme/3"].app_state.set("agent", "k", 1, ttl=timedelta(minutes=2))
    at_rest = {name: store.sessions.count() for name, store in filled.items()}
    clock.advance(hours=24)
    filled["acme/1"].sessions.create("part", belongs_to="same")
    filled["acme/2"].sessions.update("same", title="at work")
    of_each = {name: filled[name].usage.expiry_backlog() for name in SHARDS}
    store = filled["default"]
    assert [row.kind for row in store.usage.expiry_backlog()] == ["idle_sessions"]
    found = {row.kind: row for row in store.usage.expiry_backlog(namespaces="acme/*")}
    assert {kind: row.due for kind, row in found.items()} == {
        "expired_sessions": 1,
        "expired_state": 1,
        "expired_cache": 1,
        "idle_sessions": at_rest["acme/0"] - 1 + at_rest["acme/1"] - 1 + at_rest["acme/2"] - 1,
    }
    for kind, row in found.items():
        oldest = [one.oldest_due_at for rows in of_each.values() for one in rows if one.kind == kind]
        assert (row.oldest_due_at, row.overdue) == (min(oldest), clock() - min(oldest))
    assert store.usage.expiry_backlog(namespaces="nowhere") == []
    store.sweep(namespaces="acme/*")
    assert store.usage.expiry_backlog(namespaces="acme/*") == []


def test_the_backlog_goes_by_any_number_of_retentions(
    open_store: Callable[..., Store], content: Content, clock: MovableClock
) -> None:
    """Also by more than there can be terms in a statement of SQLite."""
    rows = ", ".join(f"('many/{hours}', 'max_idle', {hours * 3_600_000_000})" for hours in range(1, 601))
    content.query(f"INSERT INTO store_settings (namespace, name, value) VALUES {rows}")
    for hours in 1, 75, 600:
        store = open_store(namespace=f"many/{hours}", clock=clock)
        store.sessions.create("s")
        store.cache.set("k", 1, ttl=timedelta(hours=1))
    began = clock()
    clock.advance(hours=100)
    found = {row.kind: (row.due, row.oldest_due_at) for row in store.usage.expiry_backlog(namespaces="many/*")}
    first = began + timedelta(hours=1)
    assert found == {"idle_sessions": (2, first), "expired_cache": (3, first)}
    clock.advance(hours=600)
    assert [row.due for row in store.usage.expiry_backlog(namespaces="many/*")] == [3, 3]


def test_what_several_contain(filled: dict[str, Store]) -> None:
    filled["acme/0"].history.append("same", [NewEntry("x"), NewEntry("y")])
    filled["acme/1"].sessions.set_status("same", "busy")
    filled["acme/2"].state.set("same", "k", "value")
    filled["acme/3"].sessions.create("whole")
    filled["acme/3"].sessions.create("part", belongs_to="whole")
    store = filled["default"]
    stats = store.stats(namespaces="acme/*")
    each = [filled[name].stats() for name in (*SHARDS, "acme/_")]
    assert (stats.namespace, stats.entries, stats.sessions["busy"]) == ("acme/*", 2, 1)
    assert stats.stored_bytes == sum(one.stored_bytes for one in each) > 0
    assert stats.active_sessions == sum(one.active_sessions for one in each) == 23
    assert store.stats(namespaces="nowhere").entries == 0
