"""Sessions as other systems keep them in files: PromptKit's file store, and Conexus' saved sessions.

What a field means there was read from their sources. Content is taken over as it stands, key order included; what
reports and windows need is read from it into columns of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from statestore import checks, exactjson
from statestore.errors import InvalidValueError
from statestore.repositories import entry_rows
from statestore.repositories.portable_rows import Record
from statestore.values import NewEntry, Usage

_CONVERSATION, _SESSION = "conv-", "session-"


@dataclass(frozen=True, slots=True)
class Foreign:
    """Where a session of another system lies."""

    name: str
    path: Path


class UnreadableError(Exception):
    """A file that is not what it should be; the message says where and why."""


def promptkit_conversations(folder: Path) -> list[Foreign]:
    """The conversations of PromptKit's file store: the folders `conv-<id>`, or *folder* itself if it is one."""
    if folder.name.startswith(_CONVERSATION) and (folder / "state.json").exists():
        return [Foreign(folder.name, folder)]
    found = sorted(path for path in folder.glob(f"{_CONVERSATION}*") if path.is_dir())
    return [Foreign(path.name, path) for path in found]


def conexus_sessions(path: Path) -> list[Foreign]:
    """The sessions that Conexus saved: *path* itself, or the files `session-<id>.json` in it."""
    files = sorted(path.glob(f"{_SESSION}*.json")) if path.is_dir() else [path]
    return [Foreign(file.name, file) for file in files]


def read_promptkit(conversation: Foreign) -> list[Record]:
    """`state.json`, `messages.jsonl` and `summaries.jsonl` of a conversation."""
    state_file = conversation.path / "state.json"
    state = _object(state_file)
    session_id = _text(state, "id", state_file) or conversation.name.removeprefix(_CONVERSATION)
    messages = list(_lines(conversation.path / "messages.jsonl"))
    entries = [_promptkit_entry(message) for message in messages]
    last_used = _time(state.get("last_accessed_at")) or _modified(state_file)
    began = min([entry.created_at for entry in entries if entry.created_at is not None] + [last_used])
    metadata = dict(_mapping(state.get("metadata"), state_file, "metadata"))
    session = {
        "session_id": session_id,
        "user_id": state.get("user_id") or None,
        "instructions": state.get("system_prompt") or None,
        "metadata": metadata,
        "created_at": began,
        "last_activity_at": last_used,
    }
    records = _session_records(session, entries, state_file)
    for index, summary in enumerate(_lines(conversation.path / "summaries.jsonl")):
        # There a summary stands for the messages from StartTurn up to, not including, EndTurn, counted from 0.
        where = f"{conversation.path / 'summaries.jsonl'}:{index + 1}"
        values = {
            "session_id": session_id,
            "start_seq": _whole(summary.get("StartTurn"), where) + 1,
            "end_seq": _whole(summary.get("EndTurn"), where),
            "content": checks.text(summary.get("Content"), "Content"),
            "token_count": summary.get("TokenCount") or None,
            "created_at": _time(summary.get("CreatedAt")) or last_used,
        }
        records.append(Record("summary", {k: v for k, v in values.items() if v is not None}, where))
    return records


def _promptkit_entry(message: Mapping[str, Any]) -> NewEntry:
    cost = message.get("cost_info")
    cost = cost if isinstance(cost, Mapping) else {}
    result = message.get("tool_result")
    result = result if isinstance(result, Mapping) else {}
    calls = message.get("tool_calls")
    first_call = calls[0] if isinstance(calls, list) and calls and isinstance(calls[0], Mapping) else {}
    milliseconds = message.get("latency_ms") or result.get("latency_ms")
    return NewEntry(
        message,
        usage=Usage(
            input_tokens=cost.get("input_tokens"),
            output_tokens=cost.get("output_tokens"),
            cache_read_input_tokens=cost.get("cached_tokens"),
        )
        if cost
        else None,
        provider_name=cost.get("provider_name") or None,
        cost_usd=cost.get("total_cost_usd"),
        tool_name=result.get("name") or first_call.get("name") or None,
        tool_call_id=result.get("id") or first_call.get("id") or None,
        duration=timedelta(milliseconds=milliseconds) if milliseconds else None,
        error_type=result.get("error_type") or ("error" if result.get("error") else None),
        created_at=_time(message.get("timestamp")),
    )


def read_conexus(saved: Foreign) -> list[Record]:
    """A `session-<id>.json`: each of its interactions becomes an entry that begins a turn."""
    session = _object(saved.path)
    session_id = _text(session, "ID", saved.path) or saved.path.stem.removeprefix(_SESSION)
    history = session.get("History") or []
    if not isinstance(history, list) or not all(isinstance(entry, Mapping) for entry in history):
        raise UnreadableError(f"{saved.path}: History is no list of interactions")
    entries = [_conexus_entry(interaction) for interaction in history]
    last_used = _time(session.get("LastActivity")) or _modified(saved.path)
    columns = {
        "session_id": session_id,
        "user_id": session.get("UserID") or None,
        "metadata": dict(_mapping(session.get("Metadata"), saved.path, "Metadata")),
        "created_at": _time(session.get("CreatedAt")) or last_used,
        "last_activity_at": last_used,
    }
    records = _session_records(columns, entries, saved.path)
    for key, value in _mapping(session.get("State"), saved.path, "State").items():
        values = {
            "session_id": session_id,
            "key": checks.key(key, "State"),
            "value": exactjson.dumps(value, f"State[{key!r}]"),
            "version": 1,
            "updated_at": last_used,
        }
        records.append(Record("state", values, str(saved.path)))
    return records


def _conexus_entry(interaction: Mapping[str, Any]) -> NewEntry:
    nanoseconds = interaction.get("Duration")
    kept = ("UserRequest", "Response", "Escalations")
    return NewEntry(
        {name: interaction[name] for name in kept if name in interaction},
        role="user",
        agent_name=interaction.get("Agent") or None,
        duration=timedelta(microseconds=nanoseconds / 1000) if nanoseconds else None,
        created_at=_time(interaction.get("Timestamp")),
    )


def _session_records(session: dict[str, Any], entries: Sequence[NewEntry], file: Path) -> list[Record]:
    """The rows of a session and of its entries."""
    session_id = checks.key(session["session_id"], "id")
    prepared = entry_rows.prepare(entries, max_bytes=exactjson.MAX_BYTES)
    columns = {
        **{name: value for name, value in session.items() if value is not None},
        "user_id": checks.optional_key(session["user_id"], "user_id"),
        "metadata": checks.metadata(session["metadata"]),
        "root_session_id": session_id,
        "next_seq": len(prepared) + 1,
        "last_turn": prepared[-1].columns["turn"] if prepared else 0,
    }
    records = [Record("session", columns, str(file))]
    for seq, entry in enumerate(prepared, start=1):
        row = {"created_at": session["last_activity_at"], **entry.columns, "session_id": session_id, "seq": seq}
        records.append(Record("entry", row, f"{file}: entry {seq}"))
    return records


def _object(file: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        raise UnreadableError(f"{file} is missing") from None
    except orjson.JSONDecodeError as error:
        raise UnreadableError(f"{file}: no JSON: {error.msg}") from None
    if not isinstance(found, dict):
        raise UnreadableError(f"{file}: no JSON object")
    return found


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if not file.exists():
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                found = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise UnreadableError(f"{file}:{number}: no JSON: {error.msg}") from None
            if not isinstance(found, dict):
                raise UnreadableError(f"{file}:{number}: no JSON object")
            yield found


def _mapping(value: Any, file: Path, name: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise UnreadableError(f"{file}: {name} is no JSON object")
    return value or {}


def _text(values: Mapping[str, Any], name: str, file: Path) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise UnreadableError(f"{file}: {name} is no text")
    return value or None


def _whole(value: Any, where: str) -> int:
    try:
        return checks.count(value, "position")
    except InvalidValueError as error:
        raise UnreadableError(f"{where}: {error}") from None


def _time(value: Any) -> datetime | None:
    """A time as Go writes it; None for Go's zero time, which stands for none."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise UnreadableError(f"{value!r} is no time") from None
    found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return None if found.year == 1 else found.astimezone(UTC)


def _modified(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)
