import json
from datetime import timedelta
from typing import Any

import pytest

from statestore import NewEntry, Usage
from tests.cli.conftest import CommandLine

HOSTILE = "a\x1b[31m\nb\x07\u202e\x9b"
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "First line\nsecond line"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"place": "Konstanz"}'}}]},
    {"role": "tool", "tool_call_id": "call_1", "name": "look_up", "content": "sun"},
]  # fmt: skip


@pytest.fixture
def filled(cli: CommandLine) -> CommandLine:
    with cli.store() as store:
        store.sessions.create("trip", user_id="ada", agent_name="guide", title="Lake", metadata={"z": 1, "a": [None]})
        store.history.append("trip", MESSAGES)
        usage = Usage(input_tokens=1200, output_tokens=34, cache_read_input_tokens=1000)
        answer = NewEntry(
            {"role": "assistant", "content": "Go."}, usage=usage, response_model="small-1", cost_usd=0.0012,
            duration=timedelta(seconds=1.5),
        )  # fmt: skip
        store.history.append("trip", [answer])
        store.state.set("trip", "place", {"name": "Konstanz"})
    return cli


def ids(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines()[1:]]


def test_sessions_are_listed_in_aligned_columns(filled: CommandLine) -> None:
    with filled.store() as store:
        store.sessions.create("日本", user_id="bob")
    lines = filled("sessions").stdout.splitlines()
    assert lines[0].split() == ["SESSION", "USER", "AGENT", "STATUS", "ENTRIES", "LAST", "ACTIVITY", "TITLE"]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["trip"][1:5] == ["ada", "guide", "ready", "5"]
    assert rows["日本"][1:5] == ["bob", "-", "ready", "0"]
    # 日本 takes four columns of a terminal in two characters.
    assert lines[0].index("USER") == next(line for line in lines if "ada" in line).index("ada")
    assert lines[0].index("USER") == next(line for line in lines if "bob" in line).index("bob") + 2


def test_sessions_are_filtered_ordered_and_paged(cli: CommandLine) -> None:
    with cli.store() as store:
        for number in range(5):
            store.sessions.create(f"s{number}", user_id="ada" if number % 2 else "bob", agent_name=f"a{number}")
    order = ("--order-by", "created_at")
    assert ids(cli("sessions", *order).stdout) == ["s4", "s3", "s2", "s1", "s0"]
    assert ids(cli("sessions", *order, "--ascending", "--user", "ada").stdout) == ["s1", "s3"]
    assert ids(cli("sessions", "--agent", "a2").stdout) == ["s2"]
    assert ids(cli("sessions", "--status", "dead").stdout) == []

    seen, cursor = [], ()
    while True:
        page = cli("sessions", *order, "--limit", "2", *cursor)
        seen += ids(page.stdout)
        if "--cursor" not in page.stderr:
            break
        cursor = ("--cursor", page.stderr.split()[-1])
    assert seen == ["s4", "s3", "s2", "s1", "s0"]

    first = json.loads(cli("sessions", *order, "--limit", "3", "--json").stdout)
    rest = json.loads(cli("sessions", *order, "--json", "--cursor", first["next_cursor"]).stdout)
    assert [session["session_id"] for session in first["sessions"] + rest["sessions"]] == seen
    assert rest["next_cursor"] is None
    assert "cursor" in cli("sessions", "--cursor", "nonsense", code=1).stderr


def test_a_namespace_sees_its_own_sessions_only(filled: CommandLine) -> None:
    empty = filled("sessions", "--namespace", "other")
    assert empty.stdout == ""
    assert "no matching sessions in namespace 'other'" in empty.stderr
    filled("show", "trip", "--namespace", "other", code=1)


def test_show_has_the_session_its_state_and_its_conversation(filled: CommandLine) -> None:
    shown = filled("show", "trip").stdout
    facts = {line[:15].strip(): line[15:] for line in shown.split("\n\n")[0].splitlines()}
    assert facts["session"] == "trip"
    assert (facts["title"], facts["user"], facts["agent"], facts["status"]) == ("Lake", "ada", "guide", "ready")
    assert facts["metadata"] == '{"z":1,"a":[null]}'
    assert facts["state"] == 'place = {"name":"Konstanz"}'
    assert facts["history"] == "5 entries, 1 to 5"
    system, user, call, result, answer = shown.rstrip().split("\n\n")[1:]
    assert system.splitlines()[1:] == ["    Be brief."]
    assert user.splitlines()[1:] == ["    First line", "    second line"]
    assert call.splitlines()[1:] == ['    → look_up({"place": "Konstanz"})  call_1']
    assert result.startswith("#4 tool · look_up · answers call_1 · ")
    assert answer.startswith("#5 assistant · small-1 · 1,200 (1,000 cached) in, 34 out tokens · $0.0012 · 1.5 s · ")


def test_show_in_json_has_everything_as_it_was_stored(filled: CommandLine) -> None:
    shown = json.loads(filled("show", "trip", "--json").stdout)
    assert [json.dumps(entry["content"]) for entry in shown["entries"][:4]] == [json.dumps(one) for one in MESSAGES]
    assert json.dumps(shown["session"]["metadata"]) == '{"z": 1, "a": [null]}'
    assert shown["session"]["entry_count"] == 5
    assert shown["state"] == {"place": {"name": "Konstanz"}}
    last = shown["entries"][4]
    assert (last["usage"]["input_tokens"], last["duration"], float(last["cost_usd"])) == (1200, 1.5, 0.0012)
    assert json.loads(filled("show", "trip", "--json", "--last", "0").stdout)["entries"] == []


def test_show_last_has_the_newest_entries(filled: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statestore.cli.show._READ_AT_ONCE", 2)
    for last, expected in ((3, [3, 4, 5]), (0, []), (99, [1, 2, 3, 4, 5])):
        shown = json.loads(filled("show", "trip", "--json", "--last", str(last)).stdout)
        assert [entry["seq"] for entry in shown["entries"]] == expected
    with filled.store() as store:
        store.history.trim("trip", keep_last=2)
    assert [entry["seq"] for entry in json.loads(filled("show", "trip", "--json").stdout)["entries"]] == [4, 5]


def test_nothing_stored_can_steer_the_terminal(cli: CommandLine) -> None:
    content = {"role": "user", "content": HOSTILE, "name": HOSTILE}
    with cli.store() as store:
        store.sessions.create(HOSTILE, user_id=HOSTILE, title=HOSTILE, metadata={HOSTILE: HOSTILE})
        store.history.append(HOSTILE, [content, {"role": HOSTILE, "content": [{"type": "text", "text": HOSTILE}]}])
        store.history.append(HOSTILE, [{"role": "tool", "tool_call_id": HOSTILE, "name": HOSTILE, "content": HOSTILE}])
        store.state.set(HOSTILE, HOSTILE, HOSTILE)
    outputs = [
        cli(*arguments, code=code).output
        for code, arguments in (
            (0, ("sessions",)), (0, ("sessions", "--json")), (0, ("show", HOSTILE)), (0, ("show", HOSTILE, "--json")),
            (1, ("show", HOSTILE + "x")), (0, ("fork", HOSTILE, HOSTILE + "2")), (0, ("delete", HOSTILE, "--yes")),
            (1, ("delete", HOSTILE, "--yes")), (0, ("delete", "--user", HOSTILE, "--yes")),
        )
    ]  # fmt: skip
    for output in outputs:
        assert not set(output) & {"\x1b", "\x07", "\u202e", "\x9b"}, output
    assert "a\\x1b[31m\\nb\\x07\\u202e\\x9b" in outputs[0]
    assert json.loads(outputs[3])["entries"][0]["content"] == content


def test_fork_begins_with_the_source_up_to_a_position(filled: CommandLine) -> None:
    assert filled("fork", "trip", "again", "--at-seq", "2").stdout == (
        "session again forked from trip at 2, with 2 entries\n"
    )
    shown = json.loads(filled("show", "again", "--json").stdout)
    assert [entry["content"] for entry in shown["entries"]] == MESSAGES[:2]
    assert "forked from    trip at 2" in filled("show", "again").stdout
    assert "forks          1: again" in filled("show", "trip").stdout

    made = json.loads(filled("fork", "trip", "--json").stdout)
    assert (made["parent_session_id"], made["entry_count"]) == ("trip", 5)
    filled("show", made["session_id"])


def test_fork_says_what_is_wrong(filled: CommandLine) -> None:
    assert "ends at 5" in filled("fork", "trip", "x", "--at-seq", "6", code=1).stderr
    assert "already exists" in filled("fork", "trip", "trip", code=1).stderr
    assert "'nobody' does not exist" in filled("fork", "nobody", code=1).stderr


def test_delete_asks_and_then_removes_the_session(filled: CommandLine) -> None:
    refused = filled("delete", "trip", code=1, input="n\n")
    assert "Delete session trip with 5 entries?" in refused.stderr
    filled("show", "trip")
    assert filled("delete", "trip", "--yes").stdout == "deleted session trip, which had 5 entries\n"
    assert "'trip' does not exist" in filled("delete", "trip", "--yes", code=1).stderr


def test_delete_user_prints_a_receipt(filled: CommandLine) -> None:
    with filled.store() as store:
        store.sessions.create("second", user_id="ada")
        store.sessions.create("bobs", user_id="bob")
    refused = filled("delete", "--user", "ada", code=1, input="\n")
    assert "Delete 2 sessions of user ada" in refused.stderr
    answered = filled("delete", "--user", "ada", "--json", input="y\n").stdout
    receipt = json.loads(answered[answered.index("{") :])  # A test of click before 8.2 has the answer in front of it.
    assert (receipt["sessions"], receipt["entries"], receipt["state_entries"]) == (2, 5, 1)
    assert ids(filled("sessions").stdout) == ["bobs"]
    assert "sessions   0" in filled("delete", "--user", "ada", "--yes").stdout
