"""A simulated agent: turns of messages, model and tool calls, forks, state, cache; and what it was told is stored."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from benchmarks.load.figures import Tally
from statestore import AsyncStateStore, NewEntry, StateStoreError, Usage

T = TypeVar("T")

_TEXT = "the quick agent reads a long file and then decides which of its seven tools it wants to call next"
_WORDS = _TEXT.split()
_MODELS = ("claude-sonnet-4-5", "gpt-5", "gemini-2.5-pro")
# A tool is called with the same arguments by many: what the cache is for.
_POPULAR_CALLS = 2_000
_CACHE_TTL = timedelta(seconds=60)
_SCRATCH_TTL = timedelta(seconds=20)


@dataclass
class Ledger:
    """What was acknowledged of one session, and what may be stored though the answer was an error."""

    entries: list[str] = field(default_factory=list)
    unsure: set[str] = field(default_factory=set)
    step: int = 0
    step_unsure: int | None = None


@dataclass
class Job:
    """What all agents of a process share."""

    store: AsyncStateStore
    think: float
    stopping: asyncio.Event
    tally: Tally = field(default_factory=Tally)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    followed: dict[str, float] = field(default_factory=dict)

    @asynccontextmanager
    async def timed(self, operation: str) -> AsyncIterator[None]:
        began = time.perf_counter()
        try:
            yield
        except Exception as exc:
            self.tally.failed(operation, exc)
            raise
        self.tally.took(operation, time.perf_counter() - began)

    async def call(self, operation: str, work: Awaitable[T]) -> T:
        async with self.timed(operation):
            return await work

    async def pause(self, seconds: float) -> None:
        """Wait, unless it is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()


class Agent:
    def __init__(self, job: Job, name: str, *, followed: bool) -> None:
        self._job = job
        self._store = job.store
        self._name = name
        self._followed = followed
        self._random = random.Random(name)
        self._entries = self._sessions = 0
        self._session = ""

    async def live(self) -> None:
        """Work until it is over. A failed call ends the session, as its user would begin anew."""
        job = self._job
        await job.pause(self._random.uniform(0, 2 * job.think))
        while not job.stopping.is_set():
            follower = None
            try:
                await self._begin()
                if self._followed:
                    follower = asyncio.create_task(self._follow(self._session))
                for _ in range(self._random.randint(4, 16)):
                    if job.stopping.is_set():
                        break
                    await self._turn()
                if not job.stopping.is_set():
                    await self._end()
            except StateStoreError:
                await job.pause(1.0)
            finally:
                if follower is not None:
                    follower.cancel()
                    with suppress(asyncio.CancelledError):
                        await follower

    async def _begin(self) -> None:
        self._sessions += 1
        self._session = f"{self._name}.{self._sessions}"
        user = f"user-{self._random.randrange(5_000)}"
        await self._job.call("sessions.create", self._store.sessions.create(self._session, user_id=user, title="load"))
        self._job.ledgers[self._session] = Ledger()

    async def _end(self) -> None:
        job, chance = self._job, self._random.random()
        if chance < 0.3:
            fork = f"{self._session}.fork"
            await job.call("sessions.fork", self._store.sessions.fork(self._session, fork))
            own = job.ledgers[self._session]
            job.ledgers[fork] = Ledger(list(own.entries), set(own.unsure), own.step, own.step_unsure)
            self._session = fork
            await self._turn()
        elif chance < 0.4:
            job.ledgers.pop(self._session)  # Whatever comes of it, nobody may rely on it any more.
            await job.call("sessions.delete", self._store.sessions.delete(self._session))
            job.deleted.append(self._session)
        elif chance < 0.5:
            scratch = f"{self._session}.scratch"
            await job.call("sessions.create", self._store.sessions.create(scratch, ttl=_SCRATCH_TTL))
            await job.call("state.set", self._store.state.set(scratch, "note", self._text(20)))

    async def _turn(self) -> None:
        job, store, session = self._job, self._store, self._session
        ledger = job.ledgers[session]
        await self._append(self._entry({"role": "user", "content": self._text(60)}))
        await job.call("history.window", store.history.window(session, max_tokens=8_000))
        await job.pause(self._random.expovariate(1 / job.think) if job.think else 0)
        number = min(int(self._random.paretovariate(0.8)), _POPULAR_CALLS)
        call = {"id": "c", "type": "function", "function": {"name": "search", "arguments": f'{{"q": {number}}}'}}
        await self._append(self._answer({"role": "assistant", "content": None, "tool_calls": [call]}))
        found = await job.call(
            "cache.get_or_compute",
            store.cache.get_or_compute(f"search/{number}", self._compute, ttl=_CACHE_TTL, tags=["search"]),
        )
        await self._append(self._entry({"role": "tool", "content": found, "tool_call_id": "c"}, tool_name="search"))
        await job.call("state.get", store.state.get(session, "step", 0))
        entry, step = self._answer({"role": "assistant", "content": self._text(120)}), ledger.step + 1
        ledger.unsure.add(str(entry.entry_id))
        ledger.step_unsure = step
        async with job.timed("turn"), store.turn(session, max_entries=10) as turn:
            turn.append(entry)
            turn.state["step"] = step
        self._stored(ledger, entry)
        ledger.step, ledger.step_unsure = step, None
        await job.call("state.set", store.state.set(session, "plan", {"next": self._text(10), "step": step}))

    async def _append(self, entry: NewEntry) -> None:
        ledger = self._job.ledgers[self._session]
        ledger.unsure.add(str(entry.entry_id))
        if self._followed:
            self._job.followed[str(entry.entry_id)] = time.perf_counter()
        await self._job.call("history.append", self._store.history.append(self._session, [entry]))
        self._stored(ledger, entry)

    def _stored(self, ledger: Ledger, entry: NewEntry) -> None:
        ledger.unsure.discard(str(entry.entry_id))
        ledger.entries.append(str(entry.entry_id))

    async def _follow(self, session: str) -> None:
        """Get each entry as it comes, and note how long after its append had begun."""
        sent = self._job.followed
        try:
            async for entry in self._store.history.follow(session):
                began = sent.pop(str(entry.entry_id), None)
                if began is not None:
                    self._job.tally.took("follow: from append to delivery", time.perf_counter() - began)
        except StateStoreError as exc:  # Such as that the session was deleted, which ends it.
            if session in self._job.ledgers:
                self._job.tally.failed("follow", exc)

    async def _compute(self) -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"results": [self._text(30) for _ in range(5)]}

    def _answer(self, message: dict[str, Any]) -> NewEntry:
        used = Usage(input_tokens=self._random.randrange(500, 8_000), output_tokens=self._random.randrange(20, 600))
        model = self._random.choice(_MODELS)
        return self._entry(message, usage=used, request_model=model, duration=timedelta(seconds=self._job.think))

    def _entry(self, content: dict[str, Any], **about: Any) -> NewEntry:
        self._entries += 1
        return NewEntry(content, entry_id=f"{self._name}/{self._entries}", agent_name="load", **about)

    def _text(self, words: int) -> str:
        return " ".join(self._random.choices(_WORDS, k=words))
