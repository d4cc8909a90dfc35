"""`statestore export` and what brings whole sessions in."""

import json
import os
import pty
import stat
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from statestore import NewEntry, Usage
from statestore.checking.codec import zstd
from statestore.values.history import Summary
from tests.cli.conftest import CommandLine
from tests.support.warm import programs


@pytest.fixture
def filled(cli: CommandLine) -> CommandLine:
    with cli.store() as store:
        for name, user in (("a", "ada"), ("b", "bob")):
            store.sessions.create(name, user_id=user)
            store.history.append(name, [{"role": "user", "content": f"I am {user}"}])
        store.sessions.fork("a", "c")
    return cli


def test_an_export_comes_back_with_import(filled: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    assert filled("export", str(file)).output == f"exported 3 sessions with 2 entries to {file}\n"
    copy = CommandLine(f"sqlite:///{tmp_path / 'copy.db'}")
    assert copy("import", "statestore", str(file)).output == f"imported 3 sessions with 2 entries from {file}\n"
    again = tmp_path / "again.jsonl"
    copy("export", str(again))
    assert again.read_bytes() == file.read_bytes()


def test_a_compressed_export_by_several_processes_comes_back(filled: CommandLine, tmp_path: Path) -> None:
    plain, packed = tmp_path / "all.jsonl", tmp_path / "all.jsonl.zst"
    filled("export", str(plain))
    assert filled("export", str(packed), "--jobs", "2").output == f"exported 3 sessions with 2 entries to {packed}\n"
    assert zstd.decompress(packed.read_bytes()) == plain.read_bytes()
    copy = CommandLine(f"sqlite:///{tmp_path / 'copy.db'}")
    copy("import", "statestore", str(packed), "--jobs", "2", "--resume")
    copy("export", str(tmp_path / "again.jsonl"))
    assert (tmp_path / "again.jsonl").read_bytes() == plain.read_bytes()
    assert filled("export", "-", "--jobs", "0", code=2)


def test_namespaces_go_into_one_file_and_come_back(filled: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    with filled.store(namespace="acme/1") as store:
        store.sessions.create("a")
    said = filled("export", str(file), "--namespaces", "acme/*", "--namespaces", "default", "--session", "a").output
    assert said == f"exported 2 sessions with 1 entry to {file}\n"
    said = filled("import", "statestore", str(file), code=1).output
    assert "session 'a' already exists in namespace 'acme/1'" in said
    renaming = ("--rename", "acme/*=copy/*", "--rename", "default=b=c")
    assert "imported 2 sessions" in filled("import", "statestore", str(file), *renaming).output
    with filled.store() as store:
        found = store.sessions.page(namespaces=["copy/*", "b=c"]).sessions
        assert {(one.namespace, one.session_id) for one in found} == {("copy/1", "a"), ("b=c", "a")}
    assert "OLD=NEW" in filled("import", "statestore", str(file), "--rename", "acme", code=2).output
    said = filled("import", "statestore", str(file), "--rename", "acme/1=copy/*", code=1).output
    assert "--rename['acme/1']: must be a name" in said


def test_an_import_that_has_ended_has_nothing_left_to_resume(filled: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    filled("export", str(file))
    copy = CommandLine(f"sqlite:///{tmp_path / 'copy.db'}")
    for said in ("imported 3 sessions with 2 entries from", f"{file} has already been imported completely"):
        assert copy("import", "statestore", str(file), "--resume").output.startswith(said)
    assert "already exists" in copy("import", "statestore", str(file), code=1).output
    assert "already exists" in filled("import", "statestore", str(file), code=1).output
    with copy.store() as store:
        store.sessions.delete("b")
    assert "already exists" in copy("import", "statestore", str(file), "--resume", code=1).output


def test_only_the_owner_may_read_the_file(filled: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    filled("export", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("which", "sessions"), [(["--user", "ada"], ["a", "c"]), (["--session", "b", "--session", "a"], ["a", "b"])]
)
def test_which_sessions(filled: CommandLine, tmp_path: Path, which: list[str], sessions: list[str]) -> None:
    file = tmp_path / "some.jsonl"
    filled("export", str(file), *which)
    lines = map(json.loads, file.read_text().splitlines())
    assert [line["session_id"] for line in lines if line["type"] == "session"] == sessions


def test_a_file_is_not_overwritten_unless_asked(filled: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    file.write_text("mine")
    assert "exists" in filled("export", str(file), code=1).output
    assert file.read_text() == "mine"
    filled("export", str(file), "--replace")
    assert file.read_text() != "mine"


def test_where_a_link_leads_to_is_overwritten_and_the_link_stays(filled: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file, link = tmp_path / "real" / "all.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(file)
    filled("export", str(link))
    whole = file.read_bytes()
    file.write_text("mine")
    assert "exists" in filled("export", str(link), code=1).output
    filled("export", str(link), "--replace")
    assert (link.is_symlink(), file.read_bytes()) == (True, whole)


@pytest.mark.parametrize("options", [[], ["--replace"]], ids=["plain", "replace"])
@pytest.mark.parametrize("command", [["export"], ["cache", "export"]], ids=" ".join)
@pytest.mark.parametrize("through", ["pipe", "link"])
def test_a_pipe_is_written_to_and_stays_one(
    filled: CommandLine, tmp_path: Path, command: list[str], options: list[str], through: str
) -> None:
    with filled.store() as store:
        store.cache.set("k", 1)
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    filled(*command, str(file))
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        filled(*command, str(tmp_path / through), *options)
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert reader.read() == file.read_bytes()


def test_a_failed_export_leaves_no_file(filled: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert "missing" in filled("export", str(folder / "f.jsonl"), "--session", "missing", code=1).output
    assert list(folder.iterdir()) == []


def test_session_and_user_and_all_exclude_each_other(filled: CommandLine) -> None:
    filled("export", "x", "--session", "a", "--user", "ada", code=2)
    filled("export", "x", "all", "--user", "ada", code=2)
    filled("export", "x", "some", code=2)


def test_all_is_what_is_exported_by_default(filled: CommandLine, tmp_path: Path) -> None:
    filled("export", str(tmp_path / "default"))
    filled("export", str(tmp_path / "all"), "all")
    assert (tmp_path / "all").read_bytes() == (tmp_path / "default").read_bytes()


def test_progress_is_drawn_on_a_terminal_only(filled: CommandLine, tmp_path: Path) -> None:
    reader, terminal = pty.openpty()
    command: list[str | Path] = [programs() / "statestore", "export", tmp_path / "file"]
    subprocess.run(command, env=filled.environment, stdout=subprocess.PIPE, stderr=terminal, check=True)
    os.close(terminal)
    drawn = os.read(reader, 65536)
    os.close(reader)
    assert b"exporting" in drawn
    assert b"100%" in drawn
    quiet = filled.process("export", tmp_path / "file", "--replace")
    assert (quiet.returncode, quiet.stderr) == (0, "")


def test_export_to_standard_output_prints_nothing_else(filled: CommandLine) -> None:
    done = filled.process("export", "-")
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()][:2] == ["header", "session"]
    assert "exported 3 sessions" in done.stderr


def test_import_leaves_existing_sessions_alone_unless_asked(filled: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    filled("export", str(file))
    assert "'a' already exists" in filled("import", "statestore", str(file), code=1).output
    filled("import", "statestore", str(file), "--replace")


def test_import_says_what_is_wrong_with_a_file(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text('{"messages": []}\n')
    assert f"{file}: line 1: is not the header" in cli("import", "statestore", str(file), code=1).output


MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Look!", "timestamp": "2025-03-01T10:00:00.123456789+01:00"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "name": "look", "args": {"b": 1, "a": 2}}],
        "timestamp": "2025-03-01T09:00:01Z",
        "latency_ms": 1500,
        "cost_info": {
            "input_tokens": 100, "output_tokens": 20, "cached_tokens": 40, "input_cost_usd": 0.01,
            "output_cost_usd": 0.02, "total_cost_usd": 0.03, "provider_name": "openai",
        },
        "finish_reason": "tool_use",
    },
    {
        "role": "tool",
        "tool_result": {"id": "c1", "name": "look", "error": "dark", "parts": [], "latency_ms": 7},
        "timestamp": "0001-01-01T00:00:00Z",
    },
    {"role": "assistant", "content": "Nothing.", "timestamp": "2025-03-01T09:00:03Z"},
]  # fmt: skip


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    folder = tmp_path / "conversations"
    conversation = folder / "conv-user-1"
    conversation.mkdir(parents=True)
    state = {
        "id": "user-1", "user_id": "ada", "system_prompt": "Be kind.", "token_count": 9,
        "last_accessed_at": "2025-03-01T11:00:00.5Z", "metadata": {"z": 1, "a": {"b": None}},
    }  # fmt: skip
    (conversation / "state.json").write_text(json.dumps(state))
    (conversation / "messages.jsonl").write_text("".join(json.dumps(message) + "\n" for message in MESSAGES))
    summary = {
        "StartTurn": 0,
        "EndTurn": 2,
        "Content": "They looked.",
        "TokenCount": 4,
        "CreatedAt": state["last_accessed_at"],
    }
    (conversation / "summaries.jsonl").write_text(json.dumps(summary) + "\n")
    return folder


def test_a_conversation_of_promptkit(cli: CommandLine, conversations: Path) -> None:
    output = cli("import", "promptkit", str(conversations)).output
    assert output == f"imported 1 session with 4 entries from {conversations}\n"
    with cli.store() as store:
        session = store.sessions.get("user-1")
        assert (session.user_id, session.instructions) == ("ada", "Be kind.")
        assert json.dumps(session.metadata) == '{"z": 1, "a": {"b": null}}'
        assert session.last_activity_at == datetime(2025, 3, 1, 11, 0, 0, 500_000, UTC)
        assert session.created_at == datetime(2025, 3, 1, 9, 0, 0, 123_456, UTC)
        entries = store.history.read("user-1")
        assert [entry.content for entry in entries] == MESSAGES
        assert [entry.turn for entry in entries] == [1, 1, 1, 1]
        call, result = entries[1:3]
        # There the cached ones are counted beside the others.
        assert call.usage == Usage(input_tokens=140, output_tokens=20, cache_read_input_tokens=40)
        assert (call.cost_usd, call.provider_name, call.finish_reason) == (Decimal("0.03"), "openai", "tool_use")
        assert (call.tool_name, call.tool_call_id, call.duration) == ("look", "c1", timedelta(seconds=1.5))
        assert (result.tool_name, result.tool_call_id, result.error_type) == ("look", "c1", "error")
        assert result.created_at == session.last_activity_at
        assert store.history.summaries("user-1") == [
            Summary(
                session_id="user-1", start_seq=1, end_seq=2, content="They looked.", token_count=4,
                created_at=session.last_activity_at,
            )
        ]  # fmt: skip
        # The call and its result belong together for windows, too.
        assert [entry.seq for entry in store.history.window("user-1", max_entries=2)] == [4]
        store.history.append("user-1", [{"role": "user", "content": "on"}])


def test_the_same_conversation_again_is_refused_unless_asked(cli: CommandLine, conversations: Path) -> None:
    cli("import", "promptkit", str(conversations))
    with cli.store() as store:
        store.history.append("user-1", [NewEntry("later")])
    assert (
        "conv-user-1: session 'user-1' already exists" in cli("import", "promptkit", str(conversations), code=1).output
    )
    cli("import", "promptkit", str(conversations / "conv-user-1"), "--replace")
    with cli.store() as store:
        assert store.history.count("user-1") == 4


def test_one_damaged_conversation_does_not_keep_the_others_out(cli: CommandLine, conversations: Path) -> None:
    damaged = conversations / "conv-bad"
    damaged.mkdir()
    (damaged / "state.json").write_text('{"id": "bad"}')
    (damaged / "messages.jsonl").write_text('{"role": "user"}\n{"ro')
    (conversations / "conv-empty").mkdir()
    output = cli("import", "promptkit", str(conversations), code=1).output
    assert f"conv-bad: {damaged / 'messages.jsonl'}:2: is not JSON" in output
    assert "conv-empty: " in output
    assert "imported 1 session" in output


def damaged(folder: Path, name: str, **parts: Any) -> Path:
    """A conversation beside the good one, of one message and with a summary that is right, but for *parts*."""
    conversation = folder / f"conv-{name}"
    conversation.mkdir()
    summary = {"StartTurn": 0, "EndTurn": 1, "Content": "c"}
    (conversation / "state.json").write_text(json.dumps({"id": name} | parts.get("state", {})))
    message = {"role": "user", "content": "hi"} | parts.get("message", {})
    (conversation / "messages.jsonl").write_text(json.dumps(MESSAGES[0]) + "\n" + json.dumps(message) + "\n")
    summaries = [summary | one for one in parts.get("summaries", [])]
    (conversation / "summaries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in summaries))
    return conversation


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"message": {"latency_ms": "SECRET"}}, "messages.jsonl:2: latency_ms is not a duration"),
        ({"message": {"latency_ms": 1e300}}, "messages.jsonl:2: latency_ms is longer"),
        ({"message": {"latency_ms": -1}}, "messages.jsonl:2: latency_ms is not a duration"),
        ({"message": {"timestamp": "SECRET"}}, "messages.jsonl:2: timestamp is not a valid time"),
        ({"message": {"timestamp": 5}}, "messages.jsonl:2: timestamp is not a valid time"),
        ({"message": {"cost_info": "SECRET"}}, "messages.jsonl:2: cost_info: is not a JSON object"),
        ({"message": {"cost_info": {"input_tokens": "SECRET"}}}, "messages.jsonl:2: cost_info: input_tokens: must be"),
        ({"message": {"cost_info": {"total_cost_usd": "SECRET"}}}, "messages.jsonl:2: cost_usd: must be"),
        ({"message": {"tool_calls": [{"id": 5}]}}, "messages.jsonl:2: tool_call_id: must be"),
        (
            {"state": {"last_accessed_at": "9999-12-31T23:59:59-05:00"}},
            "state.json: last_accessed_at is not a valid time",
        ),
        ({"state": {"user_id": {"SECRET": 1}}}, "state.json: user_id: must be"),
        ({"state": {"system_prompt": 5}}, "state.json: system_prompt: must be"),
        ({"state": {"metadata": ["SECRET"]}}, "state.json: metadata: is not a JSON object"),
        ({"summaries": [{"StartTurn": 1, "EndTurn": 1}]}, "summaries.jsonl:1: EndTurn: must be"),
        ({"summaries": [{}, {"EndTurn": 2**63}]}, "summaries.jsonl:2: EndTurn: must be"),
        ({"summaries": [{"StartTurn": 10**12, "EndTurn": 10**12}]}, "summaries.jsonl:1: StartTurn: must be"),
        ({"summaries": [{"Content": None}]}, "summaries.jsonl:1: Content: must be"),
        ({"summaries": [{"TokenCount": "SECRET"}]}, "summaries.jsonl:1: TokenCount: must be"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_conversation_is_named_and_the_others_go_in(
    sqlite_cli: CommandLine, conversations: Path, parts: dict[str, Any], says: str
) -> None:
    conversation = damaged(conversations, "bad", **parts)
    output = sqlite_cli("import", "promptkit", str(conversations), code=1).output
    assert f"conv-bad: {conversation}/{says}" in output
    assert "SECRET" not in output
    assert "imported 1 session" in output


def trimmed(folder: Path) -> Path:
    """As PromptKit's documentation trims: what a summary stands for is cut off, and the rest goes on."""
    conversation = folder / "conv-trimmed"
    (conversation / "lists" / "nested").mkdir(parents=True)
    (conversation / "state.json").write_text(json.dumps({"id": "trimmed", "token_count": 812, "later": {"b": [1]}}))
    messages = [{"role": role, "content": str(n)} for n, role in enumerate(["user", "assistant", "user"])]
    (conversation / "messages.jsonl").write_text("".join(json.dumps(message) + "\n" for message in messages))
    summaries = [
        {"StartTurn": 0, "EndTurn": 20, "Content": "first", "TokenCount": 5},
        {"StartTurn": 20, "EndTurn": 40, "Content": "second", "TokenCount": 7},
    ]
    (conversation / "summaries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in summaries))
    (conversation / "lists" / "facts.jsonl").write_text('{"z":1,"a":[null]}\n"two"\n3\n')
    (conversation / "lists" / "nested" / "plain.jsonl").write_text('{"z":1}\nnot JSON\n\n')
    return conversation


def test_a_conversation_of_promptkit_that_was_trimmed(cli: CommandLine, tmp_path: Path) -> None:
    cli("import", "promptkit", str(trimmed(tmp_path)))
    with cli.store() as store:
        assert [(entry.seq, entry.content["content"]) for entry in store.history.read("trimmed")] == [
            (41, "0"), (42, "1"), (43, "2"),
        ]  # fmt: skip
        found = [
            (one.start_seq, one.end_seq, one.content, one.token_count) for one in store.history.summaries("trimmed")
        ]
        assert found == [(1, 20, "first", 5), (21, 40, "second", 7)]
        state = store.state.get_all("trimmed")
        assert state == {"promptkit.token_count": 812, "promptkit.later": {"b": [1]}}
        assert store.lists.names("trimmed") == ["facts", "nested/plain"]
        assert json.dumps(store.lists.read("trimmed", "facts")) == '[{"z": 1, "a": [null]}, "two", 3]'
        assert store.lists.read("trimmed", "nested/plain") == ['{"z":1}', "not JSON", ""]
        window = store.history.window("trimmed", max_entries=2, include_summaries=True)
        assert [summary.content for summary in window.summaries] == ["first", "second"]
        assert store.history.append("trimmed", [{"role": "user", "content": "on"}])[0].seq == 44
        store.history.trim("trimmed", keep_last=1)


def test_a_list_of_promptkit_that_cannot_be_kept_is_named(cli: CommandLine, tmp_path: Path) -> None:
    file = trimmed(tmp_path) / "lists" / "facts.jsonl"
    file.write_bytes(b'"one"\n\xff\n')
    assert f"{file}:2: is not UTF-8 text" in cli("import", "promptkit", str(tmp_path), code=1).stderr
    file.write_text('"' + "x" * (16 * 1024 * 1024) + '"\n')
    assert f"{file}:1: the item: is" in cli("import", "promptkit", str(tmp_path), code=1).stderr


INEXACT = {
    "a huge integer": '{"k": 1' + "0" * 4300 + "}",
    "a key twice": '{"k": 1, "k": 2}',
    "NaN": '{"k": NaN}',
    "a large float": '{"k": 1e999}',
    "deep": '{"k": ' + "[" * 500 + "]" * 500 + "}",
}


@pytest.mark.parametrize("inexact", INEXACT)
@pytest.mark.parametrize("system", ["promptkit", "promptkit message", "promptkit list", "conexus"])
def test_what_would_change_is_refused_and_the_others_go_in(
    sqlite_cli: CommandLine, conversations: Path, system: str, inexact: str
) -> None:
    text = INEXACT[inexact]
    if system == "conexus":
        bad = conversations / "session-bad.json"
        bad.write_text('{"ID": "bad", "Metadata": ' + text + "}")
        (conversations / "session-good.json").write_text('{"ID": "good"}')
    elif system == "promptkit":
        bad = conversations / "conv-bad" / "state.json"
        bad.parent.mkdir()
        bad.write_text('{"id": "bad", "metadata": ' + text + "}")
    elif system == "promptkit message":
        bad = damaged(conversations, "bad") / "messages.jsonl"
        bad.write_text('{"role": "user", "content": "Hi"}\n{"role": "user", "content": ' + text + "}\n")
    else:
        (bad := damaged(conversations, "bad") / "lists" / "l.jsonl").parent.mkdir()
        bad.write_text(text + "\n")
        sqlite_cli("import", "promptkit", str(conversations))
        with sqlite_cli.store() as store:  # Its items are bytes, not JSON.
            assert store.lists.read("bad", "l") == [text]
        return
    done = sqlite_cli("import", system.partition(" ")[0], str(conversations), code=1)
    assert str(bad) in done.stderr
    assert "imported 1 session" in done.stdout


def test_the_last_of_the_summaries_from_one_position_counts(cli: CommandLine, conversations: Path) -> None:
    damaged(
        conversations,
        "twice",
        summaries=[{"Content": "old"}, {"Content": "new", "EndTurn": 2}, {"StartTurn": 1, "EndTurn": 2}],
    )
    cli("import", "promptkit", str(conversations))
    with cli.store() as store:
        found = [(one.start_seq, one.end_seq, one.content) for one in store.history.summaries("twice")]
    assert found == [(1, 2, "new"), (2, 2, "c")]


def test_what_the_database_refuses_does_not_keep_the_others_out(
    cli: CommandLine, conversations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from statestore.importers import promptkit_files

    damaged(conversations, "bad", state={"token_count": 1})
    read = promptkit_files.read

    def doubled(path: Path) -> Any:
        session = read(path)
        return replace(session, state=[*session.state, *session.state]) if path.name == "conv-bad" else session

    monkeypatch.setattr(promptkit_files, "read", doubled)
    output = cli("import", "promptkit", str(conversations), code=1).output
    assert "conv-bad: " in output
    assert "imported 1 session" in output


@pytest.mark.parametrize(
    ("interaction", "says"),
    [
        ({"Duration": "5s"}, "Duration is not a duration"),
        ({"Duration": 1e30}, "Duration is longer"),
        ({"Timestamp": "SECRET"}, "Timestamp is not a valid time"),
        ({"Agent": ["SECRET"]}, "Agent: must be"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_session_of_conexus_is_named_and_the_others_go_in(
    sqlite_cli: CommandLine, tmp_path: Path, interaction: dict[str, Any], says: str
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    for name, history in (("bad", [{}, interaction]), ("good", [{}])):
        (folder / f"session-{name}.json").write_text(json.dumps({"ID": name, "History": history}))
    output = sqlite_cli("import", "conexus", str(folder), code=1).output
    assert f"session-bad.json: {folder / 'session-bad.json'}: History[1]: {says}" in output
    assert "SECRET" not in output
    assert "imported 1 session" in output


def test_a_session_of_conexus(cli: CommandLine, tmp_path: Path) -> None:
    interactions = [
        {
            "Timestamp": f"2025-03-01T09:00:0{n}.5Z",
            "UserRequest": f"request {n}",
            "Agent": "locator",
            "Response": {"version": "AGENT_OUTPUT_V1", "overview": "here"},
            "Escalations": [
                {"SourceAgent": "a", "TargetAgent": "b", "Reason": "r", "Timestamp": "2025-03-01T09:00:00Z"}
            ],
            "Duration": 1_500_000_000,
        }
        for n in range(5)
    ]
    session = {
        "ID": "session-1740819600000000000",
        "UserID": "ada",
        "History": interactions,
        "Metadata": {},
        "CreatedAt": "2025-03-01T09:00:00Z",
        "LastActivity": "2025-03-01T09:30:00Z",
        "State": {"k": {"y": 1, "x": 2}},
    }
    file = tmp_path / "session-session-1740819600000000000.json"
    file.write_text(json.dumps(session, indent=2))
    (tmp_path / "cache.json").write_text("{}")
    cli("import", "conexus", str(tmp_path))
    with cli.store() as store:
        name = "session-1740819600000000000"
        assert store.state.get(name, "k") == {"y": 1, "x": 2}
        last = store.history.read(name, last=3)
        assert [entry.content["UserRequest"] for entry in last] == ["request 2", "request 3", "request 4"]
        assert (last[0].agent_name, last[0].duration, last[0].turn) == ("locator", timedelta(seconds=1.5), 3)
        assert last[0].created_at == datetime(2025, 3, 1, 9, 0, 2, 500_000, UTC)
        found = store.sessions.get(name)
        assert (found.user_id, found.created_at.minute, found.last_activity_at.minute) == ("ada", 0, 30)


def test_a_folder_without_anything_to_import(cli: CommandLine, tmp_path: Path) -> None:
    for command in ("promptkit", "conexus"):
        assert "has nothing to import" in cli("import", command, str(tmp_path), code=1).output
