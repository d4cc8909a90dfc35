"""Group commit, and reads in groups: what is done with the calls of a group."""

from collections.abc import Callable, Sequence
from typing import Protocol

from statestore.driver_errors import understand
from statestore.errors import StateStoreError
from statestore.execution import Again
from statestore.repositories import group_appending, group_reading
from statestore.repositories.base import Call
from statestore.sql import Link, Settings
from statestore.values import Entry


class Groupable(Protocol):
    """A `Database`, as far as groups are concerned."""

    @property
    def settings(self) -> Settings: ...
    def run_group(self, work: Callable[[Link], None], until: float) -> None: ...


def commit(database: Groupable, calls: Sequence[Call], until: float) -> list[list[Entry] | None]:
    """Store what can go together; the other calls are left to be run by themselves, and get None."""
    max_bytes = database.settings.max_value_bytes
    prepared = [group_appending.prepare(call, max_bytes=max_bytes) for call in calls]
    # Behind one that has to go by itself, all of its session do, to stay behind it.
    alone: set[str | None] = set()
    together: list[group_appending.Grouped] = []
    room = group_appending.GROUP_BYTES
    for index, (call, one) in enumerate(zip(calls, prepared, strict=True)):
        session_id = group_appending.session_of(call)
        if one is None or one.size > room or session_id in alone:
            alone.add(session_id)
            prepared[index] = None
        else:
            together.append(one)
            room -= one.size
    if together:
        try:
            database.run_group(lambda link: group_appending.append(link, together), until)
        except Exception as exc:
            # Each by itself finds out what is wrong, and with whom. It may have been done and the reply been lost: as
            # at any second try, entries that are there already are found by their ids.
            refused = isinstance(exc, StateStoreError | Again)
            failure = understand(exc)
            for call, one in zip(calls, prepared, strict=True):
                if one is not None:
                    one.stored = None
                    call.attempt += 1
                    call.unsettled = not refused and (failure is None or failure.lost)
    return [None if one is None else one.stored for one in prepared]


def read(database: Groupable, calls: Sequence[Call], until: float) -> list[list[Entry] | None]:
    """Read what can go together; the other calls are left to be run by themselves, and get None."""
    prepared = [group_reading.prepare(call) for call in calls]
    together = [one for one in prepared if one is not None]
    if together:
        try:
            database.run_group(lambda link: group_reading.read(link, together), until)
        except Exception:  # Each by itself finds out what is wrong, and with whom.
            for one in together:
                one.found = None
    return [None if one is None else one.found for one in prepared]
