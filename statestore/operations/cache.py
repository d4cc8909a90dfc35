"""Operations on the result cache."""

import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, ParamSpec, TypeVar, overload

from statestore.checking import checks, exactjson
from statestore.engine.async_database import AsyncRunner
from statestore.engine.calls import Call
from statestore.engine.database import Runner
from statestore.engine.flows import Do, Flow, NewSignal, Sleep, Wait, run, run_async
from statestore.errors import DatabaseError, StateStoreError
from statestore.operations import compute_claims, memoizing, single_flight
from statestore.operations.base import AsyncGroup, Group, Operations, flow, operation
from statestore.operations.cache_counting import AsyncCounting, Counting
from statestore.operations.cache_runner import AsyncCacheRunner, CacheRunner, not_claimed, not_kept
from statestore.operations.compute_claims import TaskRenewals, ThreadRenewals
from statestore.operations.memoizing import AsyncMemoized, Memoized
from statestore.operations.single_flight import Flight, Flights, value_of
from statestore.repositories.cache.compute_claims import CacheClaims, Found
from statestore.repositories.cache.limits import CacheState
from statestore.repositories.cache.repository import CacheRepository
from statestore.values.cache import CacheTtl

T = TypeVar("T")
P = ParamSpec("P")


class _Asked(NamedTuple):
    """What one call of `get_or_compute` is about."""

    key: str
    compute: Callable[[], Any]
    timeout: timedelta
    attributes: dict[str, Any]
    look: Call


class CacheOperations(Operations):
    get = operation(CacheRepository.get)
    get_many = operation(CacheRepository.get_many)
    entry = operation(CacheRepository.entry)
    entries = operation(CacheRepository.entries)
    set = operation(CacheRepository.set)
    add = operation(CacheRepository.add)
    set_many = operation(CacheRepository.set_many)
    touch = operation(CacheRepository.touch)
    exists = operation(CacheRepository.exists)
    ttl = operation(CacheRepository.ttl)
    keys = operation(CacheRepository.keys)
    restore = operation(CacheRepository.restore)
    invalidate = operation(CacheRepository.invalidate)
    invalidate_many = operation(CacheRepository.invalidate_many)
    invalidate_prefix = operation(CacheRepository.invalidate_prefix)
    pop = operation(CacheRepository.pop)
    invalidate_tag = operation(CacheRepository.invalidate_tag)
    invalidate_tags = operation(CacheRepository.invalidate_tags)
    invalidate_agent = operation(CacheRepository.invalidate_agent)
    invalidate_content_hash = operation(CacheRepository.invalidate_content_hash)
    clear = operation(CacheRepository.clear)
    evict = operation(CacheRepository.evict)
    stats = operation(CacheRepository.stats)

    _cache_runner: CacheRunner | AsyncCacheRunner
    _renewals: ThreadRenewals | TaskRenewals
    _flights: Flights

    def make_key(self, agent_name: str, request: Any, permissions: Any = None) -> str:
        """A key for an agent's answer to a request under some permissions. Does not use the database.

        Equal for equal arguments, and only for those: SHA-256 over all three as a canonical JSON array. The order of a
        mapping's keys does not matter; that of a list does.

        Args:
            agent_name: The agent.
            request: Any exact JSON value.
            permissions: What the agent was allowed to see: any exact JSON value.

        Raises:
            InvalidValueError: *request* or *permissions* is not exact JSON.
        """
        limit = exactjson.Limit(
            exactjson.MAX_BYTES, lenient=exactjson.is_lenient(self._cache_runner.state.max_value_bytes)
        )
        return memoizing.make_key(agent_name, request, permissions, limit=limit)

    @flow
    def flush(self) -> Flow[None]:
        """Write the hits and counts noted so far. The store also does so by itself from time to time.

        What cannot be written within five seconds is kept for later. In a transaction this does nothing: what is noted
        there counts with the commit.
        """
        yield Do(self._cache_runner.flush)

    def _asked(self, key: str, compute: Callable[[], Any], *, timeout: timedelta, **attributes: Any) -> "_Asked":
        """What `get_or_compute` is asked for, checked, and the call that looks whether it is there.

        A hit is that one call: it is too quick to be made of a flow.
        """
        checks.key(key, "key")
        timeout = single_flight.check(compute, timeout)
        attributes = single_flight.checked(self._cache_runner.state, **attributes)
        look = {"stale_ttl": attributes["stale_ttl"], "agent_name": attributes["agent_name"], "count": True}
        return _Asked(key, compute, timeout, attributes, Call(CacheClaims.look, (key,), look))

    def _memoizing(self, key: Any, *, ttl: CacheTtl | None, tags: Iterable[str]) -> dict[str, Any]:
        """The arguments of `memoize`, checked, for `get_or_compute`."""
        wanted = {"ttl": ttl, "tags": memoizing.checked(key, tags)}
        rest = {"agent_name": None, "request": None, "content_hash": None, "metadata": None, "stale_ttl": None}
        single_flight.checked(self._cache_runner.state, **wanted, **rest)
        return wanted

    def _missed(self, asked: "_Asked", found: Found | None) -> Flow[Any]:
        """What `get_or_compute` returns when there is nothing, or only the stale entry *found*."""
        key, compute, timeout, attributes = asked.key, asked.compute, asked.timeout, asked.attributes
        state = self._cache_runner.state
        if state.in_transaction:
            value = yield Do(compute)
            return value_of((yield from self._keep(key, value, attributes)))
        deadline = time.monotonic() + timeout.total_seconds()
        while True:
            flight, leads = self._flights.join(key, (yield NewSignal(shared=True)))
            if leads:
                with self._flights.leading(key, flight):
                    result = yield from self._lead(key, compute, attributes, found, flight, timeout, deadline)
                    flight.found = None if result.stale else result
                return value_of(result)
            if found is not None:
                return value_of(found)
            if not (yield Wait(flight.landed, max(0.0, deadline - time.monotonic()))):
                raise single_flight.too_late(key, timeout)
            if flight.found is not None:
                return value_of(flight.found)

    def _lead(
        self,
        key: str,
        compute: Callable[[], Any],
        attributes: dict[str, Any],
        stale: Found | None,
        flight: Flight,
        timeout: timedelta,
        deadline: float,
    ) -> Flow[Found]:
        """The value to serve: computed here, taken from another process, or *stale*."""
        found: Found | None
        for pause in single_flight.waits():
            claimed = computes = True  # If interrupted, assume that the claim was taken.
            try:
                try:
                    claimed = computes = yield from compute_claims.claim(key, flight.token, timeout)
                except StateStoreError as error:
                    claimed = False
                    not_claimed(self._cache_runner.state, error)
                if computes:
                    # The previous holder of the claim may have set it since.
                    found = yield from self._look_again(key)
                    if found is None:
                        value = yield from self._computed(key, compute, flight, timeout)
                        found = yield from self._keep(key, value, attributes)
                    return found
            finally:
                if claimed:
                    yield from compute_claims.release(key, flight.token)
            if stale is not None:
                return stale
            left = deadline - time.monotonic()
            if left <= 0:
                raise single_flight.too_late(key, timeout)
            yield Sleep(min(pause, left))
            found = yield from self._look_again(key)
            if found is not None:
                return found
        raise AssertionError("unreachable")

    def _computed(self, key: str, compute: Callable[[], Any], flight: Flight, timeout: timedelta) -> Flow[Any]:
        """What *compute* returns; the claim is renewed meanwhile."""
        renewal = yield from self._renewals.begin(key, flight.token, timeout)
        try:
            with single_flight.computing(flight):
                value = yield Do(compute)
        finally:
            yield from self._renewals.end(renewal)
        return value

    def _look_again(self, key: str) -> Flow[Found | None]:
        options = {"stale_ttl": None, "agent_name": None, "count": False}
        found: Found | None = yield Call(CacheClaims.look, (key,), options)
        return found

    def _keep(self, key: str, value: Any, attributes: dict[str, Any]) -> Flow[Found]:
        call = Call(CacheClaims.keep, (key, value, attributes))
        try:
            found: Found = yield call
        except DatabaseError as error:
            return not_kept(self._cache_runner.state, call, error)
        return found


class Cache(CacheOperations, Counting, Group):
    """The result cache: `store.cache`."""

    def __init__(self, runner: Runner, namespace: str, state: CacheState) -> None:
        self._cache_runner = CacheRunner(runner, state)
        super().__init__(self._cache_runner, namespace)
        self._renewals = ThreadRenewals(self._cache_runner)
        self._flights = Flights()

    def get_or_compute(
        self,
        key: str,
        compute: Callable[[], T],
        *,
        ttl: CacheTtl | None = None,
        tags: Iterable[str] = (),
        agent_name: str | None = None,
        request: Any = None,
        content_hash: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        stale_ttl: timedelta | float | None = None,
        timeout: timedelta = single_flight.TIMEOUT,
    ) -> T:
        """The value of a key; if there is none, what *compute* returns, which is then kept.

        If several callers ask for a missing key at once, in threads, tasks or processes, one computes and the others
        wait for its result. If it fails, only its own caller gets the exception, nothing is kept, and the next one
        computes. If its process dies or hangs, another takes over within 5 seconds, or a third of *timeout* if that is
        less, but not before one second; the same if it takes longer than *timeout*.

        An invalidation does not affect a value that is still being computed: the result is kept, though it may be
        based on older data.

        In a transaction, each caller computes for itself, since what it sets is not visible before the commit. Others
        that want to set the key wait until then.

        If the database does not accept writes, as on a standby or a full disk, this returns what *compute* returns,
        and logs one warning per store to the logger `statestore`.

        Args:
            key: The key.
            compute: Takes no arguments and returns a value as for `set`. No transaction is open while it runs, except
                within `store.transaction()`. The async store also takes a coroutine function; a plain function runs on
                the event loop, and if it blocks that for seconds, others do not wait for it.
            ttl: As for `set`, like the next five.
            tags: …
            agent_name: …
            request: …
            content_hash: …
            metadata: …
            stale_ttl: How long after its expiry a value is still served to all callers but the one that computes it
                again, unless a sweep or an eviction has removed it. That caller also gets what *compute* raises: an
                error that nobody sees would last as long as the value.
            timeout: How long to wait for another caller's result, and how long others wait for this one.

        Raises:
            UnavailableError: Another caller is computing, and did not finish in time.
            InvalidValueError: For example, *compute* asks for the same key, by itself or in a task that it started.
        """
        asked = self._asked(
            key,
            compute,
            ttl=ttl,
            tags=tags,
            agent_name=agent_name,
            request=request,
            content_hash=content_hash,
            metadata=metadata,
            stale_ttl=stale_ttl,
            timeout=timeout,
        )
        found = self._runner.run(asked.look)
        value = run(self._runner, self._missed(asked, found)) if found is None or found.stale else value_of(found)
        return value  # type: ignore[no-any-return]

    def memoize(
        self,
        *,
        ttl: CacheTtl | None = None,
        tags: Iterable[str] = (),
        key: Callable[..., str] | str | None = None,
    ) -> Callable[[Callable[P, T]], Memoized[P, T]]:
        """Keep the results of a function: a decorator. A call is `get_or_compute`: one computes, the others wait.

        The function keeps its name, signature and types, and gets `key(…)`, the key for some arguments, and
        `invalidate(…)`, which removes the result for them.

        Args:
            ttl: As for `set`, like *tags*.
            tags: …
            key: What results are kept under. By default it is made of the function's qualified name and of its
                arguments, which have to be exact JSON: equal calls have equal keys, however the arguments are passed. A
                name replaces that of the function, and keeps results when it is renamed. A function of the same
                arguments returns the key itself: for arguments that are not JSON, such as the `self` of a method.

        Raises:
            InvalidValueError: The function is a coroutine function, or does not say what arguments it takes (`int`) and
                *key* is not a function; or, when it is called, its arguments cannot make a key. Nothing was computed.
        """
        wanted = self._memoizing(key, ttl=ttl, tags=tags)

        def decorate(function: Callable[P, T]) -> Memoized[P, T]:
            memoizing.check_function(function, is_async=False)
            make = memoizing.key_maker(function, key)

            def call(*args: P.args, **kwargs: P.kwargs) -> T:
                return self.get_or_compute(make(*args, **kwargs), lambda: function(*args, **kwargs), **wanted)

            def invalidate(*args: P.args, **kwargs: P.kwargs) -> int:
                return self.invalidate(make(*args, **kwargs))

            kept: Memoized[P, T] = memoizing.dressed(call, function, key=make, invalidate=invalidate)
            return kept

        return decorate


class AsyncCache(CacheOperations, AsyncCounting, AsyncGroup):
    """As `Cache`, awaited."""

    def __init__(self, runner: AsyncRunner, namespace: str, state: CacheState) -> None:
        self._cache_runner = AsyncCacheRunner(runner, state)
        super().__init__(self._cache_runner, namespace)
        self._renewals = TaskRenewals()
        self._flights = Flights()

    @overload
    async def get_or_compute(
        self,
        key: str,
        compute: Callable[[], Awaitable[T]],
        *,
        ttl: CacheTtl | None = ...,
        tags: Iterable[str] = ...,
        agent_name: str | None = ...,
        request: Any = ...,
        content_hash: str | None = ...,
        metadata: Mapping[str, Any] | None = ...,
        stale_ttl: timedelta | float | None = ...,
        timeout: timedelta = ...,
    ) -> T: ...
    @overload
    async def get_or_compute(
        self,
        key: str,
        compute: Callable[[], T],
        *,
        ttl: CacheTtl | None = ...,
        tags: Iterable[str] = ...,
        agent_name: str | None = ...,
        request: Any = ...,
        content_hash: str | None = ...,
        metadata: Mapping[str, Any] | None = ...,
        stale_ttl: timedelta | float | None = ...,
        timeout: timedelta = ...,
    ) -> T: ...
    async def get_or_compute(
        self,
        key: str,
        compute: Callable[[], Awaitable[T] | T],
        *,
        ttl: CacheTtl | None = None,
        tags: Iterable[str] = (),
        agent_name: str | None = None,
        request: Any = None,
        content_hash: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        stale_ttl: timedelta | float | None = None,
        timeout: timedelta = single_flight.TIMEOUT,
    ) -> T:
        """The value of a key; if there is none, what *compute* returns, which is then kept.

        *compute* is a coroutine function, or a plain one, which runs on the event loop. See `Cache.get_or_compute`.
        """
        asked = self._asked(
            key,
            compute,
            ttl=ttl,
            tags=tags,
            agent_name=agent_name,
            request=request,
            content_hash=content_hash,
            metadata=metadata,
            stale_ttl=stale_ttl,
            timeout=timeout,
        )
        found = await self._runner.run(asked.look)
        if found is None or found.stale:
            return await run_async(self._runner, self._missed(asked, found))
        return value_of(found)  # type: ignore[no-any-return]

    def memoize(
        self,
        *,
        ttl: CacheTtl | None = None,
        tags: Iterable[str] = (),
        key: Callable[..., str] | str | None = None,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], AsyncMemoized[P, T]]:
        """Keep the results of a coroutine function: a decorator. See `Cache.memoize`; `invalidate(…)` is awaited.

        A function that returns something to await, but is not `async def`, is refused: write one that awaits it.
        """
        wanted = self._memoizing(key, ttl=ttl, tags=tags)

        def decorate(function: Callable[P, Coroutine[Any, Any, T]]) -> AsyncMemoized[P, T]:
            memoizing.check_function(function, is_async=True)
            make = memoizing.key_maker(function, key)

            async def call(*args: P.args, **kwargs: P.kwargs) -> T:
                return await self.get_or_compute(make(*args, **kwargs), lambda: function(*args, **kwargs), **wanted)

            async def invalidate(*args: P.args, **kwargs: P.kwargs) -> int:
                return await self.invalidate(make(*args, **kwargs))

            kept: AsyncMemoized[P, T] = memoizing.dressed(call, function, key=make, invalidate=invalidate)
            return kept

        return decorate
