"""Sweeping on a schedule: in a thread, as a task, as a command."""

import asyncio
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sysconfig
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from statestore import (
    AsyncStateStore,
    ClockError,
    DatabaseError,
    InvalidValueError,
    NewEntry,
    StateStore,
    StateStoreError,
    Sweeper,
    SweepReport,
)
from tests.postgres import start_server
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound

SOON = timedelta(milliseconds=20)
NOW = timedelta(0)
HOUR = timedelta(hours=1)


class Reports:
    """Collects the reports of sweeps, and lets a test wait for them."""

    def __init__(self) -> None:
        self.all: list[SweepReport] = []
        self._changed = threading.Condition()

    def __call__(self, report: SweepReport) -> None:
        with self._changed:
            self.all.append(report)
            self._changed.notify_all()

    def wait(self, kind: Any, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: sum(r[kind].rows for r in self.all) >= count, 30), self.all


def ended(sweeper: Sweeper) -> None:
    """Wait until the sweeper's thread has come to its end by itself."""
    assert sweeper._current is not None
    assert sweeper._current.thread is not None
    sweeper._current.thread.join(60)


def expire(url: str, count: int) -> MovableClock:
    clock = MovableClock()
    with StateStore.open(url, clock=clock, durability="normal") as store:
        for start in range(0, count, 100):
            with store.transaction() as tx:
                for number in range(start, min(start + 100, count)):
                    tx.sessions.create(f"s{number}", ttl=HOUR)
                    tx.history.append(f"s{number}", [NewEntry(n) for n in range(5)])
    clock.advance(hours=1)
    return clock


def test_a_thread_sweeps_again_and_again(database_url: str) -> None:
    clock, reports = expire(database_url, 3), Reports()
    with StateStore.open(database_url, clock=clock) as store:
        with Sweeper(store, every=SOON, jitter=NOW, on_sweep=reports) as sweeper:
            reports.wait("expired_sessions", 3)
            store.sessions.create("later", ttl=HOUR)
            clock.advance(hours=1)
            reports.wait("expired_sessions", 4)
            assert sweeper.running
        assert not sweeper.running
        assert store.sweep(dry_run=True).rows == 0


def test_a_task_sweeps_again_and_again(database_url: str) -> None:
    clock, reports = expire(database_url, 3), Reports()

    async def run() -> None:
        async with await AsyncStateStore.open(database_url, clock=clock) as store:
            async with Sweeper(store, every=SOON, jitter=NOW, on_sweep=reports) as sweeper:
                await asyncio.to_thread(reports.wait, "expired_sessions", 3)
                assert sweeper.running
            assert not sweeper.running
            sweeper.start()
            await sweeper.stop()
            assert not sweeper.running

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_it_stops_with_the_batch_that_it_is_at(database_url: str, content: Content, kind: str) -> None:
    clock = expire(database_url, 1000)

    class Held(MovableClock):
        """Holds the sweep in its third batch until it has been told to stop: its statements ask for the time."""

        def __init__(self) -> None:
            self.sweeper: Sweeper | None = None
            self.reached = threading.Event()
            self.left = 0

        def __call__(self) -> Any:
            if self.sweeper is not None and not self.reached.is_set() and content.sizes()["sessions"] <= 960:
                self.left = content.sizes()["sessions"]
                self.reached.set()
                assert self.sweeper._current is not None
                assert self.sweeper._current.stopping.wait(60)
            return clock()

    held = Held()
    if kind == "thread":
        with StateStore.open(database_url, clock=held) as store:
            held.sweeper = Sweeper(store, every=HOUR, jitter=NOW, batch_size=20)
            held.sweeper.start()
            assert held.reached.wait(60)
            held.sweeper.stop()
            ended(held.sweeper)
            assert not held.sweeper.running
    else:

        async def run() -> None:
            async with await AsyncStateStore.open(database_url, clock=held) as store:
                held.sweeper = Sweeper(store, every=HOUR, jitter=NOW, batch_size=20)
                held.sweeper.start()
                assert await asyncio.to_thread(held.reached.wait, 60)
                await held.sweeper.stop()
                assert not held.sweeper.running

        asyncio.run(run())
    assert held.left - content.sizes()["sessions"] <= 20, "it did more than the batch that it was at"
    assert content.sizes()["sessions"] > 0, "it had come to its end before it was stopped"
    assert unsound(content) == []
    with StateStore.open(database_url, clock=clock) as store:
        assert store.usage.totals().entries == 5_000
        store.sweep()
        assert store.usage.totals().entries == 5_000


def test_a_sweep_that_fails_is_logged_and_the_next_one_comes(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The database is restarted while the sweeper runs."""
    from statestore.migrate import upgrade

    caplog.set_level(logging.DEBUG, "statestore.sweeper")
    with start_server(settings={}, directory=None) as server, server.database() as name:
        url = server.url(name)
        upgrade(url)
        clock, reports, errors = expire(url, 2), Reports(), []
        with (
            StateStore.open(url, clock=clock, pool_timeout=timedelta(seconds=2)) as store,
            Sweeper(store, every=SOON, jitter=NOW, on_sweep=reports, on_error=errors.append) as sweeper,
        ):
            reports.wait("expired_sessions", 2)
            server.restart("fast")
            store.sessions.create("after", ttl=HOUR)
            clock.advance(hours=1)
            reports.wait("expired_sessions", 3)
            assert sweeper.running
    assert any("swept" in record.message for record in caplog.records)


@pytest.mark.parametrize("awaited", [False, True])
def test_a_sweeper_goes_on_when_the_clock_is_right_again(database_url: str, awaited: bool) -> None:
    clock, reports, errors = expire(database_url, 1), Reports(), []
    clock.advance(days=1)
    options = {"every": SOON, "jitter": NOW, "on_sweep": reports, "max_clock_gap": timedelta(hours=23)}

    def refused(error: StateStoreError) -> None:
        errors.append(error)
        clock.advance(hours=-2)

    async def sweep() -> None:
        async with (
            await AsyncStateStore.open(database_url, clock=clock) as store,
            Sweeper(store, **options, on_error=refused),
        ):
            await asyncio.to_thread(reports.wait, "expired_sessions", 1)

    if awaited:
        asyncio.run(sweep())
    else:
        with StateStore.open(database_url, clock=clock) as store, Sweeper(store, **options, on_error=refused):
            reports.wait("expired_sessions", 1)
    assert [type(error) for error in errors] == [ClockError]


def test_a_bug_ends_the_sweeper_and_is_raised_when_it_is_stopped(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(report: SweepReport) -> None:
        raise LookupError("a bug")

    with StateStore.open(sqlite_url) as store:
        sweeper = Sweeper(store, every=SOON, jitter=NOW, on_sweep=fail).start()
        ended(sweeper)
        assert not sweeper.running
        with pytest.raises(LookupError):
            sweeper.stop()
        sweeper.stop()
    assert "stopped because of a bug" in caplog.text


def test_a_callback_may_stop_the_sweeper(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        sweeper = Sweeper(store, every=SOON, jitter=NOW, on_sweep=lambda report: sweeper.stop())
        sweeper.start()
        ended(sweeper)
        assert not sweeper.running
        sweeper.stop()


@pytest.mark.parametrize("awaited", [False, True])
def test_a_callback_may_stop_the_sweeper_of_an_event_loop(database_url: str, awaited: bool) -> None:
    reports = []
    sweeper: Any = None

    async def stop(report: SweepReport) -> None:
        await asyncio.sleep(0)
        reports.append(report)
        await sweeper.stop()

    def stop_at_once(report: SweepReport) -> None:
        reports.append(report)
        sweeper.stop()

    async def run() -> None:
        async with await AsyncStateStore.open(database_url) as store:
            nonlocal sweeper
            sweeper = Sweeper(store, every=SOON, jitter=NOW, on_sweep=stop if awaited else stop_at_once).start()
            assert sweeper._current is not None
            assert sweeper._current.task is not None
            await asyncio.wait({sweeper._current.task}, timeout=10)
            assert not sweeper.running
            await sweeper.stop()

    asyncio.run(run())
    assert len(reports) == 1


def test_errors_are_awaited_too(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []

    def fails(**_: Any) -> None:
        raise DatabaseError("no database")

    async def note(error: Exception) -> None:
        await asyncio.sleep(0)
        errors.append(error)
        noted.set()

    async def run() -> None:
        async with await AsyncStateStore.open(sqlite_url) as store:
            monkeypatch.setattr("statestore.operations.sweeping.sweep", fails)
            async with Sweeper(store, every=SOON, jitter=NOW, on_error=note):
                await asyncio.to_thread(noted.wait, 10)

    noted = threading.Event()
    asyncio.run(run())
    assert errors


@pytest.mark.parametrize("name", ["on_sweep", "on_error"])
def test_a_thread_takes_no_coroutine_function(sqlite_url: str, name: str) -> None:
    async def callback(_: object) -> None: ...

    with StateStore.open(sqlite_url) as store, pytest.raises(InvalidValueError) as caught:
        Sweeper(store, every=SOON, **{name: callback})  # type: ignore[arg-type]
    assert caught.value.argument == name


def test_it_goes_on_when_it_is_started_again_before_it_has_ended(database_url: str) -> None:
    clock, reports = expire(database_url, 2), Reports()
    busy, go_on = threading.Event(), threading.Event()

    def hold(report: SweepReport) -> None:
        busy.set()
        assert go_on.wait(30)
        reports(report)

    with StateStore.open(database_url, clock=clock) as store:
        sweeper = Sweeper(store, every=SOON, jitter=NOW, on_sweep=hold).start()
        assert busy.wait(30)
        sweeper.stop()
        assert sweeper.running, "it is still busy"
        assert sweeper.start() is sweeper
        assert not reports.all
        go_on.set()
        reports.wait("expired_sessions", 2)
        store.sessions.create("later", ttl=HOUR)
        clock.advance(hours=1)
        reports.wait("expired_sessions", 3)
        assert sweeper.running
        sweeper.stop()
        assert not sweeper.running


def test_it_ends_with_its_store(sqlite_url: str) -> None:
    with StateStore.open(sqlite_url) as store:
        sweeper = Sweeper(store, every=SOON, jitter=NOW).start()
    ended(sweeper)
    assert not sweeper.running
    sweeper.stop()


@pytest.mark.parametrize(
    "arguments",
    [{"every": timedelta(0)}, {"every": None}, {"every": 60}, {"every": SOON, "jitter": -SOON},
     {"every": SOON, "batch_size": 0}],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(sqlite_url: str, arguments: dict[str, Any]) -> None:
    with StateStore.open(sqlite_url) as store, pytest.raises(InvalidValueError):
        Sweeper(store, **arguments)


def test_a_store_is_needed() -> None:
    with pytest.raises(InvalidValueError):
        Sweeper("sqlite://", every=SOON)  # type: ignore[arg-type]


def command(url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sysconfig.get_path("scripts")) / "statestore", "sweep", *arguments],
        env={**os.environ, "STATESTORE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_sweeps_until_it_is_stopped(database_url: str, number: signal.Signals) -> None:
    with StateStore.open(database_url) as store:
        for n in range(3):
            store.sessions.create(f"s{n}", ttl=timedelta(microseconds=1))
    with command(database_url, "--every", "50ms", "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert first["kinds"]["expired_sessions"]["rows"] == 3
    assert (process.returncode, errors) == (0, "")


def test_the_command_says_nothing_where_there_is_nothing_and_each_failure_once(sqlite_url: str) -> None:
    with command(sqlite_url, "--every", "50ms") as process:
        with StateStore.open(sqlite_url) as store:
            store.sessions.create("s", ttl=timedelta(microseconds=1))
        assert process.stdout is not None
        assert process.stdout.readline().startswith("deleted 1 expired session: ")
        file = Path(sqlite_url.removeprefix("sqlite:///"))
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("ALTER TABLE state_entries RENAME TO away")
        assert process.stderr is not None
        first, second = process.stderr.readline(), process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert re.fullmatch(r"error: .*; the next sweep runs as planned\n", first)
    assert first == second
    assert out == ""


def test_the_command_ends_quietly_when_nobody_reads_what_it_says(sqlite_url: str) -> None:
    with command(sqlite_url, "--every", "20ms", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 141
