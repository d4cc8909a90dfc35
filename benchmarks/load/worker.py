"""One process of a load test: its share of the agents, on a store of its own."""

import asyncio
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from benchmarks.load.agents import Agent, Job
from benchmarks.load.figures import Tally
from benchmarks.load.verifying import Verdict, verify
from statestore import AsyncStateStore, StateStoreError

_SWEEP_EVERY = 10.0
_REPORT_EVERY = 20.0
_FOLLOWED = 20  # One in so many agents.
# A call that is under way when it is over may take as long as a store waits.
_FAREWELL = 60.0


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a process has to do."""

    number: int
    agents: int
    seconds: float
    think: float
    options: dict[str, Any]
    url: str


@dataclass
class Progress:
    """What happened since the last message."""

    number: int
    tally: Tally


@dataclass
class Result:
    """What a process ends with. `cpu` is in seconds."""

    number: int
    cpu: float
    verdict: Verdict


@dataclass
class Broken:
    """A process could not go on."""

    number: int
    reason: str


def main(share: Share, queue: Any, stop: Any, skip: Any) -> None:
    """The body of a process. *stop* ends the load, *skip* the verification."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one.
    try:
        asyncio.run(_work(share, queue.put, stop, skip))
    except StateStoreError as exc:
        queue.put(Broken(share.number, f"{type(exc).__name__}: {exc}"))


async def _work(share: Share, tell: Callable[[Any], None], stop: Any, skip: Any) -> None:
    async with AsyncStateStore.open(share.url, **share.options) as store:
        job = Job(store, share.think, asyncio.Event())
        began = _cpu()
        name = f"{os.getpid():x}.{share.number}"
        agents = [Agent(job, f"{name}.{i}", followed=i % _FOLLOWED == 0) for i in range(share.agents)]
        tasks = [asyncio.ensure_future(agent.live()) for agent in agents]
        tasks += [asyncio.ensure_future(_sweep(job))]
        if share.number == 0:
            tasks += [asyncio.ensure_future(_report(job))]
        ends_at, told = time.monotonic() + share.seconds, Tally()
        while not (job.stopping.is_set() or all(task.done() for task in tasks[: share.agents])):
            await asyncio.sleep(0.2)
            told, job.tally = job.tally, Tally()
            tell(Progress(share.number, told))
            if time.monotonic() >= ends_at or stop.is_set():
                job.stopping.set()
        _, late = await asyncio.wait(tasks, timeout=_FAREWELL)
        for task in late:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task  # A bug in an agent is to be seen.
        tell(Progress(share.number, job.tally))
        cpu = _cpu() - began
        verdict = await verify(job, skip=skip.is_set)
    tell(Result(share.number, cpu, verdict))


async def _sweep(job: Job) -> None:
    while not job.stopping.is_set():
        await job.pause(random.uniform(0.5, 1.5) * _SWEEP_EVERY)
        with suppress(StateStoreError):
            await job.call("sweep", job.store.sweep(time_budget=timedelta(seconds=5)))


async def _report(job: Job) -> None:
    while not job.stopping.is_set():
        await job.pause(_REPORT_EVERY)
        with suppress(StateStoreError):
            await job.call("usage.by_model", job.store.usage.by_model())
            await job.call("sessions.page", job.store.sessions.page(user_id=f"user-{random.randrange(5_000)}"))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
