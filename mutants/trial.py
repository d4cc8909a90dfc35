"""A copy of the checkout in a temporary folder, in which one file at a time is changed and tested."""

import difflib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

# Far more than all tests of a module take: one test that hangs ends before, see `mutants.plugin`.
SECONDS = 3600

# The last line of tests that have all passed. What they have left open may complain behind it.
_ALL_PASSED = re.compile(r"^\d+ passed", re.MULTILINE)

# What pytest ends with if there is nothing to run.
_NO_TESTS = 5


class Test(NamedTuple):
    """A test that passes on what is not changed."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a run of the tests ended. *failed* is a test that did; there may be none, though not all has passed."""

    passed: bool
    seconds: float
    failed: str
    said: str
    ended: bool


class Copy:
    """The checkout's files without its history; the checkout itself is only read."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self._root = root
        self._folder = Path(tempfile.mkdtemp(prefix="statestore-mutants-"))
        self._environment = {**environment, "PYTHONPATH": str(self._folder), "COLUMNS": "250"}
        # What else is installed may have plugins that take longer to import than most tests to run.
        self._environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        # Each process would compile all that it imports.
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def __enter__(self) -> Self:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=self._root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (self._root / name).is_file():
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._root / name, self._folder / name)
        self._warm = subprocess.Popen(
            [sys.executable, "-m", "mutants.warm"], cwd=self._root, env=self._environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._warm.kill()
        self._warm.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def files(self, folder: str) -> list[Path]:
        return [path.relative_to(self._folder) for path in sorted((self._folder / folder).rglob("*.py"))]

    def read(self, path: Path) -> str:
        return (self._folder / path).read_text()

    def write(self, module: Path, source: str) -> None:
        path = self._folder / module
        path.write_text(source)
        # Python looks at size and seconds only: it may take the new file for the one before.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def note(self, file: str, worlds: str, notes: Path) -> Outcome:
        """Run the tests of *file* in these *worlds*, and write to *notes* what each of them reaches."""
        return self._test([file], {"MUTANTS_NOTES": str(notes), "MUTANTS_WORLDS": worlds})

    def trial(self, module: Path, source: str, changed: str, tests: Sequence[Test] | Sequence[str]) -> Outcome:
        """Run *tests*, in their order up to the first that fails, with *module* changed.

        Of whole files, each test is run with one choice of arguments.
        """
        chosen = {test.name: test.seconds for test in tests if isinstance(test, Test)}
        list_ = self._folder / "chosen.json"
        list_.write_text(json.dumps(chosen))
        self.write(module, changed)
        try:
            files = dict.fromkeys(test.name.split("::")[0] if isinstance(test, Test) else test for test in tests)
            return self._test(["-x", *files], {"MUTANTS_CHOSEN": str(list_)})
        finally:
            self.write(module, source)

    def _test(self, arguments: Sequence[str], variables: Mapping[str, str]) -> Outcome:
        plugins = [f"-p{name}" for name in ("pytest_asyncio.plugin", "pytest_timeout", "xdist.plugin")]
        output = self._folder / "output.txt"
        order = {
            "folder": str(self._folder),
            "environment": {**self._environment, **variables, "MUTANTS_OUTPUT": str(output)},
            "arguments": ["-q", *plugins, "-pno:cacheprovider", "-pmutants.plugin", *arguments],
            "output": str(output),
        }
        begun = time.monotonic()
        assert self._warm.stdin is not None
        assert self._warm.stdout is not None
        self._warm.stdin.write(json.dumps(order) + "\n")
        self._warm.stdin.flush()
        process = int(self._warm.stdout.readline())
        guard = threading.Timer(SECONDS, _end, [process])
        guard.start()
        try:
            code = int(self._warm.stdout.readline())
        finally:
            guard.cancel()
            _end(process)
        said = output.read_text()
        failed, last = _said(said)
        # Without that line nothing was tested, whatever the exit code says.
        all_passed = _ALL_PASSED.search(said) is not None
        if all_passed and code == 1:
            failed = f"they passed, and what they left behind failed at the end: {last}"
        passed = (code == 0 and all_passed) or code == _NO_TESTS
        return Outcome(passed, time.monotonic() - begun, failed, last, ended=code in (0, 1, _NO_TESTS))


def _end(process: int) -> None:
    """The tests and all that they have started."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def _said(output: str) -> tuple[str, str]:
    """The first test that failed, with its reason, and the last that was said."""
    lines = [line for line in output.splitlines() if line.strip()]
    failed = [line.split(" ", 1)[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    failed += ["a test and its clean-up hang" for line in lines if "Timeout (0:" in line]
    return (failed or [""])[0], (lines or [""])[-1]


def difference(module: Path, before: str, after: str) -> str:
    return "".join(
        difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), str(module), str(module), n=1
        )
    )
