"""Reports of sums that the sweep keeps, and of what is not in them, say the same as sums of all entries."""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import initialize, rule, run_state_machine_as_test
from sqlalchemy import Engine

from statestore import NewEntry, StateStore, Usage
from statestore.repositories.usage import totals
from tests.reports.test_conservation import PROFILES, Ledger
from tests.support.clock import MovableClock
from tests.support.content import Content

BEFORE, AFTER = date(1971, 1, 1), date(9000, 1, 1)
# Days of this zone are those of UTC, but sums are not kept for it.
ETC_UTC = ZoneInfo("Etc/UTC")
VIEWS = {
    "usage_by_day": (),
    "usage_by_user": ("user_id",),
    "usage_by_agent": ("agent_name",),
    "usage_by_model": ("provider_name", "model"),
    "usage_by_tool": ("tool_name",),
}
NUMBERS = ("sessions", "entries", "input_tokens", "content_bytes", "timed_entries")
NOT_SUMMED = ("latency_p50", "latency_p95")
ROUGHLY, BELOW = 1.4143, timedelta(milliseconds=1)


def pairs(store: StateStore, **filters: Any) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Each report by its sums, and by all entries."""
    usage = store.usage
    yield "totals", [usage.totals(**filters)], [usage.totals(since=BEFORE, until=AFTER, **filters)]
    for name in ("by_session", "by_user", "by_agent", "by_model", "by_tool"):
        report = getattr(usage, name)
        yield name, report(**filters), report(since=BEFORE, until=AFTER, tz=ETC_UTC, **filters)
    yield "by_day", usage.by_day(**filters), usage.by_day(tz=ETC_UTC, **filters)
    for name in ("by_user", "by_agent", "by_model", "by_tool"):
        report = getattr(usage, name)
        yield f"{name} daily", report(daily=True, **filters), report(daily=True, tz=ETC_UTC, **filters)


def agree(store: StateStore, **filters: Any) -> None:
    for name, summed, counted in pairs(store, **filters):
        for ours, theirs in zip(summed, counted, strict=True):
            for field in ours.__dataclass_fields__:
                one, other = getattr(ours, field), getattr(theirs, field)
                # Sums of days have the percentiles of their entries, others those of histograms.
                if field not in NOT_SUMMED or "da" in name or other is None:
                    assert one == other, (name, field)
                else:
                    assert other / ROUGHLY - BELOW <= one <= other * ROUGHLY + BELOW, (name, field)


class Rolling(Ledger):
    """Everything that a store can do with what was used; time goes on by hours, and sweeps come at any time."""

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.clock.now = datetime(2026, 3, 7, 12, tzinfo=UTC)

    @rule(minutes=st.sampled_from([7, 20, 300, 1500]))
    def later(self, minutes: int) -> None:
        self.clock.advance(minutes=minutes)

    @rule()
    def roll(self) -> None:
        self.store.sweep()

    @rule()
    def compare(self) -> None:
        super().nothing_is_lost_or_counted_twice()
        agree(self.store)
        agree(self.store, user_id="ada")
        agree(self.store, session_id="a", tool_name="search")
        agree(self.store, namespaces=self.namespace)
        self.views_agree()

    def views_agree(self) -> None:
        """The views of days, against the same sums of `usage_lines`."""
        for view, keys in VIEWS.items():
            listed = ", ".join(("day", *keys))
            shown = self.content.query(
                f"SELECT {listed}, sessions, entries, input_tokens, content_bytes, timed_entries FROM {view}"
                " WHERE namespace = :namespace",
                namespace=self.namespace,
            )
            counted = self.content.query(
                f"SELECT {listed}, count(DISTINCT session_id) AS sessions, sum(entries) AS entries,"
                " sum(input_tokens) AS input_tokens, sum(content_bytes) AS content_bytes,"
                " count(latency_ms) AS timed_entries"
                f" FROM usage_lines WHERE namespace = :namespace GROUP BY {listed}",
                namespace=self.namespace,
            )
            assert sorted(map(repr, map(dict, shown))) == sorted(
                repr({name: int(value) if name in NUMBERS else value for name, value in row.items()}) for row in counted
            )

    # Too slow to be asked after each step.
    def nothing_is_lost_or_counted_twice(self) -> None: ...

    def teardown(self) -> None:
        self.compare()


PROFILES_HERE = {
    "ci": settings(PROFILES["ci"], max_examples=5, stateful_step_count=40),
    "long": settings(PROFILES["long"], max_examples=300),
}


@pytest.mark.timeout(3600)
def test_sums_are_those_of_the_entries_whatever_happens(database_url: str, content: Content) -> None:
    with StateStore.open(database_url, durability="normal") as opened:

        class Machine(Rolling):
            engine: Engine = opened._database.engine

        Machine.content = content
        profile = PROFILES_HERE[os.environ.get("STATESTORE_HYPOTHESIS_PROFILE", "ci")]
        run_state_machine_as_test(Machine, settings=profile)


def test_sweeps_of_all_namespaces_sum_what_sessions_have_left_behind(database_url: str, content: Content) -> None:
    clock = MovableClock(datetime(2026, 3, 7, 12, tzinfo=UTC))
    with (
        StateStore.open(database_url, clock=clock, namespace="tenant") as tenant,
        StateStore.open(database_url, clock=clock, namespace="operator") as operator,
    ):
        tenant.history.append("s", [NewEntry("x", created_at=clock())], create=True)
        clock.advance(days=2)
        operator.sweep(all_namespaces=True)
        tenant.sessions.delete("s")
        assert content.query("SELECT * FROM usage_rollup_changes")
        operator.sweep(all_namespaces=True)
        assert content.query("SELECT * FROM usage_rollup_changes") == []
        agree(tenant)
        assert tenant.usage.totals().entries == 1


def test_reports_of_all_times_read_totals(database_url: str, content: Content) -> None:
    clock = MovableClock(datetime(2026, 3, 7, 12, tzinfo=UTC))
    with StateStore.open(database_url, clock=clock) as store:
        store.sessions.create("a", user_id="ada")
        store.history.append("a", [NewEntry("x", usage=Usage(input_tokens=1), response_model="m", created_at=clock())])
        clock.advance(days=2)
        store.sweep()
        usage = store.usage
        reports = [usage.by_user, usage.by_agent, usage.by_model, usage.by_tool]
        for kind in totals.BY:
            content.query("UPDATE usage_rollup SET input_tokens = input_tokens + 10 WHERE kind = :kind", kind=kind)
        assert usage.totals().input_tokens == 11
        assert [report()[0].input_tokens for report in reports] == [11] * 4
        # What has changed since is taken away from them, all of it.
        store.history.append("a", [NewEntry("y", usage=Usage(input_tokens=1), created_at=clock() - timedelta(days=2))])
        assert usage.totals().input_tokens == 12
        assert usage.totals(user_id="ada").input_tokens == 2


def test_who_is_erased_is_in_no_total(database_url: str, content: Content) -> None:
    clock = MovableClock(datetime(2026, 3, 7, 12, tzinfo=UTC))
    with StateStore.open(database_url, clock=clock) as store:
        for user in ("ada", "bob"):
            store.sessions.create(user, user_id=user)
            store.history.append(user, [NewEntry("x", usage=Usage(input_tokens=1), created_at=clock())])
        clock.advance(days=2)
        store.sweep()
        assert len(content.query("SELECT * FROM usage_rollup WHERE kind = 'of_user'")) == 2
        store.sessions.delete_user("ada")
        clock.advance(days=2)
        store.sweep()
        agree(store)
        assert content.query("SELECT * FROM usage_rollup WHERE user_id = 'ada'") == []
        assert len(content.query("SELECT * FROM usage_rollup WHERE kind = 'of_user'")) == 2


def test_a_cost_that_is_gone_is_unknown_again(database_url: str) -> None:
    clock = MovableClock(datetime(2026, 3, 7, 12, tzinfo=UTC))
    with StateStore.open(database_url, clock=clock) as store:
        for session in ("a", "b"):
            store.history.append(session, [NewEntry("x", response_model="m", created_at=clock())], create=True)
        store.history.set_usage("a", 1, Usage(input_tokens=1), cost_usd=Decimal("0.1"))
        clock.advance(days=2)
        store.sweep()
        assert store.usage.totals().cost_usd == Decimal("0.1")
        store.history.set_usage("a", 1, Usage(input_tokens=1), cost_usd=None)
        for _ in range(2):
            assert store.usage.totals().cost_usd is None
            store.sweep()
