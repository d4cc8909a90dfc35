"""A second database that follows the first, for what may be a little old: reports, exports, reading transactions.

How far a standby is behind is measured by positions in the write-ahead log. What the primary had written at a moment of
this process's own clock is a *mark*; a standby that has replayed a mark has all that was committed before its moment.
That holds even on an idle primary, on which the age of the latest commit would say nothing.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from statestore.engine.calls import READING, Call
from statestore.engine.connections import Connections
from statestore.engine.database import Database
from statestore.engine.driver_errors import Retryable, classify
from statestore.engine.execution import BoundRunner, Waiter, no_retry, translated
from statestore.engine.listening import ListenStatements
from statestore.engine.slots import Place
from statestore.engine.sql import Connected, Dialect, Link, Settings
from statestore.engine.waits import Waits, ends_at
from statestore.engine.watchdog import Watch, driver_of, watchdog
from statestore.errors import InvalidValueError, StateStoreError, StoreClosedError, UnavailableError

_log = logging.getLogger("statestore")

ANSWER_WITHIN = 3.0
"""Seconds that a replica has to let in whoever connects, and to say how far it is."""

LOCKED_FOR = timedelta(seconds=2)
"""How long a lock is waited for there: what locks a table on the primary does so on a standby, too, and maybe later."""

# Seconds. A standby in the same place applies a write within milliseconds: to wait for that is cheaper than a report on
# the primary.
_CATCHING_UP = 0.1
# How long a replica is left alone, by what is wrong with it.
_PAUSES = {"own": 1.0, "behind": 1.0, "away": 5.0, "promoted": 5.0, "stranger": 60.0}
# The same trouble is told of once in so many seconds.
_TOLD_EVERY = 300.0

_COMPLETE = "statestore_complete"
"""In the `info` of a pooled connection: before which moment the server at its end is known to have everything. By
connection, since one address may lead to several standbys."""


# Which database it is: a standby has both numbers of its primary. Since when the server runs says which server it is.
_IDENTITY = """
    (SELECT system_identifier FROM pg_control_system()),
    (SELECT oid::int8 FROM pg_database WHERE datname = current_database()),
    pg_postmaster_start_time(), pg_is_in_recovery()"""
# What was acknowledged has been flushed, but for commits without synchronous_commit, which lie before the next record.
# That position is not for all: what needs no flush, such as the pruning of a page, may be there for long.
_MARK = f"""
    SELECT {_IDENTITY}, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
        WHEN current_setting('synchronous_commit') = 'off' THEN pg_current_wal_insert_lsn()
        ELSE pg_current_wal_flush_lsn() END, '0/0')::int8"""
_REPLAYED = f"""
    SELECT {_IDENTITY}, coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::int8,
        extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8"""


class Server(NamedTuple):
    """Which database a connection leads to, and how it is."""

    system: int
    database: int
    started: Any
    standby: bool


class Mark(NamedTuple):
    """Where the primary's log was at a moment, on the monotonic clock."""

    at: float
    position: int
    server: Server


class Unusable(UnavailableError):
    """The replica is not to be used now: the primary is asked instead."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason, kind=kind)

    kind: str


class _Lost(Exception):
    """The replica gave no answer."""


class Marks:
    """What is known of the primary, and when this store last wrote to it."""

    def __init__(self, primary: Connections, max_lag: float) -> None:
        self.max_lag = max_lag
        self._primary = primary
        self.written_at = -math.inf
        """When the latest write of this store had ended."""
        self._latest: deque[Mark] = deque(maxlen=64)

    def due(self) -> tuple[float, float]:
        """What a replica has to have, as moments: what was committed before, by this store and by anybody."""
        return self.written_at, time.monotonic() - self.max_lag

    def of(self, moment: float, until: float) -> Mark:
        """The earliest mark that is not before *moment*; one is made if there is none, *until* then at the latest."""
        for mark in list(self._latest):
            if mark.at >= moment:
                return mark
        return self._new(until)

    def replayed(self, position: int) -> float:
        """Before which moment everything has been replayed, where the log has been up to *position*."""
        return max((mark.at for mark in list(self._latest) if mark.position <= position), default=-math.inf)

    def _new(self, until: float) -> Mark:
        at = time.monotonic()
        try:
            with no_retry(), translated(), self._primary.connected(until) as connection:
                *identity, position = _ask(connection, _MARK, until)
        except StateStoreError as exc:
            raise Unusable("away", f"cannot be compared with it ({exc})") from None
        mark = Mark(at, position, Server(*identity))
        if self._latest and mark.position < self._latest[-1].position:
            self._latest.clear()  # Another server has taken over: what was noted is of another log.
        self._latest.append(mark)
        return mark


class ReplicaConnections(Connections):
    """Connections to a replica, each given out only if what it leads to is recent enough."""

    marks: Marks

    def take(self, until: float) -> Place:
        """As `Connections.take`.

        Raises:
            Unusable: The replica cannot be reached, is too far behind, or is of another database.
        """
        try:
            return self._recent(until)
        except _Lost:  # It may have been closed while nobody used it: a new one tells.
            pass
        try:
            return self._recent(until)
        except _Lost as lost:
            raise Unusable("away", f"failed ({lost})") from None

    def _recent(self, until: float) -> Place:
        written_at, since = self.marks.due()
        slots, place = self.slots, self._reached(until)
        connection = place.connection
        # On SQLite it is the same file.
        if self._dialect.name == "sqlite" or _notes(connection).get(_COMPLETE, -math.inf) >= max(written_at, since):
            return place
        try:
            self._catch_up(connection, written_at, since, until)
        except BaseException as exc:
            failure = classify(exc) if isinstance(exc, Exception) else None
            if not isinstance(exc, Unusable):
                if failure is not None and failure.lost:
                    self.note_loss(connection, failure.error)
                self.forget(connection)  # It may have been given up in the middle.
            self.give_back(place, slots)
            if failure is None:
                raise
            raise _Lost(str(failure.error)) from None
        return place

    def _reached(self, until: float) -> Place:
        try:
            return super().take(until)
        except StoreClosedError:
            raise
        except Retryable as again:
            error = again.error
        except StateStoreError as exc:
            error = exc
        raise Unusable("away", f"cannot be used ({error})")

    def _catch_up(self, connection: Connected, written_at: float, since: float, until: float) -> None:
        """Note up to when *connection* is known to be complete; wait a little for that to be enough."""
        own = self.marks.of(written_at, until) if written_at > -math.inf else None
        mark = self.marks.of(max(written_at, since), until)
        waits_until, pause = time.monotonic() + _CATCHING_UP, 0.001
        while True:
            asked_at = time.monotonic()
            *identity, position, age = _ask(connection, _REPLAYED, min(until, asked_at + ANSWER_WITHIN))
            server = Server(*identity)
            _check_server(server, mark.server)
            if not server.standby:
                _notes(connection)[_COMPLETE] = asked_at
                return
            complete = self.marks.replayed(position)
            # By two clocks, those of the servers: for a standby that is on its way, but has not come to a mark.
            behind = asked_at - complete if age is None else min(asked_at - complete, max(0.0, age))
            if complete >= max(written_at, since):
                _notes(connection)[_COMPLETE] = complete
                return
            if (own is None or position >= own.position) and behind <= self.marks.max_lag:
                return
            if time.monotonic() >= waits_until:
                break
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        if own is not None and position < own.position and behind <= self.marks.max_lag:
            raise Unusable("own", "has not applied this store's latest write")
        far = f"{behind:.2f} seconds" if behind < math.inf else "further than this store can tell"
        raise Unusable("behind", f"is {far} behind, and max_lag is {self.marks.max_lag:g}")


class ReplicatedDatabase(Database):
    """A database with a replica, which gets what may lag: reads of repositories that say so, and snapshots."""

    def __init__(
        self,
        connections: Connections,
        dialect: Dialect,
        settings: Settings,
        waits: Waits,
        listening: ListenStatements,
        *,
        replica: ReplicaConnections,
        max_lag: float,
    ) -> None:
        super().__init__(connections, dialect, settings, waits, listening)
        self._marks = replica.marks = Marks(connections, max_lag)
        # What fails there is done here instead of being tried there for long.
        self._replica = Database(
            replica, dialect, settings, Waits(waits.timeout, 0.0, waits.pool, waits.lock), listening
        )

    def renew_after_fork(self) -> None:
        super().renew_after_fork()
        self._kind: str | None = None
        self._left_alone_until = -math.inf
        self._told: dict[str, float] = {}
        self._telling = threading.Lock()

    def verify(self) -> None:
        """As `Database.verify`; then look at the replica, which need not be there.

        Raises:
            InvalidValueError: It is another database.
        """
        super().verify()
        try:
            with self._replica.connected():
                pass
        except Unusable as exc:
            if exc.kind == "stranger":
                raise InvalidValueError("reporting_url", f"leads to a database that {exc}") from None
            if exc.kind not in ("own", "behind"):  # That may have passed when it is needed.
                self._leave_alone(exc)

    def run_alone(self, call: Call) -> Any:
        """As `Database.run_alone`; on the replica, if the operation is a report."""
        if call.mode not in READING:
            try:
                return super().run_alone(call)
            finally:
                self._marks.written_at = time.monotonic()
        if getattr(call.repository, "may_lag", False) and self._may_try():
            try:
                result = self._replica.run_alone(call)
            except UnavailableError as exc:
                self._leave_alone(exc)
                call.attempt += 1
            else:
                self._back()
                return result
        return super().run_alone(call)

    def run_batch(self, work: Callable[[Link], None], until: float) -> None:
        """As `Database.run_batch`."""
        try:
            super().run_batch(work, until)
        finally:
            self._marks.written_at = time.monotonic()

    @contextmanager
    def transaction(self, waiter: Waiter | None = None) -> Iterator[BoundRunner]:
        """As `Database.transaction`."""
        try:
            with super().transaction(waiter) as runner:
                yield runner
        finally:
            self._marks.written_at = time.monotonic()

    @contextmanager
    def snapshot(self, waiter: Waiter | None = None, *, read_only: bool = False) -> Iterator[BoundRunner]:
        """As `Database.snapshot`, on the replica if it is recent enough."""
        waiter = waiter or Waiter(ends_at(self.waits.timeout))
        with ExitStack() as stack:
            yield self._entered(stack, waiter, read_only)

    def for_snapshots(self) -> Database:
        """The replica, if it is recent enough, for what takes several connections to one server; else this one."""
        if self.dialect.name == "postgresql" and self._may_try():
            try:
                with translated(), self._replica.connected() as connection:
                    _ask(connection, _REPLAYED, time.monotonic() + ANSWER_WITHIN)  # It may have gone meanwhile.
                    return self._replica
            except UnavailableError as exc:
                self._leave_alone(exc)
        return self

    def _entered(self, stack: ExitStack, waiter: Waiter, read_only: bool) -> BoundRunner:
        if self._may_try():
            try:
                runner = stack.enter_context(self._replica.snapshot(waiter, read_only=read_only))
            except UnavailableError as exc:
                self._leave_alone(exc)
            else:
                self._back()
                return runner
        return stack.enter_context(super().snapshot(waiter, read_only=read_only))

    @contextmanager
    def own_snapshot(self) -> Iterator[BoundRunner]:
        """As `Database.own_snapshot`."""
        with super().snapshot() as runner:
            yield runner

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._replica.close()

    def _may_try(self) -> bool:
        return time.monotonic() >= self._left_alone_until

    def _leave_alone(self, exc: UnavailableError) -> None:
        """Ask the primary for a while, and say so, unless that was said lately."""
        kind = exc.kind if isinstance(exc, Unusable) else "away"
        now = time.monotonic()
        self._left_alone_until = now + _PAUSES[kind]
        with self._telling:
            changed, self._kind = kind != self._kind, kind
            if not changed or now - self._told.get(kind, -math.inf) < _TOLD_EVERY:
                return
            self._told[kind] = now
        reason = str(exc) if isinstance(exc, Unusable) else f"failed ({exc})"
        level = logging.INFO if kind == "own" else logging.WARNING
        _log.log(level, "reports are read from the primary for now: the replica %s", reason)

    def _back(self) -> None:
        if self._kind is not None:
            with self._telling:
                kind, self._kind = self._kind, None
            if kind not in (None, "own"):
                _log.info("reports are read from the replica again")


def _ask(connection: Connected, statement: str, until: float) -> Any:
    watch = Watch(driver_of(connection), until)
    try:
        watchdog.begin(watch)
        cursor = connection.cursor()
        try:
            cursor.execute(statement)
            return cursor.fetchone()
        finally:
            cursor.close()
    finally:
        watchdog.watches.discard(watch)
        watchdog.end(watch)


def _notes(connection: Any) -> dict[str, Any]:
    found: dict[str, Any] = connection.info
    return found


def _check_server(replica: Server, primary: Server) -> None:
    if (replica.system, replica.database) != (primary.system, primary.database):
        raise Unusable("stranger", "is not the one at url; name a standby that streams from it")
    if not replica.standby and replica.started != primary.started:
        raise Unusable("promoted", "is a primary of its own now, and not a standby of the one at url")
