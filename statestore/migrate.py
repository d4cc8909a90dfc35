"""The schema in a database: which revision it has, and the way to another one.

A *target* says which database: a URL, an engine, or a connection. What happens to the transaction follows from it:

- URL or engine: on PostgreSQL each migration commits by itself, and two connections are taken, one of them for the lock
  that lets one migrator in at a time. On SQLite all migrations are one transaction.
- A connection that is in no transaction, or whose driver commits each statement: all migrations are one transaction,
  which is committed. A migration that has to leave it, for CREATE INDEX CONCURRENTLY, needs a URL or an engine.
- A connection in a transaction: the migrations join it and the caller commits. On SQLite its `PRAGMA foreign_keys` has
  to be off, since it cannot be switched inside a transaction, and on it would delete rows while tables are rebuilt.

Alembic is imported where it is needed, not with this module: a store that only checks its schema does without.
"""

import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import (
    URL,
    CheckConstraint,
    Connection,
    Dialect,
    MetaData,
    column,
    inspect,
    select,
    table,
)
from sqlalchemy.types import TypeEngine

from statestore.errors import (
    InvalidValueError,
    SchemaAheadError,
    SchemaError,
    SchemaMissingError,
    SchemaOutdatedError,
)
from statestore.migration_targets import (
    Target,
    checked_target,
    engine_for,
    our_errors,
    reading,
    shown,
)
from statestore.schema import DEFAULT_SCHEMA, HEAD_REVISION, VERSION_TABLE, metadata

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
        SchemaAheadError: The schema was made by a newer version of statestore.
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
    with reading(target) as connection:
        return None if connection is None else _current(connection, schema)


def check(target: Target, *, schema: str = DEFAULT_SCHEMA) -> None:
    """Make sure that the database has the schema that this version of statestore works with.

    Raises:
        SchemaMissingError: There is none.
        SchemaOutdatedError: It is older.
        SchemaAheadError: It is newer.
    """
    found = current(target, schema=schema)
    if found == HEAD_REVISION:
        return
    where = shown(target)
    facts = {"current": found, "expected": HEAD_REVISION}
    command = f"statestore migrate up --url {shlex.quote(where)}"
    if schema != DEFAULT_SCHEMA:
        command += f" --schema {shlex.quote(schema)}"
    if found is None:
        raise SchemaMissingError(f"{where} has no statestore tables; make them with: {command}", **facts)
    if any(known.revision == found for known in history()):
        message = f"the schema in {where} is at revision {found}, this version works with {HEAD_REVISION}"
        raise SchemaOutdatedError(f"{message}; bring it up with: {command}", **facts)
    raise _ahead(target, found)


def differences(target: Target, *, schema: str = DEFAULT_SCHEMA) -> list[str]:
    """In what the tables in the database differ from those that the code works with, a line each.

    Compares tables, columns with types, nullability and defaults, indexes, foreign keys, and the names of checks.
    Tables that are not statestore's are not looked at.
    """
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with reading(target) as connection:
        if connection is None:
            return [f"table {name}: missing" for name in metadata.tables]
        options = alembic_options(connection.dialect, schema)
        context = MigrationContext.configure(connection, opts=options)
        found = [
            line
            for change in compare_metadata(context, options["target_metadata"])
            for line in _lines(change, connection.dialect)
        ]
        return [*found, *_check_differences(connection, schema)]


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


# What env.py shares with this module.


def alembic_options(dialect: Dialect, schema: str) -> dict[str, Any]:
    """How Alembic is to look at the database: at our tables only, in their schema, and with our eyes for defaults."""
    on_postgresql = dialect.name == "postgresql"
    # Alembic calls the connection's default schema None, also when it is asked for by name.
    default = getattr(dialect, "default_schema_name", None)
    reflected = schema if on_postgresql and schema != default else None
    tables = metadata
    if reflected is not None:
        tables = MetaData(naming_convention=metadata.naming_convention)
        for model in metadata.sorted_tables:
            model.to_metadata(tables, schema=reflected)

    def is_ours(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name == reflected
        return kind != "table" or name in metadata.tables

    return {
        "target_metadata": tables,
        "version_table": VERSION_TABLE,
        "version_table_schema": schema if on_postgresql else None,
        "include_schemas": on_postgresql,
        "include_name": is_ours,
        "compare_type": True,
        "compare_server_default": _defaults_differ,
        # Comments are for those who read the tables in the database; the migrations hold them, the code does not.
        "autogenerate_plugins": ["alembic.autogenerate.*", "~alembic.autogenerate.comments"],
        "render_as_batch": not on_postgresql,
    }


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

    config = _config()
    config.attributes.update(schema=schema, lock_timeout=lock_timeout, wait=wait, progress=progress)
    config.attributes["target"] = engine_for(target) if isinstance(target, str | URL) else checked_target(target)
    with our_errors(target), _alone(target):
        try:
            getattr(alembic.command, command)(config, revision)
        except CommandError as error:
            found = current(target, schema=schema)
            if found is not None and all(known.revision != found for known in history()):
                raise _ahead(target, found) from None
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


def _current(connection: Connection, schema: str) -> str | None:
    where = schema if connection.dialect.name == "postgresql" else None
    if not inspect(connection).has_table(VERSION_TABLE, schema=where):
        return None
    versions = table(VERSION_TABLE, column("version_num"), schema=where)
    found: list[str] = list(connection.execute(select(versions)).scalars())
    if len(found) > 1:
        raise SchemaError(f"{VERSION_TABLE} holds several revisions, {', '.join(found)}; leave the one that is right")
    return found[0] if found else None


def _lines(change: Any, dialect: Dialect) -> Iterator[str]:
    """A change that Alembic would make to the database, as what is wrong with the database."""
    if isinstance(change, list):  # all changes of one column
        for single in change:
            yield from _lines(single, dialect)
        return
    kind, *details = change
    action, _, what = kind.partition("_")
    if action == "modify":
        _, owner, name, _, found, expected = details
        yield f"column {owner}.{name}: {what} is {_brief(found, dialect)}, not {_brief(expected, dialect)}"
        return
    item = details[-1]
    owner = details[-2] if what == "column" else getattr(getattr(item, "table", None), "name", None)
    name = item.name if owner is None or what == "table" else f"{owner}.{item.name}"
    yield f"{what} {name}: {'missing' if action == 'add' else 'not expected'}"


def _brief(value: Any, dialect: Dialect) -> str:
    if isinstance(value, TypeEngine):
        return value.compile(dialect)
    default = getattr(value, "arg", value)
    return str(getattr(default, "text", default))


def _check_differences(connection: Connection, schema: str) -> Iterator[str]:
    """The checks, which Alembic does not look at: by name, since databases rewrite the conditions."""
    inspector = inspect(connection)
    where = schema if connection.dialect.name == "postgresql" else None
    for name, model in metadata.tables.items():
        if not inspector.has_table(name, schema=where):
            continue
        found = {check["name"] for check in inspector.get_check_constraints(name, schema=where)}
        expected = {check.name for check in model.constraints if isinstance(check, CheckConstraint)}
        yield from (f"check {name}.{check}: missing" for check in sorted(map(str, expected - found)))
        yield from (f"check {name}.{check}: not expected" for check in sorted(map(str, found - expected)))


_CAST = re.compile(r"::[a-z ]+$")


def _defaults_differ(
    context: Any, found_column: Any, expected_column: Any, found: str | None, _: Any, expected: str | None
) -> bool:
    """As text and without PostgreSQL's casts: Alembic would compare on the server, where `json` has no equality."""
    return _plain(found) != _plain(expected)


def _plain(default: str | None) -> str | None:
    return None if default is None else _CAST.sub("", default).strip("()'")


def _ahead(target: Target, found: str) -> SchemaAheadError:
    return SchemaAheadError(
        f"the schema in {shown(target)} is at revision {found}, which this version of statestore does not know (it "
        f"works with {HEAD_REVISION}); install a newer statestore",
        current=found,
        expected=HEAD_REVISION,
    )
