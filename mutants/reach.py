"""Which tests reach which places, found by running each file of tests once on marked sources."""

import hashlib
import json
import queue
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutants.places import concerned, marked
from mutants.trial import Copy, Test


@dataclass(frozen=True)
class Reached:
    """What the tests of one file reach."""

    tests: dict[str, Test]
    on_import: set[str]
    by_place: dict[str, list[str]]


class Reach:
    """What tests reach. It is kept in *folder*: tests run again only after a change of their file or the package."""

    def __init__(self, copies: Sequence[Copy], sources: Mapping[Path, str], folder: Path) -> None:
        self._copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        self._sources = sources
        self._folder = folder
        self._package = "".join(copies[0].read(path) for path in copies[0].files("statestore"))
        self._read = copies[0].read
        self._locks: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
        self._known: dict[tuple[str, str], Reached] = {}
        for copy in copies:
            for module, source in sources.items():
                copy.write(module, marked(module, source))
            self._copies.put(copy)

    def knows(self, file: str, worlds: str) -> bool:
        return (file, worlds) in self._known or self._notes(file, worlds).exists()

    def tests(self, module: Path, line: int, files: Sequence[str], worlds: str) -> list[Test]:
        """The tests in *files* that can notice a change of *line*: those likely to do it soon first."""
        places = concerned(module, line, self._sources)
        found: list[Test] = []
        for file in files:
            key = (file, worlds)
            with self._locks[key]:
                if key not in self._known:
                    self._known[key] = self._of(file, worlds)
            known = self._known[key]
            if places is None or places & known.on_import:
                found += known.tests.values()
            else:
                names = {name for place in places for name in known.by_place.get(place, ())}
                found += [known.tests[name] for name in names if name in known.tests]
        return _in_order(found)

    def _notes(self, file: str, worlds: str) -> Path:
        code = hashlib.sha256((self._package + self._read(Path(file))).encode()).hexdigest()[:12]
        return self._folder / f"{file.replace('/', '.')}.{worlds}.{code}"

    def _of(self, file: str, worlds: str) -> Reached:
        notes = self._notes(file, worlds)
        if not notes.exists():
            unfinished = self._folder / f"{notes.name}.unfinished"
            for path in self._folder.glob(f"{file.replace('/', '.')}.{worlds}.*"):
                path.unlink()
            copy = self._copies.get()
            outcome = copy.note(file, worlds, unfinished)
            self._copies.put(copy)
            if not outcome.ended:
                raise RuntimeError(f"{file} did not come to its end: {outcome.failed or outcome.said}")
            unfinished.rename(notes)
        found = Reached({}, set(), defaultdict(list))
        children = self._folder / f"{notes.name}.unfinished.children"
        for line in children.read_text().splitlines() if children.exists() else ():
            test, _, place = line.rpartition("\t")
            found.by_place[place].append(test)
        for one in map(json.loads, notes.read_text().splitlines()):
            places = [f"{module}:{line}" for module, lines in one["reached"].items() for line in lines]
            if one["test"] is None:
                found.on_import.update(places)
            elif one["passed"]:
                found.tests[one["test"]] = Test(one["test"], one["seconds"])
                for place in places:
                    found.by_place[place].append(one["test"])
        return found


def _in_order(tests: list[Test]) -> list[Test]:
    """Each function once before one is run with other arguments; and then the quick ones."""
    times: defaultdict[str, int] = defaultdict(int)
    keyed: list[tuple[int, float, Test]] = []
    for test in sorted(tests, key=lambda one: one.seconds):
        function = test.name.split("[")[0]
        keyed.append((times[function], test.seconds, test))
        times[function] += 1
    return [test for *_, test in sorted(keyed)]
