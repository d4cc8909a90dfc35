"""statestore with one of its choices undone, to see what that choice is worth."""

from benchmarks.subjects.own import AsyncStatestore, Statestore
from statestore import AsyncStateStore
from statestore.known import Known
from statestore.turnstile import ANY_TIME
from tests.support.engines import async_engine


class NoGroups(Statestore):
    """Every call by itself."""

    def open(self, url: str) -> None:
        super().open(url)
        self.store._database.run = self.store._database.run_alone


class NoReadGroups(Statestore):
    def open(self, url: str) -> None:
        super().open(url)
        self.store._database._reads = None


class AsyncNoGroups(AsyncStatestore):
    async def open(self, url: str) -> None:
        await super().open(url)
        self.store._database.run = self.store._database._run


class AsyncNoReadGroups(AsyncStatestore):
    async def open(self, url: str) -> None:
        await super().open(url)
        self.store._database._reads = None


class NoTurnstile(Statestore):
    """Threads work on SQLite whenever they come."""

    def open(self, url: str) -> None:
        super().open(url)
        self.store._database._turnstile = ANY_TIME


class Forgetful(Known):
    def __contains__(self, name: str) -> bool:
        return False


class ForksUnknown(Statestore):
    """Each read asks first whether the session is a fork."""

    def open(self, url: str) -> None:
        super().open(url)
        object.__setattr__(self.store._database.settings, "forks", Forgetful())


class OnAsyncEngine(AsyncStatestore):
    """SQLAlchemy's asyncio with an async driver below, in place of worker threads."""

    async def open(self, url: str) -> None:
        self.store = AsyncStateStore(async_engine(url, pool_size=10), **self.options)
