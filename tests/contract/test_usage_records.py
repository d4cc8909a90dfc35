"""`usage.record`: calls of models and tools that are no entries of a history."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from statestore import ConflictError, InvalidValueError, NewEntry, Usage
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once

Store = Any

CALL: dict[str, Any] = {
    "record_id": "run-1",
    "usage": Usage(input_tokens=1000, output_tokens=50, cache_read_input_tokens=300, reasoning_output_tokens=20),
    "user_id": "ada",
    "session_id": "s",
    "agent_name": "planner",
    "provider_name": "openai",
    "model": "gpt-4o",
    "cost_usd": Decimal("0.25"),
    "duration": timedelta(milliseconds=1500),
    "at": datetime(2026, 1, 5, 12, tzinfo=UTC),
}


def test_a_recorded_call_is_in_all_reports(store: Store) -> None:
    store.usage.record(**CALL)
    store.usage.record(
        record_id="tool-1", usage=Usage(), tool_name="search", duration=timedelta(seconds=3), error_type="timeout"
    )
    total = store.usage.totals()
    assert (total.entries, total.turns, total.content_bytes) == (0, 0, 0)
    assert (total.model_calls, total.tool_calls, total.errors, total.unpriced_calls) == (1, 1, 1, 0)
    assert (total.input_tokens, total.output_tokens) == (1000, 50)
    assert (total.cache_read_input_tokens, total.cache_write_input_tokens) == (300, 0)
    assert (total.reasoning_output_tokens, total.cost_usd) == (20, Decimal("0.25"))
    assert (total.duration, total.timed_entries) == (timedelta(seconds=4.5), 2)
    assert total.latency_p50 == timedelta(seconds=2.25)
    assert total.sessions == 1
    assert {row.session_id: row.sessions for row in store.usage.by_session()} == {"s": 1, None: 0}
    assert {row.user_id: row.model_calls for row in store.usage.by_user()} == {"ada": 1, None: 0}
    assert {row.agent_name: row.model_calls for row in store.usage.by_agent()} == {"planner": 1, None: 0}
    assert {row.model: row.input_tokens for row in store.usage.by_model()} == {"gpt-4o": 1000, None: 0}
    assert {row.tool_name: row.tool_calls for row in store.usage.by_tool()} == {"search": 1, None: 0}
    assert store.usage.by_day(tz="Pacific/Auckland", user_id="ada")[0].day == datetime(2026, 1, 6).date()
    assert store.usage.by_hour(user_id="ada")[0].hour == 12
    assert store.usage.totals(session_id="s").input_tokens == 1000


def test_totals_are_the_sums_of_entries_and_calls(store: Store) -> None:
    store.sessions.create("s", user_id="ada")
    store.history.append("s", [NewEntry("a", usage=Usage(input_tokens=7, output_tokens=3), cost_usd=Decimal("1.5"))])
    store.usage.record(**CALL)
    store.usage.record(**{**CALL, "record_id": "run-2", "session_id": None, "cost_usd": None, "model": None})
    total = store.usage.totals()
    assert (total.entries, total.model_calls, total.input_tokens) == (1, 3, 2007)
    assert (total.cost_usd, total.unpriced_calls) == (Decimal("1.75"), 1)
    for report in ("by_day", "by_session", "by_user", "by_agent", "by_model", "by_tool", "by_hour"):
        rows = getattr(store.usage, report)()
        assert sum(row.input_tokens for row in rows) == 2007, report
        assert sum(row.entries for row in rows) == 1, report
        assert sum(row.cost_usd or 0 for row in rows) == Decimal("1.75"), report


def test_the_same_call_again_does_nothing(store: Store, content: Content) -> None:
    store.usage.record(**CALL)
    before = content.rows("usage_records")
    store.usage.record(**CALL)
    with store.transaction() as tx:
        tx.usage.record(**CALL)
    # What was filled in, or may have been, need not be given again.
    store.usage.record(**{name: value for name, value in CALL.items() if name not in ("user_id", "cost_usd", "at")})
    assert content.rows("usage_records") == before


@pytest.mark.parametrize(
    "other",
    [
        {"usage": Usage(input_tokens=1000, output_tokens=51)},
        {"user_id": "eve"},
        {"session_id": None},
        {"agent_name": "coder"},
        {"provider_name": None},
        {"model": "gpt-5"},
        {"tool_name": "search"},
        {"cost_usd": 1},
        {"duration": None},
        {"error_type": "timeout"},
        {"at": datetime(2026, 1, 5, 13, tzinfo=UTC)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_the_same_id_with_other_figures_is_a_conflict(store: Store, content: Content, other: dict[str, Any]) -> None:
    store.usage.record(**CALL)
    before = content.rows("usage_records")
    for work in (lambda: store.usage.record(**{**CALL, **other}), lambda: in_transaction(store, {**CALL, **other})):
        with pytest.raises(ConflictError, match="'run-1'") as caught:
            work()
        assert caught.value.field == ("output_tokens" if "usage" in other else next(iter(other)))
    assert content.rows("usage_records") == before


def in_transaction(store: Store, call: dict[str, Any]) -> None:
    with store.transaction() as tx:
        tx.usage.record(**call)


def test_user_and_agent_are_those_of_a_session_that_lives(
    open_store: Callable[..., Store], clock: MovableClock, content: Content
) -> None:
    store = open_store(clock=clock)
    store.sessions.create("s", user_id="ada", agent_name="planner")
    store.sessions.create("over", user_id="eve", ttl=timedelta(minutes=1))
    clock.advance(minutes=2)
    calls = {"a": {"session_id": "s"}, "b": {"session_id": "s", "user_id": "bob", "agent_name": "critic"}}
    calls |= {"c": {"session_id": "over"}, "d": {"session_id": "missing"}, "e": {}}
    for record_id, call in calls.items():
        store.usage.record(record_id=record_id, usage=Usage(input_tokens=1), **call)
    found = {row["record_id"]: (row["user_id"], row["agent_name"]) for row in content.rows("usage_records")}
    assert found.pop("a") == ("ada", "planner")
    assert found.pop("b") == ("bob", "critic")
    assert set(found.values()) == {(None, None)}
    assert store.usage.totals().sessions == 3
    assert store.sessions.get("s").last_activity_at < clock()


def test_the_cost_is_computed_as_for_entries(store: Store) -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000, cache_read_input_tokens=500_000)
    call = {"provider_name": "openai", "usage": usage}
    store.prices.set("gpt-4o", input_price=2, output_price=10, cache_read_price=1)
    store.prices.set("gpt-4o", input_price=1, output_price=1, valid_from=datetime(2030, 1, 1).date())
    store.usage.record(record_id="known", model="gpt-4o-2024-08-06", **call)
    store.usage.record(record_id="known again", model="gpt-4o", **call)
    store.usage.record(record_id="later", model="gpt-4o", at=datetime(2030, 5, 1, tzinfo=UTC), **call)
    store.usage.record(record_id="free", model="gpt-4o", cost_usd=0, **call)
    store.usage.record(record_id="unknown", model="other", **call)
    store.history.append("s", [NewEntry("x", response_model="gpt-4o", **call)], create=True)
    [entry] = store.history.read("s")
    costs = {row.model: row.cost_usd for row in store.usage.by_model()}
    assert entry.cost_usd == Decimal("11.5")
    assert costs["gpt-4o"] == entry.cost_usd * 2 + 2
    assert costs["other"] is None
    # Prices that change later do not make the same call another one.
    store.prices.set("gpt-4o", input_price=3, output_price=10)
    store.usage.record(record_id="known again", model="gpt-4o", **call)


def test_usage_outlives_its_session(store: Store) -> None:
    store.sessions.create("s", user_id="ada")
    store.usage.record(**CALL)
    store.sessions.delete("s")
    assert [row.session_id for row in store.usage.by_session(user_id="ada")] == ["s"]


def test_an_erased_user_is_taken_out_of_the_records(store: Store, content: Content) -> None:
    store.sessions.create("of Ada L.", user_id="Ada L.")
    store.history.append("of Ada L.", [NewEntry("x", usage=Usage(input_tokens=1, output_tokens=1))])
    store.sessions.create("of bob", user_id="bob")
    one = {"usage": Usage(input_tokens=10, output_tokens=10)}
    store.usage.record(record_id="in her session", session_id="of Ada L.", **one)
    store.usage.record(record_id="in her session, too", session_id="of Ada L.", **one)
    store.usage.record(record_id="his in her session", session_id="of Ada L.", user_id="bob", **one)
    store.usage.record(record_id="in his session", session_id="of bob", user_id="Ada L.", **one)
    store.usage.record(record_id="gone", session_id="gone", user_id="Ada L.", **one)
    store.usage.record(record_id="without", user_id="Ada L.", **one)
    store.usage.record(record_id="his", session_id="of bob", **one)
    before = store.usage.totals()
    store.sessions.delete_user("Ada L.")
    after = store.usage.totals()
    assert (after.input_tokens, after.model_calls) == (before.input_tokens, before.model_calls) == (71, 8)
    assert store.usage.totals(user_id="Ada L.").model_calls == 0
    records = content.rows("usage_records")
    assert "Ada L." not in str(records)
    assert "her session" not in str([row for row in records if row["user_id"] is None])
    assert {row["record_id"] for row in records if row["user_id"] == "bob"} == {"his in her session", "his"}
    erased = {row["session_id"] for row in content.rows("usage_ledger")}
    assert len(erased) == 1
    # Her session is still one session: three of its calls and its entry have one id.
    assert [row["session_id"] in erased for row in records].count(True) == 3
    assert {row["session_id"] for row in records if row["record_id"] == "his"} == {"of bob"}
    assert not any(row["session_id"] in ("of Ada L.", "gone") for row in records)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("record_id", ""),
        ("record_id", 7),
        ("record_id", "a\0b"),
        ("usage", None),
        ("usage", 5),
        ("usage.input_tokens", Usage(input_tokens=-1)),
        ("usage.output_tokens", Usage(output_tokens=10**9 + 1)),
        ("user_id", ""),
        ("session_id", "x" * 513),
        ("agent_name", 1),
        ("provider_name", "\ud800"),
        ("model", ""),
        ("tool_name", b"x"),
        ("cost_usd", -1),
        ("cost_usd", "1"),
        ("duration", 1.5),
        ("error_type", ""),
        ("at", datetime(2026, 1, 1)),
    ],
)
def test_a_bad_argument_is_named_and_nothing_is_written(
    store: Store, content: Content, argument: str, value: Any
) -> None:
    with pytest.raises(InvalidValueError) as caught:
        store.usage.record(**{**CALL, argument.partition(".")[0]: value})
    assert caught.value.argument == argument
    assert content.rows("usage_records") == []


def test_records_of_another_namespace_are_not_seen(open_store: Callable[..., Store], content: Content) -> None:
    ours, theirs = open_store(namespace="ours"), open_store(namespace="theirs")
    ours.sessions.create("s", user_id="ada")
    theirs.usage.record(record_id="r", usage=Usage(input_tokens=1), session_id="s")
    assert ours.usage.totals().model_calls == 0
    ours.usage.record(record_id="r", usage=Usage(input_tokens=2), session_id="s")
    ours.sessions.delete_user("ada")
    assert [row["user_id"] for row in content.rows("usage_records", namespace="theirs")] == [None]
    assert theirs.usage.totals().input_tokens == 1
    assert [row["record_id"] for row in content.rows("usage_records", namespace="theirs")] == ["r"]


def test_what_is_rolled_back_was_not_recorded(store: Store) -> None:
    def fail(tx: Store) -> None:
        tx.usage.record(**CALL)
        assert tx.usage.totals().model_calls == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        fail(tx)
    assert store.usage.totals().model_calls == 0


@pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
def test_a_call_that_several_record_at_once_counts_once(store: Store) -> None:
    for round_ in range(10):
        call = {**CALL, "record_id": f"run-{round_}"}
        at_once(*[lambda call=call: store.usage.record(**call)] * 4)
    assert store.usage.totals().model_calls == 10


@pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
def test_of_several_calls_under_one_id_one_is_recorded(store: Store) -> None:
    for round_ in range(10):

        def record(tokens: int, record_id: str = f"run-{round_}") -> int:
            try:
                store.usage.record(record_id=record_id, usage=Usage(input_tokens=tokens))
            except ConflictError:
                return 0
            return tokens

        done = at_once(*[lambda n=n: record(n) for n in (1, 2, 3)])
        assert sorted(done)[:2] == [0, 0]
        assert sum(done) in (1, 2, 3)


def test_recorded_calls_without_a_cost_can_be_priced_later(store: Store, clock: MovableClock) -> None:
    used = Usage(input_tokens=1000, output_tokens=0)
    store.sessions.create("s")
    store.history.append("s", [NewEntry("x", usage=used, response_model="m") for _ in range(3)])
    for number in range(4):
        store.usage.record(record_id=f"{number}", usage=used, model="m" if number % 2 else "unknown")
    store.usage.record(record_id="old", usage=used, model="m", at=clock() - timedelta(days=2))
    store.usage.record(record_id="no tokens", usage=Usage(), model="m")
    store.prices.set("m", input_price=1, output_price=0)
    store.prices.set("m", input_price=5, output_price=0, valid_from=clock().date())
    looked, priced, after = 0, 0, ("", 0)
    while after is not None:
        part, done, after = store.prices.apply(2, after)
        assert part <= 2
        looked, priced = looked + part, priced + done
    assert (looked, priced) == (8, 6)
    totals = store.usage.totals()
    assert (totals.cost_usd, totals.unpriced_calls) == (Decimal("0.026"), 2)
    assert store.prices.apply(100) == (2, 0, None)
