"""statestore with one of its choices undone, to see what that choice is worth."""

from collections.abc import Callable, Hashable
from typing import Any

from benchmarks.subjects.own import AsyncStatestore, Statestore
from statestore import AsyncStateStore
from statestore.engine.calls import Call
from statestore.engine.waits import ANY_TIME
from statestore.repositories.history.read_batches import READS
from statestore.repositories.sessions.session_rows import ForkHints
from tests.support.engines import async_engine


class _Alone:
    """In place of batches."""

    def __init__(self, alone: Callable[[Call], Any]) -> None:
        self._alone = alone

    def run(self, call: Call, key: Hashable) -> Any:
        return self._alone(call)


class NoGroups(Statestore):
    """Every call by itself."""

    def open(self, url: str) -> None:
        super().open(url)
        self.store._database.run = self.store._database.run_alone


class NoReadGroups(Statestore):
    def open(self, url: str) -> None:
        super().open(url)
        self.store._database._batches[READS] = _Alone(self.store._database.run_alone)


class AsyncNoGroups(AsyncStatestore):
    async def open(self, url: str) -> None:
        await super().open(url)
        self.store._database.run = self.store._database._run


class AsyncNoReadGroups(AsyncStatestore):
    async def open(self, url: str) -> None:
        await super().open(url)
        self.store._database._batches[READS] = _Alone(self.store._database._run)


class NoFairLock(Statestore):
    """Threads work on SQLite whenever they come."""

    def open(self, url: str) -> None:
        super().open(url)
        self.store._database._fair_lock = ANY_TIME


class Forgetful(ForkHints):
    def __contains__(self, session_id: object) -> bool:
        return False


class ForksUnknown(Statestore):
    """Each read asks first whether the session is a fork."""

    def open(self, url: str) -> None:
        super().open(url)
        self.store._database.settings.families[ForkHints] = Forgetful()


class OnAsyncEngine(AsyncStatestore):
    """SQLAlchemy's asyncio with an async driver below, in place of worker threads."""

    async def open(self, url: str) -> None:
        self.store = AsyncStateStore(async_engine(url, pool_size=10), **self.options)
