"""A standby that streams from a server of the tests: made without pg_basebackup, which the bundled PostgreSQL lacks."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import psycopg
from sqlalchemy import make_url

from tests import postgres


class Standby:
    """A copy of *primary* that follows it, until it is told otherwise. It goes with the process that made it."""

    def __init__(self, primary: postgres.LocalServer) -> None:
        self._primary = primary
        source = make_url(primary.url())
        self._home = postgres._make_folder(postgres.fast_folder())
        self._data = self._home / "data"
        self._pg_ctl = primary._pg_ctl
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", postgres.KEEPER, "keeper", self._pg_ctl, self._data, self._home],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **postgres._unprivileged(),
        )
        self.port = postgres._free_port()
        self.is_up = False
        try:
            self._copy(primary._data)
            link = f"host={source.host} port={source.port} user={source.username} password={source.password}"
            with (self._data / "postgresql.auto.conf").open("a") as file:
                file.write(f"port = {self.port}\nprimary_conninfo = '{link}'\nhot_standby_feedback = on\n")
            (self._data / "standby.signal").touch()
            self._own(self._data)
            self.start()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, database: str) -> str:
        """The URL of the copy of a database."""
        url = make_url(self._primary.url(database)).set(port=self.port)
        return url.render_as_string(hide_password=False)

    def start(self) -> None:
        self._control("-l", self._home / "log", "start")
        self.is_up = True

    def kill(self) -> None:
        """End it without a word to its clients."""
        self._control("-m", "immediate", "stop")
        self.is_up = False

    def promote(self) -> None:
        self._control("promote")

    def pause(self) -> None:
        """Receive, but apply nothing more."""
        self._execute("SELECT pg_wal_replay_pause()")
        while self._execute("SELECT pg_get_wal_replay_pause_state()") != [("paused",)]:
            time.sleep(0.002)

    def resume(self) -> None:
        self._execute("SELECT pg_wal_replay_resume()")

    def catch_up(self) -> None:
        """Wait until it has everything that the primary has committed."""
        with psycopg.connect(self._primary.url(), autocommit=True) as admin:
            wanted = admin.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert wanted is not None
        until = time.monotonic() + 30
        while self._execute(f"SELECT pg_last_wal_replay_lsn() >= '{wanted[0]}'") != [(True,)]:
            assert time.monotonic() < until, (self._home / "log").read_text()[-3000:]
            time.sleep(0.005)

    def stop(self) -> None:
        if self._keeper.poll() is None:
            self._keeper.communicate(b"\n", timeout=60)

    def _copy(self, data: Path) -> None:
        """The server's own base backup: what is copied may change meanwhile, and its log sets that right."""
        with psycopg.connect(self._primary.url(), autocommit=True) as admin:
            admin.execute("SELECT pg_backup_start('tests', true)")
            shutil.copytree(data, self._data, ignore=_leave_out, symlinks=True)
            rows = admin.execute("SELECT labelfile FROM pg_backup_stop()").fetchone()
        assert rows is not None
        (self._data / "backup_label").write_text(rows[0])
        self._data.chmod(0o700)

    def _own(self, folder: Path) -> None:
        for path in (folder, *folder.rglob("*")):
            postgres._hand_over(path)

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url("postgres"), autocommit=True) as admin:
            cursor = admin.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def _control(self, *action: str | Path) -> None:
        done = postgres._run(self._pg_ctl, "-D", self._data, "-s", "-w", *action)
        if done.returncode:
            log = self._home / "log"
            raise RuntimeError(f"{action}: {done.stdout}{done.stderr}{log.read_text() if log.exists() else ''}")


def _leave_out(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("postmaster.pid", "postmaster.opts") or name.startswith("pg_internal.")]
