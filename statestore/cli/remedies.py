"""Errors of the store in the words of the command line: a remedy names a command or an option, not a call of Python."""

import os
import re
import shlex

from statestore.cli.options import Database
from statestore.errors import (
    ClockError,
    CommitUnknownError,
    DatabaseError,
    EntryNotFoundError,
    InvalidValueError,
    SchemaError,
    SessionExistsError,
    SessionNotFoundError,
    StateKeyNotFoundError,
    StateStoreError,
    UnavailableError,
)

# Arguments whose options are called otherwise.
_OPTIONS = {"session_id": "SESSION", "new_session_id": "NEW", "at_seq": "--at-seq", "user_id": "--user"}
_OPTIONS |= {
    "agent_name": "--agent",
    "namespace": "--namespace",
    "schema": "--schema",
    "table_prefix": "--table-prefix",
    "url": "--url",
}
_OPTIONS |= {"provider_name": "--provider", "session_ids": "--session", "id_prefix": "SESSION", "tz": "--tz"}
_OPTIONS |= {name: f"--{name}" for name in ("cursor", "limit", "since", "until", "ttl", "model")}


def text(error: StateStoreError, database: Database | None) -> str:
    """What to print for *error*, of a command that used *database*."""
    said = _text(error, database)
    if database is not None and ": statestore " in said and database.hides_url:
        return re.sub("(?: with)?: statestore ", ", with that URL in STATESTORE_URL: statestore ", said, count=1)
    return said


def _text(error: StateStoreError, database: Database | None) -> str:

    def command(words: str) -> str:
        return f"statestore {words}" if database is None else database.command(words, namespace=True)

    if isinstance(error, SessionNotFoundError):
        return (
            f"session {error.session_id!r} does not exist in namespace {error.namespace!r} or has expired; "
            f"see: {command('sessions')}"
        )
    if isinstance(error, SessionExistsError):
        return f"session {error.session_id!r} already exists in namespace {error.namespace!r}; choose another id"
    if isinstance(error, StateKeyNotFoundError):
        found = str(error).partition(";")[0]
        return f"{found}; its keys are listed by: {command(f'state ls {_owner(error)}')}"
    if isinstance(error, EntryNotFoundError):
        found = str(error).partition(";")[0]
        return f"{found}; see: {command(f'show {shlex.quote(error.session_id)}')}"
    if isinstance(error, SchemaError) and database is not None:
        # As the reader named the database, who may have done so without any option.
        again = re.compile(r"statestore (migrate \w+) --url \S+(?: --(?:schema|table-prefix) \S+)?")
        return again.sub(lambda found: database.command(found[1]), str(error))
    if isinstance(error, DatabaseError) and error.code in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
        return _damaged(error, database)
    if isinstance(error, DatabaseError) and database is not None:
        file = str(database.url().database)
        if (error.code or "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return (
                f"another process keeps the SQLite file {file!r} locked; nothing was written. Try again later, or see "
                f"who it is: fuser {shlex.quote(file)}"
            )
        if (error.code or "").startswith("SQLITE_READONLY"):
            return (
                f"the SQLite file {file!r} cannot be written: it is read-only for you, or its folder is; nothing was "
                f"written. See: ls -ld {shlex.quote(file)} {shlex.quote(os.path.dirname(file) or '.')}"
            )
        if error.code in ("25006", "42501"):
            return f"{error}; see why: {database.command('doctor --check writes --check grants')}"
    if isinstance(error, InvalidValueError):
        return _option(error)
    if isinstance(error, ClockError):
        return str(error).replace("max_clock_gap", "--max-clock-gap")
    if isinstance(error, CommitUnknownError):
        return f"{error}; look at what is there before you run this again"
    if isinstance(error, UnavailableError) and database is not None and database.profile is not None:
        return f"{error} (profile {database.profile})"
    return str(error)


def _damaged(error: DatabaseError, database: Database | None) -> str:
    """Which file is damaged: an error of a statement does not know that."""
    if database is None:
        return str(error)
    return (
        f"the file {database.url().database!r} is damaged, or is not a SQLite database ({error.code}); "
        "restore it from a backup"
    )


def _option(error: InvalidValueError) -> str:
    """The message with the option in place of the argument."""
    name, _, problem = str(error).partition(": ")
    if name == "table_prefix":
        problem = re.sub(r"schema='(\w+)'", r"--schema \1", problem)
    return f"{_OPTIONS.get(name, name)}: {problem}" if name == error.argument else str(error)


def _owner(error: StateKeyNotFoundError) -> str:
    if error.user_id is not None:
        return f"{shlex.quote(error.user_id)} --of user"
    if error.agent_name is not None:
        return f"{shlex.quote(error.agent_name)} --of agent"
    return shlex.quote(error.session_id or "SESSION")
