"""An upgrade as the guide describes it, with the oldest code that may use today's tables at work all the while."""

import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from statestore import StateStore, migrate
from statestore.schema import HEAD_REVISION
from tests.docs.pages import CHECKOUT
from tests.support.command_line import invoke

PAGE = CHECKOUT / "docs" / "guides" / "production.md"
VERSIONS = CHECKOUT / "migrations" / "versions"

# Appends until it is told to end, and says each time how much it has stored.
WORKER = """
import sys
from statestore import NewEntry, StateStore, Usage

name, stored = sys.argv[1], 0
with StateStore.open() as store:
    for line in sys.stdin:
        entry = NewEntry({"role": "user", "content": f"{name} {stored}"}, usage=Usage(input_tokens=1))
        store.history.append("shared", [entry], create=True)
        store.state.set("shared", name, stored)
        stored += 1
        print(store.history.count("shared"), flush=True)
"""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the last commit that knows no migration but those that it has to: today's, if it has to know all."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, check=False).stdout

    [newest] = VERSIONS.glob(f"{HEAD_REVISION}_*.py")
    [oldest] = re.findall(r'^oldest_code = "(\w+)"', newest.read_text(), re.MULTILINE)
    commit = "HEAD"
    if later := sorted(path for path in VERSIONS.glob("*.py") if path.name[:4] > oldest):
        added = git("log", "--diff-filter=A", "--format=%H", "--", str(later[0])).decode().split()
        commit = f"{added[-1]}^" if added else commit
    if not git("rev-parse", "--verify", commit):
        pytest.skip("the history of this checkout is not there")
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "statestore", "migrations"))) as archive:
        archive.extractall(folder, filter="data")
    (folder / "migrations").rename(folder / "statestore" / "_migrations")  # As in a wheel.
    return folder


class Old:
    """The old code, on a database."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._environment = os.environ | {"PYTHONPATH": str(folder), "STATESTORE_URL": url}

    def command(self, *arguments: str) -> str:
        code = "from statestore.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    @contextmanager
    def worker(self, name: str) -> Iterator["Worker"]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, name],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield Worker(process)
            finally:
                assert process.stdin is not None
                process.stdin.close()
                assert process.wait(60) == 0


class Worker:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.appended = 0

    def append(self) -> int:
        """One more entry; how many the session then has."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        counted = int(self._process.stdout.readline())
        self.appended += 1
        return counted


def test_old_processes_go_on_and_restart_while_the_new_version_is_deployed(empty_database_url: str, old: Path) -> None:
    url = empty_database_url
    before = Old(old, url)
    before.command("migrate", "up")
    steps = re.findall(r"`statestore (migrate \w+)`", PAGE.read_text().partition("## Rolling upgrade")[2])
    assert steps == ["migrate status", "migrate up"]
    with before.worker("first") as first:
        assert [first.append() for _ in range(3)] == [1, 2, 3]
        for step in steps:
            done = invoke(*shlex.split(step), env={"STATESTORE_URL": url})
            assert done.exit_code == 0, done.output
            assert HEAD_REVISION in done.output
            first.append()
        with StateStore.open(url) as new, before.worker("second") as second:
            for _ in range(3):  # In turns, on one session.
                first.append()
                new.history.append("shared", [{"role": "user", "content": "new"}])
                second.append()
            new.sweep()
            first.append()
            stored = new.history.read("shared")
            assert len(stored) == first.appended + second.appended + 3 == first.append() - 1
            assert new.state.get_all("shared") == {"first": first.appended - 1, "second": 2}
            assert new.usage.totals(session_id="shared").input_tokens == first.appended + second.appended
    with before.worker("third") as back:  # Or deploy the old version again.
        assert back.append() == len(stored) + 2
    assert migrate.differences(url) == []
