"""The process in which one subject works: `python -m benchmarks.worker MODULE CLASS URL`.

It reads requests as lines of JSON and answers each with one. Every subject runs alike, peers in the interpreter of
their own environment, so this file and what it imports need nothing but the standard library.
"""

import asyncio
import gc
import importlib
import inspect
import json
import os
import sys
import threading
import traceback
from time import perf_counter_ns
from typing import Any

from benchmarks import data, memory, scheduling, works
from benchmarks.works import Work


class Worker:
    def __init__(self, subject: Any) -> None:
        self.subject = subject
        self.loop = asyncio.new_event_loop()
        self.counters: dict[str, int] = {}

    def wait(self, answer: Any) -> Any:
        return self.loop.run_until_complete(answer) if inspect.isawaitable(answer) else answer

    def answer(self, request: dict[str, Any]) -> Any:
        return getattr(self, "do_" + request.pop("do"))(**request)

    def do_open(self, url: str) -> Any:
        self.wait(self.subject.open(url))
        gc.collect()
        gc.freeze()
        return {}

    def do_scale(self, **sizes: int) -> Any:
        """How much data there is for this subject."""
        for name, size in sizes.items():
            setattr(data, name, size)
        return {}

    def do_can(self, verbs: list[str]) -> Any:
        return all(self.subject.can(verb) for verb in verbs)

    def do_call(self, verb: str, arguments: list[Any]) -> Any:
        """One verb, to prepare something; what it returns stays here."""
        self.wait(getattr(self.subject, verb)(*arguments))
        return {}

    def do_run(self, work: str, count: int) -> Any:
        """Do *work* so many times, by each of its callers, and tell how long each took."""
        chosen = works.BY_NAME[work]
        start = self.counters.get(work, 0)
        self.counters[work] = start + count
        numbers = range(start, start + count)
        if chosen.prepare is not None:
            self.wait(chosen.prepare(self.subject, count))
        if self.subject.asynchronous:
            took, samples = self.loop.run_until_complete(self._run_tasks(chosen, numbers))
        else:
            took, samples = self._run_threads(chosen, numbers)
        return {"took": took, "samples": samples}

    def do_schedule(self, processors: list[int], first: bool) -> Any:
        scheduling.pin(os.getpid(), processors)
        return scheduling.put_first(os.getpid(), first)

    def do_memory(self, kind: str, count: int) -> Any:
        return memory.measure(self, kind, count)

    def do_close(self) -> Any:
        self.wait(self.subject.close())
        return {}

    def _run_threads(self, work: Work, numbers: range) -> tuple[int, list[int]]:
        if work.callers == 1:
            begun = perf_counter_ns()
            samples = _repeat(work, self.subject, 0, numbers)
            return perf_counter_ns() - begun, samples
        handles = self.subject.callers(work.callers)
        found: list[list[int]] = [[] for _ in handles]
        failures: list[BaseException] = []
        barrier = threading.Barrier(len(handles) + 1)

        def body(caller: int) -> None:
            barrier.wait()
            try:
                found[caller] = _repeat(work, handles[caller], caller, numbers)
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=body, args=(caller,)) for caller in range(len(handles))]
        for thread in threads:
            thread.start()
        barrier.wait()
        begun = perf_counter_ns()
        for thread in threads:
            thread.join()
        took = perf_counter_ns() - begun
        if failures:
            raise failures[0]
        return took, [sample for samples in found for sample in samples]

    async def _run_tasks(self, work: Work, numbers: range) -> tuple[int, list[int]]:
        if work.callers == 1:
            begun = perf_counter_ns()
            samples = await _repeat_async(work, self.subject, 0, numbers)
            return perf_counter_ns() - begun, samples
        handles = self.subject.callers(work.callers)
        if inspect.isawaitable(handles):
            handles = await handles
        begun = perf_counter_ns()
        found = await asyncio.gather(
            *(_repeat_async(work, handle, caller, numbers) for caller, handle in enumerate(handles))
        )
        took = perf_counter_ns() - begun
        return took, [sample for samples in found for sample in samples]


def _repeat(work: Work, handle: Any, caller: int, numbers: range) -> list[int]:
    samples = []
    steps = work.steps
    for number in numbers:
        for step in steps:
            begun = perf_counter_ns()
            step(handle, caller, number)
            samples.append(perf_counter_ns() - begun)
    return samples


async def _repeat_async(work: Work, handle: Any, caller: int, numbers: range) -> list[int]:
    samples = []
    steps = work.steps
    for number in numbers:
        for step in steps:
            begun = perf_counter_ns()
            await step(handle, caller, number)
            samples.append(perf_counter_ns() - begun)
    return samples


def main() -> None:
    module, name = sys.argv[1:3]
    # What a library prints must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        try:
            if worker is None:
                worker = Worker(getattr(importlib.import_module(module), name)())
            answer = {"answer": worker.answer(json.loads(line))}
        except BaseException as exc:
            traceback.print_exc()
            answer = {"error": f"{type(exc).__name__}: {exc}"[:400]}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
