"""Between the operations of a cache and the database: a call gets the state of the store's cache, and settles with it.

What was noted is written here when it is due: behind the call that notices, so that it can never fail that call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, event

from statestore.async_database import AsyncRunner
from statestore.database import Runner
from statestore.errors import StateStoreError
from statestore.execution import BoundRunner
from statestore.repositories.base import Call
from statestore.repositories.cache import CacheRepository
from statestore.repositories.cache_base import NOTES, STATE
from statestore.repositories.cache_state import CacheState
from statestore.repositories.cache_statistics import CacheCounts
from statestore.sql import Settings

# These show what is noted, so it is written first.
_SHOWS_COUNTS = frozenset({CacheRepository.stats, CacheRepository.entry, CacheRepository.entries})


class CacheRunner:
    """A `Runner` for the calls of a cache."""

    def __init__(self, runner: Runner, state: CacheState) -> None:
        self._runner = runner
        self.state = state

    def run(self, call: Call) -> Any:
        if self.state.has_pending and call.method in _SHOWS_COUNTS:
            self.flush()
        result = self._run(call)
        if self.state.is_due():
            self.flush()
        return result

    def flush(self) -> None:
        """Write what was noted, now if the database can: it is kept for later if not."""
        if not self.state.has_pending:
            return
        try:
            self._run(Call(CacheCounts, CacheCounts.write_pending))
        except StateStoreError:
            # These are statistics, and in a transaction the failure comes up again at its end.
            return

    def _run(self, call: Call) -> Any:
        call.memo[STATE] = self.state
        try:
            result = self._runner.run(call)
        except BaseException:
            _failed(self.state, call)
            raise
        self.state.settle(call.memo[NOTES])
        return result


class AsyncCacheRunner:
    """As `CacheRunner`, awaited."""

    def __init__(self, runner: AsyncRunner, state: CacheState) -> None:
        self._runner = runner
        self.state = state

    async def run(self, call: Call) -> Any:
        if self.state.has_pending and call.method in _SHOWS_COUNTS:
            await self.flush()
        result = await self._run(call)
        if self.state.is_due():
            await self.flush()
        return result

    async def flush(self) -> None:
        """As `CacheRunner.flush`."""
        if not self.state.has_pending:
            return
        try:
            await self._run(Call(CacheCounts, CacheCounts.write_pending))
        except StateStoreError:
            return

    async def _run(self, call: Call) -> Any:
        call.memo[STATE] = self.state
        try:
            result = await self._runner.run(call)
        except BaseException:
            _failed(self.state, call)
            raise
        self.state.settle(call.memo[NOTES])
        return result


def _failed(state: CacheState, call: Call) -> None:
    notes = call.memo.get(NOTES)  # None: the call never came to a connection.
    if notes is not None:
        state.fail(notes)


@contextmanager
def cache_transaction(state: CacheState) -> Iterator[CacheState]:
    """The state for a transaction of the store's, which takes effect with its commit."""
    branch = state.branch()
    try:
        yield branch
    except BaseException:
        branch.roll_back()
        raise
    branch.commit()


def joined_cache(connection: Connection, runner: BoundRunner, settings: Settings) -> CacheState:
    """The state for a transaction of the caller's: what is noted in it is written right before its commit."""
    state = CacheState(settings.cache).branch()
    joined = _joined.get(connection)
    if joined is None:
        # Once for each connection: listeners cannot be removed while they are called.
        joined = _joined[connection] = []
        event.listen(connection, "commit", _write_joined)
        event.listen(connection, "rollback", _forget_joined)
    joined.append((state, runner))
    return state


_joined: "WeakKeyDictionary[Connection, list[tuple[CacheState, BoundRunner]]]" = WeakKeyDictionary()


def _write_joined(connection: Connection) -> None:
    while joined := _joined[connection]:
        state, runner = joined.pop()
        if state.has_pending:
            call = Call(CacheCounts, CacheCounts.write_pending)
            call.memo[STATE] = state
            runner.run(call)


def _forget_joined(connection: Connection) -> None:
    _joined[connection].clear()
