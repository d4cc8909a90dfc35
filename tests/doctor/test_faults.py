"""What the doctor finds: planted faults, each mended by the command that it prints, run as it is printed."""

import os
import shlex
import subprocess
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from statestore import StateStore, doctor, migrate
from statestore.doctor import connection, structure
from statestore.schema import revisions
from tests.doctor.faults import POSTGRESQL, SQLITE, Fault, conversation, path_of
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


def look(url: str, fault: Fault, role: str | None = None) -> list[doctor.Finding]:
    return [one for one in doctor.examine(url, role=role) if one.check == fault.check]


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
        assert [one.verdict for one in look(url, fault, role)] == ["ok"]


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
            from tests.doctor.faults import on_postgresql

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
        from tests.doctor.faults import on_postgresql

        on_postgresql(f"DROP OWNED BY {role}", f"DROP ROLE {role}")(postgres_url)


def test_what_another_role_was_given_for_itself_is_not_reset(postgres_url: str) -> None:
    from tests.doctor.faults import on_postgresql

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
    with psycopg.connect(postgres_url) as other, psycopg.connect(postgres_url, autocommit=True) as operator:
        other.execute("SELECT 1")
        [finding] = doctor.examine(postgres_url, only=["transactions"])
        other.commit()
        other.execute("SELECT 1")
        for statement in finding.sql:
            operator.execute(statement)
        other.execute("SELECT 1")


def test_gaps_are_found_though_no_command_brings_entries_back(database_url: str) -> None:
    from tests.doctor.faults import on_postgresql, on_sqlite

    conversation(database_url)
    execute = on_postgresql if database_url.startswith("postgresql") else on_sqlite
    execute("DELETE FROM history_entries WHERE seq = 4")(database_url)
    [finding] = doctor.examine(database_url, only=["positions"])
    assert finding.verdict == "fail"
    assert "lack entries, first 's' (1)" in finding.message
    assert finding.remedy is None
