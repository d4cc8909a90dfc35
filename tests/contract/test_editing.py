"""Entries that change after they were appended: replaced, annotated, and told what they used."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from statestore import ConflictError, EntryNotFoundError, InvalidValueError, NewEntry, SessionNotFoundError, Usage
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content, unsound
from tests.support.crowd import at_once

Store = Any
HOUR = timedelta(hours=1)
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def used(n: int) -> Usage:
    return Usage(input_tokens=n, output_tokens=n)


def session(store: Store, session_id: str = "s", n: int = 4, **attributes: Any) -> None:
    """User and assistant take turns; the assistant's entries use 100 tokens each."""
    store.sessions.create(session_id, **attributes)
    store.history.append(
        session_id,
        [
            NewEntry(f"{role} {index}", role=role, entry_id=f"e{index}", usage=used(100) if index % 2 == 0 else None)
            for index in range(1, n + 1)
            for role in ["assistant" if index % 2 == 0 else "user"]
        ],
    )


def total(store: Store) -> int:
    return int(store.usage.totals().input_tokens)


def contents(store: Store, session_id: str) -> list[Any]:
    return list(store.history.messages(session_id))


def sharing(store: Store) -> None:
    """`fork` shares all of `s`; `deep` all of `fork`, which has two of its own."""
    session(store)
    store.sessions.fork("s", "fork")
    store.history.append("fork", [NewEntry("own 5", role="user"), NewEntry("own 6", usage=used(100))])
    store.sessions.fork("fork", "deep")


def test_another_entry_takes_the_place_of_one(store: Store) -> None:
    session(store)
    before = store.history.get("s", 2)
    replaced = store.history.replace("s", 2, {"role": "assistant", "content": "[redacted]"})
    assert replaced == store.history.get("s", 2)
    assert replaced.content == {"role": "assistant", "content": "[redacted]"}
    assert (replaced.entry_id, replaced.created_at, replaced.turn) == ("e2", before.created_at, before.turn)
    assert replaced.usage == Usage()
    assert total(store) == 100
    assert contents(store, "s") == ["user 1", replaced.content, "user 3", "assistant 4"]


def test_all_that_stands_beside_the_content_is_replaced(store: Store) -> None:
    session(store)
    entry = NewEntry(
        {"n": [1, None]},
        role="assistant",
        agent_name="a",
        usage=Usage(input_tokens=7, output_tokens=3, cache_read_input_tokens=2),
        provider_name="p",
        request_model="m",
        response_model="m-1",
        cost_usd=Decimal("0.25"),
        tool_name="t",
        tool_call_id="c",
        duration=timedelta(milliseconds=1.5),
        finish_reason="stop",
        error_type="E",
        metadata={"b": 1, "a": 2},
        entry_id="e2",
        created_at=DAY,
    )
    replaced = store.history.replace("s", 2, entry)
    for name in ("content", "agent_name", "usage", "cost_usd", "tool_name", "duration", "error_type", "created_at"):
        assert getattr(replaced, name) == getattr(entry, name), name
    assert list(replaced.metadata) == ["b", "a"]
    assert replaced == store.history.get("s", 2)
    bare = store.history.replace("s", 2, NewEntry("x", role="assistant"))
    assert (bare.usage, bare.cost_usd, bare.metadata, bare.created_at) == (Usage(), None, {}, DAY)


def test_an_entry_is_replaced_only_if_it_has_the_content_expected(store: Store) -> None:
    session(store)
    with pytest.raises(ConflictError) as caught:
        store.history.replace("s", 2, NewEntry("x", role="assistant"), expected_content="something else")
    assert (caught.value.entry_id, caught.value.field, caught.value.actual) == ("e2", "content", 2)
    assert "assistant 2" not in str(caught.value)
    assert contents(store, "s")[1] == "assistant 2"
    store.history.replace("s", 2, NewEntry(None, role="assistant"), expected_content="assistant 2")
    with pytest.raises(ConflictError):
        store.history.replace("s", 2, NewEntry("x"), expected_content=False)
    store.history.replace("s", 2, NewEntry("x", role="assistant"), expected_content=None)
    assert contents(store, "s")[1] == "x"


def test_the_content_expected_may_be_what_few_programs_can_read(store: Store) -> None:
    store.sessions.create("s")
    contents = [{"role": "user", "content": "\ud800"}, {"role": "user", "content": 10**30}]
    store.history.append("s", contents)
    for seq, content in enumerate(contents, 1):
        with pytest.raises(ConflictError):
            store.history.replace("s", seq, {"role": "user", "content": "x"}, expected_content={"other": 10**30})
        store.history.replace("s", seq, {"role": "system", "content": "x"}, expected_content=content)


def test_a_lenient_store_annotates_the_keys_that_it_has_converted(open_store: Callable[..., Store]) -> None:
    lenient = open_store(json="lenient")
    session(lenient)
    lenient.history.annotate("s", 2, {5: (1, 2)})
    assert lenient.history.annotate("s", 2, {5: (3,), "a": NOON}).metadata == {"5": [3], "a": NOON.isoformat()}


def test_a_new_id_is_taken_unless_another_entry_has_it(store: Store) -> None:
    session(store)
    assert store.history.replace("s", 2, NewEntry("x", role="assistant", entry_id="new")).entry_id == "new"
    with pytest.raises(ConflictError) as caught:
        store.history.replace("s", 2, NewEntry("y", role="assistant", entry_id="e3"))
    assert (caught.value.entry_id, caught.value.actual) == ("e3", 3)
    assert contents(store, "s")[1] == "x"
    assert store.history.find("s", "e2") is None


@pytest.mark.parametrize("shared", [False, True])
def test_an_entry_that_no_longer_begins_a_turn_moves_the_turns_behind_it(
    store: Store, content: Content, shared: bool
) -> None:
    session(store)
    if shared:
        store.sessions.fork("s", "fork")
    store.history.replace("s", 3, NewEntry("x", role="system"))
    assert [entry.turn for entry in store.history.read("s")] == [1, 1, 1, 1]
    store.history.append("s", [NewEntry("y", role="user")])
    store.history.replace("s", 2, NewEntry("z", role="user"))
    assert [entry.turn for entry in store.history.read("s")] == [1, 2, 2, 2, 3]
    assert [entry.turn for entry in store.history.append("s", [NewEntry("y", role="user")])] == [4]
    if shared:
        assert [entry.turn for entry in store.history.read("fork")] == [1, 1, 2, 2]
        assert contents(store, "fork") == ["user 1", "assistant 2", "user 3", "assistant 4"]
    assert total(store) == 100
    assert unsound(content) == []


def test_an_annotation_sets_some_keys_and_keeps_the_others(store: Store) -> None:
    session(store)
    assert store.history.annotate("s", 2, {"b": 1, "a": None}).metadata == {"b": 1, "a": None}
    annotated = store.history.annotate("s", 2, {"c": [2], "b": 3})
    assert list(annotated.metadata.items()) == [("b", 3), ("a", None), ("c", [2])]
    assert annotated == store.history.get("s", 2)
    assert (annotated.content, annotated.usage) == ("assistant 2", used(100))
    assert store.history.annotate("s", 1, {}).metadata == {}
    assert total(store) == 200


def test_usage_is_told_after_the_fact(store: Store) -> None:
    session(store)
    told = store.history.set_usage("s", 3, used(50))
    assert told == store.history.get("s", 3)
    assert (told.usage, told.content) == (used(50), "user 3")
    assert total(store) == 250
    store.history.set_usage("s", 4, Usage(input_tokens=10), cost_usd=0.5, duration=HOUR, error_type="E")
    told = store.history.set_usage("s", entry_id="e4", response_model="m")
    assert (told.usage, told.cost_usd, told.duration) == (Usage(input_tokens=10), Decimal("0.5"), HOUR)
    assert (told.response_model, told.error_type, told.seq) == ("m", "E", 4)
    totals = store.usage.totals()
    assert (totals.input_tokens, totals.output_tokens, totals.errors) == (160, 150, 1)
    assert totals.cost_usd == Decimal("0.5")
    assert store.history.set_usage("s", 4, Usage()).usage == Usage()
    assert total(store) == 150


def test_usage_that_is_told_is_priced(open_store: Callable[..., Store]) -> None:
    store = open_store()
    session(store)
    store.history.append("s", [NewEntry("x", request_model="m", role="assistant")])
    assert store.history.set_usage("s", 5, used(1_000_000)).cost_usd is None
    store.prices.set("m", input_price=1.0, output_price=2.0)
    store.prices.set("n", input_price=10.0, output_price=20.0)
    assert store.history.set_usage("s", 5, used(1_000_000)).cost_usd == Decimal(3)
    assert store.history.set_usage("s", 5, response_model="n").cost_usd == Decimal(30)
    assert store.history.set_usage("s", 5, used(1_000_000), cost_usd=7).cost_usd == Decimal(7)
    assert store.history.set_usage("s", 5, duration=HOUR).cost_usd == Decimal(7)
    entry = NewEntry("x", request_model="m", usage=used(2_000_000), role="assistant")
    assert store.history.replace("s", 5, entry).cost_usd == Decimal(6)
    assert store.usage.totals().cost_usd == Decimal(6)
    # Another store learns of the prices as it writes.
    other = open_store()
    assert other.history.set_usage("s", 5, used(1_000_000)).cost_usd == Decimal(3)


EDITS: dict[str, Callable[[Store, str, int], Any]] = {
    "replace": lambda store, s, seq: store.history.replace(s, seq, NewEntry("new", role="user" if seq % 2 else None)),
    "annotate": lambda store, s, seq: store.history.annotate(s, seq, {"rating": seq}),
    "set_usage": lambda store, s, seq: store.history.set_usage(s, seq, used(500)),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("changed", ["s", "fork", "deep"])
def test_others_keep_what_they_see(store: Store, content: Content, changed: str, name: str) -> None:
    sharing(store)
    before = {one: store.history.read(one) for one in ("s", "fork", "deep")}
    for seq in (2, 3, 6) if changed != "s" else (1, 4):
        edited = EDITS[name](store, changed, seq)
        after = store.history.read(changed)
        assert after[seq - 1] == edited != before[changed][seq - 1]
        before[changed][seq - 1] = edited
        for one, entries in before.items():
            assert store.history.read(one) == entries
        assert unsound(content) == []


def test_what_a_fork_tells_counts_for_the_fork(store: Store) -> None:
    sharing(store)
    assert total(store) == 300
    store.history.set_usage("fork", 2, used(150))
    assert total(store) == 350
    by_session = {one.session_id: one.input_tokens for one in store.usage.by_session()}
    assert by_session == {"s": 200, "fork": 150}
    store.history.set_usage("fork", 2, used(120))
    assert total(store) == 320
    # Redaction in a fork does not undo what the source has used.
    store.history.replace("fork", 4, NewEntry("x", role="assistant"))
    assert total(store) == 320
    store.history.annotate("deep", 6, {"a": 1})
    assert total(store) == 320


def test_usage_is_counted_once_whoever_had_the_row(store: Store, content: Content) -> None:
    sharing(store)
    store.sessions.delete("s")
    assert total(store) == 300
    store.history.set_usage("fork", 2, used(150))
    assert total(store) == 350
    store.history.set_usage("fork", 2, used(40))
    assert total(store) == 240
    store.history.annotate("fork", 4, {"a": 1})
    assert total(store) == 240
    store.history.replace("fork", 4, NewEntry("x", role="assistant", usage=used(100)))
    assert total(store) == 240
    store.history.set_usage("deep", 6, used(110))
    assert total(store) == 250
    store.sessions.delete("fork")
    store.history.set_usage("deep", 2, used(130))
    assert total(store) == 380  # The 100 of the source went once: fork and deep say 40 and 130 instead.
    store.sessions.delete("deep")
    assert total(store) == 380
    assert unsound(content) == []


def test_what_several_forks_say_of_one_entry_takes_away_what_it_used_once(store: Store, content: Content) -> None:
    store.history.append("s", [NewEntry("x", usage=used(1000), cost_usd=1.5)], create=True)
    forks = [store.sessions.fork("s", f"fork {n}").session_id for n in range(4)]
    for n, fork in enumerate(forks[:3]):
        store.history.replace(fork, 1, NewEntry("y", usage=used(10), cost_usd=0.01))
        assert (total(store), store.usage.totals().cost_usd) == (10 + 10 * n, Decimal("0.01") * (n + 1))
    store.history.set_usage("s", 1, used(7))
    assert total(store) == 37
    store.history.set_usage("s", 1, used(8))
    store.history.set_usage(forks[0], 1, used(20))
    assert total(store) == 48
    # It has got the row that the source let go of.
    store.history.set_usage(forks[3], 1, used(2))
    assert total(store) == 50
    store.sessions.delete_many(["s", *forks])
    assert total(store) == 50
    assert unsound(content) == []


def test_what_a_source_and_its_forks_say_of_one_entry_takes_away_what_it_used_once(
    store: Store, content: Content
) -> None:
    store.history.append("s", [NewEntry("x", usage=used(1000), role="user"), NewEntry("z")], create=True)
    for fork in ("fork", "other"):
        store.sessions.fork("s", fork)
    store.history.set_usage("s", 1, used(10))
    assert total(store) == 10
    # To begin no turn any more moves the turns behind it, whose rows are copied along.
    store.history.replace("fork", 1, NewEntry("y", role="assistant", usage=used(20)))
    assert total(store) == 30
    store.history.append(
        "other", [NewEntry("x", entry_id=store.history.get("other", 1).entry_id)], on_conflict="replace"
    )
    assert total(store) == 30  # It does not say what it used.
    store.history.set_usage("other", 1, used(3))
    assert total(store) == 33
    assert unsound(content) == []


def test_usage_that_first_comes_for_an_entry_that_is_counted_is_billed(store: Store) -> None:
    session(store)
    store.sessions.fork("s", "fork")
    store.sessions.delete("s")  # Its entries are the fork's now, and in the ledger.
    store.history.set_usage("fork", 3, used(70))
    assert total(store) == 270
    totals = store.usage.totals()
    assert (totals.entries, totals.turns, totals.model_calls) == (4, 2, 3)


def test_a_model_that_is_corrected_moves_the_usage(store: Store) -> None:
    session(store)
    store.history.append("s", [NewEntry("x", usage=used(10), response_model="old", entry_id="x")])
    store.sessions.fork("s", "fork")
    store.history.set_usage("s", entry_id="x", response_model="new")
    assert {one.model: one.input_tokens for one in store.usage.by_model()} == {None: 200, "new": 10}
    assert store.history.find("fork", "x").response_model == "old"


def test_a_shared_position_that_is_edited_again_and_again_leaves_one_row(store: Store, content: Content) -> None:
    sharing(store)
    for n in range(5):
        store.history.replace("fork", 3, NewEntry(n, role="user"))
        store.history.annotate("fork", 3, {"n": n})
        store.history.set_usage("fork", 3, used(n))
    assert unsound(content) == []
    assert contents(store, "fork")[2] == 4
    assert contents(store, "deep")[2] == contents(store, "s")[2] == "user 3"
    assert total(store) == 304


@pytest.mark.parametrize("name", EDITS)
def test_without_the_session_or_the_entry_nothing_is_written(store: Store, clock: MovableClock, name: str) -> None:
    session(store, ttl=HOUR)
    edit = EDITS[name]
    for seq in (0, 5, 2**31, 2**62):
        with pytest.raises(EntryNotFoundError) as caught:
            edit(store, "s", seq)
        assert caught.value.seq == seq
    with pytest.raises(SessionNotFoundError):
        edit(store, "missing", 1)
    clock.advance(minutes=50)
    edit(store, "s", 1)
    clock.advance(minutes=50)
    assert store.sessions.exists("s")
    clock.advance(minutes=10)
    with pytest.raises(SessionNotFoundError):
        edit(store, "s", 1)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_part_of_a_transaction(store: Store, name: str) -> None:
    session(store)
    before = store.history.read("s")
    with suppress(ZeroDivisionError), store.transaction() as tx:
        EDITS[name](tx, "s", 2)
        raise ZeroDivisionError
    assert store.history.read("s") == before
    with store.transaction() as tx:
        edited = EDITS[name](tx, "s", 2)
        assert tx.history.get("s", 2) == edited
    assert store.history.get("s", 2) == edited


def test_other_namespaces_are_left_alone(open_store: Callable[..., Store]) -> None:
    ours, theirs = open_store(namespace="ours"), open_store(namespace="theirs")
    session(ours)
    session(theirs)
    before = theirs.history.read("s")
    for edit in EDITS.values():
        edit(ours, "s", 2)
    assert theirs.history.read("s") == before
    assert total(theirs) == 200


BAD: list[tuple[Callable[[Any], Any], str]] = [
    (lambda h: h.replace("s", -1, NewEntry("x")), "seq"),
    (lambda h: h.replace("s", True, NewEntry("x")), "seq"),
    (lambda h: h.replace("", 1, NewEntry("x")), "session_id"),
    (lambda h: h.replace("s", 1, "text"), "entry"),
    (lambda h: h.replace("s", 1, NewEntry({1, 2})), "entry.content"),
    (lambda h: h.replace("s", 1, NewEntry("x", role="")), "entry.role"),
    (lambda h: h.replace("s", 1, NewEntry("x"), expected_content={1}), "expected_content"),
    (lambda h: h.annotate("s", "1", {}), "seq"),
    (lambda h: h.annotate("s", 1, None), "metadata"),
    (lambda h: h.annotate("s", 1, [1]), "metadata"),
    (lambda h: h.annotate("s", 1, {"a": {1}}), "metadata"),
    (lambda h: h.set_usage("s", usage=Usage()), "seq"),
    (lambda h: h.set_usage("s", 1, Usage(), entry_id="x"), "seq"),
    (lambda h: h.set_usage("s", 1), "usage"),
    (lambda h: h.set_usage("s", 1, {"tokens": 1}), "usage"),
    (lambda h: h.set_usage("s", 1, Usage(input_tokens=-1)), "usage.input_tokens"),
    (lambda h: h.set_usage("s", entry_id="", usage=Usage()), "entry_id"),
    (lambda h: h.set_usage("s", 1, cost_usd=-1), "cost_usd"),
    (lambda h: h.set_usage("s", 1, duration=5), "duration"),
    (lambda h: h.set_usage("s", 1, error_type=""), "error_type"),
    (lambda h: h.set_usage("s", 1, response_model=5), "response_model"),
]


def test_what_cannot_be_stored_is_refused(store: Store) -> None:
    session(store)
    before = store.history.read("s")
    for call, argument in BAD:
        with pytest.raises(InvalidValueError) as caught:
            call(store.history)
        assert caught.value.argument.startswith(argument)
    assert store.history.read("s") == before


def test_an_unknown_id_is_said_to_be_unknown(store: Store) -> None:
    session(store)
    with pytest.raises(EntryNotFoundError, match="with entry_id 'x'") as caught:
        store.history.set_usage("s", entry_id="x", usage=used(1))
    assert (caught.value.seq, caught.value.entry_id) == (None, "x")


def test_edits_of_one_entry_all_take_effect(open_store: Callable[..., Store], content: Content) -> None:
    one, two, three = (open_store() for _ in range(3))
    for number in range(12):
        s = f"s {number}"
        session(one, s, n=6)
        at_once(
            partial(one.history.annotate, s, 2, {"a": 1}),
            partial(two.history.annotate, s, 2, {"b": 2}),
            partial(three.history.set_usage, s, 2, used(number)),
            partial(one.sessions.fork, s, f"fork {number}"),
            partial(two.history.append, s, [NewEntry("more")]),
            partial(three.history.trim, s, keep_last=6),
            partial(two.history.replace, s, 4, NewEntry("new", role="assistant", usage=used(100))),
        )
        edited = one.history.get(s, 2)
        assert (edited.metadata, edited.usage) == ({"a": 1, "b": 2}, used(number))
        assert one.history.get(s, 4).content == "new"
        assert total(one) == sum(range(number + 1)) + 200 * (number + 1)
        one.sessions.delete(s)
        assert total(one) == sum(range(number + 1)) + 200 * (number + 1)
        seen = [entry.entry_id for entry in two.history.read(f"fork {number}")]
        assert seen[-5:] == ["e2", "e3", "e4", "e5", "e6"] or seen[-6:-1] == ["e2", "e3", "e4", "e5", "e6"]
    assert unsound(content) == []


def test_what_is_read_before_it_is_changed_is_not_lost(open_store: Callable[..., Store]) -> None:
    stores = [open_store() for _ in range(3)]
    stores[0].prices.set("m", input_price=1_000_000, output_price=0)
    for number in range(10):
        s = f"s {number}"
        session(stores[0], s, n=2)
        stores[0].history.append(s, [NewEntry("x", usage=Usage(input_tokens=0, output_tokens=0), response_model="m")])
        stores[0].history.annotate(s, 3, {"first": 0})
        at_once(
            *(partial(store.history.annotate, s, 3, {f"key {n}": n}) for n, store in enumerate(stores)),
            partial(stores[0].history.set_usage, s, 3, Usage(input_tokens=number, output_tokens=0)),
            partial(stores[1].prices.set, "m", input_price=1_000_000, output_price=number),
            partial(stores[2].history.set_usage, s, 3, duration=timedelta(seconds=1)),
        )
        found = stores[0].history.get(s, 3)
        assert found.metadata == {"first": 0, "key 0": 0, "key 1": 1, "key 2": 2}
        assert (found.usage.input_tokens, found.cost_usd, found.duration) == (number, number, timedelta(seconds=1))


@pytest.mark.parametrize("cost", [3, 0, Decimal("1E+1")])
def test_a_cost_of_whole_dollars_is_a_decimal_in_what_a_change_returns(store: Store, cost: Any) -> None:
    session(store)
    returned = [
        store.history.set_usage("s", 2, cost_usd=cost),
        store.history.annotate("s", 2, {"seen": True}),
        store.history.get("s", 2),
        store.history.replace("s", 2, NewEntry("other", role="assistant", cost_usd=cost)),
        store.history.get("s", 2),
    ]
    assert [(type(entry.cost_usd), entry.cost_usd) for entry in returned] == [(Decimal, cost)] * 5
    assert len({str(entry.cost_usd) for entry in returned}) == 1
