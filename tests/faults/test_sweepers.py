"""Sweepers at once, killed at random, over sessions that expire, are used, are forked, and hand over their rows.

`STATESTORE_HYPOTHESIS_PROFILE=long` takes 20,000 sessions.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from statestore import NewEntry, StateStore, Usage
from tests.support.content import Content, unsound

WORKER = Path(__file__).with_name("sweeping_worker.py")
LONG = os.environ.get("STATESTORE_HYPOTHESIS_PROFILE") == "long"
SESSIONS = 20_000 if LONG else 1_000
SWEEPERS = 6 if LONG else 4
TOUCHED = 40
# Then they are let finish: one that is killed before it has begun gets nothing done.
KILLS = 100 if LONG else 10
FIRST, LAST = timedelta(seconds=2), timedelta(seconds=40 if LONG else 5)


def time_of(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def start(what: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), what, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def has_forks(number: int) -> bool:
    return number % 10 == 0 and number % 7 > 0


def fill(store: StateStore, chance: random.Random) -> Counter[str]:
    """Sessions that expire over a time, of which every tenth has forks; what was used is returned."""
    used: Counter[str] = Counter()
    spread = (LAST - FIRST) / SESSIONS
    for start in range(0, SESSIONS, 50):
        with store.transaction() as tx:
            for number in range(start, min(start + 50, SESSIONS)):
                name, ttl = f"s{number}", FIRST + spread * number
                tx.sessions.create(name, user_id=f"user-{number % 50}", ttl=ttl)
                entries = [
                    NewEntry(n, role="user", usage=Usage(input_tokens=chance.randrange(1000)))
                    for n in range(number % 7)
                ]
                used["entries"] += len(entries)
                used["input_tokens"] += sum(entry.usage.input_tokens or 0 for entry in entries if entry.usage)
                tx.history.append(name, entries)
                if number % 3 == 0:
                    tx.state.set(name, "key", number)
                if has_forks(number):
                    tx.sessions.fork(name, f"fork-{number}")
                    tx.sessions.fork(f"fork-{number}", f"kept-{number}", at_seq=1)
                    tx.sessions.update(f"kept-{number}", ttl=None)
                tx.cache.set(f"c{number}", number, ttl=ttl)
    return used


@pytest.mark.timeout(900)
def test_every_row_goes_once_and_nothing_goes_that_is_used(database_url: str, content: Content, tmp_path: Path) -> None:
    chance = random.Random(5)
    touched = [f"touched-{number}" for number in range(TOUCHED)]
    # Time stands still until all have been made; then it goes on, for every process by the same amount behind.
    begin = datetime.now(UTC)
    behind: timedelta | None = None

    def clock() -> datetime:
        return begin if behind is None else datetime.now(UTC) - behind

    with StateStore.open(
        database_url, durability="normal", cache_max_entries=None, lock_timeout=LAST, clock=clock
    ) as store:
        used = fill(store, chance)
        for name in touched:
            store.sessions.create(name, ttl=LAST + timedelta(seconds=10))
        kept = [f"kept-{number}" for number in range(SESSIONS) if has_forks(number)]
        ends = sorted(end for row in content.rows("sessions") if (end := time_of(row["expires_at"])) is not None)
        ends = ends[: len(ends) - TOUCHED]
        expected = {name: store.history.count(name) for name in kept}

        behind = datetime.now(UTC) - begin
        seconds = str(behind.total_seconds())
        toucher = start("touch", database_url, seconds, ",".join(touched))
        logs = [tmp_path / f"log-{number}" for number in range(SWEEPERS)]
        sweepers = [start("sweep", database_url, seconds, str(log)) for log in logs]
        killed = 0
        deadline = time.monotonic() + (LAST.total_seconds() + 60) * 2
        try:
            while (alive := store.sessions.count()) > len(kept) + TOUCHED or store.usage.expiry_backlog():
                now = clock()
                assert alive >= len(kept) + TOUCHED + sum(end > now for end in ends), "something went early"
                assert time.monotonic() < deadline, store.usage.expiry_backlog()
                time.sleep(chance.uniform(0.1, 0.8))
                if killed == KILLS:
                    continue
                victim = chance.randrange(SWEEPERS)
                sweepers[victim].send_signal(signal.SIGKILL)
                sweepers[victim].communicate()
                killed += 1
                sweepers[victim] = start("sweep", database_url, seconds, str(logs[victim]))
        finally:
            for process in [*sweepers, toucher]:
                process.kill()
            outputs = [process.communicate() for process in [*sweepers, toucher]]
        assert outputs[-1][0] == "", "a session that was in use has been deleted"
        assert not any("Traceback" in errors for _, errors in outputs), outputs
        assert killed >= 3

        store.sweep()
        names = {row["session_id"] for row in content.rows("sessions")}
        assert names == {*kept, *touched}
        assert {name: store.history.count(name) for name in kept} == expected
        assert all(len(store.history.read(name)) == count for name, count in expected.items())
        appended = sum(store.history.count(name) for name in touched)
        totals = store.usage.totals()
        assert (totals.entries - appended, totals.input_tokens) == (used["entries"], used["input_tokens"])

    assert unsound(content) == []
    assert content.rows("cache_entries") == []
    [ledger] = content.query("SELECT sum(expirations) AS n FROM cache_ledger")
    assert ledger["n"] == SESSIONS, "an expired cache entry was deleted twice, or not at all"
    said: Counter[str] = Counter()
    for log in logs:
        for line in log.read_text().splitlines() if log.exists() else ():
            said.update(json.loads(line))
    forks = sum(map(has_forks, range(SESSIONS)))
    # A worker that was killed before it wrote down its last batch has said too little, none has said too much.
    assert said["expired_sessions"] <= SESSIONS + forks
    assert said["expired_sessions"] >= (SESSIONS + forks) * 0.5
    assert said["history_entries"] <= used["entries"]
    assert said["expired_cache"] <= SESSIONS
