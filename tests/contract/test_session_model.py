"""Any sequence of operations on sessions and what belongs to them leaves what a plain model in memory says.

`STATESTORE_HYPOTHESIS_PROFILE=long` tries far more.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine

from statestore import NewSession, SessionExistsError, SessionNotFoundError, StateStore
from tests.contract.test_model import PROFILES
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound

IDS = ["a", "b", "ab", "c", "d"]
SESSIONS = st.sampled_from(IDS)
USERS = st.sampled_from([None, "ada", "bob"])
TTLS = st.sampled_from([None, timedelta(seconds=100)])
MARKS = st.sampled_from([1, 1.0, "1", None, [1], "\ud800"])


@dataclass
class Row:
    user_id: str | None
    title: str | None
    mark: Any
    ttl: timedelta | None
    whole: str | None = None
    expires_at: datetime | None = None


class Machine(RuleBasedStateMachine):
    """The store and the model, side by side. A row stays in the model until it is deleted or swept."""

    engine: Engine
    content: Content
    examples: Iterator[int]

    @initialize()
    def open(self) -> None:
        self.clock = MovableClock()
        self.namespace = f"sessions {next(self.examples)}"
        self.store = StateStore(self.engine, namespace=self.namespace, clock=self.clock, durability="normal")
        self.rows: dict[str, Row] = {}
        self.create("a", "ada", timedelta(seconds=100), 1, "One")
        self.create("b", "bob", None, "1", None)
        self.create_part("c", "a", "bob", by_write=False)

    def lives(self, session_id: str | None) -> bool:
        row = self.rows.get(session_id or "")
        if row is None or (row.expires_at is not None and row.expires_at <= self.clock()):
            return False
        return row.whole is None or self.lives(row.whole)

    def remove(self, session_id: str) -> None:
        """A session and what belongs to it."""
        self.rows.pop(session_id, None)
        for part in [name for name, row in self.rows.items() if row.whole == session_id]:
            self.remove(part)

    def add(self, session_id: str, row: Row) -> None:
        self.remove(session_id)
        self.rows[session_id] = row
        row.expires_at = None if row.ttl is None else self.clock() + row.ttl

    def look(self, session_id: str) -> None:
        """To read a session, or a part of it, extends it if a tenth of its time has gone."""
        row = self.rows[session_id]
        row = row if row.whole is None else self.rows[row.whole]
        if row.ttl is not None and row.expires_at is not None and row.expires_at < self.clock() + row.ttl * 9 / 10:
            row.expires_at = self.clock() + row.ttl

    def write(self, session_id: str) -> None:
        """To write to a session extends it; to write to a part is a look at the whole."""
        row = self.rows[session_id]
        if row.whole is None:
            row.expires_at = None if row.ttl is None else self.clock() + row.ttl
        else:
            self.look(session_id)

    @rule(session_id=SESSIONS, user_id=USERS, ttl=TTLS, mark=MARKS, title=st.sampled_from([None, "One", "Two"]))
    def create(self, session_id: str, user_id: str | None, ttl: Any, mark: Any, title: str | None) -> None:
        attributes = {"user_id": user_id, "title": title, "metadata": {"mark": mark, "\udfff": 1}, "ttl": ttl}
        if self.lives(session_id):
            with pytest.raises(SessionExistsError):
                self.store.sessions.create(session_id, **attributes)
            return
        self.store.sessions.create(session_id, **attributes)
        self.add(session_id, Row(user_id, title, mark, ttl))

    @rule(session_id=SESSIONS, whole=SESSIONS, user_id=USERS, by_write=st.booleans())
    def create_part(self, session_id: str, whole: str, user_id: str | None, by_write: bool) -> None:
        if self.lives(session_id):
            return
        top = self.rows[whole].whole or whole if self.lives(whole) else None
        if by_write:
            create = NewSession(belongs_to=whole, user_id=user_id, metadata={"mark": 1})

            def call() -> Any:
                return self.store.history.append(session_id, [{"role": "user", "content": "x"}], create=create)
        else:

            def call() -> Any:
                return self.store.sessions.create(session_id, belongs_to=whole, user_id=user_id, metadata={"mark": 1})

        if top is None:
            with pytest.raises(SessionNotFoundError):
                call()
            return
        call()
        self.add(session_id, Row(user_id, None, 1, None, top))
        self.look(session_id)

    @rule(source=SESSIONS, fork_id=SESSIONS)
    def fork(self, source: str, fork_id: str) -> None:
        self.clock.advance(microseconds=1)  # A fork under the id of an ancestor that is gone is another session.
        if self.lives(fork_id):
            return
        if not self.lives(source):
            with pytest.raises(SessionNotFoundError):
                self.store.sessions.fork(source, fork_id)
            return
        fork = self.store.sessions.fork(source, fork_id)
        self.add(fork_id, replace(self.rows[source]))
        assert fork.belongs_to == self.rows[source].whole

    @rule(session_id=SESSIONS)
    def delete(self, session_id: str) -> None:
        assert self.store.sessions.delete(session_id) is self.lives(session_id)
        self.remove(session_id)

    @rule(session_id=SESSIONS, user_id=st.sampled_from(["ada", "bob"]))
    def delete_of_a_user(self, session_id: str, user_id: str) -> None:
        own = self.lives(session_id) and self.rows[session_id].user_id == user_id
        assert self.store.sessions.delete(session_id, user_id=user_id) is own
        if own:
            self.remove(session_id)

    @rule(ids=st.lists(SESSIONS, max_size=3))
    def delete_many(self, ids: list[str]) -> None:
        there = 0
        for session_id in dict.fromkeys(ids):
            there += self.lives(session_id)
            self.remove(session_id)
        assert self.store.sessions.delete_many(ids) == there

    @rule(user_id=st.sampled_from(["ada", "bob"]))
    def delete_user(self, user_id: str) -> None:
        self.store.sessions.delete_user(user_id)
        for session_id in [name for name, row in self.rows.items() if row.user_id == user_id]:
            self.remove(session_id)

    @rule(session_id=SESSIONS)
    def touch(self, session_id: str) -> None:
        if not self.lives(session_id):
            with pytest.raises(SessionNotFoundError):
                self.store.sessions.touch(session_id)
            return
        self.store.sessions.touch(session_id)
        self.write(session_id)

    @rule(session_id=SESSIONS, number=st.integers(0, 2))
    def append(self, session_id: str, number: int) -> None:
        entries = [{"role": "user", "content": "x"}] * number
        if not self.lives(session_id):
            with pytest.raises(SessionNotFoundError):
                self.store.history.append(session_id, entries)
            return
        self.store.history.append(session_id, entries)
        self.write(session_id)

    @rule()
    def drop_namespace(self) -> None:
        self.store.drop_namespace(self.namespace)
        self.rows.clear()

    @rule(seconds=st.sampled_from([5, 20, 60, 90]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    @rule()
    def sweep(self) -> None:
        due = self.store.sweep(dry_run=True)
        swept = self.store.sweep()
        assert swept["expired_sessions"] == due["expired_sessions"]
        self.rows = {session_id: row for session_id, row in self.rows.items() if self.lives(session_id)}
        assert {row["session_id"] for row in self.content.rows("sessions", namespace=self.namespace)} == set(self.rows)

    @rule(ids=st.lists(SESSIONS, min_size=1, max_size=4), seconds=st.sampled_from([0, 20, 60]))
    def load_many(self, ids: list[str], seconds: int) -> None:
        self.clock.advance(seconds=seconds)
        found = self.store.sessions.load_many(ids)
        wanted = [session_id for session_id in dict.fromkeys(ids) if self.lives(session_id)]
        for session_id in wanted:
            self.look(session_id)
        assert list(found) == wanted
        for session_id, session in found.items():
            row = self.rows[session_id]
            assert (session.user_id, session.belongs_to, session.expires_at) == (row.user_id, row.whole, row.expires_at)

    @rule(
        user_id=USERS,
        title=st.sampled_from([None, "o"]),
        prefix=st.sampled_from([None, "a", "ab"]),
        belongs_to=st.sampled_from([None, None, *IDS]),
        parts=st.booleans(),
        mark=st.none() | MARKS.map(lambda mark: {"mark": mark}),
        limit=st.integers(1, 3),
    )
    def page(
        self,
        user_id: str | None,
        title: str | None,
        prefix: str | None,
        belongs_to: str | None,
        parts: bool,
        mark: dict[str, Any] | None,
        limit: int,
    ) -> None:
        def is_asked_for(session_id: str, row: Row) -> bool:
            return (
                self.lives(session_id)
                and user_id in (None, row.user_id)
                and (title is None or title in (row.title or "").lower())
                and session_id.startswith(prefix or "")
                and (row.whole == belongs_to if belongs_to else parts or row.whole is None)
                and (mark is None or repr(mark["mark"]) == repr(row.mark))
            )

        asked: dict[str, Any] = {"user_id": user_id, "title_contains": title, "id_prefix": prefix, "metadata": mark}
        asked |= {"belongs_to": belongs_to, "include_parts": parts}
        expected = {session_id for session_id, row in self.rows.items() if is_asked_for(session_id, row)}
        assert self.store.sessions.count(**asked) == len(expected)
        found: list[str] = []
        cursor = None
        while True:
            page = self.store.sessions.page(limit=limit, cursor=cursor, with_total=True, order_by="created_at", **asked)
            assert page.total == len(expected)
            found += [session.session_id for session in page.sessions]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert len(found) == len(expected)
        assert set(found) == expected

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        living = {session_id for session_id in self.rows if self.lives(session_id)}
        assert {session_id for session_id in IDS if self.store.sessions.exists(session_id)} == living
        assert self.store.sessions.count(include_parts=True) == len(living)
        assert unsound(self.content, self.namespace) == []


@pytest.mark.timeout(3600)
def test_sessions_are_as_a_model_says(database_url: str, content: Content) -> None:
    # One engine for all examples, each of which has a namespace of its own.
    opened = StateStore.open(database_url, durability="normal")
    try:

        class Example(Machine):
            engine = opened._database.engine
            examples = itertools.count()

        Example.content = content
        profile = PROFILES[os.environ.get("STATESTORE_HYPOTHESIS_PROFILE", "ci")]
        run_state_machine_as_test(Example, settings=settings(profile, max_examples=profile.max_examples // 2))
    finally:
        opened.close()
