import os
import pty
import subprocess
from datetime import UTC, datetime, timedelta

from tests.cli.conftest import CommandLine
from tests.support.warm import programs


def test_a_clock_that_is_far_ahead_is_refused(sqlite_cli: CommandLine) -> None:
    days_ago = datetime.now(UTC) - timedelta(days=3)
    with sqlite_cli.store(clock=lambda: days_ago) as store:
        store.sessions.create("s", ttl=timedelta(hours=1))
    refused = sqlite_cli.process("sweep", "--max-clock-gap", "2d")
    assert refused.returncode == 1
    assert "allow a larger --max-clock-gap\n" in refused.stderr
    assert "deleted 1 expired session" in sqlite_cli.process("sweep", "--max-clock-gap", "4d").stdout


def test_progress_is_drawn_on_a_terminal_only(sqlite_cli: CommandLine) -> None:
    def expire(count: int) -> None:
        with sqlite_cli.store(cache_max_entries=None) as store:
            store.cache.set_many({f"k{n}": n for n in range(count)}, ttl=timedelta(microseconds=1))

    expire(5_000)
    reader, terminal = pty.openpty()
    command = [programs() / "statestore", "sweep", "--batch-size", "1"]  # So that it takes longer than a moment.
    done = subprocess.run(command, env=sqlite_cli.environment, stdout=subprocess.PIPE, stderr=terminal, check=True)
    os.close(terminal)
    drawn = os.read(reader, 65536)
    os.close(reader)
    assert b"sweeping: " in drawn
    assert b"deleted 5,000 expired cache entries" in done.stdout

    expire(100)
    quiet = sqlite_cli.process("sweep", "--batch-size", "1")
    assert (quiet.returncode, quiet.stderr) == (0, "")
