"""The examination: connect, run the checks, and mend what a check has statements for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import URL

from statestore import schema
from statestore.checking import checks as checked
from statestore.doctor import checks, connection, content, file, structure, upkeep
from statestore.doctor.checks import CHECKS
from statestore.doctor.findings import Examination, Finding
from statestore.doctor.patient import Patient, connected, writing
from statestore.engine import engines, hosts
from statestore.engine.migration_targets import our_errors
from statestore.engine.waits import in_seconds
from statestore.errors import DatabaseError, InvalidValueError
from statestore.schema import prefixes

__all__ = ["Mended", "examine", "mend", "names"]

# Imported for the checks that they add, which are run in this order.
_MODULES = [module.__name__ for module in (connection, structure, upkeep, file, content)]
_NAMES = sorted(CHECKS, key=lambda name: _MODULES.index(CHECKS[name][0].check.__module__))


@dataclass(frozen=True, slots=True)
class Mended:
    """What a fix has done.

    Attributes:
        check: Which check it was about.
        sql: The statements that were run, each committed by itself.
        findings: What the check finds now.
    """

    check: str
    sql: tuple[str, ...]
    findings: tuple[Finding, ...]


def names() -> list[str]:
    """The names of all checks, in the order in which they are run; some are for one of the databases only."""
    return list(_NAMES)


def examine(
    url: hosts.Address | None = None,
    *,
    schema: str = schema.DEFAULT_SCHEMA,
    table_prefix: str = "",
    only: Sequence[str] = (),
    timeout: float | timedelta = 5,
    thorough: bool = False,
    role: str | None = None,
    command: Callable[[str], str] | None = None,
    namespace: str = "default",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Examination:
    """Look at a database, and say for each check whether it is well, and the command that mends it.

    Nothing is written, and no file is made. A database that cannot be reached, that has no tables or that is read-only
    is a finding, not an error. Each check runs in a read-only transaction of its own, and none of its statements longer
    than *timeout*; locks are waited for two seconds. Tables of more than 200,000 rows are not read as a whole unless
    *thorough* is true; the finding says so.

    Args:
        url: As for `StateStore.open`.
        schema: The PostgreSQL schema of the tables.
        table_prefix: As for `StateStore.open`.
        only: Names of checks; by default all.
        timeout: For each statement, in seconds or as a timedelta.
        thorough: Read large tables, and large SQLite files, as a whole.
        role: PostgreSQL: whose grants to look at; by default those of the role that connects.
        command: Makes the command of a remedy from its words, such as `migrate up`. By default it is `statestore`, the
            words, and `--url` and `--schema`; a URL with a password is left out, see `Examination.from_environment`.
        namespace: The namespace that those commands take by themselves.
        now: This machine's clock.

    Raises:
        InvalidValueError: An argument cannot be used.
    """
    patient = _patient(url, schema, table_prefix, only, timeout, thorough, role, now, command, namespace)
    from_environment = patient.has_secret and command is None
    return Examination(hosts.shown(patient.url), tuple(_examined(patient, only)), from_environment)


def mend(
    url: hosts.Address | None,
    check: str,
    *,
    schema: str = schema.DEFAULT_SCHEMA,
    table_prefix: str = "",
    timeout: float | timedelta = 5,
    thorough: bool = False,
    role: str | None = None,
    command: Callable[[str], str] | None = None,
    namespace: str = "default",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Mended:
    """Run the statements of a check's findings, and look again. See `Finding.sql`; without any, nothing is done.

    Each statement is committed by itself, and runs for as long as it takes. *timeout* is for looking.

    Raises:
        InvalidValueError: An argument cannot be used.
        DatabaseError: A statement was refused, or the database cannot be reached. Those before it stay done.
    """
    patient = _patient(url, schema, table_prefix, [check], timeout, thorough, role, now, command, namespace)
    before = _examined(patient, [check])
    sql = tuple(line for finding in before for line in finding.sql)
    if sql:
        with our_errors(patient.url), _mending(patient) as run:
            for line in sql:
                run(line)
        before = _examined(patient, [check])
    return Mended(check, sql, tuple(finding for finding in before if finding.check == check))


def _patient(
    url: hosts.Address | None,
    schema_name: str,
    table_prefix: str,
    only: Sequence[str],
    timeout: float | timedelta,
    thorough: bool,
    role: str | None,
    now: Callable[[], datetime],
    command: Callable[[str], str] | None,
    namespace: str,
) -> Patient:
    unknown = [name for name in only if name not in CHECKS]
    if unknown:
        raise InvalidValueError("only", f"there is no check {unknown[0]!r}; there are: {', '.join(_NAMES)}")
    parsed: URL = engines.parse(url)
    if engines.is_memory(parsed):
        raise InvalidValueError("url", "names a database in memory, of which there is nothing to examine")
    checked.schema_name(schema_name)
    checked.optional_key(role, "role")
    checked.key(namespace, "namespace")
    prefixes.check_for(parsed.get_backend_name(), table_prefix)
    seconds = in_seconds(timeout, "timeout")
    return Patient(parsed, schema_name, table_prefix, seconds, thorough, role, now, command, namespace)


def _examined(patient: Patient, only: Sequence[str]) -> list[Finding]:
    if not patient.on_postgresql and not patient.path.exists():
        what = f"there is no SQLite file {str(patient.path)!r}"
        return [checks.found("connection", "fail", what, patient.command("migrate up"))]
    try:
        with our_errors(patient.url), connected(patient):
            with patient.reading():
                patient.tables = frozenset(_tables(patient))
            return [finding for name in _NAMES if not only or name in only for finding in checks.run(name, patient)]
    except DatabaseError as error:
        # Why nobody can connect, as far as that can be seen without.
        why = [] if patient.on_postgresql else [*file.file(patient), *file.disk(patient)]
        why = [one for one in why if one.verdict != "ok" and (not only or one.check in only)]
        return [checks.found("connection", "fail", str(error)), *why]


def _tables(patient: Patient) -> Iterator[str]:
    ours = {*schema.metadata.tables, schema.VERSION_TABLE}
    if patient.on_postgresql:
        sql = (
            "SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE n.nspname = :schema AND c.relkind IN ('r', 'p')"
        )
    else:
        return iter(patient.names("table") & ours)
    return (name for (name,) in patient.rows(sql) if name in ours)


@contextmanager
def _mending(patient: Patient) -> Iterator[Callable[[str], Any]]:
    """Runs statements, each of which commits by itself: VACUUM and CREATE INDEX CONCURRENTLY take no transaction."""
    if patient.on_postgresql:
        with connected(patient):
            yield lambda sql: patient.connection.exec_driver_sql(sql.replace("%", "%%"))
        return
    with closing(writing(patient)) as connection:
        connection.execute("PRAGMA busy_timeout = 30000")
        yield lambda sql: connection.execute(sql).fetchall()
