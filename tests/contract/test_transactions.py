"""Several operations, one commit; and operations inside a transaction of the caller's."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from statestore import (
    AsyncStateStore,
    ConflictError,
    InvalidValueError,
    NewEntry,
    SchemaMissingError,
    SessionExistsError,
    SessionNotFoundError,
    StateStore,
    StateStoreError,
    StoreClosedError,
    UnavailableError,
)
from statestore.engine.execution import Transaction
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound
from tests.support.crowd import at_once
from tests.support.engines import async_engine, sync_engine
from tests.support.portal import Blocking, Portal

Store = Any


class Stop(Exception):
    """What a caller's own code raises."""


def contents(store: Store, session_id: str = "s") -> list[Any]:
    return [entry.content for entry in store.history.read(session_id)]


def test_a_transaction_commits_at_its_end(store: Store, open_store: Callable[..., Store]) -> None:
    other = open_store()
    with store.transaction() as tx:
        tx.sessions.create("s")
        tx.history.append("s", [NewEntry("a")])
        tx.state.set("s", "k", 1)
        assert not other.sessions.exists("s")
    assert (contents(other), other.state.get("s", "k")) == (["a"], 1)


def test_a_transaction_is_undone_by_an_exception(store: Store, content: Content) -> None:
    store.sessions.create("s")
    store.history.append("s", [NewEntry("a")])
    before = content.snapshot()

    def fail() -> None:
        with store.transaction() as tx:
            tx.history.append("s", [NewEntry("b")])
            tx.state.set("s", "k", 1)
            tx.sessions.fork("s", "fork")
            tx.history.pop_last("s")
            tx.sessions.delete("s")
            raise Stop

    with pytest.raises(Stop):
        fail()
    assert content.snapshot() == before


def test_an_event_loop_is_not_held_up_by_a_transaction_that_is_undone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone: list[tuple[threading.Thread, BaseException]] = []
    abandon = Transaction.abandon

    def watched(self: Transaction, exc: BaseException) -> None:
        undone.append((threading.current_thread(), exc))
        abandon(self, exc)

    monkeypatch.setattr(Transaction, "abandon", watched)

    async def fail(store: AsyncStateStore) -> None:
        async with store.transaction() as tx:
            await tx.sessions.create("s")
            raise Stop

    async def main() -> None:
        async with await AsyncStateStore.open(database_url) as store:
            with pytest.raises(Stop) as caught:
                await fail(store)
            [(thread, exc)] = undone
            assert thread is not threading.current_thread()
            assert exc is caught.value
            assert not await store.sessions.exists("s")

    asyncio.run(main())


def test_a_transaction_reads_its_own_writes(store: Store) -> None:
    with store.transaction() as tx:
        tx.sessions.create("s")
        tx.history.append("s", [NewEntry("a")])
        assert contents(tx) == ["a"]
        assert tx.state.increment("s", "n") == 1
        assert tx.state.increment("s", "n") == 2
        assert tx.state.get_all("s") == {"n": 2}
        tx.sessions.fork("s", "fork")
        tx.history.pop_last("s")
        assert (contents(tx), contents(tx, "fork")) == ([], ["a"])
        assert tx.sessions.count() == 2


def test_a_refusal_within_a_transaction_may_be_handled(store: Store) -> None:
    with store.transaction() as tx:
        tx.sessions.create("s")
        for error, call in (
            (SessionNotFoundError, lambda: tx.history.append("missing", [NewEntry(1)])),
            (SessionExistsError, lambda: tx.sessions.create("s")),
            (ConflictError, lambda: tx.state.set("s", "k", 1, expected_version=7)),
            (InvalidValueError, lambda: tx.state.set("s", "k", float("nan"))),
        ):
            with pytest.raises(error):
                call()
        tx.state.set("s", "k", 1)
    assert store.state.get("s", "k") == 1


def test_a_transaction_with_a_failed_statement_is_not_committed(store: Store, content: Content) -> None:
    """PostgreSQL answers the COMMIT of a failed transaction with a silent ROLLBACK: the caller must be told."""
    store.sessions.create("s")

    def go_on() -> None:
        with store.transaction() as tx:
            tx.history.append("s", [NewEntry("a")])
            with pytest.raises(StateStoreError):
                tx.state.set("s", "k", 1)

    content.query("ALTER TABLE state_entries RENAME TO hidden")
    try:
        with pytest.raises(StateStoreError) as caught:
            go_on()
        assert not isinstance(caught.value, StoreClosedError)
    finally:
        content.query("ALTER TABLE hidden RENAME TO state_entries")
    assert contents(store) == []


def test_a_transaction_takes_batches_and_repetitions(store: Store) -> None:
    with store.transaction() as tx:
        tx.sessions.create("s")
        tx.history.append("s", [NewEntry(n, entry_id=f"{n}") for n in range(1100)])
        tx.history.append("s", [NewEntry(n, entry_id=f"{n}") for n in range(1090, 1110)])
        tx.history.append("s", [NewEntry(1109), NewEntry(1110)], after_seq=1109)
        tx.history.append("new", [NewEntry(1)], create=True)
    assert contents(store) == list(range(1111))


def test_a_transaction_excludes_lost_updates(store: Store) -> None:
    """A counter that is read and then written, the way people do it: on SQLite nobody else writes between."""
    store.sessions.create("s")

    def add() -> None:
        for _ in range(10):
            with store.transaction() as tx:
                tx.sessions.touch("s")  # Locks the session, on PostgreSQL.
                tx.state.set("s", "n", tx.state.get("s", "n", 0) + 1)

    at_once(*[add] * 5)
    assert store.state.get("s", "n") == 50


def test_deadlocked_transactions_say_so_and_one_wins(store: Store, content: Content) -> None:
    if content.is_sqlite:
        return  # One writer at a time cannot deadlock.
    for name in ("a", "b"):
        store.sessions.create(name)
    gate = threading.Barrier(2)

    def cross(first: str, second: str) -> StateStoreError | None:
        try:
            with store.transaction() as tx:
                tx.state.increment(first, "n")
                gate.wait()
                tx.state.increment(second, "n")
        except StateStoreError as error:
            return error
        return None

    [lost] = [error for error in at_once(lambda: cross("a", "b"), lambda: cross("b", "a")) if error is not None]
    assert lost.retryable
    assert (store.state.get("a", "n"), store.state.get("b", "n")) == (1, 1)


class Application:
    """An application with a table of its own, and an engine of its own."""

    def __init__(self, url: str, world: str, portal: Portal) -> None:
        self.world, self.portal = world, portal
        driver = world if world in ("psycopg2", "asyncpg") else "psycopg"
        self.is_sync = world in ("sync", "psycopg2")
        self.engine: Any = sync_engine(url, driver=driver) if self.is_sync else async_engine(url, driver=driver)
        with self.transaction() as connection:
            self.execute(connection, "CREATE TABLE orders (name varchar(20) PRIMARY KEY)")

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A connection whose transaction commits at the end of the block."""
        if self.is_sync:
            with self.engine.begin() as connection:
                yield connection
        else:
            with self.portal.enter(self.engine.begin()) as connection:
                yield connection

    @contextmanager
    def connection(self, **options: Any) -> Iterator[Any]:
        if self.is_sync:
            with self.engine.connect().execution_options(**options) as connection:
                yield connection
        else:
            with self.portal.enter(self.engine.connect()) as connection:
                if options:
                    self.portal.run(connection.execution_options(**options))
                yield connection

    def execute(self, connection: Any, sql: str, **params: Any) -> Any:
        result = connection.execute(text(sql), params)
        return result if self.is_sync else self.portal.run(result)

    def join(self, connection: Any, **kwargs: Any) -> Any:
        if self.is_sync:
            return StateStore.join(connection, **kwargs)
        return Blocking(self.portal, self.portal.run(AsyncStateStore.join(connection, **kwargs)))

    def finish(self, connection: Any, how: str) -> None:
        result = getattr(connection, how)()
        if not self.is_sync:
            self.portal.run(result)

    def orders(self) -> list[str]:
        with self.transaction() as connection:
            return [row[0] for row in self.execute(connection, "SELECT name FROM orders ORDER BY name")]

    def close(self) -> None:
        if isinstance(self.engine, AsyncEngine):
            self.portal.run(self.engine.dispose())
        else:
            self.engine.dispose()


@pytest.fixture
def application(database_url: str, world: str, portal: Portal) -> Iterator[Application]:
    application = Application(database_url, world, portal)
    yield application
    application.close()


JOINS = pytest.mark.parametrize("world", ["sync", "async", "psycopg2", "asyncpg"], indirect=True)
WITHOUT_ENGINE = pytest.mark.parametrize("world", ["sync", "async"], indirect=True)


@JOINS
def test_a_joined_database_without_tables_says_so(empty_database_url: str, world: str, portal: Portal) -> None:
    application = Application(empty_database_url, world, portal)
    try:
        with application.connection() as connection:
            joined = application.join(connection)
            with pytest.raises(SchemaMissingError, match="tables"):
                joined.sessions.find("s")
    finally:
        application.close()


@JOINS
def test_agent_state_commits_with_the_applications_own_rows(store: Store, application: Application) -> None:
    with application.transaction() as connection:
        application.execute(connection, "INSERT INTO orders VALUES ('book')")
        joined = application.join(connection)
        joined.sessions.create("s")
        joined.history.append("s", [NewEntry("ordered a book")])
        joined.state.set("s", "orders", 1)
        joined.sessions.fork("s", "fork")
        assert contents(joined, "fork") == ["ordered a book"]
    assert (contents(store), store.state.get("s", "orders"), application.orders()) == (["ordered a book"], 1, ["book"])


@JOINS
def test_agent_state_is_undone_with_the_applications_own_rows(application: Application, content: Content) -> None:
    def fail() -> None:
        with application.transaction() as connection:
            joined = application.join(connection)
            joined.sessions.create("s")
            joined.history.append("s", [NewEntry("a")])
            application.execute(connection, "INSERT INTO orders VALUES ('book')")
            raise Stop

    with pytest.raises(Stop):
        fail()
    assert not any(content.sizes().values())
    assert application.orders() == []


@JOINS
def test_a_connection_without_a_transaction_gets_one(store: Store, application: Application) -> None:
    with application.connection() as connection:
        application.join(connection).sessions.create("lost")
        application.finish(connection, "rollback")
        application.join(connection).sessions.create("kept")
        application.finish(connection, "commit")
    assert (store.sessions.exists("lost"), store.sessions.exists("kept")) == (False, True)


@JOINS
def test_a_lost_connection_is_what_the_caller_hears_of(postgres_url: str, world: str, portal: Portal) -> None:
    """Not the error of a ROLLBACK that SQLAlchemy sends at the end of the block, on the dead connection."""
    application = Application(postgres_url, world, portal)

    def lose() -> None:
        with application.transaction() as connection:
            joined = application.join(connection)
            [[process]] = application.execute(connection, "SELECT pg_backend_pid()").all()
            with psycopg.connect(postgres_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(CAST(%s AS integer), 5000)", [process])
            joined.sessions.create("s")

    try:
        with pytest.raises(UnavailableError):
            lose()
    finally:
        application.close()


@JOINS
def test_a_connection_that_commits_each_statement_is_refused(application: Application, content: Content) -> None:
    with application.connection(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(InvalidValueError) as caught:
            application.join(connection).sessions.create("s")
        assert "AUTOCOMMIT" in str(caught.value)
    assert not any(content.sizes().values())


@JOINS
def test_something_else_than_a_connection_is_refused(application: Application) -> None:
    for thing in (application.engine, None, "sqlite://"):
        with pytest.raises(InvalidValueError):
            application.join(thing)


@JOINS
def test_joined_operations_have_the_namespace_and_the_clock(
    application: Application, open_store: Callable[..., Store], clock: MovableClock
) -> None:
    clock.advance(days=3)
    with application.transaction() as connection:
        application.join(connection, namespace="ours", clock=clock).sessions.create("s")
    assert open_store(namespace="ours").sessions.get("s").created_at == clock()
    assert not open_store().sessions.exists("s")


@JOINS
def test_what_is_joined_on_sqlite_loses_no_update(application: Application, store: Store) -> None:
    """SQLite's default begins a transaction at the first write only, and what was read before may be old by then."""
    store.sessions.create("s")

    def add() -> None:
        for _ in range(10):
            with application.transaction() as connection:
                joined = application.join(connection)
                joined.sessions.touch("s")
                joined.state.set("s", "n", joined.state.get("s", "n", 0) + 1)

    at_once(*[add] * 4)
    assert store.state.get("s", "n") == 40


@JOINS
def test_a_refusal_leaves_the_callers_transaction_alone(application: Application, store: Store) -> None:
    store.sessions.create("s")
    with application.transaction() as connection:
        application.execute(connection, "INSERT INTO orders VALUES ('book')")
        joined = application.join(connection)
        with pytest.raises(SessionExistsError):
            joined.sessions.create("s")
        with pytest.raises(SessionNotFoundError):
            joined.history.append("missing", [NewEntry(1)])
    assert application.orders() == ["book"]


def test_an_engine_keeps_its_own_isolation_level(database_url: str) -> None:
    engine = sync_engine(database_url)
    with engine.connect() as connection:
        before = connection.get_isolation_level()
    with StateStore(engine) as store:
        store.sessions.create("s")
        with engine.begin() as connection:
            assert connection.get_isolation_level() == before
            connection.execute(text("CREATE TABLE mine (n integer)"))
            connection.execute(text("INSERT INTO mine VALUES (1)"))
            connection.rollback()
        with store.transaction() as tx:
            tx.state.set("s", "k", 1)
    with engine.begin() as connection:
        assert connection.get_isolation_level() == before
        if engine.dialect.name == "postgresql":
            driver: Any = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            assert driver.autocommit is False
    engine.dispose()


def test_a_sound_engine_of_the_callers_serves(database_url: str) -> None:
    engine = sync_engine(database_url)
    with StateStore(engine) as store:
        store.sessions.create("s")
        at_once(*[lambda: [store.state.increment("s", "n") for _ in range(10)]] * 5)
        assert store.state.get("s", "n") == 50
        with store.transaction() as tx:
            tx.state.increment("s", "n")
        assert store.state.get("s", "n") == 51
    engine.dispose()


@pytest.mark.parametrize("missing", ["foreign_keys=ON", "synchronous=FULL", "busy_timeout=30000"])
@pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
def test_an_engine_that_would_lose_data_is_refused_with_the_remedy(
    sqlite_url: str, world: str, portal: Portal, missing: str
) -> None:
    unsafe = {"foreign_keys=ON": "foreign_keys=OFF", "synchronous=FULL": "synchronous=NORMAL"}
    pragma = unsafe.get(missing, "busy_timeout=0")
    pragmas = tuple({"foreign_keys=ON", "synchronous=FULL", "busy_timeout=30000"} - {missing} | {pragma})
    engine: Any
    if world == "sync":
        engine = sync_engine(sqlite_url, pragmas=pragmas)
        store: Any = StateStore(engine)
    else:
        engine = async_engine(sqlite_url, pragmas=pragmas)
        store = Blocking(portal, AsyncStateStore(engine))
    with pytest.raises(InvalidValueError) as caught:
        store.sessions.create("s")
    assert missing.partition("=")[0] in str(caught.value)
    assert "connect" in str(caught.value)
    if world == "sync":
        engine.dispose()
    else:
        portal.run(engine.dispose())
    with Content(sqlite_url) as content:
        assert unsound(content) == []


def test_an_engine_may_ask_for_less_durability(sqlite_url: str) -> None:
    engine = sync_engine(sqlite_url, pragmas=("foreign_keys=ON", "synchronous=NORMAL", "busy_timeout=5000"))
    with StateStore(engine, durability="normal") as store:
        store.sessions.create("s")
    engine.dispose()


def test_something_else_than_an_engine_is_refused(sqlite_url: str) -> None:
    engine = sync_engine(sqlite_url)
    for thing in (sqlite_url, None, engine.connect):
        with pytest.raises(InvalidValueError):
            StateStore(thing)  # type: ignore[arg-type]
        with pytest.raises(InvalidValueError):
            AsyncStateStore(thing)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError):
        AsyncStateStore(engine)  # type: ignore[arg-type]
    engine.dispose()


@pytest.mark.parametrize("world", ["async", "sync"])
def test_a_transaction_never_waits_for_those_who_wait_for_it(postgres_url: str, connect: Callable[..., Any]) -> None:
    store = connect(postgres_url, pool_size=3, pool_timeout=timedelta(seconds=60))
    store.sessions.create("s")
    with ThreadPoolExecutor(12) as pool:
        with store.transaction() as tx:
            tx.state.set("s", "key", "first")
            # More than there are connections: they wait for the row, or for a connection.
            others = [pool.submit(store.state.set, "s", "key", n) for n in range(10)]
            done, _ = wait(others, timeout=0.3)
            assert not done
            tx.state.set("s", "key", "second")
            assert tx.state.get("s", "key") == "second"
        assert len(wait(others, timeout=20).done) == 10
    assert store.state.entry("s", "key").version == 12


def test_operations_of_one_transaction_that_are_called_at_once_do_not_mix(store: Any) -> None:
    store.sessions.create("s")
    with store.transaction() as tx:
        at_once(*[lambda: tx.state.increment("s", "n")] * 10)
        at_once(*[lambda: tx.history.append("s", [NewEntry("x")])] * 10)
    assert store.state.get("s", "n") == 10
    assert [entry.seq for entry in store.history.read("s")] == list(range(1, 11))


def test_what_was_joined_ends_with_its_transaction(database_url: str) -> None:
    engine = sync_engine(database_url)
    with StateStore.open(database_url) as store:
        store.sessions.create("s")
        with engine.connect() as connection:
            with connection.begin():
                tx = StateStore.join(connection)
                tx.state.set("s", "k", 1)
            with pytest.raises(StoreClosedError):
                tx.state.set("s", "k", 2)
        with pytest.raises(StoreClosedError):
            tx.state.get("s", "k")
        assert store.state.get("s", "k") == 1
    engine.dispose()
