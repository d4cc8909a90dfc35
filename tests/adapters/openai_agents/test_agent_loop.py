"""An agent loop that is killed in the middle goes on in another process: nothing is lost, and nothing is doubled."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from statestore import StateStore
from tests.adapters.openai_agents.agent_loop import TURNS

ROOT = Path(__file__).parents[3]


def start(url: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.adapters.openai_agents.agent_loop", url, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


@pytest.mark.timeout(400)
def test_a_loop_that_was_killed_goes_on(database_url: str, tmp_path: Path) -> None:
    acknowledged = tmp_path / "acknowledged"
    acknowledged.touch()
    for wanted in (3, 8, 15):
        worker = start(database_url, tmp_path)
        while worker.poll() is None and len(acknowledged.read_text().splitlines()) < wanted:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.02))
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        assert worker.returncode == -signal.SIGKILL
    last = start(database_url, tmp_path)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors.decode()

    said = [line.split(" ", 1) for line in acknowledged.read_text().splitlines()]
    assert all(answer == f"It is {int(number) ** 2}." for number, answer in said)
    with StateStore.open(database_url) as store:
        items = store.history.messages("loop")
        assert len(items) == 4 * TURNS
        for number in range(TURNS):
            question, call, output, answer = items[4 * number : 4 * number + 4]
            assert question["content"] == f"What is the square of {number}"
            assert call["call_id"] == output["call_id"] == f"call_{number}"
            assert output["output"] == str(number**2)
            assert answer["content"][0]["text"] == f"It is {number**2}."
        # Each turn is counted once, save one for each kill that came between the last item and the usage.
        totals = store.usage.totals()
        assert 2 * (TURNS - 3) <= totals.model_calls <= 2 * TURNS
        assert totals.input_tokens == 10 * totals.model_calls
