"""`statestore doctor` as a command: what it prints, its exit codes, and where it must work."""

import json
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from statestore import InvalidValueError, SchemaMissingError, StateStore, doctor
from statestore.doctor.checks import CHECKS
from statestore.engine import hosts
from statestore.schema import HEAD_REVISION
from tests.cli.conftest import CommandLine
from tests.support.command_line import invoke
from tests.support.wire import Proxy, traced_sqlite


@pytest.fixture
def well(cli: CommandLine) -> CommandLine:
    """A database where all is well. The test's server is set to be quick, not safe, and its user is a superuser."""
    if cli.url.startswith("postgresql"):
        assert cli("doctor", "--fix", "commits").exit_code == 0
    else:
        Path(str(make_url(cli.url).database)).chmod(0o600)
    return cli


UNSAFE = "durability"


def findings(cli: CommandLine, *arguments: str, code: int) -> dict[str, dict[str, str]]:
    found = json.loads(cli("doctor", "--json", *arguments, code=code).stdout)
    return {one["check"]: one for one in found["findings"]}


def test_a_healthy_database_is_ok_with_a_line_for_each_check(well: CommandLine) -> None:
    on_postgresql = well.url.startswith("postgresql")
    done = well("doctor", code=2 if on_postgresql else 0)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("      ")]
    assert {line.split()[0] for line in lines[:-1] if UNSAFE not in line} == {"ok"}
    assert lines[-1] == ("27 ok, 0 warnings, 1 failure" if on_postgresql else "20 ok, 0 warnings, 0 failures")


def test_the_exit_code_is_that_of_the_worst(well: CommandLine) -> None:
    assert well("doctor", "--check", "schema", "--check", "sweep").exit_code == 0
    with well.store() as store:
        store.sessions.create("s")
    execute(well.url, "UPDATE {s}sessions SET next_seq = 7")
    assert well("doctor", "--check", "positions", code=2).exit_code == 2
    execute(well.url, "UPDATE {s}sessions SET next_seq = 1, active_hour = {t}, last_activity_at = {t}")
    assert well("doctor", "--check", "retention", code=1).exit_code == 1
    quiet = well("doctor", "--check", "retention", "--check", "schema", "--quiet", code=1).stdout
    assert [line.split()[0] for line in quiet.splitlines()] == ["warn", "$", "1"]


def execute(url: str, sql: str) -> None:
    if url.startswith("postgresql"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.format(s="statestore.", t="timestamptz '2020-01-01'"))  # type: ignore[arg-type]
    else:
        with closing(sqlite3.connect(str(make_url(url).database), isolation_level=None)) as file:
            file.execute(sql.format(s="", t="'2020-01-01T00:00:00.000000Z'"))


def test_json_has_everything_of_each_finding(well: CommandLine) -> None:
    found = json.loads(well("doctor", "--json", "--check", "schema").stdout)
    assert found["verdict"] == "ok"
    assert "***" in found["url"] or found["url"].startswith("sqlite")
    [finding] = found["findings"]
    assert finding.keys() == {"check", "verdict", "message", "remedy", "sql"}
    assert finding["message"].startswith(f"at revision {HEAD_REVISION}, the one of this version")
    assert (finding["check"], finding["verdict"], finding["remedy"], finding["sql"]) == ("schema", "ok", None, [])


def test_a_database_without_tables_is_examined_as_far_as_it_goes(empty_cli: CommandLine) -> None:
    found = findings(empty_cli, code=2)
    on_postgresql = empty_cli.url.startswith("postgresql")
    missing = found["schema" if on_postgresql else "connection"]
    assert missing["verdict"] == "fail"
    assert missing["remedy"] == "statestore migrate up"
    assert "indexes" not in found
    if not on_postgresql:
        assert not Path(str(make_url(empty_cli.url).database)).exists(), "looking must not make the file"


def test_a_refused_connection_is_a_finding_in_the_servers_words(postgres_url: str) -> None:
    wrong = make_url(postgres_url).set(password="a secret word").render_as_string(hide_password=False)
    done = invoke("doctor", "--url", wrong)
    assert done.exit_code == 2
    assert "password authentication failed for user" in done.stdout
    assert "127.0.0.1" in done.stdout
    assert "a secret word" not in done.output


def test_a_server_that_is_not_there_is_a_finding(postgres_url: str) -> None:
    proxy = Proxy(postgres_url)
    proxy.close()
    done = invoke("doctor", "--url", proxy.url)
    assert done.exit_code == 2
    assert "Connection refused" in done.stdout


def test_looking_writes_nothing(well: CommandLine) -> None:
    with well.store() as store:
        store.sessions.create("s")
        store.history.append("s", [{"role": "user", "content": "x"}])
    if well.url.startswith("sqlite"):
        path = Path(str(make_url(well.url).database))
        before = path.read_bytes(), sorted(file.name for file in path.parent.iterdir())
        well("doctor")
        assert (path.read_bytes(), sorted(file.name for file in path.parent.iterdir())) == before
    else:
        proxy = Proxy(well.url)
        invoke("doctor", "--url", proxy.url)
        began = [one for one in proxy.traffic.statements if one.startswith("BEGIN")]
        assert set(began) <= {"BEGIN", "BEGIN READ ONLY"}, "SQLAlchemy begins one by itself, to ask who is there"
        writing = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "VACUUM", "ANALYZE", "GRANT")
        assert not [one for one in proxy.traffic.statements if one.lstrip().startswith(writing)]
        proxy.close()


def test_a_read_only_copy_on_sqlite_can_be_examined(sqlite_cli: CommandLine, tmp_path: Path) -> None:
    path = Path(str(make_url(sqlite_cli.url).database))
    folder = tmp_path / "locked"
    folder.mkdir()
    copy = Path(shutil.copyfile(path, folder / "copy.db"))
    copy.chmod(0o400)
    folder.chmod(0o500)
    try:
        done = invoke("doctor", "--url", f"sqlite:///{copy}", "--check", "schema", "--check", "integrity")
        assert done.exit_code == 0, done.output
    finally:
        folder.chmod(0o700)


def test_a_check_that_takes_too_long_is_ended_and_says_so(well: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    from statestore.doctor import checks

    def endless(patient: doctor.examining.Patient) -> object:  # type: ignore[name-defined]
        sql = (
            "SELECT pg_sleep(30)"
            if patient.on_postgresql
            else """
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"""
        )
        patient.rows(sql)
        yield from ()

    monkeypatch.setitem(CHECKS, "sweep", [checks.Registered(endless, None, frozenset())])  # type: ignore[arg-type]
    done = well("doctor", "--check", "sweep", "--timeout", "200ms", code=1)
    assert "not finished within 0.2 s" in done.stdout
    assert "statestore doctor --check sweep --timeout 60s" in done.stdout


def test_what_would_read_a_large_table_is_left_out_and_says_so(
    well: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from statestore.doctor import content, file

    monkeypatch.setattr(content, "LARGE_TABLE", 0)
    monkeypatch.setattr(file, "LARGE_FILE", 0)
    with well.store() as store:
        store.sessions.create("s")
        store.history.append("s", [{"role": "user", "content": "x"}])
    found = findings(well, "--check", "orphans", "--check", "integrity", code=0)
    for one in found.values():
        assert "skipped" in one["message"]
        assert "--thorough" in one["remedy"]
    for one in findings(well, "--check", "orphans", "--check", "integrity", "--thorough", code=0).values():
        assert one["remedy"] is None


@pytest.mark.parametrize("name", ["--check", "--fix"])
def test_an_unknown_check_is_refused_with_the_names(sqlite_cli: CommandLine, name: str) -> None:
    done = sqlite_cli("doctor", name, "indices", code=2)
    assert "There is no check 'indices'; there are: connection, driver" in done.stderr
    with pytest.raises(InvalidValueError, match="there is no check 'indices'"):
        doctor.examine(sqlite_cli.url, only=["indices"])


def test_bad_arguments_are_refused_before_anything_is_sent(sqlite_url: str) -> None:
    with traced_sqlite(sqlite_url) as traffic:
        for bad in ({"timeout": 0}, {"timeout": "5"}, {"role": ""}, {"schema": ""}):
            with pytest.raises(InvalidValueError, match=next(iter(bad))):
                doctor.examine(sqlite_url, **bad)  # type: ignore[arg-type]
    assert traffic.statements == []
    with pytest.raises(InvalidValueError, match="in memory"):
        doctor.examine("sqlite://")


def test_what_no_sql_can_mend_is_said(well: CommandLine) -> None:
    with well.store() as store:
        store.sessions.create("s")
        store.history.append("s", [{"role": "user", "content": f"{n}"} for n in range(3)])
    execute(well.url, "DELETE FROM {s}history_entries WHERE seq = 2")
    done = well("doctor", "--fix", "positions", code=1)
    assert "no SQL can fix this: positions: 1 of the 1 newest sessions" in done.stderr


def test_a_fix_of_what_is_well_does_nothing(well: CommandLine) -> None:
    found = json.loads(well("doctor", "--fix", "indexes", "--json").stdout)
    assert found["sql"] == []
    assert [one["verdict"] for one in found["findings"]] == ["ok"]


def test_it_works_through_a_pooler(pgbouncer: object, postgres_url: str) -> None:
    found = {one.check: one for one in doctor.examine(pgbouncer.url(postgres_url))}  # type: ignore[attr-defined]
    try:
        assert "there is a pooler" in found["pooler"].message
        assert found["tables"].verdict == "ok"
    finally:
        pgbouncer.hang_up(postgres_url)  # type: ignore[attr-defined]


def test_a_newer_schema_that_may_be_used_is_a_rolling_upgrade(well: CommandLine) -> None:
    execute(well.url, "UPDATE {s}statestore_alembic_version SET version_num = '0999'")
    found = findings(well, "--check", "schema", code=0)
    assert "a rolling upgrade is under way" in found["schema"]["message"]
    execute(well.url, "UPDATE {s}statestore_alembic_version SET oldest_code = '0999'")
    found = findings(well, "--check", "schema", code=2)
    assert found["schema"]["remedy"] == "pip install --upgrade statestore"


def test_it_does_not_disturb_who_works_on_the_file(sqlite_cli: CommandLine) -> None:
    """In the same process: closing what the doctor had open must not take the store's locks."""
    with StateStore.open(sqlite_cli.url) as store:
        store.sessions.create("s")
        with store.transaction() as tx:
            tx.history.append("s", [{"role": "user", "content": "x"}])
            doctor.examine(sqlite_cli.url, only=["schema", "integrity", "log"])
            with (
                pytest.raises(sqlite3.OperationalError),
                closing(sqlite3.connect(str(make_url(sqlite_cli.url).database), timeout=0)) as other,
            ):
                other.execute("BEGIN IMMEDIATE")
        assert store.history.count("s") == 1


# Remedies go to the database that was examined, however it was named.


def remedy_of(printed: str) -> str:
    [line] = [line.strip() for line in printed.splitlines() if line.strip().startswith("$ ")]
    return line.removeprefix("$ ")


def lose_an_index(url: str) -> None:
    execute(url, "DROP INDEX {s}ix_sessions_namespace_created_at")


def run_remedy(printed: str, **environment: str | None) -> None:
    words = shlex.split(remedy_of(printed))
    assert words[0] == "statestore"
    assert ":***@" not in printed
    done = invoke(*words[1:], env=environment)
    assert done.exit_code == 0, done.output


def test_a_remedy_keeps_the_profile(cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make_url(cli.url)
    (tmp_path / "statestore.toml").write_text(
        f'[profiles.prod]\nurl = "{hosts.without_secrets(url)}"\n'
        + 'password_env = "PROD_PASSWORD"\n' * bool(url.password)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROD_PASSWORD", url.password or "")
    lose_an_index(cli.url)
    for named in (("--profile", "prod", "doctor"), ("doctor", "--profile", "prod")):
        done = invoke(*named, "--check", "indexes", env={"STATESTORE_URL": None})
        assert remedy_of(done.stdout) == "statestore doctor --fix indexes --profile prod"
        assert done.stderr == ""
    run_remedy(done.stdout, STATESTORE_URL=None)
    assert cli("doctor", "--check", "indexes").exit_code == 0


def test_a_remedy_keeps_the_file_of_profiles(sqlite_cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "other file.toml").write_text(f'url = "{sqlite_cli.url}"\nnamespace = "acme"\n')
    lose_an_index(sqlite_cli.url)
    config = ("--config", str(tmp_path / "other file.toml"))
    done = invoke(*config, "doctor", "--check", "indexes", env={"STATESTORE_URL": None})
    assert remedy_of(done.stdout).startswith("statestore --config '")
    run_remedy(done.stdout, STATESTORE_URL=None)


def test_a_remedy_keeps_a_url_as_it_was_given(sqlite_cli: CommandLine) -> None:
    lose_an_index(sqlite_cli.url)
    done = invoke("doctor", "--check", "indexes", "--url", sqlite_cli.url, env={"STATESTORE_URL": "sqlite:///other.db"})
    assert remedy_of(done.stdout) == f"statestore doctor --fix indexes --url {shlex.quote(sqlite_cli.url)}"
    run_remedy(done.stdout, STATESTORE_URL="sqlite:///other.db")


def test_a_remedy_for_a_url_with_a_password_says_to_set_the_variable(postgres_url: str) -> None:
    lose_an_index(postgres_url)
    password = str(make_url(postgres_url).password)
    done = invoke("doctor", "--check", "indexes", "--url", postgres_url, env={"STATESTORE_URL": None})
    assert remedy_of(done.stdout) == "statestore doctor --fix indexes"
    assert password not in done.output
    assert "STATESTORE_URL" in done.stderr
    assert "--profile" in done.stderr
    assert "set it to the URL of this one first" in done.stderr
    found = invoke("doctor", "--json", "--check", "schema", "--url", postgres_url, env={"STATESTORE_URL": None})
    assert json.loads(found.stdout)["url_left_out"] is True
    run_remedy(done.stdout, STATESTORE_URL=postgres_url)
    assert invoke("doctor", "--check", "indexes", env={"STATESTORE_URL": postgres_url}).exit_code == 0


def test_a_remedy_names_the_namespace_that_it_is_about(sqlite_cli: CommandLine) -> None:
    """Which is not always the one that a command takes by itself."""
    with sqlite_cli.store() as store:
        store.sessions.create("s")
    execute(sqlite_cli.url, "UPDATE {s}sessions SET active_hour = {t}, last_activity_at = {t}")
    plain = sqlite_cli("doctor", "--check", "retention", code=1).stdout
    assert remedy_of(plain) == "statestore retention --max-idle 365d"
    named = invoke(
        "doctor", "--check", "retention", env={"STATESTORE_URL": sqlite_cli.url, "STATESTORE_NAMESPACE": "acme"}
    )
    assert remedy_of(named.stdout) == "statestore retention --max-idle 365d --namespace default"
    environment = {"STATESTORE_URL": sqlite_cli.url, "STATESTORE_NAMESPACE": "acme"}
    run_remedy(named.stdout, **environment)
    assert sqlite_cli("doctor", "--check", "retention").exit_code == 0


@pytest.mark.parametrize("command", [("show", "nobody"), ("state", "get", "s", "nothing")])
def test_the_remedies_of_other_commands_keep_it_too(command: tuple[str, ...], sqlite_cli: CommandLine) -> None:
    with sqlite_cli.store(namespace="a b") as store:
        store.sessions.create("s")
    named = ("--url", sqlite_cli.url, "--namespace", "a b")
    said = invoke(*command, *named, env={"STATESTORE_URL": None}).stderr
    _, _, remedy = said.partition(": statestore ")
    assert shlex.split(remedy)[-4:] == list(named)
    assert invoke(*shlex.split(remedy), env={"STATESTORE_URL": None}).exit_code == 0


def test_the_way_to_make_the_tables_has_no_stars_in_it(empty_postgres_url: str) -> None:
    with pytest.raises(SchemaMissingError) as raised:
        StateStore.open(empty_postgres_url)
    command = str(raised.value).partition("make them with: ")[2]
    assert ":***@" not in command
    assert f"--url {hosts.without_secrets(make_url(empty_postgres_url)).render_as_string()}" in command
    said = invoke("sessions", env={"STATESTORE_URL": empty_postgres_url}).stderr
    assert said.rstrip().endswith(": statestore migrate up")
    said = invoke("sessions", "--url", empty_postgres_url, "--schema", "s").stderr
    assert said.rstrip().endswith(", with that URL in STATESTORE_URL: statestore migrate up --schema s")
