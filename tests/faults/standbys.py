"""A standby that is promoted when its primary is killed."""

import shutil
import subprocess
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from statestore import StateStore, StateStoreError
from tests import postgres
from tests.faults.bench import Bench, kill_server
from tests.faults.clients import Crowd
from tests.faults.journal import Journal
from tests.faults.table import Missing, Tally, fault

NEEDED = ("initdb", "pg_ctl", "postgres", "pg_basebackup")
PRIMARY = {"synchronous_commit": "remote_apply", "synchronous_standby_names": "*", "wal_level": "replica"}


def binaries_with_basebackup() -> Path:
    """The wheel that tests use has no pg_basebackup; Debian's PostgreSQL has one."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    found = shutil.which("pg_basebackup")
    if found is not None:
        folders.insert(0, Path(found).resolve().parent)
    for folder in folders:
        if all((folder / program).exists() for program in NEEDED):
            return folder
    raise Missing("pg_basebackup (Debian's package postgresql)")


class Standby:
    """A copy of a server that follows it. It goes when the row ends, however that ends."""

    def __init__(self, binaries: Path, primary: postgres.LocalServer) -> None:
        source = make_url(primary.url())
        self._home = postgres._make_folder(postgres.fast_folder())
        self._data = self._home / "data"
        self._pg_ctl = binaries / "pg_ctl"
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", postgres.KEEPER, "keeper", self._pg_ctl, self._data, self._home],
            cwd="/", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, **postgres._unprivileged(),
        )  # fmt: skip
        self.port = postgres._free_port()
        connection = f"host={source.host} port={source.port} user={source.username} password={source.password}"
        try:
            self._run(
                binaries / "pg_basebackup", "-D", self._data, "-R", "-X", "stream", "-c", "fast", "-d", connection
            )
            with (self._data / "postgresql.conf").open("a") as file:
                file.write(f"port = {self.port}\nsynchronous_standby_names = ''\n")
            self._run(self._pg_ctl, "-D", self._data, "-l", self._home / "log", "-s", "-w", "start")
        except BaseException:
            self.stop()
            raise
        self.url = source.set(port=self.port)

    def promote(self) -> None:
        self._run(self._pg_ctl, "-D", self._data, "-s", "-w", "promote")

    def stop(self) -> None:
        if self._keeper.poll() is None:
            self._keeper.communicate(b"\n", timeout=60)

    def _run(self, *command: str | Path) -> None:
        done = postgres._run(*command)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


@fault(
    "standby and promotion", databases=("postgresql",), short=1, long=6, limit=900, control_rounds=1,
    control="asynchronous replication",
)  # fmt: skip
def promotion(bench: Bench) -> Tally:
    """Clients write to whichever of two hosts takes writes. The primary is killed, and its standby takes over."""
    binaries = binaries_with_basebackup()
    tally = Tally(rounds=bench.rounds)
    for _ in bench.each_round():
        tally.add(_one_promotion(bench, binaries))
    return tally


def _one_promotion(bench: Bench, binaries: Path) -> Tally:
    primary = postgres.LocalServer(binaries, settings={**PRIMARY, "synchronous_standby_names": ""}, directory=None)
    bench.stack.callback(primary.stop)
    url = bench.url(primary, kept=True)
    standby = Standby(binaries, primary)
    bench.stack.callback(standby.stop)
    name = make_url(url).database
    on_standby = standby.url.set(database=name).render_as_string(False)
    if not bench.unsafe:
        _set(primary, "synchronous_standby_names", "*")
    both = make_url(url).set(host=None, port=None, query={
        "host": (f"127.0.0.1:{make_url(url).port}", f"127.0.0.1:{standby.port}"),
        "target_session_attrs": "read-write",
    })  # fmt: skip
    journal = Journal()
    store = bench.open(both.render_as_string(False))
    store.sessions.open("sliding", ttl=timedelta(hours=1))
    crowd = Crowd(store, journal, bench.heartbeat)
    crowd.prepare()
    crowd.start()
    crowd.wait_for(30)
    _read_on(on_standby, journal)
    if bench.unsafe:
        # It does not hear of what comes now, and nobody waits for it.
        with psycopg.connect(on_standby, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
            admin.execute("SELECT pg_reload_conf()")
        crowd.wait_for(60)
    kill_server(primary)
    standby.promote()
    crowd.wait_for(30, seconds=40)
    crowd.stop()
    if not bench.unsafe and crowd.done < 60:
        journal.is_hung("clients did not find the new primary")
    return journal.settle(bench.open(on_standby), url=on_standby)


def _set(server: postgres.LocalServer, name: str, value: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        admin.execute("SELECT pg_reload_conf()")
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with psycopg.connect(server.url()) as connection:
            if connection.execute("SELECT current_setting(%s)", (name,)).fetchone() == (value,):
                return
        time.sleep(0.02)


def _read_on(url: str, journal: Journal) -> None:
    """A standby answers reads, also those that would extend a session's life where they could."""
    with StateStore.open(url) as store:
        reads: tuple[Any, ...] = (
            lambda: store.history.read("sliding"),
            lambda: store.sessions.get("sliding"),
            lambda: store.state.get("sliding", "missing", None),
            lambda: store.history.window("sliding", max_tokens=1000),
            lambda: store.cache.get("missing"),
        )
        for number, read in enumerate(reads):
            try:
                read()
            except StateStoreError as exc:
                journal.is_wrong(f"read {number} on a standby: {type(exc).__name__}: {exc}")
        with suppress(StateStoreError):
            store.history.append("sliding", [{"role": "user", "content": ""}])
            journal.is_wrong("a standby acknowledged a write")
