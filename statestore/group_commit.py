"""Group commit: appends that wait at the same moment travel together.

A commit is a round trip and a write to disk that does not get cheaper by being alone. So an append that finds no other
under way goes at once, by itself; those that come meanwhile wait for it, and then go as one statement and one commit.
Nobody waits for a timer. Each caller gets its own entries, or its own error, once they are durable.

Appends to one session are stored in the order of the calls: while one is under way, later ones of its session wait.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from statestore.database import Database
from statestore.repositories import group_appending
from statestore.repositories.base import Call
from statestore.workers import Workers

_LARGEST_GROUP = 64


class _Waiting:
    """A call that waits for its group."""

    __slots__ = ("call", "future", "session_id")

    def __init__(self, call: Call, session_id: str, future: "asyncio.Future[Any]") -> None:
        self.call = call
        self.session_id = session_id
        self.future = future


class GroupCommit:
    """Runs appends, in groups where several wait. Belongs to one event loop."""

    def __init__(
        self,
        database: Database,
        workers: Workers,
        run: Callable[[Call], Any],
        turn: Callable[[], AbstractAsyncContextManager[None]],
        *,
        groups: int,
    ) -> None:
        """Use *workers* for at most *groups* groups at once, each in a *turn*; and *run* for one that is alone."""
        self._database = database
        self._workers = workers
        self._run = run
        self._turn = turn
        self._free = groups
        self._waiting: list[_Waiting] = []
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, call: Call, session_id: str) -> Any:
        if self._free and not self._waiting and session_id not in self._busy:
            self._free -= 1
            self._busy.add(session_id)
            try:
                return await self._run(call)
            finally:
                self._free += 1
                self._busy.discard(session_id)
                self._start()
        waiting = _Waiting(call, session_id, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._start()
        try:
            return await asyncio.shield(waiting.future)
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                raise
            while not waiting.future.done():  # Under way: to its end, all of it.
                try:
                    await asyncio.wait([waiting.future])
                except asyncio.CancelledError:
                    continue
            waiting.future.exception()
            raise

    def _start(self) -> None:
        """Send the next groups off."""
        while self._free and (group := self._next_group()):
            self._free -= 1
            self._busy |= {waiting.session_id for waiting in group}
            task = asyncio.get_running_loop().create_task(self._commit(group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        rest: list[_Waiting] = []
        for waiting in self._waiting:
            if len(group) < _LARGEST_GROUP and waiting.session_id not in self._busy:
                group.append(waiting)
            else:
                rest.append(waiting)
        self._waiting = rest
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        try:
            async with self._turn():
                results = await self._workers.run(_commit, self._database, [waiting.call for waiting in group])
            for waiting, (result, error) in zip(group, results, strict=True):
                if error is not None:
                    waiting.future.set_exception(error)
                else:
                    waiting.future.set_result(result)
        except BaseException as exc:
            for waiting in group:
                if not waiting.future.done():
                    waiting.future.set_exception(exc)
            raise
        finally:
            self._free += 1
            self._busy -= {waiting.session_id for waiting in group}
            self._start()


def _commit(database: Database, calls: Sequence[Call]) -> list[tuple[Any, BaseException | None]]:
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
    results: list[tuple[Any, BaseException | None]] = []
    for call, one in zip(calls, prepared, strict=True):
        if one is not None and one.stored is not None:
            results.append((one.stored, None))
            continue
        try:
            results.append((database.run(call), None))
        except Exception as exc:
            results.append((None, exc))
    return results
