"""Claude Code's transcripts: what is in `~/.claude/projects/**/*.jsonl`.

A line that carries a message is an entry, its message kept as it is. Some of what it used would be counted twice:

- A response is written in several lines, one for each block of its content, and each repeats its `message.id` and its
  usage. The first of them gets the usage, in the figures of the last.
- A response that is still being written has figures that are not its last, and what is stored does not change: its
  newest line waits until the response says why it stopped, or until nobody has written to the file for a while. What
  the lines before it leave out it then brings. If lines of others stand behind it, it does not wait: the figures so far
  are stored, and a later line of the response gets what has come on top of them.
- A session that was resumed may begin with a copy of the one before. Files are read in the order of their times, and
  what another file of this run has had, or another session in the database by the ids of the lines, only counts there.
- Lines of a sub-agent stand in a file of their own or, in older transcripts, between those of the session. Each
  sub-agent is a session of its own, forked from its session before the first entry.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statestore.checking import checks, messages
from statestore.cli import claude_counted
from statestore.cli.claude_lines import Line, Report, Totals, Transcript, age, read
from statestore.errors import ConflictError, InvalidValueError, NotFoundError, SessionExistsError, SessionNotFoundError
from statestore.values.history import Entry, NewEntry, Usage

if TYPE_CHECKING:
    from statestore.store import StateStore

AGENT = "claude-code"
SUB_AGENT = "claude-code/sub-agent"

_BATCH = 500
_REFUSED = (ConflictError, InvalidValueError, NotFoundError)
_DURATIONS = ("durationMs", "totalDurationMs")
# What of a line is kept beside its message.
_KEPT = ("requestId", "parentUuid", "cwd", "gitBranch", "version", "agentId", "isMeta")
# Said by the program itself, in the name of no model.
_SYNTHETIC = "<synthetic>"


class Importer:
    """Writes transcripts as sessions. What is there already stays, so an import that was cut off can be run again."""

    def __init__(
        self, store: "StateStore", *, user_id: str | None = None, report: Report, progress: Callable[[Path], None]
    ) -> None:
        """Make an importer into *store*.

        Args:
            store: Where to.
            user_id: Whose the sessions are.
            report: Called with file, line and reason for each line that cannot be imported; line 0 for the file.
            progress: Called with each file that is done.
        """
        self._store = store
        self._user_id = user_id
        self._report = report
        self._progress = progress
        self._counted: set[str] = set()
        self.totals = Totals()

    def run(self, paths: Iterable[Path]) -> Totals:
        """Import the files, the earliest first, sub-agents behind the session that they belong to."""
        for path in sorted(paths, key=age):
            self.totals.files += 1
            try:
                found = read(path, self.totals, self._report)
            except OSError as error:
                self._fail(path, 0, error.strerror or "cannot be read")
                continue
            for transcript in found:
                if transcript.lines:
                    self._write(transcript)
            self._progress(path)
        return self.totals

    def _write(self, transcript: Transcript) -> None:
        lines, waiting = transcript.finished()
        self.totals.lines_unfinished += len(transcript.lines) - len(lines)
        if not lines:
            return
        try:
            last = self._open(transcript)
            known = {} if not last else self._known(transcript.session_id, last, lines)
        except _REFUSED as error:
            self._fail(transcript.path, 0, str(error))
            return
        new = [line for line in lines if _entry_id(line) not in known]
        entries = self._entries(transcript.session_id, lines, new, known, waiting)
        numbered = list(zip(entries, [line.number for line in new], strict=True))
        added = sum(
            self._append(transcript, numbered[start : start + _BATCH]) for start in range(0, len(numbered), _BATCH)
        )
        self.totals.entries_added += added
        if last is None:
            self.totals.sessions_new += 1
        elif added:
            self.totals.sessions_extended += 1
        else:
            self.totals.sessions_unchanged += 1

    def _open(self, transcript: Transcript) -> int | None:
        """The last position of the session; None where it had to be made."""
        sessions = self._store.sessions
        found = sessions.find(transcript.session_id)
        if found is not None:
            return found.next_seq - 1
        directory = self._storable(transcript, "cwd", transcript.first("cwd"))
        attributes: dict[str, Any] = {
            "user_id": self._user_id,
            "agent_name": AGENT if transcript.parent_id is None else SUB_AGENT,
            "title": self._storable(transcript, "title", transcript.title),
            "project_root": directory,
            "cwd": directory,
        }
        metadata = {"source": "claude-code", "file": transcript.path.name}
        for name, key in (("version", "claude_code_version"), ("gitBranch", "git_branch")):
            if (value := self._storable(transcript, name, transcript.first(name), json=True)) is not None:
                metadata[key] = value
        if transcript.parent_id is not None:
            try:
                sessions.fork(transcript.parent_id, transcript.session_id, at_seq=0)
                sessions.update(transcript.session_id, metadata=metadata, **attributes)
                return None
            except SessionNotFoundError:
                metadata["parent_session_id"] = transcript.parent_id
        try:
            sessions.create(transcript.session_id, metadata=metadata, **attributes)
        except SessionExistsError:  # Made by another import at the same time.
            return 0
        return None

    def _storable(
        self, transcript: Transcript, name: str, found: tuple[str, int] | None, *, json: bool = False
    ) -> str | None:
        """What a session's attribute is to be; None, and a report, for text that cannot be stored."""
        if found is None:
            return None
        text, number = found
        try:
            if json:
                checks.metadata({name: text}, name)
            else:
                checks.text(text, name)
            return text
        except InvalidValueError as error:
            self._fail(transcript.path, number, str(error))
            return None

    def _known(self, session_id: str, last: int, lines: list[Line]) -> dict[str, Usage | None]:
        """What is stored already: by the entry's id what it used, or None if nobody looked.

        If the newest entry is the line of its position, all before it are taken to be theirs, and only those of its
        response are looked at: nothing else can go on behind them.
        """
        history = self._store.history
        if last <= len(lines):
            newest = history.read(session_id, last=1)
            if not newest or newest[0].entry_id == _entry_id(lines[last - 1]):  # None: trimmed away, and counted.
                known: dict[str, Usage | None] = dict.fromkeys(_entry_id(line) for line in lines[:last])
                going_on = {line.response for line in lines[last:]}
                first = next((n for n, line in enumerate(lines[:last]) if line.response in going_on), last)
                return known | {entry.entry_id: entry.usage for entry in self._entries_after(session_id, first, last)}
        return {entry.entry_id: entry.usage for entry in self._entries_after(session_id, 0, last)}

    def _entries_after(self, session_id: str, position: int, last: int) -> Iterator[Entry]:
        while position < last and (page := self._store.history.read(session_id, after=position, limit=_BATCH)):
            yield from page
            position = page[-1].seq

    def _append(self, transcript: Transcript, numbered: list[tuple[NewEntry, int]]) -> int:
        """Append entries, and return how many were new. A line that is refused is left out."""
        session_id = transcript.session_id
        try:
            before = self._store.sessions.get(session_id).next_seq
            self._store.history.append(session_id, [entry for entry, _ in numbered])
            return self._store.sessions.get(session_id).next_seq - before
        except _REFUSED as error:
            if len(numbered) > 1:
                return sum(self._append(transcript, [one]) for one in numbered)
            self._fail(transcript.path, numbered[0][1], str(error))
            return 0

    def _entries(
        self,
        session_id: str,
        lines: list[Line],
        new: list[Line],
        known: Mapping[str, Usage | None],
        waiting: str | None,
    ) -> Iterator[NewEntry]:
        """What is to be appended for the *new* ones of the lines. The response that is *waiting* is not counted yet."""
        due = self._due(session_id, lines, new, known)
        for line in new:
            usage = Usage()
            if line.response is None:
                usage = messages.usage(line.message)
            elif line.response != waiting:
                usage = due.pop(line.response, usage)
                self._counted.add(line.response)
            if line.message.get("model") == _SYNTHETIC:
                usage = Usage()
            record = line.record
            yield NewEntry(
                line.message,
                usage=usage,
                provider_name="anthropic" if line.message.get("model") else None,
                error_type=_error(record, line.message),
                duration=_duration(record.get("toolUseResult")),
                metadata={key: record[key] for key in _KEPT if record.get(key) is not None} or None,
                entry_id=_entry_id(line),
                created_at=_time(record),
            )

    def _due(
        self, session_id: str, lines: list[Line], new: list[Line], known: Mapping[str, Usage | None]
    ) -> dict[str, Usage]:
        """What is still to be counted of the responses of the *new* lines."""
        final: dict[str, Usage] = {}
        for line in lines:
            if line.response is not None and isinstance(line.message.get("usage"), Mapping):
                final[line.response] = messages.usage(line.message)
        due = {line.response: final[line.response] for line in new if line.response in final}
        counted: dict[str, Usage] = {}
        for line in lines:
            if line.response in due and (entry_id := _entry_id(line)) in known:
                used = known[entry_id]
                if used is None:  # It is not there any more to be asked.
                    counted[line.response] = final[line.response]
                elif used != Usage():
                    counted[line.response] = _sum(counted.get(line.response, Usage()), used)
        uncounted = [line for line in lines if line.response in due and line.response not in counted]
        others = self._counted | self._elsewhere(session_id, uncounted)
        self._counted.update(line.response for line in lines if line.response is not None and _entry_id(line) in known)
        return {
            response: _rest(usage, counted[response]) if response in counted else usage
            for response, usage in due.items()
            if response in counted or response not in others
        }

    def _elsewhere(self, session_id: str, lines: list[Line]) -> set[str]:
        """The responses of which another session has a line, from an import before this one or from this one."""
        new = [line for line in lines if line.response not in self._counted]
        asked = {line.uuid: line.response for line in new if line.uuid is not None and _is_key(line.uuid)}
        held = claude_counted.elsewhere(self._store, asked, session_id=session_id, agents=(AGENT, SUB_AGENT))
        return {response for uuid in held if (response := asked[uuid]) is not None}

    def _fail(self, path: Path, number: int, reason: str) -> None:
        self.totals.lines_failed += 1
        self._report(path, number, reason)


def _sum(one: Usage, other: Usage) -> Usage:
    return _combined(one, other, lambda a, b: a + b)


def _rest(whole: Usage, part: Usage) -> Usage:
    """What *whole* has beyond *part*."""
    return _combined(whole, part, lambda a, b: max(a - b, 0) or None)


def _combined(one: Usage, other: Usage, combine: Callable[[int, int], int | None]) -> Usage:
    found = {}
    for name in (field.name for field in fields(Usage)):
        a, b = getattr(one, name), getattr(other, name)
        found[name] = None if a is None and b is None else combine(a or 0, b or 0)
    return Usage(**found)


def _is_key(text: str) -> bool:
    """Whether an entry can have this id; the others are refused, line by line, when they are appended."""
    try:
        checks.key(text, "entry_id")
    except InvalidValueError:
        return False
    return True


def _entry_id(line: Line) -> str:
    return line.uuid or f"line-{line.number}"


def _error(record: Mapping[str, Any], message: Mapping[str, Any]) -> str | None:
    if record.get("isApiErrorMessage") is True:
        return "api_error"
    blocks = message.get("content")
    failed = isinstance(blocks, list) and any(isinstance(b, Mapping) and b.get("is_error") is True for b in blocks)
    return "tool_error" if failed else None


def _duration(result: Any) -> timedelta | None:
    """How long a tool has run, where its result says so."""
    for name in _DURATIONS if isinstance(result, Mapping) else ():
        value = result.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**11:
            return timedelta(milliseconds=value)
    return None


def _time(record: Mapping[str, Any]) -> datetime | None:
    try:
        found = datetime.fromisoformat(record["timestamp"])
    except (KeyError, TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else None
