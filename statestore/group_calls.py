"""Group commit, and reads in groups: what is done with the calls of a group."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from statestore.errors import UnavailableError
from statestore.grouping import Result
from statestore.repositories import group_appending, group_reading
from statestore.repositories.base import Call
from statestore.sql import Link, Settings


class Groupable(Protocol):
    """A `Database`, as far as groups are concerned."""

    @property
    def settings(self) -> Settings: ...
    def run_alone(self, call: Call) -> Any: ...
    def run_group(self, work: Callable[[Link], None]) -> None: ...


def commit(database: Groupable, calls: Sequence[Call]) -> list[Result]:
    """Store what can go together, then run by itself what is left, in the order of the calls."""
    max_bytes = database.settings.max_value_bytes
    prepared = [group_appending.prepare(call, max_bytes=max_bytes) for call in calls]
    # Behind one that has to go by itself, all of its session do, to stay behind it.
    alone: set[str | None] = set()
    together: list[group_appending.Grouped] = []
    for index, (call, one) in enumerate(zip(calls, prepared, strict=True)):
        session_id = group_appending.session_of(call)
        if one is None or session_id in alone:
            alone.add(session_id)
            prepared[index] = None
        else:
            together.append(one)
    if together:
        try:
            database.run_group(lambda link: group_appending.append(link, together))
        except Exception:
            # Each by itself finds out what is wrong, and with whom. It may have been done and the reply been lost: as
            # at any second try, entries that are there already are found by their ids.
            for one in together:
                one.stored = None
            for call in calls:
                call.attempt += 1
    return _rest(database, calls, [None if one is None else one.stored for one in prepared])


def read(database: Groupable, calls: Sequence[Call]) -> list[Result]:
    """Read what can go together, then run by itself what is left."""
    prepared = [group_reading.prepare(call) for call in calls]
    together = [one for one in prepared if one is not None]
    if together:
        try:
            database.run_group(lambda link: group_reading.read(link, together))
        except Exception:  # Each by itself finds out what is wrong, and with whom.
            for one in together:
                one.found = None
    return _rest(database, calls, [None if one is None else one.found for one in prepared])


def _rest(database: Groupable, calls: Sequence[Call], done: Sequence[Any]) -> list[Result]:
    """The results of a group, with what is not *done* run by itself.

    When the database cannot be reached, one finds that out for all: each has tried for as long as anybody should wait.
    """
    results: list[Result] = []
    unavailable: UnavailableError | None = None
    for call, result in zip(calls, done, strict=True):
        if result is not None:
            results.append((result, None))
        elif unavailable is not None:
            results.append((None, _same(unavailable)))
        else:
            try:
                results.append((database.run_alone(call), None))
            except Exception as exc:
                unavailable = exc if isinstance(exc, UnavailableError) else None
                results.append((None, exc))
    return results


def _same(error: UnavailableError) -> UnavailableError:
    """Each caller gets an error of its own: a traceback belongs to one."""
    return UnavailableError(*error.args, code=error.code)
