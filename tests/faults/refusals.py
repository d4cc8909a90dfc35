"""A database that refuses for a while: its disk is full, it accepts no writes, or no more connections."""

import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from statestore import DatabaseError, ReadOnlyError, StateStoreError, UnavailableError, migrate
from tests.faults.bench import Bench
from tests.faults.clients import Crowd
from tests.faults.journal import DENIED, Journal
from tests.faults.table import Missing, Tally, fault
from tests.postgres import _hand_over

BRIEF = timedelta(seconds=0.3)


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system in memory. Mounting takes root."""
    place = Path(tempfile.mkdtemp(prefix="statestore-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "statestore", str(place)]
    try:
        if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
            raise Missing("the right to mount a small disk")
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)
    finally:
        place.rmdir()


def resize(place: Path, megabytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(place)], check=True, capture_output=True)


@fault("disk full", short=1, long=10, control="errors taken for success", control_rounds=1)
def disk_full(bench: Bench) -> Tally:
    """A real file system runs full while clients write; then there is room again, and the same store goes on."""
    journal = Journal()
    size = 2 if bench.database == "sqlite" else 12
    disk = bench.stack.enter_context(small_disk(size))
    url = _url_on(bench, disk)
    store = bench.open(url, retry_for=BRIEF)
    for number in bench.each_round():
        crowd = Crowd(
            store, journal, bench.heartbeat, prefix=f"r{number}", works=("large", "append", "increment", "transaction"),
            allowed=(DatabaseError,), blind="done" if bench.unsafe else "",
        )  # fmt: skip
        crowd.prepare()
        crowd.start()
        until = time.monotonic() + 60
        while not crowd.refused and time.monotonic() < until:
            time.sleep(0.005)
        crowd.wait_for(20)
        crowd.stop()
        size += 4 if bench.database == "sqlite" else 8
        resize(disk, size)
        _works_again(store, journal, f"again-{number}")
    tally = journal.settle(bench.open(url), url=url)
    if not bench.unsafe and DENIED not in journal.answers.values():
        tally.is_wrong("the disk was never full")
    tally.rounds = bench.rounds
    return tally


def _url_on(bench: Bench, disk: Path) -> str:
    if bench.database == "sqlite":
        url = f"sqlite:///{disk / 'statestore.db'}"
    else:
        server = bench.own_server()
        space = disk / "space"
        space.mkdir()
        _hand_over(space)
        name = f"full_{secrets.token_hex(4)}"
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
            admin.execute(f"CREATE DATABASE {name} TABLESPACE small")
        bench.stack.callback(server.stop)
        url = server.url(name)
    migrate.upgrade(url)
    return url


def _works_again(store: Any, journal: Journal, tag: str) -> None:
    """A store is none the worse for it: some seconds after the fault is over it writes."""
    until = time.monotonic() + 20
    while True:
        try:
            store.history.append("again", [{"role": "user", "content": "", "tag": tag}], create=True)
            journal.note("acknowledged", "again", [tag])
            return
        except StateStoreError as exc:
            if time.monotonic() > until:
                journal.is_wrong(f"the store does not recover: {exc}")
                return
            time.sleep(0.05)


@fault("read-only", short=1, long=40, control="errors taken for success", control_rounds=1)
def read_only(bench: Bench) -> Tally:
    """Reads go on and are right, writes are refused by name; and when it takes writes again, it takes them."""
    url = bench.url()
    journal = Journal()
    writing = bench.open(url, retry_for=BRIEF)
    path = make_url(url).database
    # SQLite's is a second store, that has opened the file for reading.
    store = writing if bench.database == "postgresql" else None
    for number in bench.each_round():
        first = Crowd(writing, journal, bench.heartbeat, prefix=f"r{number}", most=3)
        first.prepare()
        first.start().join()
        if bench.database == "postgresql":
            _switch(url, "SET default_transaction_read_only = on")
        reading = store or bench.open(f"sqlite:///file:{path}?mode=ro&uri=true", retry_for=BRIEF)
        crowd = Crowd(
            reading, journal, bench.heartbeat, prefix=f"r{number}", clients=4, most=10, repeats=False,
            works=("append", "increment", "transaction", "read", "batch"), allowed=(ReadOnlyError, UnavailableError),
            blind="done" if bench.unsafe else "", first=1000,
        )  # fmt: skip
        crowd.start().join()
        _reads_and_computes(reading, journal, number)
        if bench.database == "postgresql":
            _switch(url, "RESET default_transaction_read_only")
        else:
            reading.close()
        _works_again(writing, journal, f"again-{number}")
    tally = journal.settle(bench.open(url), url=url)
    if not bench.unsafe and DENIED not in journal.answers.values():
        tally.is_wrong("nothing was refused")
    tally.rounds = bench.rounds
    return tally


def _switch(url: str, change: str) -> None:
    """Change what the database's connections begin with, and end those that began otherwise."""
    name = make_url(url).database
    with psycopg.connect(make_url(url).set(database="postgres").render_as_string(False), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} {change}")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


def _reads_and_computes(store: Any, journal: Journal, number: int) -> None:
    try:
        found = store.cache.get_or_compute(f"computed-{number}", _compute_async if _awaits(store) else _compute)
        if found != "computed":
            journal.is_wrong(f"get_or_compute gave {found!r}")
    except StateStoreError as exc:
        journal.is_wrong(f"get_or_compute cannot write, and so does not compute: {type(exc).__name__}")


def _awaits(store: Any) -> bool:
    return hasattr(store, "_portal")


def _compute() -> str:
    return "computed"


async def _compute_async() -> str:
    return "computed"


@fault(
    "out of connections", databases=("postgresql",), short=1, long=30, control="errors taken for success",
    control_rounds=2,
)  # fmt: skip
def out_of_connections(bench: Bench) -> Tally:
    """Others hold all connections that the server allows (53300), and let go of them later."""
    url = bench.url()
    limited = _limited_role(bench, url)
    journal = Journal()
    store = bench.open(limited, retry_for=BRIEF)
    for number in bench.each_round():
        crowd = Crowd(
            store, journal, bench.heartbeat, prefix=f"r{number}", blind="done" if bench.unsafe else "",
            allowed=(UnavailableError,), repeats=number % 2 == 1,
        )  # fmt: skip
        crowd.prepare()
        with _all_connections(url, limited):
            crowd.start()
            crowd.wait_for(20, seconds=3)
        crowd.wait_for(10)
        crowd.stop()
        _works_again(store, journal, f"again-{number}")
    tally = journal.settle(bench.open(url), url=url)
    tally.rounds = bench.rounds
    return tally


def _limited_role(bench: Bench, url: str) -> str:
    role, password = f"limited_{secrets.token_hex(4)}", secrets.token_hex(8)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}' CONNECTION LIMIT 4")
        admin.execute(f"GRANT USAGE ON SCHEMA statestore TO {role}")
        for what in ("TABLES", "SEQUENCES", "FUNCTIONS"):
            admin.execute(f"GRANT ALL ON ALL {what} IN SCHEMA statestore TO {role}")

    def drop() -> None:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (role,))
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")

    bench.stack.callback(drop)
    return make_url(url).set(username=role, password=password).render_as_string(False)


@contextmanager
def _all_connections(url: str, limited: str) -> Iterator[None]:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (make_url(limited).username,)
        )
    taken = []
    try:
        with suppress(psycopg.OperationalError):
            while True:
                taken.append(psycopg.connect(limited))
        yield
    finally:
        for connection in taken:
            connection.close()
