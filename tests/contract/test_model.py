"""Any sequence of operations leaves what a plain model in memory says, and nothing unsound in the tables.

`STATESTORE_HYPOTHESIS_PROFILE=long` tries far more.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

from statestore import (
    ConflictError,
    EntryNotFoundError,
    InvalidValueError,
    NewEntry,
    NewSession,
    SessionExistsError,
    SessionNotFoundError,
    StateStore,
    Usage,
)
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound

common = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True, "database": None}
PROFILES = {
    # Without shrinking, which on a database takes minutes: the other profile looks for the shortest example.
    "ci": settings(max_examples=30, stateful_step_count=40, phases=[Phase.generate], **common),
    "long": settings(max_examples=2000, stateful_step_count=80, **common),
}

SESSIONS = st.sampled_from(["a", "b", "c", "d"])
KEYS = st.sampled_from(["x", "y"])
TTLS = st.sampled_from([None, None, timedelta(seconds=100)])
SHARES = st.integers(0, 12)
CHOICES = st.sampled_from(["raise", "keep", "replace"])
ROWS = itertools.count()
FAR = 1000
CONDITIONS = st.sampled_from([None, "missing", "present"])


@dataclass
class ModelEntry:
    content: int
    turn: int
    entry_id: str
    role: str | None
    metadata: dict[str, int] = field(default_factory=dict)
    tokens: int | None = None
    row: int = field(default_factory=ROWS.__next__)
    """Which row holds it: forks share it until one of them changes it."""

    def again(self, content: int | None = None) -> NewEntry:
        """What would have to be appended to be this entry, or one with another content."""
        return NewEntry(
            self.content if content is None else content,
            role=self.role,
            metadata=self.metadata or None,
            usage=None if self.tokens is None else Usage(input_tokens=self.tokens),
        )


@dataclass
class ModelSession:
    ttl: timedelta | None
    expires_at: datetime | None = None
    first_seq: int = 1
    entries: list[ModelEntry] = field(default_factory=list)
    last_turn: int = 0
    state: dict[str, tuple[int, int]] = field(default_factory=dict)
    lists: dict[str, list[int]] = field(default_factory=dict)
    active_at: datetime | None = None
    parent: tuple[str, int] | None = None

    @property
    def next_seq(self) -> int:
        return self.first_seq + len(self.entries)

    def touch(self, now: datetime) -> None:
        self.expires_at = None if self.ttl is None else now + self.ttl

    def look(self, now: datetime) -> None:
        """A read extends the session only when a tenth of its time has gone."""
        if self.ttl is not None and self.expires_at < now + self.ttl * 9 / 10:
            self.touch(now)


class Machine(RuleBasedStateMachine):
    """The store and the model, side by side."""

    engine: Engine
    content: Content
    examples: Iterator[int]

    @initialize()
    def open(self) -> None:
        self.clock = MovableClock()
        self.namespace = f"example {next(self.examples)}"
        self.store = StateStore(self.engine, namespace=self.namespace, clock=self.clock, durability="normal")
        self.model: dict[str, ModelSession] = {}
        self.words = itertools.count(1)
        for session_id in ("a", "b"):
            self.create(session_id, None)
            self.append(session_id, 4, "user")

    def living(self, session_id: str) -> ModelSession | None:
        session = self.model.get(session_id)
        if session is None or (session.expires_at is not None and session.expires_at <= self.clock()):
            return None
        return session

    def is_missing(self, session_id: str, call: Any, *args: Any, **kwargs: Any) -> bool:
        """Whether there is no such session; then *call* must say so."""
        if self.living(session_id) is not None:
            return False
        with pytest.raises(SessionNotFoundError):
            call(session_id, *args, **kwargs)
        return True

    def written(self, session_id: str) -> ModelSession:
        session = self.living(session_id)
        assert session is not None
        session.touch(self.clock())
        session.active_at = self.clock()
        return session

    def state_written(self, session_id: str) -> ModelSession:
        """A write of state or of a list tells the session at most once a second."""
        session = self.living(session_id)
        assert session is not None
        assert session.active_at is not None
        now = self.clock()
        if now - session.active_at >= timedelta(seconds=1) or now.hour != session.active_at.hour:
            return self.written(session_id)
        before = session.expires_at
        session.look(now)
        if session.expires_at != before:
            session.active_at = now
        return session

    @rule(session_id=SESSIONS, ttl=TTLS)
    def create(self, session_id: str, ttl: timedelta | None) -> None:
        if self.living(session_id):
            with pytest.raises(SessionExistsError):
                self.store.sessions.create(session_id, ttl=ttl)
            return
        self.store.sessions.create(session_id, ttl=ttl)
        self.model[session_id] = ModelSession(ttl)
        self.written(session_id)

    @rule(session_id=SESSIONS, n=st.integers(1, 4), role=st.sampled_from(["user", "assistant"]))
    def append(self, session_id: str, n: int, role: str) -> None:
        entries = [NewEntry(next(self.words), role=role) for _ in range(n)]
        self.add(session_id, entries, self.store.history.append, create=False)

    @rule(session_id=SESSIONS, own_id=st.booleans())
    def append_and_create(self, session_id: str, own_id: bool) -> None:
        content = next(self.words)
        entry = NewEntry(content, role="user", entry_id=f"own {content}" if own_id else None)
        self.add(session_id, [entry], self.store.history.append, create=True)

    def add(self, session_id: str, entries: list[NewEntry], call: Any, *, create: bool) -> None:
        if not create and self.is_missing(session_id, call, entries):
            return
        stored = call(session_id, entries, create=create)
        if self.living(session_id) is None:
            self.model[session_id] = ModelSession(None)
        session = self.written(session_id)
        for entry, result in zip(entries, stored, strict=True):
            session.last_turn += entry.role == "user"
            assert (result.seq, result.turn) == (session.next_seq, session.last_turn)
            session.entries.append(ModelEntry(entry.content, session.last_turn, result.entry_id, entry.role))

    @rule(session_id=SESSIONS, back=st.integers(0, 3), same=st.booleans(), choice=CHOICES)
    def append_again_by_id(self, session_id: str, back: int, same: bool, choice: str) -> None:
        session = self.living(session_id)
        if session is None or len(session.entries) <= back:
            return
        known = session.entries[-1 - back]
        fresh = next(self.words)
        again = replace(known.again(None if same else fresh), entry_id=known.entry_id)
        entries = [again, NewEntry(fresh)]
        if not same and choice == "raise":
            with pytest.raises(ConflictError) as caught:
                self.store.history.append(session_id, entries)
            assert caught.value.entry_id == known.entry_id
            return
        found, added = self.store.history.append(session_id, entries, on_conflict=choice)
        if not same and choice == "replace":
            self.edited(session, known)
            known.content = fresh
        assert found.content == known.content
        session = self.written(session_id)
        assert (found.seq, added.seq) == (session.next_seq - 1 - back, session.next_seq)
        session.entries.append(ModelEntry(fresh, session.last_turn, added.entry_id, None))

    @rule(session_id=SESSIONS, back=st.integers(-2, 4), n=st.integers(0, 5))
    def append_after(self, session_id: str, back: int, n: int) -> None:
        session = self.living(session_id)
        if session is None or session.next_seq - 1 - back < 0:
            return
        after_seq = session.next_seq - 1 - back
        known = session.entries[max(0, len(session.entries) - back) :] if back > 0 else []
        trimmed = max(0, back - len(session.entries))
        entries = [NewEntry(0)] * trimmed + [entry.again() for entry in known]
        entries = entries[:n]
        entries += [NewEntry(next(self.words), role="assistant") for _ in range(n - len(entries))]
        contents = [entry.content for entry in entries]
        if back < 0:
            with pytest.raises(ConflictError):
                self.store.history.append(session_id, entries, after_seq=after_seq)
            return
        result = self.store.history.append(session_id, entries, after_seq=after_seq)
        session = self.written(session_id)
        assert [entry.content for entry in result] == contents[trimmed:]
        for entry in result:
            if entry.seq >= session.next_seq:
                session.entries.append(ModelEntry(entry.content, session.last_turn, entry.entry_id, entry.role))

    def edited(self, session: ModelSession, entry: ModelEntry) -> None:
        """An entry that others see too gets a row of its own."""
        others = (other for other in self.model.values() if other is not session)
        if any(one.row == entry.row for other in others for one in other.entries):
            entry.row = next(ROWS)

    @rule(session_id=SESSIONS, place=st.integers(0, 8), how=st.sampled_from(["replace", "annotate", "set_usage"]))
    def edit(self, session_id: str, place: int, how: str) -> None:
        history, word = self.store.history, next(self.words)
        session = self.living(session_id)
        if session is None:
            self.is_missing(session_id, history.annotate, 1, {})
            return
        seq = session.first_seq + place
        if place >= len(session.entries):
            with pytest.raises(EntryNotFoundError):
                history.annotate(session_id, seq, {"a": 1})
            return
        entry = session.entries[place]
        if how == "replace":
            after = history.replace(session_id, seq, entry.again(word), expected_content=entry.content)
            entry.content = word
        elif how == "annotate":
            after = history.annotate(session_id, seq, {f"k{word % 2}": word})
            entry.metadata = entry.metadata | {f"k{word % 2}": word}
        else:
            after = history.set_usage(session_id, entry_id=entry.entry_id, usage=Usage(input_tokens=word))
            entry.tokens = word
        self.edited(session, entry)
        self.written(session_id)
        assert (after.seq, after.turn, after.entry_id, after.content) == (
            seq,
            entry.turn,
            entry.entry_id,
            entry.content,
        )
        assert (after.metadata, after.usage.input_tokens) == (entry.metadata, entry.tokens)

    @rule(source=SESSIONS, fork_id=SESSIONS, share=SHARES, whole=st.booleans())
    def fork(self, source: str, fork_id: str, share: int, whole: bool) -> None:
        # Under the id of an ancestor that is gone a fork is another session if it is younger.
        self.clock.advance(microseconds=1)
        session = self.living(source)
        at_seq = None if whole else share
        if session is None:
            self.is_missing(source, self.store.sessions.fork, fork_id, at_seq=at_seq)
            return
        end = session.next_seq - 1
        if at_seq is not None and at_seq > end:
            with pytest.raises(InvalidValueError):
                self.store.sessions.fork(source, fork_id, at_seq=at_seq)
            return
        if self.living(fork_id):
            with pytest.raises(SessionExistsError):
                self.store.sessions.fork(source, fork_id, at_seq=at_seq)
            return
        fork = self.store.sessions.fork(source, fork_id, at_seq=at_seq)
        at_seq = end if at_seq is None else at_seq
        first_seq = min(session.first_seq, at_seq + 1)
        kept = [replace(entry) for entry in session.entries[: max(0, at_seq - session.first_seq + 1)]]
        turn_there = kept[-1].turn if kept else 0
        last_turn = session.last_turn if at_seq == end else turn_there
        self.model[fork_id] = ModelSession(
            session.ttl,
            None,
            first_seq,
            kept,
            last_turn,
            dict(session.state),
            {name: [*items] for name, items in session.lists.items()},
            None,
            (source, at_seq),
        )
        self.written(fork_id)
        assert (fork.parent_session_id, fork.forked_at_seq) == (source, at_seq)

    @rule(session_id=SESSIONS, n=st.integers(0, 6))
    def pop(self, session_id: str, n: int) -> None:
        if self.is_missing(session_id, self.store.history.pop_last, n):
            return
        popped = self.store.history.pop_last(session_id, n)
        session = self.living(session_id)
        assert session is not None
        expected = session.entries[len(session.entries) - n :] if n < len(session.entries) else session.entries
        expected = expected if n else []
        assert [entry.content for entry in popped] == [entry.content for entry in expected]
        if popped:
            self.written(session_id)
            session.entries = session.entries[: len(session.entries) - len(expected)]
            session.last_turn = popped[0].turn - (popped[0].role == "user")
        else:
            session.look(self.clock())

    @rule(session_id=SESSIONS, keep_last=st.integers(0, 8))
    def trim(self, session_id: str, keep_last: int) -> None:
        if self.is_missing(session_id, self.store.history.trim, keep_last=keep_last):
            return
        gone = self.store.history.trim(session_id, keep_last=keep_last)
        session = self.living(session_id)
        assert session is not None
        assert gone == max(0, len(session.entries) - keep_last)
        if gone:
            self.written(session_id)
            session.first_seq += gone
            session.entries = session.entries[gone:]

    @rule(session_id=SESSIONS)
    def clear(self, session_id: str) -> None:
        if self.is_missing(session_id, self.store.history.clear):
            return
        assert self.store.history.clear(session_id) == len(self.model[session_id].entries)
        session = self.written(session_id)
        session.entries, session.first_seq, session.last_turn = [], 1, 0

    @rule(session_id=SESSIONS)
    def delete(self, session_id: str) -> None:
        assert self.store.sessions.delete(session_id) is (self.living(session_id) is not None)
        self.model.pop(session_id, None)

    @rule(ids=st.lists(SESSIONS, min_size=1, max_size=4))
    def delete_many(self, ids: list[str]) -> None:
        expected = sum(self.living(session_id) is not None for session_id in dict.fromkeys(ids))
        assert self.store.sessions.delete_many(ids) == expected
        for session_id in ids:
            self.model.pop(session_id, None)

    @rule(often=st.integers(0, 3))
    def drop_namespace(self, often: int) -> None:
        if often == 0:
            self.store.drop_namespace(self.namespace)
            self.model.clear()

    @rule(
        session_id=SESSIONS,
        roles=st.lists(st.sampled_from(["user", "assistant"]), max_size=3),
        values=st.dictionaries(KEYS, st.integers(-5, 5), max_size=2),
        deleted=st.sets(KEYS, max_size=1),
        create=st.sampled_from([False, True, NewSession(ttl=timedelta(seconds=100))]),
        most=st.sampled_from([None, 0, 1, 3]),
        keep_newest=st.booleans(),
    )
    def turn(
        self,
        session_id: str,
        roles: list[str],
        values: dict[str, int],
        deleted: set[str],
        create: bool | NewSession,
        most: int | None,
        keep_newest: bool,
    ) -> None:
        given: dict[str, Any] = {"create": create, "max_entries": most, "keep_newest": keep_newest}
        session = self.living(session_id)
        if session is None and not create:
            with pytest.raises(SessionNotFoundError), self.store.turn(session_id, **given):
                pass
            return
        entries = [NewEntry(next(self.words), role=role) for role in roles]
        contents = [] if session is None else [entry.content for entry in session.entries]
        before = {} if session is None else {key: value for key, (value, _) in session.state.items()}
        after = {key: value for key, value in (before | values).items() if key not in deleted}
        with self.store.turn(session_id, **given) as turn:
            if session is not None:
                session.look(self.clock())
            assert turn.messages == contents[len(contents) - len(turn.messages) :]
            assert len(turn.messages) <= (FAR if most is None else most)
            assert most is not None or turn.messages == contents
            assert dict(turn.state) == before
            turn.append(entries)
            for key, value in values.items():
                turn.state[key] = value
            for key in deleted & turn.state.keys():
                del turn.state[key]
        if not entries and after == before:
            return
        if session is None:
            self.model[session_id] = ModelSession(create.ttl if isinstance(create, NewSession) else None)
        session = self.written(session_id)
        for entry, stored in zip(entries, turn.stored, strict=True):
            session.last_turn += entry.role == "user"
            assert (stored.seq, stored.turn) == (session.next_seq, session.last_turn)
            session.entries.append(ModelEntry(entry.content, session.last_turn, stored.entry_id, entry.role))
        session.state = {
            key: session.state[key] if before.get(key) == value else (value, session.state.get(key, (0, 0))[1] + 1)
            for key, value in after.items()
        }

    @rule(
        session_id=SESSIONS, key=KEYS, value=st.integers(-5, 5), only_if=st.sampled_from([None, "missing", "present"])
    )
    def set_state(self, session_id: str, key: str, value: int, only_if: Any) -> None:
        if self.is_missing(session_id, self.store.state.set, key, value, only_if=only_if):
            return
        entry = self.store.state.set(session_id, key, value, only_if=only_if)
        session = self.state_written(session_id)
        if only_if is not None and (key in session.state) is (only_if == "missing"):
            assert entry is None
            return
        session.state[key] = (value, session.state.get(key, (0, 0))[1] + 1)
        assert entry is not None
        assert (entry.value, entry.version) == session.state[key]

    @rule(session_id=SESSIONS, values=st.dictionaries(KEYS, st.integers(-5, 5), max_size=2))
    def set_and_create(self, session_id: str, values: dict[str, int]) -> None:
        self.store.state.set_many(session_id, values, create=True)
        if self.living(session_id) is None:
            self.model[session_id] = ModelSession(None)
            self.written(session_id)
        session = self.state_written(session_id)
        for key, value in values.items():
            session.state[key] = (value, session.state.get(key, (0, 0))[1] + 1)

    @rule(session_id=SESSIONS, key=KEYS, amount=st.integers(-5, 5))
    def increment(self, session_id: str, key: str, amount: int) -> None:
        if self.is_missing(session_id, self.store.state.increment, key, amount):
            return
        total = self.store.state.increment(session_id, key, amount)
        session = self.state_written(session_id)
        value, version = session.state.get(key, (0, 0))
        session.state[key] = (value + amount, version + 1)
        assert total == value + amount

    @rule(session_id=SESSIONS, key=KEYS)
    def delete_state(self, session_id: str, key: str) -> None:
        if self.is_missing(session_id, self.store.state.delete, key):
            return
        deleted = self.store.state.delete(session_id, key)
        assert deleted is (self.state_written(session_id).state.pop(key, None) is not None)

    @rule(session_id=SESSIONS, keys=st.lists(KEYS, max_size=2))
    def delete_several(self, session_id: str, keys: list[str]) -> None:
        if self.is_missing(session_id, self.store.state.delete_many, keys):
            return
        deleted = self.store.state.delete_many(session_id, keys)
        state = self.state_written(session_id).state
        assert deleted == sum(state.pop(key, None) is not None for key in dict.fromkeys(keys))

    @rule(session_id=SESSIONS, name=KEYS, n=st.integers(1, 3))
    def append_to_list(self, session_id: str, name: str, n: int) -> None:
        items = [next(self.words) for _ in range(n)]
        if self.is_missing(session_id, self.store.lists.append, name, items):
            return
        length = self.store.lists.append(session_id, name, items)
        mine = self.state_written(session_id).lists.setdefault(name, [])
        mine += items
        assert length == len(mine)

    @rule(session_id=SESSIONS, name=KEYS)
    def delete_list(self, session_id: str, name: str) -> None:
        if self.is_missing(session_id, self.store.lists.delete, name):
            return
        deleted = self.store.lists.delete(session_id, name)
        assert deleted is (self.state_written(session_id).lists.pop(name, None) is not None)

    @precondition(lambda self: any(session.ttl for session in self.model.values()))
    @rule(seconds=st.sampled_from([5, 20, 60, 150]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    @rule(session_id=SESSIONS, last=st.integers(0, 5), after=st.integers(0, 8), limit=st.integers(0, 5))
    def read_windows(self, session_id: str, last: int, after: int, limit: int) -> None:
        if self.is_missing(session_id, self.store.history.read):
            return
        session = self.model[session_id]
        numbered = list(enumerate((entry.content for entry in session.entries), session.first_seq))
        newest = self.store.history.read(session_id, last=last)
        assert [(entry.seq, entry.content) for entry in newest] == (numbered[-last:] if last else [])
        page = self.store.history.read(session_id, after=after, limit=limit)
        behind = [pair for pair in numbered if pair[0] > after]
        assert [(entry.seq, entry.content) for entry in page] == behind[:limit]
        assert (
            self.store.history.messages(session_id, last=last) == [content for _, content in numbered][-last or FAR :]
        )
        ids = {entry.entry_id: seq for seq, entry in enumerate(session.entries, session.first_seq)}
        for entry_id, seq in list(ids.items())[:limit]:
            found = self.store.history.find(session_id, entry_id)
            assert found is not None
            assert found.seq == seq
        assert self.store.history.find(session_id, "nobody's") is None
        users = [seq for (seq, _), entry in zip(numbered, session.entries, strict=True) if entry.role == "user"]
        by_role = self.store.history.read(session_id, role="user", last=last)
        assert [entry.seq for entry in by_role] == users[-last or FAR :]
        by_turn = self.store.history.read(session_id, turn=limit, after=after)
        turns = [seq for (seq, _), entry in zip(numbered, session.entries, strict=True) if entry.turn == limit]
        assert [entry.seq for entry in by_turn] == [seq for seq in turns if seq > after]
        session.look(self.clock())

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        living = {session_id: session for session_id in self.model if (session := self.living(session_id))}
        assert self.store.sessions.count() == len(living)
        for session_id, session in living.items():
            found = self.store.sessions.get(session_id)
            session.look(self.clock())
            assert (found.first_seq, found.next_seq) == (session.first_seq, session.next_seq)
            assert found.expires_at == session.expires_at
            entries = self.store.history.read(session_id)
            assert [(entry.content, entry.turn, entry.entry_id) for entry in entries] == [
                (entry.content, entry.turn, entry.entry_id) for entry in session.entries
            ]
            assert [entry.seq for entry in entries] == list(range(session.first_seq, session.next_seq))
            state = self.store.state.get_all(session_id)
            assert state == {key: session.state[key][0] for key in sorted(session.state)}
            assert self.store.state.keys(session_id) == sorted(state)
            lists = {name: self.store.lists.read(session_id, name) for name in self.store.lists.names(session_id)}
            assert lists == session.lists
        states = self.store.state.get_all_many(self.model)
        assert states == {name: {key: value for key, (value, _) in one.state.items()} for name, one in living.items()}

        newest = self.store.history.last_many(["a", "b", "c", "d"], 2)
        assert {session_id: [entry.content for entry in entries] for session_id, entries in newest.items()} == {
            session_id: [entry.content for entry in session.entries[-2:]] for session_id, session in living.items()
        }
        assert unsound(self.content, self.namespace) == []
        # Forks share entries: what is stored is what is seen, each row once. Expired sessions still count.
        stored = self.content.query(
            "SELECT count(*) AS n FROM history_entries WHERE namespace = :namespace", namespace=self.namespace
        )
        distinct = {entry.row for session in self.model.values() for entry in session.entries}
        assert stored[0]["n"] == len(distinct)


@pytest.mark.timeout(3600)
def test_the_store_agrees_with_a_model(database_url: str, content: Content) -> None:
    # One engine for all examples, each of which has a namespace of its own.
    opened = StateStore.open(database_url, durability="normal")
    try:

        class Example(Machine):
            engine = opened._database.engine
            examples = itertools.count()

        Example.content = content
        profile = PROFILES[os.environ.get("STATESTORE_HYPOTHESIS_PROFILE", "ci")]
        run_state_machine_as_test(Example, settings=profile)
    finally:
        opened.close()
