"""The schema in a database: which revision it has, and how to move it to another one.

A *target* says which database: a URL, an engine, or a connection. The kind of target decides about transactions:

- URL or engine: on PostgreSQL each migration commits by itself. This takes two connections; one holds the lock that
  admits one migrator at a time. On SQLite all migrations are one transaction.
- A connection that is not in a transaction, or whose driver commits each statement: all migrations are one transaction,
  which is committed. A migration that has to leave it, for CREATE INDEX CONCURRENTLY, needs a URL or an engine.
- A connection in a transaction: the migrations join it and the caller commits. This is the case inside a migration of
  the application's own Alembic, with `op.get_bind()`; see `include_object` for its env.py. On SQLite the connection's
  `PRAGMA foreign_keys` must be off: it cannot be switched inside a transaction, and if it is on, rebuilding a table
  deletes rows in others.

Alembic is imported only when it is needed: a store that only checks its schema does not load it.
"""

import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import URL, Connection, text

from statestore.checking import checks
from statestore.engine import process_fork
from statestore.engine.migration_targets import (
    Target,
    check_how,
    checked_target,
    engine_for,
    our_errors,
    parsed_url,
    reading,
    shown,
)
from statestore.errors import InvalidValueError, SchemaMissingError, SchemaOutdatedError, UnavailableError
from statestore.schema import DEFAULT_SCHEMA, comparison, distribution, metadata, prefixes, revisions
from statestore.schema import partitions as schema_partitions
from statestore.schema.revisions import SchemaRevision

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

Progress: TypeAlias = Callable[[str], None]

LOCK_TIMEOUT = timedelta(seconds=5)
WAIT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Revision:
    """A migration: its number, and a line that says what it does."""

    revision: str
    message: str


def upgrade(
    target: Target,
    revision: str = "head",
    *,
    schema: str = DEFAULT_SCHEMA,
    table_prefix: str = "",
    lock_timeout: timedelta = LOCK_TIMEOUT,
    wait: timedelta = WAIT,
    progress: Progress | None = None,
) -> None:
    """Bring the schema up to *revision*; make it if there is none.

    In a distributed schema, tables that are new are distributed in the end; see `distribute`.

    Each migration is applied as a whole or not at all. Any number of processes may call this at once: they run one
    after the other, and the later ones find nothing left to do.

    Args:
        target: Which database; the module's docstring says what happens to a connection's transaction. A SQLite file
            that does not exist is created, readable by its owner alone.
        revision: Where to stop. A schema that is already there or further stays as it is.
        schema: The PostgreSQL schema for the tables; created if it does not exist. SQLite does not use it.
        table_prefix: What the names of all tables begin with on SQLite, such as `statestore_`; PostgreSQL has schemas.
        lock_timeout: How long a statement on PostgreSQL may wait for a lock on a table. Everybody else queues behind it
            meanwhile, so it gives up after this time and leaves the work to a later call.
        wait: How long to wait for other migrators, and on SQLite for other writers.
        progress: Called with a line of text after each migration.

    Raises:
        SchemaAheadError: A newer version of statestore made the schema, and this one may not use it. If it may, there
            is nothing to do.
        SchemaError: The tables are distributed, and at a revision before 0007; the message has the remedy. Nothing was
            changed.
        InvalidValueError: There is no such revision, or the target cannot be used.
        UnavailableError: The database cannot be reached or stayed busy. Earlier migrations may have been applied.
    """
    check_how(revision, lock_timeout, wait, progress)
    _check_names(target, schema, table_prefix)
    on_postgresql = _backend(target) == "postgresql"
    if on_postgresql:
        distribution.check_upgrade(read(target, schema=schema), revision, schema)
    _run("upgrade", target, revision, schema, table_prefix, lock_timeout, wait, progress)
    found = read(target, schema=schema) if on_postgresql else None
    if found is not None and found.distributed and found.revision == revisions.head():
        for step in distribute(target, schema=schema, lock_timeout=lock_timeout):
            if progress is not None:
                progress(step)


def downgrade(
    target: Target,
    revision: str,
    *,
    schema: str = DEFAULT_SCHEMA,
    table_prefix: str = "",
    lock_timeout: timedelta = LOCK_TIMEOUT,
    wait: timedelta = WAIT,
    progress: Progress | None = None,
) -> None:
    """Take the schema back to *revision* and drop what newer tables and columns hold; `base` removes everything.

    Arguments and errors are as for `upgrade`; a database without a schema raises `SchemaMissingError`.
    """
    check_how(revision, lock_timeout, wait, progress)
    if current(target, schema=schema, table_prefix=table_prefix) is None:
        raise SchemaMissingError(f"{shown(target)} has no statestore tables", current=None, expected=revision)
    _run("downgrade", target, revision, schema, table_prefix, lock_timeout, wait, progress)


def current(target: Target, *, schema: str = DEFAULT_SCHEMA, table_prefix: str = "") -> str | None:
    """The revision of the schema in the database, or None if there is no schema."""
    found = read(target, schema=schema, table_prefix=table_prefix)
    return None if found is None else found.revision


def read(target: Target, *, schema: str = DEFAULT_SCHEMA, table_prefix: str = "") -> SchemaRevision | None:
    """The revision of the schema and the oldest code that may use it, or None if there is no schema."""
    _check_names(target, schema, table_prefix)
    with reading(target) as connection:
        return None if connection is None else revisions.read(connection, schema, table_prefix)


def check(target: Target, *, schema: str = DEFAULT_SCHEMA, table_prefix: str = "") -> SchemaRevision:
    """Check that the database has a schema that this version of statestore works with.

    This is its own schema, or a newer one whose migrations have only added to it and record that. Returns what the
    database says of it.

    Raises:
        SchemaMissingError: There is no schema.
        SchemaOutdatedError: The schema is older.
        SchemaAheadError: The schema is newer, and this version may no longer use it.
    """
    found = read(target, schema=schema, table_prefix=table_prefix)
    if found is not None and found.is_usable:
        return found
    where = shown(target)
    head = revisions.head()
    facts = {"current": None if found is None else found.revision, "expected": head}
    command = command_up(target, schema, table_prefix)
    if found is None:
        raise SchemaMissingError(f"{where} has no statestore tables; make them with: {command}", **facts)
    if any(known.revision == found.revision for known in history()):
        raise SchemaOutdatedError(
            f"the schema in {where} is at revision {found.revision}, but this version works with {head}; before you "
            f"deploy this version, upgrade the schema with: {command}",
            **facts,
        )
    raise revisions.ahead(where, found)


def command_up(target: Target, schema: str, table_prefix: str = "") -> str:
    """The command that makes the tables or brings them up to date, to be pasted into a shell."""
    command = f"statestore migrate up --url {shlex.quote(shown(target, to_paste=True))}"
    if table_prefix:
        return f"{command} --table-prefix {table_prefix}"
    return command if schema == DEFAULT_SCHEMA else f"{command} --schema {shlex.quote(schema)}"


def differences(target: Target, *, schema: str = DEFAULT_SCHEMA, table_prefix: str = "") -> list[str]:
    """How the tables in the database differ from the ones that the code works with, one line per difference.

    Compares tables, columns with types, nullability and defaults, indexes, foreign keys, and the names of checks.
    Ignores tables that are not statestore's, and additions of a newer schema that this version may use.
    """
    _check_names(target, schema, table_prefix)
    with reading(target) as connection:
        if connection is None:
            return [f"table {table_prefix}{name}: missing" for name in metadata.tables]
        found = revisions.read(connection, schema, table_prefix)
        lines = comparison.differences(connection, schema, table_prefix)
        if found is not None and found.distributed:
            lines += [f"{step}: missing" for step in distribution.missing(connection, schema)]
        if found is not None and found.is_newer and found.is_usable:
            return [line for line in lines if not line.endswith(": not expected")]
        return lines


def distribute(
    target: Target,
    *,
    schema: str = DEFAULT_SCHEMA,
    dry_run: bool = False,
    lock_timeout: timedelta = LOCK_TIMEOUT,
) -> list[str]:
    """Distribute the tables over the servers of a Citus cluster: by namespace, all tables alike.

    A namespace is then on one server, with all of its rows. Prices and settings are copied to every server. What is
    done already stays as it is: run it again after an upgrade that has added tables. All is done in one transaction, or
    nothing; whoever writes to the tables waits meanwhile, so stop the application first if they are large.

    Args:
        target: A PostgreSQL database with the extension `citus`, whose coordinator knows the other servers. A
            connection in a transaction is left in it, for the caller to commit.
        schema: The PostgreSQL schema of the tables, which must be at the revision of this version.
        dry_run: Only say what would be done.
        lock_timeout: How long to wait for a lock on a table.

    Returns:
        What was done, or would be, a line per table; empty if there is nothing to do.

    Raises:
        SchemaMissingError, SchemaOutdatedError, SchemaAheadError: As for `check`. Nothing was changed.
        SchemaError: The database does not have the extension, or a table is distributed in another way.
        ReadOnlyError: The tables belong to somebody else. Nothing was changed.
        InvalidValueError: The target is not PostgreSQL.
    """
    checks.schema_name(schema)
    checks.flag(dry_run, "dry_run")
    checks.patience(lock_timeout, "lock_timeout")
    joined = isinstance(target, Connection) and target.in_transaction()
    with our_errors(target), reading(target) as connection:
        if connection is None or connection.dialect.name != "postgresql":
            raise InvalidValueError("target", "only PostgreSQL's tables can be distributed; give the URL of one")
        check(connection, schema=schema)
        steps = distribution.missing(connection, schema)
        if steps and not dry_run:
            set_timeout = text("SELECT set_config('lock_timeout', :value, true)")
            connection.execute(set_timeout, {"value": f"{lock_timeout // timedelta(milliseconds=1)}ms"})
            if not connection.scalar(
                text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": revisions.lock_key(schema)}
            ):
                raise UnavailableError(f"another process is migrating schema {schema!r}; try again later")
            distribution.apply(connection, schema, steps)
            if not joined:
                connection.commit()
        return [str(step) for step in steps]


def partitions(target: Target, *, schema: str = DEFAULT_SCHEMA) -> dict[str, int]:
    """How many partitions the tables have that are partitioned, by table; see `statestore.partitioning`."""
    checks.schema_name(schema)
    with reading(target) as connection:
        found = {} if connection is None else schema_partitions.read(connection, schema)
        return {table: len(one.partitions) for table, one in found.items()}


def include_object(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Keep `alembic revision --autogenerate` of an application from dropping statestore's tables.

    For its env.py:

        context.configure(..., include_object=statestore.migrate.include_object)

    False for tables that statestore's migrations made, in any schema and with any `table_prefix`, and true for
    everything else. A table of the application with the same name as one of ours is recognised by its primary key, one
    whose name ends so by its columns, too. Alembic does not look at views.
    If the application already has an `include_object`, both have to agree:

        include_object=lambda *found: mine(*found) and statestore.migrate.include_object(*found)
    """
    return not (kind == "table" and reflected and compare_to is None and comparison.is_ours(item))


def history() -> list[Revision]:
    """All migrations that come with this version, oldest first."""
    revisions = [Revision(script.revision, script.doc) for script in _scripts().walk_revisions()]
    return revisions[::-1]


def script_location() -> Path:
    """The folder of the migrations: the checkout's if statestore runs from one, else the one in the package.

    The checkout comes first because an editable install leaves a copy in the package, which becomes outdated.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parent
    # site-packages may contain another package's folder `migrations`.
    if (checkout / "alembic.ini").is_file() and (checkout / "migrations" / "env.py").is_file():
        return checkout / "migrations"
    return package / "_migrations"


def create_in_memory(connection: Connection, table_prefix: str = "") -> None:
    """Make the schema in a new SQLite database that nobody else can see, from the SQL that the migrations come to.

    It takes a tenth of the time of the migrations, and less where Alembic is not imported yet.
    """
    driver: Any = connection.connection.driver_connection
    made = (script_location() / "in_memory.sql").read_text(encoding="utf-8")
    driver.executescript(prefixes.prefixed(made, table_prefix))


def _check_names(target: Target, schema: str, table_prefix: str) -> None:
    checks.schema_name(schema)
    if prefixes.check(table_prefix):
        prefixes.check_for(_backend(target), table_prefix)


def _backend(target: Target) -> str:
    return (
        parsed_url(target).get_backend_name() if isinstance(target, str | URL) else checked_target(target).dialect.name
    )


# Alembic keeps the current migration in module globals.
_one_at_a_time = threading.Lock()


def _in_child() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


process_fork.register(in_child=_in_child)


def _run(
    command: str,
    target: Target,
    revision: str,
    schema: str,
    table_prefix: str,
    lock_timeout: timedelta,
    wait: timedelta,
    progress: Progress | None,
) -> None:
    import alembic.command
    from alembic.util import CommandError

    _check_names(target, schema, table_prefix)
    config = _config()
    config.attributes.update(command=command, schema=schema, table_prefix=table_prefix)
    config.attributes.update(lock_timeout=lock_timeout, wait=wait, progress=progress)
    config.attributes["target"] = engine_for(target) if isinstance(target, str | URL) else checked_target(target)
    with our_errors(target), _alone(target), _outer_alembic_kept():
        try:
            getattr(alembic.command, command)(config, revision)
        except CommandError as error:
            found = read(target, schema=schema, table_prefix=table_prefix)
            if found is not None and all(known.revision != found.revision for known in history()):
                if command == "upgrade" and found.is_usable:
                    return  # A newer version has already upgraded it.
                raise revisions.ahead(shown(target), found) from None
            raise InvalidValueError("revision", f"{revision!r}: {error}") from None


@contextmanager
def _alone(target: Target) -> Iterator[None]:
    lock = _one_at_a_time
    if isinstance(target, Connection) and target.dialect.is_async:
        # This runs on an event loop. To block here would keep the migration that holds the lock from finishing.
        while not lock.acquire(blocking=False):
            pause(target, 0.01)
    else:
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _outer_alembic_kept() -> Iterator[None]:
    """Restore the state of an Alembic run that called us.

    Alembic keeps the state of a run in the globals of these two modules and deletes them at its end. An application's
    migration or env.py that called us would otherwise find `op` and `context` empty afterwards.
    """
    from alembic import context, op

    before = [(vars(module), dict(vars(module))) for module in (context, op)]
    try:
        yield
    finally:
        for names, kept in before:
            for name in names.keys() - kept.keys():
                del names[name]
            names.update(kept)


def pause(connection: Connection, seconds: float) -> None:
    """Sleep; on an event loop, let other tasks run meanwhile."""
    if connection.dialect.is_async:
        import asyncio

        from sqlalchemy.util import await_only

        await_only(asyncio.sleep(seconds))
    else:
        time.sleep(seconds)


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> "ScriptDirectory":
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())
