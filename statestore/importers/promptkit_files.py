"""Conversations of PromptKit's file store, as sessions.

The meaning of the fields comes from PromptKit's source code. Content is kept as it is, key order included; what reports
and windows need is read from it into columns.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from statestore.checking import checks, exactjson, json_files
from statestore.errors import InvalidValueError
from statestore.importers.json_objects import (
    FieldError,
    JsonObject,
    SessionsReport,
    checked_path,
    import_each,
    modified_at,
    naming,
    object_in,
    objects_in,
)
from statestore.importers.problems import OnProblem
from statestore.values.history import NewEntry, Usage
from statestore.values.saved_sessions import SavedEntry, SavedItem, SavedList, SavedSession, SavedState, SavedSummary

if TYPE_CHECKING:
    from statestore.store import StateStore

# The fields that have a place in a session. All others go into its state, under `promptkit.`, so nothing is lost.
_PLACED = frozenset({"id", "user_id", "system_prompt", "metadata", "last_accessed_at"})
_CONVERSATION = "conv-"
_MILLISECONDS = 1000


def promptkit(
    store: "StateStore",
    path: str | os.PathLike[str],
    *,
    replace: bool = False,
    progress: Callable[[Path], object] | None = None,
    on_problem: OnProblem | None = None,
) -> SessionsReport:
    """Import the conversations of PromptKit's file store, each as a session.

    Messages are kept as they are, key order included; tokens, costs, tools and times are read from them. The system
    prompt becomes the session's instructions, its named lists become the session's lists, and unknown fields become
    keys of its state, `promptkit.NAME`. If messages were trimmed after a summary, their positions stay free. Nothing is
    written to *path*.

    Each conversation is written in a separate transaction, as a whole or not at all. If its session already exists,
    this is a problem and the session is not changed, unless *replace* is true. To complete an import that was cut off,
    repeat it with *replace*.

    Args:
        store: The store to import into.
        path: The folder that contains the `conv-ID` folders, or one of these.
        replace: Overwrite existing sessions, with all that belongs to them. Their forks keep what they see, and
            recorded usage is kept.
        progress: Called with the folder of each conversation that is done, left out or not.
        on_problem: Called with each conversation that is left out because it cannot be read or stored, or already
            exists. The others are imported. If None, the first problem raises.

    Returns:
        How many sessions and entries were written, and how many sessions were left out.

    Raises:
        InvalidValueError: *path* contains no conversation, or *store* is not a `StateStore`: nothing was written. Or a
            conversation cannot be read or stored, and there is no *on_problem*: those before it stay. The message names
            the file and the line.
        ConflictError: A session already exists, *replace* is false, and there is no *on_problem*. Those before it stay.
        DatabaseError: The database failed. What was written before stays.
    """
    folder = checked_path(store, path, replace=replace, progress=progress, on_problem=on_problem)
    return import_each(
        store, folder, conversations(folder), read, replace=replace, progress=progress, on_problem=on_problem
    )


def conversations(folder: Path) -> list[Path]:
    """The conversations of a file store: the folders `conv-ID`, or *folder* itself if it is one."""
    if not os.path.isdir(folder):
        return []
    if folder.name.startswith(_CONVERSATION) and (folder / "state.json").exists():
        return [folder]
    return sorted(path for path in folder.glob(f"{_CONVERSATION}*") if path.is_dir())


def read(conversation: Path) -> SavedSession:
    """The session in a folder's `state.json`, `messages.jsonl`, `summaries.jsonl` and `lists/NAME.jsonl`.

    A trimmed conversation has only its last messages, but its summaries count from its beginning. Its messages then get
    the positions after the last one that is summarized. PromptKit does not say that it has trimmed: it shows if
    summaries reach behind the last message, or if one would cover a message that is newer than itself.

    Raises:
        InvalidValueError: A file is missing or malformed.
        OSError: A file cannot be read.
    """
    state = object_in(conversation / "state.json")
    messages = [*objects_in(conversation / "messages.jsonl")]
    entries = [SavedEntry(_entry(message), message.where) for message in messages]
    last_used = state.time("last_accessed_at") or modified_at(conversation / "state.json")
    summaries = [_summary(summary, last_used) for summary in objects_in(conversation / "summaries.jsonl")]
    # A later summary that starts at the same position replaces an earlier one.
    latest = {summary.start_seq: summary for summary in summaries}
    return SavedSession(
        session_id=state.text("id") or conversation.name.removeprefix(_CONVERSATION),
        user_id=state.text("user_id"),
        instructions=state.text("system_prompt"),
        metadata=dict(state.object("metadata").values),
        created_at=min([one.entry.created_at for one in entries if one.entry.created_at is not None] + [last_used]),
        last_activity_at=last_used,
        first_seq=max((one.end_seq for one in summaries), default=0) + 1 if _is_trimmed(entries, summaries) else 1,
        entries=entries,
        summaries=[latest[start_seq] for start_seq in sorted(latest)],
        state=_others(state),
        lists=_lists(conversation / "lists"),
        where=state.where,
    )


def _is_trimmed(entries: Sequence[SavedEntry], summaries: Sequence[SavedSummary]) -> bool:
    """Whether *entries* cannot be what *summaries* count from."""
    for summary in summaries:
        if summary.end_seq > len(entries):
            return True
        said_at = entries[summary.end_seq - 1].entry.created_at
        if said_at is not None and said_at > summary.created_at:
            return True
    return False


def _others(state: JsonObject) -> list[SavedState]:
    """The fields that have no place in a session."""
    return [
        SavedState(f"promptkit.{name}", value, state.where)
        for name, value in state.values.items()
        if name not in _PLACED
    ]


def _lists(folder: Path) -> list[SavedList]:
    """The named lists that have items."""
    lists = [
        SavedList(file.relative_to(folder).with_suffix("").as_posix(), _items(file), str(file))
        for file in sorted(folder.rglob("*.jsonl"))
    ]
    return [one for one in lists if one.items]


def _items(file: Path) -> list[SavedItem]:
    """The items of a list, which are bytes in PromptKit: kept as JSON if all of them are JSON, otherwise as text."""
    with file.open("rb") as opened:
        items = [(f"{file}:{number}", line.rstrip(b"\n")) for number, line in json_files.lines(opened)]
    try:
        found = [SavedItem(json_files.parse(item, where), where) for where, item in items]
        for one in found:
            exactjson.dumps(one.value, "item")
        return found
    except InvalidValueError:
        pass
    texts = []
    for where, item in items:
        try:
            texts.append(SavedItem(item.decode(), where))
        except UnicodeDecodeError:
            raise FieldError(where, "is not UTF-8 text") from None
    return texts


def _summary(summary: JsonObject, written_at: datetime) -> SavedSummary:
    # In PromptKit a summary covers messages from StartTurn up to, but not including, EndTurn, counted from 0.
    with naming(summary.where):
        start_seq = checks.count(summary.values.get("StartTurn"), "StartTurn", most=checks.MAX_POSITION - 1) + 1
        return SavedSummary(
            start_seq=start_seq,
            end_seq=checks.count(summary.values.get("EndTurn"), "EndTurn", least=start_seq, most=checks.MAX_POSITION),
            content=checks.text(summary.values.get("Content"), "Content"),
            token_count=checks.optional_count(summary.values.get("TokenCount"), "TokenCount") or None,
            created_at=summary.time("CreatedAt") or written_at,
            where=summary.where,
        )


def _entry(message: JsonObject) -> NewEntry:
    cost, result = message.object("cost_info"), message.object("tool_result")
    calls = message.values.get("tool_calls")
    first_call = calls[0] if isinstance(calls, list) and calls and isinstance(calls[0], Mapping) else {}
    cached = cost.count("cached_tokens")
    uncached = cost.count("input_tokens")
    return NewEntry(
        message.values,
        usage=Usage(
            # PromptKit counts cached tokens separately; here they are part of the input.
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
