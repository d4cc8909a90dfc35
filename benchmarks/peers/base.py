"""What the adapters share."""

from typing import Any

from benchmarks import data
from benchmarks.subjects.base import Subject


class Peer(Subject):
    """A peer has no seeded database: it fills its own through its own verbs.

    That is slow with some, so each has two sessions of 200 to work on, instead of 64.
    """

    conversations = 2

    def history(self) -> list[str]:
        """The sessions that are to have 200 entries before anything is measured."""
        if not self.can("append"):
            return []
        return [f(number) for f in (data.session, data.reading) for number in range(self.conversations)]

    def begin(self, session_id: str) -> Any:
        """Whatever comes before the first message; not every library has such a step."""
        if self.can("create"):
            return self.create(session_id)
        return None

    def prepare(self) -> Any:
        for session_id in self.history():
            self.begin(session_id)
            for start in range(0, 200, 20):
                self.append(session_id, [data.message(start + index) for index in range(20)])
        if self.can("set"):
            for key in range(data.STATE_KEYS):
                for number in range(self.conversations):
                    self.set(data.session(number), data.state_key(key), data.state_value(key))
                    self.set(data.reading(number), data.state_key(key), data.state_value(key))
        if self.can("cache_set"):
            for number in range(1_000):
                self.cache_set(data.cache_key(number), data.cache_value(number))


class AsyncPeer(Peer):
    asynchronous = True

    async def begin(self, session_id: str) -> Any:
        if self.can("create"):
            await self.create(session_id)

    async def prepare(self) -> None:
        for session_id in self.history():
            await self.begin(session_id)
            for start in range(0, 200, 20):
                await self.append(session_id, [data.message(start + index) for index in range(20)])
        if self.can("set"):
            for key in range(data.STATE_KEYS):
                for number in range(self.conversations):
                    await self.set(data.session(number), data.state_key(key), data.state_value(key))
                    await self.set(data.reading(number), data.state_key(key), data.state_value(key))


def sqlalchemy_url(url: str, postgresql: str, sqlite: str) -> str:
    """*url* with the names of SQLAlchemy's drivers put in."""
    return url.replace("postgresql://", f"{postgresql}://", 1).replace("sqlite://", f"{sqlite}://", 1)
