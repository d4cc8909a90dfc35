"""Claude Code's transcripts: what is in `~/.claude/projects/**/*.jsonl`.

A line that carries a message is an entry, its message kept as it is. Some of what it used would be counted twice:

- A response is written in several lines, one for each block of its content, and each repeats its `message.id` and its
  usage. The first of them gets the usage, in the figures of the last.
- A response that is still being written has figures that are not its last, and what is stored does not change: it
  stays away until it says why it stopped, or until nobody has written to the file for a while.
- A session that was resumed may begin with a copy of the one before. Files are read in the order of their times, and
  what another file of this run has had, or another session in the database by the ids of the lines, only counts there.
- Lines of a sub-agent stand in a file of their own or, in older transcripts, between those of the session. Each
  sub-agent is a session of its own, forked from its session before the first entry.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statestore import checks, messages
from statestore.cli import claude_counted
from statestore.cli.openai_jsonl import LineError, load_line, numbered_lines
from statestore.errors import ConflictError, InvalidValueError, NotFoundError, SessionExistsError, SessionNotFoundError
from statestore.values import NewEntry, Usage

if TYPE_CHECKING:
    from statestore.store import StateStore

AGENT = "claude-code"
SUB_AGENT = "claude-code/sub-agent"

_BATCH = 500
# Longer than a block of a response takes: its line is written when the block is complete.
_SETTLED = timedelta(minutes=10).total_seconds()
_REFUSED = (ConflictError, InvalidValueError, NotFoundError)
_DURATIONS = ("durationMs", "totalDurationMs")
# What of a line is kept beside its message.
_KEPT = ("requestId", "parentUuid", "cwd", "gitBranch", "version", "agentId", "isMeta")
# Said by the program itself, in the name of no model.
_SYNTHETIC = "<synthetic>"
_TIMESTAMP = re.compile(rb'"timestamp"\s*:\s*"([^"]+)"')
_LOOK = 1 << 16

Report = Callable[[Path, int, str], None]


@dataclass(slots=True)
class Totals:
    """What an import has done."""

    files: int = 0
    sessions_new: int = 0
    sessions_extended: int = 0
    sessions_unchanged: int = 0
    entries_added: int = 0
    lines_skipped: int = 0
    lines_failed: int = 0
    lines_unfinished: int = 0


@dataclass(slots=True)
class Line:
    """A line that carries a message."""

    number: int
    uuid: str | None
    parent: str | None
    agent_id: str | None
    sidechain: bool
    record: Mapping[str, Any]

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = self.record["message"]
        return found

    @property
    def message_id(self) -> str | None:
        found = self.message.get("id")
        return found if isinstance(found, str) and found else None

    @property
    def response(self) -> str | None:
        """What all lines of a response, and all copies of them, have in common."""
        return self.message_id or self.uuid


@dataclass(slots=True)
class Transcript:
    """One session: a file, or what a sub-agent has written into the file of another."""

    path: Path
    session_id: str
    parent_id: str | None = None
    # When the file was written to, in seconds since 1970.
    written_at: float = 0
    title: tuple[str, int] | None = None
    lines: list[Line] = field(default_factory=list)

    def first(self, name: str) -> tuple[str, int] | None:
        """The first text that lines have under a name, and the number of its line."""
        found = ((line.record.get(name), line.number) for line in self.lines)
        return next(((value, number) for value, number in found if isinstance(value, str) and value), None)

    def finished(self) -> list[Line]:
        """The lines, up to a response that is still being written."""
        last = next((line.message_id for line in reversed(self.lines) if line.message_id is not None), None)
        indexes = [index for index, line in enumerate(self.lines) if line.message_id == last]
        settled = abs(time.time() - self.written_at) > _SETTLED
        if last is None or settled or any(self.lines[index].message.get("stop_reason") for index in indexes):
            return self.lines
        return self.lines[: indexes[0]]


def files(path: Path) -> list[Path]:
    """The transcripts at *path*: a file, or all below a folder."""
    return [path] if path.is_file() else sorted(found for found in path.rglob("*.jsonl") if found.is_file())


def read(path: Path, totals: Totals, report: Report) -> list[Transcript]:
    """What a file holds: its session first, then the sub-agents between its lines."""
    lines: list[Line] = []
    with path.open("rb") as file:
        main = Transcript(path, path.stem, written_at=os.fstat(file.fileno()).st_mtime)
        for number, text in numbered_lines(file):
            if text.isspace():
                continue
            try:
                record = load_line(text)
                if not isinstance(record, dict):
                    raise LineError("not a JSON object")
                line = _line(number, record)
            except LineError as error:
                totals.lines_failed += 1
                report(path, number, str(error))
                continue
            if line is not None:
                lines.append(line)
                continue
            totals.lines_skipped += 1
            if record.get("type") == "summary" and isinstance(record.get("summary"), str):
                main.title = record["summary"], number
    owners = {line.record.get("sessionId") for line in lines}
    if path.stem.startswith("agent-") and len(owners) == 1 and isinstance(owner := owners.pop(), str) and owner:
        main.session_id, main.parent_id, main.lines = f"{owner}/{path.stem}", owner, lines
        return [main]
    return [main, *_split(main, lines)]


def _line(number: int, record: dict[str, Any]) -> Line | None:
    """A line's message; None for a line of another kind."""
    message = record.get("message")
    if record.get("type") not in ("user", "assistant") or not isinstance(message, dict):
        return None
    if not isinstance(message.get("role"), str):
        raise LineError("a message without a role")
    return Line(
        number,
        _text(record.get("uuid")),
        _text(record.get("parentUuid")),
        _text(record.get("agentId")),
        record.get("isSidechain") is True,
        record,
    )


def _split(main: Transcript, lines: Iterable[Line]) -> list[Transcript]:
    """Give the session its lines, and each sub-agent its own: known by its id, or by the line it began with."""
    chains: dict[str, str] = {}
    split: dict[str, Transcript] = {}
    for line in lines:
        if not line.sidechain:
            main.lines.append(line)
            continue
        begun = chains.get(line.parent or "", line.uuid or str(line.number))
        if line.uuid is not None:
            chains[line.uuid] = begun
        name = f"agent-{line.agent_id or begun}"
        if name not in split:
            split[name] = Transcript(main.path, f"{main.session_id}/{name}", main.session_id, main.written_at)
        split[name].lines.append(line)
    return list(split.values())


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


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
        for path in sorted(paths, key=_age):
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
        lines = transcript.finished()
        self.totals.lines_unfinished += len(transcript.lines) - len(lines)
        if not lines:
            return
        try:
            stored = self._open(transcript)
            done = 0 if stored is None else self._stored(transcript.session_id, stored, lines)
        except _REFUSED as error:
            self._fail(transcript.path, 0, str(error))
            return
        entries = self._entries(transcript.session_id, lines, done)
        numbered = list(zip(entries, [line.number for line in lines[done:]], strict=True))
        added = sum(
            self._append(transcript, numbered[start : start + _BATCH]) for start in range(0, len(numbered), _BATCH)
        )
        self.totals.entries_added += added
        if stored is None:
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

    def _stored(self, session_id: str, last: int, lines: list[Line]) -> int:
        """How many of the lines are there for sure; the others are told apart by their ids."""
        if not 0 < last <= len(lines):
            return 0
        newest = self._store.history.read(session_id, last=1)
        if not newest:  # Trimmed away, and counted in the reports as they were.
            return last
        return last if newest[0].entry_id == _entry_id(lines[last - 1]) else 0

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

    def _entries(self, session_id: str, lines: list[Line], done: int) -> Iterator[NewEntry]:
        """What is to be appended for the lines from *done* on."""
        final: dict[str, Usage] = {}
        for line in lines:
            if line.response is not None and isinstance(line.message.get("usage"), Mapping):
                final[line.response] = messages.usage(line.message)
        self._counted.update(line.response for line in lines[:done] if line.response is not None)
        self._counted |= self._elsewhere(session_id, [line for line in lines[done:] if line.response in final])
        for line in lines[done:]:
            usage = Usage()
            if line.response is None:
                usage = messages.usage(line.message)
            elif line.response not in self._counted:
                self._counted.add(line.response)
                usage = final.get(line.response, usage)
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

    def _elsewhere(self, session_id: str, lines: list[Line]) -> set[str]:
        """The responses of which another session has a line, from an import before this one or from this one."""
        new = [line for line in lines if line.response not in self._counted]
        asked = {line.uuid: line.response for line in new if line.uuid is not None and _is_key(line.uuid)}
        held = claude_counted.elsewhere(self._store, asked, session_id=session_id, agents=(AGENT, SUB_AGENT))
        return {response for uuid in held if (response := asked[uuid]) is not None}

    def _fail(self, path: Path, number: int, reason: str) -> None:
        self.totals.lines_failed += 1
        self._report(path, number, reason)


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


def _age(path: Path) -> tuple[bool, str, str, str]:
    """When a transcript begins and ends, so that a copy comes behind its original; sub-agents come last."""
    is_agent = path.stem.startswith("agent-")
    try:
        with path.open("rb") as file:
            head = file.read(_LOOK)
            file.seek(max(0, path.stat().st_size - _LOOK))
            tail = file.read(_LOOK)
    except OSError:
        return is_agent, "", "", path.name
    first, last = _TIMESTAMP.findall(head), _TIMESTAMP.findall(tail)
    return is_agent, first[0].decode() if first else "", last[-1].decode() if last else "", path.name
