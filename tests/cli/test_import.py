import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from statestore import StateStore
from statestore.migrate import engine_for
from tests.cli.conftest import SCRIPT, CommandLine
from tests.support.trajectories import count_messages

BY_TASK = ("--session-id", "{task_id}-{trial}")


def line(*said: str, **fields: Any) -> str:
    messages = [{"role": "user", "content": one} for one in said]
    return json.dumps({**fields, "messages": messages}) + "\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(*lines: str | bytes) -> str:
        path = tmp_path / "conversations.jsonl"
        path.write_bytes(b"".join(one if isinstance(one, bytes) else one.encode() for one in lines))
        return str(path)

    return write


def conversations(store: StateStore) -> dict[str, tuple[str, list[str]]]:
    """Everything that an import decides: per session its metadata, owner and messages, as JSON text."""
    found, cursor = {}, None
    while True:
        page = store.sessions.page(order_by="created_at", cursor=cursor)
        for session in page.sessions:
            entries = store.history.read(session.session_id)
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            attributes = json.dumps([session.metadata, session.user_id, session.agent_name])
            found[session.session_id] = (attributes, [json.dumps(entry.content) for entry in entries])
        cursor = page.next_cursor
        if cursor is None:
            return found


def rows(url: str) -> list[Any]:
    """All that the tables hold, times included."""
    schema = "statestore." if url.startswith("postgresql") else ""
    with engine_for(url).connect() as connection:
        tables = (("sessions", "session_id"), ("history_entries", "session_id, seq"))
        return [
            [tuple(map(str, row)) for row in connection.execute(text(f"SELECT * FROM {schema}{name} ORDER BY {order}"))]
            for name, order in tables
        ]


def test_real_runs_come_back_as_they_are_and_a_second_import_changes_nothing(
    cli: CommandLine, trajectories: Path
) -> None:
    first = cli("import", "openai-jsonl", str(trajectories), *BY_TASK, "--user-id", "ada", "--agent-name", "airline")
    assert f"200 sessions new, 0 unchanged, {count_messages(trajectories):,} entries added" in first.stdout

    expected = {}
    for one in trajectories.read_text().splitlines():
        record = json.loads(one)
        metadata = {key: value for key, value in record.items() if key != "messages"}
        attributes = json.dumps([metadata, "ada", "airline"])
        messages = [json.dumps(message) for message in record["messages"]]
        expected[f"{record['task_id']}-{record['trial']}"] = (attributes, messages)
    with cli.store() as store:
        assert conversations(store) == expected
    assert sum(len(messages) for _, messages in expected.values()) == count_messages(trajectories)

    before = rows(cli.url)
    second = cli("import", "openai-jsonl", str(trajectories), *BY_TASK, "--json")
    assert json.loads(second.stdout) == {
        "file": str(trajectories), "sessions_new": 0, "sessions_extended": 0, "sessions_unchanged": 200,
        "entries_added": 0, "lines_failed": 0,
    }  # fmt: skip
    assert rows(cli.url) == before


KILLED = """
import os, signal, sys
from statestore.cli import main
from statestore.importers.openai_conversations import BatchWriter

written, write_one = 0, BatchWriter._write_one

def write_one_and_die(self, *args):
    global written
    write_one(self, *args)
    written += 1
    if written == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

BatchWriter._write_one = write_one_and_die
main(["import", "openai-jsonl", sys.argv[2]])
"""


@pytest.mark.parametrize("written", [1, 150])
def test_an_import_that_was_killed_is_completed_by_the_next(cli: CommandLine, trajectories: Path, written: int) -> None:
    killed = cli.python(KILLED, str(written), trajectories)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with cli.store() as store:
        left = conversations(store)
    lines = [json.loads(one) for one in trajectories.read_text().splitlines()]
    whole = [[json.dumps(message) for message in record["messages"]] for record in lines]
    assert len(left) < written
    assert all(messages in whole for _, messages in left.values()), "a conversation was imported in part"
    assert bool(left) == (written > 100), "the kill was to come within a later batch"

    rerun = cli.process("import", "openai-jsonl", trajectories)
    assert rerun.returncode == 0, rerun.stderr
    assert f"{200 - len(left)} sessions new, {len(left)} unchanged" in rerun.stdout

    with cli.store() as store:
        after = conversations(store)
    cli("import", "openai-jsonl", str(trajectories), "--namespace", "clean")
    with cli.store(namespace="clean") as clean:
        assert after == conversations(clean)


def test_an_id_does_not_depend_on_the_files_name_or_the_lines_number(
    cli: CommandLine, write: Callable[..., str]
) -> None:
    lines = [line("a"), line("b", x=1), line("b", x=2)]
    cli("import", "openai-jsonl", write(*lines))
    turned = cli("import", "openai-jsonl", "-", input="\n" + "".join(reversed(lines)))
    assert "0 sessions new, 3 unchanged, 0 entries added" in turned.stdout


def test_further_messages_of_a_conversation_are_appended(cli: CommandLine, write: Callable[..., str]) -> None:
    cli("import", "openai-jsonl", write(line("one", id=7)), "--session-id", "c{id}")
    grown = cli("import", "openai-jsonl", write(line("one", "two", "three", id=7)), "--session-id", "c{id}")
    assert "0 sessions new, 1 extended, 0 unchanged, 2 entries added" in grown.stdout
    earlier = cli("import", "openai-jsonl", write(line("one", id=7)), "--session-id", "c{id}")
    assert "0 sessions new, 1 unchanged, 0 entries added" in earlier.stdout
    with cli.store() as store:
        assert [entry.content["content"] for entry in store.history.read("c7")] == ["one", "two", "three"]


@pytest.mark.parametrize("said", [("other",), ("one", "other"), ("other", "two", "three")])
def test_other_messages_under_the_same_id_are_a_conflict(
    cli: CommandLine, write: Callable[..., str], said: tuple[str, ...]
) -> None:
    cli("import", "openai-jsonl", write(line("one", "two", id="a")), "--session-id", "{id}")
    before = rows(cli.url)
    file = write(line(*said, id="a"), line("new", id="b"))
    result = cli("import", "openai-jsonl", file, "--session-id", "{id}", code=1)
    assert f"{file}:1: " in result.stderr
    assert "session 'a' already has an entry with another content at position" in result.stderr
    assert "error: 1 line could not be imported" in result.stderr
    assert "1 session new" in result.stdout
    cli("delete", "b", "--yes")
    assert rows(cli.url) == before, "the session in conflict was touched"


def test_metadata_is_set_when_a_session_is_made_and_stays(cli: CommandLine, write: Callable[..., str]) -> None:
    cli("import", "openai-jsonl", write(line("one", id="a", z=1, b=[True, None])), "--session-id", "{id}")
    cli("import", "openai-jsonl", write(line("one", "two", id="a", z=2)), "--session-id", "{id}", "--user-id", "x")
    with cli.store() as store:
        session = store.sessions.get("a")
    assert json.dumps(session.metadata) == '{"id": "a", "z": 1, "b": [true, null]}'
    assert session.user_id is None


BAD_LINES = {
    "not JSON": "{oops\n",
    "not a JSON object": "[1]\n",
    "no list under 'messages'": '{"messages": "hi"}\n',
    "messages[1] is not an object with a 'role'": '{"messages": [{"role": "user"}, {"content": "hi"}]}\n',
    "not UTF-8 text": b'{"messages": [], "x": "\xff"}\n',
    "the same key twice": '{"messages": [], "x": 1, "x": 2}\n',
    "NaN or an infinity": '{"messages": [{"role": "user", "content": NaN}]}\n',
    "nested": '{"messages": [], "x": ' + "[" * 500 + "]" * 500 + "}\n",
    "an integer of more than 4,300 digits": '{"messages": [], "x": ' + "9" * 5000 + "}\n",
}


@pytest.mark.parametrize("problem", BAD_LINES)
def test_a_bad_line_is_reported_and_left_out_whole_and_the_others_go_in(
    cli: CommandLine, write: Callable[..., str], problem: str
) -> None:
    file = write(line("before"), "\n", BAD_LINES[problem], line("behind"))
    result = cli("import", "openai-jsonl", file, code=1)
    assert f"{file}:3: " in result.stderr
    assert problem in result.stderr
    assert "2 sessions new, 0 unchanged, 2 entries added" in result.stdout
    with cli.store() as store:
        assert sorted(messages for _, messages in conversations(store).values()) == [
            ['{"role": "user", "content": "before"}'],
            ['{"role": "user", "content": "behind"}'],
        ]


def test_a_line_without_a_field_of_the_template_is_named(sqlite_cli: CommandLine, write: Callable[..., str]) -> None:
    file = write(line("one", id="a"), line("two"), line("three", id=None))
    result = sqlite_cli("import", "openai-jsonl", file, "--session-id", "x-{id}", code=1)
    assert f"{file}:2: --session-id names field 'id', which the line does not have" in result.stderr
    assert f"{file}:3: --session-id names field 'id', which is neither text nor a number" in result.stderr
    assert "1 session new" in result.stdout


@pytest.mark.parametrize("template", ["fixed", "", "{}", "{id!r}", "{id:>3}", "{id"])
def test_a_template_that_cannot_be_used_is_a_usage_error(
    sqlite_cli: CommandLine, write: Callable[..., str], template: str
) -> None:
    result = sqlite_cli("import", "openai-jsonl", write(line("x")), "--session-id", template, code=2)
    assert "--session-id" in result.stderr


def test_a_template_reads_fields_only(sqlite_cli: CommandLine, write: Callable[..., str]) -> None:
    file = write(line("one", id="a", **{"a.b": 1}))
    for template in ("{id.__class__}", "{messages[0]}"):
        result = sqlite_cli("import", "openai-jsonl", file, "--session-id", template, code=1)
        assert "which the line does not have" in result.stderr
    assert "1 session new" in sqlite_cli("import", "openai-jsonl", file, "--session-id", "{{{a.b}}}").stdout
    sqlite_cli("show", "{1}")


def test_a_file_of_something_else_is_not_read_to_its_end(sqlite_cli: CommandLine, write: Callable[..., str]) -> None:
    result = sqlite_cli("import", "openai-jsonl", write("no\n" * 1000, line("late")), code=1)
    assert len(result.stderr.splitlines()) == 101
    assert "is it JSON Lines?" in result.stderr


def test_a_line_that_is_too_long_is_left_out(
    sqlite_cli: CommandLine, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statestore.checking.json_files.MAX_BYTES", 100)
    file = write(line("one"), line("x" * 350), line("two"))
    result = sqlite_cli("import", "openai-jsonl", file, code=1)
    assert f"{file}:2: is longer than 100 bytes" in result.stderr
    assert "2 sessions new" in result.stdout


def test_large_files_are_written_in_several_transactions(
    sqlite_cli: CommandLine, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    from statestore.importers.openai_conversations import BatchWriter

    commit = BatchWriter._commit

    def counting(self: BatchWriter, batch: list[Any]) -> Any:
        sizes.append(sum(len(one.messages) for one in batch))
        return commit(self, batch)

    monkeypatch.setattr(BatchWriter, "_commit", counting)
    sqlite_cli("import", "openai-jsonl", write(*(line(str(n), "again") for n in range(600))))
    assert sum(sizes) == 1200
    assert max(sizes) <= 500


def test_a_byte_order_mark_an_empty_conversation_and_a_missing_last_newline_are_fine(
    sqlite_cli: CommandLine, write: Callable[..., str]
) -> None:
    result = sqlite_cli("import", "openai-jsonl", write(b"\xef\xbb\xbf", line(), line("last").rstrip("\n")))
    assert "2 sessions new, 0 unchanged, 1 entry added" in result.stdout


def test_a_lost_connection_does_not_end_an_import(
    cli: CommandLine, trajectories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from statestore import CommitUnknownError
    from statestore.importers.openai_conversations import BatchWriter

    failures = iter([CommitUnknownError("lost"), None, CommitUnknownError("lost")])
    write_one = BatchWriter._write_one

    def failing(self: BatchWriter, *args: Any) -> None:
        write_one(self, *args)
        failure = next(failures, None)
        if failure is not None:
            raise failure

    monkeypatch.setattr(BatchWriter, "_write_one", failing)
    result = cli("import", "openai-jsonl", str(trajectories))
    assert f"200 sessions new, 0 unchanged, {count_messages(trajectories):,} entries added" in result.stdout
    with cli.store() as store:
        assert sum(len(messages) for _, messages in conversations(store).values()) == count_messages(trajectories)


def test_a_file_that_is_not_there_makes_no_database(tmp_path: Path) -> None:
    cli = CommandLine(f"sqlite:///{tmp_path / 'new.db'}")
    cli("import", "openai-jsonl", str(tmp_path / "missing.jsonl"), code=2)
    assert not list(tmp_path.iterdir())


def test_progress_is_drawn_on_a_terminal_only(sqlite_cli: CommandLine, trajectories: Path) -> None:
    reader, terminal = pty.openpty()
    command = [SCRIPT, "import", "openai-jsonl", trajectories]
    with subprocess.Popen(command, env=sqlite_cli.environment, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        drawn = b""
        while True:
            try:
                part = os.read(reader, 65536)
            except OSError:  # How Linux says that the other end was closed.
                break
            if not part:
                break
            drawn += part
        assert process.stdout is not None
        assert b"200 sessions new" in process.stdout.read(), drawn
    os.close(reader)
    assert b"importing" in drawn
    assert b"100%" in drawn

    quiet = sqlite_cli.process("import", "openai-jsonl", trajectories)
    assert (quiet.returncode, quiet.stderr) == (0, "")
