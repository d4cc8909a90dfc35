"""What a message tells its reader to do fits where it is read: no call of Python on the command line."""

import re
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine


@pytest.fixture
def filled(cli: CommandLine) -> CommandLine:
    with cli.store() as store:
        store.history.append("trip", [{"role": "user", "content": "Hi"}], create=True)
    return cli


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("show", "nobody"), "see: statestore sessions"),
        (("fork", "nobody"), "see: statestore sessions"),
        (("delete", "nobody", "--yes"), "see: statestore sessions"),
        (("fork", "trip", "trip"), "choose another id"),
        (("fork", "trip", "x", "--at-seq", "7"), "--at-seq: "),
        (("state", "get", "trip", "k"), "statestore state ls trip"),
        (("sessions", "--cursor", "x"), "--cursor: "),
        (("prices", "remove", "m"), "see: statestore prices ls"),
        (("report", "usage-by-day", "--tz", "Nowhere/Land"), "--tz: "),
        (("sessions", "--user", ""), "--user: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_remedy_is_a_command_or_an_option(arguments: tuple[str, ...], remedy: str, filled: CommandLine) -> None:
    said = filled(*arguments, code=1).stderr
    assert remedy in said
    # Neither a call nor an argument of one: `sessions.open()`, `default=`, `at_seq: …`.
    assert not re.search(r"\w\(\)|\b(?:sessions|history|state|store)\.\w+|\b\w+=(?:\s|$|')|: [a-z]+_[a-z_]+: ", said), (
        said
    )


def test_retention_is_shown_as_it_is_given(cli: CommandLine) -> None:
    assert cli("retention", "--max-idle", "30d").stdout == "sessions may be idle for 30d\n"
    assert cli("retention", "--max-idle", "36h").stdout == "sessions may be idle for 1d12h\n"
    assert cli("retention", "--max-idle", "90s").stdout == "sessions may be idle for 1m30s\n"
    assert cli("retention", "--max-idle", "1.5s").stdout == "sessions may be idle for 1.5s\n"


def test_a_report_may_be_called_as_its_view_is(filled: CommandLine) -> None:
    assert filled("report", "usage_by_day").stdout == filled("report", "usage-by-day").stdout
    assert "did you mean usage-by-day" in filled("report", "usage-by-dya", code=2).stderr
    bare = filled("report", code=2).stderr
    assert "Reports:\n  usage-by-day        what was used on each day\n" in bare
    assert "session-lineage" in bare


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("sesions",), "Did you mean 'statestore sessions'?"),
        (("cache", "sats"), "Did you mean 'statestore cache stats'"),
        (("migrate", "upgrade"), "Did you mean 'statestore migrate up'?"),
        (("status",), "Did you mean 'statestore migrate status'?"),
        (("state", "delete", "x"), "Did you mean 'statestore state rm'?"),
        (("sessions", "--limti", "3"), "--limit"),
        (("show", "x", "--jsno"), "--json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistyped_command_or_option_is_answered_with_the_one_that_was_meant(
    arguments: tuple[str, ...], meant: str, sqlite_cli: CommandLine
) -> None:
    assert meant in sqlite_cli(*arguments, code=2).stderr


def test_down_looks_before_it_asks(cli: CommandLine, empty_cli: CommandLine) -> None:
    unknown = cli("migrate", "down", "nope", code=1).stderr
    assert unknown.startswith("error: there is no revision 'nope'; there are: base, 0001, ")
    assert "[y/N]" not in unknown
    head = cli("migrate", "status").stdout.split()[1]
    assert cli("migrate", "down", head).output == f"the schema is at revision {head}\n"
    asked = cli("migrate", "down", "0003", code=1, input="n\n").stderr
    assert "takes back 0004: " in asked
    assert "takes back 0003: " not in asked
    if not empty_cli.url.startswith("sqlite"):  # Of which there is no file.
        assert "no statestore tables" in empty_cli("migrate", "down", "base", code=1).stderr


@pytest.mark.parametrize(
    "arguments", [("sessions",), ("show", "x"), ("migrate", "up"), ("migrate", "status")], ids=" ".join
)
def test_a_file_that_is_no_database_is_named(arguments: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("not a database, but long enough to be taken for one\n" * 20)
    said = CommandLine(f"sqlite:///{path}")(*arguments, code=1).stderr
    assert str(path) in said
    assert "restore it from a backup" in said


def test_a_file_that_is_damaged_further_down_is_named(sqlite_cli: CommandLine, tmp_path: Path) -> None:
    with sqlite_cli.store() as store:
        store.sessions.create("s")
        for _ in range(40):
            store.history.append("s", [{"role": "user", "content": "x" * 4000}])
    path = Path(sqlite_cli.url.removeprefix("sqlite:///"))
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half:] = b"A" * (len(data) - half)
    path.write_bytes(data)
    said = sqlite_cli("show", "s", code=1).stderr
    assert str(path) in said
    assert "restore it from a backup" in said
