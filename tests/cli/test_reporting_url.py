"""`--reporting-url` of `statestore report` and `statestore export`."""

import json
from pathlib import Path

import pytest

from statestore import NewEntry, Usage
from tests.cli.conftest import CommandLine
from tests.postgres import LocalServer, start_server
from tests.support.standby import Standby

COMMANDS = (["report", "usage-by-model", "--json"], ["report", "--html", "-"], ["export", "-"])


@pytest.fixture
def filled(cli: CommandLine) -> CommandLine:
    with cli.store() as store:
        store.sessions.create("s")
        store.history.append("s", [NewEntry("a", request_model="m", usage=Usage(input_tokens=5))])
    return cli


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_same_comes_from_a_file_twice_named(filled: CommandLine, command: list[str]) -> None:
    if filled.url.startswith("sqlite"):
        assert filled(*command, "--reporting-url", filled.url).output
    assert filled(*command).output


def test_what_cannot_be_a_replica_is_refused(filled: CommandLine, tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path / 'other.db'}", "nonsense"):
        said = filled("report", "usage-by-day", "--reporting-url", url, code=1).output
        assert "reporting_url" in said
        assert "Traceback" not in said


def test_a_standby_is_read_and_without_it_the_database_is() -> None:
    """From the environment, too; that the primary is asked is said on standard error."""
    with start_server(settings={"synchronous_commit": "on", "wal_keep_size": "1GB"}) as server:
        assert isinstance(server, LocalServer)
        cli = CommandLine(server.url())
        cli("migrate", "up")
        with cli.store() as store, Standby(server) as standby:
            store.sessions.create("s")
            store.history.append("s", [NewEntry("a", request_model="m", usage=Usage(input_tokens=5))])
            standby.catch_up()
            standby.pause()
            store.history.append("s", [NewEntry("b", request_model="m", usage=Usage(input_tokens=7))])

            def tokens(*options: str) -> int:
                [row] = json.loads(cli("report", "usage-by-model", "--json", *options).output)
                return int(row["input_tokens"])

            assert tokens() == 12
            assert tokens("--reporting-url", standby.url("postgres")) == 5
            standby.kill()
            ran = cli.process("export", "-", "--reporting-url", standby.url("postgres"))
            assert ran.returncode == 0
            assert '"b"' in ran.stdout
            assert "reports are read from the primary for now" in ran.stderr
