"""The connections of a store: taken until a deadline, given back, and renewed in a process that was forked."""

import math
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, PoolProxiedConnection, QueuePool, event

from statestore.engine import cursor_events, hosts, lost_places, process_fork
from statestore.engine.cursor_events import HeardConnection
from statestore.engine.driver_errors import Retryable, classify, classify_or_raise, raise_alone
from statestore.engine.execution import Borrowed, no_retry, translated
from statestore.engine.orphans import BACKEND, Orphans
from statestore.engine.pooler import MADE_AT
from statestore.engine.slots import Place, Slots
from statestore.engine.sql import Connected, Dialect
from statestore.engine.sqlite_files import FILE, SqliteFile
from statestore.engine.telemetry import LossLog
from statestore.engine.waits import LeftBehind, PoolState, Waits, ends_at, no_connection, run_until
from statestore.engine.watchdog import Watch, driver_of, watchdog
from statestore.errors import StateStoreError, StoreClosedError

Verify = Callable[[Connection], None]
C = TypeVar("C", bound=Connected)


class Connections:
    """The connections of one engine, our own or a caller's."""

    def __init__(
        self,
        engine: Engine,
        dialect: Dialect,
        *,
        owned: bool,
        verify: Verify,
        waits: Waits,
        size: int | None = None,
        lasts: bool = True,
    ) -> None:
        """*size*: how many there are at most, if the engine is our own. *lasts*: other processes find the database."""
        self.engine = engine if owned else engine.execution_options(isolation_level="AUTOCOMMIT")
        self._dialect = dialect
        self.owned = owned
        self._verify = verify
        self._waits = waits
        self._size = size
        self.lasts = lasts
        self._file: SqliteFile | None = engine.get_execution_options().get(FILE)
        # Whether a caller's pool talks to the server before it gives a connection out.
        self._pings = not owned and (engine.pool._pre_ping or engine.pool._recycle >= 0)
        # SQLAlchemy asks for each connection that it makes; here one serves many calls.
        self._echoes = cursor_events.echoes(engine)
        self._verified = False
        self._closed = False
        self._lost_at = 0.0
        self.elsewhere = dialect.name == "postgresql" and hosts.several(engine.url)
        """Whether a new connection may lead to another server."""
        self._left_at = 0.0
        self._loss_log = LossLog()
        self._orphans = Orphans()
        self.slots = Slots(size)
        self._resting: list[Place] = []
        # Connections of our own that nobody uses: the latest is used next. They stay checked out of SQLAlchemy's pool,
        # since taking one out of it costs as much as a small read of SQLite.
        self._idle: list[PoolProxiedConnection] = []
        # The SQLite file that a fork found in use.
        self._unusable: str | None = None
        self._opened: weakref.WeakSet[Any] = weakref.WeakSet()
        if owned and dialect.name == "postgresql":
            event.listen(engine, "connect", partial(_note_opened, weakref.ref(self)))
        self._losses = lost_places.of(engine) if not owned and dialect.name == "postgresql" else None
        process_fork.renew_in_child(self)

    def verify(self) -> None:
        """Connect, and check the tables: once. Nothing is tried again, so a wrong address is reported at once.

        Raises:
            UnavailableError: The database cannot be reached, or not in time.
        """
        if not self._verified:
            self._verify_until(ends_at(self._waits.timeout))

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        if self.owned:
            self._close_idle()

    def pool(self) -> PoolState | None:
        """How many connections there are now, and who waits; None for a caller's pool that does not count."""
        slots, pool = self.slots, self.engine.pool
        if slots.size is not None:
            return PoolState(slots.size, slots.taken, len(self._idle), len(slots.queue))
        if not isinstance(pool, QueuePool):
            return None
        return PoolState(pool.size() + max(0, pool._max_overflow), pool.checkedout(), pool.checkedin(), 0)

    @contextmanager
    def connected(self, until: float) -> Iterator[Connected]:
        generation, slots = process_fork.generation(), self.slots
        place = self.take(until)
        try:
            yield place.connection
        finally:
            self.give_back(place, slots, generation)

    def take(self, until: float) -> Place:
        """A place with a connection, to be given back; there is one before *until*, or an error."""
        self._check_usable()
        if not self._verified:
            self._verify_until(until)
        if self._file is not None:
            self._file.glance()
        slots = self.slots
        place = slots.take(until, self._waits.pool)
        if place is None:
            raise no_connection()
        try:
            if place.connection is not None:  # Whoever was to put it away was interrupted.
                self.put_away(place)
            if not self.owned:
                place.connection = self._connect(partial(self._borrow, until), until)
                if self._orphans:
                    self._orphans.end(place.connection, until)
                return place
            connection = self._idle_or_new(place, until)
            if self._dialect.name == "postgresql":
                now = time.monotonic()
                while self._is_left(connection) or self._is_dead(connection, now):
                    self.forget(connection)
                    connection = self._idle_or_new(place, until)
                connection.info["used_at"] = now
            # Its flag alone stays set once anybody ever listened.
            if self._echoes or (self.engine._has_events and cursor_events.are_heard(self.engine.dispatch)):
                connection = HeardConnection(connection, self.engine)
            place.connection = connection
            if self._orphans:
                self._orphans.end(place.connection, until)
            return place
        except LeftBehind as left:
            error = left.error
            slots.interrupted |= not isinstance(error, Exception)
            del place  # It is that thread's now. An error remembers what functions held.
        except BaseException as exc:
            slots.free.append(place)
            slots.wake()
            if isinstance(exc, StateStoreError) or not isinstance(exc, Exception):
                raise
            failure = classify_or_raise(exc)
            raise_alone(Retryable(failure.error) if failure.lost else failure.error)
        raise error

    def _borrow(self, until: float) -> Borrowed:
        connection = self.engine.connect()
        watch = Watch(driver_of(connection.connection), until)
        try:
            watchdog.begin(watch)
            return Borrowed(connection)  # Which may ask, at its first use.
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        finally:
            watchdog.watches.discard(watch)
            watchdog.end(watch)

    def _idle_or_new(self, place: Place, until: float) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        if self._dialect.name == "sqlite":
            connection = self.engine.raw_connection()
        else:
            connection = run_until(self.engine.raw_connection, until, partial(self._late, place))
        if self._is_at_rest(connection):
            return connection
        self.forget(connection)  # An interrupted call has let go of it.
        return self._idle_or_new(place, until)

    def _late(self, place: Place, connection: PoolProxiedConnection | None) -> None:
        """Take in what came after its caller had stopped waiting. Its place was taken all along, and goes now."""
        place.connection = connection
        self.put_away(place)

    def _close_idle(self) -> None:
        with suppress(IndexError):  # Several may do so at once.
            while True:
                self._idle.pop().close()
        # Not the engine's `dispose`, which takes a new pool: what is in use now comes back to this one.
        self.engine.pool.dispose()

    def _connect(self, connect: Callable[[], C], until: float) -> C:
        """What *connect* takes out of a caller's pool. If it may have to connect, it is waited for *until* then."""
        if self._dialect.name == "sqlite":
            return connect()
        idle: Callable[[], int] = getattr(self.engine.pool, "checkedin", int)
        if self._losses is not None and self._losses.to_be_replaced > 0:
            self._losses.to_be_replaced -= 1
        elif idle() > 0 and not self._pings:
            return connect()
        return run_until(connect, until, _close)

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreClosedError("the store is closed; open another")
        if _unusable_files and self._unusable is None and self._dialect.name == "sqlite":
            path = str(self.engine.url.database)
            self._unusable = path if os.path.realpath(path) in _unusable_files else None
        if self._unusable is not None:
            raise StoreClosedError(
                "the SQLite database was in use when this process was forked, or is in memory, so that the child "
                "cannot use it; fork while no transaction is open, and keep the database in a file"
            )

    def _verify_until(self, until: float) -> None:
        def connect() -> None:
            with self.engine.connect() as connection:
                self._verify(connection)

        self._check_usable()
        slots, error = self.slots, None
        place = slots.take(until)
        if place is None:
            raise no_connection()
        try:
            with no_retry(), translated():
                if self._dialect.name == "sqlite":
                    connect()
                else:
                    run_until(connect, until, partial(self._late, place))
            self._verified = True
            return
        except LeftBehind as left:
            error = left.error
            del place
        finally:
            if error is None:
                self.give_back(place, slots)
        raise error

    def _is_left(self, connection: PoolProxiedConnection) -> bool:
        """Whether a connection leads to a server that this store has left, or may do so."""
        return self._left_at > 0 and connection.info.get(MADE_AT, 0.0) <= self._left_at

    def _is_dead(self, connection: PoolProxiedConnection, now: float) -> bool:
        if not (self._suspect(connection, now) and lost_places.has_ended(connection.driver_connection)):
            return False
        self.note_loss(connection)
        return True

    def note_loss(self, connection: Any, error: StateStoreError | None = None) -> None:
        """Tell of a lost connection, if it was made since the latest loss: those before it went with the same."""
        if getattr(connection, "info", {}).get(MADE_AT, math.inf) > self._lost_at:
            self._loss_log.note(error)

    def _suspect(self, connection: PoolProxiedConnection, now: float) -> bool:
        """Whether to check that a connection is still alive.

        Only after a pause, or when another one was lost since its last use, in a restart most likely: asking gives up
        the interpreter's lock, which other threads then hold.
        """
        used_at: float = connection.info.get("used_at") or connection.info.get(MADE_AT, now)
        return used_at < self._lost_at or now - used_at > _PAUSE

    def give_back(self, place: Place, slots: Slots, generation: int | None = None) -> None:
        try:
            if generation is None or generation == process_fork.generation():
                self.put_away(place)
            else:
                process_fork.keep(place)
        finally:
            slots.free.append(place)
            slots.wake()

    def put_away(self, place: Place) -> None:
        """Before *place* is given back: keep its connection, if it has a sound one."""
        connection = place.connection
        if connection is None:
            return
        if not self.owned:
            connection.close()
            return
        if connection.is_valid and not self._is_at_rest(connection):  # Otherwise it may have been forgotten.
            self.forget(connection)
        place.connection = None  # Now: an interrupt behind the next step finds it put away.
        if connection.is_valid:
            self._idle.append(connection.pooled if isinstance(connection, HeardConnection) else connection)
        if self._closed:
            self._close_idle()

    def _is_at_rest(self, connection: PoolProxiedConnection) -> bool:
        """Whether no transaction is open on a connection, nor a statement under way.

        A signal may have come in the middle, Ctrl-C or a time limit: whoever comes next must not find that.
        """
        driver: Any = connection.driver_connection
        if self._dialect.name == "postgresql":
            idle: bool = driver.pgconn.transaction_status == _IDLE
            return idle
        if driver.in_transaction:
            with suppress(sqlite3.Error):
                driver.rollback()
        return not driver.in_transaction

    def discard(self, connection: Connected, exc: Exception) -> None:
        failure = classify(exc)
        if failure is not None and (failure.lost or failure.demoted):
            if failure.lost:
                self.note_loss(connection, failure.error)
            self.forget(connection)
            if failure.demoted:
                self.leave_server()

    def leave_server(self) -> None:
        """The server no longer takes writes: what is connected to it is not used again, if another one may."""
        if self.elsewhere:
            self._left_at = time.monotonic()

    def forget(self, connection: Any) -> None:
        self._orphans.note(connection.backend if isinstance(connection, Borrowed) else connection.info.get(BACKEND))
        if getattr(connection, "is_valid", True):  # It may have been given up already, when its transaction was.
            connection.invalidate()
        connection.close()
        self._lost_at = time.monotonic()

    def before_fork(self, until: float) -> None:
        """Before a fork: let go of a SQLite file, since what is open at a fork can be used in neither process."""
        if self._dialect.name != "sqlite" or not self.lasts:
            return
        slots, self._rested = self.slots, True
        if slots.size is not None:
            while len(self._resting) < slots.size and (place := slots.take(until)) is not None:
                self._resting.append(place)
                self.put_away(place)
            self._close_idle()
            in_use = len(self._resting) < slots.size
        else:
            # SQLAlchemy's pools count what is checked out; those that do not are of one thread each. A pool that was
            # disposed of would count wrongly what is in use: the engine takes a new one.
            in_use = getattr(self.engine.pool, "checkedout", int)() > 0
            self.engine.dispose()
        if in_use:
            self._unusable_in_child = str(self.engine.url.database)

    _rested = False
    _unusable_in_child: str | None = None

    def after_fork_in_parent(self) -> None:
        """After a fork, in the parent."""
        self._rested, self._unusable_in_child = False, None
        while self._resting:
            self.give_back(self._resting.pop(), self.slots)

    def renew_after_fork(self) -> None:
        """In a forked child: connections, locks and batches of its own. The parent's are left alone."""
        for driver in list(self._opened):
            process_fork.let_go(driver)
        process_fork.keep(self.engine.pool, self.slots, self._idle, self._resting)
        # Whoever forks without Python, as some servers do, runs no hooks before it.
        if self._dialect.name == "sqlite" and (self._unusable_in_child is not None or not self._rested):
            self._unusable = str(self.engine.url.database)
            _unusable_files.add(os.path.realpath(self._unusable))
        self._resting, self._rested, self._unusable_in_child = [], False, None
        if not self.lasts:
            return
        self._idle = []
        self.engine.dispose(close=False)
        self._opened = weakref.WeakSet()
        self._lost_at = 0.0
        self.slots = Slots(self._size)


def _close(connection: Connected | None) -> None:
    if connection is not None:
        connection.close()


def _note_opened(owner: "weakref.ref[Connections]", driver: Any, record: Any) -> None:
    # The engine must not keep alive a store that nobody holds.
    connections = owner()
    if connections is not None:
        connections._opened.add(driver)


# libpq's PQTRANS_IDLE.
_IDLE = 0
_PAUSE = 0.5


# SQLite keeps its locks by process and file, and believes in those that it had before the fork.
_unusable_files: set[str] = set()

# How long a fork waits for other threads to let go of SQLite files, in seconds.
_REST = 2.0


def _rest() -> None:
    until = time.monotonic() + _REST
    for database in process_fork.living(Connections):
        database.before_fork(until)


def _go_on() -> None:
    for database in process_fork.living(Connections):
        database.after_fork_in_parent()


process_fork.register(before=_rest, in_parent=_go_on)
