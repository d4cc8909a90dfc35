"""Threads of LangGraph, from the tables of its PostgresSaver and its SqliteSaver.

They become what `statestore.adapters.langgraph` reads. Values stay the bytes that langgraph's serialiser made of them:
nothing is unpickled, and no object is made. Only the usage of models' messages is looked up in them.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from sqlalchemy import RowMapping

from statestore.adapters.layouts import langgraph as records
from statestore.adapters.layouts.langgraph import Json
from statestore.errors import ConflictError, InvalidValueError
from statestore.importers import msgpack
from statestore.importers.databases import REFUSED, Address, DatabaseReport, Progress, Source, opened
from statestore.importers.problems import OnProblem, Problems, check_functions, check_store
from statestore.importers.source_values import json_of, time_of, written_by
from statestore.values.history import Usage
from statestore.values.sessions import NewSession

if TYPE_CHECKING:
    from statestore.store import StateStore

T = TypeVar("T")

_PAGE = 100
_PLACE = ("thread_id", "checkpoint_ns", "checkpoint_id")
_WRITE = (*_PLACE, "task_id", "idx")
_PYDANTIC = 5  # The number of langgraph's extension that holds a module, a class, and its fields.


def langgraph(
    store: "StateStore", url: Address, *, progress: Progress | None = None, on_problem: OnProblem | None = None
) -> DatabaseReport:
    """Import the threads of LangGraph from the database of its own saver.

    Each thread becomes a session of the same id, for `StatestoreSaver`, with its checkpoints, their values and writes.
    Its user is the `user_id` that was in the config. Repeating an import adds what is new. An entry of the report is a
    checkpoint, a value or a write.

    Args:
        store: The store to import into.
        url: The database, by URL or by path. It is opened read-only.
        progress: Called with the number of entries that were read since the last call.
        on_problem: Called with each thread that is left out because it cannot be stored. If None, the first raises.

    Returns:
        How many threads and entries there are, how many were added, and which threads differ from the source.

    Raises:
        InvalidValueError: *store* is not a `StateStore`, or *url* leads to no database of LangGraph: nothing was
            written. Or a thread cannot be stored, and there is no *on_problem*: those before it stay.
        DatabaseError: One of the databases failed. What was written before stays.
    """
    check_store(store)
    check_functions(progress=progress, on_problem=on_problem)
    with opened(url) as source:
        source.require("checkpoints", "LangGraph")
        threads = _Threads(store, source, progress, Problems(on_problem))
        last = None
        for row in source.rows("checkpoints", key=_PLACE):
            if row["thread_id"] != last:
                last = row["thread_id"]
                with source.snapshot():
                    threads.bring(last)
    return threads.report()


class _Threads:
    def __init__(self, store: "StateStore", source: Source, progress: Progress | None, problems: Problems) -> None:
        self._store = store
        self._progress = progress
        self._problems = problems
        self._name = source.name
        self._reader = _Postgres(source) if "checkpoint_blobs" in source.tables() else _Sqlite(source)
        self._threads = self._entries = self._added = self._unchanged = 0
        self._differing: list[str] = []

    def bring(self, thread_id: str) -> None:
        """Write what a session lacks, and compare all that was read with what it has then."""
        count = added = 0
        same = True
        try:
            keys = _as_written(self._reader.keys(thread_id))
            new = NewSession()
            for number, group in enumerate(_pages(keys)):
                if number == 0:
                    new = self._reader.session
                written = self._store.state.set_many(thread_id, group, only_if="missing", create=new)
                same &= self._store.state.get_many(thread_id, group) == group
                count += len(group)
                added += len(written)
                if self._progress is not None:
                    self._progress(len(group))
            for call in _as_written(self._reader.usage(thread_id)):
                with suppress(ConflictError):  # It was recorded before, by a graph that ran here.
                    self._store.usage.record(**call, session_id=thread_id)
        except REFUSED as error:
            self._problems.report(f"{self._name}: thread {thread_id[:80]!r}", error)
            return
        finally:
            self._added += added
        self._threads += 1
        self._entries += count
        self._unchanged += not added
        # Without any entry there is no session: the thread was deleted meanwhile.
        if not same or (count and self._store.state.count(thread_id, prefix="langgraph/") < count):
            self._differing.append(thread_id)

    def report(self) -> DatabaseReport:
        return DatabaseReport(
            sessions=self._threads,
            entries=self._entries,
            added=self._added,
            unchanged=self._unchanged,
            failed=self._problems.count,
            differing=tuple(self._differing),
        )


class _Reader(ABC):
    """The keys of a thread in the store, one after the other, from the rows that a saver has written."""

    writes: str
    value: str

    def __init__(self, source: Source) -> None:
        self._source = source
        self._has_path = "task_path" in source.columns(self.writes)
        self.session = NewSession()
        self._times: dict[tuple[str, str], str] = {}

    def keys(self, thread_id: str) -> Iterator[tuple[str, Any]]:
        self._times = {}
        self.session = NewSession()
        yield from self.checkpoints(thread_id)
        for row in self._writes(thread_id):
            ns, checkpoint_id, task_id, index = (row[name] for name in _WRITE[1:])
            value = records.packed(self._typed(row))
            written = records.write(task_id, row.get("task_path", ""), index, row["channel"], value)
            yield records.write_key(ns, checkpoint_id, task_id, index), written

    def usage(self, thread_id: str) -> Iterator[Json]:
        """What the messages of models say that they used, each once."""
        for row in self._writes(thread_id):
            kind, data = self._typed(row)
            if kind != "msgpack":
                continue
            at = self._times.get((row["checkpoint_ns"], row["checkpoint_id"]))
            place = "/".join(str(row[name]) for name in _WRITE)
            for number, message in enumerate(_answers(msgpack.loads(data, f"write {place}"))):
                about = message.get("response_metadata") or {}
                yield {
                    "record_id": records.usage_id(message.get("id") or f"{place}/{number}"),
                    "usage": Usage.of(message["usage_metadata"]),
                    "user_id": self.session.user_id,
                    "provider_name": about.get("model_provider"),
                    "model": about.get("model_name") or about.get("model"),
                    "at": time_of(at, "checkpoint"),
                }

    @abstractmethod
    def checkpoints(self, thread_id: str) -> Iterator[tuple[str, Any]]:
        """Checkpoints, each behind its values: without them a graph would go on as if it had none."""

    def _writes(self, thread_id: str) -> Iterator[RowMapping]:
        columns = ["channel", "type", self.value, *(["task_path"] if self._has_path else [])]
        yield from self._source.rows(self.writes, *columns, key=_WRITE, where={"thread_id": thread_id}, page=_PAGE)

    def _typed(self, row: RowMapping) -> tuple[str, bytes]:
        return row["type"], bytes(row[self.value] or b"")

    def _checkpoint(self, row: RowMapping, checkpoint: Json, values: Json, blobs: list[str]) -> tuple[str, Json]:
        ns, checkpoint_id = row["checkpoint_ns"], row["checkpoint_id"]
        where = f"checkpoint {checkpoint_id[:80]!r}"
        metadata = json_of(row["metadata"], f"{where}: metadata") if row["metadata"] is not None else {}
        if not self._times:
            user_id = metadata.get("user_id")
            self.session = NewSession(
                user_id=None if user_id is None else str(user_id), created_at=time_of(checkpoint.get("ts"), where)
            )
        self._times[ns, checkpoint_id] = checkpoint["ts"]
        checkpoint.pop("pending_sends", None)  # They are among the parent's writes.
        stored = records.record(
            ns, row["parent_checkpoint_id"] or None, checkpoint, metadata, values=values, blobs=blobs
        )
        return records.checkpoint_key(ns, checkpoint_id), stored


class _Postgres(_Reader):
    """Values are in a table of their own; small ones and marks of snapshots are in the checkpoint."""

    writes = "checkpoint_writes"
    value = "blob"
    _key = ("thread_id", "checkpoint_ns", "channel", "version")

    def checkpoints(self, thread_id: str) -> Iterator[tuple[str, Any]]:
        of_thread = {"thread_id": thread_id}
        stored = {
            (row["checkpoint_ns"], row["channel"], row["version"])
            for row in self._source.rows("checkpoint_blobs", "type", key=self._key, where=of_thread)
            if row["type"] != "empty"
        }
        columns = ("parent_checkpoint_id", "checkpoint", "metadata")
        rows = self._source.rows("checkpoints", *columns, key=_PLACE, where=of_thread, page=_PAGE)
        found = (self._record(row, stored) for row in rows)
        first = list(islice(found, 1))  # It says which session this is.
        for row in self._source.rows("checkpoint_blobs", "type", "blob", key=self._key, where=of_thread, page=_PAGE):
            if row["type"] != "empty":
                key = records.blob_key(row["checkpoint_ns"], row["channel"], row["version"])
                yield key, records.packed(self._typed(row))
        yield from first
        yield from found

    def _record(self, row: RowMapping, stored: Collection[tuple[str, str, str]]) -> tuple[str, Json]:
        checkpoint = json_of(row["checkpoint"], f"checkpoint {row['checkpoint_id'][:80]!r}")
        versions = checkpoint["channel_versions"].items()
        blobs = [name for name, version in versions if (row["checkpoint_ns"], name, str(version)) in stored]
        inline = checkpoint.get("channel_values") or {}
        values = {name: value for name, value in inline.items() if name not in blobs}
        return self._checkpoint(row, checkpoint, values, blobs)


class _Sqlite(_Reader):
    """A checkpoint has all its values in it, however many others have the same ones: here they become one."""

    writes = "writes"
    value = "value"

    def checkpoints(self, thread_id: str) -> Iterator[tuple[str, Any]]:
        done: set[str] = set()
        columns = ("parent_checkpoint_id", "type", "checkpoint", "metadata")
        rows = self._source.rows("checkpoints", *columns, key=_PLACE, where={"thread_id": thread_id}, page=_PAGE)
        for row in rows:
            where = f"checkpoint {row['checkpoint_id'][:80]!r}"
            checkpoint, values = _split(row["type"], row["checkpoint"], where)
            versions = checkpoint["channel_versions"]
            blobs = [name for name in values if name in versions]
            record = self._checkpoint(row, checkpoint, {}, blobs)
            for name in blobs:
                key = records.blob_key(row["checkpoint_ns"], name, versions[name])
                if key not in done:
                    done.add(key)
                    yield key, records.packed(values[name])
            yield record


def _split(kind: str, data: bytes, where: str) -> tuple[Json, dict[str, tuple[str, bytes]]]:
    """A checkpoint without its values, and the values, each as it would have been serialised by itself."""
    if kind == "msgpack":
        fields = msgpack.parts(data, where)
        values = msgpack.parts(fields.pop("channel_values", b"\x80"), where)
        fields.pop("pending_sends", None)
        checkpoint = {name: msgpack.loads(field, where) for name, field in fields.items()}
        return checkpoint, {name: ("msgpack", value) for name, value in values.items()}
    if kind == "json":
        checkpoint = json_of(bytes(data), where)
        values = checkpoint.pop("channel_values", None) or {}
        return checkpoint, {name: ("json", orjson.dumps(value)) for name, value in values.items()}
    raise InvalidValueError(where, f"is serialised as {kind[:20]!r}, which this importer cannot read")


def _answers(value: Any) -> Iterator[Json]:
    """The fields of models' messages that say what they have used: of one message, or of a list."""
    if isinstance(value, list):
        for each in value:
            yield from _answers(each)
    elif isinstance(value, msgpack.Extension) and value.code == _PYDANTIC:
        _, name, fields, *_ = msgpack.loads(value.data, "message")
        if name in ("AIMessage", "AIMessageChunk") and fields.get("usage_metadata"):
            yield fields


def _as_written(found: Iterator[T]) -> Iterator[T]:
    """What was found; if LangGraph has written it in another form, that is a problem of its thread."""
    with written_by("LangGraph", "the thread"):
        yield from found


def _pages(keys: Iterator[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    while page := dict(islice(keys, _PAGE)):
        yield page
