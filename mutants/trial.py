"""A copy of the checkout in a temporary folder, in which one file at a time is changed and tested."""

import difflib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

# Enough for a database of one's own, whatever else runs on the machine.
LEAST_SECONDS = 120
TIMES_AS_LONG = 6


@dataclass(frozen=True)
class Outcome:
    """How a run of the tests ended."""

    passed: bool
    seconds: float
    by: str
    failed: tuple[str, ...] = ()


class Copy:
    """The checkout's files without its history; the checkout itself is only read."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self._root = root
        self._folder = Path(tempfile.mkdtemp(prefix="statestore-mutants-"))
        self._environment = {**environment, "PYTHONPATH": str(self._folder), "PYTHONDONTWRITEBYTECODE": "1"}
        self._baselines: dict[tuple[str, ...], Outcome] = {}

    def __enter__(self) -> Self:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=self._root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (self._root / name).is_file():
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._root / name, self._folder / name)
        where = self._run([sys.executable, "-c", "import statestore; print(statestore.__file__)"], LEAST_SECONDS)
        if not where.by.startswith(str(self._folder)):
            raise RuntimeError(f"the tests would use {where.by}, not the copy")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def baseline(self, tests: Sequence[str]) -> Outcome:
        """The tests on what is not changed. Those that fail then would notice everything, and are left out."""
        key = tuple(tests)
        if key not in self._baselines:
            self._baselines[key] = self._test(tests, 3600)
        return self._baselines[key]

    def trial(self, module: Path, changed: str, tests: Sequence[str]) -> Outcome:
        """The tests on the copy with *module* changed. What takes too long counts as noticed."""
        baseline = self.baseline(tests)
        limit = max(LEAST_SECONDS, TIMES_AS_LONG * baseline.seconds)
        path = self._folder / module
        before = path.read_text()
        path.write_text(changed)
        try:
            left_out = [f"--deselect={test}" for test in baseline.failed]
            return self._test(["-x", *left_out, *tests], limit)
        finally:
            path.write_text(before)

    def _test(self, arguments: Sequence[str], limit: float) -> Outcome:
        command = [sys.executable, "-m", "pytest", "-q", "--numprocesses=auto", "-p", "no:cacheprovider"]
        return self._run([*command, *arguments], limit)

    def _run(self, command: Sequence[str], limit: float) -> Outcome:
        begun = time.monotonic()
        with subprocess.Popen(
            command, cwd=self._folder, env=self._environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                output = None
            finally:
                _end(process)
        seconds = time.monotonic() - begun
        if output is None:
            return Outcome(False, seconds, f"no end within {limit:.0f} s")
        failed, last = _said(output)
        # Without that line nothing was tested, whatever the exit code says.
        passed = process.returncode == 0 and " passed" in last
        return Outcome(passed, seconds, (failed or [last])[0], tuple(failed))


def _end(process: subprocess.Popen[str]) -> None:
    """The tests and all that they have started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _said(output: str) -> tuple[list[str], str]:
    """Which tests failed, and the last that was said."""
    lines = [line for line in output.splitlines() if line.strip()]
    failed = [line.split(" ", 1)[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return [line.split(" - ")[0] for line in failed], (lines or [""])[-1]


def difference(module: Path, before: str, after: str) -> str:
    return "".join(
        difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), str(module), str(module), n=1
        )
    )
