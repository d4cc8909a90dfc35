"""Removing a lot: users, large sessions and long histories, in transactions that keep nobody waiting."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from statestore.engine.calls import Call
from statestore.engine.flows import Flow
from statestore.repositories.expiry.batch import Batch
from statestore.repositories.expiry.erasure import ErasureRepository
from statestore.repositories.history.ranges import ShorteningRepository
from statestore.values.sessions import ErasureReceipt

Progress: TypeAlias = Callable[[ErasureReceipt], object]

# Rows in one transaction; also entries, since each part that forks see changes a row per fork.
BATCH = 1000
SESSIONS = 500
ENTRIES = 5000


def trim(session_id: str, keep_last: int) -> Flow[int]:
    """See `History.trim`."""
    gone, more = 0, True
    while more:
        step = Call(ShorteningRepository.trim, (session_id, keep_last, ENTRIES))
        count, more = yield step
        gone += count
    return gone


def clear(session_id: str) -> Flow[int]:
    """See `History.clear`."""
    gone, more = 0, True
    while more:
        count, more = yield Call(ShorteningRepository.clear, (session_id, ENTRIES))
        gone += count
    return gone


def delete(session_id: str, *, expected_revision: int | None = None, user_id: str | None = None) -> Flow[bool]:
    """See `Sessions.delete`."""
    options = {"expected_revision": expected_revision, "user_id": user_id}
    removed = yield Call(ErasureRepository.remove, (session_id, BATCH), options)
    yield from _remove_hidden(removed.hidden)
    lived: bool = removed.lived
    return lived


def delete_many(session_ids: Sequence[str]) -> Flow[int]:
    """See `Sessions.delete_many`."""
    deleted = 0
    for start in range(0, len(session_ids), SESSIONS):
        left = tuple(session_ids[start : start + SESSIONS])
        while left:
            removed = yield Call(ErasureRepository.remove_many, (left, BATCH))
            deleted += removed.lived
            yield from _remove_hidden(removed.hidden)
            if removed.left == left:
                break
            left = removed.left
        for session_id in left:
            deleted += yield from delete(session_id)
    return deleted


def _remove_hidden(session_ids: Sequence[str]) -> Flow[None]:
    for session_id in session_ids:
        more = True
        while more:
            batch = yield Call(ErasureRepository.remove_slice, (session_id, BATCH))
            more = batch.after is not None


def delete_user(namespace: str, user_id: str, progress: Progress | None) -> Flow[ErasureReceipt]:
    """See `Sessions.delete_user`."""
    erased_at, batch = yield Call(ErasureRepository.hide_user, (user_id, BATCH))
    receipt = ErasureReceipt(
        user_id=user_id,
        namespace=namespace,
        erased_at=erased_at,
        sessions=0,
        entries=0,
        state_entries=0,
        summaries=0,
        user_state_entries=0,
    )
    left = False
    while True:
        left = left or batch.left
        receipt = _counted(receipt, batch)
        if progress is not None:
            progress(receipt)
        if batch.after is not None:
            place = (user_id, BATCH, batch.after)
            batch = yield Call(ErasureRepository.erase_batch, place)
        elif left:
            # What others held: one after the other, waiting for each.
            batch = yield Call(ErasureRepository.erase_next, (user_id, BATCH))
            left = batch.after is not None
            batch.after = None
        else:
            return receipt


def _counted(receipt: ErasureReceipt, batch: Batch) -> ErasureReceipt:
    def rows(kind: str) -> int:
        return batch.kinds[kind].rows if kind in batch.kinds else 0

    return replace(
        receipt,
        sessions=receipt.sessions + rows("expired_sessions"),
        entries=receipt.entries + rows("history_entries"),
        state_entries=receipt.state_entries + batch.state_entries,
        summaries=receipt.summaries + batch.summaries,
        user_state_entries=receipt.user_state_entries + batch.user_state_entries,
    )
