"""The command-line tool's own files: what the SDK writes for it to resume from, and what our importer reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import ClaudeAgentOptions, import_session_to_store, project_key_for_directory
from claude_agent_sdk._internal.session_resume import materialize_resume_session

from statestore import AsyncStateStore, StateStore
from statestore.adapters.claude_agent_sdk import StatestoreSessionStore, statestore_id
from statestore.importers import claude_code
from tests.adapters.claude_agent_sdk.transcripts import answer, line

SESSION = "0d4f7c1e-9a53-4d4e-8f53-0c7d3f1f9a01"
AT = "2026-01-02T03:04:05.678Z"


def transcript() -> list[Any]:
    return [
        {"type": "mode", "mode": "default", "sessionId": SESSION},
        line("u1", "Is Saturday good for a walk?", timestamp=AT, sessionId=SESSION, cwd="/work/app"),
        answer("a1", "r1", (10, 1), timestamp=AT, sessionId=SESSION),
        answer("a2", "r1", (10, 4), timestamp=AT, sessionId=SESSION),
        {"type": "custom-title", "customTitle": "Wälk ☀", "sessionId": SESSION},
    ]


def sub_agent() -> list[Any]:
    more = {"timestamp": AT, "sessionId": SESSION, "agentId": "x1", "isSidechain": True}
    return [line("s1", "Look it up", **more), answer("s2", "r2", (7, 2), **more)]


def written(lines: list[Any]) -> bytes:
    """As the tool writes them."""
    return "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in lines).encode()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "claude"))
    return tmp_path / "claude"


async def test_what_was_mirrored_is_resumed_byte_for_byte_and_can_be_imported(
    database_url: str, tmp_path: Path
) -> None:
    project = project_key_for_directory(str(tmp_path))
    key: Any = {"project_key": project, "session_id": SESSION}
    async with StatestoreSessionStore(database_url) as transcripts:
        await transcripts.append(key, transcript()[:2])
        await transcripts.append({**key, "subpath": "subagents/agent-x1"}, sub_agent())
        await transcripts.append(key, transcript()[2:])
        options = ClaudeAgentOptions(cwd=tmp_path, session_store=transcripts, resume=SESSION)
        resumed = await materialize_resume_session(options)
        assert resumed is not None
        folder = resumed.config_dir / "projects" / project
        assert (folder / f"{SESSION}.jsonl").read_bytes() == written(transcript())
        assert (folder / SESSION / "subagents" / "agent-x1.jsonl").read_bytes() == written(sub_agent())

    with StateStore.open(database_url) as store:
        report = claude_code(store, resumed.config_dir / "projects")
        assert (report.sessions_new, report.entries_added, report.lines_failed) == (2, 5, 0)
        assert store.usage.totals().input_tokens == 17  # Mirrored and imported, and counted once.
        [part] = store.sessions.page(belongs_to=SESSION).sessions
        assert part.session_id == f"{SESSION}/agent-x1"
    await resumed.cleanup()


async def test_what_was_imported_before_is_not_counted_again(database_url: str, home: Path, tmp_path: Path) -> None:
    project = project_key_for_directory(str(tmp_path))
    folder = home / "projects" / project
    (folder / SESSION / "subagents").mkdir(parents=True)
    (folder / f"{SESSION}.jsonl").write_bytes(written(transcript()))
    (folder / SESSION / "subagents" / "agent-x1.jsonl").write_bytes(written(sub_agent()))
    with StateStore.open(database_url) as store:
        claude_code(store, home / "projects")
        assert store.usage.totals().output_tokens == 6

    key: Any = {"project_key": project, "session_id": SESSION}
    async with AsyncStateStore.open(database_url) as store:
        transcripts = StatestoreSessionStore(store)
        for _ in range(2):  # The second time, only the lines that have no uuid are added.
            await import_session_to_store(SESSION, transcripts, directory=str(tmp_path))
        found = await transcripts.load(key) or []
        assert [one for one in found if "uuid" in one] == [one for one in transcript() if "uuid" in one]
        assert await transcripts.load({**key, "subpath": "subagents/agent-x1"}) == sub_agent()
        assert (await store.usage.totals()).output_tokens == 6
        session = await store.sessions.get(statestore_id(key))
        assert (session.cwd, session.created_at.isoformat()) == ("/work/app", "2026-01-02T03:04:05.678000+00:00")
