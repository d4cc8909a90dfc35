"""Compaction: a part of the history is replaced by fewer items, if nobody has changed it meanwhile; all or nothing."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from statestore import AsyncStateStore, AsyncTransaction, Entry, SessionNotFoundError
from statestore.adapters.openai_agents.items import entries_of

Prunes = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest items, as the SDK's `OpenAIResponsesCompactionSession` asks for them."""

    items: list[Any]
    complete: bool
    """Whether these are all items."""
    replace_suffix: Callable[[int, Sequence[Any]], Awaitable[bool]]
    """Replaces the items from a position in `items` on; returns whether they were still the newest."""


async def snapshot(store: AsyncStateStore, session_id: str, limit: int, prunes: Prunes | None) -> Snapshot:
    """The newest *limit* items. With *prunes*, old items that it says have expired are removed in a replacement."""
    found = await store.history.read(session_id, last=limit + 1)
    entries = found[-limit:]

    async def replace_suffix(start: int, items: Sequence[Any]) -> bool:
        expected = entries[start:]
        return bool(expected) and await store.run_transaction(partial(_replace, session_id, expected, items, prunes))

    return Snapshot([entry.content for entry in entries], len(found) <= limit, replace_suffix)


async def _replace(
    session_id: str, expected: Sequence[Entry], items: Sequence[Any], prunes: Prunes | None, tx: AsyncTransaction
) -> bool:
    try:
        newest = await tx.history.read(session_id, last=len(expected))
    except SessionNotFoundError:
        return False
    if [_identity(entry) for entry in newest] != [_identity(entry) for entry in expected]:
        return False
    if prunes is not None:
        kept_from = await _first_kept(tx, session_id, expected[0].seq, prunes)
        await tx.history.trim(session_id, keep_last=expected[-1].seq - kept_from + 1)
    await tx.history.pop_last(session_id, len(expected))
    await tx.history.append(session_id, entries_of(items))
    return True


def _identity(entry: Entry) -> tuple[int, str, Any]:
    return entry.seq, entry.entry_id, entry.content


async def _first_kept(tx: AsyncTransaction, session_id: str, before: int, prunes: Prunes) -> int:
    """The position of the first entry that stays."""
    async for entry in tx.history.iterate(session_id):
        if entry.seq >= before or not prunes(entry.content):
            return entry.seq
    return before


async def replace_all(store: AsyncStateStore, session_id: str, items: Sequence[Any]) -> bool:
    """Replace the whole history.

    Raises:
        SessionNotFoundError: There is no such session.
    """

    async def replace(tx: AsyncTransaction) -> bool:
        await tx.history.clear(session_id)
        await tx.history.append(session_id, entries_of(items))
        return True

    return await store.run_transaction(replace)
