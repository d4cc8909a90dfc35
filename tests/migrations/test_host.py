"""statestore in an application that has an Alembic of its own: inside its migrations, its env.py, its autogenerate."""

import io
from pathlib import Path
from typing import Any

import alembic.command
import pytest
from alembic.config import Config
from alembic.util import CommandError

from statestore import StateStore, migrate
from statestore.schema import VERSION_TABLE
from tests.migrations import conftest
from tests.migrations.conftest import AddMigration
from tests.migrations.databases import TABLES, connected, driver_url, rows, tables

ENV = """
from alembic import context
from sqlalchemy import Column, Integer, MetaData, NullPool, String, Table, create_engine
from statestore import migrate

metadata = MetaData()
Table("users", metadata, Column("id", Integer, primary_key=True), Column("name", String))

with create_engine(context.config.attributes["url"], poolclass=NullPool).connect() as connection:
    {before}
    context.configure(connection=connection, target_metadata=metadata, **context.config.attributes["options"])
    with context.begin_transaction():
        context.run_migrations()
    {after}
"""

MIGRATION = '''"""{message}."""

import sqlalchemy as sa
from alembic import op
from statestore import errors, migrate

revision = "{revision}"
down_revision = {previous!r}


def upgrade():
    {up}


def downgrade():
    {down}
'''

ID = "sa.Column('id', sa.Integer(), primary_key=True)"
CREATE_USERS = f"op.create_table('users', {ID}, sa.Column('name', sa.String()))"
UP = "migrate.upgrade(op.get_bind())"


class Host:
    """A checkout of somebody else's, with migrations and an env.py as `alembic init` makes it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self._folder = folder / "host"
        (self._folder / "versions").mkdir(parents=True)
        (self._folder / "script.py.mako").write_text("")
        self._last: str | None = None
        self.options: dict[str, Any] = {}
        self.env()

    def env(self, *, before: str = "pass", after: str = "pass") -> None:
        (self._folder / "env.py").write_text(ENV.format(before=before, after=after))

    def add(self, up: str, down: str = "pass") -> None:
        """A migration of the host's, behind those that it has."""
        revision = f"host_{len(list(self._folder.glob('versions/*.py')))}"
        text = MIGRATION.format(message=revision, revision=revision, previous=self._last, up=up, down=down)
        (self._folder / "versions" / f"{revision}.py").write_text(text)
        self._last = revision

    @property
    def config(self) -> Config:
        config = Config(stdout=io.StringIO(), output_buffer=io.StringIO())
        config.set_main_option("script_location", str(self._folder))
        config.set_main_option("path_separator", "os")
        config.attributes.update(url=driver_url(self.url), options=self.options)
        return config

    def __call__(self, command: str, *arguments: Any) -> None:
        getattr(alembic.command, command)(self.config, *arguments)

    def revision(self) -> list[tuple[Any, ...]]:
        return rows(self.url, "SELECT version_num FROM alembic_version")

    def tables(self) -> set[str]:
        """The host's own, which on PostgreSQL are in another schema than ours."""
        if self.url.startswith("postgresql"):
            return tables(self.url, "public")
        return tables(self.url) - TABLES - {VERSION_TABLE}


@pytest.fixture
def host(empty_database_url: str, tmp_path: Path) -> Host:
    return Host(tmp_path, empty_database_url)


@pytest.fixture
def host_beside_us(database_url: str, tmp_path: Path) -> Host:
    """A host whose database has our tables already."""
    return Host(tmp_path, database_url)


def test_a_migration_of_the_host_s_makes_our_tables_and_goes_on(host: Host) -> None:
    host.add(f"{UP}; {CREATE_USERS}", "op.drop_table('users'); migrate.downgrade(op.get_bind(), 'base')")
    host("upgrade", "head")
    assert host.tables() == {"users", "alembic_version"}
    migrate.check(host.url)
    assert migrate.differences(host.url) == []
    host("downgrade", "base")
    assert host.tables() == {"alembic_version"}
    assert migrate.current(host.url) is None


def test_it_does_so_several_times_with_other_migrations_before_between_and_after(host: Host) -> None:
    bind = "op.get_bind()"
    host.add(CREATE_USERS, "op.drop_table('users')")
    host.add(f"migrate.upgrade({bind}, '0001'); op.add_column('users', sa.Column('a', sa.String()))")
    host.add("op.add_column('users', sa.Column('b', sa.String()))")
    host.add(
        f"migrate.upgrade({bind}, '0002'); migrate.upgrade({bind}, '0003'); {UP}", f"migrate.downgrade({bind}, '0001')"
    )
    host.add("op.add_column('users', sa.Column('c', sa.String()))", "op.drop_column('users', 'c')")
    host("upgrade", "head")
    with connected(host.url) as connection:
        connection.exec_driver_sql("SELECT id, name, a, b, c FROM users")
    migrate.check(host.url)
    assert host.revision() == [("host_4",)]
    host("downgrade", "host_2")
    assert migrate.current(host.url) == "0001"
    host("upgrade", "head")
    with StateStore.open(host.url) as store:
        store.state.set(store.sessions.create("s").session_id, "k", 1)


def test_the_host_s_env_py_may_bring_our_tables_up_wherever_it_likes(host: Host) -> None:
    # As a host may have it: once before its own configure, and once more at the end.
    call = "migrate.upgrade(connection); connection.commit()"
    host.env(before=call, after=call)
    host.add(f"{UP}; {CREATE_USERS}")
    host("upgrade", "head")
    assert host.tables() == {"users", "alembic_version"}
    migrate.check(host.url)


def test_what_the_host_s_migration_undoes_is_undone_with_ours(empty_postgres_url: str, tmp_path: Path) -> None:
    host = Host(tmp_path, empty_postgres_url)
    host.add(f"{UP}; raise ZeroDivisionError")
    with pytest.raises(ZeroDivisionError):
        host("upgrade", "head")
    assert migrate.current(host.url) is None


def test_a_failure_of_ours_is_ours_and_leaves_the_host_its_alembic(host: Host, add_migration: AddMigration) -> None:
    add_migration(conftest.FAIL_HALFWAY)
    # On PostgreSQL in a savepoint, since a failure ends the transaction; SQLite's driver knows none, so elsewhere.
    inside, target = "with op.get_bind().begin_nested()", "op.get_bind()"
    if host.url.startswith("sqlite"):
        inside, target = "if True", "'sqlite://'"
    host.add(CREATE_USERS)
    host.add(
        f"""try:
        {inside}:
            migrate.upgrade({target})
    except errors.DatabaseError:
        op.execute("INSERT INTO users (name) VALUES ('told')")"""
    )
    host("upgrade", "head")
    assert rows(host.url, "SELECT name FROM users") == [("told",)]


def test_without_a_host_nothing_of_ours_stays_in_alembic_s_modules(empty_database_url: str) -> None:
    from alembic import context, op

    before = [dict(vars(module)) for module in (context, op)]
    migrate.upgrade(empty_database_url)
    assert [dict(vars(module)) for module in (context, op)] == before


@pytest.mark.parametrize("include_schemas", [False, True])
def test_autogenerate_of_the_host_s_leaves_our_tables_alone(host_beside_us: Host, include_schemas: bool) -> None:
    host = host_beside_us
    host.add(CREATE_USERS)
    host("upgrade", "head")
    host.options = {"include_schemas": include_schemas, "include_object": migrate.include_object}
    host("check")
    # The control: this is what it says without.
    host.options = {"include_schemas": include_schemas}
    if include_schemas or host.url.startswith("sqlite"):
        with pytest.raises(CommandError, match="remove_table"):
            host("check")


def test_autogenerate_still_sees_what_is_the_host_s(host_beside_us: Host) -> None:
    host = host_beside_us
    on_sqlite = host.url.startswith("sqlite")
    # The host forgot its table `old`; on PostgreSQL it has one named as ours, too, and with another key.
    host.add(f"{CREATE_USERS}; op.create_table('old', {ID})")
    if not on_sqlite:
        host.add(f"op.create_table('sessions', {ID})")
    host("upgrade", "head")
    host.options = {"include_schemas": True, "include_object": migrate.include_object}
    with pytest.raises(CommandError) as raised:
        host("check")
    said = str(raised.value)
    assert said.count("remove_table") == (1 if on_sqlite else 2)
    assert "'old'" in said
    assert ("'sessions'" in said) is not on_sqlite


@pytest.mark.parametrize("schema", ["agents", "public"])
def test_autogenerate_leaves_our_tables_alone_in_any_schema(
    empty_postgres_url: str, tmp_path: Path, schema: str
) -> None:
    migrate.upgrade(empty_postgres_url, schema=schema)
    host = Host(tmp_path, empty_postgres_url)
    host.add(CREATE_USERS)
    host("upgrade", "head")
    host.options = {"include_schemas": True, "include_object": migrate.include_object}
    host("check")
