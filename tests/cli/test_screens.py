"""What a person sees: the commands and the usual errors on terminals of 80 and 120 columns, where no line is wider."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from statestore import NewEntry, StateStore, Usage
from statestore.cli.output import display_width
from tests.cli.conftest import CommandLine
from tests.support.warm import programs

WIDTHS = (80, 120)
IDS = ("0b9df3c1-52a6-4a70-9d1e-1f7ae0c3a3d5", "user-42", "import-" + "f" * 64)

COMMANDS: list[tuple[str, ...]] = [
    ("sessions",),
    ("show", "user-42"),
    ("show", "user-42", "--full"),
    ("tail", "user-42", "--timeout", "10ms"),
    ("tree", "user-42"),
    ("state", "ls", "user-42"),
    ("cache", "stats"),
    ("cache", "ls"),
    ("report", "usage-by-user"),
    ("report", "usage-by-session"),
    ("report", "session-lineage"),
    ("prices", "ls"),
    ("namespaces",),
    ("migrate", "status"),
    ("doctor", "--check", "schema", "--check", "driver", "--check", "pragmas"),
    ("config",),
    ("migrate", "up", "--url", "sqlite:///new.db"),
    ("--help",),
    ("show", "--help"),
]
ERRORS: list[tuple[int, tuple[str, ...]]] = [
    (1, ("show", "nobody")),
    (1, ("show", "user")),
    (2, ("sesions",)),
    (2, ("report", "usage-by-dya")),
    (2, ("report",)),
    (1, ("sessions", "--profile", "prdo")),
    (1, ("sessions", "--url", "sqlite:///a/long/path/that/does/not/exist/anywhere/on/this/machine/agents.db")),
    (1, ("sessions", "--url", "postgresql://app@127.0.0.1:1/app")),
    (1, ("state", "get", "user-42", "a-key-that-is-not-there-and-has-a-rather-long-name")),
    (1, ("migrate", "down", "nope")),
    (2, ("delete",)),
]


def fill(url: str) -> None:
    with StateStore.open(url) as store:
        for number, session_id in enumerate(IDS):
            user = ("ada", "a-user-with-quite-a-long-name@example.com", None)[number]
            title = ("日本への旅行計画 " * 6, "A walk around Lake Constance on a Saturday in June with the dog", None)[
                number
            ]
            store.sessions.create(session_id, user_id=user, agent_name="planner-of-day-trips", title=title)
            call = {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"x": "' + "y" * 200},
            }
            used = {"usage": Usage(input_tokens=120_000, output_tokens=3_400, cache_read_input_tokens=90_000)}
            store.history.append(
                session_id,
                [
                    {"role": "system", "content": "You plan day trips.\n" * 9},
                    {"role": "user", "content": "Is Saturday good for a walk around the lake? " * 8},
                    NewEntry(
                        {"role": "assistant", "content": None, "tool_calls": [call]}, response_model="large-1",
                        cost_usd=0.41, duration=timedelta(seconds=4.2), **used,
                    ),
                    NewEntry(
                        {"role": "tool", "tool_call_id": "call_1", "name": "get_weather", "content": "湖" * 300},
                        duration=timedelta(seconds=0.8), error_type="timeout",
                    ),
                    {"role": "assistant", "content": "Yes. See https://example.com/" + "a" * 150},
                ],
            )  # fmt: skip
            store.state.set(session_id, "place", {"name": "Konstanz", "notes": "x" * 200})
            store.cache.set(
                f"weather:{session_id}", {"t": 19}, tags=["weather", "konstanz"], agent_name="planner-of-day-trips"
            )
        store.sessions.fork("user-42", "user-42-a-fork-with-a-long-name", at_seq=2)
        store.sessions.fork("user-42-a-fork-with-a-long-name", "user-42-b")
        store.prices.set("a-model-with-a-long-name-2026-01-31", input_price=3, output_price=15)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a database, and with a file that names it."""
    directory = tmp_path_factory.mktemp("screens")
    fill(f"sqlite:///{directory}/agents.db")
    (directory / "statestore.toml").write_text('url = "sqlite:///agents.db"\n[profiles.prod]\nnamespace = "acme"\n')
    return directory


def screen(arguments: Sequence[str], columns: int, directory: Path, **environment: str) -> tuple[int, str]:
    """The exit code of a command, and what it draws on a terminal, without colours."""
    code, drawn = painted(arguments, columns, directory, **environment)
    return code, re.sub(r"\x1b\[[0-9;]*m", "", drawn)


def drawn_with_colours(arguments: Sequence[str], cli: CommandLine, **environment: str) -> str:
    return painted(arguments, 80, Path.cwd(), STATESTORE_URL=cli.url, **environment)[1]


def painted(arguments: Sequence[str], columns: int, directory: Path, **environment: str) -> tuple[int, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.match("STATESTORE_|COLUMNS|LINES|NO_COLOR|LESS", name)
    }
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(
        [programs() / "statestore", *arguments], cwd=directory, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, env={**kept, "TERM": "xterm-256color", "PAGER": "cat", **environment},
    ) as process:  # fmt: skip
        os.close(theirs)
        drawn = b""
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # On Linux that is the end.
                break
            if not more:
                break
            drawn += more
        os.close(ours)
        code = process.wait()
    return code, drawn.decode().replace("\r\n", "\n")


def too_wide(text: str, columns: int) -> list[str]:
    return [line for line in text.splitlines() if display_width(line) > columns]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_line_of_a_command_is_wider_than_the_terminal(
    arguments: tuple[str, ...], columns: int, filled: Path, tmp_path: Path
) -> None:
    new = [argument.replace("new.db", f"{columns}.db") for argument in arguments]
    code, drawn = screen(new, columns, filled)
    assert code == 0, drawn
    assert drawn.strip()
    assert not too_wide(drawn, columns)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(
    ("code", "arguments"), ERRORS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_no_line_of_an_error_is_wider_than_the_terminal(
    code: int, arguments: tuple[str, ...], columns: int, filled: Path
) -> None:
    found, drawn = screen(arguments, columns, filled)
    assert found == code, drawn
    # A command that is to be copied stays in one piece.
    wide = [line for line in too_wide(drawn, columns) if not line.startswith("  statestore ")]
    assert not wide


def test_columns_are_left_out_in_the_stated_order_and_named(filled: Path) -> None:
    seen: dict[int, list[str]] = {}
    for columns in (200, 120, 80, 40):
        _, drawn = screen(("sessions",), columns, filled)
        head = drawn.splitlines()[0]
        seen[columns] = [name for name in ORDER if name in head]
        assert seen[columns] == ORDER[len(ORDER) - len(seen[columns]) :]
        left_out = re.findall(r"left out for want of space: (.*); --wide shows all", drawn.replace("\n", " "))
        assert left_out == (
            [", ".join(ORDER[: len(ORDER) - len(seen[columns])])] if len(seen[columns]) < len(ORDER) else []
        )
    assert len(seen[40]) < len(seen[80]) < len(seen[200])
    assert {"ENTRIES", "TITLE", "LAST ACTIVITY"} <= set(seen[80])


ORDER = ["AGENT", "STATUS", "USER", "ENTRIES", "TITLE", "LAST ACTIVITY"]


def test_wide_has_everything(filled: Path) -> None:
    _, drawn = screen(("sessions", "--wide"), 80, filled)
    for text in (*IDS, "a-user-with-quite-a-long-name@example.com", "in June with the dog", *ORDER):
        assert text in drawn


def test_a_pipe_has_everything(filled: Path) -> None:
    done = CommandLine(f"sqlite:///{filled}/agents.db").process("sessions")
    for text in (*IDS, "a-user-with-quite-a-long-name@example.com", "in June with the dog", *ORDER):
        assert text in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_ids_that_begin_alike_stay_different_when_they_are_cut(tmp_path: Path) -> None:
    with StateStore.open(tmp_path / "agents.db") as store:
        for number in range(3):
            store.sessions.create("x" * 100 + str(number))
    _, drawn = screen(("sessions", "--url", "sqlite:///agents.db"), 40, tmp_path)
    assert len({line.split()[0] for line in drawn.splitlines()[1:4]}) == 3


def test_a_tool_call_is_folded_with_its_result(filled: Path) -> None:
    _, folded = screen(("show", "user-42"), 80, filled)
    lines = folded.splitlines()
    call = next(index for index, line in enumerate(lines) if line.startswith("    → get_weather("))
    assert lines[call + 1].startswith("#4 tool get_weather ← 湖")
    assert lines[call + 1].endswith("0.8 s, error timeout")
    assert "… 7 more lines; --full shows all" in folded
    _, whole = screen(("show", "user-42", "--full"), 80, filled)
    assert whole.count("湖") == 300
    assert folded.count("湖") < 40


def test_show_pages_through_the_readers_pager(filled: Path, tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho PAGED\ncat\n")
    pager.chmod(0o755)
    assert "PAGED" in screen(("show", "user-42"), 80, filled, PAGER=str(pager))[1]
    assert "PAGED" not in screen(("show", "user-42", "--no-pager"), 80, filled, PAGER=str(pager))[1]
    done = CommandLine(f"sqlite:///{filled}/agents.db")
    piped = subprocess.run(
        [programs() / "statestore", "show", "user-42"],
        env={**done.environment, "PAGER": str(pager)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PAGED" not in piped.stdout


def test_the_demonstration_fits_80_columns(tmp_path: Path, request: Any) -> None:
    code, drawn = screen(("demo",), 80, tmp_path, TMPDIR="/tmp")
    [folder] = re.findall(r"^     rm -r (\S+)$", drawn, re.MULTILINE)
    request.addfinalizer(lambda: subprocess.run(["rm", "-r", folder], check=True))
    assert code == 0, drawn
    assert not too_wide(drawn, 80)
