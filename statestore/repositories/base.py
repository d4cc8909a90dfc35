"""What all repositories share."""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from statestore.checking import checks, exactjson
from statestore.engine.calls import Call, belongs_to, mode_of
from statestore.engine.sql import Link, NeedsTransaction

R = TypeVar("R")


def one_row(table: str, column: str) -> str:
    """FROM of one row, on the server that has the rows of the namespace.

    For an advisory lock that no row of a table comes with: if the tables are distributed, each server has locks of
    its own, and all who take one have to ask the same server. It costs a look into an index, for a key that nobody has.

    Args:
        table: A table.
        column: The second column of its primary key, a text.
    """
    return f"(SELECT count(*) FROM ${table} AS x WHERE x.namespace = :namespace AND x.{column} = '') AS one"


class Repository:
    """Operations on one family of tables, over one link, for one call."""

    group: ClassVar[str]
    """What callers find its operations under."""

    may_lag: ClassVar[bool] = False
    """Whether what it reads may come from a replica: reports, for people."""

    def __init_subclass__(cls, *, group: str | None = None) -> None:
        """*group*: if that is not the name of its folder."""
        cls.group = group or cls.__module__.split(".")[-2]
        for method in vars(cls).values():
            if mode_of(method) is not None:
                belongs_to(cls, method, cls.group)

    def __init__(self, link: Link, call: Call) -> None:
        self._link = link
        self._call = call

    def _once(self, name: str, make: Callable[[], R]) -> R:
        """What *make* returned at the first try: generated ids must be the same at every try."""
        memo = self._call.memo
        if name not in memo:
            memo[name] = make()
        found: R = memo[name]
        return found

    def _fits(self, argument: str, session_id: str, *names: str) -> None:
        """Check names that are unique within their session, or within another owner."""
        for name in names:
            checks.together(argument, self._link.settings.namespace, session_id, name)

    def _needs_transaction(self) -> None:
        """Make sure of a transaction: what follows takes several statements, or a lock."""
        if not self._link.in_transaction:
            raise NeedsTransaction

    def _json(self, value: Any, argument: str) -> str:
        return exactjson.dumps(value, argument, max_bytes=self._link.settings.max_value_bytes)
