"""Claude Code's transcripts: what is in `~/.claude/projects/**/*.jsonl`.

Each line with a message becomes an entry, and the message is kept as it is. Usage must not be counted twice:

- A response is written in several lines, one for each block of its content, and each repeats its `message.id` and its
  usage. The first of these lines gets the usage, with the figures of the last.
- The figures of a response that is still being written are not final, and stored entries do not change. So the newest
  line waits until the response says why it stopped, or until nobody has written to the file for a while; then it gets
  the usage that the lines before it do not have. If lines of other responses follow, it does not wait: the figures so
  far are stored, and a later line of the response gets the rest.
- A resumed session may begin with a copy of the one before. Files are read in the order of their times. What was
  already in another file of this run, or is in another session of the database under the same line ids, counts only
  there.
- Lines of a sub-agent are in a separate file or, in older transcripts, between those of the session. Each sub-agent is
  a session that belongs to its session.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statestore.checking import checks, messages, open_files
from statestore.errors import ConflictError, InvalidValueError, NotFoundError, SessionExistsError, SessionNotFoundError
from statestore.importers.claude_lines import AGENT, SUB_AGENT, CountedResponses, Line, Transcript, age, files, read
from statestore.importers.json_lines import unreadable
from statestore.importers.problems import OnProblem, Problems, check_functions, check_store
from statestore.values.history import Entry, NewEntry, Usage

if TYPE_CHECKING:
    from statestore.store import StateStore

_BATCH = 500
_REFUSED = (ConflictError, InvalidValueError, NotFoundError)
_DURATIONS = ("durationMs", "totalDurationMs")
# The fields of a line that are kept beside its message.
_KEPT = ("requestId", "parentUuid", "cwd", "gitBranch", "version", "agentId", "isMeta")
# The "model" of messages that the program itself wrote.
_SYNTHETIC = "<synthetic>"


@dataclass(frozen=True, slots=True)
class ClaudeCodeReport:
    """What an import of transcripts did."""

    files: int = 0
    """Files that were read."""
    sessions_new: int = 0
    """Sessions that were created, those of sub-agents included."""
    sessions_extended: int = 0
    """Sessions that already existed and got new entries."""
    sessions_unchanged: int = 0
    """Sessions that already had all entries."""
    entries_added: int = 0
    """Entries that were appended, in all sessions."""
    lines_skipped: int = 0
    """Lines without a message, such as titles and snapshots of files."""
    lines_failed: int = 0
    """Lines, files and attributes of sessions that were left out; each was reported."""
    lines_unfinished: int = 0
    """Lines that were left for the next import because they are still being written."""


def claude_code(
    store: "StateStore",
    path: str | os.PathLike[str],
    *,
    user_id: str | None = None,
    expect: Callable[[int], object] | None = None,
    progress: Callable[[Path], object] | None = None,
    on_problem: OnProblem | None = None,
) -> ClaudeCodeReport:
    """Import transcripts of Claude Code, each as a session, with their usage.

    Messages are kept as they are. Each sub-agent becomes a session that belongs to its session, and is deleted with it:
    see `belongs_to` of `sessions.create`. A response that is written in several lines counts once, even if a resumed
    session begins with a copy of another, as long as the other is there or was imported and not deleted. Costs are
    computed if prices are known. Nothing is written to *path*.

    What is already stored stays, and what is new is appended. Repeating an import therefore changes nothing, and
    completes one that was cut off. Entries are appended to a session 500 at a time, each time all or none. A file's
    last line is left for the next import if it is incomplete, or belongs to a response that has not said why it
    stopped, unless nobody has written to the file for ten minutes.

    Args:
        store: The store to import into.
        path: A transcript, or a folder with all `*.jsonl` files below it, such as `Path.home() / ".claude/projects"`.
        user_id: The user that new sessions belong to.
        expect: Called once with the number of files, before anything is written.
        progress: Called with each file that is done.
        on_problem: Called with each line, file or attribute of a session that is left out because it cannot be read or
            stored. The others are imported. If None, the first problem raises.

    Returns:
        How many files, sessions, entries and lines were read, written and left out.

    Raises:
        InvalidValueError: *path* does not exist, or an argument cannot be used. Nothing was written. Or a line cannot
            be imported, and there is no *on_problem*; the message names the file and the line. What was appended before
            stays.
        ConflictError: A line contradicts what is stored under its id, and there is no *on_problem*. What was appended
            before stays.
        DatabaseError: The database failed. What was appended before stays.
    """
    check_store(store)
    checks.optional_key(user_id, "user_id")
    check_functions(expect=expect, progress=progress, on_problem=on_problem)
    place = open_files.path(path)
    if not os.path.exists(place):
        raise InvalidValueError("path", f"{place} does not exist; name the file or folder to import")
    found = files(place)
    if expect is not None:
        expect(len(found))
    problems = Problems(on_problem)
    writer = TranscriptWriter(store, problems, user_id=user_id)
    for file in sorted(found, key=age):  # The earliest first, sub-agents after the session that they belong to.
        writer.write(file)
        if progress is not None:
            progress(file)
    return ClaudeCodeReport(**writer.counts, lines_failed=problems.count)


class TranscriptWriter:
    """Writes transcripts as sessions. What is already stored stays."""

    def __init__(self, store: "StateStore", problems: Problems, *, user_id: str | None) -> None:
        self._store = store
        self._user_id = user_id
        self._problems = problems
        self._responses = CountedResponses(store)
        self.counts: Counter[str] = Counter()
        """What was done, by the fields of `ClaudeCodeReport`."""

    def write(self, path: Path) -> None:
        """Write the sessions of a file."""
        self.counts["files"] += 1
        try:
            found = read(path, self._problems)
        except OSError as error:
            self._problems.report(str(path), unreadable(error))
            return
        self.counts["lines_skipped"] += found.skipped
        self.counts["lines_unfinished"] += found.unfinished
        for transcript in found.transcripts:
            if transcript.lines:
                self._write(transcript)

    def _write(self, transcript: Transcript) -> None:
        lines, waiting = transcript.finished()
        self.counts["lines_unfinished"] += len(transcript.lines) - len(lines)
        if not lines:
            return
        try:
            last = self._open(transcript)
            known = {} if not last else self._known(transcript.session_id, last, lines)
        except _REFUSED as error:
            self._problems.report(str(transcript.path), error)
            return
        new = [line for line in lines if line.entry_id not in known]
        entries = self._entries(transcript.session_id, lines, new, known, waiting)
        numbered = list(zip(entries, [line.number for line in new], strict=True))
        added = sum(
            self._append(transcript, numbered[start : start + _BATCH]) for start in range(0, len(numbered), _BATCH)
        )
        self.counts["entries_added"] += added
        if last is None:
            self.counts["sessions_new"] += 1
        elif added:
            self.counts["sessions_extended"] += 1
        else:
            self.counts["sessions_unchanged"] += 1

    def _open(self, transcript: Transcript) -> int | None:
        """The last position of the session; None if it had to be created."""
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
        if (began := next(filter(None, (_time(line.record) for line in transcript.lines)), None)) is not None:
            attributes["created_at"] = began
        metadata = {"source": "claude-code", "file": transcript.path.name}
        for name, key in (("version", "claude_code_version"), ("gitBranch", "git_branch")):
            if (value := self._storable(transcript, name, transcript.first(name), json=True)) is not None:
                metadata[key] = value
        whole = transcript.parent_id
        try:
            try:
                sessions.create(transcript.session_id, metadata=metadata, belongs_to=whole, **attributes)
            except SessionNotFoundError:
                metadata["parent_session_id"] = str(whole)
                sessions.create(transcript.session_id, metadata=metadata, **attributes)
        except SessionExistsError:  # Made by another import at the same time.
            return 0
        return None

    def _storable(
        self, transcript: Transcript, name: str, found: tuple[str, int] | None, *, json: bool = False
    ) -> str | None:
        """The value for a session's attribute; None, and a report, if the text cannot be stored."""
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
            self._problems.report(str(transcript.path), error, line=number)
            return None

    def _known(self, session_id: str, last: int, lines: list[Line]) -> dict[str, Usage | None]:
        """The usage of what is already stored, by entry id; None for entries that were not looked at.

        If the newest entry matches the line at its position, all earlier entries are assumed to match too. Only those
        of responses that continue after it are read.
        """
        history = self._store.history
        if last <= len(lines):
            newest = history.read(session_id, last=1)
            if not newest or newest[0].entry_id == lines[last - 1].entry_id:  # None: trimmed away, and counted.
                known: dict[str, Usage | None] = dict.fromkeys(line.entry_id for line in lines[:last])
                going_on = {line.response for line in lines[last:]}
                first = next((n for n, line in enumerate(lines[:last]) if line.response in going_on), last)
                return known | {entry.entry_id: entry.usage for entry in self._entries_after(session_id, first, last)}
        return {entry.entry_id: entry.usage for entry in self._entries_after(session_id, 0, last)}

    def _entries_after(self, session_id: str, position: int, last: int) -> Iterator[Entry]:
        while position < last and (page := self._store.history.read(session_id, after=position, limit=_BATCH)):
            yield from page
            position = page[-1].seq

    def _append(self, transcript: Transcript, numbered: list[tuple[NewEntry, int]]) -> int:
        """Append entries, and return how many were new. Lines that are refused are left out."""
        session_id = transcript.session_id
        try:
            before = self._store.sessions.get(session_id).next_seq
            self._store.history.append(session_id, [entry for entry, _ in numbered])
            return self._store.sessions.get(session_id).next_seq - before
        except _REFUSED as error:
            if len(numbered) > 1:
                return sum(self._append(transcript, [one]) for one in numbered)
            self._problems.report(str(transcript.path), error, line=numbered[0][1])
            return 0

    def _entries(
        self,
        session_id: str,
        lines: list[Line],
        new: list[Line],
        known: Mapping[str, Usage | None],
        waiting: str | None,
    ) -> Iterator[NewEntry]:
        """The entries to append for the *new* lines. The usage of the response that is *waiting* is left out."""
        due = self._responses.due(session_id, lines, new, known)
        for line in new:
            usage = Usage()
            if line.response is None:
                usage = messages.usage(line.message)
            elif line.response != waiting:
                usage = due.pop(line.response, usage)
                self._responses.add(line.response)
            if line.message.get("model") == _SYNTHETIC:
                usage = Usage()
            record = line.record
            yield NewEntry(
                line.message,
                usage=usage,
                provider_name="anthropic" if line.message.get("model") else None,
                error_type="api_error" if record.get("isApiErrorMessage") is True else None,
                duration=_duration(record.get("toolUseResult")),
                metadata={key: record[key] for key in _KEPT if record.get(key) is not None} or None,
                entry_id=line.entry_id,
                created_at=_time(record),
            )


def _duration(result: Any) -> timedelta | None:
    """How long a tool ran, if its result says so."""
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
