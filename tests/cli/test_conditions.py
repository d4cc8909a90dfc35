"""What a command does where something is in its way: a pipe that is closed, a full disk, a lock, nobody who answers."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import click
import pytest
from sqlalchemy import make_url

from statestore import InvalidValueError, StateStore, migrate
from statestore.errors import ReadOnlyError, UnavailableError
from tests.cli.conftest import SCRIPT, CommandLine
from tests.support.command_line import invoke


@pytest.fixture
def filled(sqlite_cli: CommandLine) -> CommandLine:
    with sqlite_cli.store() as store:
        for number in range(30):
            store.history.append(f"session-{number}", [{"role": "user", "content": "x" * 5000}], create=True)
    return sqlite_cli


def path_of(cli: CommandLine) -> Path:
    return Path(str(make_url(cli.url).database))


# A path in place of a URL


@pytest.mark.parametrize("name", ["agents.db", "./agents", "agents.sqlite3", "../here/agents.sqlite"])
def test_a_path_is_as_good_as_a_url(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("STATESTORE_URL", raising=False)
    assert invoke("migrate", "up", "--url", name).exit_code == 0
    assert Path(name).is_file()
    assert invoke("sessions", env={"STATESTORE_URL": name}).exit_code == 0
    Path("statestore.toml").write_text(f'url = "{name}"\n')
    assert invoke("sessions").exit_code == 0
    with StateStore.open(name) as store:
        store.sessions.create("s")
    assert migrate.current(name) is not None
    missing = invoke("sessions", "--url", f"{name}-not.db")
    assert missing.stderr.rstrip().endswith(f"statestore migrate up --url {name}-not.db")


def test_an_absolute_path_is_as_good_as_a_url(filled: CommandLine) -> None:
    assert invoke("sessions", "--url", str(path_of(filled))).exit_code == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "is empty; is a variable not set?"),
        ("localhost", "it looks like postgresql://user@host/database or sqlite:///"),
        ("sqlite://agents.db", "needs a third slash in front of a path: sqlite:///agents.db"),
        ("sqlite://here/agents.db", "needs a third slash in front of a path: sqlite:///here/agents.db"),
        ("sqlite:agents.db", "it looks like postgresql://user@host/database or sqlite:///"),
        ("mysql://app@host/x.db", "'mysql' is not supported"),
        ("host=localhost dbname=x", "it looks like postgresql://user@host/database or sqlite:///"),
    ],
)
def test_what_is_no_url_gets_a_hint(url: str, said: str) -> None:
    done = invoke("sessions", "--url", url)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: --url: ")
    assert said in done.stderr
    with pytest.raises(InvalidValueError, match="url: "):
        StateStore.open(url if url else "sqlite://agents.db")


# Where output goes


@pytest.mark.parametrize(
    ("target", "code", "arguments"),
    [
        ("pipe", 141, ("sessions",)),
        ("pipe", 141, ("doctor",)),
        ("pipe", 141, ("report", "usage-by-session", "--csv")),
        ("/dev/full", 1, ("export", "-")),
        ("/dev/full", 1, ("report", "usage-by-session", "--csv")),
        ("/dev/full", 1, ("--help",)),
    ],
    ids=str,
)
def test_output_that_cannot_be_written_ends_a_command_without_a_traceback(
    arguments: tuple[str, ...], target: str, code: int, filled: CommandLine
) -> None:
    """In a process: what is left in buffers is written at its end."""
    if target == "pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(target, os.O_WRONLY)
    try:
        ran = subprocess.run(
            [SCRIPT, *arguments], env=filled.environment, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    assert ran.returncode == code, ran.stderr
    said = "" if target == "pipe" else "error: the output cannot be written: No space left on device\n"
    assert ran.stderr == said


# Interrupts

INTERRUPTED = """
import os, signal, sys, threading
from statestore.cli import main
from statestore.store import StateStore

def waiting(*args, **options):
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait()

StateStore.open = waiting
main(sys.argv[1:], prog_name="statestore")
"""


@pytest.mark.parametrize(
    "arguments", [("sessions",), ("sweep",), ("show", "s"), ("tail", "s"), ("report", "usage-by-day")], ids=" ".join
)
def test_ctrl_c_is_one_line_and_130(arguments: tuple[str, ...], filled: CommandLine) -> None:
    ran = filled.python(INTERRUPTED, *arguments)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted\n")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException]]:
    """What happens at a question, in place of an answer."""
    happens: list[type[BaseException]] = []

    def confirm(*args: object, **options: object) -> None:
        try:
            raise happens[0]
        except (KeyboardInterrupt, EOFError):
            raise click.Abort from None

    monkeypatch.setattr(click, "confirm", confirm)
    return happens


def test_ctrl_c_at_a_question_is_one_line_and_130(filled: CommandLine, asked: list[type[BaseException]]) -> None:
    asked.append(KeyboardInterrupt)
    done = filled("delete", "session-1", code=130)
    assert done.stderr == "\ninterrupted\n"
    assert filled("show", "session-1").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [("delete", "session-1"), ("delete", "--user", "ada"), ("cache", "clear"), ("migrate", "down", "base"),
     ("namespaces", "drop", "default")],
    ids=" ".join,
)  # fmt: skip
def test_a_question_that_nobody_answers_is_an_error_that_names_the_option(
    arguments: tuple[str, ...], filled: CommandLine
) -> None:
    done = filled(*arguments, code=1, input="")
    assert done.stderr.endswith(
        "\nerror: there is no terminal to confirm on; nothing was done. Pass --yes to skip the question\n"
    )
    assert filled("show", "session-1").exit_code == 0
    assert filled(*arguments, code=1, input="n\n").stderr.endswith("Aborted!\n")


# A database that does not take it


def test_a_locked_file_is_named_with_the_way_to_find_who_locks_it(
    filled: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StateStore.open.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        StateStore,
        "open",
        classmethod(lambda cls, *args, **options: real(cls, *args, **options, lock_timeout=timedelta(seconds=0.05))),
    )
    with closing(sqlite3.connect(path_of(filled), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = filled("state", "set", "session-1", "k", "1", code=1)
        assert filled("sessions", "--limit", "1").exit_code == 0
    assert f"keeps the SQLite file '{path_of(filled)}' locked; nothing was written" in done.stderr
    assert done.stderr.endswith(f": fuser {path_of(filled)}\n")


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root needs setpriv, of util-linux")
def test_a_file_that_is_read_only_can_be_read_and_is_named(filled: CommandLine) -> None:
    """By somebody who may not write everywhere, as root may."""
    path = path_of(filled)
    path.chmod(0o400)
    may_not = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    try:
        shown, refused = (
            subprocess.run([*may_not, SCRIPT, *arguments], env=filled.environment, capture_output=True, text=True)
            for arguments in (("sessions", "--limit", "1"), ("state", "set", "session-1", "k", "1"))
        )
    finally:
        path.chmod(0o600)
    assert shown.returncode == 0, shown.stderr
    assert "session-" in shown.stdout
    assert refused.returncode == 1
    assert f"the SQLite file '{path}' cannot be written" in refused.stderr
    assert f"See: ls -ld {path} {path.parent}" in refused.stderr


def test_a_server_that_takes_no_writes_says_where_to_look(postgres_url: str) -> None:
    url = make_url(postgres_url).update_query_dict({"options": "-c default_transaction_read_only=on"})
    with StateStore.open(postgres_url) as store:
        store.sessions.create("s")
    read_only = url.render_as_string(hide_password=False)
    done = invoke("state", "set", "s", "k", "1", env={"STATESTORE_URL": read_only})
    assert done.exit_code == 1
    assert done.stderr.endswith("; see why: statestore doctor --check writes --check grants\n")
    with StateStore.open(read_only) as store, pytest.raises(ReadOnlyError):
        store.sessions.create("other")


def test_a_server_that_is_down_is_one_line(postgres_url: str) -> None:
    away = make_url(postgres_url).set(port=1).render_as_string(hide_password=False)
    done = invoke("migrate", "status", "--url", away)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "Connection refused" in done.stderr
    assert ":***@" not in done.stderr.partition(": ")[2].partition("see")[2]
    with pytest.raises(UnavailableError):
        migrate.current(away)


# Stores with nothing in them


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sessions",), "no matching sessions in namespace 'default'"),
        (("namespaces",), "no namespaces yet"),
        (("prices", "ls"), "no prices; fetch the usual ones: statestore prices sync"),
        (("prices", "ls", "--model", "x"), "no prices of a model with 'x' in its name"),
        (("cache", "ls"), "no matching cache entries"),
        (("report", "usage-by-day"), "nothing to report"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_nothing_is_said_on_stderr(arguments: tuple[str, ...], said: str, sqlite_cli: CommandLine) -> None:
    done = sqlite_cli(*arguments)
    assert done.stdout == ""
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sessions", "--limit", "abc"), "'abc' is not a whole number"),
        (("prices", "set", "m", "--input", "x", "--output", "1"), "'x' is not a number"),
        (("sessions", "--limit", "0"), "0 is not in the range 1<=x<=10000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_value_is_told_in_plain_words(arguments: tuple[str, ...], said: str, sqlite_cli: CommandLine) -> None:
    done = sqlite_cli(*arguments, code=2)
    assert said in done.stderr
    assert f"'{arguments[-2] if 'prices' not in arguments else '--input'}'" in done.stderr


def test_colours_are_for_terminals_that_want_them(filled: CommandLine) -> None:
    from tests.cli.test_screens import drawn_with_colours

    coloured = drawn_with_colours(("doctor", "--check", "schema"), filled)
    plain = drawn_with_colours(("doctor", "--check", "schema"), filled, NO_COLOR="1")
    assert "\x1b[32m" in coloured
    assert "\x1b" not in plain
