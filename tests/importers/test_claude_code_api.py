"""`importers.claude_code` as a function: what it returns and reports. `test_claude_code` has what becomes of lines."""

from dataclasses import asdict
from pathlib import Path

import pytest

from statestore import ConflictError, InvalidValueError, NewEntry, StateStore
from statestore.importers import ClaudeCodeReport, Problem, claude_code
from tests.importers.test_claude_code import Transcript, conversation, used


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "projects" / "-home-ada-project"


def content(store: StateStore) -> dict[str, list[str]]:
    """The ids of what every session holds; positions without gaps."""
    found = {}
    for session in store.sessions.page(include_parts=True).sessions:
        entries = store.history.read(session.session_id)
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        found[session.session_id] = [entry.entry_id for entry in entries]
    return found


SAID = {"one": ["u1", "a1", "a2", "u2", "a3"], "two": ["v1", "b1"], "one/agent-f": ["g1", "g2"]}


def write(folder: Path) -> list[Path]:
    """Two sessions and a sub-agent."""
    two = Transcript(folder / "two.jsonl").user("v1").assistant("b1", "msg_b", used(1, 1)).write()
    agent = Transcript(folder / "agent-f.jsonl", session="one").user("g1").assistant("g2", "msg_g", used(7, 7)).write()
    return sorted([conversation(folder).path, two.path, agent.path])


def test_every_line_goes_in_once_however_often_it_is_imported(store: StateStore, folder: Path) -> None:
    paths = write(folder)
    files: list[int] = []
    done: list[Path] = []
    first = claude_code(store, folder.parent, user_id="ada", expect=files.append, progress=done.append)
    assert first == ClaudeCodeReport(files=3, sessions_new=3, entries_added=9, lines_skipped=2)
    assert content(store) == SAID
    assert (files, sorted(done)) == ([3], paths)
    assert {session.user_id for session in store.sessions.page(include_parts=True).sessions} == {"ada"}
    assert store.usage.totals().model_calls == 4
    again = claude_code(store, str(folder))
    assert again == ClaudeCodeReport(files=3, sessions_unchanged=3, lines_skipped=2)
    assert content(store) == SAID
    assert store.usage.totals().model_calls == 4


def test_a_file_alone_and_then_more_of_it(store: StateStore, folder: Path) -> None:
    written = conversation(folder)
    assert claude_code(store, written.path).entries_added == 5
    written.user("u3").assistant("a4", "msg_4", used(1, 1)).write()
    done = claude_code(store, written.path)
    assert (done.files, done.sessions_extended, done.entries_added) == (1, 1, 2)
    assert content(store) == {"one": [*SAID["one"], "u3", "a4"]}


def test_an_import_that_was_cut_off_is_completed(store: StateStore, folder: Path) -> None:
    paths = write(folder)

    def stop(file: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        claude_code(store, folder, progress=stop)
    assert len(content(store)) == 1
    done = claude_code(store, folder)
    assert (done.sessions_new, done.sessions_unchanged, done.files) == (2, 1, len(paths))
    assert content(store) == SAID
    assert store.usage.totals().model_calls == 4


def test_what_is_left_out_is_reported_and_the_others_go_in(
    store: StateStore, folder: Path, problems: list[Problem]
) -> None:
    written = conversation(folder)
    written.lines.insert(2, "{broken")
    written.lines[0]["summary"] = "T\x00itle"
    written.write()
    (folder / "folder.jsonl").symlink_to(folder / "missing")
    done = claude_code(store, folder, on_problem=problems.append)
    assert (done.entries_added, done.lines_failed) == (5, 2)
    assert content(store) == {"one": SAID["one"]}
    assert [(problem.source, problem.line) for problem in problems] == [(str(written.path), 3), (str(written.path), 1)]
    for problem in problems:
        assert isinstance(problem.error, InvalidValueError)
        assert str(problem.error) == f"{written.path}:{problem.line}: {problem.reason}"


def test_without_a_function_to_report_to_a_bad_line_raises_and_what_went_in_before_stays(
    store: StateStore, folder: Path
) -> None:
    written = conversation(folder)
    bad = Transcript(folder / "two.jsonl")
    bad._minute = 60  # The later one.
    bad.user("v1").line("{broken").assistant("b1", "msg_b", used(1, 1)).write()
    with pytest.raises(InvalidValueError) as caught:
        claude_code(store, folder)
    assert str(caught.value).startswith(f"{bad.path}:2: is not JSON")
    assert content(store) == {"one": SAID["one"]}
    del bad.lines[1]
    bad.write()
    assert claude_code(store, folder).entries_added == 2
    assert content(store) == {"one": SAID["one"], "two": ["v1", "b1"]}
    assert written.path.exists()


def test_a_line_that_contradicts_what_is_stored_is_a_conflict(
    store: StateStore, folder: Path, problems: list[Problem]
) -> None:
    written = conversation(folder)
    store.sessions.create("one", agent_name="claude-code")
    store.history.append("one", [NewEntry("by hand")])
    whole = store.history.append

    def meanwhile(session_id: str, entries: list[NewEntry], **kwargs: object) -> object:
        if entries and entries[0].entry_id == "u1":  # Another import stores other content first.
            whole(session_id, [NewEntry("other", entry_id="a2")])
        return whole(session_id, entries)

    store.history.__dict__["append"] = meanwhile
    done = claude_code(store, folder, on_problem=problems.append)
    assert (done.entries_added, done.lines_failed) == (4, 1)
    [problem] = problems
    assert (problem.source, problem.line) == (str(written.path), 4)
    assert isinstance(problem.error, ConflictError)
    assert problem.error.entry_id == "a2"


def test_a_path_and_a_user_that_cannot_be_used_are_refused(store: StateStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="does not exist"):
        claude_code(store, tmp_path / "missing")
    with pytest.raises(InvalidValueError, match="user_id"):
        claude_code(store, tmp_path, user_id="")
    assert set(asdict(claude_code(store, tmp_path)).values()) == {0}


def test_errors_and_durations_of_results_count_for_their_tool(store: StateStore, folder: Path) -> None:
    written = Transcript(folder / "one.jsonl").user("u1")
    for number, (tool, failed) in enumerate([("Bash", True), ("Read", False), ("Bash", False)]):
        written.assistant(f"a{number}", f"msg_{number}", used(1, 1), stop="tool_use")
        written.lines[-1]["message"]["content"] = [
            {"type": "tool_use", "id": f"toolu_{number}", "name": tool, "input": {}}
        ]
        block = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": "…", "is_error": failed}
        if number == 2:  # The last result is only there at the next import.
            written.write()
            claude_code(store, written.path)
        written.user(f"r{number}", [block], toolUseResult={"durationMs": 1000})
    written.write()
    claude_code(store, written.path)
    found = {row.tool_name: row for row in store.usage.by_tool()}
    assert {name: (row.tool_calls, row.errors, row.timed_entries) for name, row in found.items()} == {
        "Bash": (2, 1, 2),
        "Read": (1, 0, 1),
        None: (0, 0, 0),
    }
