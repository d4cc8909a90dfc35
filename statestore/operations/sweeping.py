"""Sweeps: their steps, in which order, and when they end."""

import random
import time
from collections.abc import Callable, Generator, Iterable
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias

from statestore.checking import checks
from statestore.checking.namespaces import EVERY, Chosen, chosen
from statestore.engine.calls import Call, NamespaceCall
from statestore.engine.flows import Do, Flow, empty_log
from statestore.errors import ClockError, InvalidValueError
from statestore.operations.base import flow, operation
from statestore.operations.namespaces import Namespaces
from statestore.repositories.expiry.batch import Batch
from statestore.repositories.expiry.dry_run import DryRunRepository
from statestore.repositories.expiry.namespaces import NamespaceRepository
from statestore.repositories.expiry.repository import ExpiryRepository
from statestore.repositories.rollup.repository import RollupRepository
from statestore.values.usage import SweepKind, SweepReport, Swept

Progress: TypeAlias = Callable[[SweepReport], None]

DEFAULT_BATCH = 500

_Step: TypeAlias = tuple[Callable[..., Batch], dict[str, Any]]
_ENDING_PARTS: _Step = (ExpiryRepository.end_others, {"excess": False})


def sweep(
    *,
    batch_size: int,
    time_budget: timedelta | None,
    dry_run: bool,
    progress: Progress | None,
    look_for_unseen: bool = True,
    stopped: Callable[[], bool] = lambda: False,
    own: str = "",
    namespaces: Chosen | None = None,
    max_clock_gap: timedelta | None = None,
    flush: Callable[[], Any] | None = None,
) -> Flow[SweepReport]:
    """Delete everything that is due: in the store's *own* namespace, or in *namespaces* instead."""
    checks.count(batch_size, "batch_size", least=1)
    checks.flag(dry_run, "dry_run")
    checks.optional_function(progress, "progress")
    checks.ttl(time_budget, "time_budget", hint="use None for no limit")
    checks.ttl(max_clock_gap, "max_clock_gap", hint="use None for any")
    tally = _Tally(time_budget, dry_run, progress, stopped)
    names: list[str | None] = [None]
    if namespaces is not None:
        others = [name for name in (yield Call(NamespaceRepository.names, (namespaces, "sweep"))) if name != own]
        # In another order each time: a time budget would otherwise always leave the same ones for later.
        names = [*([None] if namespaces.has(own) else []), *random.sample(others, len(others))]
    if max_clock_gap is not None:
        yield from _check_clock(names, max_clock_gap)
    if flush is not None:
        yield Do(flush)  # Recent hits must count, so that those entries stay; not by a clock that is wrong.
    for namespace in names:
        limited = namespace is None  # The limits are the store's: others may have others.
        if dry_run:
            tally.add((yield _call(namespace, DryRunRepository.due, limits=limited)))
            continue
        steps: list[_Step] = [
            (ExpiryRepository.end_idle, {}),
            (ExpiryRepository.end_others, {"excess": limited}),
            (ExpiryRepository.sweep_sessions, {}),
            (ExpiryRepository.sweep_state, {}),
            (ExpiryRepository.sweep_cache, {}),
            *([(ExpiryRepository.sweep_overflow, {})] if limited else []),
            *([(ExpiryRepository.sweep_unseen, {})] if look_for_unseen else []),
            (RollupRepository.roll_up, {}),
        ]
        yield from _run(steps, batch_size, tally, namespace)
    return tally.report()


def _check_clock(names: list[str | None], most: timedelta) -> Flow[None]:
    """Raise `ClockError` if all namespaces were last used longer ago than *most*. One that was not is enough."""
    latest: datetime | None = None
    for namespace in names:
        now, newest = yield _call(namespace, ExpiryRepository.newest)
        if newest is None:
            continue
        if newest >= now - most:
            return
        latest = newest if latest is None else max(latest, newest)
    if latest is not None:
        raise ClockError(now, latest)


def _call(namespace: str | None, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return Call(method, args, kwargs) if namespace is None else NamespaceCall(namespace, method, *args, **kwargs)


def looked_over(namespaces: Any, all_namespaces: bool) -> Chosen | None:
    """The namespaces to sweep, as a caller gives them; None for the store's own."""
    if checks.flag(all_namespaces, "all_namespaces") and namespaces is not None:
        raise InvalidValueError("namespaces", "cannot be combined with all_namespaces, which sweeps all of them")
    return EVERY if all_namespaces else chosen(namespaces)


def inactive(max_inactivity: timedelta) -> Flow[SweepReport]:
    """Delete sessions that have been idle for that long."""
    checks.duration(max_inactivity, "max_inactivity")
    tally = _Tally()
    ending: _Step = (ExpiryRepository.end_idle, {"max_idle": max_inactivity})
    steps: list[_Step] = [ending, _ENDING_PARTS, (ExpiryRepository.sweep_sessions, {})]
    yield from _run(steps, DEFAULT_BATCH, tally)
    return tally.report()


def expired() -> Flow[SweepReport]:
    """Delete sessions, state keys and cache entries that have expired."""
    tally = _Tally()
    steps = (ExpiryRepository.sweep_sessions, ExpiryRepository.sweep_state, ExpiryRepository.sweep_cache)
    yield from _run([_ENDING_PARTS, *((step, {}) for step in steps)], DEFAULT_BATCH, tally)
    return tally.report()


def _run(
    steps: list[_Step], batch_size: int, tally: "_Tally", namespace: str | None = None
) -> Generator[Call, Batch, None]:
    for step, arguments in steps:
        after: tuple[Any, ...] | None = ()
        while after is not None:
            if tally.is_over():
                tally.complete = False
                return
            place = {} if step is ExpiryRepository.end_idle else {"after": after}
            batch = yield _call(namespace, step, batch_size, **place, **arguments)
            tally.add(batch)
            after = batch.after


class _Tally:
    """What has been done so far, and whether there is time for more."""

    def __init__(
        self,
        time_budget: timedelta | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._started = time.monotonic()
        self._budget = time_budget
        self._dry_run = dry_run
        self._progress = progress
        self._stopped = stopped
        self._kinds: dict[SweepKind, Swept] = {}
        self.complete = True

    def add(self, batch: Batch) -> None:
        for kind, swept in batch.kinds.items():
            self._kinds[kind] = self._kinds.get(kind, Swept()) + swept
        if batch.left:
            self.complete = False
        if self._progress is not None:
            self._progress(self.report())

    def is_over(self) -> bool:
        return self._stopped() or (self._budget is not None and self._elapsed() >= self._budget)

    def report(self) -> SweepReport:
        return SweepReport(
            kinds=dict(self._kinds), dry_run=self._dry_run, complete=self.complete, elapsed=self._elapsed()
        )

    def _elapsed(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self._started)


class _Store(Protocol):
    """What a sweep needs of a store."""

    cache: Any
    _runner: Any
    _namespace: str


class Sweeping(Namespaces):
    """Removing what has expired, as operations of a store."""

    retention = operation(ExpiryRepository.retention)
    set_retention = operation(ExpiryRepository.set_retention)

    @flow
    def sweep(
        self: "_Store",
        *,
        batch_size: int = DEFAULT_BATCH,
        time_budget: timedelta | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        all_namespaces: bool = False,
        namespaces: str | Iterable[str] | None = None,
        max_clock_gap: timedelta | None = None,
    ) -> Flow[SweepReport]:
        """Delete what is due, in short transactions.

        This deletes expired sessions, state keys and cache entries, sessions that have been idle for longer than the
        namespace's retention allows, sessions beyond the store's `max_sessions`, what belongs to any of these, cache
        entries beyond the cache's limits, and entries that no session sees. Except for idle sessions, and what is
        beyond a limit, nobody could read any of it before. Each batch is its own transaction. Any number of workers may
        sweep at once; each row is deleted once, and what somebody uses meanwhile stays. Forks keep what they see. What
        entries used stays in the usage ledger.

        Args:
            batch_size: The most rows that one transaction deletes; a session with more is deleted in slices.
            time_budget: Start no further batch after this time; the next sweep does what is left.
            dry_run: Only count what would be deleted. The count is exact if nothing else happens meanwhile.
            progress: Called after each batch with the report so far.
            all_namespaces: Sweep all namespaces of the database, each by its own retention. The limits of the cache are
                this store's, and hold for its own namespace only.
            namespaces: Likewise, but these instead of the store's own: a name, a prefix such as `acme/*`, or a list of
                these; see `sessions.page`.
            max_clock_gap: Refuse if the clock says that nothing was used for longer than this: no session, and no cache
                entry. Then either nobody came, or the clock is wrong and much of what seems to have expired is alive
                for others. The clock is the server's on PostgreSQL, this process's on SQLite, or `clock=`. None, the
                default, trusts it.

        Raises:
            InvalidValueError: An argument is invalid. Nothing was deleted.
            ClockError: See *max_clock_gap*. Nothing was deleted.
            DatabaseError: The database failed. What was deleted before stays deleted.
        """
        over = looked_over(namespaces, all_namespaces)
        report = yield from sweep(
            batch_size=batch_size,
            time_budget=time_budget,
            dry_run=dry_run,
            progress=progress,
            own=self._namespace,
            namespaces=over,
            max_clock_gap=max_clock_gap,
            flush=self.cache.flush,
        )
        if not dry_run and any(swept.rows for swept in report.kinds.values()):
            yield from empty_log(self._runner)
        return report

    @flow
    def cleanup_inactive(self, max_inactivity: timedelta) -> Flow[int]:
        """Delete the sessions that were not used for *max_inactivity*, whatever their TTL; see `set_retention`.

        Returns:
            How many there were. Sessions that expired by themselves are deleted too, but not counted.
        """
        report = yield from inactive(max_inactivity)
        return report["idle_sessions"].rows

    @flow
    def cleanup_expired(self) -> Flow[int]:
        """Delete the sessions, state keys and cache entries that have expired.

        Returns:
            How many of them there were; what belongs to a session counts with it as one.
        """
        return counted((yield from expired()))


def counted(report: SweepReport) -> int:
    """How many of the deleted items expire by themselves."""
    kinds: tuple[SweepKind, ...] = ("expired_sessions", "idle_sessions", "expired_state", "expired_cache")
    return sum(report[kind].rows for kind in kinds)
