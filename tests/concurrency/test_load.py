"""The load test of `./run load`, for a few seconds: it works on both databases, and it finds what was lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load import figures
from benchmarks.load.__main__ import arguments
from benchmarks.load.agents import Agent, Job, Ledger
from benchmarks.load.verifying import Verdict, verify
from statestore import AsyncStateStore, StateStore

ROOT = Path(__file__).parents[2]


def started(url: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load", "--url", url, "--think", "0.05", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_agents_work_and_nothing_is_lost(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ("--agents", "8", "--processes", "2", "--minutes", "0.04", "--json", str(file))
    process = started(database_url, *options)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    assert "; 0 lost, 0 sessions otherwise wrong" in output
    for expected in ("history.append ", "turn ", "cache.get_or_compute ", "processor, clients: "):
        assert any(line.startswith(expected) for line in output.splitlines()), expected
    found = json.loads(file.read_text())
    assert found["operations"]["history.append"]["calls"] > 20
    assert found["verified"]["entries"] > 20
    assert found["verified"]["complete"]
    assert found["errors"] == []
    assert (found["used"]["wal"] is None) == database_url.startswith("sqlite")
    with StateStore.open(database_url) as store:
        assert [one.name for one in store.namespaces() if one.name.startswith("load-")] == []


def test_it_can_be_ended_early(sqlite_url: str) -> None:
    process = started(sqlite_url, "--agents", "2", "--processes", "1", "--minutes", "10")
    assert process.stderr is not None
    for line in process.stderr:
        if " calls," in line and " 0 calls," not in line:
            break
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, output + errors
    assert "history.append" in output
    assert "\nread back: " in output


@pytest.mark.parametrize(
    "given", [["--agents", "0"], ["--minutes", "x"], ["--think", "-1"], ["--json", "/no/such/folder/file"]]
)
def test_what_makes_no_sense_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        arguments(["--url", "sqlite:///x.db", *given])
    assert caught.value.code == 2
    assert given[0] in capsys.readouterr().err


def test_a_database_that_is_not_there_is_said_in_a_line() -> None:
    process = started("postgresql://nobody@127.0.0.1:1/nothing")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("./run load: ")
    assert "Traceback" not in output + errors


async def one_agent(url: str, spoil: Any) -> Verdict:
    """An agent works a little, then something happens to what it stored."""
    async with AsyncStateStore.open(url) as store:
        job = Job(store, 0.0, asyncio.Event())
        agent = Agent(job, "agent", followed=False)
        await agent._begin()
        await agent._turn()
        await spoil(store, job)
        return await verify(job, skip=lambda: False)


async def nothing(store: AsyncStateStore, job: Job) -> None:
    """It stays as it is."""


async def lose_one(store: AsyncStateStore, job: Job) -> None:
    await store.history.pop_last("agent.1")


async def lose_all(store: AsyncStateStore, job: Job) -> None:
    await store.sessions.delete("agent.1")


async def go_back(store: AsyncStateStore, job: Job) -> None:
    await store.state.set("agent.1", "step", 0)


async def add_one(store: AsyncStateStore, job: Job) -> None:
    await store.history.append("agent.1", [{"role": "user", "content": "nobody's"}])


async def come_back(store: AsyncStateStore, job: Job) -> None:
    job.deleted.append("agent.1")
    job.ledgers.clear()


async def be_unsure(store: AsyncStateStore, job: Job) -> None:
    job.ledgers["agent.1"].unsure.add(job.ledgers["agent.1"].entries.pop())
    job.ledgers["other"] = Ledger()
    await store.sessions.create("other")


@pytest.mark.parametrize(
    ("spoil", "lost", "wrong"),
    [
        (nothing, 0, 0),
        (lose_one, 1, 0),
        (lose_all, 4, 0),
        (go_back, 0, 1),
        (add_one, 0, 1),
        (come_back, 0, 1),
        (be_unsure, 0, 0),
    ],
)
def test_what_is_lost_is_found(sqlite_url: str, spoil: Any, lost: int, wrong: int) -> None:
    verdict = asyncio.run(one_agent(sqlite_url, spoil))
    assert (verdict.lost, verdict.wrong) == (lost, wrong), verdict.findings
    assert bool(verdict.findings) == bool(lost or wrong)


def test_percentiles_are_right_by_one_percent() -> None:
    tally, other = figures.Tally(), figures.Tally()
    for number in range(1, 1001):
        (tally if number % 2 else other).took("op", number / 1000)
    tally.add(other)
    for share in (0.5, 0.95, 0.99, 1.0):
        assert tally.percentile("op", share) == pytest.approx(share, rel=0.011)
    other.failed("op", KeyError())
    tally.add(other)
    assert "KeyError in op: 1" in figures.table(tally, 1.0)[-1]
