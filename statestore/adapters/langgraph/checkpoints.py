"""Checkpoints of LangGraph: a thread is a session, and its checkpoints are keys of the session's state."""

import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_serializable_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS

from statestore import InvalidValueError, LazyStore, NewSession, SessionNotFoundError, StoreLike
from statestore.adapters.flows import (
    Flow,
    OnStore,
    Stream,
    Together,
    async_iterated,
    awaited,
    called,
    iterated,
    store,
)
from statestore.adapters.langgraph import checks, deleting, reading
from statestore.adapters.langgraph.usage import UsageCounter
from statestore.adapters.layouts import langgraph as records
from statestore.adapters.layouts.langgraph import Json, Packed

# Named here, since the class has a method of the name `list`.
_Tuples: TypeAlias = list[CheckpointTuple]
_Writes: TypeAlias = list[PendingWrite]
_Keys: TypeAlias = list[str]

_PAGE = 100


class StatestoreSaver(OnStore, BaseCheckpointSaver[str]):
    """Keeps the checkpoints of graphs in a statestore.

        graph = builder.compile(checkpointer=StatestoreSaver("postgresql://app@db/agents"))

    A thread is the session of that id: it expires, is forked, exported and erased with all of its checkpoints, and the
    tokens that its models report are in the usage reports.
    """

    def __init__(
        self,
        store: StoreLike = None,
        *,
        ttl: timedelta | None = None,
        agent_name: str | None = None,
        user_key: str = "user_id",
        serde: SerializerProtocol | None = None,
    ) -> None:
        """Take what opens a store, or an open one. Nothing is connected before the first use.

        Args:
            store: A URL, an open store, or a `LazyStore`; None for STATESTORE_URL.
            ttl: How long after its last use a new thread expires; None for the store's default.
            agent_name: The agent that new threads belong to.
            user_key: The name in a config's `configurable`, or else its `metadata`, that has the id of a thread's user.
            serde: What serialises values; by default langgraph's own, which never unpickles.
        """
        super().__init__(serde=serde)
        checks.serialiser("serde", serde)
        checks.ttl("ttl", ttl)
        if agent_name is not None:
            checks.agent("agent_name", agent_name)
        checks.text("user_key", user_key)
        self._store = LazyStore.of(store)
        self._ttl = ttl
        self._agent_name = agent_name
        self._user_key = user_key
        self._usage = UsageCounter()

    def get_next_version(self, current: str | None, channel: None) -> str:
        """The next number, and a random one: two checkpoints that follow the same one do not share their values.

        Of the form that langgraph's own savers use, so that their checkpoints go on here.
        """
        number = 0 if current is None else int(str(current).split(".")[0])
        return f"{number + 1:032}.{random.random():016}"

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Flow[RunnableConfig]:
        thread_id, ns, parent = _place(config)
        new = self._new_thread(config)
        checks.checkpoint("checkpoint", checkpoint)
        checks.mapping("metadata", metadata)
        checks.mapping("new_versions", new_versions)
        values = checkpoint["channel_values"]
        inline = {channel: value for channel, value in values.items() if records.is_inline(value)}
        blobs = [channel for channel in values if channel not in inline]
        keys: Json = {
            records.blob_key(ns, channel, new_versions[channel]): self._dump(values[channel])
            for channel in blobs
            if channel in new_versions
        }
        described = get_serializable_checkpoint_metadata(config, metadata)
        keys[records.checkpoint_key(ns, checkpoint["id"])] = records.record(
            ns, parent, checkpoint, described, values=inline, blobs=blobs
        )
        yield store.state.set_many(thread_id, keys, create=new)
        return _config(thread_id, ns, checkpoint["id"])

    put, aput = called(_put), awaited(_put)

    def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> Flow[None]:
        thread_id, ns, checkpoint_id = _place(config)
        if checkpoint_id is None:
            raise InvalidValueError("config", "needs configurable.checkpoint_id, the checkpoint that the writes follow")
        new = self._new_thread(config)
        task_id, task_path = checks.name("task_id", task_id), checks.name("task_path", task_path)
        writes = checks.several("writes", writes, "write")
        for number, pair in enumerate(writes):
            if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
                raise InvalidValueError(f"writes[{number}]", "must be a pair of a channel's name and a value")
        first: Json = {}
        latest: Json = {}
        for index, (channel, value) in enumerate(writes):
            place = WRITES_IDX_MAP.get(channel, index)
            key = records.write_key(ns, checkpoint_id, task_id, place)
            # What a task has written stays, whoever runs it once more; an error, an interrupt and an answer replace
            # the one before.
            keys = first if place >= 0 else latest
            keys[key] = records.write(task_id, task_path, place, channel, self._dump(value))
        # Before the writes: with them the task counts as done, and is not run again.
        yield from self._usage.count(thread_id, f"{ns}/{checkpoint_id}/{task_id}", new, [value for _, value in writes])
        if latest:
            yield store.state.set_many(thread_id, latest, create=new)
        if first:
            yield store.state.set_many(thread_id, first, only_if="missing", create=new)

    put_writes, aput_writes = called(_put_writes), awaited(_put_writes)

    def _new_thread(self, config: RunnableConfig) -> NewSession:
        found = (
            checks.user(f"config.{part}.{self._user_key}", _part(config, part).get(self._user_key))
            for part in ("configurable", "metadata")
        )
        user_id = next(filter(None, found), None)
        return NewSession(user_id=user_id, agent_name=self._agent_name, ttl=self._ttl)

    def _get_tuple(self, config: RunnableConfig) -> Flow[CheckpointTuple | None]:
        thread_id, ns, checkpoint_id = _place(config)
        try:
            if checkpoint_id is not None:
                record, writes = yield from reading.one(thread_id, ns, checkpoint_id)
                return None if record is None else (yield from self._tuple(thread_id, record, writes))
            while found := (yield from reading.newest(thread_id, ns, limit=1)):
                if tuples := (yield from self._tuples(thread_id, found)):
                    return tuples[0]
        except SessionNotFoundError:
            pass
        return None

    get_tuple, aget_tuple = called(_get_tuple), awaited(_get_tuple)

    def _list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Stream:
        until = _checkpoint_id(before, "before") if before else None
        wanted = checks.mapping("filter", {} if filter is None else filter)
        if config is None:
            threads = yield from reading.threads()
            ns = only = None
        else:
            thread_id, _, only = _place(config)
            threads, ns = [thread_id], config["configurable"].get("checkpoint_ns")
        left = sys.maxsize if limit is None else checks.count("limit", limit)
        for thread_id in threads:
            last = until
            while left > 0:
                size = _PAGE if wanted else min(left, _PAGE)
                try:
                    page = yield from reading.newest(thread_id, ns, before=last, only=only, limit=size)
                    found = [record for record in page if _matches(record, wanted)][:left]
                    yield (yield from self._tuples(thread_id, found))
                except SessionNotFoundError:
                    break
                left -= len(found)
                if ns is None or only is not None or len(page) < size:
                    break
                last = page[-1]["checkpoint"]["id"]

    list, alist = iterated(_list), async_iterated(_list)

    def _tuples(self, thread_id: str, found: Sequence[Json]) -> Flow[_Tuples]:
        """Checkpoints with their values and writes: those of one by one statement, those of several by two.

        Those that were deleted since they were found are left out: what they had may be gone, too.
        """
        if len(found) == 1:
            (record,) = found
            prefix = records.writes_of(record["ns"], record["checkpoint"]["id"])
            stored = yield store.state.get_many(thread_id, _keys(record), prefix=prefix)
            written = {records.place_of(record): [stored[key] for key in stored if key.startswith(prefix)]}
        else:
            written = yield from reading.writes(thread_id, found)
            wanted = {key for record in found for key in _keys(record)}
            stored = (yield store.state.get_many(thread_id, wanted)) if wanted else {}
        tuples = []
        for record in found:
            place = records.place_of(record)
            if records.checkpoint_key(*place) in stored:
                tuples.append((yield from self._complete(thread_id, record, stored, written.get(place, []))))
        return tuples

    def _tuple(self, thread_id: str, record: Json, writes: Sequence[Json]) -> Flow[CheckpointTuple | None]:
        """A checkpoint; None if it was deleted since it was found."""
        if not record["blobs"]:
            return (yield from self._complete(thread_id, record, {}, writes))
        stored = yield store.state.get_many(thread_id, _keys(record))
        if records.checkpoint_key(*records.place_of(record)) not in stored:
            return None
        return (yield from self._complete(thread_id, record, stored, writes))

    def _complete(
        self, thread_id: str, record: Json, stored: Mapping[str, Any], writes: Sequence[Json]
    ) -> Flow[CheckpointTuple]:
        ns, parent = record["ns"], record["parent"]
        checkpoint = {**record["checkpoint"], "channel_values": self._values(record, stored)}
        if reading.may_have_sends_in_parent(record):
            _, sent = yield from reading.one(thread_id, ns, parent)
            if sends := [value for _, channel, value in self._loaded(sent) if channel == TASKS]:
                checkpoint["channel_values"][TASKS] = sends
                versions = checkpoint["channel_versions"]
                versions[TASKS] = max(versions.values()) if versions else self.get_next_version(None, None)
        return CheckpointTuple(
            config=_config(thread_id, ns, checkpoint["id"]),
            checkpoint=cast(Checkpoint, checkpoint),
            metadata=cast(CheckpointMetadata, record["metadata"]),
            parent_config=None if parent is None else _config(thread_id, ns, parent),
            pending_writes=self._loaded(writes),
        )

    def _values(self, record: Json, stored: Mapping[str, Any]) -> Json:
        keys = records.blob_keys(record).items()
        return {**record["values"], **{channel: self._load(stored[key]) for channel, key in keys if key in stored}}

    def _loaded(self, writes: Iterable[Json]) -> _Writes:
        ordered = sorted(writes, key=lambda write: writes_sort_key(write["path"], write["task"], write["index"]))
        return [(write["task"], write["channel"], self._load(write["value"])) for write in ordered]

    def _dump(self, value: Any) -> Packed:
        return records.packed(self.serde.dumps_typed(value))

    def _load(self, stored: Packed) -> Any:
        return self.serde.loads_typed(records.unpacked(stored))

    def _get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Flow[Mapping[str, DeltaChannelHistory]]:
        """As the base class says, with a page of ancestors, their writes and the values found by a statement each."""
        channels = checks.several("channels", channels, "channel")
        history: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
        thread_id, ns, checkpoint_id = _place(config)
        try:
            chain = (yield from reading.ancestors(thread_id, ns, checkpoint_id, channels)) if channels else []
            written = (yield from reading.writes(thread_id, chain)) if chain else {}
            seeds = {}
            for channel in channels:
                for n, record in enumerate(chain):
                    if channel in record["values"] or channel in record["blobs"]:
                        seeds[channel] = n, records.blob_keys(record).get(channel)
                        break
            keys = [key for _, key in seeds.values() if key is not None]
            stored = (yield store.state.get_many(thread_id, keys)) if keys else {}
        except SessionNotFoundError:
            return history
        for channel, found in history.items():
            first, key = seeds.get(channel, (len(chain) - 1, None))
            for record in reversed(chain[: first + 1]):
                writes = written.get((ns, record["checkpoint"]["id"]), ())
                found["writes"] += self._loaded(write for write in writes if write["channel"] == channel)
            if key in stored:
                found["seed"] = self._load(stored[key])
            elif channel in seeds and key is None:
                found["seed"] = chain[first]["values"][channel]
        return history

    get_delta_channel_history = called(_get_delta_channel_history)
    aget_delta_channel_history = awaited(_get_delta_channel_history)

    # Threads as a whole, and some of their checkpoints.

    def _delete_thread(self, thread_id: str) -> Flow[None]:
        yield store.sessions.delete_many([checks.name("thread_id", thread_id)])

    delete_thread, adelete_thread = called(_delete_thread), awaited(_delete_thread)

    def _delete_for_runs(self, run_ids: Sequence[str]) -> Flow[None]:
        """Delete the checkpoints of these runs. Looks through all threads, each in a transaction of its own."""
        runs = checks.names("run_ids", run_ids)
        for thread_id in (yield from reading.threads()) if runs else ():
            yield Together(partial(deleting.delete_runs, thread_id, runs))

    delete_for_runs, adelete_for_runs = called(_delete_for_runs), awaited(_delete_for_runs)

    def _copy_thread(self, source_thread_id: str, target_thread_id: str) -> Flow[None]:
        """Fork the session: the database copies the checkpoints, and a history is shared.

        Raises:
            SessionNotFoundError: There is no such thread.
            SessionExistsError: There is one of the target's id.
        """
        source = checks.name("source_thread_id", source_thread_id)
        yield store.sessions.fork(source, checks.name("target_thread_id", target_thread_id))

    copy_thread, acopy_thread = called(_copy_thread), awaited(_copy_thread)

    def _prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> Flow[None]:
        """Delete all checkpoints but the latest of each namespace, and those of which its delta channels are rebuilt.

        With the strategy "delete" the threads are deleted.
        """
        threads = checks.names("thread_ids", thread_ids)
        if strategy not in ("keep_latest", "delete"):
            raise InvalidValueError("strategy", f'must be "keep_latest" or "delete", not {strategy!r}')
        if strategy == "delete":
            yield store.sessions.delete_many(threads)
            return
        for thread_id in threads:
            yield Together(partial(deleting.prune, thread_id))

    prune, aprune = called(_prune), awaited(_prune)


def _place(config: Any) -> tuple[str, str, str | None]:
    place = _part(config, "configurable")
    if place.get("thread_id") in (None, ""):
        raise InvalidValueError("config", "needs configurable.thread_id, the thread that the checkpoint belongs to")
    thread_id = checks.name("config.configurable.thread_id", place["thread_id"])
    ns = checks.checked("config.configurable.checkpoint_ns", place.get("checkpoint_ns") or "", str, "a string")
    return thread_id, ns, _checkpoint_id(config)


def _checkpoint_id(config: Any, argument: str = "config") -> str | None:
    found = _part(config, "configurable", argument).get("checkpoint_id") or None
    return None if found is None else checks.name(f"{argument}.configurable.checkpoint_id", found)


def _part(config: Any, part: str, argument: str = "config") -> Mapping[str, Any]:
    """The `configurable` of a config, or its `metadata`."""
    return checks.mapping(f"{argument}.{part}", checks.mapping(argument, config).get(part) or {})


def _config(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}}


def _keys(record: Json) -> _Keys:
    """What is read of a checkpoint that was found: its values, and itself, to know that it is still there."""
    return [records.checkpoint_key(*records.place_of(record)), *records.blob_keys(record).values()]


def _matches(record: Json, wanted: Mapping[str, Any]) -> bool:
    return all(record["metadata"].get(name) == value for name, value in wanted.items())
