"""Reading Claude Code's transcripts: files, the lines in them that contain a message, and whose lines these are."""

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from statestore.checking import json_files
from statestore.importers.json_lines import LineError, parse_line
from statestore.importers.problems import Problems

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
