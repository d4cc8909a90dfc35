"""pydantic-ai's `ConversationStore`: conversations with branches and forks."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias

from pydantic import TypeAdapter
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
)

from statestore import (
    AsyncStateStore,
    AsyncTransaction,
    Entry,
    LazyStore,
    NewEntry,
    NewSession,
    Session,
    SessionExistsError,
    SessionNotFoundError,
    StoreLike,
    Usage,
)
from statestore.adapters.flows import OnStore, all_sessions, arun
from statestore.adapters.pydantic_ai.messages import AGENT, entry_of, messages_of

_Store: TypeAlias = AsyncStateStore | AsyncTransaction

_RECORD = "pydantic_ai"
_PARENT = "parent_id"
_MOST_ENDS = 10_000

_records: TypeAdapter[ConversationRecord] = TypeAdapter(ConversationRecord)


class StatestoreConversationStore(OnStore, ConversationStore):
    """Conversations as sessions, each message an entry with the id of pydantic-ai's entry.

    A session's history is that of the conversation. What a conversation has left by `branch`, or by a save that rewrote
    its history, is in a session that belongs to it. A fork shares the entries. `delete` deletes the messages that no
    fork has, and the branches; what was used stays in the reports.
    """

    def __init__(self, store: StoreLike = None, *, agent_name: str = AGENT, ttl: timedelta | None = None) -> None:
        """Keep conversations in *store*: a `LazyStore`, an open `AsyncStateStore`, a URL, or None for STATESTORE_URL.

        Args:
            store: Where to keep them. It is opened at first use.
            agent_name: The agent whose conversations these are, for lists and for reports by agent.
            ttl: How long after its last use a new conversation expires; None for the store's default.
        """
        self._store = LazyStore.of(store)
        self._agent_name = agent_name
        self._ttl = ttl
        # Where histories end whose records were read: so that they are found without asking.
        self._ends: dict[str, tuple[str, int]] = {}

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """The record of a conversation; None if there is none."""
        store = await self._store.here()
        session = await store.sessions.find(conversation_id)
        return None if session is None else (await self._records_of(store, [session]))[0]

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> Sequence[ConversationRecord]:
        """The records, or those of a scope, which is the session's user; those that were written to last come first."""
        store = await self._store.here()
        found = await arun(store, all_sessions(limit=limit, user_id=scope, agent_name=self._agent_name))
        records = await self._records_of(store, found)
        return sorted(records, key=lambda record: record.updated_at, reverse=True)

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Store a record and its new entries, all or none."""
        store = await self._store.here()

        async def write(tx: AsyncTransaction) -> int:
            known = await self._expected(tx, record.conversation_id, expected_revision)
            base = new_entries[0].parent_id if new_entries else record.head_id
            left: list[Entry] = []
            if known is None:
                await self._begin(tx, record, base)
            elif base != known.head_id:
                left = await self._move(tx, record, base)
            # A history that was rewritten may have responses again that were counted where it left off.
            contents = [entry.content for entry in left]
            entries = [entry_of(one.message, self._agent_name, entry_id=one.id) for one in new_entries]
            entries = [_uncounted(entry) if entry.content in contents else entry for entry in entries]
            await tx.history.append(record.conversation_id, entries)
            session = await tx.sessions.get(record.conversation_id)
            kept = {"record": _records.dump_python(record, mode="json"), "seq": session.next_seq - 1}
            metadata = session.metadata | {_RECORD: kept}
            await tx.sessions.update(record.conversation_id, metadata=metadata, user_id=record.scope)
            return session.next_seq - 1

        end = await store.run_transaction(write)
        self._note(record.head_id, record.conversation_id, end)

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete a conversation with its branches. Messages that forks of it have stay theirs."""
        store = await self._store.here()

        async def delete(tx: AsyncTransaction) -> None:
            await self._expected(tx, conversation_id, expected_revision)
            await tx.sessions.delete(conversation_id)

        await store.run_transaction(delete)

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """One entry."""
        return (await self.read_history(entry_id, limit=1))[0]

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        """The entries up to one, or the last ones of these."""
        entries = await self._line(await self._store.here(), head_id, limit)
        messages = messages_of([entry.content for entry, _ in entries], "head_id", head_id or "")
        return [
            ConversationEntry(id=entry.entry_id, parent_id=parent_id, message=message)
            for (entry, parent_id), message in zip(entries, messages, strict=True)
        ]

    async def _records_of(self, store: _Store, sessions: Sequence[Session]) -> list[ConversationRecord]:
        """What is kept of conversations, as far as it still holds; their histories say where they end."""
        moved = [one.session_id for one in sessions if one.entry_count and not _holds(one)]
        newest = await store.history.last_many(moved, 1) if moved else {}
        records = []
        for session in sessions:
            head = newest.get(session.session_id)
            records.append(_record_of(session, head[-1].entry_id if head else None))
            self._note(records[-1].head_id, session.session_id, session.next_seq - 1)
        return records

    async def _expected(
        self, tx: AsyncTransaction, conversation_id: str, revision: str | None
    ) -> ConversationRecord | None:
        session = await tx.sessions.find(conversation_id)
        known = None if session is None else (await self._records_of(tx, [session]))[0]
        if (None if known is None else known.revision) != revision:
            raise ConversationConflict(conversation_id)
        return known

    async def _begin(self, tx: AsyncTransaction, record: ConversationRecord, base: str | None) -> None:
        """Make the session of a conversation with the history up to an entry of another one."""
        shared = None
        if base is not None and record.forked_from is not None:
            try:
                shared = await tx.history.find(record.forked_from, base)
            except SessionNotFoundError:
                raise ConversationConflict(record.conversation_id) from None
        try:
            if shared is not None and record.forked_from is not None:
                await tx.sessions.fork(
                    record.forked_from, record.conversation_id, at_seq=shared.seq, user_id=record.scope
                )
                return
            await tx.sessions.create(
                record.conversation_id, agent_name=self._agent_name, ttl=self._ttl, user_id=record.scope
            )
        except SessionExistsError:
            raise ConversationConflict(record.conversation_id) from None
        copies = [_copy(entry) for entry in await self._line_for(tx, record, base)]
        await tx.history.append(record.conversation_id, copies)

    async def _move(self, tx: AsyncTransaction, record: ConversationRecord, base: str | None) -> list[Entry]:
        """Let the history of a conversation end at another entry, and return what it leaves, which becomes a branch."""
        now = await tx.history.read(record.conversation_id)
        wanted = await self._line_for(tx, record, base)
        ids = [entry.entry_id for entry in wanted]
        kept = next((n for n, entry in enumerate(now) if ids[n : n + 1] != [entry.entry_id]), len(now))
        left = now[kept:]
        if left:
            parent = {_PARENT: now[kept - 1].entry_id if kept else None}
            branch = [_copy(entry, parent if n == 0 else None) for n, entry in enumerate(left)]
            part = NewSession(belongs_to=record.conversation_id, agent_name=self._agent_name)
            part_id = (await self._store.here()).sessions.derive_id(record.conversation_id, left[-1].entry_id)
            await tx.history.append(part_id, branch, create=part, on_conflict="keep")
            await tx.history.pop_last(record.conversation_id, len(left))
        await tx.history.append(record.conversation_id, [_copy(entry) for entry in wanted[kept:]])
        return left

    async def _line_for(self, tx: AsyncTransaction, record: ConversationRecord, head_id: str | None) -> list[Entry]:
        try:
            return [entry for entry, _ in await self._line(tx, head_id, None)]
        except LookupError:  # Somebody has deleted it, or rewritten the conversation, meanwhile.
            raise ConversationConflict(record.conversation_id) from None

    async def _line(self, store: _Store, head_id: str | None, limit: int | None) -> list[tuple[Entry, str | None]]:
        """The entries up to one, each with the id of the one before: from a conversation and the branches it left."""
        line: list[tuple[Entry, str | None]] = []
        while head_id is not None and (limit is None or len(line) < limit):
            session_id, seq = self._ends.get(head_id) or await self._located(store, head_id)
            wanted = seq if limit is None else min(limit - len(line), seq)
            # And the one before, whose id is wanted too.
            found = await _read(store, session_id, max(seq - wanted - 1, 0), seq)
            if not found or found[-1].entry_id != head_id:
                if self._ends.pop(head_id, None) is None:
                    raise LookupError(head_id)
                continue
            parents = [found[0].metadata.get(_PARENT), *(entry.entry_id for entry in found)]
            line = list(zip(found, parents, strict=False))[-wanted:] + line
            head_id = line[0][1]
        return line

    async def _located(self, store: _Store, entry_id: str) -> tuple[str, int]:
        place = await store.history.locate(entry_id)
        if place is None:
            raise LookupError(entry_id)
        return place

    def _note(self, head_id: str | None, session_id: str, seq: int) -> None:
        if len(self._ends) >= _MOST_ENDS:
            self._ends.clear()
        if head_id is not None:
            self._ends[head_id] = session_id, seq


async def _read(store: _Store, session_id: str, after: int, until: int) -> list[Entry]:
    try:
        return await store.history.read(session_id, after=after, before=until + 1)
    except SessionNotFoundError:
        return []


def _holds(session: Session) -> bool:
    """Whether the record that a session keeps is of this session, and of its history as it is."""
    kept = session.metadata.get(_RECORD)
    if kept is None or kept["record"]["conversation_id"] != session.session_id:
        return False
    return bool(kept["seq"] == session.next_seq - 1)


def _record_of(session: Session, newest: str | None) -> ConversationRecord:
    kept = session.metadata.get(_RECORD)
    if kept is not None and _holds(session):
        record = _records.validate_python(kept["record"])
        record.scope = session.user_id
        return record
    # It was begun, forked or continued in another way; *newest* is its last entry.
    record = ConversationRecord(
        conversation_id=session.session_id,
        head_id=newest,
        scope=session.user_id,
        forked_from=session.parent_session_id,
        forked_at=newest if session.forked_at_seq == session.next_seq - 1 else None,
        revision=f"{session.created_at.isoformat()}/{session.revision}/{session.next_seq}",
        updated_at=session.last_activity_at,
    )
    if kept is not None and kept["record"]["conversation_id"] == session.session_id:
        before = _records.validate_python(kept["record"])
        record.usage, record.branches = before.usage, before.branches
    return record


def _copy(entry: Entry, metadata: dict[str, Any] | None = None) -> NewEntry:
    """The same entry for another session, which has used nothing."""
    return NewEntry(
        entry.content,
        role=entry.role,
        agent_name=entry.agent_name,
        usage=Usage(),
        tool_call_id=entry.tool_call_id,
        finish_reason=entry.finish_reason,
        metadata=metadata,
        entry_id=entry.entry_id,
        created_at=entry.created_at,
    )


def _uncounted(entry: NewEntry) -> NewEntry:
    return replace(entry, usage=Usage(), tool_name=None)
