"""The list of checks, which each module of them adds to, and how one is run."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from statestore.doctor.findings import Finding, Verdict
from statestore.doctor.patient import Patient
from statestore.engine.migration_targets import our_errors
from statestore.errors import DatabaseError

Check: TypeAlias = Callable[[Patient], Iterator[Finding]]

CHECKS: dict[str, list["Registered"]] = {}
"""By name, in the order in which they are run; some have one for each database."""

_NOT_IN_TIME = ("57014", "SQLITE_INTERRUPT")
_NOT_ALLOWED = ("42501", "SQLITE_PERM", "SQLITE_AUTH")
_NOT_THERE = ("42P01", "42703", "3F000")


@dataclass(frozen=True, slots=True)
class Registered:
    """A check, and when it is run."""

    check: Check
    database: str | None
    needs: frozenset[str]
    """Of our tables; without them there is nothing to look at."""


def check(name: str, *, on: str | None = None, needs: tuple[str, ...] = ()) -> Callable[[Check], Check]:
    """Add a check. Its findings get its name from here."""

    def register(function: Check) -> Check:
        CHECKS.setdefault(name, []).append(Registered(function, on, frozenset(needs)))
        return function

    return register


def found(name: str, verdict: Verdict, message: str, remedy: str | None = None) -> Finding:
    """A finding that takes a command of its own, or none."""
    return Finding(check=name, verdict=verdict, message=message, remedy=remedy)


def mendable(
    patient: Patient,
    name: str,
    verdict: Verdict,
    message: str,
    sql: list[str],
    *,
    as_role: str | None = None,
    role: str | None = None,
) -> Finding:
    """A finding that `statestore doctor --fix` mends by these statements.

    *as_role* may run them, if not everybody may; *role* is whom they are about.
    """
    role = "" if role is None else f" --role {shlex.quote(role)}"
    remedy = patient.command(f"doctor --fix {name}{role}", as_role=as_role)
    return Finding(check=name, verdict=verdict, message=message, remedy=remedy, sql=tuple(sql))


def run(name: str, patient: Patient) -> list[Finding]:
    """What a check finds; that it could not look is a finding, too."""
    database = patient.url.get_backend_name()
    fitting = [one for one in CHECKS[name] if one.database in (None, database) and one.needs <= patient.tables]
    try:
        with our_errors(patient.url), patient.reading():
            return [finding for one in fitting for finding in one.check(patient)]
    except DatabaseError as error:
        return [_failed(name, patient, error)]


def _failed(name: str, patient: Patient, error: DatabaseError) -> Finding:
    code = error.code or ""
    if code in _NOT_IN_TIME:
        longer = patient.command(f"doctor --check {name} --timeout {max(60, round(patient.timeout * 10))}s")
        return found(name, "warn", f"not finished within {patient.timeout:g} s, so the result is unknown", longer)
    if code in _NOT_ALLOWED:
        return found(name, "warn", f"skipped: this role may not ({error})")
    if code in _NOT_THERE:
        return found(name, "warn", "skipped: a table or a column is missing")
    return found(name, "fail", f"could not be checked: {error}")


def some(names: list[str], most: int = 3) -> str:
    """The first of several, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def size(number: float) -> str:
    """Bytes, for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
