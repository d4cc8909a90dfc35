"""What a transaction has read nobody changes before it ends: reading, computing and writing loses nothing."""

import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import pytest

from statestore import NewEntry, SessionNotFoundError, StateStore
from tests.support.crowd import apart, at_once
from tests.support.wire import Traffic

Store = Any
Step = Callable[[Any], None]

WRITERS, ROUNDS = 4, 100


def add_to_key(tx: Any) -> None:
    tx.state.set("s", "n", tx.state.get("s", "n") + 1)


def add_to_missing_key(tx: Any) -> None:
    tx.state.set("s", "n", tx.state.get("s", "n", default=0) + 1)


def add_to_all(tx: Any) -> None:
    tx.state.set_many("s", {"n": tx.state.get_all("s").get("n", 0) + 1})


def add_to_last(tx: Any) -> None:
    last = tx.history.read("s", last=1)
    tx.history.append("s", [NewEntry(last[0].content + 1 if last else 1)])


def add_to_count(tx: Any) -> None:
    tx.history.append("s", [NewEntry(tx.history.count("s") + 1)])


def add_to_window(tx: Any) -> None:
    window = tx.history.window("s", max_entries=1)
    tx.history.append("s", [NewEntry(window[0].content + 1 if window else 1)])


def add_to_metadata(tx: Any) -> None:
    tx.sessions.update("s", metadata={"n": tx.sessions.get("s").metadata.get("n", 0) + 1})


def add_to_summary(tx: Any) -> None:
    found = tx.history.summaries("s")
    tx.history.add_summary("s", str(int(found[0].content) + 1 if found else 1), start_seq=1, end_seq=1)


def add_to_loaded(tx: Any) -> None:
    conversation = tx.sessions.load("s")
    conversation.state["n"] = conversation.state.get("n", 0) + 1
    tx.sessions.save(conversation)


def state_total(store: Store) -> int:
    return int(store.state.get("s", "n"))


def history_total(store: Store) -> int:
    contents = [entry.content for entry in store.history.read("s")]
    assert contents == list(range(1, len(contents) + 1))
    return len(contents)


def work(store: Store, step: Step, rounds: int) -> None:
    for _ in range(rounds):
        with store.transaction() as tx:
            step(tx)


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    """On the databases' own clocks: what is under test is the real thing."""
    store = open_store()
    store.sessions.create("s")
    return store


@pytest.mark.parametrize(
    ("step", "total"), [(add_to_key, state_total), (add_to_missing_key, state_total), (add_to_last, history_total)]
)
def test_four_writers_of_a_hundred_transactions_lose_nothing(
    store: Store, step: Step, total: Callable[[Store], int]
) -> None:
    if step is add_to_key:
        store.state.set("s", "n", 0)
    at_once(*[partial(work, store, step, ROUNDS)] * WRITERS)
    assert total(store) == WRITERS * ROUNDS


@pytest.mark.parametrize(
    ("step", "total"),
    [
        (add_to_all, state_total),
        (add_to_count, history_total),
        (add_to_window, history_total),
        (add_to_metadata, lambda store: store.sessions.get("s").metadata["n"]),
        (add_to_summary, lambda store: int(store.history.summaries("s")[0].content)),
        (add_to_loaded, state_total),
    ],
)
def test_whatever_a_transaction_reads_stays_until_it_ends(
    store: Store, step: Step, total: Callable[[Store], int]
) -> None:
    first = step is add_to_summary
    if first:
        store.history.append("s", [NewEntry("a")])
    at_once(*[partial(work, store, step, 15)] * WRITERS)
    assert total(store) == WRITERS * 15


def test_a_fork_is_read_as_safely(store: Store) -> None:
    store.history.append("s", [NewEntry(0)])
    store.sessions.fork("s", "fork")

    def write() -> None:
        for _ in range(15):
            with store.transaction() as tx:
                tx.history.append("fork", [NewEntry(tx.history.read("fork", last=1)[0].content + 1)])

    at_once(*[write] * WRITERS)
    assert [entry.content for entry in store.history.read("fork")] == list(range(WRITERS * 15 + 1))


@pytest.mark.parametrize("repeat", range(10))
def test_of_transactions_that_find_a_session_missing_one_makes_it(store: Store, repeat: int) -> None:
    def write() -> None:
        with store.transaction() as tx:
            try:
                n = tx.state.get("new", "n")
            except SessionNotFoundError:
                tx.sessions.open("new")
                n = 0
            tx.state.set("new", "n", n + 1)

    at_once(*[write] * 6)
    assert store.state.get("new", "n") == 6


@pytest.mark.parametrize("look", ["find", "exists"])
def test_of_transactions_that_look_for_a_missing_session_one_makes_it(store: Store, look: str) -> None:
    def write() -> None:
        with store.transaction() as tx:
            if not getattr(tx.sessions, look)("new"):
                tx.sessions.create("new")

    at_once(*[write] * 6)
    assert store.sessions.exists("new")


def test_a_plain_write_waits_for_the_transaction_that_has_read(store: Store) -> None:
    store.state.set("s", "n", 1)
    with ThreadPoolExecutor(1) as pool:
        with store.transaction() as tx:
            assert tx.state.get("s", "n") == 1
            writing = pool.submit(store.state.set, "s", "n", 5)
            assert not wait([writing], timeout=0.2).done
            tx.state.set("s", "n", tx.state.get("s", "n") + 1)
        writing.result(20)
    assert store.state.entry("s", "n").version == 3
    assert store.state.get("s", "n") == 5


def test_a_plain_read_waits_for_nobody(store: Store, open_store: Callable[..., Store]) -> None:
    other = open_store()
    store.history.append("s", [NewEntry("a")])
    store.state.set("s", "n", 1)
    with store.transaction() as tx:
        tx.state.set("s", "n", tx.state.get("s", "n") + 1)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(lambda: (other.state.get("s", "n"), other.history.read("s")[0].content))
            assert reading.result(20) == (1, "a")


def test_processes_lose_nothing(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        store.sessions.create("s")
    with ProcessPoolExecutor(WRITERS, mp_context=apart()) as pool:
        for result in [pool.submit(work_in_process, database_url) for _ in range(WRITERS)]:
            result.result()
    with StateStore.open(database_url) as store:
        assert state_total(store) == WRITERS * ROUNDS
        assert history_total(store) == WRITERS * ROUNDS


def work_in_process(url: str) -> None:
    def step(tx: Any) -> None:
        add_to_missing_key(tx)
        add_to_last(tx)

    with StateStore.open(url) as store:
        work(store, step, ROUNDS)


def test_a_session_that_is_deleted_while_it_is_waited_for_is_not_found(store: Store) -> None:
    started = threading.Event()

    def read() -> None:
        with store.transaction() as tx:
            started.set()
            tx.state.get("s", "n", default=0)

    with ThreadPoolExecutor(1) as pool:
        with store.transaction() as tx:
            tx.state.set("s", "n", 1)
            reading = pool.submit(read)
            # On SQLite it does not even begin while this transaction lasts.
            started.wait(0.2)
            wait([reading], timeout=0.1)
            tx.sessions.delete("s")
        with pytest.raises(SessionNotFoundError):
            reading.result(20)


def test_to_hold_what_is_read_takes_no_statement_more_but_one_for_the_state(
    connect: Callable[..., Store], traffic: Traffic
) -> None:
    store = connect(traffic.url)
    store.sessions.create("s")
    store.state.set("s", "n", 0)
    for _ in range(8):  # psycopg prepares a statement, in a round trip of its own, when it comes for the sixth time.
        work(store, add_to_key, 1)
        store.state.get_all("s")
    traffic.clear()
    with store.transaction() as tx:
        tx.history.read("s")
        tx.sessions.get("s")
    assert (len(traffic.statements), traffic.transactions) == (4, 1)
    on_sqlite = not traffic.url.startswith("postgresql")
    traffic.clear()
    with store.transaction() as tx:
        tx.state.get("s", "n")
        tx.state.get("s", "n")
        tx.state.get_all("s")
    # The lock that those share who write other keys, had alone: once, in a statement before all that read under it.
    assert (len(traffic.statements), traffic.transactions) == (5 if on_sqlite else 6, 1)
