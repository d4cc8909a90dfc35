"""Writers of one state: those of different keys do not wait for each other, and nobody loses anything."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import pytest

import statestore
from statestore import ConflictError, SessionNotFoundError, UnavailableError
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.worlds import entering

Store = Any


ROUNDS = 12


def in_transaction(store: Store, work: Callable[[Any], object]) -> None:
    """As `run_transaction`, in both worlds with the same *work*."""
    while True:
        with suppress(UnavailableError), store.transaction() as tx:
            work(tx)
            break


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    store = open_store()
    store.sessions.create("s")
    return store


@pytest.fixture
def other(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url, options="-c search_path=statestore") as other:
        yield other


@pytest.fixture
def held(connect: Callable[..., Store], postgres_url: str, other: psycopg.Connection) -> Store:
    """A store, while another writer of key `a` of all three states has not committed."""
    store = connect(postgres_url)
    store.sessions.create("s")
    for state, owner in ((store.state, "s"), (store.user_state, "ada"), (store.app_state, "bot")):
        state.set_many(owner, {"a": 1, "b": 1})
    # As an operation of another process does it in one statement.
    other.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended('s', hashtextextended('default', 17)))")
    other.execute("UPDATE state_entries SET value = '2', version = 2 WHERE key = 'a'")
    other.execute("UPDATE shared_state SET value = '2', version = 2 WHERE key = 'a'")
    return store


WRITES: dict[str, Callable[[Any, str], Any]] = {
    "set": lambda state, owner: state.set(owner, "b", 2),
    "set a new one": lambda state, owner: state.set(owner, "c", 2),
    "set, expected_version": lambda state, owner: state.set(owner, "b", 2, expected_version=1),
    "set, missing": lambda state, owner: state.set(owner, "c", 2, only_if="missing"),
    "set, present": lambda state, owner: state.set(owner, "b", 2, only_if="present"),
    "set_many": lambda state, owner: state.set_many(owner, {"b": 2, "c": 2}),
    "set_many, thousands": lambda state, owner: state.set_many(owner, {f"n{n}": n for n in range(2500)}),
    "increment": lambda state, owner: state.increment(owner, "b"),
    "increment a new one": lambda state, owner: state.increment(owner, "c"),
    "delete": lambda state, owner: state.delete(owner, "b"),
    "delete_many": lambda state, owner: state.delete_many(owner, ["b", "c"]),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_writer_does_not_wait_for_one_of_another_key(held: Store, name: str) -> None:
    with statestore.deadline(5):
        WRITES[name](held.state, "s")
        WRITES[name](held.user_state, "ada")
        WRITES[name](held.app_state, "bot")


def test_a_writer_waits_for_one_of_the_same_key(held: Store, other: psycopg.Connection) -> None:
    with pytest.raises(UnavailableError), statestore.deadline(0.5):
        held.state.increment("s", "a")
    other.commit()
    assert held.state.increment("s", "a") == 3


def test_appends_wait_for_no_writer_of_state(held: Store) -> None:
    with statestore.deadline(5):
        held.history.append("s", [{"role": "user"}])


def test_a_transaction_that_reads_the_state_waits_for_its_writers(held: Store, other: psycopg.Connection) -> None:
    with pytest.raises(UnavailableError), statestore.deadline(0.5), held.transaction() as tx:
        tx.state.get("s", "a")
    other.commit()
    with held.transaction() as tx:
        assert tx.state.get("s", "a") == 2


def test_nobody_writes_a_state_that_a_transaction_has_read(
    store: Store, open_store: Callable[..., Store], database_url: str
) -> None:
    for state, owner in ("state", "s"), ("user_state", "ada"), ("app_state", "bot"):
        getattr(store, state).set(owner, "a", 1)
        if not database_url.startswith("postgresql"):
            continue  # Its transactions have the only writer.
        other = open_store()
        getattr(other, state).get(owner, "a")  # Connected, before there is little time.
        with store.transaction() as tx:
            getattr(tx, state).get(owner, "a")
            for key in ("a", "new"):
                with pytest.raises(UnavailableError), statestore.deadline(0.3):
                    getattr(other, state).set(owner, key, 2)
            assert getattr(tx, state).get_all(owner) == {"a": 1}


@pytest.mark.parametrize(("state", "owner"), [("state", "s"), ("user_state", "ada")])
@pytest.mark.timeout(180)
def test_increments_in_transactions_and_outside_lose_nothing(
    open_store: Callable[..., Store], store: Store, state: str, owner: str
) -> None:
    each = 10

    def outside(store: Store, key: str) -> None:
        for _ in range(each):
            getattr(store, state).increment(owner, key)

    def inside(store: Store, key: str) -> None:
        for _ in range(each):
            in_transaction(store, lambda tx: getattr(tx, state).increment(owner, key))

    def read_and_write(store: Store, key: str) -> None:
        def work(tx: Any) -> None:
            group = getattr(tx, state)
            group.set(owner, key, group.get(owner, key, 0) + 1)

        for _ in range(each):
            in_transaction(store, work)

    stores = [store, open_store()]
    for number in range(ROUNDS):
        key = f"n{number}"
        works = [outside, outside, inside, read_and_write]
        at_once(*(partial(work, stores[index % 2], key) for index, work in enumerate(works)))
        entry = getattr(store, state).entry(owner, key)
        assert (entry.value, entry.version) == (4 * each, 4 * each)


def test_of_many_who_set_what_is_missing_one_does(store: Store, open_store: Callable[..., Store]) -> None:
    stores = [store, open_store()] * 4
    for number in range(ROUNDS):
        key = f"k{number}"
        done = at_once(*(partial(one.state.set, "s", key, 1, only_if="missing") for one in stores))
        assert sum(entry is not None for entry in done) == 1
        assert store.state.entry("s", key).version == 1


def test_of_many_who_expect_a_version_one_writes(store: Store, open_store: Callable[..., Store]) -> None:
    stores = [store, open_store()] * 4
    for version in range(ROUNDS):

        def write(one: Store, version: int = version) -> bool:
            try:
                one.state.set("s", "k", 1, expected_version=version)
            except ConflictError:
                return False
            return True

        assert sum(at_once(*(partial(write, one) for one in stores))) == 1


@pytest.mark.parametrize("key_is_there", [True, False])
def test_a_turn_and_a_writer_of_the_same_key_do_not_overwrite_each_other(
    store: Store, open_store: Callable[..., Store], key_is_there: bool
) -> None:
    other = open_store()
    for number in range(ROUNDS):
        key = f"k{number}"
        if key_is_there:
            store.state.set("s", key, 0)

        def turn(key: str = key) -> bool:
            try:
                with entering(store, store.turn("s")) as turn:
                    turn.state[key] = turn.state.get(key, 0) + 1
            except ConflictError:
                return False
            return True

        def write(key: str = key) -> bool:
            other.state.increment("s", key)
            return True

        assert sum(at_once(turn, write)) == store.state.get("s", key)


def test_a_deleted_session_gets_no_state(store: Store, open_store: Callable[..., Store], content: Content) -> None:
    other = open_store()
    for number in range(ROUNDS):
        name = f"s{number}"
        store.sessions.create(name)
        store.state.set(name, "k", 0)

        def write(name: str = name) -> None:
            try:
                for n in range(20):
                    other.state.set(name, f"k{n % 3}", n)
            except SessionNotFoundError:
                pass

        at_once(write, partial(store.sessions.delete, name))
        assert content.rows("state_entries", session_id=name) == []


@pytest.mark.timeout(240)
def test_whatever_is_done_at_once_nobody_deadlocks(
    store: Store, open_store: Callable[..., Store], content: Content, database_url: str
) -> None:
    other = open_store()
    keys = [f"k{n}" for n in range(6)]
    counted = iter(range(10**6))

    def set_many(store: Store, order: int) -> None:
        store.state.set_many("s", dict.fromkeys(keys[::order], 1))

    def transaction(store: Store) -> None:
        def work(tx: Any) -> None:
            tx.history.append("s", [{"role": "user"}])
            tx.state.set("s", "k1", tx.state.get("s", "k0", 0))
            tx.state.increment("s", "n")

        in_transaction(store, work)

    def read_first(store: Store) -> None:
        def work(tx: Any) -> None:
            tx.state.get_all("s")
            tx.history.append("s", [{"role": "user"}])

        in_transaction(store, work)

    def turn(store: Store) -> None:
        try:
            with entering(store, store.turn("s")) as turn:
                turn.append({"role": "user"})
                turn.state["k2"] = turn.state["t"] = next(counted)
        except ConflictError:
            pass

    def fork(store: Store) -> None:
        made = store.sessions.fork("s").session_id
        store.state.set(made, "k", 1)
        store.sessions.delete(made)

    works: list[Callable[[Store], Any]] = [
        lambda store: store.state.set("s", "k3", 1),
        partial(set_many, order=1),
        partial(set_many, order=-1),
        lambda store: store.state.delete_many("s", keys[::-1]),
        lambda store: store.state.clear("s"),
        lambda store: store.state.increment("s", "k5" if next(counted) % 2 else "n2"),
        lambda store: store.history.append("s", [{"role": "user"}]),
        transaction,
        read_first,
        turn,
        fork,
        lambda store: store.sessions.update("s", title="t"),
    ]

    def repeat(work: Callable[[Store], Any], store: Store) -> None:
        for _ in range(10):
            with suppress(statestore.InvalidValueError):  # A key that is no number.
                work(store)

    for _ in range(2):
        at_once(*(partial(repeat, work, one) for work, one in zip(works, [store, other] * len(works), strict=False)))
    if not content.is_sqlite:
        content.query("SELECT pg_stat_force_next_flush()")
        assert content.query("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [
            {"deadlocks": 0}
        ]
