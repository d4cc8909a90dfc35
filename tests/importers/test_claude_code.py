"""Claude Code's transcripts as sessions: what becomes of each kind of line, and that nothing counts twice."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from statestore import NewEntry, StateStore
from tests.support.command_line import Ran, invoke
from tests.support.content import Content

MODEL = "claude-sonnet-4-5-20250929"


def used(input: int, output: int, *, read: int = 0, write: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": input,
        "output_tokens": output,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": write,
    }


class Transcript:
    """Writes lines as Claude Code does."""

    def __init__(self, path: Path, session: str | None = None) -> None:
        self.path = path
        self.session = session or path.stem
        self.lines: list[Any] = []
        self._minute = 0

    def user(self, uuid: str, content: Any = "do it", **extra: Any) -> "Transcript":
        return self._add("user", uuid, {"role": "user", "content": content}, extra)

    def assistant(
        self, uuid: str, message_id: str, usage: dict[str, Any], *, stop: str | None = "end_turn", **extra: Any
    ) -> "Transcript":
        """A block of a response; `stop` is None in those before the last."""
        block = {"type": "text", "text": uuid}
        message = {"role": "assistant", "id": message_id, "model": MODEL, "content": [block], "usage": usage}
        return self._add("assistant", uuid, {**message, "stop_reason": stop}, extra)

    def line(self, line: Any) -> "Transcript":
        self.lines.append(line)
        return self

    def copy(self, path: Path) -> "Transcript":
        """A session that was resumed: it begins with the same lines."""
        other = Transcript(path)
        other.lines = [{**line, "sessionId": path.stem} for line in self.lines if isinstance(line, dict)]
        other._minute = self._minute
        return other

    def write(self) -> "Transcript":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        texts = [line if isinstance(line, str) else json.dumps(line) for line in self.lines]
        self.path.write_text("".join(f"{text}\n" for text in texts))
        return self

    def age(self, **ago: float) -> "Transcript":
        """As if nothing had been written for so long."""
        at = time.time() - timedelta(**ago).total_seconds()
        os.utime(self.path, (at, at))
        return self

    def _add(self, kind: str, uuid: str, message: dict[str, Any], extra: dict[str, Any]) -> "Transcript":
        self._minute += 1
        parent = next((line.get("uuid") for line in reversed(self.lines) if isinstance(line, dict)), None)
        at = datetime(2026, 3, 1, 10, tzinfo=UTC) + timedelta(minutes=self._minute)
        line = {
            "type": kind,
            "uuid": uuid,
            "parentUuid": parent,
            "sessionId": self.session,
            "timestamp": at.isoformat().replace("+00:00", "Z"),
            "cwd": "/home/ada/project",
            "version": "2.0.1",
            "gitBranch": "main",
            "isSidechain": False,
            "message": message,
        }
        self.lines.append({**line, **extra})
        return self


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "projects" / "-home-ada-project"


def run(url: str, path: Path, *arguments: str, code: int = 0) -> Ran:
    done = invoke("import", "claude-code", str(path), "--json", *arguments, "--url", url)
    assert done.exit_code == code, done.output
    return done


def totals(done: Ran) -> dict[str, int]:
    found: dict[str, int] = json.loads(done.stdout)
    return found


def conversation(folder: Path) -> Transcript:
    return (
        Transcript(folder / "one.jsonl")
        .line({"type": "summary", "summary": "Mend the bug", "leafUuid": "x"})
        .user("u1")
        .assistant("a1", "msg_1", used(10, 1, read=100, write=50))
        .assistant("a2", "msg_1", used(10, 77, read=100, write=50))
        .user("u2", [{"type": "tool_result", "tool_use_id": "t", "content": "no", "is_error": True}],
              toolUseResult={"durationMs": 1250})
        .line({"type": "file-history-snapshot", "messageId": "x"})
        .assistant("a3", "msg_2", used(5, 6))
        .write()
    )  # fmt: skip


def test_a_file_is_a_session_and_its_messages_are_kept(database_url: str, folder: Path) -> None:
    written = conversation(folder)
    done = totals(run(database_url, folder.parent, "--user-id", "ada"))
    assert (done["files"], done["sessions_new"], done["entries_added"], done["lines_skipped"]) == (1, 1, 5, 2)
    with StateStore.open(database_url) as store:
        session = store.sessions.get("one")
        assert (session.title, session.user_id, session.agent_name) == ("Mend the bug", "ada", "claude-code")
        assert (session.project_root, session.cwd) == ("/home/ada/project", "/home/ada/project")
        entries = store.history.read("one")
        assert [entry.content for entry in entries] == [line["message"] for line in written.lines if "message" in line]
        assert [entry.entry_id for entry in entries] == ["u1", "a1", "a2", "u2", "a3"]
        assert [entry.role for entry in entries] == ["user", "assistant", "assistant", "tool", "assistant"]
        assert entries[0].created_at == datetime(2026, 3, 1, 10, 1, tzinfo=UTC)
        assert (entries[3].error_type, entries[3].duration) == ("tool_error", timedelta(milliseconds=1250))


def test_lines_that_repeat_a_message_id_count_once_with_the_figures_of_the_last(
    database_url: str, folder: Path
) -> None:
    conversation(folder)
    run(database_url, folder)
    with StateStore.open(database_url) as store:
        found = store.usage.totals()
        assert (found.model_calls, found.input_tokens, found.output_tokens) == (2, 10 + 100 + 50 + 5, 77 + 6)
        assert (found.cache_read_input_tokens, found.cache_write_input_tokens) == (100, 50)


def test_a_second_import_changes_nothing_and_a_longer_file_adds_to_it(database_url: str, folder: Path) -> None:
    written = conversation(folder)
    run(database_url, folder)
    again = totals(run(database_url, folder))
    assert (again["sessions_new"], again["sessions_unchanged"], again["entries_added"]) == (0, 1, 0)
    written.user("u3").assistant("a4", "msg_3", used(1, 1)).write()
    longer = totals(run(database_url, folder))
    assert (longer["sessions_extended"], longer["entries_added"]) == (1, 2)
    with StateStore.open(database_url) as store:
        assert store.history.count("one") == 7
        assert store.usage.totals().model_calls == 3


def test_an_import_that_was_cut_off_is_completed(database_url: str, folder: Path) -> None:
    written = conversation(folder)
    whole = written.lines
    written.lines = whole[:3]
    written.write()
    run(database_url, folder)
    with StateStore.open(database_url) as store:
        store.history.append("one", [NewEntry("by hand")])
    written.lines = whole
    written.write()
    assert totals(run(database_url, folder))["entries_added"] == 3
    with StateStore.open(database_url) as store:
        ids = [entry.entry_id for entry in store.history.read("one")]
        assert [name for name in ids if len(name) == 2] == ["u1", "a1", "a2", "u2", "a3"]


def test_a_bad_line_is_named_and_does_not_stop_the_others(database_url: str, folder: Path) -> None:
    written = conversation(folder)
    written.lines.insert(2, "{broken")
    written.lines.insert(4, '{"type": "user", "message": {"content": 1}}')
    written.lines.insert(5, '{"type": "user", "message": {"role": "user", "content": NaN}}')
    written.write()
    done = run(database_url, folder, code=1)
    assert totals(done)["entries_added"] == 5
    errors = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in errors[:3]] == [f"{written.path}:{number}" for number in (3, 5, 6)]
    assert "3 lines could not be imported" in errors[-1]


def sub_agents(folder: Path) -> Transcript:
    """A session with two sub-agents, one of them in a file of its own."""
    main_file = conversation(folder)
    main_file.user("s1", isSidechain=True).assistant("s2", "msg_s", used(7, 7), isSidechain=True).write()
    agent = Transcript(folder / "agent-f00.jsonl", session="one")
    agent.user("g1", agentId="f00").assistant("g2", "msg_g", used(1000, 10), agentId="f00").write()
    return agent


def test_sub_agents_belong_to_their_sessions(database_url: str, folder: Path) -> None:
    sub_agents(folder)
    assert totals(run(database_url, folder))["sessions_new"] == 3
    with StateStore.open(database_url) as store:
        assert store.history.count("one") == 5
        assert store.sessions.count() == 1
        parts = {part.session_id: part for part in store.sessions.page(belongs_to="one").sessions}
        assert set(parts) == {"one/agent-s1", "one/agent-f00"}
        for name, tokens in (("one/agent-s1", 7), ("one/agent-f00", 1000)):
            assert (parts[name].parent_session_id, parts[name].entry_count) == (None, 2)
            assert parts[name].agent_name == "claude-code/sub-agent"
            assert store.usage.totals(session_id=name).input_tokens == tokens
        assert store.sessions.delete("one")
        assert store.sessions.count(include_parts=True) == 0


@pytest.mark.parametrize("parent", ["one", None])
def test_sub_agents_that_were_forks_are_completed(
    database_url: str, folder: Path, content: Content, parent: str | None
) -> None:
    """As earlier versions made them, and as the migration leaves them."""
    agent = sub_agents(folder)
    run(database_url, folder)
    with StateStore.open(database_url) as store:
        forked = {"parent": parent, "at": None if parent is None else 0, "root": parent or "one/agent-f00"}
        content.query(
            "UPDATE sessions SET parent_session_id = :parent, forked_at_seq = :at, root_session_id = :root"
            " WHERE session_id = 'one/agent-f00' RETURNING 1",
            **forked,
        )
        agent.user("g3", agentId="f00").assistant("g4", "msg_h", used(10, 10), agentId="f00").write()
        assert totals(run(database_url, folder))["entries_added"] == 2
        assert totals(run(database_url, folder))["entries_added"] == 0
        part = store.sessions.get("one/agent-f00")
        assert (part.belongs_to, part.parent_session_id, part.entry_count) == ("one", parent, 4)
        assert store.sessions.delete("one")
        assert store.sessions.count(include_parts=True) == 0


def test_a_resumed_session_does_not_bill_its_copy_again(database_url: str, folder: Path) -> None:
    original = conversation(folder)
    # By its name it would be read first.
    original.copy(folder / "0-resumed.jsonl").user("u9").assistant("a9", "msg_9", used(2, 3)).write()
    run(database_url, folder)
    with StateStore.open(database_url) as store:
        assert store.history.count("0-resumed") == 7
        by_session = {row.session_id: row.model_calls for row in store.usage.by_session()}
        assert by_session == {"one": 2, "0-resumed": 1}


def test_costs_are_computed_where_prices_are_known(database_url: str, folder: Path) -> None:
    Transcript(folder / "one.jsonl").user("u").assistant("a", "msg", used(1000, 100)).write()
    with StateStore.open(database_url) as store:
        store.prices.set(MODEL, input_price=3, output_price=15)
        run(database_url, folder)
        assert store.usage.totals().cost_usd == Decimal("0.0045")


def test_there_is_nothing_to_import_where_there_is_nothing(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert totals(run(database_url, tmp_path / "empty"))["files"] == 0


def test_a_copy_that_is_imported_later_and_alone_is_not_billed_again(database_url: str, folder: Path) -> None:
    original = conversation(folder)
    copied = original.copy(folder / "resumed.jsonl").user("u9").assistant("a9", "msg_9", used(2, 3)).write()
    again = copied.copy(folder / "resumed-again.jsonl").assistant("a10", "msg_10", used(4, 5)).write()
    run(database_url, original.path)
    original.path.unlink()
    for file in (copied.path, again.path, copied.path):
        run(database_url, file)
    with StateStore.open(database_url) as store:
        by_session = {row.session_id: row.model_calls for row in store.usage.by_session()}
        assert by_session == {"one": 2, "resumed": 1, "resumed-again": 1}
        assert store.usage.totals().output_tokens == 77 + 6 + 3 + 5


def test_it_is_billed_once_whichever_copy_comes_first(database_url: str, folder: Path) -> None:
    original = conversation(folder)
    copied = original.copy(folder / "resumed.jsonl").assistant("a9", "msg_9", used(2, 3)).write()
    run(database_url, copied.path)
    run(database_url, original.path)
    run(database_url, folder)
    with StateStore.open(database_url) as store:
        assert {row.session_id: row.model_calls for row in store.usage.by_session()} == {"one": 0, "resumed": 3}


def test_what_another_agent_or_a_line_without_an_id_has_said_is_no_copy(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        store.sessions.create("other", agent_name="another")
        store.history.append("other", [NewEntry("x", entry_id="a1"), NewEntry("y", entry_id="a3")])
    conversation(folder)
    for name in ("two", "three"):
        nameless = Transcript(folder / f"{name}.jsonl").assistant("", f"msg_{name}", used(1, 1)).write()
        run(database_url, nameless.path)
    run(database_url, folder)
    with StateStore.open(database_url) as store:
        assert store.usage.totals().model_calls == 4


def test_a_session_that_grows_is_looked_up_in_batches(database_url: str, folder: Path) -> None:
    written = Transcript(folder / "long.jsonl")
    for number in range(1200):
        written.assistant(f"a{number}", f"msg_{number}", used(1, 1))
    written.write()
    run(database_url, written.path)
    copied = written.copy(folder / "copy.jsonl").assistant("last", "msg_last", used(1, 1)).write()
    run(database_url, copied.path)
    with StateStore.open(database_url) as store:
        assert {row.session_id: row.model_calls for row in store.usage.by_session()} == {"long": 1200, "copy": 1}


def test_a_response_that_is_still_being_written_waits_for_the_next_import(database_url: str, folder: Path) -> None:
    written = Transcript(folder / "one.jsonl").user("u1").assistant("a1", "msg_1", used(10, 1), stop=None).write()
    first = totals(run(database_url, folder))
    assert (first["entries_added"], first["lines_unfinished"]) == (1, 1)
    written.assistant("a2", "msg_1", used(10, 500)).user("u2").write()
    second = totals(run(database_url, folder))
    assert (second["entries_added"], second["lines_unfinished"], second["sessions_extended"]) == (3, 0, 1)
    with StateStore.open(database_url) as store:
        found = store.usage.totals()
        assert (found.model_calls, found.output_tokens) == (1, 500)
        assert [entry.entry_id for entry in store.history.read("one")] == ["u1", "a1", "a2", "u2"]


def test_a_response_with_lines_of_others_behind_it_does_not_wait(database_url: str, folder: Path) -> None:
    written = Transcript(folder / "one.jsonl").user("u1").assistant("a1", "msg_1", used(10, 1), stop=None)
    written.user("u2", [{"type": "tool_result", "tool_use_id": "t", "content": "yes"}]).write()
    assert totals(run(database_url, folder))["entries_added"] == 3
    written.assistant("a2", "msg_1", used(10, 500), stop="tool_use").write()
    copied = written.copy(folder / "resumed.jsonl").write()
    for _ in range(2):
        run(database_url, written.path)
        run(database_url, copied.path)
        with StateStore.open(database_url) as store:
            found = store.usage.totals()
            assert (found.input_tokens, found.output_tokens) == (10, 500)
            assert [entry.usage.output_tokens for entry in store.history.read("one")] == [None, 1, None, 499]
            assert store.usage.totals(session_id="resumed").output_tokens == 0


def test_of_a_response_that_is_still_being_written_only_the_newest_line_waits(database_url: str, folder: Path) -> None:
    written = Transcript(folder / "one.jsonl").user("u1")
    for number in range(3):
        written.assistant(f"a{number}", "msg_1", used(10, number), stop=None).write()
        assert totals(run(database_url, folder))["lines_unfinished"] == 1
    with StateStore.open(database_url) as store:
        assert [entry.entry_id for entry in store.history.read("one")] == ["u1", "a0", "a1"]
        assert store.usage.totals().model_calls == 0
        store.history.append("one", [NewEntry("by hand")])
    written.assistant("a3", "msg_1", used(10, 500)).write()
    for _ in range(2):
        run(database_url, folder)
    with StateStore.open(database_url) as store:
        assert (store.usage.totals().model_calls, store.usage.totals().output_tokens) == (1, 500)
        assert store.history.count("one") == 6


@pytest.mark.parametrize("cut", [1, 40, -2])
def test_a_last_line_that_is_not_complete_waits_and_those_before_it_do_not(
    database_url: str, folder: Path, cut: int
) -> None:
    written = conversation(folder)
    written.user("u3", "the one that is written").write()
    whole = written.path.read_bytes()
    end = whole.rstrip(b"\n").rindex(b"\n") + 1
    written.path.write_bytes(whole[: end + cut] if cut > 0 else whole[:cut])
    first = totals(run(database_url, folder))
    assert (first["entries_added"], first["lines_unfinished"], first["lines_failed"]) == (5, 1, 0)
    # It was not written to any more: then it is damaged.
    written.age(hours=1)
    assert totals(run(database_url, folder, code=1))["lines_failed"] == 1
    written.path.write_bytes(whole)
    assert totals(run(database_url, folder))["entries_added"] == 1
    with StateStore.open(database_url) as store:
        assert [entry.entry_id for entry in store.history.read("one")] == ["u1", "a1", "a2", "u2", "a3", "u3"]


def test_one_bad_byte_costs_its_line_only_wherever_it_stands(sqlite_url: str, folder: Path) -> None:
    conversation(folder)
    good = Transcript(folder / "two.jsonl").user("v1").assistant("b1", "msg_b", used(1, 1)).write()
    whole = good.path.read_bytes()
    ends = [whole.index(b"\n"), len(whole) - 1]
    at = [whole.index(b'"timestamp": "') + 15, whole.rindex(b'"timestamp": "') + 15, *range(0, len(whole), 29)]
    for number, position in enumerate(at):
        if position in ends:
            continue
        good.path.write_bytes(whole[:position] + b"\xff" + whole[position + 1 :])
        done = run(sqlite_url, folder, "--namespace", f"n{number}", code=1)
        assert (totals(done)["entries_added"], totals(done)["lines_failed"]) == (6, 1)
        line = 1 if position < ends[0] else 2
        assert done.stderr.splitlines()[0] == f"{good.path}:{line}: is not UTF-8 text"


def test_a_response_that_was_never_finished_is_imported_once_nobody_writes_any_more(
    database_url: str, folder: Path
) -> None:
    written = Transcript(folder / "one.jsonl").user("u1").assistant("a1", "msg_1", used(10, 7), stop=None).write()
    assert totals(run(database_url, folder))["entries_added"] == 1
    assert "still being written" in invoke("import", "claude-code", str(folder), "--url", database_url).stdout
    written.age(hours=1)
    for added in (1, 0):
        assert totals(run(database_url, folder))["entries_added"] == added
    with StateStore.open(database_url) as store:
        assert store.usage.totals().output_tokens == 7


def test_an_attribute_that_cannot_be_stored_is_left_out_and_its_line_named(database_url: str, folder: Path) -> None:
    written = conversation(folder)
    written.lines[0]["summary"] = "T\x00itle"
    for line in written.lines:
        if "cwd" in line:
            line |= {"cwd": "/a\x00", "gitBranch": "a\x00b"}
    written.lines[1]["version"] = "\ud800"
    written.lines.insert(1, {"type": "file-history-snapshot"})
    written.write()
    done = run(database_url, folder, code=1)
    assert (totals(done)["entries_added"], totals(done)["lines_failed"]) == (5, 2)
    errors = [line.removeprefix(f"{written.path}:") for line in done.stderr.splitlines()]
    assert [":".join(line.split(":")[:2]) for line in errors[:2]] == ["3: cwd", "1: title"]
    with StateStore.open(database_url) as store:
        session = store.sessions.get("one")
        assert (session.title, session.cwd, session.project_root) == (None, None, None)
        # Of these any text can be stored.
        kept = {"claude_code_version": "\ud800", "git_branch": "a\x00b"}
        assert session.metadata == {"source": "claude-code", "file": "one.jsonl", **kept}


@pytest.mark.parametrize("uuid", ["a\x00", "\ud800", "x" * 513])
def test_an_id_that_cannot_be_stored_costs_its_line_only(database_url: str, folder: Path, uuid: str) -> None:
    written = Transcript(folder / "one.jsonl").user("u1").assistant(uuid, "msg_1", used(1, 1))
    written.assistant("a2", "msg_2", used(2, 2)).write()
    for line in written.lines:
        line["parentUuid"] = None
    written.write()
    done = run(database_url, folder, code=1)
    assert (totals(done)["entries_added"], totals(done)["lines_failed"]) == (2, 1)
    assert done.stderr.startswith(f"{written.path}:2: ")
