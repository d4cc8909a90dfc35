"""Whatever is deleted, in any order, the reports go on saying what was used.

`STATESTORE_HYPOTHESIS_PROFILE=long` tries far more.
"""

import contextlib
import itertools
import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine

from statestore import ConflictError, Entry, NewEntry, SessionExistsError, SessionNotFoundError, StateStore, Usage
from statestore.repositories.history.entry_edits import TAKEN_OUT
from statestore.values.reported_usage import MAX_TOKENS
from tests.reports.ledger_model import Expected, of_row, total
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound

common: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
    "database": None,
}
PROFILES = {
    "ci": settings(max_examples=15, stateful_step_count=40, phases=[Phase.generate], **common),
    "long": settings(max_examples=1500, stateful_step_count=70, **common),
}

SESSIONS = st.sampled_from(["a", "b", "c", "d"])
USERS = st.sampled_from(["ada", "bob", None])
TIMES = st.datetimes(datetime(2026, 3, 7), datetime(2026, 3, 10), timezones=st.just(UTC))
TOKENS = st.none() | st.integers(0, MAX_TOKENS)
ENTRIES = st.builds(
    NewEntry,
    st.integers(0, 1000),
    role=st.sampled_from(["user", "assistant", "tool", None]),
    agent_name=st.sampled_from([None, "planner"]),
    usage=st.builds(
        Usage,
        input_tokens=TOKENS,
        output_tokens=TOKENS,
        cache_read_input_tokens=TOKENS,
        cache_write_input_tokens=TOKENS,
        reasoning_output_tokens=TOKENS,
    ),
    response_model=st.sampled_from([None, "large", "small"]),
    request_model=st.sampled_from([None, "small"]),
    cost_usd=st.none() | st.decimals(0, 10_000, places=10),
    tool_name=st.sampled_from([None, "search"]),
    tool_call_id=st.sampled_from([None, "call"]),
    duration=st.none() | st.timedeltas(timedelta(0), timedelta(hours=2)),
    error_type=st.sampled_from([None, "timeout"]),
    created_at=TIMES,
)
EDITS = st.sampled_from(["replace", "set_usage", "annotate"])
BATCHES = st.lists(ENTRIES, min_size=1, max_size=6)


# What the ledger keeps sums of, or tells apart, but for the size of the content: an edit that changes nothing else of
# an entry that is counted already leaves its line there.
FIGURES = (
    *("role", "agent_name", "usage", "provider_name", "request_model", "response_model", "cost_usd", "tool_name"),
    *("tool_call_id", "duration", "error_type", "created_at"),
)


def reports_usage(entry: Entry) -> bool:
    return entry.usage != Usage() or entry.cost_usd is not None


def without_empty(rows: dict[Any, Any]) -> dict[Any, Any]:
    return {name: row for name, row in rows.items() if row != total([])}


class Ledger(RuleBasedStateMachine):
    """A namespace of its own for each example, so that the database serves them all."""

    engine: Engine
    content: Content
    numbers = itertools.count()

    @initialize()
    def begin(self) -> None:
        self.clock = MovableClock()
        self.namespace = f"example-{next(self.numbers)}"
        self.store = StateStore(self.engine, namespace=self.namespace, clock=self.clock, durability="normal")
        self.expected = Expected()

    @rule(session=SESSIONS, user=USERS, agent=st.sampled_from([None, "chat"]), ttl=st.sampled_from([None, 10, 100]))
    def create(self, session: str, user: str | None, agent: str | None, ttl: int | None) -> None:
        with contextlib.suppress(SessionExistsError):
            self.store.sessions.create(
                session, user_id=user, agent_name=agent, ttl=None if ttl is None else timedelta(seconds=ttl)
            )

    @rule(session=SESSIONS, entries=BATCHES)
    def append(self, session: str, entries: list[NewEntry]) -> None:
        self.expected.add(self.store.history.append(session, entries, create=True))

    @rule(
        session=st.none() | SESSIONS,
        user=USERS,
        model=st.sampled_from([None, "gpt-4o"]),
        tokens=st.none() | st.integers(0, 10**6),
        cost=st.none() | st.just(Decimal("0.1")),
    )
    def record(
        self, session: str | None, user: str | None, model: str | None, tokens: int | None, cost: Decimal | None
    ) -> None:
        usage = Usage(input_tokens=tokens)
        call = {"record_id": f"call-{next(self.numbers)}", "session_id": session, "user_id": user, "cost_usd": cost}
        for _ in range(2):  # The second does nothing.
            self.store.usage.record(**call, usage=usage, model=model, duration=timedelta(seconds=1), at=self.clock())
        self.expected.add_call(self.clock().date(), model, usage, cost, timedelta(seconds=1))

    @rule(source=SESSIONS, other=SESSIONS, share=st.integers(0, 8))
    def fork(self, source: str, other: str, share: int) -> None:
        if source == other:
            return
        self.store.sessions.delete(other)  # Makes room, and hands over what forks of it see.
        try:
            held = self.store.sessions.get(source)
            self.store.sessions.fork(source, other, at_seq=min(share + held.first_seq - 1, held.next_seq - 1))
        except (SessionNotFoundError, ConflictError):  # The other may be what the source comes from.
            pass

    @rule(source=SESSIONS, heir=SESSIONS, keep=st.integers(0, 3))
    def hand_over(self, source: str, heir: str, keep: int) -> None:
        self.fork(source, heir, 8)
        if source != heir:
            self.store.sessions.delete(source)
            self.let_go(heir, "trim", keep)

    @rule(session=SESSIONS, user=USERS)
    def give_away(self, session: str, user: str | None) -> None:
        with contextlib.suppress(SessionNotFoundError):
            self.store.sessions.update(session, user_id=user)

    @rule(session=SESSIONS, how=st.sampled_from(["trim", "pop", "clear", "delete"]), n=st.integers(0, 4))
    def let_go(self, session: str, how: str, n: int) -> None:
        history = self.store.history
        try:
            if how == "trim":
                history.trim(session, keep_last=n)
            elif how == "pop":
                history.pop_last(session, n)
            elif how == "clear":
                history.clear(session)
            else:
                self.store.sessions.delete(session)
        except SessionNotFoundError:
            pass

    @rule(
        session=SESSIONS,
        place=st.integers(0, 9),
        how=st.sampled_from(["replace", "set_usage", "annotate"]),
        new=ENTRIES,
    )
    def edit(self, session: str, place: int, how: str, new: NewEntry) -> None:
        history = self.store.history
        try:
            entries = history.read(session)
        except SessionNotFoundError:
            return
        if not entries:
            return
        before = entries[place % len(entries)]
        counted, owns, taken_out = self.is_counted(before)
        if how == "replace":
            after = history.replace(session, before.seq, new, expected_content=before.content)
        elif how == "annotate":
            after = history.annotate(session, before.seq, {"n": place})
        else:
            after = history.set_usage(
                session,
                before.seq,
                new.usage,
                response_model=new.response_model,
                cost_usd=new.cost_usd,
                duration=new.duration,
                error_type=new.error_type,
            )
        entries[place % len(entries)] = after
        assert [(entry.entry_id, entry.content) for entry in history.read(session)] == [
            (entry.entry_id, entry.content) for entry in entries
        ]
        same = all(getattr(before, name) == getattr(after, name) for name in FIGURES)
        silent = not owns and reports_usage(before) and not reports_usage(after)
        if taken_out:
            if not silent and (before.usage, before.cost_usd) != (after.usage, after.cost_usd):
                self.expected.add([after])
        elif not counted or not (same or silent):
            self.expected.exchange(before, after)

    def is_counted(self, entry: Entry) -> tuple[bool, bool, bool]:
        """What is to be known of an entry's usage.

        Whether it is in the ledger, or gets there as its row is copied; whether the row is the session's own; whether
        it was taken out of the ledger again, because another session says something else of the entry.
        """
        place = {"namespace": self.namespace, "session_id": entry.session_id, "seq": entry.seq}
        own = self.content.query(
            "SELECT usage_folded FROM history_entries"
            " WHERE namespace = :namespace AND session_id = :session_id AND seq = :seq",
            **place,
        )
        others = self.content.query(
            "SELECT h.usage_folded FROM session_segments AS g JOIN history_entries AS h ON h.namespace = g.namespace"
            " AND h.session_id = g.owner_session_id AND h.seq = :seq WHERE g.namespace = :namespace"
            " AND g.session_id = :session_id AND g.from_seq <= :seq AND g.to_seq >= :seq",
            **place,
        )
        seen = self.content.query(
            "SELECT 1 FROM session_segments WHERE namespace = :namespace AND owner_session_id = :session_id"
            " AND from_seq <= :seq AND to_seq >= :seq",
            **place,
        )
        copies = self.content.query(
            "SELECT usage_folded FROM history_entries WHERE namespace = :namespace AND session_id <> :session_id"
            " AND entry_id = :entry_id AND usage_folded < 2",
            **place,
            entry_id=entry.entry_id,
        )
        [row] = own or others
        forked_at = self.store.sessions.get(entry.session_id).forked_at_seq or 0
        owns = bool(own) and not (row["usage_folded"] == 1 and entry.seq <= forked_at and copies)
        return bool(not own or row["usage_folded"] or seen), owns, row["usage_folded"] == TAKEN_OUT

    @rule(user=st.sampled_from(["ada", "bob"]))
    def erase(self, user: str) -> None:
        self.store.sessions.delete_user(user)
        assert not [row for row in self.store.usage.by_user() if row.user_id == user]
        assert not [row for row in self.store.usage.by_session() if row.user_id == user]

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    @rule(batch=st.integers(1, 5))
    def sweep(self, batch: int) -> None:
        due = self.store.sweep(dry_run=True)
        done = self.store.sweep(batch_size=batch)
        assert done.kinds == due.kinds
        assert done.complete
        assert self.store.sweep(dry_run=True).rows == 0

    @rule(seconds=st.integers(30, 90))
    def sweep_idle(self, seconds: int) -> None:
        self.store.cleanup_inactive(timedelta(seconds=seconds))

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        usage = self.store.usage
        everything = total(self.expected.everything)
        assert of_row(usage.totals()) == everything
        by_day = {day: total(lines) for day, lines in self.expected.by_day.items()}
        assert without_empty({row.day: of_row(row) for row in usage.by_day()}) == without_empty(by_day)
        by_model: dict[Any, Any] = {name: total(lines) for name, lines in self.expected.by_model.items()}
        assert without_empty({row.model: of_row(row) for row in usage.by_model()}) == without_empty(by_model)
        by_tool: dict[Any, Any] = {name: total(lines) for name, lines in self.expected.by_tool.items()}
        assert without_empty({row.tool_name: of_row(row) for row in usage.by_tool()}) == without_empty(by_tool)
        for rows in (usage.by_session(), usage.by_user(), usage.by_agent(), usage.by_hour(tz="Asia/Kolkata")):
            assert total(of_row(row) for row in rows) == everything
        one_day = usage.totals(since=date(2026, 3, 8), until=date(2026, 3, 9))
        assert of_row(one_day) == by_day.get(date(2026, 3, 8), total([]))

    @invariant()
    def the_tables_are_sound(self) -> None:
        assert unsound(self.content, self.namespace) == []


@pytest.mark.timeout(3600)
def test_reports_do_not_change_whatever_is_deleted(database_url: str, content: Content) -> None:
    with StateStore.open(database_url, durability="normal") as opened:

        class Machine(Ledger):
            engine = opened._database.engine

        Machine.content = content
        profile = PROFILES[os.environ.get("STATESTORE_HYPOTHESIS_PROFILE", "ci")]
        run_state_machine_as_test(Machine, settings=profile)


def test_the_sum_of_costs_is_exact_where_floats_would_not_be(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        store.sessions.create("s")
        costs = [Decimal(n) / 10**10 + Decimal("0.1") for n in range(1, 2001)]
        store.history.append("s", [NewEntry(n, cost_usd=cost) for n, cost in enumerate(costs)])
        assert store.usage.totals().cost_usd == sum(costs)
        store.history.trim("s", keep_last=777)
        store.history.trim("s", keep_last=3)
        assert store.usage.totals().cost_usd == sum(costs)
