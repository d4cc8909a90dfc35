"""The beginning of an id stands for it wherever an id is asked for, if no other session's id begins so."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine


@pytest.fixture
def filled(cli: CommandLine) -> CommandLine:
    with cli.store() as store:
        for session_id in ("trip", "trip-by-train", "abcdef-1", "abcdef-2", "4f2a9c"):
            store.history.append(session_id, [{"role": "user", "content": "Hi"}], create=True)
            store.state.set(session_id, "k", session_id)
        store.sessions.update("abcdef-1", title="The first")
    return cli


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (("show", "4f"), "session        4f2a9c\n"),
        (("tree", "4f"), "4f2a9c  * 1 entry\n"),
        (("tail", "4f", "--timeout", "1ms"), "#1 user"),
        (("state", "get", "4f", "k"), '"4f2a9c"\n'),
        (("state", "ls", "4f"), "4f2a9c"),
        (("state", "set", "4f", "k", "1"), "set k, now at version 2\n"),
        (("state", "rm", "4f", "k"), "removed 1 key\n"),
        (("fork", "4f", "new"), "session new forked from 4f2a9c at 1"),
        (("export", "-", "--session", "4f"), '"4f2a9c"'),
        (("report", "usage-by-session", "--session", "4f"), "4f2a9c"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_beginning_that_is_the_only_one_stands_for_the_id(
    arguments: tuple[str, ...], printed: str, filled: CommandLine
) -> None:
    done = filled(*arguments)
    assert printed in done.stdout
    # What writes says which session it has taken.
    assert (done.stderr == "session 4f2a9c\n") == (arguments[:2] in (("state", "set"), ("state", "rm"), ("fork", "4f")))


def test_an_id_is_taken_as_it_is_even_if_others_begin_so(filled: CommandLine) -> None:
    assert json.loads(filled("show", "trip", "--json").stdout)["session"]["session_id"] == "trip"


@pytest.mark.parametrize("command", [("show",), ("tail",), ("tree",), ("fork",), ("delete",), ("state", "ls")])
def test_a_beginning_of_several_lists_them(command: tuple[str, ...], filled: CommandLine) -> None:
    refused = filled(*command, "abc", code=1)
    assert refused.stdout == ""
    first, *others = refused.stderr.splitlines()
    assert first == "error: the ids of 2 sessions begin with 'abc'; give more of the id:"
    assert sorted(line.split()[0] for line in others) == ["abcdef-1", "abcdef-2"]
    assert "The first" in refused.stderr


def test_no_more_than_ten_candidates_are_listed(cli: CommandLine) -> None:
    with cli.store() as store:
        for number in range(12):
            store.sessions.create(f"s{number:02}")
    refused = cli("show", "s", code=1).stderr.splitlines()
    assert refused[0] == "error: the ids of more than 10 sessions begin with 's'; give more of the id:"
    assert len(refused) == 11


def test_a_part_is_found_by_its_beginning(cli: CommandLine) -> None:
    with cli.store() as store:
        store.sessions.create("whole")
        store.sessions.create("part-of-it", belongs_to="whole")
    assert "part of        whole" in cli("show", "part").stdout
    assert "part-of-it" not in cli("sessions").stdout
    assert "part-of-it" in cli("sessions", "--parts").stdout


def test_deleting_without_a_question_takes_whole_ids_only(filled: CommandLine) -> None:
    filled("delete", "trip", "--yes")
    # Done twice, as a script may: the beginning of another session's id is no reason to delete that.
    refused = filled("delete", "trip", "--yes", code=1).stderr
    assert refused.splitlines()[0] == (
        "error: no session has exactly the id 'trip', but one starts with it; --yes needs the full id:"
    )
    assert "trip-by-train" in filled("sessions").stdout
    asked = filled("delete", "trip", input="y\n")
    assert "Delete session trip-by-train with 1 entry?" in asked.stderr
    assert "trip" not in filled("sessions").stdout


def test_a_deleted_session_is_reported_under_its_own_id(cli: CommandLine) -> None:
    with cli.store() as store:
        for session_id in ("a", "a-2"):
            store.history.append(session_id, [{"role": "user", "content": "Hi"}], create=True)
        store.sessions.delete("a")
    [row] = json.loads(cli("report", "usage-by-session", "--session", "a", "--json").stdout)
    assert row["session_id"] == "a"


@pytest.mark.parametrize("given", ["", "x" * 600])
def test_what_cannot_be_an_id_is_refused(given: str, cli: CommandLine, tmp_path: Path) -> None:
    assert cli("show", given, code=1).stderr.startswith("error: SESSION: ")
