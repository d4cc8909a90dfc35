"""Transactions of psycopg2 and asyncpg that are joined: what goes in comes out, and what fails says what it is."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from statestore import (
    AsyncStateStore,
    InvalidValueError,
    NewEntry,
    ReadOnlyError,
    StateStore,
    StoreClosedError,
    UnavailableError,
    Usage,
    deadline,
    migrate,
)
from tests.contract.test_transactions import Application
from tests.support.portal import Portal

Store = Any

pytestmark = pytest.mark.parametrize("world", ["psycopg2", "asyncpg"], indirect=True)


@pytest.fixture
def application(postgres_url: str, world: str, portal: Portal) -> Iterator[Application]:
    application = Application(postgres_url, world, portal)
    yield application
    application.close()


@contextmanager
def joined(application: Application, **options: Any) -> Iterator[Store]:
    with application.transaction() as connection:
        yield application.join(connection, **options)


VALUES = {
    "texts": ["", "ä €", "😀", "it's 100 % \\ \\x41 %(a)s $1 :b ?", '{"a": 1}', "null"],
    "numbers": [0, -1, 32767, 32768, -32769, 2**31, -(2**31) - 1, 2**63, 2**200, 1.5, -0.0, 1e300],
    "others": [None, True, False, [], {}, [[{"k": [None]}]]],
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_are_what_they_were(application: Application, kind: str) -> None:
    values = VALUES[kind]
    with joined(application) as tx:
        tx.sessions.create("s", metadata={"values": values}, title="%s %% ?")
        tx.history.append("s", [NewEntry(value, metadata={"value": value}) for value in values])
        tx.state.set_many("s", {f"k{number:02}": value for number, value in enumerate(values)})
        tx.cache.set_many({f"k{number:02}": value for number, value in enumerate(values)})
        tx.cache.set("bytes", b"\0\xff'\\", tags=["%s", "t"])
        tx.lists.append("s", "l", values)
    with joined(application) as tx:
        assert tx.sessions.get("s").metadata == {"values": values}
        assert [entry.content for entry in tx.history.read("s")] == values
        assert [entry.metadata for entry in tx.history.read("s")] == [{"value": value} for value in values]
        assert list(tx.state.get_all("s").values()) == values
        assert [tx.cache.get(f"k{number:02}") for number in range(len(values))] == values
        assert tx.cache.get("bytes") == b"\0\xff'\\"
        assert tx.cache.invalidate_tag("%s") == 1
        assert tx.lists.read("s", "l") == values


def test_an_engine_is_asked_once_whether_its_tables_are_distributed(application: Application) -> None:
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    engine = getattr(application.engine, "sync_engine", application.engine)
    event.listen(engine, "before_cursor_execute", note)
    for number in range(3):
        with joined(application) as tx:
            tx.sessions.create(f"s{number}")
    assert len([statement for statement in asked if "to_regclass" in statement]) == 1


def test_times_durations_and_money_are_what_they_were(application: Application) -> None:
    at = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)
    usage = Usage(input_tokens=10, output_tokens=5)
    with joined(application) as tx:
        tx.prices.set("m", input_price=Decimal("0.1"), output_price=2, valid_from=date(2026, 1, 1))
        tx.sessions.create("s", ttl=timedelta(days=40, microseconds=1), user_id="u")
        entry = NewEntry("x", created_at=at, usage=usage, request_model="m", duration=timedelta(milliseconds=1.5))
        tx.history.append("s", [entry])
        tx.history.append("s", [NewEntry("y", created_at=at, cost_usd=Decimal("0.0000000001"))])
    with joined(application) as tx:
        assert tx.sessions.get("s").ttl == timedelta(days=40, microseconds=1)
        first, second = tx.history.read("s")
        assert (first.created_at, first.duration) == (at, timedelta(milliseconds=1.5))
        assert (first.cost_usd, second.cost_usd) == (Decimal("0.000011"), Decimal("0.0000000001"))
        [day] = tx.usage.by_day(since=date(2026, 1, 1), until=date(2026, 2, 1))
        assert (day.day, day.cost_usd, day.duration) == (date(2026, 1, 31), Decimal("0.0000110001"), first.duration)


def test_what_the_cache_counts_is_written_when_the_caller_commits(application: Application) -> None:
    for _ in range(2):
        with joined(application) as tx:
            tx.cache.set("k", 1)
            tx.cache.get("k")
            tx.cache.get("missing")
    with joined(application) as tx:
        stats = tx.cache.stats()
    assert (stats.sets, stats.hits, stats.misses) == (2, 2, 2)


def test_a_savepoint_of_the_callers_undoes_what_was_done_since(application: Application) -> None:
    with application.transaction() as connection:
        tx = application.join(connection)
        tx.sessions.create("s")
        application.execute(connection, "SAVEPOINT ours")
        tx.history.append("s", [NewEntry("undone")])
        tx.cache.set("k", 1)
        application.execute(connection, "ROLLBACK TO SAVEPOINT ours")
        tx.history.append("s", [NewEntry("kept")])
    with joined(application) as tx:
        assert [entry.content for entry in tx.history.read("s")] == ["kept"]
        assert tx.cache.get("k") is None


def test_what_the_server_refuses_is_told_by_its_code_alone(application: Application) -> None:
    with application.connection() as connection:
        tx = application.join(connection)
        application.execute(connection, "SET TRANSACTION READ ONLY")
        with pytest.raises(ReadOnlyError) as raised:
            tx.sessions.create("s")
    assert raised.value.code == "25006"
    context: BaseException | None = raised.value
    while context is not None:
        assert type(context).__module__.startswith("statestore")
        context = context.__context__


def test_a_lost_connection_is_unavailable_and_nobody_gets_it_again(application: Application, postgres_url: str) -> None:
    with application.connection() as connection:
        tx = application.join(connection)
        [[process]] = application.execute(connection, "SELECT pg_backend_pid()").all()
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(CAST(%s AS integer), 5000)", [process])
        for _ in range(2):
            with pytest.raises(UnavailableError):
                tx.sessions.find("s")
    with joined(application) as tx:
        tx.sessions.create("s")


def test_a_connection_that_the_caller_has_lost_is_lost_for_a_join(application: Application) -> None:
    with application.connection() as connection:
        tx = application.join(connection)
        application.finish(connection, "invalidate")
        with pytest.raises(StoreClosedError, match="is lost; join another transaction"):
            tx.sessions.find("s")


def test_a_call_ends_at_its_deadline_and_nothing_is_done(application: Application, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE statestore.sessions")
        with application.connection() as connection:
            tx = application.join(connection)
            with deadline(0.1), pytest.raises(UnavailableError):
                tx.sessions.create("s")
    with joined(application) as tx:
        assert not tx.sessions.exists("s")


def test_what_may_not_write_can_be_read_without_a_lock(application: Application) -> None:
    with joined(application) as tx:
        tx.sessions.create("s")
    with application.connection(postgresql_readonly=True) as connection:
        assert application.join(connection).sessions.get("s").session_id == "s"


def test_a_migration_of_the_callers_takes_the_connection(empty_postgres_url: str, world: str, portal: Portal) -> None:
    application = Application(empty_postgres_url, world, portal)
    try:
        with application.transaction() as connection:
            if application.is_sync:
                migrate.upgrade(connection)
            else:
                portal.run(connection.run_sync(migrate.upgrade))
        assert migrate.differences(empty_postgres_url) == []
        with joined(application) as tx:
            tx.sessions.create("s")
    finally:
        application.close()


def test_a_store_of_its_own_is_refused_with_the_remedy(application: Application) -> None:
    kind: Callable[..., Any] = StateStore if application.is_sync else AsyncStateStore
    with pytest.raises(InvalidValueError, match=r"^engine: postgresql\+.* serves only `join`.*StateStore\.open"):
        kind(application.engine)


SCRIPTS = {
    "psycopg2": """
import sys
sys.modules["psycopg"] = None
from sqlalchemy import create_engine, make_url
from statestore import NewEntry, StateStore
with create_engine(make_url(sys.argv[1]).set(drivername="postgresql+psycopg2")).begin() as connection:
    tx = StateStore.join(connection)
    tx.sessions.create("s")
    tx.history.append("s", [NewEntry("a")])
    print(tx.history.read("s")[0].content)
""",
    "asyncpg": """
import asyncio, sys
sys.modules["psycopg"] = None
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from statestore import AsyncStateStore, NewEntry
async def main():
    engine = create_async_engine(make_url(sys.argv[1]).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        tx = await AsyncStateStore.join(connection)
        await tx.sessions.create("s")
        await tx.history.append("s", [NewEntry("a")])
        print((await tx.history.read("s"))[0].content)
    await engine.dispose()
asyncio.run(main())
""",
}


def test_psycopg_need_not_be_there(postgres_url: str, world: str) -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPTS[world], postgres_url], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("a\n", "")
