"""What can be read off a store without asking the database, and the few figures that are asked for, now and then.

For `statestore.otel` and `statestore.prometheus`, and for metrics of one's own.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from statestore.async_store import AsyncStateStore
from statestore.checking import checks
from statestore.engine import process_fork
from statestore.engine.calls import Call
from statestore.engine.database import Database
from statestore.engine.engine_database import EngineDatabase
from statestore.engine.telemetry import Hook
from statestore.engine.threaded_database import ThreadedDatabase
from statestore.engine.waits import PoolState, deadline
from statestore.errors import InvalidValueError, StateStoreError
from statestore.repositories.expiry.backlog import FiguresRepository
from statestore.store import StateStore
from statestore.values.operations import Figures, Operation

MOST = 10_000
"""What is counted in the database is counted up to here."""
_TIMEOUT = 5.0
_PATIENCE = 1.0

_log = logging.getLogger("statestore")


class Measures:
    """The measures of one store. Safe between threads; none of them raises, and none waits longer than a second."""

    def __init__(self, store: StateStore | AsyncStateStore, *, every: timedelta | None = timedelta(minutes=1)) -> None:
        """Measure *store*.

        Args:
            store: Of either kind.
            every: How old figures from the database may be when somebody asks for them; None to ask for none.

        Raises:
            InvalidValueError: An argument cannot be used.
        """
        if not isinstance(store, StateStore | AsyncStateStore):
            raise InvalidValueError("store", f"must be a store, not {type(store).__name__}")
        checks.ttl(every, "every", hint="use None to ask for no figures")
        self._store = store
        self._every = None if every is None else every.total_seconds()
        self._figures: Figures | None = None
        self._up: bool | None = None
        self._asked_at: float | None = None
        self.renew_after_fork()
        process_fork.renew_in_child(self)

    def renew_after_fork(self) -> None:
        """In a forked child: whoever asked is the parent's."""
        self._lock = threading.Lock()
        self._asking: Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, hook: Hook) -> Callable[[], None]:
        """`on_operation`, which also learns the event loop of a store that only that one can ask."""
        if self._has_threads:
            return self._store.on_operation(hook)

        def noting(operation: Operation) -> None:
            self._loop = asyncio.get_running_loop()
            hook(operation)

        return self._store.on_operation(noting)

    @property
    def namespace(self) -> str:
        return self._store.namespace

    @property
    def closed(self) -> bool:
        return self._store._database.closed

    @property
    def identity(self) -> dict[str, str | int]:
        """The database: its `system`, `name`, `host` and `port`, as far as it has them."""
        database = self._store._database
        engine = database.engine if isinstance(database, EngineDatabase) else self._database.engine
        url = engine.url
        system = url.get_backend_name()
        found: dict[str, str | int] = {"system": system}
        if system == "sqlite":
            return found | {"name": (url.database or ":memory:").rpartition("/")[2]}
        if url.database:
            found["name"] = url.database
        if url.host:
            found |= {"host": url.host, "port": url.port or 5432}
        return found

    @property
    def _database(self) -> Database:
        database = self._store._database
        assert isinstance(database, Database | ThreadedDatabase)
        return database.database if isinstance(database, ThreadedDatabase) else database

    @property
    def _has_threads(self) -> bool:
        """Whether the database can be asked from a thread: not on the caller's own AsyncEngine."""
        return not isinstance(self._store._database, EngineDatabase)

    def pool(self) -> PoolState | None:
        """The connections; None on a caller's engine whose pool does not count."""
        return self._database.pool() if self._has_threads else None

    def batches(self) -> Mapping[str, tuple[int, int]]:
        """How many batches there were since the store was opened, and how many calls in them, by operation."""
        return dict(self._store._database.telemetry.batches)

    def cache(self) -> Mapping[str, int]:
        """What happened in the cache through this store since it was opened: `hits`, `misses`, `sets` and so on."""
        return self._store._cache_state.totals()

    @property
    def up(self) -> bool | None:
        """Whether the database answered when it was asked last; None before."""
        return self._up

    def figures(self, *, wait: float = _PATIENCE) -> Figures | None:
        """Sessions by status, and what is due, each counted up to 10,000; None as long as nothing is known.

        One statement, in a thread, at most once in *every*: whoever asks for them waits *wait* seconds for it, and
        otherwise gets those from before. On an event loop nothing is waited for. Where the database does not answer
        there are none, until it does.
        """
        if self._every is None or self.closed:
            return self._figures
        with self._lock:
            now = time.monotonic()
            due = self._asked_at is None or now - self._asked_at >= self._every
            if due and (self._asking is None or self._asking.done()):
                self._asking = self._ask()
                self._asked_at = None if self._asking is None else now
            asking = self._asking
        if asking is not None and wait > 0 and not _on_event_loop():
            futures.wait([asking], wait)
        return self._figures

    def _ask(self) -> "Future[None] | None":
        """Begin to ask; None if that cannot be done now."""
        if not self._has_threads:
            loop = self._loop
            if loop is None or not loop.is_running():
                return None
            return asyncio.run_coroutine_threadsafe(self._ask_awaited(), loop)
        asked: Future[None] = Future()
        try:
            threading.Thread(target=self._ask_in_thread, args=(asked,), name="statestore-figures", daemon=True).start()
        except RuntimeError:  # No threads to be had.
            return None
        return asked

    def _ask_in_thread(self, asked: "Future[None]") -> None:
        call = Call(FiguresRepository.figures, (MOST,))
        call.ends_at = time.monotonic() + min(_TIMEOUT, self._database.waits.timeout)
        call.patience = 0.0  # The next one will do as well.
        try:
            # Past the hooks: this is nobody's operation.
            self._answered(self._database.run_alone(call))
        except StateStoreError as error:
            self._failed(error)
        finally:
            asked.set_result(None)

    async def _ask_awaited(self) -> None:
        database: Any = self._store._database
        try:
            with deadline(_TIMEOUT):
                self._answered(await database.run(Call(FiguresRepository.figures, (MOST,))))
        except StateStoreError as error:
            self._failed(error)

    def _answered(self, figures: Figures) -> None:
        self._figures, self._up = figures, True

    def _failed(self, error: StateStoreError) -> None:
        if self._up is not False:
            _log.warning("metrics have no figures from the database: %s", type(error).__name__)
        self._figures, self._up = None, False


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Bounded:
    """Values of a label, of which there may be no more than so many; what comes later is `other`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[Hashable] = set()

    def label(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return "other"
        self._known.add(value)
        return value


@dataclass(frozen=True, slots=True)
class Family:
    """A metric that is read off all stores together.

    Attributes:
        name: As Prometheus has it, without the prefix.
        text: What it says.
        labels: The names of its labels, in order.
        counts: Whether it only grows.
    """

    name: str
    text: str
    labels: tuple[str, ...]
    counts: bool = False


FAMILIES = (
    Family("pool_connections", "Connections by state.", ("database", "state")),
    Family("pool_size", "The largest number of connections.", ("database",)),
    Family("pool_waiting", "Callers that wait for a connection.", ("database",)),
    Family("up", "Whether the database has answered the latest question for figures.", ("namespace",)),
    Family("sessions", "Sessions by status, up to 10,000.", ("namespace", "status")),
    Family("sweep_backlog", "Expired rows that wait for a sweep, up to 10,000 of a kind.", ("namespace", "kind")),
    Family("sweep_lag_seconds", "For how long the oldest of them waits.", ("namespace", "kind")),
    Family("batches", "Statements that carried out several calls.", ("operation",), counts=True),
    Family("batched_calls", "Calls that were carried out with others.", ("operation",), counts=True),
    Family("cache_requests", "Hits and misses of the cache.", ("namespace", "result"), counts=True),
)


class Values(dict[tuple[str, tuple[str, ...]], float]):
    """Values by the name of a family and its labels; 0 if there is none."""

    def __missing__(self, key: tuple[str, tuple[str, ...]]) -> float:
        return 0.0


class Gathering:
    """Several stores, and what is read off them together. Safe between threads."""

    def __init__(self, namespaces: Bounded) -> None:
        self._namespaces = namespaces
        self._stores: list[Measures] = []
        self._gone = Values()
        self.renew_after_fork()
        process_fork.renew_in_child(self)

    def renew_after_fork(self) -> None:
        self._lock = threading.Lock()

    def add(self, store: Measures) -> None:
        with self._lock:
            self._stores.append(store)

    def retire(self, store: Measures) -> None:
        """What a store has counted stays when it goes: a counter never falls."""
        with self._lock:
            if store in self._stores:
                self._stores.remove(store)
                self._add_counts(store, self._gone)

    def read(self) -> Values:
        """All families. Figures from the database are waited for one second in total."""
        for store in list(self._stores):
            if store.closed:
                self.retire(store)
            else:
                store.figures(wait=0)  # All at once; what comes in time is shown.
        with self._lock:
            stores, values = list(self._stores), Values(self._gone)
        until, seen = time.monotonic() + _PATIENCE, set()
        for store in stores:
            self._add_counts(store, values)
            place = (*store.identity.values(), store.namespace)
            if place not in seen:  # Several stores of one namespace would count the same rows.
                self._add_figures(store, values, max(0.0, until - time.monotonic()))
            seen.add(place)
        for store in stores:  # Last, when none of these is under way here.
            self._add_pool(store, values)
        return values

    def _add_counts(self, store: Measures, values: Values) -> None:
        namespace = self._namespaces.label(store.namespace)
        for operation, (batches, calls) in store.batches().items():
            values["batches", (operation,)] += batches
            values["batched_calls", (operation,)] += calls
        counted = store.cache()
        values["cache_requests", (namespace, "hit")] += counted.get("hits", 0)
        values["cache_requests", (namespace, "miss")] += counted.get("misses", 0)

    def _add_pool(self, store: Measures, values: Values) -> None:
        database, pool = str(store.identity.get("name", "")), store.pool()
        if pool is not None:
            values["pool_connections", (database, "used")] += pool.used
            values["pool_connections", (database, "idle")] += pool.idle
            values["pool_size", (database,)] += pool.size
            values["pool_waiting", (database,)] += pool.waiting

    def _add_figures(self, store: Measures, values: Values, wait: float) -> None:
        namespace = self._namespaces.label(store.namespace)
        figures = store.figures(wait=wait)
        if store.up is not None:
            up = ("up", (namespace,))
            values[up] = min(values.get(up, 1.0), float(store.up))
        if figures is None:
            return
        for status, number in figures.sessions.items():
            values["sessions", (namespace, status)] += number
        for kind, number in figures.backlog.items():
            values["sweep_backlog", (namespace, kind)] += number
            lag = ("sweep_lag_seconds", (namespace, kind))
            values[lag] = max(values[lag], figures.lag[kind])
