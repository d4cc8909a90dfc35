"""Runs a row and its control, each in a process of its own that is ended when it takes too long."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.table import Case, Outcome, Tally
from tests.postgres import PostgresServer

ROOT = Path(__file__).parents[2]


def run(case: Case, server: PostgresServer, *, long: bool, tell: Callable[[str], None]) -> Outcome:
    """Run a case, and its control as often as it takes to lose something, at most `control_rounds` times."""
    began = time.monotonic()
    rounds = case.long if long else case.short
    found = _in_process(case, server, rounds, False, long, tell)
    if "missing" in found:
        return Outcome(case.fault, case.database, case.world, Tally(), case.control, None, found["missing"])
    tally = Tally(**found)
    control = _in_process(case, server, case.control_rounds, True, long, tell)
    lost = Tally(**control).violations
    if not lost:
        for note in control.get("notes", []):
            tally.note(f"control: {note}")
    return Outcome(case.fault, case.database, case.world, tally, case.control, lost, seconds=time.monotonic() - began)


def _in_process(
    case: Case, server: PostgresServer, rounds: int, unsafe: bool, long: bool, tell: Callable[[str], None]
) -> dict[str, Any]:
    # A row that is killed cannot clean up after itself. Servers run as another user, who has to get in here.
    folder = Path(tempfile.mkdtemp(prefix="statestore-faults-"))
    folder.chmod(0o755)
    command = [sys.executable, "-m", "tests.faults", "--case", case.name, "--rounds", str(rounds)]
    command += ["--unsafe"] * unsafe + ["--long"] * long
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "STATESTORE_TEST_POSTGRES_URL": server.url(), "PYTHONPATH": _path(), "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    label = f"{case.name}{' (control)' if unsafe else ''}"
    tell(label)
    errors: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None

    def pass_on(lines: Any) -> None:
        for line in lines:
            errors.append(line)
            tell(f"{label}: {line.strip()}")

    reader = threading.Thread(target=pass_on, args=(process.stderr,), daemon=True)
    reader.start()
    ended = threading.Timer(case.limit, _kill, (process,))
    ended.start()
    try:
        output = process.stdout.read()
        code = process.wait()
    finally:
        late = not ended.is_alive()
        ended.cancel()
        # Also what it started: nothing of a row outlives it, not after Ctrl-C either.
        _kill(process)
        process.wait()
        reader.join(timeout=5)
        process.stdout.close()
        process.stderr.close()
        shutil.rmtree(folder, ignore_errors=True)
    if unsafe and (late or code):
        # A control that breaks down has not shown anything.
        return {"notes": [f"it failed: {_reason(errors)}"]}
    if late:
        return {"hung": 1, "notes": [f"hung: the row was ended after {case.limit} s"]}
    if code:
        return {"wrong": 1, "notes": [f"wrong: the row failed: {_reason(errors)}"]}
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _reason(errors: list[str]) -> str:
    """The end of a traceback, and where it began."""
    return " < ".join(line.strip() for line in reversed(errors[-12:]) if "^^^" not in line)


def _path() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def _kill(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
