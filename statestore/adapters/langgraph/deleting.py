"""Deleting some of the checkpoints of a thread: flows that run in a transaction."""

from collections.abc import Collection, Sequence

from langgraph.checkpoint.serde.types import TASKS

from statestore import SessionNotFoundError
from statestore.adapters.flows import Flow, store
from statestore.adapters.langgraph import reading
from statestore.adapters.layouts import langgraph as records
from statestore.adapters.layouts.langgraph import Json


def delete_runs(thread_id: str, run_ids: Collection[str]) -> Flow[None]:
    """Delete the checkpoints that these runs have made, and keep those of no run."""
    found = yield from _all(thread_id)
    kept = [record for record in found if _run_of(record) not in run_ids]
    yield from _keep(thread_id, found, kept)


def prune(thread_id: str) -> Flow[None]:
    """Keep the newest checkpoint of each namespace, and those that it cannot be read without."""
    found = yield from _all(thread_id)
    known = {records.place_of(record): record for record in found}
    newest = {record["ns"]: record for record in sorted(found, key=lambda record: str(record["checkpoint"]["id"]))}
    kept = []
    for ns, record in newest.items():
        kept.append(record)
        needs_parent = yield from _has_sends_in_parent(thread_id, record)
        # A delta channel is rebuilt from what was written since its last snapshot.
        wanted = set(record["metadata"].get("counters_since_delta_snapshot") or ())
        wanted -= {*record["values"], *record["blobs"]}
        while (wanted or needs_parent) and (ns, record["parent"]) in known:
            record = known.pop((ns, record["parent"]))
            kept.append(record)
            wanted -= {*record["values"], *record["blobs"]}
            needs_parent = False
    yield from _keep(thread_id, found, kept)


def _run_of(record: Json) -> str | None:
    run_id = record["metadata"].get("run_id")
    return None if run_id is None else str(run_id)


def _all(thread_id: str) -> Flow[Sequence[Json]]:
    try:
        return (yield from reading.newest(thread_id, None, limit=0))
    except SessionNotFoundError:
        return []


def _has_sends_in_parent(thread_id: str, record: Json) -> Flow[bool]:
    if not reading.may_have_sends_in_parent(record):
        return False
    _, writes = yield from reading.one(thread_id, record["ns"], record["parent"])
    return any(write["channel"] == TASKS for write in writes)


def _keep(thread_id: str, found: Sequence[Json], kept: Sequence[Json]) -> Flow[None]:
    """Delete the checkpoints not kept, what was written after them, and the values that only they have.

    What was written after a checkpoint that is not stored yet stays too.
    """
    if len(kept) == len(found):
        return
    blobs = {key for record in kept for key in records.blob_keys(record).values()}
    places = {records.place_of(record) for record in kept}
    gone = [place for record in found if (place := records.place_of(record)) not in places]
    doomed = [records.checkpoint_key(*place) for place in gone]
    after = tuple(records.writes_of(*place) for place in gone)
    keys = yield store.state.keys(thread_id, prefix=records.WRITES)
    doomed += [key for key in keys if key.startswith(after)]
    keys = yield store.state.keys(thread_id, prefix=records.BLOBS)
    doomed += [key for key in keys if key not in blobs]
    yield store.state.delete_many(thread_id, doomed)
