"""The parent's side of the workers: start them, ask them, end them."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"

Role = Literal["statestore", "raw", "again", "peer"]
Style = Literal["sync", "async"]


@dataclass(frozen=True)
class Subject:
    """What is measured, and where its code is."""

    name: str
    database: str
    """`postgresql`, `sqlite`, `redis` or `file`."""
    style: Style
    role: Role
    module: str
    factory: str
    package: str = ""
    """What a peer is called on PyPI."""


class WorkerError(Exception):
    """A subject could not do what it was asked."""


@dataclass
class WorkerProcess:
    """A running worker. What it writes to standard error goes to a file, and is shown if it fails to start."""

    subject: Subject
    url: str
    log: Path
    _process: subprocess.Popen[str] = field(init=False, repr=False)
    _can: dict[tuple[str, ...], bool] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        python = str(PEERS_PYTHON) if self.subject.role == "peer" else sys.executable
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.worker", self.subject.module, self.subject.factory],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": "0", "OTEL_SDK_DISABLED": "true", "AGNO_TELEMETRY": "false"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self.ask("open", url=self.url)
        except WorkerError:
            self._end()
            raise

    def ask(self, do: str, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"{self.subject.name} ended; see {self.log}") from None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"{self.subject.name} ended; see {self.log}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.subject.name}: {answer['error']}")
        return answer["answer"]

    def can(self, verbs: tuple[str, ...]) -> bool:
        if verbs not in self._can:
            self._can[verbs] = self.ask("can", verbs=list(verbs))
        return self._can[verbs]

    def close(self) -> None:
        with suppress(WorkerError):
            self.ask("close")
        self._end()

    def _end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
