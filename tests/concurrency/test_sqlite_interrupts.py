"""What is interrupted leaves nothing behind: no transaction in the pool, and no write outside its own."""

import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from statestore import NewEntry, StateStore, StateStoreError, StorageFullError
from statestore.engine.watchdog import Watchdog, watchdog


class TimeLimit(Exception):
    """What a host raises from a signal handler, as Celery does."""


@pytest.fixture(params=[KeyboardInterrupt, TimeLimit])
def interrupt_in(request: pytest.FixtureRequest) -> Iterator[Callable[[float], object]]:
    def interrupt(*_: object) -> None:
        raise request.param

    before = signal.signal(signal.SIGALRM, interrupt)
    yield partial(signal.setitimer, signal.ITIMER_REAL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def begin(store: StateStore) -> None:
    with store.transaction():
        pass


@pytest.mark.parametrize("write", [lambda store: store.history.append("s", [NewEntry("x")]), begin])
def test_who_is_interrupted_on_the_way_in_leaves_no_transaction_open(
    sqlite_url: str, interrupt_in: Callable[[float], object], write: Callable[[StateStore], object]
) -> None:
    with StateStore.open(sqlite_url) as store:
        store.sessions.create("s")
        other = sqlite3.connect(str(store._database.engine.url.database), isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        # sqlite3 lets signals in only when it has what it waited for.
        ending = threading.Timer(0.12, lambda: other.execute("COMMIT"))
        ending.start()
        interrupt_in(0.1)
        with pytest.raises((KeyboardInterrupt, TimeLimit)):
            write(store)
        ending.join()
        other.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN IMMEDIATE")
        other.execute("COMMIT")
        other.close()
        store.history.append("s", [NewEntry("y")])
        assert [entry.content for entry in store.history.read("s")] == ["y"]


def test_nothing_is_written_after_sqlite_has_undone_a_transaction(sqlite_url: str) -> None:
    with StateStore.open(sqlite_url, pool_size=1) as store:
        store.sessions.create("s")
        transaction = store.transaction()
        tx = transaction.__enter__()
        tx.state.set("s", "before", 1)
        driver = tx._runner._connection.driver_connection  # type: ignore[attr-defined]
        [(pages,)] = driver.execute("PRAGMA page_count").fetchall()
        driver.execute(f"PRAGMA max_page_count = {pages + 10}").fetchall()
        with pytest.raises(StorageFullError):
            tx.state.set("s", "large", "x" * 1_000_000)
        driver.execute("PRAGMA max_page_count = 1000000").fetchall()
        # As SQLite does by itself, unless it can undo the one statement.
        driver.execute("ROLLBACK")
        assert not driver.in_transaction
        with pytest.raises(StateStoreError):
            tx.state.set("s", "after", 1)
        with pytest.raises(StateStoreError):
            transaction.__exit__(None, None, None)
        assert store.state.get("s", "before", None) is None
        assert store.state.get("s", "after", None) is None


def test_nothing_is_written_after_sqlite_has_undone_one_statement_of_several(sqlite_url: str) -> None:
    """It undoes no more than that where it can, as in statements with triggers: the rest must not be committed."""
    with StateStore.open(sqlite_url, pool_size=1) as store:
        store.sessions.create("s")
        transaction = store.transaction()
        tx = transaction.__enter__()
        tx.state.set("s", "before", 1)
        driver = tx._runner._connection.driver_connection  # type: ignore[attr-defined]
        [(pages,)] = driver.execute("PRAGMA page_count").fetchall()
        driver.execute(f"PRAGMA max_page_count = {pages + 10}").fetchall()
        with pytest.raises(StorageFullError):
            tx.history.append("s", [NewEntry("x" * 100_000) for _ in range(10)])
        driver.execute("PRAGMA max_page_count = 1000000").fetchall()
        assert driver.in_transaction
        with pytest.raises(StorageFullError):
            transaction.__exit__(None, None, None)
        assert store.state.get("s", "before", None) is None
        assert (store.history.count("s"), store.sessions.get("s").entry_count) == (0, 0)


def test_a_signal_handler_may_call_the_store(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with StateStore.open(sqlite_url) as store:
        store.sessions.create("s")
        found: list[object] = []
        before = signal.signal(signal.SIGALRM, lambda *_: found.append(store.state.get("s", "k", None)))
        wake_by = Watchdog._wake_by

        def interrupted(self: Watchdog, due: float) -> None:
            monkeypatch.setattr(Watchdog, "_wake_by", wake_by)
            signal.raise_signal(signal.SIGALRM)
            wake_by(self, due)

        monkeypatch.setattr(Watchdog, "_wake_by", interrupted)
        watchdog.pause()
        assert store.state.get("s", "k", 1) == 1
        signal.signal(signal.SIGALRM, before)
        assert found == [None]
