"""Completion in real shells, and the ids that it offers."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine
from tests.support.warm import programs


def asked(cli: CommandLine, *words: str, **environment: str) -> list[str]:
    """What the program offers a shell for the last of *words*."""
    line = " ".join(("statestore", *words))
    done = subprocess.run(
        [programs() / "statestore"], capture_output=True, text=True, check=False,
        env={**cli.environment, "_STATESTORE_COMPLETE": "bash_complete", "COMP_WORDS": line,
             "COMP_CWORD": str(len(words)), **environment},
    )  # fmt: skip
    assert done.stderr == ""
    return [one.partition(",")[2] for one in done.stdout.splitlines() if one]


@pytest.fixture
def filled(cli: CommandLine) -> CommandLine:
    with cli.store() as store:
        for session_id in ("trip-1", "trip-2", "other", "two\nlines"):
            store.sessions.create(session_id, title="A title")
    return cli


@pytest.mark.parametrize(
    "command",
    [("show",), ("tail",), ("tree",), ("fork",), ("delete",), ("state", "get"), ("export", "f", "--session"),
     ("report", "usage-by-session", "--session")],
    ids=" ".join,
)  # fmt: skip
def test_ids_of_sessions_are_offered(command: tuple[str, ...], filled: CommandLine) -> None:
    assert sorted(asked(filled, *command, "tri")) == ["trip-1", "trip-2"]


def test_all_are_offered_before_the_first_letter_unless_a_shell_could_not_read_them(filled: CommandLine) -> None:
    assert sorted(asked(filled, "show", "''")) in (["other", "trip-1", "trip-2"], [])
    assert sorted(asked(filled, "show", "")) == ["other", "trip-1", "trip-2"]


def test_commands_options_and_reports_are_offered(sqlite_cli: CommandLine) -> None:
    assert asked(sqlite_cli, "comp") == ["completion"]
    assert "--profile" in asked(sqlite_cli, "sessions", "--p")
    assert asked(sqlite_cli, "report", "usage-by-t") == ["usage-by-tool"]


def test_the_named_database_is_asked(filled: CommandLine, tmp_path: Path) -> None:
    elsewhere = CommandLine(f"sqlite:///{tmp_path}/none.db")
    assert asked(elsewhere, "show", "--url", filled.url, "trip-2") == ["trip-2"]
    assert asked(elsewhere, "show", "trip") == []
    assert not (tmp_path / "none.db").exists()


def test_a_database_that_is_away_or_silent_offers_nothing_and_says_nothing() -> None:
    assert asked(CommandLine("postgresql://nobody@127.0.0.1:1/none"), "show", "x") == []
    with socket.socket() as listening:  # Whoever connects is never answered.
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        start = time.monotonic()
        assert asked(CommandLine(f"postgresql://nobody@127.0.0.1:{port}/none"), "show", "x") == []
        # Not a measurement: without the limit it would take as long as a connection may.
        assert time.monotonic() - start < 8
    assert asked(CommandLine("nonsense"), "show", "x") == []
    assert asked(CommandLine("sqlite://"), "show", "--profile", "nope", "x") == []


@pytest.mark.parametrize(("shell", "startup"), [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", None)])
def test_installing_it_twice_changes_nothing(
    shell: str, startup: str | None, sqlite_cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    if startup is not None:
        (home / startup).write_text("# mine, without a line end")
    first = json.loads(sqlite_cli("completion", "install", "--json").stdout)
    assert (first["shell"], first["startup_changed"]) == (shell, startup is not None)
    assert Path(first["script"]).read_text() == sqlite_cli("completion", "show", shell).stdout
    before = {path: path.read_text() for path in home.rglob("*") if path.is_file()}
    again = sqlite_cli("completion", "install", shell).stdout
    assert f"it works in a new {shell}" in again
    assert {path: path.read_text() for path in home.rglob("*") if path.is_file()} == before
    if startup is not None:
        assert before[home / startup].startswith("# mine, without a line end\n[ -r ")


def test_an_unknown_shell_is_asked_for(sqlite_cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert "name one of bash, zsh, fish" in sqlite_cli("completion", "install", code=1).stderr


SCRIPTS = {
    # What a key would do there: fill in the words, call the function, show what came of it.
    "bash": """. "$1"; COMP_WORDS=(statestore show tri); COMP_CWORD=2
        _statestore_completion statestore; printf '%s\\n' "${COMPREPLY[@]}" """,
    "zsh": """compdef() { true }; compadd() { :; }; . "$1"
        _describe() { print -l -- ${(P)3} }; compstate=(); words=(statestore show tri); CURRENT=3
        _statestore_completion""",
    "fish": 'source $argv[1]; complete -C "statestore show tri"',
}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_real_shell_gets_the_ids(shell: str, filled: CommandLine, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / f"completion.{shell}"
    script.write_text(filled("completion", "show", shell).stdout)
    environment = {
        **filled.environment,
        "PATH": f"{programs()}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    arguments = {"bash": ["-c", SCRIPTS["bash"], "bash"], "zsh": ["-f", "-c", SCRIPTS["zsh"], "zsh"]}
    done = subprocess.run(
        [program, *arguments.get(shell, ["--no-config", "-c", SCRIPTS["fish"]]), str(script)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    for session_id in ("trip-1", "trip-2"):
        assert session_id in done.stdout, done
    assert "other" not in done.stdout
