"""Tables with a prefix in a SQLite file of an application that calls its own tables as we call ours."""

import io
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url

from statestore import InvalidValueError, SchemaMissingError, StateStore, migrate
from statestore.schema import HEAD_REVISION, VERSION_TABLE, metadata, prefixes
from tests.migrations.databases import rows, structure
from tests.migrations.test_host import Host

PREFIX = "host_"

# A table, an index, a view and a trigger under names of ours.
THEIRS = """
CREATE TABLE sessions (id INTEGER PRIMARY KEY, token TEXT);
CREATE TABLE history_entries (id INTEGER PRIMARY KEY, session INTEGER REFERENCES sessions (id));
CREATE INDEX ix_sessions_namespace_active_hour ON sessions (token);
CREATE VIEW usage_lines AS SELECT count(*) AS sessions FROM sessions;
CREATE TRIGGER usage_rollup_insert_history_entries AFTER INSERT ON sessions BEGIN DELETE FROM history_entries; END;
INSERT INTO sessions VALUES (1, 'theirs');
INSERT INTO history_entries VALUES (1, 1);
"""


def executed(url: str, script: str) -> None:
    with closing(sqlite3.connect(str(make_url(url).database))) as connection:
        connection.executescript(script)


def objects(url: str) -> dict[str, str]:
    return dict(rows(url, "SELECT name, sql FROM sqlite_master WHERE sql > ''"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prefixed") / "app.db"
    executed(f"sqlite:///{path}", THEIRS)
    migrate.upgrade(f"sqlite:///{path}", table_prefix=PREFIX)
    return path


@pytest.fixture
def prefixed_host_url(template: Path, tmp_path: Path) -> str:
    """The same with our tables beside them."""
    return f"sqlite:///{shutil.copyfile(template, tmp_path / 'both.db')}"


@pytest.fixture
def prefixed_url(prefixed_host_url: str) -> str:
    """Our tables alone."""
    executed(prefixed_host_url, "DROP VIEW usage_lines; DROP TABLE history_entries; DROP TABLE sessions")
    return prefixed_host_url


@pytest.fixture
def host_url(empty_sqlite_url: str) -> str:
    """A file of an application with tables of its own."""
    executed(empty_sqlite_url, THEIRS)
    return empty_sqlite_url


def test_each_migration_up_and_down_leaves_what_is_the_application_s(host_url: str) -> None:
    theirs = objects(host_url)
    revisions = [found.revision for found in migrate.history()]
    steps: list[tuple[Any, str]] = [(migrate.upgrade, revision) for revision in revisions]
    steps += [(migrate.downgrade, revision) for revision in [*revisions[-2::-1], "base"]]
    for move, revision in steps:
        move(host_url, revision, table_prefix=PREFIX)
        found = objects(host_url)
        assert {name: found.pop(name) for name in theirs} == theirs
        assert all(name.startswith(PREFIX) for name in found), found.keys()
        at = None if revision == "base" else revision
        assert migrate.current(host_url, table_prefix=PREFIX) == at
    assert objects(host_url) == theirs
    assert rows(host_url, "SELECT * FROM sessions") == [(1, "theirs")]


def test_it_is_what_the_migrations_make_without_one(prefixed_url: str, sqlite_url: str) -> None:
    """No other name is in it: in a file that has nothing else all views can be read."""
    bare = {
        name.removeprefix(PREFIX): [part.replace(PREFIX, "") for part in parts]
        for name, parts in structure(prefixed_url).items()
    }
    assert bare == structure(sqlite_url)
    assert migrate.differences(prefixed_url, table_prefix=PREFIX) == []
    views = [name for (name,) in rows(prefixed_url, "SELECT name FROM sqlite_master WHERE type = 'view'")]
    assert all(rows(prefixed_url, f"SELECT * FROM {view}") == [] for view in views)
    assert len(views) == 14


def test_differences_are_told_by_the_names_with_the_prefix(prefixed_host_url: str) -> None:
    executed(prefixed_host_url, "DROP INDEX host_ix_sessions_namespace_active_hour; DROP TABLE host_cache_claims")
    executed(prefixed_host_url, "ALTER TABLE host_sessions ADD COLUMN mine TEXT")
    assert sorted(migrate.differences(prefixed_host_url, table_prefix=PREFIX)) == [
        "column host_sessions.mine: not expected",
        "index host_sessions.ix_sessions_namespace_active_hour: missing",
        "table host_cache_claims: missing",
    ]


def test_tables_of_the_application_s_that_are_called_as_ours_ask_for_a_prefix(empty_sqlite_url: str) -> None:
    executed(empty_sqlite_url, 'CREATE TABLE "Sessions" (id INTEGER)')
    ask = pytest.raises(InvalidValueError, match=r"a table 'Sessions' of something else.*such as 'statestore_'")
    with ask:
        migrate.upgrade(empty_sqlite_url)
    with ask:
        StateStore.open(empty_sqlite_url, create=True)
    assert list(objects(empty_sqlite_url)) == ["Sessions"]
    migrate.upgrade(empty_sqlite_url, table_prefix="statestore_")


def test_the_schema_is_looked_for_under_its_prefix_alone(prefixed_host_url: str) -> None:
    assert migrate.check(prefixed_host_url, table_prefix=PREFIX).revision == HEAD_REVISION
    for other in ("", "app_"):
        with pytest.raises(SchemaMissingError) as raised:
            migrate.check(prefixed_host_url, table_prefix=other)
        assert str(raised.value).endswith(f" --table-prefix {other}") == bool(other)


def test_the_application_s_alembic_makes_them_and_leaves_them_alone(empty_sqlite_url: str, tmp_path: Path) -> None:
    host = Host(tmp_path, empty_sqlite_url)
    host.add(
        "migrate.upgrade(op.get_bind(), table_prefix='app_'); op.create_table('users', "
        "sa.Column('id', sa.Integer(), primary_key=True), sa.Column('name', sa.String()))"
    )
    host("upgrade", "head")
    assert migrate.differences(host.url, table_prefix="app_") == []
    host.options = {"include_object": migrate.include_object}
    host("check")


def test_a_table_of_the_application_s_whose_name_ends_so_is_its_own(prefixed_host_url: str) -> None:
    from sqlalchemy import MetaData

    executed(
        prefixed_host_url,
        "CREATE TABLE user_sessions (namespace TEXT, session_id TEXT, PRIMARY KEY (namespace, session_id))",
    )
    executed(
        prefixed_host_url,
        "CREATE TABLE my_cache_claims (namespace TEXT, key TEXT, ip TEXT, PRIMARY KEY (namespace, key))",
    )
    found = MetaData()
    engine = create_engine(prefixed_host_url)
    found.reflect(engine)
    engine.dispose()
    kept = {name for name, table in found.tables.items() if migrate.include_object(table, name, "table", True, None)}
    assert {name for name in found.tables if name.startswith(PREFIX)} == {
        PREFIX + name for name in (*metadata.tables, VERSION_TABLE)
    }
    assert kept - {"user_sessions"} == {"sessions", "history_entries", "my_cache_claims"}


def test_the_sql_to_be_reviewed_has_it_too(empty_sqlite_url: str) -> None:
    import alembic.command

    written = io.StringIO()
    config = migrate._config()
    config.output_buffer = written
    config.attributes.update(target=create_engine(empty_sqlite_url), table_prefix=PREFIX)
    alembic.command.upgrade(config, "head", sql=True)
    executed(empty_sqlite_url, written.getvalue())
    assert migrate.differences(empty_sqlite_url, table_prefix=PREFIX) == []


@pytest.mark.parametrize(
    "wrong", ["App_", "1_", "a b", "a'", 'a"', "a.", "sqlite_", "ix_", "uq_a", "cache_", "my_cache_", "x" * 65, 1, None]
)
def test_a_prefix_that_cannot_be_one_is_refused_before_any_sql(empty_sqlite_url: str, wrong: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"^table_prefix: "):
        migrate.upgrade(empty_sqlite_url, table_prefix=wrong)
    assert not Path(str(make_url(empty_sqlite_url).database)).exists()


def test_on_postgresql_it_is_refused_and_the_schema_named() -> None:
    url = "postgresql://nobody@192.0.2.1/nowhere"
    for ask in (migrate.upgrade, migrate.check, migrate.current, migrate.differences, migrate.read):
        with pytest.raises(InvalidValueError, match=r"^table_prefix: .*schema='app'"):
            ask(url, table_prefix="app_")
    with pytest.raises(InvalidValueError, match=r"^table_prefix: "):
        migrate.downgrade(url, "base", table_prefix="app_")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("SELECT s.sessions FROM sessions AS s", "SELECT s.sessions FROM a_sessions AS s"),
        (
            "SELECT sum(sessions), 'FROM sessions' FROM usage_lines",
            "SELECT sum(sessions), 'FROM sessions' FROM a_usage_lines",
        ),
        ('SELECT sessions."key" FROM "sessions"', 'SELECT a_sessions."key" FROM "a_sessions"'),
        ("FROM -- FROM sessions\n sessions", "FROM -- FROM sessions\n a_sessions"),
        ('PRAGMA main.table_info("sessions")', 'PRAGMA main.table_info("a_sessions")'),
        ("CREATE TABLE usage_rollup (sessions BIGINT)", "CREATE TABLE a_usage_rollup (sessions BIGINT)"),
        ("DROP INDEX IF EXISTS ix_sessions_x", "DROP INDEX IF EXISTS a_ix_sessions_x"),
        (
            "ALTER TABLE _alembic_tmp_sessions RENAME TO sessions",
            "ALTER TABLE _alembic_tmp_sessions RENAME TO a_sessions",
        ),
        ("FROM mine JOIN other", "FROM mine JOIN other"),
    ],
)
def test_tables_are_told_from_columns_texts_and_what_is_not_ours(given: str, expected: str) -> None:
    assert prefixes.prefixed(given, "a_") == expected
    assert prefixes.prefixed(given, "") == given
