"""Agents in processes of their own: killed and resumed, and eight that begin at once."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from statestore import StateStore
from statestore.adapters.adk import StatestoreSessionService, statestore_id
from tests.adapters.adk.talk import LAST

ROOT = Path(__file__).parents[3]
KEY = statestore_id("count", "ada", "s")


def start(url: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.adapters.adk.talk", url, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("acknowledged", [2, 5])
def test_an_agent_that_is_killed_goes_on_in_another_process(database_url: str, acknowledged: int) -> None:
    events = []
    with start(database_url) as killed:
        assert killed.stdout is not None
        for _ in range(acknowledged):
            invocation_id, event_id = killed.stdout.readline().split()
            events.append(event_id)
        killed.send_signal(signal.SIGKILL)
        events += [line.split()[1] for line in killed.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert killed.returncode == -signal.SIGKILL
    with StateStore.open(database_url) as store:
        before = store.state.get(KEY, "step", default=0)
        assert before < LAST
        with start(database_url, invocation_id) as resumed:
            assert resumed.stdout is not None
            events += [line.split()[1] for line in resumed.stdout]
        assert resumed.returncode == 0
        stored = store.history.read(KEY)
        ids = [entry.entry_id for entry in stored]
        assert len(set(ids)) == len(ids)
        assert [one for one in ids if one in set(events)] == events
        answers = [
            part["function_response"]["response"]
            for entry in stored
            for part in (entry.content.get("content") or {}).get("parts") or ()
            if "function_response" in part
        ]
        # An event and its changes of the state are stored together, so a step that is lost is done again.
        assert answers == [{"step": n + 1} for n in range(LAST)]
        assert store.state.get(KEY, "step") == store.user_state.get("ada", "count:step") == LAST
        calls = sum(entry.usage.input_tokens is not None for entry in stored)
        totals = store.usage.totals(user_id="ada")
        assert (totals.model_calls, totals.input_tokens) == (calls, 10 * calls)


# The framework is imported once, and takes seconds; then there are eight processes.
FIRST_USE = """
import asyncio, multiprocessing, sys
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from statestore.adapters.adk import StatestoreSessionService

async def use(user_id):
    async with StatestoreSessionService(sys.argv[1]) as service:
        barrier.wait(60)
        state = {"app:" + user_id: 1}
        session = await service.create_session(app_name="a", user_id=user_id, session_id="s", state=state)
        for n in range(5):
            await service.append_event(session, Event(author="user", actions=EventActions(state_delta={"n": n})))

def run(user_id):
    asyncio.run(use(user_id))

context = multiprocessing.get_context("fork")
barrier = context.Barrier(8)
processes = [context.Process(target=run, args=[f"u{n}"]) for n in range(8)]
for one in processes: one.start()
for one in processes: one.join()
sys.exit(sum(one.exitcode != 0 for one in processes))
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_first_use_by_eight_processes_at_once(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("empty_sqlite_url" if kind == "sqlite" else "postgres_url")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", FIRST_USE, url], env=environment, check=True, timeout=100)

    async def read() -> list[Any]:
        async with StatestoreSessionService(url) as service:
            return [
                await service.get_session(app_name="a", user_id=one.user_id, session_id=one.id)
                for one in (await service.list_sessions(app_name="a")).sessions
            ]

    sessions = asyncio.run(read())
    assert sorted(one.user_id for one in sessions) == [f"u{n}" for n in range(8)]
    assert {(len(one.events), one.state["n"], len(one.state)) for one in sessions} == {(5, 4, 9)}
