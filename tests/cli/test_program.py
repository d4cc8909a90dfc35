import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from sqlalchemy import make_url

import statestore
from statestore.cli import main
from tests.cli.conftest import SCRIPT, CommandLine, resolved
from tests.support.warm import programs


def commands(
    command: click.Command = main, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))


COMMANDS = dict(commands())
LEAVES = [path for path, command in COMMANDS.items() if not isinstance(command, click.Group)]
# What a reader types on a database that is not there, for each command that must not make it.
LOOKING = [
    ("sessions",), ("show", "x"), ("fork", "x"), ("tail", "x"), ("tree", "x"),
    ("state", "ls", "x"), ("state", "get", "x", "k"), ("state", "set", "x", "k", "1"), ("state", "rm", "x", "k"),
     ("delete", "x", "--yes"), ("delete", "--user", "x", "--yes"),
    ("migrate", "status"), ("migrate", "check"), ("migrate", "down", "base", "--yes"),
    ("export", "copy.jsonl"), ("cache", "stats"), ("cache", "ls"), ("cache", "get", "x"), ("cache", "clear", "--yes"),
    ("cache", "evict"), ("cache", "invalidate", "x"), ("cache", "export", "copy.jsonl"), ("sweep",), ("retention",),
    ("vacuum",), ("namespaces",), ("namespaces", "drop", "x", "--yes"),
    ("report", "usage-by-day"), ("prices", "ls"), ("prices", "apply"), ("prices", "remove", "x"),
    ("prices", "set", "x", "--input", "3", "--output", "15"),
]  # fmt: skip


def test_the_commands_are_those_that_are_promised() -> None:
    assert {" ".join(path) for path in LEAVES} == {
        "migrate up", "migrate down", "migrate status", "migrate check", "migrate distribute", "migrate partition",
        "import openai-jsonl", "import statestore", "import promptkit", "import conexus", "import claude-code",
        "import openai-agents", "import adk", "import langgraph", "import langchain", "import agno",
        "export", "sessions", "show", "tail", "tree", "fork", "delete", "config",
        "state ls", "state get", "state set", "state rm", "completion install", "completion show",
        "sweep", "retention", "vacuum", "doctor", "namespaces drop",
        "cache stats", "cache ls", "cache get", "cache set", "cache invalidate", "cache clear", "cache evict",
        "cache export", "cache import",
        "report", "prices sync", "prices apply", "prices ls", "prices set", "prices remove", "demo",
    }  # fmt: skip


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_help_with_examples_that_parse(path: tuple[str, ...], sqlite_cli: CommandLine) -> None:
    command = COMMANDS[path]
    help_text = sqlite_cli(*path, "--help").stdout
    assert command.help
    assert command.help.splitlines()[0] in " ".join(help_text.split())
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "order_by":
            assert parameter.help, f"{parameter.name} has no help"
    assert command.epilog is not None
    lines = [line for line in command.epilog.splitlines() if "statestore " in line]
    assert lines
    for line in lines:
        assert resolved(re.split(r" (?:\||>|&&) ", line.partition("statestore ")[2])[0].split()) is command


WITHOUT_DATABASE = [("demo",), ("completion", "install"), ("completion", "show")]


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in WITHOUT_DATABASE], ids=" ".join)
def test_every_command_on_a_database_takes_url_and_json(path: tuple[str, ...]) -> None:
    names = {option for parameter in COMMANDS[path].params for option in parameter.opts}
    assert {"--url", "--json", "--schema", "--table-prefix", "--profile"} <= names
    assert ("--namespace" in names) == (path[0] not in ("migrate", "vacuum", "doctor"))


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (("cache", "set", "k", "1"), {"key": "k"}),
        (("cache", "export", "{folder}/c.jsonl"), {"file": "{folder}/c.jsonl", "entries": 0}),
        (("retention", "--max-idle", "90d"), {"max_idle_seconds": 90 * 86400}),
        (("retention",), {"max_idle_seconds": None}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_that_changes_something_says_so_in_json(
    arguments: tuple[str, ...], printed: dict[str, object], cli: CommandLine, tmp_path: Path
) -> None:
    filled = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    expected = {k: v.replace("{folder}", str(tmp_path)) if isinstance(v, str) else v for k, v in printed.items()}
    assert json.loads(cli(*filled, "--json").stdout) == expected


def test_a_price_that_is_set_is_printed_as_json(cli: CommandLine) -> None:
    printed = json.loads(cli("prices", "set", "m", "--input", "3", "--output", "15", "--json").stdout)
    assert (printed["model"], printed["input_price"], printed["cache_read_price"]) == ("m", 3, None)
    assert [price["model"] for price in json.loads(cli("prices", "ls", "--json").stdout)] == ["m"]
    assert json.loads(cli("prices", "remove", "m", "--json").stdout) == {"removed": 1}


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--provider", "p")])
def test_a_price_that_is_not_there_cannot_be_removed(arguments: tuple[str, ...], cli: CommandLine) -> None:
    cli("prices", "set", "m", "--input", "3", "--output", "15")
    done = cli("prices", "remove", "m" if "--provider" in arguments else "nope", *arguments, code=1)
    assert done.stdout == ""
    assert re.fullmatch(
        r"error: namespace 'default' has no price of its own for .*: statestore prices ls\n", done.stderr
    )


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("import", "openai-jsonl", "--help")])
def test_version_and_help_do_not_load_the_database_libraries(
    sqlite_cli: CommandLine, arguments: tuple[str, ...]
) -> None:
    code = """
import sys
from statestore.cli import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"sqlalchemy", "alembic", "psycopg", "asyncio"} & set(sys.modules)
    assert not heavy, heavy
"""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=sqlite_cli.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_package_can_be_run_as_a_module() -> None:
    asked = [sys.executable, "-m", "statestore", "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: python -m statestore [OPTIONS] COMMAND")


def test_version_is_the_packages() -> None:
    done = subprocess.run([SCRIPT, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"statestore {statestore.__version__}\n"


@pytest.mark.parametrize("arguments", LOOKING, ids=" ".join)
def test_looking_at_a_file_that_is_not_there_does_not_make_it(arguments: tuple[str, ...], tmp_path: Path) -> None:
    cli = CommandLine(f"sqlite:///{tmp_path / 'typo.db'}")
    result = cli(*arguments, code=1)
    assert result.stdout == ""
    assert re.fullmatch(
        r"error: there is no SQLite file '.*typo\.db'; .*statestore migrate up --url .*\n", result.stderr
    )
    assert not list(tmp_path.iterdir())


def test_the_default_database_is_named_when_it_is_not_there(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "STATESTORE_URL"}
    done = subprocess.run(
        [SCRIPT, "sessions"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "'statestore.db', the default since neither --url nor STATESTORE_URL is given" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", LOOKING[:5], ids=" ".join)
def test_looking_into_a_database_without_tables_does_not_make_them(
    arguments: tuple[str, ...], empty_cli: CommandLine
) -> None:
    if empty_cli.url.startswith("sqlite"):
        Path(str(make_url(empty_cli.url).database)).touch()
    result = empty_cli(*arguments, code=1)
    assert result.stderr.startswith("error: ")
    assert "statestore migrate up" in result.stderr
    assert "current  none" in empty_cli("migrate", "status").stdout


def test_an_error_is_one_line_on_stderr_and_exit_code_1(cli: CommandLine) -> None:
    done = cli.process("show", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: session 'nobody' does not exist .*\n", done.stderr)


@pytest.mark.parametrize(
    "arguments", [("nope",), ("show",), ("sessions", "--limit", "0"), ("delete",), ("delete", "x", "--user", "y")]
)
def test_a_wrong_command_line_is_exit_code_2(sqlite_cli: CommandLine, arguments: tuple[str, ...]) -> None:
    assert "Usage: " in sqlite_cli(*arguments, code=2).stderr


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:opensesame@127.0.0.1:1/app",
        "postgresql://ada@127.0.0.1:1/app?password=opensesame",
        "postgresql://ada:opensesame@127.0.0.1:1/app?nonsense=1",
        "postgresql://ada:opensesame@host:port/app",
        "mysql://ada:opensesame@127.0.0.1/app",
        "opensesame",
    ],
)
@pytest.mark.parametrize("arguments", [("sessions",), ("migrate", "up"), ("migrate", "status")], ids=" ".join)
def test_an_unusable_url_is_an_error_without_the_password(url: str, arguments: tuple[str, ...]) -> None:
    done = CommandLine(url).process(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: .+\n", done.stderr)
    assert "opensesame" not in done.stderr


def test_a_database_in_memory_is_refused() -> None:
    assert "name a file" in CommandLine("sqlite://")("sessions", code=1).stderr


def test_a_closed_pipe_ends_a_command_quietly(sqlite_cli: CommandLine) -> None:
    with sqlite_cli.store() as store:
        store.sessions.create("long")
        store.history.append("long", [{"role": "user", "content": "x" * 1000} for _ in range(500)])
    for arguments in (("show", "long"), ("show", "long", "--json")):
        with subprocess.Popen(
            [SCRIPT, *arguments], env=sqlite_cli.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode != 0


def test_an_interrupt_ends_a_command_quietly(sqlite_cli: CommandLine) -> None:
    # Reading standard input is where it waits, and asks for the line that tells that it has come this far.
    code = """
import sys
from statestore.cli import main
from statestore.importers import openai_conversations

class Told:
    def __init__(self, stream): self.stream = stream
    def fileno(self): return self.stream.fileno()
    def readline(self, size):
        print("waiting", flush=True)
        return self.stream.readline(size)

lines_of = openai_conversations.lines_of
openai_conversations.lines_of = lambda source: lines_of(Told(source))
main(["import", "openai-jsonl", "-"])
"""
    with subprocess.Popen(
        [programs() / "python", "-c", code], env=sqlite_cli.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "stopped; what was imported stays; run the same command again to continue\n"
    assert process.returncode == 130
