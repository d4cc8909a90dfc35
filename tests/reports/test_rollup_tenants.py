"""Reports over several namespaces, of which some are summed, some are not, and some have changed since."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from statestore import NewEntry, StateStore, Usage
from tests.reports.test_rollup import agree
from tests.support.clock import MovableClock
from tests.support.content import Content

START = datetime(2026, 3, 7, 12, tzinfo=UTC)
SUMMED = ("acme/0", "acme/1")
NOT_SUMMED = ("acme/2", "acme", "acmf")


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock(START)


@pytest.fixture
def stores(database_url: str, clock: MovableClock) -> Iterator[dict[str, StateStore]]:
    """Each has a session of one id, and calls without one; two of them are summed."""
    with ExitStack() as stack:
        names = (*SUMMED, *NOT_SUMMED)
        found = {
            name: stack.enter_context(StateStore.open(database_url, namespace=name, clock=clock)) for name in names
        }
        for number, store in enumerate(found.values()):
            store.sessions.create("same", user_id="ada")
            store.sessions.create("own", user_id=f"user {number}")
            for session_id in ("same", "own"):
                store.history.append(session_id, [entry(number, clock())])
            store.usage.record(record_id="r", usage=Usage(input_tokens=100 + number), at=clock())
        clock.advance(days=2)
        for name in SUMMED:
            found[name].sweep()
        yield found


def entry(number: int, at: datetime) -> NewEntry:
    cost = Decimal("0.1234567891")
    return NewEntry("x", usage=Usage(input_tokens=number), cost_usd=cost, request_model="m", created_at=at)


def test_sums_are_read_where_there_are_any(stores: dict[str, StateStore], content: Content) -> None:
    asked = stores["acmf"]
    agree(asked, namespaces="acme/*")
    before = asked.usage.totals(namespaces="acme/*")
    assert (before.sessions, before.entries, before.input_tokens) == (6, 6, 2 * (0 + 1 + 2) + 303)
    # Nobody but who reads them sees that they are wrong.
    content.query("UPDATE usage_rollup SET input_tokens = input_tokens + 1000 WHERE kind = 'session' AND part <> ''")
    content.query("UPDATE usage_rollup SET input_tokens = input_tokens + 1000 WHERE kind = 'use' AND part <> ''")
    usage = asked.usage
    assert usage.totals(namespaces="acme/*").input_tokens == before.input_tokens + 4000
    assert usage.totals(namespaces=["acme/2", "acme"]).input_tokens == 2 * (2 + 3) + 102 + 103
    assert [row.input_tokens for row in usage.by_user(namespaces="acme/*", user_id="ada")] == [2003]
    sessions = {(row.namespace, row.session_id): row.input_tokens for row in usage.by_session(namespaces="acme/*")}
    assert (sessions["acme/1", "same"], sessions["acme/2", "same"]) == (1001, 2)
    assert sum(row.input_tokens for row in usage.by_model(namespaces="acme/*", model="m")) == 4006


def test_what_changes_and_what_comes_after_the_sums_counts_too(
    stores: dict[str, StateStore], clock: MovableClock
) -> None:
    asked = stores["acmf"]
    stores["acme/0"].history.append("same", [entry(7, START)])
    stores["acme/1"].sessions.delete("own")
    stores["acme/1"].usage.record(record_id="late", usage=Usage(input_tokens=11), at=START)
    stores["acme/0"].history.append("new", [entry(13, clock())], create=True)
    stores["acme/2"].history.append("new", [entry(17, clock())], create=True)
    assert asked.usage.totals(namespaces="acme/*").input_tokens == 309 + 7 + 11 + 13 + 17
    for name in SUMMED:
        agree(stores[name])
    assert stores["acme/1"].usage.totals().input_tokens == 1 + 101 + 11 + 1
    for filters in ({}, {"user_id": "ada"}, {"session_id": "same", "include_parts": False}, {"model": "m"}):
        agree(asked, namespaces=["acme/*", "acme"], **{k: v for k, v in filters.items() if v})
    for name in SUMMED:
        stores[name].sweep()
    agree(asked, namespaces="*")
