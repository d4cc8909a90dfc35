"""An agent is killed in the middle of a run, and another process goes on where it was."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from statestore import StateStore
from statestore.adapters.langgraph import StatestoreSaver
from tests.adapters.langgraph.agent_loop import PLACES, THREAD


@pytest.mark.parametrize("die_at", [4, 5])
def test_an_agent_goes_on_where_it_was_killed(database_url: str, tmp_path: Path, die_at: int) -> None:
    notes = tmp_path / "notes"
    command = [sys.executable, "-m", "tests.adapters.langgraph.agent_loop", database_url, str(notes)]
    assert subprocess.run([*command, str(die_at)], timeout=100).returncode == -signal.SIGKILL
    with StateStore.open(database_url) as store:
        assert store.sessions.get("trip").user_id == "ada"
        assert store.usage.totals(user_id="ada").model_calls == die_at // 2
    subprocess.run([*command, "0"], timeout=100, check=True)
    done = notes.read_text().splitlines()
    every = [f"{what}" for n, place in enumerate(PLACES) for what in (f"model {n}", f"tool {place}")] + ["model 3"]
    assert done == [*every[:die_at], *every[die_at - 1 :]]  # The call that was cut off is made again, and no other.
    saver = StatestoreSaver(database_url)
    found = saver.get_tuple(THREAD)
    saver.close()
    assert found is not None
    messages = found.checkpoint["channel_values"]["messages"]
    assert [message.type for message in messages] == ["human", *["ai", "tool"] * 3, "ai"]
    assert [message.content for message in messages if message.type == "tool"] == [f"sunny in {p}" for p in PLACES]
    with StateStore.open(database_url) as store:
        totals = store.usage.totals(user_id="ada")
        assert (totals.model_calls, totals.input_tokens) == (4, 40)
