"""Sums of whole days: the rows that the views of days show, percentiles included."""

from datetime import UTC, date, datetime, time, timedelta

from statestore.engine.sql import Link, Statement
from statestore.repositories.usage import rolled

_DAY = timedelta(days=1)

_FORGET = [
    Statement(f"DELETE FROM $usage_rollup WHERE namespace = :namespace AND kind = '{kind}' AND part = :part")
    for kind in rolled.DAYS_BY
]
_FORGET_ALL = [
    Statement(
        f"DELETE FROM $usage_rollup WHERE namespace = :namespace AND kind = '{kind}'"
        " AND part >= :first AND part < :last"
    )
    for kind in rolled.DAYS_BY
]
_MAKE = [
    Statement(**{dialect: rolled.insert_day(dialect, kind, keys) for dialect in ("postgresql", "sqlite")})
    for kind, keys in rolled.DAYS_BY.items()
]
_FIRST = Statement(
    "SELECT min(at) FROM ("
    + " UNION ALL ".join(
        f"SELECT min(t.{at}) AS at FROM ${table} AS t WHERE t.namespace = :namespace AND t.{at} >= :since"
        for table, at in rolled.TIMES.items()
    )
    + ") AS firsts"
)


def first(link: Link, since: date) -> date | None:
    """The first day from *since* on of which there is something."""
    (found,) = link.only(_FIRST, since=_midnight(since))
    moment: datetime | None = link.dialect.time(found)
    return None if moment is None else moment.date()


def forget(link: Link, first_day: date | None, until: date) -> None:
    """Delete what was once summed of all days from *first_day* on and before *until*."""
    for statement in _FORGET_ALL:
        link.run(statement, first=first_day.isoformat() if first_day else "", last=until.isoformat())


def make(link: Link, day: date) -> None:
    """Sum what was used on a day, whatever was summed of it."""
    shown = day.isoformat()
    parameter = shown if link.dialect.name == "sqlite" else day
    for statement in (*_FORGET, *_MAKE):
        link.run(statement, part=shown, day=parameter, since=_midnight(day), until=_midnight(day + _DAY))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
