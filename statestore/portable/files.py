"""Reading the file of an export: checked as a whole first, then in parts that can each be imported by itself."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from hashlib import blake2b
from io import BufferedReader, RawIOBase
from itertools import islice
from typing import IO, Any, BinaryIO, NamedTuple, TypeAlias, cast

from statestore.checking import checks, json_files
from statestore.checking.codec import zstd
from statestore.checking.namespaces import Renaming
from statestore.errors import InvalidValueError
from statestore.repositories.portable.portable_checks import Histories
from statestore.repositories.portable.portable_values import Record, decode

FORMAT, VERSION, LABELLED = "statestore", 2, 3
# Since the second version there are lists, and times of state keys; what is in files of the first one means the same.
# The third one is the second where each line says its namespace, for exports of several.
_READABLE = (1, VERSION, LABELLED)

# A part has this many lines or a few more; or one family of sessions, which share entries, of any size.
_LINES = 2000

# How what zstd has compressed begins.
_ZSTD = b"\x28\xb5\x2f\xfd"

Progress = Callable[[int], None]
Key: TypeAlias = tuple[str, str]


@dataclass(slots=True)
class _Run:
    """Consecutive lines of one session."""

    number: int
    offset: int
    lines: int
    size: int


class Made(NamedTuple):
    """When a session was made, and whether it may have expired since it was exported."""

    at: datetime
    may_expire: bool


class Survey:
    """A file that was checked: each line is valid, and together they are complete.

    It remembers where the lines of each session are, not what they contain. Sessions are known by the namespace that
    they are to come into, and by their id.
    """

    def __init__(
        self, file: BinaryIO, progress: Progress, namespace: str, renaming: Renaming, *, shared: bool = False
    ) -> None:
        """Read *file* once, from its current position to its end.

        What says no namespace comes into *namespace*, all else into its own, or where *renaming* puts it.

        A pipe, and a file that is compressed by zstd, is copied to a temporary file meanwhile. So is what has no
        descriptor, if it is *shared* with other processes.

        Raises:
            InvalidValueError: It was not written by `export_sessions`, is damaged, or ends too early; or *renaming*
                does not suit it.
        """
        self._progress = progress
        self._renaming = renaming
        self._runs: dict[Key, list[_Run]] = {}
        self._family: dict[Key, Key] = {}
        self.made: dict[Key, Made] = {}
        """The sessions."""
        self.namespace = namespace
        """Where to note what has been imported: the same place for the same file, whoever's store imports it."""
        # Of all that was read, and of how it is taken apart.
        self._digest = blake2b(f"{VERSION} {_LINES}{renaming if renaming else ''}".encode(), digest_size=16)
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
        histories: dict[str | None, Histories] = {}
        targets: dict[str | None, str] = {}
        sources: dict[Key, str] = {}
        for source, record, run in _records(file, self._progress, self._copy, self._digest):
            if source not in histories:
                if source is None and self._renaming:
                    raise InvalidValueError("rename", "needs a file of several namespaces; this one is of a single one")
                targets[source] = self.namespace if source is None else self._target(source, record.where)
                histories[source] = Histories(targets[source])
            target = targets[source]
            histories[source].add(record.kind, record.values, record.where)
            if source is not None and not self._runs:
                self.namespace = target
            key = target, record.values["session_id"]
            if self._renaming and source is not None and sources.setdefault(key, source) != source:
                problem = f"would bring session {key[1]!r} of {sources[key]!r} and of {source!r} into {target!r}"
                raise InvalidValueError("rename", f"{problem}; put them into two namespaces")
            runs = self._runs.setdefault(key, [])
            if runs and runs[-1].number + runs[-1].lines == run.number:
                runs[-1].lines += 1
                runs[-1].size += run.size
            else:
                runs.append(run)
            if record.kind == "session":
                self.made[key] = Made(record.values["created_at"], record.values.get("ttl") is not None)
            if record.kind == "segment":
                self._join(key, (target, record.values["owner_session_id"]))
            elif record.kind == "session" and record.values.get("belongs_to") is not None:
                self._join(key, (target, record.values["belongs_to"]))
        for found in histories.values():
            found.check()

    def _target(self, source: str, where: str) -> str:
        """The namespace that the lines of another one come into."""
        try:
            return checks.namespace(self._renaming(source, "namespace"), "namespace")
        except InvalidValueError as error:
            problem = str(error).removeprefix("namespace: ")
            if self._renaming.has(source):
                raise InvalidValueError("rename", f"gives {source!r} a name that {problem}") from None
            raise InvalidValueError(where, f"has an invalid value in 'namespace': {problem}") from None

    def parts(self) -> Iterator["Part"]:
        """The file in parts: sessions that share entries, or belong together, are in one part.

        No part is larger than necessary, or of more than one namespace.
        """
        families: dict[str, dict[Key, list[Key]]] = {}
        for key in self._runs:
            families.setdefault(key[0], {}).setdefault(self._head(key), []).append(key)
        for namespace, of_namespace in families.items():
            runs: list[_Run] = []
            ids: list[str] = []
            for members in of_namespace.values():
                runs += [run for key in members for run in self._runs[key]]
                ids += [key[1] for key in members if key in self.made]
                if sum(run.lines for run in runs) >= _LINES:
                    yield Part(self._file, self._start, runs, self._progress, namespace, ids)
                    runs, ids = [], []
            if runs:
                yield Part(self._file, self._start, runs, self._progress, namespace, ids)

    def _join(self, one: Key, other: Key) -> None:
        self._family[self._head(one)] = self._head(other)

    def _head(self, key: Key) -> Key:
        while (above := self._family.get(key, key)) != key:
            self._family[key] = self._family.get(above, above)
            key = above
        return key


class Part:
    """Some sessions of a file for one namespace, which can be read as often as needed."""

    def __init__(
        self,
        file: BinaryIO,
        start: int,
        runs: list[_Run],
        progress: Progress,
        namespace: str,
        session_ids: Sequence[str] = (),
    ) -> None:
        self.namespace = namespace
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
        return {"start": self._start, "runs": [astuple(run) for run in self._runs], "namespace": self.namespace}

    @classmethod
    def told(cls, place: dict[str, Any], file: BinaryIO) -> "Part":
        """As another process has told, of the same file."""
        runs = [_Run(*run) for run in place["runs"]]
        return cls(file, place["start"], runs, lambda size: None, place["namespace"])

    def records(self) -> Iterator[Record]:
        for run in self._runs:
            self._file.seek(self._start + run.offset)
            for number, (_, line) in enumerate(islice(json_files.lines(self._file), run.lines), start=run.number):
                self._progress(len(line))
                where = f"line {number}"
                values = _values(line, where)
                values.pop("namespace", None)
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
) -> Iterator[tuple[str | None, Record, _Run]]:
    """The lines, each with the namespace that it says."""
    offset = count = 0
    ended = labelled = False
    for number, line in json_files.lines(file):
        progress(len(line))
        digest.update(line)
        if copy is not None:
            copy.write(line)
        where = f"line {number}"
        values = _values(line, where)
        kind = values.pop("type", None)
        if number == 1:
            labelled = _check_header(kind, values)
        elif ended:
            raise InvalidValueError(where, "comes after the last line of the export; the file is damaged")
        elif kind == "end":
            ended = True
            if values.get("lines") != count:
                raise InvalidValueError(where, f"does not match: the file has {count} lines; some are missing")
        else:
            count += 1
            namespace = _namespace(values, where) if labelled else None
            yield namespace, decode(kind, values, where), _Run(number, offset, 1, len(line))
        offset += len(line)
    if not ended:
        raise InvalidValueError("file", "ends too early; it was cut off, or statestore did not write it")


def _values(line: bytes, where: str) -> dict[str, Any]:
    values = json_files.parse(line, where)
    if not isinstance(values, dict):
        raise InvalidValueError(where, "is not a JSON object; statestore did not write this file")
    return values


def _namespace(values: dict[str, Any], where: str) -> str:
    found = values.pop("namespace", None)
    if not isinstance(found, str) or not found:
        raise InvalidValueError(where, "does not say its namespace; the file is damaged")
    try:
        return checks.key(found, "namespace")
    except InvalidValueError as error:
        problem = str(error).removeprefix("namespace: ")
        raise InvalidValueError(where, f"has an invalid value in 'namespace': {problem}") from None


def _check_header(kind: Any, values: dict[str, Any]) -> bool:
    """Whether the lines say their namespaces."""
    if kind != "header" or values.get("format") != FORMAT:
        raise InvalidValueError("line 1", "is not the header of a statestore export")
    if values.get("version") not in _READABLE:
        said = values.get("version")
        named = f"version {said}" if isinstance(said, int) else "no version"
        raise InvalidValueError(
            "line 1", f"says {named}, but this statestore reads versions up to {LABELLED}; upgrade it"
        )
    return bool(values["version"] == LABELLED)
