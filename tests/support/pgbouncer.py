"""PgBouncer in transaction mode, in front of the tests' PostgreSQL server."""

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import psycopg
from sqlalchemy import make_url

from tests.postgres import PostgresServer, _disk_folder, _free_port, _make_folder, _unprivileged

# Outlives the process that holds its standard input, by as long as it takes to clean up after it.
KEEPER = """"$1" "$2/pgbouncer.ini" 2>"$2/stderr" & read -r _; kill -KILL $!; rm -rf "$2" """

SETTINGS = """\
[databases]
* = host={host} port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
admin_users = {user}
logfile = {folder}/log
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 500
log_connections = 0
log_disconnections = 0
"""


def program() -> str | None:
    """Where PgBouncer is; None where it is not installed."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


class PgBouncer:
    """A pooler whose clients share *pool_size* connections to each database: fewer than they are, so they do share."""

    def __init__(self, server: PostgresServer, *, pool_size: int = 2) -> None:
        binary = program()
        assert binary is not None
        self._server = make_url(server.url())
        self._folder = Path(_make_folder(_disk_folder()))
        self._port = _free_port()
        user, password = self._server.username or "postgres", self._server.password or ""
        (self._folder / "users").write_text(f'"{user}" "{password}"\n')
        (self._folder / "pgbouncer.ini").write_text(
            SETTINGS.format(
                host=self._server.host,
                port=self._server.port or 5432,
                own_port=self._port,
                folder=self._folder,
                user=user,
                pool_size=pool_size,
            )
        )
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, "keeper", binary, str(self._folder)],
            cwd="/",
            stdin=subprocess.PIPE,
            **_unprivileged(),
        )
        self._wait()

    def url(self, url: str) -> str:
        """The same database, through the pooler."""
        through = make_url(url).set(host="127.0.0.1", port=self._port)
        return through.render_as_string(hide_password=False)

    def hang_up(self, url: str) -> None:
        """Close the connections to a database, which PostgreSQL takes its time to do when it drops one."""
        database = make_url(url).database
        with psycopg.connect(self.url(str(self._server.set(database="pgbouncer"))), autocommit=True) as console:
            for command in ("KILL", "RESUME"):
                console.execute(f"{command} {database}")  # type: ignore[call-overload]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._keeper.communicate(b"\n", timeout=30)

    def _wait(self) -> None:
        patience = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            except OSError:
                if self._keeper.poll() is not None or time.monotonic() > patience:
                    said = [
                        (self._folder / name).read_text()
                        for name in ("stderr", "log")
                        if (self._folder / name).exists()
                    ]
                    raise RuntimeError(f"PgBouncer did not start:\n{''.join(said)}") from None
                time.sleep(0.02)


def prepares() -> bool:
    """Whether this PgBouncer keeps the prepared statements of its clients apart, as it can from 1.21 on."""
    binary = program()
    if binary is None:
        return False
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    major, minor = said.split()[1].split(".")[:2]
    return (int(major), int(minor)) >= (1, 21)
