"""The command: `./run mutants`."""

import argparse
import hashlib
import json
import os
import queue
import signal
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from mutants import subjects
from mutants.operators import Mutation, mutations, readable
from mutants.reach import Reach
from mutants.trial import Copy, Test, difference
from tests.postgres import start_server

ROOT = Path(__file__).parents[1]
EXPLAINED = Path(__file__).with_name("explained.toml")

# Most changes are noticed by one of the first tests, and to find the others takes longer than to run these.
FIRST_TESTS, FIRST_SECONDS = 40, 10.0


@dataclass(frozen=True)
class Change:
    """A mutation of a module, as it is tried."""

    module: Path
    mutation: Mutation
    source: str

    @property
    def line(self) -> int:
        return self.source.count("\n", 0, self.mutation.start) + 1

    @property
    def in_engine(self) -> bool:
        return self.module.parent.name == "engine"

    @property
    def name(self) -> str:
        return f"{self.module}:{self.line}: {self.mutation.what}"

    @property
    def changed(self) -> str:
        return self.mutation.of(self.source)

    @property
    def difference(self) -> str:
        return difference(self.module, self.source, self.changed)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./run mutants",
        description="Change the engine or a repository in one place, blindly, and see whether its tests notice. All"
        " happens in copies of the checkout. Ends with what survived; exit code 1 if something did that"
        f" {EXPLAINED.relative_to(ROOT)} does not explain.",
    )
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="how many changes to try; 20")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the same seed tries the same changes; 1")
    parser.add_argument("--only", action="append", metavar="PATH", help="only in files whose path contains PATH")
    parser.add_argument("--sql", action="store_true", help="only changes of SQL")
    parser.add_argument("--list", action="store_true", help="only print what would be tried")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="how many to try at the same time; 2")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="keep results there, and what tests reach in FILE.reach; what they"
        " have is not run again",
    )  # fmt: skip
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    chosen = choose(arguments.sample, arguments.seed, arguments.only, arguments.sql)
    if arguments.list:
        for change in chosen:
            print(change.name)
        return 0
    with ExitStack() as stack:
        server = stack.enter_context(start_server())
        environment = {**os.environ, "STATESTORE_TEST_POSTGRES_URL": server.url()}
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for _ in range(arguments.processes):
            copies.put(stack.enter_context(Copy(ROOT, environment)))
        if arguments.results is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = arguments.results.with_name(f"{arguments.results.name}.reach").absolute()
            folder.mkdir(exist_ok=True)
        sources = {module: (ROOT / module).read_text() for module in subjects.modules(ROOT)}
        marked = [stack.enter_context(Copy(ROOT, environment)) for _ in range(arguments.processes)]
        reach = Reach(marked, sources, folder)
        results = Results(arguments.results, len(chosen))

        def run(change: Change, *, thoroughly: bool) -> Change | None:
            copy = copies.get()
            try:
                judged = results.known(change) or judge(copy, reach, change, thoroughly=thoroughly)
            finally:
                copies.put(copy)
            if judged is None:
                return change
            results.add(change, *judged)
            return None

        with ThreadPoolExecutor(arguments.processes) as threads:
            try:
                # Tests of the engine wait for time to pass; those of repositories tell soon.
                open_ = sorted(chosen, key=lambda change: change.in_engine)
                for thoroughly in (False, True):
                    open_ = [change for change in threads.map(partial(run, thoroughly=thoroughly), open_) if change]
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
    return results.report(f"seed {arguments.seed}")


def choose(sample: int, seed: int, only: list[str] | None, sql: bool) -> list[Change]:
    """So many changes, each as likely as any other.

    Each has a place of its own in the order, which other changes of the code leave as it is: a larger sample begins
    with a smaller one, and tomorrow's is mostly today's.
    """
    placed: dict[str, Change] = {}
    for module in subjects.modules(ROOT):
        if only and not any(part in str(module) for part in only):
            continue
        source = (ROOT / module).read_text()
        for mutation in mutations(source):
            if sql and not mutation.what.startswith("SQL: "):
                continue
            begin, end = source.rfind("\n", 0, mutation.start) + 1, source.find("\n", mutation.end)
            line = source[begin : mutation.start], mutation.text, source[mutation.end : end]
            key, times = f"{seed} {module} {line}", 0
            while (place := hashlib.sha256(f"{key} {times}".encode()).hexdigest()) in placed:
                times += 1
            placed[place] = Change(module, mutation, source)
    in_order = (placed[place] for place in sorted(placed))
    return list(islice((change for change in in_order if readable(change.changed)), sample))


def judge(copy: Copy, reach: Reach, change: Change, *, thoroughly: bool) -> tuple[str, str] | None:
    """What became of a change, and by what. None: nothing noticed it, but that was not all.

    To find out what the tests of a file reach takes long, and most changes are noticed by tests chosen without that.
    What none of the tests named for the module reaches is tried on all others that do: the list may lack some.
    """
    files = subjects.tests_of(change.module, ROOT)
    if not files:
        return "not judged", "no tests are named for it"
    ran, seconds = 0, 0.0

    def reaching(files: Iterable[str]) -> Iterator[Sequence[Test]]:
        # What a repository does is the same whether it is called or awaited.
        for worlds in ("called", "awaited") if change.in_engine else ("called",):
            for file in files:
                yield from parts(reach.tests(change.module, change.line, [file], worlds))

    def others() -> Iterator[Sequence[Test]]:
        if not ran:
            yield from reaching(subjects.other_tests_of(change.module, ROOT))

    known = [file for file in files if thoroughly or reach.knows(file, "called")]
    unknown = [file for file in files if file not in known]
    rounds: Iterator[Sequence[Test] | Sequence[str]]
    if thoroughly:
        rounds = chain(reaching(files), others())
    else:
        soon = parts(reach.tests(change.module, change.line, known, "called"))
        rounds = chain(soon, (some for some in (unknown[:1], unknown[1:]) if some))
    for tests in rounds:
        outcome = copy.trial(change.module, change.source, change.changed, tests)
        seconds += outcome.seconds
        if not outcome.passed:
            verdict = "noticed" if outcome.failed else "not judged"
            return verdict, f"{outcome.failed or outcome.said} ({seconds:.0f} s)"
        ran += sum(isinstance(test, Test) for test in tests)
    if not thoroughly and (unknown or change.in_engine or not ran):
        return None
    return "SURVIVED", f"{ran} tests reach it ({seconds:.0f} s)"


def parts(tests: Sequence[Test]) -> list[Sequence[Test]]:
    first, seconds = 0, 0.0
    while first < len(tests) and (not first or (first < FIRST_TESTS and seconds < FIRST_SECONDS)):
        seconds += tests[first].seconds
        first += 1
    return [part for part in (tests[:first], tests[first:]) if part]


class Results:
    """What became of each change, in a file too if there is one."""

    def __init__(self, file: Path | None, expected: int) -> None:
        self._file = file
        self._expected = expected
        self._lock = threading.Lock()
        self._results: list[tuple[Change, str, str]] = []
        self._explained: dict[tuple[str, str, str], str] = {
            (one["module"], one["before"].strip(), one["after"].strip()): one["why"].strip()
            for one in tomllib.loads(EXPLAINED.read_text())["survivor"]
        }
        self._known: dict[str, tuple[str, str]] = {}
        for line in file.read_text().splitlines() if file is not None and file.exists() else ():
            record = json.loads(line)
            self._known[record["diff"]] = (record["verdict"], record["by"])

    def known(self, change: Change) -> tuple[str, str] | None:
        return self._known.get(change.difference)

    def add(self, change: Change, verdict: str, by: str) -> None:
        with self._lock:
            self._results.append((change, verdict, by))
            print(f"[{len(self._results)}/{self._expected}] {change.name} {verdict}: {by}", flush=True)
            if self._file is not None and verdict != "not judged" and change.difference not in self._known:
                with self._file.open("a") as file:
                    file.write(json.dumps({"diff": change.difference, "verdict": verdict, "by": by}) + "\n")

    def report(self, which: str) -> int:
        unnoticed = [one for one in self._results if one[1] != "noticed"]
        survived = sum(verdict == "SURVIVED" for _, verdict, _ in unnoticed)
        reasons = [self._why(change) for change, *_ in unnoticed]
        print(
            f"\n{len(self._results) - len(unnoticed)} noticed, {survived} survived,"
            f" {sum(map(bool, reasons))} of them explained, {len(unnoticed) - survived} not judged,"
            f" of {len(self._results)}; {which}"
        )
        for (change, _, by), why in zip(unnoticed, reasons, strict=True):
            print(f"\n{change.name} ({by})\n{why or change.difference}")
        return 0 if all(reasons) else 1

    def _why(self, change: Change) -> str:
        lines = change.difference.splitlines()[2:]
        before, after = ("\n".join(line[1:] for line in lines if line.startswith(sign)).strip() for sign in "-+")
        return self._explained.get((str(change.module), before, after), "")


if __name__ == "__main__":
    sys.exit(main())
