"""The databases to measure on: a PostgreSQL and a Redis of our own, files for SQLite, all on a real disk."""

import itertools
import random
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self

import psycopg

from benchmarks.seed import copy_sqlite, seed
from tests.postgres import PostgresServer, start_server

# What tests switch off, on again; all else is PostgreSQL's default, but for autovacuum: it would come to one subject
# and not to its twin, and a read's plan may change with the statistics.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "timezone": "UTC", "autovacuum": "off"}


class Places:
    """Hands out databases that are filled, each to one subject alone. Everything is gone at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._names = itertools.count()
        self._templates: dict[str, str] = {}

    def __enter__(self) -> Self:
        # Not in /dev/shm: there an fsync costs nothing, and a commit would look twice as fast as it is.
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="statestore-bench-")))
        self.postgres: PostgresServer = self._stack.enter_context(
            start_server(settings=DURABLE, directory=Path(tempfile.gettempdir()))
        )
        self.redis_pid: int | None = None
        self.redis_url = self._start_redis()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def seeded(self, database: str) -> str:
        """The URL of a new copy of the seeded database."""
        if database not in self._templates:
            self._templates[database] = self._seed(database)
        template = self._templates[database]
        if database == "sqlite":
            return copy_sqlite(Path(template), self.folder / f"seeded-{next(self._names)}.db")
        name = f"seeded_{next(self._names)}"
        self.postgres.create_database(name, template)
        return self.postgres.url(name)

    def empty(self, database: str) -> str:
        """The URL of a new empty database; for `file` a folder that does not exist."""
        name = f"empty_{next(self._names)}"
        if database == "postgresql":
            self.postgres.create_database(name)
            return self.postgres.url(name)
        if database == "redis":
            return self.redis_url or ""
        path = self.folder / name
        if database == "file":
            return str(path)
        # WAL stays with the file, so whoever opens it works in that mode; `synchronous` is FULL by default.
        with closing(sqlite3.connect(f"{path}.db")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        return f"sqlite:///{path}.db"

    def _seed(self, database: str) -> str:
        if database == "sqlite":
            path = self.folder / "template.db"
            seed(f"sqlite:///{path}")
            return str(path)
        url = self.empty("postgresql")
        seed(url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")
        return url.rpartition("/")[2]

    def _start_redis(self) -> str | None:
        program = shutil.which("redis-server")
        if program is None:
            return None
        port = random.randrange(20_000, 32_000)
        # Durable as the others: each write is on disk before it is acknowledged.
        server = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
             "--appendonly", "yes", "--appendfsync", "always"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._stack.callback(_end, server)
        self.redis_pid = server.pid
        patience = time.monotonic() + 10
        while time.monotonic() < patience:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return f"redis://127.0.0.1:{port}/0"
            except OSError:
                time.sleep(0.05)
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(timeout=10)
