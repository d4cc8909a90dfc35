"""What the doctor finds: planted faults, each mended by the command that it prints, run as it is printed."""

import glob
import os
import re
import shlex
import sqlite3
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from statestore import DatabaseError, StateStore, StorageFullError, doctor, migrate
from statestore.doctor import connection, structure, upkeep
from statestore.schema import revisions
from tests.doctor.faults import (
    POSTGRESQL,
    SQLITE,
    Fault,
    conversation,
    from_the_future,
    idle_in_transaction,
    on_postgresql,
    on_sqlite,
    path_of,
)
from tests.support.command_line import invoke

SCRIPTS = sysconfig.get_path("scripts")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes its time to become a fault is one at once."""
    monkeypatch.setattr(connection, "IDLE_IN_TRANSACTION", timedelta(0))
    monkeypatch.setattr(structure, "_BUSY", 0)


def run_as_printed(command: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where it is ours: it sees what the tests have changed."""
    words = shlex.split(command)
    if words[0] == "statestore":
        done = invoke(*words[1:], env={"STATESTORE_URL": url})
        assert done.exit_code == 0, done.output
    else:
        ran = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr


def look(url: str, fault: Fault, role: str | None = None, *, only: bool = False) -> list[doctor.Finding]:
    """What the check of a fault finds; by *only*, without the other checks, which all have to bear with the fault."""
    found = doctor.examine(url, role=role, only=[fault.check] if only else ())
    return [one for one in found if one.check == fault.check]


def find_and_mend(fault: Fault, url: str, monkeypatch: pytest.MonkeyPatch, role: str | None = None) -> None:
    monkeypatch.setenv("STATESTORE_URL", url)
    planted = fault.plant(url)
    keeping: AbstractContextManager[object] = planted if hasattr(planted, "__enter__") else nullcontext()
    with keeping:
        sick = [one for one in look(url, fault, role) if one.verdict != "ok"]
        assert [one.verdict for one in sick] == [fault.verdict]
        [finding] = sick
        assert fault.word in finding.message
        assert "\n" not in finding.message
        assert finding.remedy is not None
        assert finding.remedy.startswith(fault.remedy)
        run_as_printed(finding.remedy, url, monkeypatch)
        assert [one.verdict for one in look(url, fault, role, only=True)] == ["ok"]


@pytest.mark.parametrize("name", POSTGRESQL)
def test_a_fault_on_postgresql_is_found_and_mended(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = POSTGRESQL[name]
    url = request.getfixturevalue("empty_postgres_url" if fault.empty else "postgres_url")
    role = f"app_{os.getpid()}" if fault.check == "grants" else None
    try:
        find_and_mend(fault, url, monkeypatch, role)
    finally:
        if role:
            on_postgresql(f"DROP OWNED BY {role}", f"DROP ROLE {role}")(url)


@pytest.mark.parametrize("name", SQLITE)
def test_a_fault_on_sqlite_is_found_and_mended(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = SQLITE[name]
    url = request.getfixturevalue("empty_sqlite_url" if fault.empty else "sqlite_url")
    folder = path_of(url).parent
    folder.chmod(0o700)
    if not fault.empty:
        path_of(url).chmod(0o600)
    try:
        find_and_mend(fault, url, monkeypatch)
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_what_was_adopted_can_be_read_again(database_url: str, world: str) -> None:
    faults = POSTGRESQL if database_url.startswith("postgresql") else SQLITE
    faults["rows of no session"].plant(database_url)
    mended = doctor.mend(database_url, "orphans")
    assert len(mended.sql) > 2
    assert [finding.verdict for finding in mended.findings] == ["ok"]
    with StateStore.open(database_url) as store:
        session = store.sessions.get("s")
        assert (session.status, session.entry_count) == ("dead", 10)
        assert len(store.history.read("s")) == 10
        assert store.state.get("s", "key") == 1


@pytest.mark.parametrize("revision", ["0003", "0005"])
@pytest.mark.parametrize("name", ["empty_sqlite_url", "empty_postgres_url"])
def test_what_a_pending_migration_makes_is_no_fault_of_its_own(
    name: str, revision: str, request: pytest.FixtureRequest
) -> None:
    """No index or constraint that is made beforehand, and is then in the migration's way."""
    url = request.getfixturevalue(name)
    migrate.upgrade(url, revision)
    found = [one for one in doctor.examine(url) if one.check in ("schema", "tables", "indexes", "constraints")]
    assert [one.check for one in found] == ["schema"]


def test_there_are_at_least_fifteen_of_each() -> None:
    assert min(len(POSTGRESQL), len(SQLITE)) >= 15


def test_a_remedy_of_the_owner_names_the_owner(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a real process, by the application's role: what is printed works where the owner's password is known."""
    from sqlalchemy import make_url

    fault, role = POSTGRESQL["a role without rights"], f"app_{os.getpid()}"
    fault.plant(postgres_url)
    owner = make_url(postgres_url)
    mine = owner.set(username=role, password="secret of app").render_as_string(hide_password=False)
    try:
        [finding] = look(mine, fault)
        assert finding.remedy is not None
        assert "secret of app" not in finding.remedy
        assert f"--url postgresql://{owner.username}@" in finding.remedy
        remedy = finding.remedy
        environment = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}", "PGPASSWORD": str(owner.password)}
        environment |= {"STATESTORE_URL": mine, "PYTHONPATH": str(Path(__file__).parents[2])}
        ran = subprocess.run(remedy, shell=True, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert [one.verdict for one in look(mine, fault)] == ["ok"]
    finally:
        on_postgresql(f"DROP OWNED BY {role}", f"DROP ROLE {role}")(postgres_url)


def test_what_another_role_was_given_for_itself_is_not_reset(postgres_url: str) -> None:
    role = f"reporter_{os.getpid()}"
    on_postgresql(
        f"CREATE ROLE {role}",
        f"DO $$ BEGIN EXECUTE format('ALTER ROLE {role} IN DATABASE %I SET default_transaction_read_only = on',"
        " current_database()); END $$",
    )(postgres_url)
    try:
        POSTGRESQL["a read-only database"].plant(postgres_url)
        mended = doctor.mend(postgres_url, "writes")
        assert [finding.verdict for finding in mended.findings] == ["ok"]
        assert role not in " ".join(mended.sql)
    finally:
        on_postgresql("SET default_transaction_read_only = off", f"DROP ROLE {role}")(postgres_url)


def test_a_migration_at_work_is_no_transaction_left_open(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as migrator:
        migrator.execute("SELECT pg_advisory_xact_lock(%s)", (revisions.lock_key("statestore"),))
        assert [one.verdict for one in doctor.examine(postgres_url, only=["transactions"])] == ["ok"]
        migrator.execute("SELECT 1")


def test_only_the_transaction_that_was_found_is_ended(postgres_url: str) -> None:
    with idle_in_transaction(postgres_url) as other, psycopg.connect(postgres_url, autocommit=True) as operator:
        [finding] = doctor.examine(postgres_url, only=["transactions"])
        other.commit()
        other.execute("SELECT 1")
        for statement in finding.sql:
            operator.execute(statement)
        other.execute("SELECT 1")


def execute(url: str, *statements: str) -> None:
    (on_postgresql if url.startswith("postgresql") else on_sqlite)(*statements)(url)


def test_sessions_from_the_future_expire_on_time_once_they_are_set_back(database_url: str) -> None:
    from_the_future(database_url)
    doctor.mend(database_url, "clock")
    with StateStore.open(database_url) as store:
        now = datetime.now(UTC)
        late, kept = store.sessions.get("late"), store.sessions.get("kept")
        assert late.expires_at is not None
        assert timedelta(hours=5) < late.expires_at - now < timedelta(hours=7)
        assert kept.expires_at is None
        for session in (late, kept):
            assert session.created_at <= session.last_activity_at < now + timedelta(minutes=5)


@pytest.mark.parametrize(
    ("deleted", "where", "way_on"),
    [
        ("4", "no position 4", " --at-seq 3"),
        ("4, 5, 6", "no positions 4 to 6", " --at-seq 3"),
        ("10", "no position 10", " --at-seq 9"),
        ("1, 2", "no positions 1 to 2", ""),
    ],
)
@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_a_gap_is_told_with_a_way_to_go_on(
    deleted: str, where: str, way_on: str, database_url: str, world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation(database_url)
    execute(database_url, f"DELETE FROM history_entries WHERE seq IN ({deleted})")
    [finding] = doctor.examine(database_url, only=["positions"])
    assert (finding.verdict, finding.remedy) == ("fail", None), "no command brings back what nobody has"
    assert f"session 's' has {where}." in finding.message
    assert "Restore it from a backup" in finding.message
    command = finding.message.partition("go on from before the gap: ")[2]
    assert (way_on in command) if way_on else not command
    if way_on:
        run_as_printed(command.replace("fork s", "fork s whole"), database_url, monkeypatch)
        with StateStore.open(database_url) as store:
            seen = [entry.seq for entry in store.history.read("whole")]
            assert seen == list(range(1, int(way_on.split()[1]) + 1))


def test_a_gap_in_what_a_fork_sees_is_told(database_url: str) -> None:
    conversation(database_url)
    with StateStore.open(database_url, namespace="default") as store:
        store.sessions.fork("s", "it's a fork", at_seq=6)
        store.history.append("it's a fork", [{"role": "user", "content": "on"}])
    execute(database_url, "DELETE FROM history_entries WHERE seq = 5")
    [finding] = doctor.examine(database_url, only=["positions"], namespace="other")
    assert "2 of the 2 newest sessions lack entries" in finding.message
    assert "in namespace 'default' has no position 5." in finding.message
    assert "--at-seq 4 --namespace default" in finding.message


# Another's work


def ended(connection: psycopg.Connection[Any]) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


@pytest.mark.parametrize("name", ["", "psql", "billing", "Statestore", "statestore-copy", "pg_dump"])
def test_transactions_of_others_are_told_and_never_ended(name: str, postgres_url: str) -> None:
    with idle_in_transaction(postgres_url, name) as other, idle_in_transaction(postgres_url) as ours:
        found = [one for one in doctor.examine(postgres_url) if one.check == "transactions"]
        mended = doctor.mend(postgres_url, "transactions")
        assert (ended(ours), ended(other)) == (True, False)
        assert len(mended.sql) == 1
        assert [bool(one.sql) for one in found] == ([True] if name == "pg_dump" else [True, False])
        [left] = mended.findings
        assert str(other.info.backend_pid) in left.message
        if name == "pg_dump":
            assert (left.verdict, left.remedy) == ("ok", None)
            assert "a backup is at work: pg_dump" in left.message
        else:
            assert (left.verdict, left.remedy) == ("warn", None)
            assert (name or "an application without a name") in left.message
            # What the operator may choose, as it is printed.
            execute(postgres_url, left.message.partition("before you end it: ")[2])
            assert ended(other)


def test_an_export_of_ours_is_never_ended(postgres_url: str) -> None:
    """Which is a backup: it waits for whoever reads its pipe."""
    conversation(postgres_url)
    with StateStore.open(postgres_url) as store, store.transaction(read_only=True) as tx:
        assert tx.history.count("s") == 10
        mended = doctor.mend(postgres_url, "transactions")
        assert mended.sql == ()
        [finding] = mended.findings
        assert finding.verdict == "warn"
        assert "an export or a report of statestore" in finding.message
        assert tx.history.count("s") == 10


def test_a_transaction_of_ours_that_has_written_is_ended(postgres_url: str) -> None:
    conversation(postgres_url)

    def write_and_wait(store: StateStore) -> None:
        with store.transaction() as tx:
            tx.state.set("s", "key", 2)
            assert len(doctor.mend(postgres_url, "transactions").sql) == 1
            tx.state.set("s", "key", 3)

    with StateStore.open(postgres_url) as store:
        with pytest.raises(DatabaseError):
            write_and_wait(store)
        assert store.state.get("s", "key") == 1


def test_a_physical_backup_is_not_seen_as_a_transaction(postgres_url: str) -> None:
    with closing(psycopg.connect(postgres_url, replication="database", autocommit=True)) as walsender:
        walsender.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        assert [one.verdict for one in doctor.examine(postgres_url, only=["transactions"])] == ["ok"]
        assert not ended(walsender)


# Clocks and disks


def faketime() -> str | None:
    found = sorted(glob.glob("/usr/lib/*/faketime/libfaketime.so.1"))
    return found[0] if found else None


@pytest.mark.skipif(faketime() is None, reason="needs libfaketime (apt-get install libfaketime)")
@pytest.mark.parametrize(("shift", "word"), [("+90s", "behind"), ("-90s", "ahead of")])
def test_a_machine_whose_clock_is_wrong_is_told(shift: str, word: str, postgres_url: str) -> None:
    """As a process on such a machine: its clock is really another one."""
    environment = {**os.environ, "LD_PRELOAD": str(faketime()), "FAKETIME": shift, "STATESTORE_URL": postgres_url}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "DONT_FAKE_MONOTONIC": "1"}
    ran = subprocess.run([f"{SCRIPTS}/statestore", "doctor", "--check", "clock"], env=environment, capture_output=True,
                         text=True, check=False)  # fmt: skip
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert re.search(rf"^warn  clock  the server's clock is (89|90|91)\.\d s {word} this machine's", ran.stdout)
    assert "$ sudo timedatectl set-ntp true" in ran.stdout


@pytest.mark.parametrize("shift", [timedelta(hours=-1), timedelta(days=400)])
def test_a_skew_is_found_by_whichever_clock_is_given(shift: timedelta, postgres_url: str) -> None:
    [finding] = doctor.examine(postgres_url, only=["clock"], now=lambda: datetime.now(UTC) + shift)
    assert (finding.verdict, finding.remedy) == ("warn", "sudo timedatectl set-ntp true")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(65536))


def test_a_full_disk_under_a_sqlite_file_is_told(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "LEAST_FREE", 4_000_000)
    url = f"sqlite:///{small_disk}/agents.db"
    conversation(url)
    path_of(url).chmod(0o600)
    assert [one.verdict for one in doctor.examine(url) if one.check == "disk"] == ["ok"]
    fill(small_disk)
    with pytest.raises(StorageFullError, match="the disk is full"):
        StateStore.open(url)
    connection, disk = doctor.examine(url)
    assert (connection.check, connection.verdict, disk.check, disk.verdict) == ("connection", "fail", "disk", "fail")
    assert "the disk is full" in connection.message
    assert "0 bytes are free: writes will soon be refused; make room" in disk.message
    assert f"du -xh {small_disk}" in disk.message
    (small_disk / "filler").unlink()
    assert [one.verdict for one in doctor.examine(url) if one.check == "disk"] == ["ok"]


def test_a_disk_that_is_nearly_full_is_a_warning(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "LEAST_FREE", 1)
    url = f"sqlite:///{small_disk}/agents.db"
    StateStore.open(url).close()
    fill(small_disk)
    with (small_disk / "filler").open("r+b") as filler:
        filler.truncate((small_disk / "filler").stat().st_size - 500_000)
    [finding] = doctor.examine(url, only=["disk"])
    assert finding.verdict == "warn"
    assert "% of the disk" in finding.message


def test_a_full_disk_of_the_server_is_told(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own folder on this machine, with a limit that no disk meets."""
    monkeypatch.setattr(upkeep, "LEAST_FREE", 1 << 60)
    [finding] = doctor.examine(postgres_url, only=["disk"])
    with psycopg.connect(postgres_url) as connection:
        [folder] = connection.execute("SHOW data_directory").fetchone() or [None]
    assert finding.verdict == "fail"
    assert f"du -xh {folder}" in finding.message


def test_a_file_whose_schema_is_damaged_is_to_be_restored(sqlite_url: str) -> None:
    with closing(sqlite3.connect(path_of(sqlite_url))) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path_of(sqlite_url).open("r+b") as file:  # The schema goes on there.
        file.seek(8192)
        file.write(b"\xa5" * 5000)
    [finding] = doctor.examine(sqlite_url, only=["integrity"]).findings
    assert (finding.verdict, finding.remedy) == ("fail", None)
    assert finding.message == "the file is damaged: database disk image is malformed; restore a backup"
