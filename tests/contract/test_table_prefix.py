"""A store in the SQLite file of an application whose own tables are called as ours are."""

import gc
import io
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from statestore import (
    AsyncStateStore,
    InvalidValueError,
    LazyStore,
    NewEntry,
    SchemaMissingError,
    StateStore,
    Usage,
    doctor,
    migrate,
)
from statestore.engine.sql import Dialect
from statestore.schema import prefixes
from statestore.shared_prices import prices_of
from tests.statements.collecting import collect
from tests.support.clock import MovableClock
from tests.support.engines import async_engine, sync_engine
from tests.support.portal import Blocking, Portal
from tests.support.worlds import entering, export_sessions, import_sessions

Store = Any

WORLDS = pytest.mark.parametrize("world", ["sync", "async", "engine"], indirect=True)
IN_WORLDS = pytest.mark.parametrize("world", ["sync", "async"], indirect=True)

# Each relation of ours once more, as the application's: with a column that none of ours has.
THEIRS = "".join(f"CREATE TABLE {name} (theirs TEXT); INSERT INTO {name} VALUES ('x');" for name in prefixes.RELATIONS)


def copied(template: Path, folder: Path) -> str:
    return f"sqlite:///{shutil.copyfile(template, folder / 'app.db')}"


def executed(url: str, sql: str) -> list[Any]:
    with closing(sqlite3.connect(str(make_url(url).database))) as connection:
        if ";" in sql:
            connection.executescript(sql)
            return []
        return connection.execute(sql).fetchall()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("host") / "app.db"
    executed(f"sqlite:///{path}", THEIRS)
    migrate.upgrade(f"sqlite:///{path}", table_prefix="app_")
    return path


@pytest.fixture
def prefixed_url(template: Path, tmp_path: Path) -> Iterator[str]:
    """A file with tables of an application's, which are as they were after the test, and ours beside them."""
    url = copied(template, tmp_path)
    yield url
    for name in prefixes.RELATIONS:
        assert executed(url, f"SELECT theirs FROM {name}") == [("x",)]


def used(store: Store) -> None:
    """A bit of everything."""
    store.prices.set("gpt-x", input_price=1, output_price=2)
    store.sessions.create("s", user_id="u", ttl=timedelta(days=1))
    said = [
        {"role": "user", "content": "Hi"},
        NewEntry("Hello", role="assistant", request_model="gpt-x", usage=Usage(input_tokens=10, output_tokens=5)),
    ]
    store.history.append("s", said)
    store.history.append("s", [NewEntry(str(number)) for number in range(3)])
    store.sessions.fork("s", "fork", at_seq=2)
    store.history.add_summary("s", "said hello", start_seq=1, end_seq=2)
    store.history.pop_last("s")
    store.state.set("s", "k", 1)
    store.state.increment("s", "n")
    store.lists.append("s", "todo", ["a"])
    store.user_state.set("u", "k", 1)
    store.cache.set("k", "v", tags=["t"])
    store.cache.invalidate_tag("t")
    store.cache.set("k", "w")
    store.sessions.update("fork", title="Forked")
    with store.transaction() as tx:
        tx.history.append("fork", [NewEntry("in one")])
        tx.state.set("fork", "k", 2)
    with entering(store, store.turn("s")) as turn:
        turn.append([{"role": "user", "content": "More"}])


def reported(store: Store) -> list[Any]:
    return [
        store.usage.by_day(),
        store.usage.by_session(),
        store.usage.by_user(),
        store.usage.by_model(),
        store.sessions.page().sessions,
        store.history.read("s"),
        store.state.get_all("s"),
    ]


@WORLDS
def test_an_application_with_tables_of_these_names_holds_the_store(
    prefixed_url: str, connect: Callable[..., Store], clock: MovableClock
) -> None:
    store = connect(prefixed_url, table_prefix="app_", clock=clock)
    used(store)
    before = reported(store)
    assert [one.entries for one in before[1]] == [6, 1]
    store.sweep()
    clock.advance(days=2)
    store.sweep()
    assert store.sweep().complete
    assert store.usage.by_day()[0].entries == before[0][0].entries
    assert not store.sessions.exists("s")
    store.sessions.delete_user("u")
    assert {name for (name,) in executed(prefixed_url, "SELECT session_id FROM app_sessions")} == set()


@IN_WORLDS
def test_it_is_made_there_only_if_that_is_wanted(prefixed_url: str, connect: Callable[..., Store]) -> None:
    with pytest.raises(SchemaMissingError, match=r"create=True.* --table-prefix b_"):
        connect(prefixed_url, table_prefix="b_")
    connect(prefixed_url, table_prefix="b_", create=True).sessions.create("s")
    assert connect(prefixed_url, table_prefix="b_").sessions.exists("s")
    assert not connect(prefixed_url, table_prefix="app_").sessions.exists("s")


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_two_prefixes_and_none_in_one_file_know_nothing_of_each_other(
    sqlite_url: str, connect: Callable[..., Store]
) -> None:
    prefixes = ("", "a_", "a_b_")
    stores = [connect(sqlite_url, table_prefix=prefix, create=True) for prefix in prefixes]
    for store, prefix in zip(stores, prefixes, strict=True):
        store.sessions.create("s", title=prefix or "none")
        store.cache.set("k", prefix)
    for store, prefix in zip(stores, prefixes, strict=True):
        assert [one.title for one in store.sessions.page().sessions] == [prefix or "none"]
        assert store.cache.get("k") == prefix
        assert migrate.differences(sqlite_url, table_prefix=prefix) == []
    migrate.downgrade(sqlite_url, "base", table_prefix="a_")
    assert [store.sessions.count() for store in (stores[0], stores[2])] == [1, 1]


def test_a_comparison_closes_all_that_it_opened(prefixed_url: str) -> None:
    """A connection left to the garbage collector is a ResourceWarning of Python 3.13, in whatever runs just then."""
    gc.collect()
    before = {id(one) for one in gc.get_objects() if isinstance(one, sqlite3.Connection)}
    gc.disable()
    try:
        assert migrate.differences(prefixed_url, table_prefix="app_") == []
        left = [one for one in gc.get_objects() if isinstance(one, sqlite3.Connection) and id(one) not in before]
        for one in left:
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                one.execute("SELECT 1")
    finally:
        gc.enable()


@IN_WORLDS
def test_sessions_move_between_a_file_with_a_prefix_and_one_without(
    prefixed_url: str, sqlite_url: str, connect: Callable[..., Store]
) -> None:
    store, other = connect(prefixed_url, table_prefix="app_"), connect(sqlite_url, table_prefix="")
    store.sessions.create("s")
    store.history.append("s", [NewEntry(1)])
    file = io.BytesIO()
    assert export_sessions(store, file).sessions == 1
    file.seek(0)
    assert import_sessions(other, file).sessions == 1
    other.history.append("s", [NewEntry(2)])
    store.sessions.delete("s")
    file = io.BytesIO()
    export_sessions(other, file)
    file.seek(0)
    import_sessions(store, file)
    assert [entry.content for entry in store.history.read("s")] == [1, 2]


@IN_WORLDS
def test_a_database_in_memory_may_have_one(connect: Callable[..., Store]) -> None:
    store = connect("sqlite://", table_prefix="app_")
    used(store)
    assert store.sessions.count() == 2


@IN_WORLDS
def test_a_transaction_of_the_application_s_is_joined(prefixed_url: str, world: str, portal: Portal) -> None:
    if world == "sync":
        engine = sync_engine(prefixed_url)
        with engine.begin() as connection:
            used_by = StateStore.join(connection, table_prefix="app_")
            used_by.sessions.create("s")
            assert connection.exec_driver_sql("SELECT count(*) FROM app_sessions").scalar() == 1
            with pytest.raises(SchemaMissingError, match=r"upgrade\(connection, table_prefix='b_'\)"):
                StateStore.join(connection, table_prefix="b_").sessions.find("s")
        engine.dispose()
        return
    on_loop = async_engine(prefixed_url)
    with portal.enter(on_loop.begin()) as connection:
        Blocking(portal, portal.run(AsyncStateStore.join(connection, table_prefix="app_"))).sessions.create("s")
    portal.run(on_loop.dispose())
    assert executed(prefixed_url, "SELECT session_id FROM app_sessions") == [("s",)]


def test_a_lazy_store_and_the_prices_of_all_take_it_too(prefixed_url: str) -> None:
    lazy = LazyStore(prefixed_url, table_prefix="app_")
    lazy.sync().sessions.create("s")
    lazy.close()
    engine = sync_engine(prefixed_url)
    prices_of(engine, table_prefix="app_").set("gpt-x", input_price=1, output_price=2)
    engine.dispose()
    assert executed(prefixed_url, "SELECT model FROM app_model_prices") == [("gpt-x",)]


def test_no_statement_is_about_another_table(prefixed_url: str) -> None:
    """Of the application's tables it would say that they have no such column."""
    dialect = Dialect("sqlite", table_prefix="app_")
    with closing(sqlite3.connect(str(make_url(prefixed_url).database))) as connection:
        for one in collect():
            if sql := one.statement.render(dialect):
                connection.execute(f"EXPLAIN {sql}", dict.fromkeys(_names(sql)))


def _names(sql: str) -> list[str]:
    return re.findall(r"(?<![:\w]):([a-z_][a-z0-9_]*)", sql)


def test_doctor_examines_those_with_the_prefix_and_mends_them(prefixed_url: str) -> None:
    assert doctor.examine(prefixed_url, table_prefix="app_", only=["schema", "tables", "indexes"]).verdict == "ok"
    executed(prefixed_url, "DROP INDEX app_ix_sessions_namespace_active_hour;")
    [found] = [one for one in doctor.examine(prefixed_url, table_prefix="app_") if one.check == "indexes"]
    assert str(found.remedy).endswith(" --table-prefix app_")
    mended = doctor.mend(prefixed_url, "indexes", table_prefix="app_")
    assert [one.verdict for one in mended.findings] == ["ok"]
    assert migrate.differences(prefixed_url, table_prefix="app_") == []
    [missing] = [one for one in doctor.examine(prefixed_url, table_prefix="b_") if one.verdict == "fail"]
    assert (missing.check, missing.remedy) == (
        "schema",
        f"statestore migrate up --url {prefixed_url} --table-prefix b_",
    )


def test_on_postgresql_it_is_refused_and_the_schema_named() -> None:
    url = "postgresql://nobody@192.0.2.1/nowhere"
    engine = sync_engine(url)
    asked: list[Callable[[], Any]] = [
        lambda: StateStore.open(url, table_prefix="app_"),
        lambda: LazyStore(url, table_prefix="app_"),
        lambda: StateStore(engine, table_prefix="app_"),
        lambda: doctor.examine(url, table_prefix="app_"),
    ]
    for ask in asked:
        with pytest.raises(InvalidValueError, match=r"^table_prefix: .*schema='app'"):
            ask()


@pytest.mark.parametrize("wrong", ["App_", "a b", "sqlite_", None, 1])
def test_a_wrong_prefix_is_refused_before_anything_is_opened(empty_sqlite_url: str, wrong: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"^table_prefix: "):
        StateStore.open(empty_sqlite_url, table_prefix=wrong)
