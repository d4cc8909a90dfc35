"""Reading the file of an export: checked as a whole first, then in parts that can each be imported by itself."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, BinaryIO

from statestore.checking import json_files
from statestore.errors import InvalidValueError
from statestore.repositories.portable.portable_checks import Histories
from statestore.repositories.portable.portable_values import Record, decode

FORMAT, VERSION = "statestore", 2
# Since then there are lists, and times of state keys; what is in files of the first version means the same.
_READABLE = (1, VERSION)

# A part has this many lines or a few more; or one family of sessions, which share entries, of any size.
_LINES = 2000

Progress = Callable[[int], None]


@dataclass(slots=True)
class _Run:
    """Consecutive lines of one session."""

    number: int
    offset: int
    lines: int
    size: int


class Survey:
    """A file that was checked: each line is valid, and together they are complete.

    It remembers where the lines of each session are, not what they contain.
    """

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        """Read *file* once, from its current position to its end; a pipe is copied to a temporary file meanwhile.

        Raises:
            InvalidValueError: It was not written by `export_sessions`, is damaged, or ends too early.
        """
        self._progress = progress
        self._runs: dict[str, list[_Run]] = {}
        self._family: dict[str, str] = {}
        # Needed as long as the survey, and closed with it.
        self._copy = None if file.seekable() else tempfile.TemporaryFile()  # noqa: SIM115
        self._file: BinaryIO = self._copy or file
        self._start = 0 if self._copy else file.tell()
        try:
            self._look_over(file)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Delete the copy of a pipe."""
        if self._copy is not None:
            self._copy.close()

    def _look_over(self, file: BinaryIO) -> None:
        histories = Histories()
        for record, run in _records(file, self._progress, self._copy):
            histories.add(record.kind, record.values, record.where)
            session_id: str = record.values["session_id"]
            runs = self._runs.setdefault(session_id, [])
            if runs and runs[-1].number + runs[-1].lines == run.number:
                runs[-1].lines += 1
                runs[-1].size += run.size
            else:
                runs.append(run)
            if record.kind == "segment":
                self._join(session_id, record.values["owner_session_id"])
            elif record.kind == "session" and record.values.get("belongs_to") is not None:
                self._join(session_id, record.values["belongs_to"])
        histories.check()

    def parts(self) -> Iterator["Part"]:
        """The file in parts: sessions that share entries, or belong together, are in one part.

        No part is larger than necessary.
        """
        families: dict[str, list[str]] = {}
        for session_id in self._runs:
            families.setdefault(self._head(session_id), []).append(session_id)
        runs: list[_Run] = []
        for members in families.values():
            runs += [run for session_id in members for run in self._runs[session_id]]
            if sum(run.lines for run in runs) >= _LINES:
                yield Part(self._file, self._start, runs, self._progress)
                runs = []
        if runs:
            yield Part(self._file, self._start, runs, self._progress)

    def _join(self, one: str, other: str) -> None:
        self._family[self._head(one)] = self._head(other)

    def _head(self, session_id: str) -> str:
        while (above := self._family.get(session_id, session_id)) != session_id:
            self._family[session_id] = self._family.get(above, above)
            session_id = above
        return session_id


class Part:
    """Some sessions of a file, which can be read as often as needed."""

    def __init__(self, file: BinaryIO, start: int, runs: list[_Run], progress: Progress) -> None:
        self._file = file
        self._start = start
        # As in the file: sessions before what belongs to them.
        self._runs = sorted(runs, key=lambda run: run.number)
        self._progress = progress

    def records(self) -> Iterator[Record]:
        for run in self._runs:
            self._file.seek(self._start + run.offset)
            for number, (_, line) in enumerate(islice(json_files.lines(self._file), run.lines), start=run.number):
                self._progress(len(line))
                where = f"line {number}"
                values = _values(line, where)
                yield decode(values.pop("type", None), values, where, len(line))


def _records(file: BinaryIO, progress: Progress, copy: IO[bytes] | None) -> Iterator[tuple[Record, _Run]]:
    offset = count = 0
    ended = False
    for number, line in json_files.lines(file):
        progress(len(line))
        if copy is not None:
            copy.write(line)
        where = f"line {number}"
        values = _values(line, where)
        kind = values.pop("type", None)
        if number == 1:
            _check_header(kind, values)
        elif ended:
            raise InvalidValueError(where, "comes after the last line of the export; the file is damaged")
        elif kind == "end":
            ended = True
            if values.get("lines") != count:
                raise InvalidValueError(where, f"should count {count} lines, but does not; lines are missing")
        else:
            count += 1
            yield decode(kind, values, where), _Run(number, offset, 1, len(line))
        offset += len(line)
    if not ended:
        raise InvalidValueError("file", "ends too early; it was cut off, or statestore did not write it")


def _values(line: bytes, where: str) -> dict[str, Any]:
    values = json_files.parse(line, where)
    if not isinstance(values, dict):
        raise InvalidValueError(where, "is not a JSON object; statestore did not write this file")
    return values


def _check_header(kind: Any, values: dict[str, Any]) -> None:
    if kind != "header" or values.get("format") != FORMAT:
        raise InvalidValueError("line 1", "is not the header of a statestore export")
    if values.get("version") not in _READABLE:
        said = values.get("version")
        named = f"version {said}" if isinstance(said, int) else "no version"
        raise InvalidValueError(
            "line 1", f"says {named}, but this statestore reads versions up to {VERSION}; upgrade it"
        )
