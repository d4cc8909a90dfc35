"""A sweep that is killed while it sums: what it left behind is right, and the next one goes on."""

import signal
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from statestore import NewEntry, StateStore, Usage
from tests.reports.test_rollup import agree
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.warm import programs

CHILD = """
import os, signal, sys
from datetime import datetime
from statestore import StateStore
from statestore.engine.sql import Link
from statestore.repositories.rollup import sessions

url, now, left = sys.argv[1], datetime.fromisoformat(sys.argv[2]), int(sys.argv[3])
sessions.SESSIONS_AT_ONCE, sessions.LINES_AT_ONCE = 2, 3
run = Link.run

def counted(link, statement, /, **params):
    global left
    written = run(link, statement, **params)
    if "usage_rollup" in link.dialect.render(statement):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    return written

Link.run = counted
with StateStore.open(url, clock=lambda: now) as store:
    store.sweep()
"""


def fill(store: StateStore, since: datetime) -> None:
    for number in range(6):
        entries = [
            NewEntry(
                {"n": n},
                usage=Usage(input_tokens=n, output_tokens=1),
                response_model=f"m-{n % 2}",
                duration=timedelta(milliseconds=n),
                created_at=since + timedelta(hours=n * 5),
            )
            for n in range(5)
        ]
        store.history.append(f"s-{number}", entries, create=True)
        store.usage.record(record_id=f"{since}-{number}", usage=Usage(input_tokens=7), at=since)


def swept(url: str, now: datetime, statements: int) -> bool:
    """Sweep in a process that is killed after so many statements. Whether it came to its end before."""
    arguments = [programs() / "python", "-c", CHILD, url, now.isoformat(), str(statements)]
    code = subprocess.run(arguments, timeout=120, check=False).returncode
    assert code in (0, -signal.SIGKILL)
    return code == 0


@pytest.mark.timeout(600)
def test_a_killed_sweep_leaves_sums_that_are_right_and_the_next_goes_on(database_url: str, content: Content) -> None:
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    clock = MovableClock(begin + timedelta(days=2))
    with StateStore.open(database_url, clock=clock) as store:
        fill(store, begin)
        for statements in (2, 7, 12):  # While the sums are made for the first time.
            assert not swept(database_url, clock(), statements)
            agree(store)
        store.sweep()
        agree(store)
        fill(store, begin + timedelta(days=2))
        for number in range(3):
            store.history.trim(f"s-{number}", keep_last=3)
        clock.advance(days=3)
        for statements in (3, 6, 11, 25):  # While they are added to, and made anew of what has changed.
            assert not swept(database_url, clock(), statements)
            agree(store)
        assert swept(database_url, clock(), 10_000)
        agree(store)
    [state] = content.query("SELECT * FROM usage_rollup_state")
    assert state["announced_until"] == state["rolled_until"]
    assert content.query("SELECT * FROM usage_rollup_changes") == []
    assert {row["kind"] for row in content.query("SELECT DISTINCT kind FROM usage_rollup")} == {
        *("session", "use", "day", "user", "agent", "model", "tool"),
        *("of_all", "of_user", "of_agent", "of_model", "of_tool"),
    }
