"""The schema in a database: which revision it has, and the way to another one.

A *target* says which database: a URL, an engine, or a connection. What happens to the transaction follows from it:

- URL or engine: on PostgreSQL each migration commits by itself, and two connections are taken, one of them for the lock
  that lets one migrator in at a time. On SQLite all migrations are one transaction.
- A connection that is in no transaction, or whose driver commits each statement: all migrations are one transaction,
  which is committed. A migration that has to leave it, for CREATE INDEX CONCURRENTLY, needs a URL or an engine.
- A connection in a transaction: the migrations join it and the caller commits. So it is inside a migration of the
  application's own Alembic, with `op.get_bind()`; see `include_object` for its env.py. On SQLite the connection's
  `PRAGMA foreign_keys` has to be off: it cannot be switched inside a transaction, and on it would delete rows while
  tables are rebuilt.

Alembic is imported where it is needed, not with this module: a store that only checks its schema does without.
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

from sqlalchemy import URL, Connection

from statestore.checking import checks
from statestore.engine.migration_targets import Target, checked_target, engine_for, our_errors, reading, shown
from statestore.errors import InvalidValueError, SchemaMissingError, SchemaOutdatedError
from statestore.schema import DEFAULT_SCHEMA, comparison, metadata, revisions
from statestore.schema.revisions import SchemaRevision

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

Progress: TypeAlias = Callable[[str], None]

LOCK_TIMEOUT = timedelta(seconds=5)
WAIT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Revision:
    """A migration: its number, and what it does in a line."""

    revision: str
    message: str


def upgrade(
    target: Target,
    revision: str = "head",
    *,
    schema: str = DEFAULT_SCHEMA,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    wait: timedelta = WAIT,
    progress: Progress | None = None,
) -> None:
    """Bring the schema up to *revision*; make it if there is none.

    Each migration is applied as a whole or not at all. Any number of processes may call this at once: they take turns,
    and those that come later find nothing left to do.

    Args:
        target: Which database; see above for what becomes of a connection's transaction. A SQLite file that does not
            exist is made, readable by its owner alone.
        revision: Where to stop; what is already there or beyond stays as it is.
        schema: The PostgreSQL schema that holds the tables; made if it does not exist. SQLite has none.
        lock_timeout: How long a statement on PostgreSQL may queue for a table that is in use. Everybody else queues
            behind it for that time, so it gives up and leaves it to a later call.
        wait: How long to wait for other migrators, and on SQLite for other writers.
        progress: Called with a line of text after each migration.

    Raises:
        SchemaAheadError: A newer version of statestore made the schema, and this one may not use it. Where it may,
            there is nothing to do.
        InvalidValueError: There is no such revision, or the target cannot be used.
        UnavailableError: The database cannot be reached or stayed busy. Earlier migrations may have been applied.
    """
    _run("upgrade", target, revision, schema, lock_timeout, wait, progress)


def downgrade(
    target: Target,
    revision: str,
    *,
    schema: str = DEFAULT_SCHEMA,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    wait: timedelta = WAIT,
    progress: Progress | None = None,
) -> None:
    """Take the schema back to *revision*, with all that newer tables and columns hold; `base` removes everything.

    Arguments and errors are those of `upgrade`; a database without a schema raises `SchemaMissingError`.
    """
    if current(target, schema=schema) is None:
        raise SchemaMissingError(f"{shown(target)} has no statestore tables", current=None, expected=revision)
    _run("downgrade", target, revision, schema, lock_timeout, wait, progress)


def current(target: Target, *, schema: str = DEFAULT_SCHEMA) -> str | None:
    """The revision of the schema in the database, or None where there is none."""
    found = read(target, schema=schema)
    return None if found is None else found.revision


def read(target: Target, *, schema: str = DEFAULT_SCHEMA) -> SchemaRevision | None:
    """The revision of the schema and the oldest code that may use it, or None where there is no schema."""
    checks.schema_name(schema)
    with reading(target) as connection:
        return None if connection is None else revisions.read(connection, schema)


def check(target: Target, *, schema: str = DEFAULT_SCHEMA) -> None:
    """Make sure that the database has a schema that this version of statestore works with.

    That is its own, or a newer one whose migrations have only added to it, and say so.

    Raises:
        SchemaMissingError: There is none.
        SchemaOutdatedError: It is older.
        SchemaAheadError: It is newer, and not for this version any more.
    """
    found = read(target, schema=schema)
    if found is not None and found.is_usable:
        return
    where = shown(target)
    head = revisions.head()
    facts = {"current": None if found is None else found.revision, "expected": head}
    command = f"statestore migrate up --url {shlex.quote(where)}"
    if schema != DEFAULT_SCHEMA:
        command += f" --schema {shlex.quote(schema)}"
    if found is None:
        raise SchemaMissingError(f"{where} has no statestore tables; make them with: {command}", **facts)
    if any(known.revision == found.revision for known in history()):
        raise SchemaOutdatedError(
            f"the schema in {where} is at revision {found.revision}, this version works with {head}; bring the schema "
            f"up before this version is deployed, with: {command}",
            **facts,
        )
    raise revisions.ahead(where, found)


def differences(target: Target, *, schema: str = DEFAULT_SCHEMA) -> list[str]:
    """In what the tables in the database differ from those that the code works with, a line each.

    Compares tables, columns with types, nullability and defaults, indexes, foreign keys, and the names of checks.
    Tables that are not statestore's are not looked at; nor is what a newer schema, if this version may use it, has
    in addition.
    """
    checks.schema_name(schema)
    with reading(target) as connection:
        if connection is None:
            return [f"table {name}: missing" for name in metadata.tables]
        found = revisions.read(connection, schema)
        lines = comparison.differences(connection, schema)
        if found is not None and found.is_newer and found.is_usable:
            return [line for line in lines if not line.endswith(": not expected")]
        return lines


def include_object(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Keep `alembic revision --autogenerate` of an application from dropping our tables.

    For its env.py:

        context.configure(..., include_object=statestore.migrate.include_object)

    False for the tables that migrations of statestore made, in whatever schema, and true for everything else. A table
    of the application's own that is named as one of ours is told from it by its key. Alembic does not look at views.
    If the application has an `include_object` already, both have to agree:

        include_object=lambda *found: mine(*found) and statestore.migrate.include_object(*found)
    """
    return not (kind == "table" and reflected and compare_to is None and comparison.is_ours(item))


def history() -> list[Revision]:
    """All migrations that come with this version, oldest first."""
    revisions = [Revision(script.revision, script.doc) for script in _scripts().walk_revisions()]
    return revisions[::-1]


def script_location() -> Path:
    """The folder of the migrations: the checkout's where statestore runs from one, else the one in the package.

    In this order, since an editable install leaves a copy behind in the package, which grows stale.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parent
    # site-packages may hold a folder `migrations` of somebody else's.
    if (checkout / "alembic.ini").is_file() and (checkout / "migrations" / "env.py").is_file():
        return checkout / "migrations"
    return package / "_migrations"


# Below: how it is done.

# Alembic keeps the migration that is under way in module globals.
_one_at_a_time = threading.Lock()


def _run(
    command: str,
    target: Target,
    revision: str,
    schema: str,
    lock_timeout: timedelta,
    wait: timedelta,
    progress: Progress | None,
) -> None:
    import alembic.command
    from alembic.util import CommandError

    checks.schema_name(schema)
    config = _config()
    config.attributes.update(schema=schema, lock_timeout=lock_timeout, wait=wait, progress=progress)
    config.attributes["target"] = engine_for(target) if isinstance(target, str | URL) else checked_target(target)
    with our_errors(target), _alone(target), _outer_alembic_kept():
        try:
            getattr(alembic.command, command)(config, revision)
        except CommandError as error:
            found = read(target, schema=schema)
            if found is not None and all(known.revision != found.revision for known in history()):
                if command == "upgrade" and found.is_usable:
                    return  # Somebody newer has been here.
                raise revisions.ahead(shown(target), found) from None
            raise InvalidValueError("revision", f"{revision!r}: {error}") from None


@contextmanager
def _alone(target: Target) -> Iterator[None]:
    if isinstance(target, Connection) and target.dialect.is_async:
        # Called on an event loop, where waiting would keep the one waited for from ever finishing.
        while not _one_at_a_time.acquire(blocking=False):
            pause(target, 0.01)
    else:
        _one_at_a_time.acquire()
    try:
        yield
    finally:
        _one_at_a_time.release()


@contextmanager
def _outer_alembic_kept() -> Iterator[None]:
    """Give an Alembic that called us back what it had.

    It keeps what is under way in the globals of these two modules, sets them for each run, and deletes them behind it:
    a migration or an env.py of the application's, which called us, would find `op` and `context` empty from then on.
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
    """Sleep; on an event loop let others run meanwhile."""
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
