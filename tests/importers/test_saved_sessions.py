"""`importers.promptkit` and `importers.conexus`: each saved session once, as a whole or not at all."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from statestore import ConflictError, InvalidValueError, StateStore, UnavailableError
from statestore.importers import Problem, SessionsReport, conexus, promptkit

SAID = {"a": ["one", "two", "three"], "b": [], "c": ["four"]}


@dataclass(frozen=True)
class System:
    """A system that saves sessions: how it writes one, and what imports it."""

    name: str
    bring: Callable[..., SessionsReport]
    write: Callable[[Path, str, list[str]], Path]
    damage: Callable[[Path], str]


def write_promptkit(folder: Path, name: str, said: list[str]) -> Path:
    conversation = folder / f"conv-{name}"
    (conversation / "lists").mkdir(parents=True, exist_ok=True)
    (conversation / "state.json").write_text(json.dumps({"id": name, "user_id": "ada", "token_count": 7}))
    messages = "".join(json.dumps({"role": "user", "content": text}) + "\n" for text in said)
    (conversation / "messages.jsonl").write_text(messages)
    (conversation / "lists" / "facts.jsonl").write_text('"fact"\n')
    if said:
        summary = {"StartTurn": 0, "EndTurn": len(said), "Content": "in short"}
        (conversation / "summaries.jsonl").write_text(json.dumps(summary) + "\n")
    return conversation


def damage_promptkit(conversation: Path) -> str:
    file = conversation / "messages.jsonl"
    file.write_text('{"role": "user", "content": "good"}\n{"ro')
    return f"{file}:2: is not JSON"


def write_conexus(folder: Path, name: str, said: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"session-{name}.json"
    history = [{"content": text, "Agent": "locator"} for text in said]
    saved = {"ID": name, "UserID": "ada", "History": history, "State": {"k": [1]}, "Extra": 7}
    file.write_text(json.dumps(saved))
    return file


def damage_conexus(file: Path) -> str:
    saved = json.loads(file.read_text())
    file.write_text(json.dumps(saved | {"History": [{"content": "good"}, {"Duration": "x"}]}))
    return f"{file}: History[1]: Duration is not a duration"


SYSTEMS = [
    System("promptkit", promptkit, write_promptkit, damage_promptkit),
    System("conexus", conexus, write_conexus, damage_conexus),
]


@pytest.fixture(params=SYSTEMS, ids=lambda system: system.name)
def system(request: pytest.FixtureRequest) -> System:
    found: System = request.param
    return found


@pytest.fixture
def folder(system: System, tmp_path: Path) -> Path:
    for name, said in SAID.items():
        system.write(tmp_path / "saved", name, said)
    return tmp_path / "saved"


def content(store: StateStore) -> dict[str, list[str]]:
    """What every session says; positions without gaps."""
    found = {}
    for session in store.sessions.page().sessions:
        entries = store.history.read(session.session_id)
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert (session.user_id, session.entry_count) == ("ada", len(entries))
        found[session.session_id] = [entry.content["content"] for entry in entries]
    return found


def test_every_session_goes_in_whole(store: StateStore, system: System, folder: Path) -> None:
    done: list[Path] = []
    assert system.bring(store, folder, progress=done.append) == SessionsReport(3, 4, 0)
    assert content(store) == SAID
    assert len(done) == len(set(done)) == 3
    if system.name == "promptkit":
        assert store.state.get_all("a") == {"promptkit.token_count": 7}
        assert store.lists.read("a", "facts") == ["fact"]
        assert [(one.start_seq, one.end_seq) for one in store.history.summaries("a")] == [(1, 3)]
    else:
        assert store.state.get_all("a") == {"conexus.Extra": 7, "k": [1]}
        assert [entry.agent_name for entry in store.history.read("a")] == ["locator"] * 3
    assert [entry.turn for entry in store.history.read("a")] == [1, 2, 3]


def test_one_alone_is_named_by_its_own_path(store: StateStore, system: System, folder: Path) -> None:
    [path] = [one for one in folder.iterdir() if one.stem.endswith("-a")]
    assert system.bring(store, str(path)) == SessionsReport(1, 3, 0)
    assert content(store) == {"a": SAID["a"]}


def test_sessions_that_are_there_are_left_alone(
    store: StateStore, system: System, folder: Path, problems: list[Problem]
) -> None:
    store.sessions.create("a", user_id="ada")
    store.history.append("a", [{"role": "user", "content": "mine"}])
    done = system.bring(store, folder, on_problem=problems.append)
    assert done == SessionsReport(2, 1, 1)
    assert content(store) == SAID | {"a": ["mine"]}
    [problem] = problems
    assert Path(problem.source).stem.endswith("-a")
    assert problem.line is None
    assert "'a' already exists" in problem.reason
    assert isinstance(problem.error, ConflictError)
    assert str(problem.error) == f"{problem.source}: {problem.reason}"
    assert system.bring(store, folder, on_problem=problems.append) == SessionsReport(0, 0, 3)
    assert content(store) == SAID | {"a": ["mine"]}
    with pytest.raises(ConflictError, match=str(problem.source)):
        system.bring(store, folder)


def test_with_replace_they_are_as_in_the_file_however_often(store: StateStore, system: System, folder: Path) -> None:
    for _ in range(2):
        assert system.bring(store, folder, replace=True) == SessionsReport(3, 4, 0)
        assert content(store) == SAID
        store.history.append("a", [{"role": "user", "content": "later"}])


def test_one_that_is_damaged_is_left_out_whole_and_the_others_go_in(
    store: StateStore, system: System, folder: Path, problems: list[Problem]
) -> None:
    said = system.damage(system.write(folder, "bad", ["x"]))
    done = system.bring(store, folder, on_problem=problems.append)
    assert done == SessionsReport(3, 4, 1)
    assert content(store) == SAID
    assert problems[0].reason.startswith(said)
    with pytest.raises(InvalidValueError) as caught:
        system.bring(store, folder, replace=True)
    assert str(caught.value).startswith(said)
    assert content(store) == SAID


def test_what_the_store_refuses_is_named(
    store: StateStore, system: System, folder: Path, problems: list[Problem]
) -> None:
    bad = system.write(folder, "x" * 200, ["x"])
    file = bad / "state.json" if bad.is_dir() else bad
    name = "id" if bad.is_dir() else "ID"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: "y" * 513}))
    system.bring(store, folder, on_problem=problems.append)
    assert content(store) == SAID
    assert [problem.reason.startswith(f"{file}: id: must have 1 to 512") for problem in problems] == [True]


def test_there_is_something_to_import(store: StateStore, system: System, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidValueError, match="nothing to import"):
        system.bring(store, tmp_path / "empty")


def test_a_database_that_fails_stops_the_import(
    store: StateStore, system: System, folder: Path, problems: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    from statestore import portable

    insert, calls = portable.insert_session, 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise UnavailableError("gone")
        return insert(*args, **kwargs)

    monkeypatch.setattr(portable, "insert_session", failing)
    with pytest.raises(UnavailableError):
        system.bring(store, folder, on_problem=problems.append)
    assert (content(store), problems) == ({"a": SAID["a"]}, [])
    system.bring(store, folder, replace=True)
    assert content(store) == SAID
