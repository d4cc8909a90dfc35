"""Operations on the result cache."""

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from statestore.checking import checks
from statestore.engine.async_database import AsyncRunner
from statestore.engine.calls import Call
from statestore.engine.database import Runner
from statestore.errors import DatabaseError
from statestore.operations import single_flight
from statestore.operations.base import AsyncGroup, Group, async_operation, operation
from statestore.operations.cache_runner import AsyncCacheRunner, CacheRunner, not_claimed, not_kept
from statestore.operations.compute_claims import AsyncClaims, Claims
from statestore.operations.single_flight import Flight, Flights
from statestore.repositories.cache import keys
from statestore.repositories.cache.compute_claims import CacheClaims, Found
from statestore.repositories.cache.limits import CacheState
from statestore.repositories.cache.repository import CacheRepository
from statestore.values.markers import NeverType

T = TypeVar("T")


class Cache(Group):
    get = operation(CacheRepository.get)
    get_many = operation(CacheRepository.get_many)
    entry = operation(CacheRepository.entry)
    entries = operation(CacheRepository.entries)
    set = operation(CacheRepository.set)
    add = operation(CacheRepository.add)
    set_many = operation(CacheRepository.set_many)
    restore = operation(CacheRepository.restore)
    invalidate = operation(CacheRepository.invalidate)
    invalidate_tag = operation(CacheRepository.invalidate_tag)
    invalidate_tags = operation(CacheRepository.invalidate_tags)
    invalidate_agent = operation(CacheRepository.invalidate_agent)
    invalidate_content_hash = operation(CacheRepository.invalidate_content_hash)
    clear = operation(CacheRepository.clear)
    evict = operation(CacheRepository.evict)
    stats = operation(CacheRepository.stats)

    def __init__(self, runner: Runner, namespace: str, state: CacheState) -> None:
        self._cache_runner = CacheRunner(runner, state)
        super().__init__(self._cache_runner, namespace)
        self._flights: Flights[threading.Event] = Flights(threading.Event)
        self._claims = Claims(self._call, partial(not_claimed, state))

    def make_key(self, agent_name: str, request: Any, permissions: Any = None) -> str:
        """A key for an agent's answer to a request under some permissions. Asks no database.

        The same for the same three, and for no others: SHA-256 over them as a canonical JSON array. The order of a
        mapping's keys is irrelevant; that of a list is not.

        Args:
            agent_name: The agent.
            request: Any exact JSON value.
            permissions: Any exact JSON value: what the agent was allowed to see.

        Raises:
            InvalidValueError: *request* or *permissions* is not exact JSON.
        """
        return keys.make_key(agent_name, request, permissions)

    def flush(self) -> None:
        """Write the hits and counts that were noted until now. The store does so by itself, from time to time.

        What cannot be written within five seconds is kept for later. In a transaction it does nothing: what is noted
        there counts with the commit.
        """
        self._cache_runner.flush()

    def get_or_compute(
        self,
        key: str,
        compute: Callable[[], T],
        *,
        ttl: timedelta | NeverType | None = None,
        tags: Iterable[str] = (),
        agent_name: str | None = None,
        request: Any = None,
        content_hash: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        stale_ttl: timedelta | None = None,
        timeout: timedelta = single_flight.TIMEOUT,
    ) -> T:
        """The value of a key; if there is none, what *compute* returns, which is then kept.

        Of all that ask for a missing key at once, threads, tasks and processes, one computes and the others wait for
        its result. If it fails, the exception reaches its own caller alone, nothing is kept, and the next one computes.
        If its process dies or stands still, another takes over within 5 seconds, or a third of *timeout* if that is
        less, but not within a second; also if it takes longer than *timeout*.

        An invalidation does not reach what is still being computed: the result is kept, though it may stem from what
        was before.

        In a transaction, the caller computes by itself: what it sets is not to be seen before the commit. Others that
        want to set the key wait until then.

        Where the database accepts no writes, a standby or a full disk, it returns what *compute* does, and logs one
        warning for the store: `statestore`.

        Args:
            key: The key.
            compute: Takes no arguments and returns a value as for `set`. No transaction is open while it runs, except
                within `store.transaction()`. The async store takes a coroutine function, too; a plain function runs on
                the event loop, and if it holds that up for seconds, others do not wait for it.
            ttl: See `set`, as for the others.
            tags: …
            agent_name: …
            request: …
            content_hash: …
            metadata: …
            stale_ttl: For so long after its expiry a value is still served to all but the one that computes it anew,
                unless a sweep or an eviction has removed it. That one gets what *compute* raises, too: an error that
                nobody sees would last as long as the value.
            timeout: How long to wait for another's result, and for how long others leave it to this one.

        Raises:
            UnavailableError: Another computes, and was not done in time.
            InvalidValueError: Among others, *compute* asks for the same key, by itself or in a task that it started.
        """
        checks.key(key, "key")
        timeout = single_flight.check(compute, timeout)
        attributes = single_flight.checked(
            self._cache_runner.state.options,
            ttl=ttl,
            tags=tags,
            agent_name=agent_name,
            request=request,
            content_hash=content_hash,
            metadata=metadata,
            stale_ttl=stale_ttl,
        )
        found = self._look(key, stale_ttl, agent_name, count=True)
        if found is not None and not found.stale:
            return single_flight.value_of(found)  # type: ignore[no-any-return]
        if self._cache_runner.state.in_transaction:
            return single_flight.value_of(self._keep(key, compute(), attributes))  # type: ignore[no-any-return]
        deadline = time.monotonic() + timeout.total_seconds()
        while True:
            flight, leads = self._flights.join(key)
            if leads:
                with self._flights.leading(key, flight):
                    result = self._lead(key, compute, attributes, found, flight, timeout, deadline)
                    flight.found = None if result.stale else result
                return single_flight.value_of(result)  # type: ignore[no-any-return]
            if found is not None:
                return single_flight.value_of(found)  # type: ignore[no-any-return]
            if not flight.landed.wait(max(0.0, deadline - time.monotonic())):
                raise single_flight.too_late(key, timeout)
            if flight.found is not None:
                return single_flight.value_of(flight.found)  # type: ignore[no-any-return]

    def _lead(
        self,
        key: str,
        compute: Callable[[], Any],
        attributes: dict[str, Any],
        stale: Found | None,
        flight: Flight[threading.Event],
        timeout: timedelta,
        deadline: float,
    ) -> Found:
        """What is to be served, computed if nobody else does: its own result, another process's, or *stale*."""
        for pause in single_flight.waits():
            with self._claims.held(key, flight.token, timeout) as claimed:
                if claimed:
                    # Whoever had the claim before may have set it since.
                    found = self._look(key, None, None, count=False)
                    if found is None:
                        with self._claims.renewed(key, flight.token, timeout), single_flight.computing(flight):
                            value = compute()
                        found = self._keep(key, value, attributes)
                    return found
            if stale is not None:
                return stale
            left = deadline - time.monotonic()
            if left <= 0:
                raise single_flight.too_late(key, timeout)
            time.sleep(min(pause, left))
            found = self._look(key, None, None, count=False)
            if found is not None:
                return found
        raise AssertionError("unreachable")

    def _look(self, key: str, stale_ttl: timedelta | None, agent_name: str | None, *, count: bool) -> Found | None:
        found: Found | None = self._call(CacheClaims.look, key, stale_ttl=stale_ttl, agent_name=agent_name, count=count)
        return found

    def _keep(self, key: str, value: Any, attributes: dict[str, Any]) -> Found:
        call = Call(CacheClaims.keep, (key, value, attributes))
        try:
            found: Found = self._runner.run(call)
        except DatabaseError as error:
            return not_kept(self._cache_runner.state, call, error)
        return found

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._runner.run(Call(method, args, kwargs))


class AsyncCache(AsyncGroup):
    get = async_operation(CacheRepository.get)
    get_many = async_operation(CacheRepository.get_many)
    entry = async_operation(CacheRepository.entry)
    entries = async_operation(CacheRepository.entries)
    set = async_operation(CacheRepository.set)
    add = async_operation(CacheRepository.add)
    set_many = async_operation(CacheRepository.set_many)
    restore = async_operation(CacheRepository.restore)
    invalidate = async_operation(CacheRepository.invalidate)
    invalidate_tag = async_operation(CacheRepository.invalidate_tag)
    invalidate_tags = async_operation(CacheRepository.invalidate_tags)
    invalidate_agent = async_operation(CacheRepository.invalidate_agent)
    invalidate_content_hash = async_operation(CacheRepository.invalidate_content_hash)
    clear = async_operation(CacheRepository.clear)
    evict = async_operation(CacheRepository.evict)
    stats = async_operation(CacheRepository.stats)

    def __init__(self, runner: AsyncRunner, namespace: str, state: CacheState) -> None:
        self._cache_runner = AsyncCacheRunner(runner, state)
        super().__init__(self._cache_runner, namespace)
        self._flights: Flights[asyncio.Event] = Flights(asyncio.Event)
        self._claims = AsyncClaims(self._call, partial(not_claimed, state))

    def make_key(self, agent_name: str, request: Any, permissions: Any = None) -> str:
        """A key for an agent's answer to a request under some permissions. Not a coroutine. See `Cache.make_key`."""
        return keys.make_key(agent_name, request, permissions)

    async def flush(self) -> None:
        """Write the hits and counts that were noted until now. See `Cache.flush`."""
        await self._cache_runner.flush()

    async def get_or_compute(
        self,
        key: str,
        compute: Callable[[], Awaitable[T] | T],
        *,
        ttl: timedelta | NeverType | None = None,
        tags: Iterable[str] = (),
        agent_name: str | None = None,
        request: Any = None,
        content_hash: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        stale_ttl: timedelta | None = None,
        timeout: timedelta = single_flight.TIMEOUT,
    ) -> T:
        """The value of a key; if there is none, what *compute* returns, which is then kept.

        *compute* is a coroutine function, or a plain one, which runs on the event loop. See `Cache.get_or_compute`.
        """
        checks.key(key, "key")
        timeout = single_flight.check(compute, timeout)
        attributes = single_flight.checked(
            self._cache_runner.state.options,
            ttl=ttl,
            tags=tags,
            agent_name=agent_name,
            request=request,
            content_hash=content_hash,
            metadata=metadata,
            stale_ttl=stale_ttl,
        )
        found = await self._look(key, stale_ttl, agent_name, count=True)
        if found is not None and not found.stale:
            return single_flight.value_of(found)  # type: ignore[no-any-return]
        if self._cache_runner.state.in_transaction:
            kept = await self._keep(key, await _computed(compute), attributes)
            return single_flight.value_of(kept)  # type: ignore[no-any-return]
        deadline = time.monotonic() + timeout.total_seconds()
        while True:
            flight, leads = self._flights.join(key)
            if leads:
                with self._flights.leading(key, flight):
                    result = await self._lead(key, compute, attributes, found, flight, timeout, deadline)
                    flight.found = None if result.stale else result
                return single_flight.value_of(result)  # type: ignore[no-any-return]
            if found is not None:
                return single_flight.value_of(found)  # type: ignore[no-any-return]
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await flight.landed.wait()
            except TimeoutError:
                raise single_flight.too_late(key, timeout) from None
            if flight.found is not None:
                return single_flight.value_of(flight.found)  # type: ignore[no-any-return]

    async def _lead(
        self,
        key: str,
        compute: Callable[[], Any],
        attributes: dict[str, Any],
        stale: Found | None,
        flight: Flight[asyncio.Event],
        timeout: timedelta,
        deadline: float,
    ) -> Found:
        """As `Cache._lead`."""
        for pause in single_flight.waits():
            async with self._claims.held(key, flight.token, timeout) as claimed:
                if claimed:
                    found = await self._look(key, None, None, count=False)
                    if found is None:
                        async with self._claims.renewed(key, flight.token, timeout):
                            with single_flight.computing(flight):
                                value = await _computed(compute)
                        found = await self._keep(key, value, attributes)
                    return found
            if stale is not None:
                return stale
            left = deadline - time.monotonic()
            if left <= 0:
                raise single_flight.too_late(key, timeout)
            await asyncio.sleep(min(pause, left))
            found = await self._look(key, None, None, count=False)
            if found is not None:
                return found
        raise AssertionError("unreachable")

    async def _look(
        self, key: str, stale_ttl: timedelta | None, agent_name: str | None, *, count: bool
    ) -> Found | None:
        found: Found | None = await self._call(
            CacheClaims.look, key, stale_ttl=stale_ttl, agent_name=agent_name, count=count
        )
        return found

    async def _keep(self, key: str, value: Any, attributes: dict[str, Any]) -> Found:
        call = Call(CacheClaims.keep, (key, value, attributes))
        try:
            found: Found = await self._runner.run(call)
        except DatabaseError as error:
            return not_kept(self._cache_runner.state, call, error)
        return found

    async def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._runner.run(Call(method, args, kwargs))


async def _computed(compute: Callable[[], Any]) -> Any:
    value = compute()
    return await value if inspect.isawaitable(value) else value
