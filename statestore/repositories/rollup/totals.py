"""Sums of the sums of sessions, kept with these: what is written of sessions is added, and before that taken away."""

from collections.abc import Sequence

from statestore.engine.sql import Link, Statement
from statestore.repositories.usage import totals

_DIALECTS = ("postgresql", "sqlite")


def _each(made: dict[str, list[str]]) -> dict[str, list[Statement]]:
    return {dialect: [Statement(**{dialect: sql}) for sql in statements] for dialect, statements in made.items()}


_ADD = _each({dialect: totals.add(dialect) for dialect in _DIALECTS})
_TAKE_AWAY = _each({dialect: totals.take_away(dialect) for dialect in _DIALECTS})
_CLEAR = Statement(totals.CLEAR)


def clear(link: Link) -> None:
    """Forget all of them, before any session is summed."""
    link.run(_CLEAR)


def take_away(link: Link, parts: Sequence[str]) -> None:
    """Take away what is written of some sessions, which will be written anew in this transaction."""
    for statement in _TAKE_AWAY[link.dialect.name]:
        link.run(statement, parts=list(parts))


def add(link: Link, parts: Sequence[str]) -> None:
    """Add what has been written of some sessions in this transaction."""
    for statement in _ADD[link.dialect.name]:
        link.run(statement, parts=list(parts))
