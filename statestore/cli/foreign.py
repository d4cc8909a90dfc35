"""Sessions as other systems keep them in files: PromptKit's file store, and Conexus' saved sessions.

What a field means there was read from their sources. Content is taken over as it stands, key order included; what
reports and windows need is read from it into columns of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from statestore.checking import checks, exactjson, json_files
from statestore.errors import InvalidValueError
from statestore.repositories.history import entry_rows
from statestore.repositories.portable.portable_checks import MAX_POSITION
from statestore.repositories.portable.portable_values import Record
from statestore.values.history import NewEntry, Usage

# What has a place in a session. Anything else is kept in its state, under the system's name: nothing is lost.
_PLACED = frozenset({"id", "user_id", "system_prompt", "metadata", "last_accessed_at"})
_PLACED_CONEXUS = frozenset({"ID", "UserID", "History", "Metadata", "State", "CreatedAt", "LastActivity"})
_PLACED_OF_INTERACTION = frozenset({"Agent", "Duration", "Timestamp"})
_CONVERSATION, _SESSION = "conv-", "session-"
_MILLISECONDS, _NANOSECONDS = 1000, 10**9


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
    """`state.json`, `messages.jsonl`, `summaries.jsonl` and `lists/NAME.jsonl` of a conversation.

    Of a conversation that was trimmed only the last messages are there, while its summaries count from its beginning:
    then the messages stand behind the furthest summary, at the positions that it leaves them.
    """
    state = _object(conversation.path / "state.json")
    session_id = state.text("id") or conversation.name.removeprefix(_CONVERSATION)
    messages = [*_lines(conversation.path / "messages.jsonl")]
    entries = [(message.where, _promptkit_entry(message)) for message in messages]
    last_used = state.time("last_accessed_at") or _modified(conversation.path / "state.json")
    session = {
        "session_id": session_id,
        "user_id": state.text("user_id"),
        "instructions": state.text("system_prompt"),
        "metadata": dict(state.object("metadata").values),
        "created_at": min([entry.created_at for _, entry in entries if entry.created_at is not None] + [last_used]),
        "last_activity_at": last_used,
    }
    # A later summary from the same position takes the place of an earlier one.
    summaries = {}
    summarized = 0
    for summary in _lines(conversation.path / "summaries.jsonl"):
        values = _promptkit_summary(summary, last_used)
        summaries[values["start_seq"]] = Record("summary", {"session_id": session_id, **values}, summary.where)
        summarized = max(summarized, values["end_seq"])
    trimmed = summarized if summarized > len(entries) else 0
    records = _session_records(session, entries, state.where, first_seq=trimmed + 1)
    records += [summaries[start_seq] for start_seq in sorted(summaries)]
    kept = {f"promptkit.{name}": (value, state.where) for name, value in state.values.items() if name not in _PLACED}
    for file in sorted((conversation.path / "lists").rglob("*.jsonl")):
        name = file.relative_to(conversation.path / "lists").with_suffix("").as_posix()
        kept[f"promptkit.list.{name}"] = _promptkit_list(file), str(file)
    return records + [_state_record(session_id, key, value, last_used, where) for key, (value, where) in kept.items()]


def _promptkit_list(file: Path) -> list[Any]:
    """The items of a list: they are bytes there, kept as JSON if all of them are, and otherwise as text."""
    with file.open("rb") as opened:
        items = [(f"{file}:{number}", line.rstrip(b"\n")) for number, line in json_files.lines(opened)]
    try:
        found = [json_files.parse(item, where) for where, item in items]
        for one in found:
            exactjson.dumps(one, "item")
        return found
    except InvalidValueError:
        pass
    texts = []
    for where, item in items:
        try:
            texts.append(item.decode())
        except UnicodeDecodeError:
            raise UnreadableError(f"{where}: is not text in UTF-8") from None
    return texts


def _promptkit_summary(summary: "_Object", written_at: datetime) -> dict[str, Any]:
    # There a summary stands for the messages from StartTurn up to, not including, EndTurn, counted from 0.
    with _naming(summary.where):
        start_seq = checks.count(summary.values.get("StartTurn"), "StartTurn", most=MAX_POSITION - 1) + 1
        values = {
            "start_seq": start_seq,
            "end_seq": checks.count(summary.values.get("EndTurn"), "EndTurn", least=start_seq, most=MAX_POSITION),
            "content": checks.text(summary.values.get("Content"), "Content"),
            "token_count": checks.optional_count(summary.values.get("TokenCount"), "TokenCount") or None,
            "created_at": summary.time("CreatedAt") or written_at,
        }
    return {name: value for name, value in values.items() if value is not None}


def _promptkit_entry(message: "_Object") -> NewEntry:
    cost, result = message.object("cost_info"), message.object("tool_result")
    calls = message.values.get("tool_calls")
    first_call = calls[0] if isinstance(calls, list) and calls and isinstance(calls[0], Mapping) else {}
    cached = cost.count("cached_tokens")
    uncached = cost.count("input_tokens")
    return NewEntry(
        message.values,
        usage=Usage(
            # Those that were read from a cache are counted beside the others there, and among them here.
            input_tokens=None if uncached is None else uncached + (cached or 0),
            output_tokens=cost.count("output_tokens"),
            cache_read_input_tokens=cached,
        )
        if cost.values
        else None,
        provider_name=cost.text("provider_name"),
        cost_usd=cost.values.get("total_cost_usd"),
        tool_name=result.text("name") or first_call.get("name") or None,
        tool_call_id=result.text("id") or first_call.get("id") or None,
        duration=message.duration("latency_ms", a_second=_MILLISECONDS)
        or result.duration("latency_ms", a_second=_MILLISECONDS),
        error_type=result.text("error_type") or ("error" if result.values.get("error") else None),
        created_at=message.time("timestamp"),
    )


def read_conexus(saved: Foreign) -> list[Record]:
    """A `session-<id>.json`: each of its interactions becomes an entry that begins a turn."""
    session = _object(saved.path)
    session_id = session.text("ID") or saved.path.stem.removeprefix(_SESSION)
    history = session.values.get("History") or []
    if not isinstance(history, list):
        raise UnreadableError(f"{session.where}: History is no list of interactions")
    interactions = [_Object.of(one, f"{session.where}: History[{index}]") for index, one in enumerate(history)]
    entries = [(interaction.where, _conexus_entry(interaction)) for interaction in interactions]
    last_used = session.time("LastActivity") or _modified(saved.path)
    columns = {
        "session_id": session_id,
        "user_id": session.text("UserID"),
        "metadata": dict(session.object("Metadata").values),
        "created_at": session.time("CreatedAt") or last_used,
        "last_activity_at": last_used,
    }
    records = _session_records(columns, entries, session.where)
    others = {f"conexus.{name}": value for name, value in session.values.items() if name not in _PLACED_CONEXUS}
    state = {**others, **session.object("State").values}
    if len(state) < len(others) + len(session.object("State").values):
        raise UnreadableError(f"{session.where}: State has a key that begins with 'conexus.', which is taken")
    return records + [
        _state_record(session_id, key, value, last_used, f"{session.where}: State") for key, value in state.items()
    ]


def _state_record(session_id: str, key: str, value: Any, updated_at: datetime, where: str) -> Record:
    with _naming(where):
        values = {
            "session_id": session_id,
            "key": checks.key(key, "the key"),
            "value": exactjson.dumps(value, "the value"),
            "version": 1,
            "updated_at": updated_at,
        }
    return Record("state", values, where)


def _conexus_entry(interaction: "_Object") -> NewEntry:
    return NewEntry(
        {name: value for name, value in interaction.values.items() if name not in _PLACED_OF_INTERACTION},
        role="user",
        agent_name=interaction.text("Agent"),
        duration=interaction.duration("Duration", a_second=_NANOSECONDS),
        created_at=interaction.time("Timestamp"),
    )


def _session_records(
    session: dict[str, Any], entries: Sequence[tuple[str, NewEntry]], where: str, *, first_seq: int = 1
) -> list[Record]:
    """The rows of a session and of its entries, which come with where they stand."""
    rows = []
    turn = 0
    for seq, (entry_where, entry) in enumerate(entries, start=first_seq):
        with _naming(entry_where):
            [prepared] = entry_rows.prepare([entry], max_bytes=exactjson.MAX_BYTES)
        turn += prepared.columns["turn"]
        place = {"session_id": session["session_id"], "seq": seq, "turn": turn}
        rows.append(
            Record("entry", {"created_at": session["last_activity_at"], **prepared.columns, **place}, entry_where)
        )
    with _naming(where):
        columns = {
            **{name: value for name, value in session.items() if value is not None},
            "session_id": checks.key(session["session_id"], "id"),
            "user_id": checks.optional_key(session["user_id"], "user_id"),
            "metadata": checks.metadata(session["metadata"]),
            "root_session_id": session["session_id"],
            "first_seq": first_seq,
            "next_seq": first_seq + len(rows),
            "last_turn": turn,
        }
    return [Record("session", columns, where), *rows]


@dataclass(frozen=True, slots=True)
class _Object:
    """A JSON object of a file. What is read from it is there and right, or None, or an error that says where."""

    values: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, value: Any, where: str) -> "_Object":
        if not isinstance(value, Mapping):
            raise UnreadableError(f"{where}: no JSON object")
        return cls(value, where)

    def object(self, name: str) -> "_Object":
        """The object under *name*; an empty one where there is none."""
        return _Object.of({} if self.values.get(name) is None else self.values[name], f"{self.where}: {name}")

    def text(self, name: str) -> str | None:
        with _naming(self.where):
            return checks.optional_text(self.values.get(name), name) or None

    def count(self, name: str) -> int | None:
        with _naming(self.where):
            return checks.optional_count(self.values.get(name), name)

    def duration(self, name: str, *, a_second: int) -> timedelta | None:
        """A number of units, of which *a_second* make a second; None for zero, which stands for none."""
        value = self.values.get(name)
        if not value:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise UnreadableError(f"{self.where}: {name} is no duration")
        if value / a_second > checks.MAX_TTL.total_seconds():
            raise UnreadableError(f"{self.where}: {name} is longer than {checks.MAX_TTL.days:,} days")
        return timedelta(seconds=value / a_second)

    def time(self, name: str) -> datetime | None:
        """A time as Go writes it; None for Go's zero time, which stands for none."""
        value = self.values.get(name)
        if value is None or value == "":
            return None
        try:
            found = datetime.fromisoformat(value)
            found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
            return None if found.year == 1 else checks.optional_time(found, name)
        except (TypeError, ValueError):
            raise UnreadableError(f"{self.where}: {name} is no time") from None


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Say where in the files a value stands that the store does not accept."""
    try:
        yield
    except InvalidValueError as error:
        raise UnreadableError(f"{where}: {str(error).removeprefix('entries[0].')}") from None


def _object(file: Path) -> _Object:
    try:
        with file.open("rb") as opened:
            return _Object.of(_parsed(json_files.whole(opened), str(file)), str(file))
    except FileNotFoundError:
        raise UnreadableError(f"{file} is missing") from None


def _lines(file: Path) -> Iterator[_Object]:
    if not file.exists():
        return
    with file.open("rb") as opened:
        for number, line in json_files.lines(opened):
            where = f"{file}:{number}"
            yield _Object.of(_parsed(line, where), where)


def _parsed(data: bytes, where: str) -> Any:
    try:
        return json_files.parse(data, where)
    except InvalidValueError as error:
        raise UnreadableError(str(error)) from None


def _modified(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)
