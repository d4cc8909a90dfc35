"""What a load costs at the database: size, write-ahead log, processor. As far as it lets itself be asked."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url


@dataclass
class Reading:
    """At one moment. None where it cannot be known."""

    size: int | None = None
    wal: int | None = None
    wal_records: int | None = None
    commits: int | None = None
    deadlocks: int | None = None
    cpu: float | None = None


class Sqlite:
    """A file and its log."""

    what = "SQLite"

    def __init__(self, url: str) -> None:
        self._path = Path(make_url(url).database or "")

    def read(self) -> Reading:
        files = [self._path, self._path.with_name(self._path.name + "-wal")]
        return Reading(size=sum(file.stat().st_size for file in files if file.exists()))

    def close(self) -> None:
        """Nothing is open."""


class Postgresql:
    """A server, asked on a connection of its own."""

    def __init__(self, url: str) -> None:
        import psycopg

        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection = psycopg.connect(plain, autocommit=True, application_name="statestore load")
        version, backend = self._row("SELECT split_part(version(), ' on ', 1), pg_backend_pid()")
        self.what = str(version)
        self._postmaster = _parent_of(backend)

    def read(self) -> Reading:
        reading = Reading(cpu=_cpu_below(self._postmaster))
        [reading.size] = self._row("SELECT pg_database_size(current_database())")
        # Each is of use without the others: rights and versions differ.
        with suppress(Exception):
            [reading.wal] = self._row("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8")
        with suppress(Exception):
            [reading.wal_records] = self._row("SELECT wal_records FROM pg_stat_wal")
        with suppress(Exception):
            reading.commits, reading.deadlocks = self._row(
                "SELECT xact_commit, deadlocks FROM pg_stat_database WHERE datname = current_database()"
            )
        return reading

    def close(self) -> None:
        self._connection.close()

    def _row(self, query: Any) -> tuple[Any, ...]:
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return tuple(row)


def of(url: str) -> "Sqlite | Postgresql":
    return Sqlite(url) if make_url(url).get_backend_name() == "sqlite" else Postgresql(url)


def _parent_of(backend: int) -> int | None:
    """The server's first process, if it runs on this machine: another one's number means somebody else here."""
    stat = _stat(backend)
    return int(stat[1]) if stat and stat[-1] == "postgres" else None


def _cpu_below(postmaster: int | None) -> float | None:
    """Seconds of processor time of a server's processes, those that have ended included."""
    if postmaster is None or (own := _stat(postmaster)) is None:
        return None
    ticks = sum(map(int, own[11:15]))  # Its own, and its children's that have ended.
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (child := _stat(int(entry.name))) and int(child[1]) == postmaster:
            ticks += sum(map(int, child[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on, and the name of the program last."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name = text[text.index("(") + 1 : text.rindex(")")]
    return [*text[text.rindex(")") + 2 :].split(), name]
