"""Reading Claude Code's transcripts: files, the lines in them that contain a message, and the usage to count for them.

Claude Code writes a response in several lines, and each of them repeats its usage; a resumed session may begin with a
copy of the one before. `claude_transcripts` has the rules by which each response counts once.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statestore.checking import checks, json_files, messages
from statestore.errors import InvalidValueError
from statestore.importers.json_lines import LineError, parse_line
from statestore.importers.problems import Problems
from statestore.values.history import Usage

if TYPE_CHECKING:
    from statestore.store import StateStore

# Longer than any block of a response takes; a line is written when its block is complete.
_SETTLED = timedelta(minutes=10).total_seconds()
_TIMESTAMP = re.compile(rb'"timestamp"\s*:\s*"([^"]+)"')
_LOOK = 1 << 16


@dataclass(slots=True)
class Line:
    """A line that contains a message."""

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
    def entry_id(self) -> str:
        """The id of the line's entry."""
        return self.uuid or f"line-{self.number}"

    @property
    def response(self) -> str | None:
        """What all lines of a response, and all copies of them, have in common."""
        return self.message_id or self.uuid


@dataclass(slots=True)
class Transcript:
    """One session: a file, or what a sub-agent has written into another session's file."""

    path: Path
    session_id: str
    parent_id: str | None = None
    # When the file was last written to, in seconds since 1970.
    written_at: float = 0
    title: tuple[str, int] | None = None
    lines: list[Line] = field(default_factory=list)

    def first(self, name: str) -> tuple[str, int] | None:
        """The first text under a name in any line, and the number of that line."""
        found = ((line.record.get(name), line.number) for line in self.lines)
        return next(((value, number) for value, number in found if isinstance(value, str) and value), None)

    def finished(self) -> tuple[list[Line], str | None]:
        """The lines that are ready to be stored, and the response that the last line still waits for, if it does."""
        last = self.lines[-1].message_id
        if last is None or _settled(self.written_at):
            return self.lines, None
        if any(line.message.get("stop_reason") for line in self.lines if line.message_id == last):
            return self.lines, None
        return self.lines[:-1], last


def files(path: Path) -> list[Path]:
    """The transcripts at *path*: a file, or all below a folder."""
    return [path] if path.is_file() else sorted(found for found in path.rglob("*.jsonl") if found.is_file())


@dataclass(frozen=True, slots=True)
class FileLines:
    """The contents of a file."""

    transcripts: list[Transcript]
    """Its session first, then the sub-agents between its lines."""
    skipped: int
    """How many lines contain no message."""
    unfinished: int
    """How many lines, one at most, are still being written."""


def read(path: Path, problems: Problems) -> FileLines:
    """Read a file.

    Raises:
        OSError: It cannot be read.
    """
    lines: list[Line] = []
    skipped = unfinished = 0
    with path.open("rb") as file:
        main = Transcript(path, path.stem, written_at=os.fstat(file.fileno()).st_mtime)
        for number, text in json_files.lines(file):
            if text.isspace():
                continue
            try:
                record = parse_line(text)
                if not isinstance(record, dict):
                    raise LineError("is not a JSON object")
                line = _line(number, record)
            except LineError as error:
                if not text.endswith(b"\n") and not _settled(main.written_at):
                    unfinished += 1
                else:
                    problems.report(str(path), str(error), line=number)
                continue
            if line is not None:
                lines.append(line)
                continue
            skipped += 1
            if record.get("type") == "summary" and isinstance(record.get("summary"), str):
                main.title = record["summary"], number
    owners = {line.record.get("sessionId") for line in lines}
    if path.stem.startswith("agent-") and len(owners) == 1 and isinstance(owner := owners.pop(), str) and owner:
        main.session_id, main.parent_id, main.lines = f"{owner}/{path.stem}", owner, lines
        return FileLines([main], skipped, unfinished)
    return FileLines([main, *_split(main, lines)], skipped, unfinished)


def _settled(written_at: float) -> bool:
    """Whether nobody has written to a file for so long that it can be taken as complete."""
    return abs(time.time() - written_at) > _SETTLED


def _line(number: int, record: dict[str, Any]) -> Line | None:
    """A line's message; None for a line of another kind."""
    message = record.get("message")
    if record.get("type") not in ("user", "assistant") or not isinstance(message, dict):
        return None
    if not isinstance(message.get("role"), str):
        raise LineError("has a message without a role")
    return Line(
        number,
        _text(record.get("uuid")),
        _text(record.get("parentUuid")),
        _text(record.get("agentId")),
        record.get("isSidechain") is True,
        record,
    )


def _split(main: Transcript, lines: Iterable[Line]) -> list[Transcript]:
    """Give the session and each sub-agent its lines; a sub-agent is recognised by its id or its first line."""
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


def age(path: Path) -> tuple[bool, str, str, str]:
    """A sort key: the times at which a transcript begins and ends, so a copy follows its original; sub-agents last."""
    is_agent = path.stem.startswith("agent-")
    try:
        with path.open("rb") as file:
            head = file.read(_LOOK)
            file.seek(max(0, path.stat().st_size - _LOOK))
            tail = file.read(_LOOK)
    except OSError:
        return is_agent, "", "", path.name
    first, last = _TIMESTAMP.findall(head), _TIMESTAMP.findall(tail)
    # If these bytes are not text, `read` reports it.
    begun, ended = (found[at].decode(errors="replace") if found else "" for found, at in ((first, 0), (last, -1)))
    return is_agent, begun, ended, path.name


AGENT = "claude-code"
SUB_AGENT = "claude-code/sub-agent"

_BATCH = 500


class CountedResponses:
    """The responses whose usage is already counted: by this import, or by sessions in the store."""

    def __init__(self, store: "StateStore") -> None:
        self._store = store
        self._counted: set[str] = set()

    def add(self, response: str) -> None:
        """Note that this import has counted a response."""
        self._counted.add(response)

    def due(
        self, session_id: str, lines: list[Line], new: list[Line], known: Mapping[str, Usage | None]
    ) -> dict[str, Usage]:
        """The usage that still has to be counted for the responses of the *new* lines."""
        final: dict[str, Usage] = {}
        for line in lines:
            if line.response is not None and isinstance(line.message.get("usage"), Mapping):
                final[line.response] = messages.usage(line.message)
        due = {line.response: final[line.response] for line in new if line.response in final}
        counted: dict[str, Usage] = {}
        for line in lines:
            if line.response in due and (entry_id := line.entry_id) in known:
                used = known[entry_id]
                if used is None:  # It was not read: it is taken as counted.
                    counted[line.response] = final[line.response]
                elif used != Usage():
                    counted[line.response] = _sum(counted.get(line.response, Usage()), used)
        uncounted = [line for line in lines if line.response in due and line.response not in counted]
        others = self._counted | self._elsewhere(session_id, uncounted)
        self._counted.update(line.response for line in lines if line.response is not None and line.entry_id in known)
        return {
            response: _rest(usage, counted[response]) if response in counted else usage
            for response, usage in due.items()
            if response in counted or response not in others
        }

    def _elsewhere(self, session_id: str, lines: list[Line]) -> set[str]:
        """The responses of which another session has a line, from this import or an earlier one.

        It does not matter whether that line has usage: if it has none, another copy has it. Expired sessions count,
        since their usage stays in the reports.
        """
        new = [line for line in lines if line.response not in self._counted]
        asked = {line.uuid: line.response for line in new if line.uuid is not None and _is_key(line.uuid)}
        ids = list(asked)
        found: set[str] = set()
        for start in range(0, len(ids), _BATCH):
            held = self._store.history.locate_many(
                ids[start : start + _BATCH], agent_names=(AGENT, SUB_AGENT), include_expired=True
            )
            others = (uuid for uuid, places in held.items() if [place.session_id for place in places] != [session_id])
            found.update(response for uuid in others if (response := asked[uuid]) is not None)
        return found


def _sum(one: Usage, other: Usage) -> Usage:
    return _combined(one, other, lambda a, b: a + b)


def _rest(whole: Usage, part: Usage) -> Usage:
    """What *whole* has in addition to *part*."""
    return _combined(whole, part, lambda a, b: max(a - b, 0) or None)


def _combined(one: Usage, other: Usage, combine: Callable[[int, int], int | None]) -> Usage:
    found = {}
    for name in (one_field.name for one_field in fields(Usage)):
        a, b = getattr(one, name), getattr(other, name)
        found[name] = None if a is None and b is None else combine(a or 0, b or 0)
    return Usage(**found)


def _is_key(text: str) -> bool:
    """Whether an entry can have this id. Lines with other ids are refused when they are appended."""
    try:
        checks.key(text, "entry_id")
    except InvalidValueError:
        return False
    return True
