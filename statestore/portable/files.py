"""Reading the file of an export: checked as a whole first, then in parts that can each be imported by itself."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from hashlib import blake2b
from io import BufferedReader, RawIOBase
from itertools import islice
from typing import IO, Any, BinaryIO, cast

from statestore.checking import json_files
from statestore.checking.codec import zstd
from statestore.errors import InvalidValueError
from statestore.repositories.portable.portable_checks import Histories
from statestore.repositories.portable.portable_values import Record, decode

FORMAT, VERSION = "statestore", 2
# Since then there are lists, and times of state keys; what is in files of the first version means the same.
_READABLE = (1, VERSION)

# A part has this many lines or a few more; or one family of sessions, which share entries, of any size.
_LINES = 2000

# How what zstd has compressed begins.
_ZSTD = b"\x28\xb5\x2f\xfd"

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

    def __init__(self, file: BinaryIO, progress: Progress, *, shared: bool = False) -> None:
        """Read *file* once, from its current position to its end.

        A pipe, and a file that is compressed by zstd, is copied to a temporary file meanwhile. So is what has no
        descriptor, if it is *shared* with other processes.

        Raises:
            InvalidValueError: It was not written by `export_sessions`, is damaged, or ends too early.
        """
        self._progress = progress
        self._runs: dict[str, list[_Run]] = {}
        self._sessions: set[str] = set()
        self._family: dict[str, str] = {}
        # Of all that was read, and of how it is taken apart.
        self._digest = blake2b(f"{VERSION} {_LINES}".encode(), digest_size=16)
        plain = uncompressed(file)
        in_place = plain is file and file.seekable() and (not shared or _has_descriptor(file))
        # Needed as long as the survey, and closed with it.
        self._copy = None if in_place else tempfile.TemporaryFile()  # noqa: SIM115
        self._file: BinaryIO = self._copy or file
        self._start = 0 if self._copy else file.tell()
        try:
            self._look_over(plain)
        except (zstd.ZstdError, EOFError):
            self.close()
            raise InvalidValueError("file", "is not a whole file of zstd; it is damaged, or was cut off") from None
        except BaseException:
            self.close()
            raise

    @property
    def digest(self) -> str:
        """By which the file is known again."""
        return self._digest.hexdigest()

    @property
    def descriptor(self) -> int:
        """By which other processes read it."""
        self._file.flush()
        return self._file.fileno()

    def close(self) -> None:
        """Delete the copy of a pipe."""
        if self._copy is not None:
            self._copy.close()

    def _look_over(self, file: BinaryIO) -> None:
        histories = Histories()
        for record, run in _records(file, self._progress, self._copy, self._digest):
            histories.add(record.kind, record.values, record.where)
            session_id: str = record.values["session_id"]
            runs = self._runs.setdefault(session_id, [])
            if runs and runs[-1].number + runs[-1].lines == run.number:
                runs[-1].lines += 1
                runs[-1].size += run.size
            else:
                runs.append(run)
            if record.kind == "session":
                self._sessions.add(session_id)
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
        ids: list[str] = []
        for members in families.values():
            runs += [run for session_id in members for run in self._runs[session_id]]
            ids += [session_id for session_id in members if session_id in self._sessions]
            if sum(run.lines for run in runs) >= _LINES:
                yield Part(self._file, self._start, runs, self._progress, ids)
                runs, ids = [], []
        if runs:
            yield Part(self._file, self._start, runs, self._progress, ids)

    def _join(self, one: str, other: str) -> None:
        self._family[self._head(one)] = self._head(other)

    def _head(self, session_id: str) -> str:
        while (above := self._family.get(session_id, session_id)) != session_id:
            self._family[session_id] = self._family.get(above, above)
            session_id = above
        return session_id


class Part:
    """Some sessions of a file, which can be read as often as needed."""

    def __init__(
        self, file: BinaryIO, start: int, runs: list[_Run], progress: Progress, session_ids: Sequence[str] = ()
    ) -> None:
        self.session_ids = session_ids
        self._file = file
        self._start = start
        # As in the file: sessions before what belongs to them.
        self._runs = sorted(runs, key=lambda run: run.number)
        self._progress = progress

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return sum(run.size for run in self._runs)

    def tell(self) -> dict[str, Any]:
        """Where it is, for another process; `told` makes it again."""
        return {"start": self._start, "runs": [astuple(run) for run in self._runs]}

    @classmethod
    def told(cls, place: dict[str, Any], file: BinaryIO) -> "Part":
        """As another process has told, of the same file."""
        return cls(file, place["start"], [_Run(*run) for run in place["runs"]], lambda size: None)

    def records(self) -> Iterator[Record]:
        for run in self._runs:
            self._file.seek(self._start + run.offset)
            for number, (_, line) in enumerate(islice(json_files.lines(self._file), run.lines), start=run.number):
                self._progress(len(line))
                where = f"line {number}"
                values = _values(line, where)
                yield decode(values.pop("type", None), values, where, len(line))


def uncompressed(file: BinaryIO) -> BinaryIO:
    """What *file* holds from here on, which may be compressed by zstd."""
    ahead = file.read(len(_ZSTD))
    if file.seekable():
        file.seek(-len(ahead), os.SEEK_CUR)
        whole = file
    else:
        whole = cast(BinaryIO, BufferedReader(_Ahead(ahead, file)))
    return cast(BinaryIO, zstd.ZstdFile(whole)) if ahead == _ZSTD else whole


class _Ahead(RawIOBase):
    """A pipe of which the beginning was read already."""

    def __init__(self, ahead: bytes, file: BinaryIO) -> None:
        self._ahead = ahead
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._ahead[: len(buffer)] or self._file.read(len(buffer))
        self._ahead = self._ahead[len(buffer) :]
        buffer[: len(found)] = found
        return len(found)


def _has_descriptor(file: BinaryIO) -> bool:
    try:
        file.fileno()
    except OSError:
        return False
    return True


def _records(
    file: BinaryIO, progress: Progress, copy: IO[bytes] | None, digest: blake2b
) -> Iterator[tuple[Record, _Run]]:
    offset = count = 0
    ended = False
    for number, line in json_files.lines(file):
        progress(len(line))
        digest.update(line)
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
