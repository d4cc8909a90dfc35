"""The tables that the migrations make are those that the code works with."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection, inspect
from sqlalchemy.schema import CreateSchema

from statestore import errors, migrate
from statestore.schema import HEAD_REVISION, VERSION_TABLE, metadata
from tests.migrations.databases import connected, prefix, reads_quotes, rows, structure


def comparable(found: dict[str, Any]) -> dict[str, Any]:
    """Without what only the migrations make: Alembic's table, views, and how the server is to store the rows."""
    if "columns" not in found:
        ours = {name: parts for name, parts in found.items() if name != VERSION_TABLE}
        return {
            name: parts for name, parts in ours.items() if not parts[0].startswith(("CREATE VIEW", "CREATE TRIGGER"))
        }
    found = {kind: [row for row in lines if VERSION_TABLE not in row[0]] for kind, lines in found.items()}
    columns = [row[:-1] for row in found["columns"]]
    return {**found, "columns": columns, "options": [], "views": []}


def test_a_migrated_database_equals_one_made_from_the_model(database_url: str, tmp_path: Path) -> None:
    if database_url.startswith("sqlite"):
        other, schema = f"sqlite:///{tmp_path / 'model.db'}", ""
        with connected(other) as connection:
            metadata.create_all(connection)
    else:
        other, schema = database_url, "model"
        with connected(other) as connection:
            connection.execute(CreateSchema(schema))
            metadata.create_all(connection.execution_options(schema_translate_map={None: schema}))
    migrated, modelled = comparable(structure(database_url)), comparable(structure(other, schema))
    assert migrated
    assert migrated == modelled


def test_pages_of_sessions_have_room_for_updates_in_place(postgres_url: str) -> None:
    early = ["autovacuum_vacuum_scale_factor=0.05", "autovacuum_analyze_scale_factor=0.05"]
    options = dict(structure(postgres_url)["options"])
    assert options["sessions"] == str(["fillfactor=70", *early])
    changing = ("history_entries", "state_entries", "cache_entries", "cache_tags", "cache_claims")
    assert {options[table] for table in changing} == {str(early)}


def test_no_differences_are_reported(database_url: str) -> None:
    assert migrate.differences(database_url) == []


INDEX = min(str(index.name) for index in metadata.tables["sessions"].indexes)

PLANTED = {
    f"DROP INDEX {{t}}{INDEX}": f"index sessions.{INDEX}: missing",
    "CREATE INDEX extra ON {on}summaries (created_at)": "index summaries.extra: not expected",
    "ALTER TABLE {t}summaries ADD COLUMN extra TEXT": "column summaries.extra: not expected",
    "DROP TABLE {t}state_entries": "table state_entries: missing",
}

PLANTED_ON_POSTGRESQL = {
    "ALTER TABLE {t}summaries ALTER token_count TYPE integer": (
        "column summaries.token_count: type is INTEGER, not BIGINT"
    ),
    "ALTER TABLE {t}sessions ALTER metadata TYPE jsonb": "column sessions.metadata: type is JSONB, not JSON",
    "ALTER TABLE {t}sessions ALTER expires_at TYPE timestamp": (
        "column sessions.expires_at: type is TIMESTAMP WITHOUT TIME ZONE, not TIMESTAMP WITH TIME ZONE"
    ),
    "ALTER TABLE {t}sessions ALTER metadata DROP DEFAULT": "column sessions.metadata: default is None, not {}",
    "ALTER TABLE {t}sessions ALTER status SET DEFAULT 'busy'": (
        "column sessions.status: default is 'busy'::character varying, not ready"
    ),
    "ALTER TABLE {t}history_entries ALTER created_at DROP NOT NULL": (
        "column history_entries.created_at: nullable is True, not False"
    ),
    "ALTER TABLE {t}sessions DROP CONSTRAINT ck_sessions_ttl": "check sessions.ck_sessions_ttl: missing",
    "ALTER TABLE {t}sessions ADD CONSTRAINT odd CHECK (true)": "check sessions.odd: not expected",
    "ALTER TABLE {t}summaries DROP CONSTRAINT fk_summaries_namespace_session_id": (
        "fk summaries.fk_summaries_namespace_session_id: missing"
    ),
}


@pytest.mark.parametrize("planted", PLANTED, ids=lambda statement: statement.replace("{t}", "").replace("{on}", ""))
def test_a_difference_is_found(database_url: str, planted: str) -> None:
    plant(database_url, planted)
    assert PLANTED[planted] in migrate.differences(database_url)


@pytest.mark.parametrize("planted", PLANTED_ON_POSTGRESQL, ids=lambda statement: statement.replace("{t}", ""))
def test_a_difference_is_found_on_postgresql(postgres_url: str, planted: str) -> None:
    plant(postgres_url, planted)
    assert PLANTED_ON_POSTGRESQL[planted] in migrate.differences(postgres_url)


def plant(url: str, statement: str) -> None:
    with connected(url) as connection:
        drop_views(connection)
        connection.exec_driver_sql(statement.format(t=prefix(url), on=prefix(url)))


def drop_views(connection: Connection, schema: str = "statestore") -> None:
    """PostgreSQL leaves alone what a view stands on."""
    if connection.dialect.name == "postgresql":
        for view in inspect(connection).get_view_names(schema=schema):
            connection.exec_driver_sql(f"DROP VIEW IF EXISTS {schema}.{view} CASCADE")


def test_tables_of_others_are_left_alone(empty_database_url: str) -> None:
    url = empty_database_url
    foreign = ["CREATE TABLE alembic_version (version_num VARCHAR(32))", "CREATE TABLE users (id INTEGER PRIMARY KEY)"]
    if url.startswith("postgresql"):
        # A schema that was there before, with a table and a view of its own, and tables named as ours elsewhere.
        foreign += ["CREATE SCHEMA statestore", "CREATE TABLE statestore.notes (id INTEGER)"]
        foreign += ["CREATE TABLE sessions (id INTEGER)", "CREATE VIEW statestore.names AS SELECT 1 AS id"]
    with connected(url) as connection:
        for statement in foreign:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('theirs')")

    migrate.upgrade(url)
    assert migrate.check(url).revision == HEAD_REVISION
    assert migrate.differences(url) == []
    migrate.downgrade(url, "base")

    with connected(url) as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "theirs"
        connection.exec_driver_sql("SELECT id FROM users")
        if url.startswith("postgresql"):
            connection.exec_driver_sql("SELECT * FROM statestore.notes, statestore.names, sessions")


@pytest.mark.parametrize("comment", ["ours", "theirs"])
def test_an_empty_schema_is_dropped_only_if_statestore_made_it(empty_postgres_url: str, comment: str) -> None:
    if comment == "theirs":
        with connected(empty_postgres_url) as connection:
            connection.execute(CreateSchema("statestore"))
    migrate.upgrade(empty_postgres_url)
    migrate.downgrade(empty_postgres_url, "base")
    with connected(empty_postgres_url) as connection:
        found = connection.exec_driver_sql("SELECT 1 FROM pg_namespace WHERE nspname = 'statestore'").scalar()
    assert bool(found) is (comment == "theirs")


def test_what_others_put_into_our_schema_keeps_it(postgres_url: str) -> None:
    with connected(postgres_url) as connection:
        connection.exec_driver_sql("CREATE FUNCTION statestore.one() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    migrate.downgrade(postgres_url, "base")
    with connected(postgres_url) as connection:
        assert connection.exec_driver_sql("SELECT statestore.one()").scalar() == 1


@pytest.mark.parametrize("schema", [pytest.param('Agent "x"', marks=reads_quotes), "50% a:b.c", "public", "Größe"])
def test_the_schema_can_have_any_name(empty_postgres_url: str, schema: str) -> None:
    url = empty_postgres_url
    migrate.upgrade(url, schema=schema)
    migrate.check(url, schema=schema)
    if '"' in schema and sqlalchemy.__version__.startswith("2.0."):
        with pytest.raises(errors.InvalidValueError, match="quotation mark"):
            migrate.differences(url, schema=schema)
    else:
        assert migrate.differences(url, schema=schema) == []
    if schema != "public":
        assert migrate.current(url) is None
    migrate.upgrade(url, schema="second")
    migrate.downgrade(url, "base", schema=schema)
    assert migrate.current(url, schema=schema) is None
    assert migrate.current(url, schema="second") == HEAD_REVISION


def test_a_difference_in_a_schema_of_another_name_is_found(empty_postgres_url: str) -> None:
    migrate.upgrade(empty_postgres_url, schema="public")
    with connected(empty_postgres_url) as connection:
        drop_views(connection, "public")
        connection.exec_driver_sql("ALTER TABLE public.sessions DROP COLUMN title")
    assert migrate.differences(empty_postgres_url, schema="public") == ["column sessions.title: missing"]


def test_large_text_is_compressed_with_lz4_where_the_server_can(postgres_url: str) -> None:
    can = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    compressed = "SELECT attrelid::regclass::text, attname FROM pg_attribute WHERE attcompression = 'l'"
    large = {("history_entries", "content"), ("history_entries", "metadata"), ("state_entries", "value")}
    found = {(table.removeprefix("statestore."), name) for table, name in rows(postgres_url, compressed)}
    assert large <= found if rows(postgres_url, can) == [(True,)] else not found
