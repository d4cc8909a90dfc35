"""Who listens to SQLAlchemy's events, or has an engine echo, hears the statements of a store."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import IntegrityError

from statestore import AsyncStateStore, DatabaseError, NewEntry, SessionExistsError, StateStore
from statestore.engine.cursor_events import HeardCursor
from statestore.engine.execution import Borrowed
from tests.contract.test_transactions import Application
from tests.support.engines import async_engine, sync_engine
from tests.support.portal import BlockingStore, Portal
from tests.support.wire import Traffic

Store = Any
Heard = list[tuple[Any, ...]]

ARGUMENTS = ("conn", "cursor", "statement", "parameters", "context", "executemany")


@pytest.fixture(params=["sync", "async", "engine", "async engine"])
def made(request: pytest.FixtureRequest, portal: Portal) -> Iterator[Callable[..., Store]]:
    """A store on an engine of its own, or on one of the caller's that was made with some options."""
    with ExitStack() as stack:

        def make(url: str, **options: Any) -> Store:
            if request.param == "engine":
                engine = sync_engine(url, **options)
                stack.callback(engine.dispose)
                store: Any = StateStore(engine)
            elif request.param == "async engine":
                theirs = async_engine(url, **options)
                stack.callback(lambda: portal.run(theirs.dispose()))
                store = BlockingStore(portal, AsyncStateStore(theirs))
            else:
                assert not options, "a store's own engine takes none"
                store = StateStore.open(url) if request.param == "sync" else BlockingStore.open(portal, url)
            stack.callback(store.close)
            return store

        yield make


@contextmanager
def listening(name: str, listener: Callable[..., Any], **how: Any) -> Iterator[None]:
    event.listen(Engine, name, listener, **how)
    try:
        yield
    finally:
        event.remove(Engine, name, listener)


@contextmanager
def hearing() -> Iterator[tuple[Heard, Heard]]:
    before: Heard = []
    after: Heard = []

    def note_before(conn: Any, cursor: Any, statement: Any, parameters: Any, context: Any, executemany: Any) -> None:
        before.append((conn, cursor, statement, parameters, context, executemany))

    def note_after(conn: Any, cursor: Any, statement: Any, parameters: Any, context: Any, executemany: Any) -> None:
        after.append((conn, cursor, statement, parameters, context, executemany))

    with listening("before_cursor_execute", note_before), listening("after_cursor_execute", note_after):
        yield before, after


def words(n: int) -> list[NewEntry]:
    return [NewEntry({"role": "user", "content": f"word {index}"}) for index in range(n)]


def test_who_listens_hears_every_statement(made: Callable[..., Store], traffic: Traffic) -> None:
    store = made(traffic.url)
    store.sessions.create("s")
    with hearing() as (before, after):
        store.history.append("s", words(2))  # What is looked at once, at the first connection, is over.
        before.clear(), after.clear(), traffic.clear()
        store.history.append("s", words(2))
        store.history.read("s", last=1)
        with store.transaction() as tx:
            tx.state.set("s", "n", 1)
        told = [statement for _, _, statement, _, _, _ in before]
        # The wire counts an execution for each row, and no pragmas.
        executions = sum(len(found[3]) if found[5] else 1 for found in before if not found[2].startswith("PRAGMA"))
        assert executions == len(traffic.statements) > 4
    assert any("history_entries" in statement for statement in told)
    assert any(statement.startswith("BEGIN") for statement in told)
    assert [arguments[2:4] for arguments in before] == [arguments[2:4] for arguments in after]
    before.clear()
    store.history.read("s")
    assert before == []


def test_listeners_get_what_sqlalchemy_documents(made: Callable[..., Store], database_url: str) -> None:
    store = made(database_url)
    store.sessions.create("s", title="a title")
    with hearing() as (before, after):
        store.sessions.get("s")
    conn, cursor, statement, parameters, context, executemany = dict(zip(ARGUMENTS, before[-1], strict=True)).values()
    assert isinstance(conn, Connection)
    assert conn.engine.url.database in database_url
    assert "SELECT" in statement
    assert parameters["session_id"] == "s"
    assert executemany is False
    assert (context.engine, context.connection, context.cursor) == (conn.engine, conn, cursor)
    assert (context.statement, context.parameters, context.executemany) == (statement, [parameters], False)
    assert (context.isinsert, context.compiled, context.dialect) == (False, None, conn.dialect)
    assert context.execution_options is conn.get_execution_options()
    assert after[-1][4] is context
    context.their_own_note = 1


def test_many_rows_come_as_executemany(made: Callable[..., Store], sqlite_url: str) -> None:
    store = made(sqlite_url)
    store.sessions.create("s")
    with hearing() as (before, _):
        store.history.append("s", words(700))
    many = [(parameters, context) for _, _, _, parameters, context, executemany in before if executemany]
    assert sum(len(parameters) for parameters, _ in many) == 700
    assert all(context.executemany and context.parameters is parameters for parameters, context in many)
    assert store.history.count("s") == 700


def test_a_listener_may_change_what_is_sent(made: Callable[..., Store], traffic: Traffic) -> None:
    store = made(traffic.url)
    store.sessions.create("s")

    def comment(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: Any) -> Any:
        return f"{statement} /* by them */", parameters

    with listening("before_cursor_execute", comment, retval=True):
        store.sessions.get("s")
        traffic.clear()
        assert store.sessions.get("s").session_id == "s"
    assert "/* by them */" in traffic.statements[-1]


def test_listeners_hear_of_errors_and_do_not_change_them(made: Callable[..., Store], database_url: str) -> None:
    store = made(database_url)
    store.sessions.create("s")
    failures: list[Any] = []

    def note(context: Any) -> None:
        failures.append(context)
        raise RuntimeError("theirs")

    def fail(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: Any) -> Any:
        context.their_span = "open"
        return statement.replace("SELECT", "SELEKT", 1), parameters

    with (
        listening("handle_error", note),
        listening("before_cursor_execute", fail, retval=True),
        pytest.raises(DatabaseError, match="refused the statement"),
    ):
        store.sessions.get("s")
    [failure] = failures
    assert failure.execution_context.their_span == "open"
    assert failure.original_exception is not None
    assert failure.sqlalchemy_exception.orig is failure.original_exception
    assert "SELEKT" in failure.statement
    assert failure.parameters["session_id"] == "s"
    assert not failure.is_disconnect
    assert store.sessions.get("s").session_id == "s"


def test_what_loses_a_race_is_heard_as_an_error(made: Callable[..., Store], database_url: str) -> None:
    store = made(database_url)
    store.sessions.create("s")
    failures: list[Any] = []
    with listening("handle_error", failures.append), hearing(), pytest.raises(SessionExistsError):
        store.sessions.create("s")
    assert all(isinstance(failure.sqlalchemy_exception, IntegrityError) for failure in failures)


@pytest.mark.parametrize("made", ["engine", "async engine"], indirect=True)
@pytest.mark.parametrize("hidden", [False, True])
def test_echo_shows_statements_and_parameters(
    made: Callable[..., Store], database_url: str, caplog: pytest.LogCaptureFixture, hidden: bool
) -> None:
    store = made(database_url, echo=True, hide_parameters=hidden)
    store.sessions.create("their session")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="sqlalchemy.engine"):
        store.sessions.get("their session")
    records = [record for record in caplog.records if record.name.startswith("sqlalchemy.engine")]
    assert any("SELECT" in record.getMessage() and "sessions" in record.getMessage() for record in records)
    assert ("their session" in caplog.text) != hidden
    assert ("hidden due to hide_parameters=True" in caplog.text) == hidden


def test_the_level_of_sqlalchemys_logger_shows_statements_too(
    made: Callable[..., Store], database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="sqlalchemy.engine"):
        store = made(database_url)
        store.sessions.create("s")
        caplog.clear()
        store.sessions.get("s")
        assert "SELECT" in caplog.text


@pytest.mark.parametrize("world", ["sync", "engine"], indirect=True)
def test_who_listens_hears_what_is_joined(database_url: str, world: str, portal: Portal) -> None:
    application = Application(database_url, world, portal)
    with hearing() as (before, _), application.transaction() as connection:
        joined = application.join(connection)
        joined.sessions.create("s")
    plain = connection if world == "sync" else connection.sync_connection
    assert [conn for conn, _, statement, *_ in before if "sessions" in statement] == [plain] * sum(
        "sessions" in found[2] for found in before
    )
    assert any("sessions" in found[2] for found in before)
    application.close()


def test_without_listeners_cursors_are_the_drivers_own(database_url: str) -> None:
    engine = sync_engine(database_url)
    with engine.connect() as connection:
        event.listen(connection, "commit", lambda conn: None)
        assert not isinstance(Borrowed(connection).cursor(), HeardCursor)
        event.listen(connection, "before_cursor_execute", lambda *arguments: None)
        assert isinstance(Borrowed(connection).cursor(), HeardCursor)
    engine.dispose()


def test_a_store_deletes_and_gives_space_back_while_it_is_heard(sqlite_url: str) -> None:
    with StateStore.open(sqlite_url) as store, hearing() as (before, _):
        store.sessions.create("s", user_id="ada")
        store.history.append("s", words(3))
        assert store.sessions.delete_user("ada").entries == 3  # Empties the log of the file, too.
    assert any("wal_checkpoint" in statement for _, _, statement, *_ in before)


def test_when_nobody_listens_any_longer_cursors_are_the_drivers_own(sqlite_url: str) -> None:
    with StateStore.open(sqlite_url) as store:
        with hearing(), store._database.connected() as connection:
            assert isinstance(connection.cursor(), HeardCursor)
        with store._database.connected() as connection:
            assert not isinstance(connection.cursor(), HeardCursor)
