"""`importers.openai_jsonl`: each conversation once, whatever happened before."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from statestore import ConflictError, InvalidValueError, StateStore
from statestore.importers import ConversationsReport, NotConversationsError, Problem, openai_jsonl


def line(*said: str, **fields: Any) -> str:
    return json.dumps({**fields, "messages": [{"role": "user", "content": one} for one in said]}) + "\n"


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(lines))
    return path


def conversations(store: StateStore) -> dict[str, list[str]]:
    """What every session says; positions without gaps."""
    found = {}
    for session in store.sessions.page(limit=10_000).sessions:
        entries = store.history.read(session.session_id)
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        found[session.session_id] = [entry.content["content"] for entry in entries]
    return found


def test_every_message_goes_in_once_however_often_it_is_imported(store: StateStore, tmp_path: Path) -> None:
    # More than fit into one transaction.
    said = {f"s{n}": [f"{n}-{i}" for i in range(n % 7)] for n in range(400)}
    file = write(tmp_path / "runs.jsonl", *(line(*texts, id=name) for name, texts in said.items()))
    entries = sum(map(len, said.values()))
    first = openai_jsonl(store, file, session_id="{id}", user_id="ada", agent_name="pilot")
    assert first == ConversationsReport(sessions_new=400, entries_added=entries)
    assert conversations(store) == said
    session = store.sessions.get("s3")
    assert (session.user_id, session.agent_name, session.metadata) == ("ada", "pilot", {"id": "s3"})
    again = openai_jsonl(store, str(file), session_id="{id}")
    assert again == ConversationsReport(sessions_unchanged=400)
    assert conversations(store) == said


def test_further_messages_are_appended(store: StateStore, tmp_path: Path) -> None:
    file = write(tmp_path / "f", line("one", id="a"), line("x", id="b"))
    openai_jsonl(store, file, session_id="{id}")
    write(file, line("one", "two", "three", id="a"), line("x", id="b"), line("new", id="c"))
    done = openai_jsonl(store, file, session_id="{id}")
    assert done == ConversationsReport(sessions_new=1, sessions_extended=1, sessions_unchanged=1, entries_added=3)
    assert conversations(store) == {"a": ["one", "two", "three"], "b": ["x"], "c": ["new"]}


def test_an_import_that_was_cut_off_is_completed(store: StateStore, tmp_path: Path) -> None:
    said = {f"s{n}": ["a", "b"] for n in range(600)}
    file = write(tmp_path / "f", *(line(*texts, id=name) for name, texts in said.items()))
    read = 0

    def stop(size: int) -> None:
        nonlocal read
        read += size
        if read > file.stat().st_size * 0.8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        openai_jsonl(store, file, session_id="{id}", progress=stop)
    left = conversations(store)
    assert 0 < len(left) < 600
    assert all(texts == ["a", "b"] for texts in left.values())
    done = openai_jsonl(store, file, session_id="{id}")
    assert (done.sessions_new, done.sessions_unchanged) == (600 - len(left), len(left))
    assert conversations(store) == said


def test_a_file_that_is_open_is_read_and_its_bytes_are_counted(store: StateStore) -> None:
    data = (line("a") + "\n" + line("b", "c")).encode()
    sizes: list[int] = []
    assert openai_jsonl(store, io.BytesIO(data), progress=sizes.append).entries_added == 3
    assert sum(sizes) == len(data)


BAD = [line("one", id="a"), "{oops\n", line("x", n=1), line("other", id="a"), '{"id": "d", "messages": [1]}\n']


def test_what_is_left_out_is_reported_and_the_others_go_in(
    store: StateStore, tmp_path: Path, problems: list[Problem]
) -> None:
    file = write(tmp_path / "f", *BAD, line("behind", id="b"))
    done = openai_jsonl(store, file, session_id="{id}", on_problem=problems.append)
    assert done == ConversationsReport(sessions_new=2, entries_added=2, lines_failed=4)
    assert conversations(store) == {"a": ["one"], "b": ["behind"]}
    problems.sort(key=lambda problem: problem.line or 0)
    assert [(problem.source, problem.line) for problem in problems] == [(str(file), line) for line in (2, 3, 4, 5)]
    reasons = ["not JSON", "session_id names field 'id'", "already has an entry with another content", "messages[0]"]
    for problem, reason in zip(problems, reasons, strict=True):
        assert reason in problem.reason
        assert str(problem.error) == f"{file}:{problem.line}: {problem.reason}"
    assert [isinstance(problem.error, ConflictError) for problem in problems] == [False, False, True, False]


@pytest.mark.parametrize("bad", range(1, len(BAD)))
def test_without_a_function_to_report_to_a_bad_line_raises(store: StateStore, tmp_path: Path, bad: int) -> None:
    openai_jsonl(store, write(tmp_path / "good", BAD[0]), session_id="{id}")
    file = write(tmp_path / "f", "\n", BAD[bad])
    expected = ConflictError if bad == 3 else InvalidValueError
    with pytest.raises(expected) as caught:
        openai_jsonl(store, file, session_id="{id}")
    assert str(caught.value).startswith(f"{file}:2: ")
    assert conversations(store) == {"a": ["one"]}
    if bad == 3:  # It keeps what it knows.
        assert (caught.value.field, caught.value.actual) == ("content", 1)  # type: ignore[attr-defined]


def test_a_file_of_something_else_is_not_read_to_its_end(
    store: StateStore, tmp_path: Path, problems: list[Problem]
) -> None:
    file = write(tmp_path / "f", "no\n" * 1000, line("late"))
    with pytest.raises(NotConversationsError, match="is it JSON Lines"):
        openai_jsonl(store, file, on_problem=problems.append)
    assert len(problems) == 100
    assert conversations(store) == {}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"session_id": "fixed"}, "session_id"),
        ({"session_id": "{"}, "session_id"),
        ({"session_id": 5}, "session_id"),
        ({"user_id": ""}, "user_id"),
        ({"agent_name": "x" * 513}, "agent_name"),
    ],
    ids=str,
)
def test_an_argument_that_cannot_be_used_is_named(
    store: StateStore, tmp_path: Path, arguments: dict[str, Any], names: str
) -> None:
    with pytest.raises(InvalidValueError, match=rf"^{names}: "):
        openai_jsonl(store, write(tmp_path / "f", line("a", id="b")), **arguments)
    assert conversations(store) == {}


def test_a_file_that_cannot_be_opened_is_named(store: StateStore, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InvalidValueError, match=str(path)):
            openai_jsonl(store, path)
