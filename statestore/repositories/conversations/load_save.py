"""Loading and saving whole sessions."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from statestore.checking import checks, exactjson
from statestore.engine.calls import reads_snapshot, writes_once
from statestore.errors import ConflictError, InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.conversations import billing
from statestore.repositories.history import appending, entry_reads, entry_rows, ranges, summaries
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.repositories.sessions import lease_checks, segments, session_columns, session_life, session_rows
from statestore.repositories.sessions.session_columns import ATTRIBUTES
from statestore.repositories.sessions.session_rows import LockedSession
from statestore.repositories.state import state_rows
from statestore.values.conversations import Baseline, ConversationState, SaveReport
from statestore.values.history import Entry, NewEntry, Summary
from statestore.values.sessions import Lease, Session


class ConversationsRepository(Repository, group="sessions"):
    """Whole sessions."""

    @reads_snapshot
    def load(self, session_id: str) -> ConversationState:
        """A whole session, as of one moment: attributes, history, state, summaries. Extends its TTL.

        Changes to it do not affect the store until it is saved.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        return self._load(checks.key(session_id, "session_id"))

    @writes_once
    def save(self, conversation: ConversationState, *, create: bool = False, lease: Lease | None = None) -> SaveReport:
        """Make a session equal to *conversation*, all or nothing.

        New entries at the end are appended, entries missing at the front are trimmed, entries that differ are replaced,
        and entries missing at the end are dropped. Loaded entries are recognized by their `entry_id`, others by their
        content; entries with the same content differ if their usage, metadata, tool name or another field differs,
        except a cost or time that is not given. A plain message is compared by its content alone. Forks keep what they
        see. What an entry used is counted once: other tokens, or another cost, count in place of those before, and what
        is only stored anew is not counted again. State, summaries and attributes become those given; what is not given
        is removed.

        A loaded conversation is saved only if nobody else has changed it since; it then counts as just loaded, so it
        can be changed and saved again. (If the transaction around the save is undone, load it again.) One made by hand
        replaces what is stored. State keys that others changed, and this conversation does not, are left alone. Loaded
        summaries that reach beyond the last remaining entry are removed.

        Args:
            conversation: The session as it should be.
            create: Create the session if there is none, or if it has expired.
            lease: Save only while this lease is valid.

        Returns:
            What was changed.

        Raises:
            SessionNotFoundError: No such session, or it has expired, and *create* is false. Nothing was written.
            ConflictError: Somebody else has changed what was loaded. Nothing was written.
            StaleLeaseError: *lease* is no longer valid. Nothing was written.
            InvalidValueError: A value can never be stored. Nothing was written.
        """
        if not isinstance(conversation, ConversationState):
            raise InvalidValueError(
                "conversation",
                f"must be a ConversationState, not {type(conversation).__name__}; sessions.load gives one",
            )
        session_id = checks.key(conversation.session_id, "conversation.session_id")
        lease_checks.token(lease, session_id)
        checks.flag(create, "create")
        if not isinstance(conversation.state, Mapping):
            raise InvalidValueError("conversation.state", "must be a mapping of keys to values")
        if isinstance(conversation.summaries, str | Mapping) or not isinstance(conversation.summaries, Iterable):
            raise InvalidValueError("conversation.summaries", "must be a sequence of summaries")
        columns = self._columns(conversation)
        given = _prepare(conversation.entries, self._link.settings.max_value_bytes)
        texts = {
            checks.key(key, "conversation.state"): self._json(value, f"conversation.state[{key!r}]")
            for key, value in conversation.state.items()
        }
        self._fits("conversation.state", session_id, *texts)
        self._fits("conversation.entries", session_id, *entry_rows.own_ids(entry for entry, _ in given))

        locked, created = self._lock(session_id, columns, create)
        if lease is not None:
            session_rows.check_lease(self._link, lease)
        session = locked.session
        stored = entry_reads.read(self._link, session_id)
        stored_summaries = summaries.read(self._link, session_id)
        baseline = None if created else conversation.baseline
        if baseline is not None:
            _check_unchanged(session, _digest(stored, stored_summaries), baseline)
        session_rows.mark_active(self._link, session_id)

        plan = _Plan(session, locked.last_turn, stored, given, self._link.settings.max_value_bytes)
        self._store_entries(plan)
        state_set, state_deleted = self._save_state(session_id, texts, baseline)
        self._save_attributes(session, columns)
        summaries_changed = self._save_summaries(session_id, stored_summaries, conversation.summaries, plan.end)
        return SaveReport(
            conversation=self._load(session_id),
            created=created,
            appended=plan.appended,
            trimmed=plan.trimmed,
            replaced=plan.replaced,
            removed=plan.removed,
            state_set=tuple(state_set),
            state_deleted=tuple(state_deleted),
            summaries_changed=summaries_changed,
        )

    def _load(self, session_id: str) -> ConversationState:
        session = session_rows.find(self._link, session_id)
        if session is None:
            raise session_rows.not_found(self._link, session_id)
        entries = entry_reads.read(self._link, session_id)
        state = state_rows.read(self._link, session_id)
        found = summaries.read(self._link, session_id)
        attributes = {name: getattr(session, name) for name in ATTRIBUTES} | {
            "metadata": exactjson.loads(exactjson.dumps(session.metadata, "metadata")),
            "ttl": session_columns.ttl_as_given(self._link, session.ttl),
        }
        return ConversationState(
            session_id,
            entries=[*entries],
            state={key: state_rows.value(session_id, key, text) for key, (text, _) in state.items()},
            summaries=found,
            session=session,
            baseline=Baseline(
                revision=session.revision,
                first_seq=session.first_seq,
                next_seq=session.next_seq,
                created_at=session.created_at,
                content=_digest(entries, found),
                state=state,
            ),
            **attributes,
        )

    def _columns(self, conversation: ConversationState) -> dict[str, Any]:
        given = {name: getattr(conversation, name) for name in ATTRIBUTES}
        if given["metadata"] is None:
            given["metadata"] = {}
        columns = {name: session_columns.attribute(self._link, name, value) for name, value in given.items()}
        if given["ttl"] is None:
            columns["ttl"] = session_columns.default_ttl(self._link)
        return columns

    def _lock(self, session_id: str, columns: Mapping[str, Any], create: bool) -> tuple[LockedSession, bool]:
        """The session's row, locked, and whether it was created for this."""
        created = False
        while True:
            found = segments.lock_for_release(self._link, session_id)
            locked = session_rows.lock_any(self._link, session_id) if found else None
            if locked is not None and not locked.expired:
                return locked, created
            if not create:
                raise session_rows.not_found(self._link, session_id)
            created = session_life.create(self._link, session_id, columns) is not None

    def _store_entries(self, plan: "_Plan") -> None:
        link, session_id = self._link, plan.session.session_id
        restored = [(plan.known[entry.entry_id], entry) for entry in plan.written() if entry.entry_id in plan.known]
        marks = billing.prepare(link, plan.session, restored) if restored else {}
        for from_seq, to_seq in plan.released():
            segments.release(link, session_id, from_seq, to_seq)
        if plan.rewritten:
            priced, _ = entry_rows.price(link, [entry for _, _, entry in plan.rewritten])
            shape = entry_rows.shape(priced)
            now = link.now() or session_rows.now(link)
            rows = [
                dict.fromkeys(shape)
                | entry.columns
                | {"seq": seq, "turn": turn, "created_at": entry.columns.get("created_at", now)}
                for (seq, turn, _), entry in zip(plan.rewritten, priced, strict=True)
            ]
            link.many(entry_rows.insert_one(shape), rows, session_id=session_id)
        if plan.range_changed:
            ranges.set_range(
                link, session_id, first_seq=plan.first_seq, next_seq=plan.kept_end + 1, last_turn=plan.last_turn
            )
        added = appending.insert_all(link, session_id, plan.added)
        stored = [(seq, entry) for seq, _, entry in plan.rewritten]
        stored += [(entry.seq, given) for entry, given in zip(added, plan.added, strict=True)]
        billing.mark(link, session_id, stored, marks)

    def _save_state(
        self, session_id: str, texts: Mapping[str, str], baseline: Baseline | None
    ) -> tuple[list[str], list[str]]:
        before = state_rows.read(self._link, session_id) if baseline is None else baseline.state
        written = {key: text for key, text in texts.items() if key not in before or before[key][0] != text}
        deleted = [key for key in before if key not in texts]
        versions = None if baseline is None else {key: version for key, (_, version) in before.items()}
        if versions is not None and (written or deleted):
            state_rows.check_versions(self._link, session_id, [*written, *deleted], versions)
        state_rows.write(self._link, session_id, written, deleted, expected=versions)
        return sorted(written), sorted(deleted)

    def _save_attributes(self, session: Session, columns: Mapping[str, Any]) -> None:
        before = {name: session_columns.attribute(self._link, name, getattr(session, name)) for name in ATTRIBUTES}
        changed = {name: value for name, value in columns.items() if value != before[name]}
        if session.belongs_to is not None:
            changed.pop("ttl", None)
        if changed:
            statement = session_rows.update_statement(tuple(changed), False)
            self._link.one(statement, session_id=session.session_id, **changed)

    def _save_summaries(self, session_id: str, stored: Sequence[Summary], given: Sequence[Summary], end: int) -> int:
        before = {summary.start_seq: summary for summary in stored}
        after: dict[int, Summary] = {}
        for index, summary in enumerate(given):
            name = f"conversation.summaries[{index}]"
            if not isinstance(summary, Summary):
                raise InvalidValueError(name, f"must be a Summary, not {type(summary).__name__}")
            if summary.end_seq > end and before.get(summary.start_seq) == summary:
                continue  # It is removed with the entries that it covers, as it is when they are popped.
            after[summary.start_seq] = replace(summaries.check(self._link, summary, name, end), session_id=session_id)
        gone = [start_seq for start_seq in before if start_seq not in after]
        changed = [summary for start_seq, summary in after.items() if before.get(start_seq) != summary]
        summaries.write(self._link, session_id, changed, gone)
        return len(gone) + len(changed)


class _Plan:
    """How a stored history becomes the one given.

    Attributes:
        rewritten: Position, turn and entry of each entry that is written to an existing position.
        added: The entries after the last position that is kept.
        known: The entries that were stored before, by id.
    """

    def __init__(
        self,
        session: Session,
        last_turn: int,
        stored: Sequence[Entry],
        given: Sequence[tuple[PreparedEntry, Any]],
        max_bytes: int,
    ) -> None:
        self.session = session
        self.known = {entry.entry_id: entry for entry in stored}
        self.trimmed = _dropped_in_front(stored, given)
        self.first_seq = session.first_seq + self.trimmed
        kept = stored[self.trimmed :]
        overlap = min(len(kept), len(given))
        self.kept_end = self.first_seq + overlap - 1
        self.end = self.first_seq + len(given) - 1
        self.appended = len(given) - overlap
        self.removed = len(kept) - overlap
        self.replaced = 0
        self.rewritten: list[tuple[int, int, PreparedEntry]] = []
        turn = kept[0].turn - (kept[0].role == "user") if kept else last_turn
        for old, (entry, original) in zip(kept, given, strict=False):
            turn += entry.columns["role"] == "user"
            same = _same(entry, old)
            equal = (
                original == old if isinstance(original, Entry) else same and appending.difference(old, entry) is None
            )
            if equal and turn == old.turn:
                continue
            self.replaced += not equal
            if equal:
                entry = entry_rows.prepare_one(_as_new(old), "conversation.entries", max_bytes=max_bytes)
            elif same and not entry.own_id:
                entry = replace(entry, columns=entry.columns | {"entry_id": old.entry_id})
            self.rewritten.append((old.seq, turn, self._dated(entry)))
        self.last_turn = turn
        self.added = [self._dated(entry) for entry, _ in given[overlap:]]
        # Appending marks the change itself.
        self.range_changed = self.trimmed > 0 or self.removed > 0 or turn != last_turn

    def _dated(self, entry: PreparedEntry) -> PreparedEntry:
        """The entry with its stored time, if it was stored before and does not give another."""
        old = self.known.get(entry.entry_id)
        if old is None or "created_at" in entry.columns:
            return entry
        return replace(entry, columns=entry.columns | {"created_at": old.created_at})

    def written(self) -> list[PreparedEntry]:
        return [entry for _, _, entry in self.rewritten] + self.added

    def released(self) -> list[tuple[int, int]]:
        """The ranges whose rows the session gives up."""
        ranges: list[tuple[int, int]] = []
        if self.trimmed:
            ranges.append((self.session.first_seq, self.first_seq - 1))
        for seq, _, _ in self.rewritten:
            if ranges and ranges[-1][1] == seq - 1 and seq > self.first_seq:
                ranges[-1] = (ranges[-1][0], seq)
            else:
                ranges.append((seq, seq))
        if self.removed:
            ranges.append((self.kept_end + 1, self.session.next_seq - 1))
        return ranges


def _dropped_in_front(stored: Sequence[Entry], given: Sequence[tuple[PreparedEntry, Any]]) -> int:
    """How many stored entries come before the first given one."""
    if not given:
        return len(stored)
    first = given[0][0]
    return next((index for index, entry in enumerate(stored) if _same(first, entry)), 0)


def _same(given: PreparedEntry, stored: Entry) -> bool:
    """Whether a given entry is the stored one, perhaps edited."""
    if given.own_id:
        return given.entry_id == stored.entry_id
    return given.columns["role"] == stored.role and appending.has_same_content(stored, given)


def _prepare(
    entries: Sequence[Entry | NewEntry | Mapping[str, Any]], max_bytes: int
) -> list[tuple[PreparedEntry, Entry | NewEntry | Mapping[str, Any]]]:
    if isinstance(entries, str | bytes | Mapping | NewEntry | Entry) or not isinstance(entries, Iterable):
        raise InvalidValueError("conversation.entries", "must be a sequence of entries; put a single one into a list")
    originals = list(entries)
    new = [_as_new(entry) if isinstance(entry, Entry) else entry for entry in originals]
    return list(zip(entry_rows.prepare(new, max_bytes=max_bytes), originals, strict=True))


def _as_new(entry: Entry) -> NewEntry:
    return NewEntry(
        entry.content,
        role=entry.role,
        agent_name=entry.agent_name,
        usage=entry.usage,
        provider_name=entry.provider_name,
        request_model=entry.request_model,
        response_model=entry.response_model,
        cost_usd=entry.cost_usd,
        tool_name=entry.tool_name,
        tool_call_id=entry.tool_call_id,
        duration=entry.duration,
        finish_reason=entry.finish_reason,
        error_type=entry.error_type,
        metadata=entry.metadata or None,
        entry_id=entry.entry_id,
        created_at=entry.created_at,
    )


def _digest(entries: Sequence[Entry], found: Sequence[Summary]) -> str:
    """A digest that reveals changes that leave the positions as they were, such as other entries at the same ones."""
    digest = hashlib.blake2b(digest_size=16)
    for one in (*entries, *found):
        try:
            digest.update(orjson.dumps(one, default=str))
        except TypeError:  # A lone surrogate, or a large integer.
            digest.update(repr(one).encode(errors="surrogatepass"))
    return digest.hexdigest()


def _check_unchanged(session: Session, content: str, baseline: Baseline) -> None:
    changed = f"session {session.session_id!r} has changed since it was loaded"
    if session.created_at != baseline.created_at:
        raise ConflictError(
            f"{changed}: it was deleted, and another was made under its id; load it again",
            session_id=session.session_id,
        )
    for name in ("revision", "first_seq", "next_seq"):
        expected, actual = getattr(baseline, name), getattr(session, name)
        if expected != actual:
            raise ConflictError(
                f"{changed}: {name} is {actual}, not {expected}; load it again",
                session_id=session.session_id,
                expected=expected,
                actual=actual,
            )
    if content != baseline.content:
        raise ConflictError(
            f"{changed}: its entries or summaries are different; load it again", session_id=session.session_id
        )
