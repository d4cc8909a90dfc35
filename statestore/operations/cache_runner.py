"""Between the operations of a cache and the database: a call gets the state of the store's cache, and updates it.

Noted hits and counts are written here when they are due: after the call that notices, in a separate operation, so that
this can never fail the call. It waits only briefly for others, and what cannot be written is kept for later.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from statestore.checking import codec
from statestore.engine.async_database import AsyncRunner
from statestore.engine.calls import Call
from statestore.engine.database import Runner
from statestore.engine.execution import BoundRunner
from statestore.engine.flows import Do, Flow, Sleep, run, run_async
from statestore.engine.sql import Settings
from statestore.engine.waits import Waits, deadline, pauses
from statestore.errors import DatabaseError, ReadOnlyError, StateStoreError, StorageFullError
from statestore.repositories.cache.base import BRIEF, NOTES, STATE
from statestore.repositories.cache.compute_claims import COMPUTED, Found
from statestore.repositories.cache.limits import CacheState
from statestore.repositories.cache.options import CacheOptions
from statestore.repositories.cache.statistics import CacheCounts

_log = logging.getLogger("statestore")

# Seconds to wait for others if a caller asks for the counts to be written, or closes the store; plain reads never wait
# that long. The second is the limit for everything, if the network swallows all packets.
_ASKED_FOR, _LONGEST = 4.0, 5.0


class _CacheRunner:
    """What both worlds share; they differ in how they run a call."""

    _run: Callable[[Call], Any]

    def __init__(self, state: CacheState) -> None:
        self.state = state

    def _flushing(self, patience: float) -> Flow[None]:
        """Write what was noted, if the database can now; otherwise keep it for later.

        Does nothing in a transaction, whose counts take effect with its commit.
        """
        if self.state.in_transaction or not self.state.has_pending:
            return
        try:
            with deadline(_LONGEST):
                for pause in _pauses(patience):
                    call = _write_pending(self.state, patience)
                    yield Do(partial(self._run, call))
                    if pause is None or not call.memo[NOTES].skipped:
                        return
                    yield Sleep(pause)
        except StateStoreError as error:
            not_written(self.state, error)

    def _failed(self, call: Call) -> None:
        notes = call.memo.get(NOTES)  # None if the call never got a connection.
        if notes is not None:
            self.state.fail(notes)


class CacheRunner(_CacheRunner):
    """A `Runner` for the calls of a cache."""

    def __init__(self, runner: Runner, state: CacheState) -> None:
        super().__init__(state)
        self._runner = runner

    def run(self, call: Call) -> Any:
        if getattr(call.method, "shows_counts", False) and self.state.may_write():
            self.flush(BRIEF)
        result = self._run(call)
        if self.state.is_due():
            self.flush(BRIEF)
        return result

    def flush(self, patience: float = _ASKED_FOR) -> None:
        """Write what was noted; see `Cache.flush`."""
        run(self._runner, self._flushing(patience))

    def _run(self, call: Call) -> Any:
        call.memo[STATE] = self.state
        try:
            result = self._runner.run(call)
        except BaseException:
            self._failed(call)
            raise
        self.state.settle(call.memo[NOTES])
        return result


class AsyncCacheRunner(_CacheRunner):
    """As `CacheRunner`, awaited. A hit is a single call, too quick to be a flow."""

    def __init__(self, runner: AsyncRunner, state: CacheState) -> None:
        super().__init__(state)
        self._runner = runner

    async def run(self, call: Call) -> Any:
        if getattr(call.method, "shows_counts", False) and self.state.may_write():
            await self.flush(BRIEF)
        result = await self._run(call)
        if self.state.is_due():
            await self.flush(BRIEF)
        return result

    async def flush(self, patience: float = _ASKED_FOR) -> None:
        """As `CacheRunner.flush`."""
        await run_async(self._runner, self._flushing(patience))

    async def _run(self, call: Call) -> Any:
        call.memo[STATE] = self.state
        try:
            result = await self._runner.run(call)
        except BaseException:
            self._failed(call)
            raise
        self.state.settle(call.memo[NOTES])
        return result


def _write_pending(state: CacheState, patience: float) -> Call:
    call = Call(CacheCounts.write_pending)
    call.memo[STATE] = state
    call.patience = patience
    return call


def _pauses(patience: float) -> Iterator[float | None]:
    """How long to pause before each retry, while others hold the entries; None for the last try."""
    return iter((None,)) if patience <= BRIEF else pauses(Waits(retry_for=patience))


def not_written(state: CacheState, error: StateStoreError) -> None:
    """Note that counts could not be written. That is not a reason to fail: writing them is retried later."""
    state.put_off()
    if isinstance(error, ReadOnlyError | StorageFullError):
        _warn(state, error)
    else:
        _log.debug("cache counts could not be written and are kept for later: %s", error)


def not_claimed(state: CacheState, error: StateStoreError) -> None:
    """Go on without a claim if the database does not accept writes; raise any other error."""
    if not isinstance(error, ReadOnlyError | StorageFullError):
        raise error
    _warn(state, error)


def not_kept(state: CacheState, call: Call, error: DatabaseError) -> Found:
    """A computed value that could not be kept. In a transaction this raises, since nothing of that will be kept."""
    if state.in_transaction:
        raise error
    # Missing if the call did not even begin.
    found = call.memo.get(COMPUTED) or _encoded(state, call.args[1])
    _warn(state, error)
    return found


def _encoded(state: CacheState, value: Any) -> Found:
    data = codec.encode(value, "value", max_bytes=state.max_value_bytes, compress_above=state.options.compress_above)
    return Found(data.data, data.codec, False, state.max_value_bytes)


def _warn(state: CacheState, error: StateStoreError) -> None:
    """Log, once for each store, what its callers do not notice."""
    if not state.has_warned:
        state.has_warned = True
        _log.warning("the cache is not writable; results are returned but not kept, hits are not counted: %s", error)


@contextmanager
def cache_transaction(state: CacheState) -> Iterator[CacheState]:
    """The state for one of the store's own transactions, which takes effect with its commit."""
    branch = state.branch()
    try:
        yield branch
    except BaseException:
        branch.roll_back()
        raise
    branch.commit()


def joined_cache(connection: Connection, runner: BoundRunner, settings: Settings) -> CacheState:
    """The state for a caller's transaction: what is noted in it is written right before its commit.

    There is no other connection to write it on, and that late it keeps nobody waiting.
    """
    state = CacheState(settings.of(CacheOptions), max_value_bytes=settings.max_value_bytes).branch()
    joined = _joined.get(connection)
    if joined is None:
        # Once for each connection, since listeners cannot be removed while they are called.
        joined = _joined[connection] = []
        event.listen(connection, "commit", _write_joined)
        event.listen(connection, "rollback", _forget_joined)
    joined.append((state, runner))
    return state


_SAVEPOINT = "statestore_counts"

_joined: "WeakKeyDictionary[Connection, list[tuple[CacheState, BoundRunner]]]" = WeakKeyDictionary()


def _write_joined(connection: Connection) -> None:
    while joined := _joined[connection]:
        state, runner = joined.pop()
        if not state.has_pending:
            continue
        try:
            # A failure in here is undone by itself, and does not undo the caller's work.
            connection.exec_driver_sql(f"SAVEPOINT {_SAVEPOINT}")
            try:
                runner.run(_write_pending(state, BRIEF))
            except BaseException:
                connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
                raise
            finally:
                connection.exec_driver_sql(f"RELEASE SAVEPOINT {_SAVEPOINT}")
        except (StateStoreError, DBAPIError):
            # If the transaction had failed before, the caller hears of that elsewhere.
            _log.debug("cache counts were not written with the transaction")


def _forget_joined(connection: Connection) -> None:
    _joined[connection].clear()
