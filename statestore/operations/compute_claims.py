"""Holding the claim to compute a value, while a block of code runs; `single_flight` says for how long at a time."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias

from statestore.engine import forking
from statestore.engine.async_database import finished
from statestore.errors import StateStoreError
from statestore.operations import single_flight
from statestore.repositories.cache.compute_claims import CacheClaims

Renewals: TypeAlias = Iterator[tuple[float, Callable[[], timedelta]]]


class Claims:
    """The claims of a cache, by way of *call*, which runs a method of `CacheClaims`.

    Where nothing can be written, nobody gets a claim, and everybody may compute: *not_written* then takes the error, or
    raises it again if it is another.
    """

    def __init__(self, call: Callable[..., Any], not_written: Callable[[StateStoreError], None]) -> None:
        self._call = call
        self._not_written = not_written
        self._renewer = _Renewer(self._renew)

    @contextmanager
    def held(self, key: str, token: str, timeout: timedelta) -> Iterator[bool]:
        """Whether to compute: one has got the claim, or nobody can. It is given back at the end of the block."""
        claimed = computes = True  # For all that is known, if this is interrupted.
        try:
            try:
                claimed = computes = self._call(CacheClaims.claim, key, token, single_flight.claim_time(timeout))
            except StateStoreError as error:
                claimed = False
                self._not_written(error)
            yield computes
        finally:
            if claimed:
                self._release(key, token)

    @contextmanager
    def renewed(self, key: str, token: str, timeout: timedelta) -> Iterator[None]:
        """Keeps a claim for as long as the block takes, but not longer than *timeout*."""
        self._renewer.add(key, token, single_flight.renewals(timeout))
        try:
            yield
        finally:
            self._renewer.remove(token)

    def _renew(self, key: str, token: str, lasts: timedelta) -> bool:
        """Whether to go on; what may pass is tried again."""
        try:
            renewed: bool = self._call(CacheClaims.renew, key, token, lasts)
        except StateStoreError as error:
            return error.retryable
        return renewed

    def _release(self, key: str, token: str) -> None:
        try:
            self._call(CacheClaims.release, key, token)
        except StateStoreError:
            return  # It ends by itself, and the caller has its value, or an error that says more.


class _Renewal(NamedTuple):
    at: float
    key: str
    lasts: Callable[[], timedelta]
    later: Renewals


class _Renewer:
    """Renews claims, in a thread that there is while they are. One for each doubled the price of a quick computation.

    A renewal may still be under way when its claim has been given back: it does not bring it to life again.
    """

    def __init__(self, renew: Callable[[str, str, timedelta], bool]) -> None:
        self._renew = renew
        self.renew_after_fork()
        forking.renew_in_child(self)

    def renew_after_fork(self) -> None:
        """In a forked child: the claims are the parent's."""
        self._sooner = threading.Condition()
        self._renewals: dict[str, _Renewal] = {}
        self._thread: threading.Thread | None = None
        self._wakes = 0.0

    def add(self, key: str, token: str, renewals: Renewals) -> None:
        with self._sooner:
            self._plan(key, token, renewals)
            planned = self._renewals.get(token)
            if planned is None:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="statestore-claims", daemon=True)
                self._thread.start()
            elif planned.at < self._wakes:
                self._sooner.notify()

    def remove(self, token: str) -> None:
        # The thread is not woken: it finds that out when it wakes.
        with self._sooner:
            self._renewals.pop(token, None)

    def _plan(self, key: str, token: str, renewals: Renewals) -> None:
        self._renewals.pop(token, None)
        for pause, lasts in renewals:
            self._renewals[token] = _Renewal(time.monotonic() + pause, key, lasts, renewals)
            return

    def _work(self) -> None:
        while True:
            with self._sooner:
                if not self._renewals:
                    self._thread = None
                    return
                token, planned = min(self._renewals.items(), key=lambda item: item[1].at)
                pause = planned.at - time.monotonic()
                if pause > 0:
                    self._wakes = planned.at
                    self._sooner.wait(pause)
                    continue
            renewed = self._renew(planned.key, token, planned.lasts())
            with self._sooner:
                if token in self._renewals:
                    self._plan(planned.key, token, planned.later if renewed else iter(()))


class AsyncClaims:
    """As `Claims`, awaited. A cancellation leaves no claim behind, not even one that is repeated at every await."""

    def __init__(
        self, call: Callable[..., Coroutine[Any, Any, Any]], not_written: Callable[[StateStoreError], None]
    ) -> None:
        self._call = call
        self._not_written = not_written

    @asynccontextmanager
    async def held(self, key: str, token: str, timeout: timedelta) -> AsyncIterator[bool]:
        """As `Claims.held`."""
        claimed = computes = True
        try:
            try:
                lasts = single_flight.claim_time(timeout)
                claimed = computes = await _cancelled_once(self._call(CacheClaims.claim, key, token, lasts))
            except StateStoreError as error:
                claimed = False
                self._not_written(error)
            yield computes
        finally:
            if claimed:
                await finished(self._release(key, token))

    @asynccontextmanager
    async def renewed(self, key: str, token: str, timeout: timedelta) -> AsyncIterator[None]:
        """As `Claims.renewed`."""
        stop = asyncio.Event()

        async def renew() -> None:
            for pause, lasts in single_flight.renewals(timeout):
                try:
                    async with asyncio.timeout(pause):
                        await stop.wait()
                    return
                except TimeoutError:
                    pass
                if not await self._renew(key, token, lasts()):
                    return

        task = asyncio.create_task(renew(), name="statestore-claim")
        try:
            yield
        finally:
            stop.set()
            await finished(task)

    async def _renew(self, key: str, token: str, lasts: timedelta) -> bool:
        try:
            renewed: bool = await self._call(CacheClaims.renew, key, token, lasts)
        except StateStoreError as error:
            return error.retryable
        return renewed

    async def _release(self, key: str, token: str) -> None:
        try:
            await self._call(CacheClaims.release, key, token)
        except StateStoreError:
            return


async def _cancelled_once(work: Coroutine[Any, Any, Any]) -> Any:
    """Await *work*. Of a cancellation that is repeated it sees one, and comes to its end before that is passed on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        await finished(asyncio.wait([task]))
        if not task.cancelled():
            task.exception()  # It is nobody's any more.
        raise
