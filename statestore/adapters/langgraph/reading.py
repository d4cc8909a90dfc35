"""Finding the checkpoints of a thread and what tasks have written after them, as flows."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import groupby

from statestore import SessionNotFoundError
from statestore.adapters.flows import Flow, all_ids, store
from statestore.adapters.layouts import langgraph as records
from statestore.adapters.layouts.langgraph import Json

_PAGE = 1000


def threads() -> Flow[list[str]]:
    """The sessions that have checkpoints, the last active ones first. To look for them extends no TTL."""
    found: list[str] = []
    for session_id in (yield from all_ids()):
        try:
            if (yield store.state.count(session_id, prefix=records.CHECKPOINTS)):
                found.append(session_id)
        except SessionNotFoundError:
            continue
    return found


def newest(
    thread_id: str, ns: str | None, *, before: str | None = None, only: str | None = None, limit: int
) -> Flow[list[Json]]:
    """Checkpoints of a namespace, from the newest on; or those of all namespaces, which are read at once."""
    if ns is not None and only is None:
        prefix = records.checkpoints_of(ns)
        after = None if before is None else records.checkpoint_key(ns, before)
        page = yield store.state.entries(thread_id, prefix=prefix, after=after, limit=limit, descending=True)
        return [entry.value for entry in page]
    if ns is not None and only is not None:
        key = records.checkpoint_key(ns, only)
        stored = yield store.state.get_many(thread_id, [key])
    else:
        stored = yield store.state.get_many(thread_id, [], prefix=records.CHECKPOINTS)
    found = [record for record in stored.values() if only in (None, _id(record))]
    return sorted((record for record in found if before is None or _id(record) < before), key=_id, reverse=True)


def one(thread_id: str, ns: str, checkpoint_id: str) -> Flow[tuple[Json | None, list[Json]]]:
    """A checkpoint and what was written after it."""
    key = records.checkpoint_key(ns, checkpoint_id)
    prefix = records.writes_of(ns, checkpoint_id)
    stored = yield store.state.get_many(thread_id, [key], prefix=prefix)
    return stored.pop(key, None), list(stored.values())


def writes(thread_id: str, found: Sequence[Json]) -> Flow[dict[tuple[str, str], list[Json]]]:
    """What was written after each of several checkpoints, by namespace and id: one range for each namespace."""
    written: defaultdict[tuple[str, str], list[Json]] = defaultdict(list)
    for ns, group in groupby(sorted(found, key=lambda record: str(record["ns"])), lambda record: str(record["ns"])):
        ids = sorted(map(_id, group))
        places = {records.writes_of(ns, checkpoint_id): checkpoint_id for checkpoint_id in ids}
        after, last = records.writes_of(ns, ids[0]), records.writes_of(ns, ids[-1])
        while True:
            page = yield store.state.entries(thread_id, prefix=records.writes_of(ns), after=after, limit=_PAGE)
            for entry in page:
                if (checkpoint_id := places.get(entry.key.rsplit("/", 2)[0] + "/")) is not None:
                    written[ns, checkpoint_id].append(entry.value)
            if len(page) < _PAGE or (page[-1].key > last and not page[-1].key.startswith(last)):
                break
            after = page[-1].key
    return dict(written)


def ancestors(thread_id: str, ns: str, checkpoint_id: str | None, channels: Collection[str]) -> Flow[list[Json]]:
    """The checkpoints before one, from its parent on, until each of *channels* has had a value."""
    page = yield from newest(thread_id, ns, before=checkpoint_id and _behind(checkpoint_id), limit=100)
    if not page or checkpoint_id not in (None, _id(page[0])):
        return []
    near = {_id(record): record for record in page}
    parent, wanted = page[0]["parent"], set(channels)
    chain: list[Json] = []
    seen: set[str] = set()
    while parent is not None and parent not in seen and wanted:
        seen.add(parent)
        if parent not in near:
            page = yield from newest(thread_id, ns, before=_behind(parent), limit=_PAGE)
            near = {_id(record): record for record in page}
        if (record := near.get(parent)) is None:
            break
        chain.append(record)
        wanted -= {channel for channel in wanted if channel in record["values"] or channel in record["blobs"]}
        parent = record["parent"]
    return chain


def _id(record: Json) -> str:
    return str(record["checkpoint"]["id"])


def _behind(checkpoint_id: str) -> str:
    """What is directly behind an id, so that the id itself is before it."""
    return checkpoint_id + "!"


def may_have_sends_in_parent(record: Json) -> bool:
    """Whether what was sent to a checkpoint's tasks is among its parent's writes, as before version 4 of the format."""
    return bool(record["checkpoint"]["v"] < 4 and record["parent"] is not None)
