"""A database goes on to the next test only if nothing of the one before is left in it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import pytest

from statestore import StateStore
from tests.postgres import PostgresServer
from tests.support.clones import MOST_ROWS, Clones, is_looking
from tests.support.content import Content


@pytest.fixture
def clones(postgres: PostgresServer, template_database: str) -> Iterator[Clones]:
    with closing(Clones(postgres, template_database)) as clones:
        yield clones


def connected(postgres: PostgresServer, name: str) -> "psycopg.Connection[Any]":
    return psycopg.connect(postgres.url(name), autocommit=True, options="-c search_path=statestore")


def use(clones: Clones, postgres: PostgresServer, *statements: str) -> str:
    """What a test does that executes *statements*; the name of its database."""
    with clones.database() as name, connected(postgres, name) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]
    return name


def contents(postgres: PostgresServer, name: str) -> dict[str, Any]:
    with Content(postgres.url(name)) as content:
        return content.snapshot() | {"alembic": content.rows_of("statestore_alembic_version")}


def test_the_next_test_finds_no_rows(clones: Clones, postgres: PostgresServer, template_database: str) -> None:
    empty = contents(postgres, template_database)
    with clones.database() as first:
        with StateStore.open(postgres.url(first)) as store:
            store.sessions.create("s")
            store.history.append("s", [{"role": "user", "content": "a" * 100_000}])
            store.sessions.fork("s", new_session_id="fork")
            store.state.set("s", "key", "value")
            store.user_state.set("u", "key", "value")
            store.cache.set("key", "value", tags=["tag"])
        assert sum(len(rows) for rows in contents(postgres, first).values()) >= sum(map(len, empty.values())) + 8
    with clones.database() as second:
        assert second == first, "it was dropped, so nothing is shown"
        assert contents(postgres, second) == empty


DATABASE = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {}', current_database()); END $$"


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE sessions ADD COLUMN colour text"],
        ["ALTER TABLE sessions ADD COLUMN colour text", "ALTER TABLE sessions DROP COLUMN colour"],
        ["ALTER TABLE sessions SET (autovacuum_enabled = off)"],
        ["ALTER TABLE state_entries DISABLE TRIGGER ALL"],
        ["DROP INDEX uq_history_entries_entry_id"],
        ["CREATE TABLE mine (n integer)"],
        ["CREATE SEQUENCE mine"],
        ["CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'"],
        ["CREATE TEMPORARY TABLE mine (n integer)"],
        ["GRANT SELECT ON sessions TO PUBLIC"],
        ["COMMENT ON TABLE sessions IS 'mine'"],
        ["SELECT lo_create(0)"],
        ["TRUNCATE cache_entries CASCADE"],
        ["ANALYZE sessions"],
        ["VACUUM sessions"],
        ["UPDATE statestore_alembic_version SET oldest_code = oldest_code"],
        [DATABASE.format("SET timezone TO ''Europe/Berlin''")],
        [DATABASE.format("CONNECTION LIMIT 7")],
        [f"INSERT INTO store_settings (namespace, name, value) SELECT n, '', 1 FROM generate_series(0, {MOST_ROWS}) n"],
    ],
    ids=lambda statements: statements[-1][:60],
)  # fmt: skip
def test_the_next_test_gets_another_database_if_more_than_a_few_rows_was_changed(
    clones: Clones, postgres: PostgresServer, statements: list[str]
) -> None:
    assert use(clones, postgres, *statements) != use(clones, postgres)


def test_what_was_rolled_back_is_nothing(clones: Clones, postgres: PostgresServer) -> None:
    name = use(clones, postgres, "BEGIN", "DELETE FROM sessions", "ROLLBACK", "SELECT 1")
    assert name == use(clones, postgres) == use(clones, postgres)


@pytest.mark.parametrize(
    "doing", ["SELECT 1", "BEGIN; LOCK TABLE sessions", "SELECT pg_advisory_lock(1)", "LISTEN mine"]
)
def test_the_next_test_gets_another_database_if_a_connection_was_left_open(
    clones: Clones, postgres: PostgresServer, doing: str
) -> None:
    with clones.database() as first:
        connection = connected(postgres, first)
        connection.execute(doing)  # type: ignore[call-overload]
    with clones.database() as second, closing(connection):
        assert second != first
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_the_next_test_gets_another_database_while_somebody_is_still_connecting(
    clones: Clones, postgres: PostgresServer
) -> None:
    goes_on = Event()
    with clones.database() as first:
        thread = Thread(target=goes_on.wait, name="statestore-connecting", daemon=True)
        thread.start()
    with clones.database() as second:
        goes_on.set()
        assert second != first
    thread.join()


def test_the_next_test_gets_another_database_if_all_connections_were_ended(
    clones: Clones, postgres: PostgresServer
) -> None:
    ended = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
    assert use(clones, postgres, f"{ended} AND pid <> pg_backend_pid()") != use(clones, postgres)


def test_a_dropped_database_is_gone(clones: Clones, postgres: PostgresServer) -> None:
    name = use(clones, postgres, "CREATE TABLE mine (n integer)")
    with pytest.raises(psycopg.OperationalError):
        connected(postgres, name)


def test_when_all_is_over_no_database_is_left(postgres: PostgresServer, template_database: str) -> None:
    with closing(Clones(postgres, template_database)) as clones:
        name = use(clones, postgres)
    with pytest.raises(psycopg.OperationalError):
        connected(postgres, name)


@pytest.mark.parametrize(
    "text", ["content.query('SELECT pid FROM pg_stat_activity')", "content.explain(sql)", "process.kill()"]
)
def test_those_who_look_at_more_than_rows_get_a_new_database(text: str, tmp_path: Path) -> None:
    (tmp_path / "test_looking.py").write_text(text)
    (tmp_path / "test_others.py").write_text("store.sessions.create('s')")
    assert is_looking(tmp_path / "test_looking.py")
    assert not is_looking(tmp_path / "test_others.py")
