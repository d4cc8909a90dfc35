"""Several want the same at once, and one gets it: in one store, and from several, over and over."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import psycopg
import pytest

from statestore import ConflictError, NewEntry, SessionExistsError, StateStoreError
from tests.support.content import Content
from tests.support.crowd import at_once

Store = Any
Race = Callable[[Store, int], Any]

ROUNDS = 12


@pytest.fixture(params=[1, 4], ids=["one store", "several stores"])
def stores(request: pytest.FixtureRequest, open_store: Callable[..., Store]) -> list[Store]:
    """On the databases' own clocks, and as durable as by default: what is under test is the real thing."""
    stores = [open_store() for _ in range(request.param)]
    stores[0].sessions.create("s")
    return stores


def run(stores: list[Store], call: Race, callers: int = 8) -> list[Any]:
    return at_once(*(partial(call, stores[n % len(stores)], n) for n in range(callers)))


def wins(error: type[StateStoreError], call: Race) -> Race:
    def attempt(store: Store, n: int) -> bool:
        try:
            call(store, n)
        except error:
            return False
        return True

    return attempt


def test_of_many_that_expect_one_version_one_wins(stores: list[Store]) -> None:
    store = stores[0]
    version = store.state.set("s", "k", "old").version
    for turn in range(ROUNDS):
        expected = version + turn

        def write(store: Store, n: int, expected: int = expected) -> None:
            store.state.set("s", "k", n, expected_version=expected)

        won = run(stores, wins(ConflictError, write))
        assert won.count(True) == 1
        assert store.state.entry("s", "k").version == expected + 1
        assert store.state.get("s", "k") == won.index(True)


def test_of_many_that_make_a_new_key_one_wins(stores: list[Store]) -> None:
    for turn in range(ROUNDS):

        def write(store: Store, n: int, key: str = f"key {turn}") -> None:
            store.state.set("s", key, n, expected_version=0)

        won = run(stores, wins(ConflictError, write))
        assert won.count(True) == 1
        assert stores[0].state.get("s", f"key {turn}") == won.index(True)


def test_of_many_that_expect_one_revision_one_wins(stores: list[Store]) -> None:
    for turn in range(ROUNDS):

        def write(store: Store, n: int, expected: int = turn + 1) -> None:
            store.sessions.update("s", title=str(n), expected_revision=expected)

        won = run(stores, wins(ConflictError, write))
        assert won.count(True) == 1
        assert stores[0].sessions.get("s").title == str(won.index(True))


def test_of_many_that_create_one_session_one_wins(stores: list[Store]) -> None:
    for turn in range(ROUNDS):

        def create(store: Store, n: int, name: str = f"new {turn}") -> None:
            store.sessions.create(name, title=str(n))

        won = run(stores, wins(SessionExistsError, create))
        assert won.count(True) == 1
        assert stores[0].sessions.get(f"new {turn}").title == str(won.index(True))


def test_many_that_open_one_session_share_it(stores: list[Store]) -> None:
    for turn in range(ROUNDS):
        opened = run(stores, lambda store, n, name=f"new {turn}": store.sessions.open(name))
        assert [session.resumed for session in opened].count(False) == 1
        assert len({session.created_at for session in opened}) == 1


def test_many_first_appends_make_one_session(stores: list[Store]) -> None:
    for turn in range(ROUNDS):
        name = f"new {turn}"
        run(stores, lambda store, n, name=name: store.history.append(name, [NewEntry(n)], create=True))
        assert sorted(entry.content for entry in stores[0].history.read(name)) == list(range(8))


@pytest.mark.parametrize("create", [False, True])
def test_an_entry_sent_by_many_at_once_is_stored_once(stores: list[Store], create: bool) -> None:
    for turn in range(ROUNDS):
        name = f"new {turn}" if create else "s"
        entry = NewEntry(turn, entry_id=f"entry {turn}")

        def append(store: Store, n: int, name: str = name, entry: NewEntry = entry) -> Any:
            return store.history.append(name, [entry], create=create)

        first, *others = run(stores, append)
        assert all(other == first for other in others)
        assert [entry.content for entry in stores[0].history.read(name)][-1] == turn
    if not create:
        assert [entry.content for entry in stores[0].history.read("s")] == list(range(ROUNDS))


def test_a_log_sent_by_several_at_once_is_stored_once(stores: list[Store]) -> None:
    log = [NewEntry(n) for n in range(40)]
    lengths = (10, 40, 25, 40, 31, 5, 40, 12)
    for turn in range(ROUNDS):
        name = f"log {turn}"
        stores[0].sessions.create(name)

        def append(store: Store, n: int, name: str = name) -> None:
            store.history.append(name, log[: lengths[n]], after_seq=0)

        run(stores, append)
        assert [entry.content for entry in stores[0].history.read(name)] == list(range(40))


@pytest.mark.parametrize("turn", range(5))
def test_an_entry_for_which_two_stores_wait_is_stored_once(
    postgres_url: str, connect: Callable[..., Store], turn: int
) -> None:
    """Both have looked whether it is there before one of them stores it."""
    stores = [connect(postgres_url) for _ in range(2)]
    stores[0].sessions.create("s")
    entry = NewEntry("a", entry_id="one")
    url = postgres_url.replace("+psycopg", "")
    with (
        ThreadPoolExecutor(2) as pool,
        psycopg.connect(url) as other,
        psycopg.connect(url, autocommit=True) as observer,
    ):
        other.execute("SELECT 1 FROM statestore.sessions FOR UPDATE")
        appends = [pool.submit(store.history.append, "s", [entry]) for store in stores]
        for _ in range(1000):
            if observer.execute(_WAITING).fetchone() == (2,):
                break
            wait(appends, timeout=0.02)
        other.rollback()
        first, second = [append.result(20) for append in appends]
    assert first == second == stores[0].history.read("s")


_WAITING = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""


@pytest.mark.parametrize("change", ["update", "set_status"])
def test_a_session_that_is_made_anew_while_a_change_waits_for_it_is_changed(
    store: Store, content: Content, change: str
) -> None:
    if content.is_sqlite:
        pytest.skip("SQLite has one writer")
    store.sessions.create("s")
    arguments = {"update": {"title": "new"}, "set_status": {"status": "busy"}}[change]
    with ThreadPoolExecutor(1) as pool:
        with store.transaction() as tx:
            tx.sessions.delete("s")
            tx.sessions.create("s", title="old")
            changing = pool.submit(getattr(store.sessions, change), "s", **arguments)
            while content.query(_WAITING) == [{"count": 0}]:
                pass
        changed = changing.result(20)
    assert changed == store.sessions.get("s")
    assert (changed.title, changed.status) == (("new", "ready") if change == "update" else ("old", "busy"))
