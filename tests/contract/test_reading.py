"""Reading histories by what is needed: contents alone, one entry by its id, those that match, the newest of many."""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from statestore import InvalidValueError, NewEntry, SessionNotFoundError, StateStore, migrate
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.engines import sync_engine
from tests.support.worlds import entering

Store = Any
HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


def conversation(store: Store, session_id: str, turns: int = 4, **attributes: Any) -> None:
    """Each turn is an hour: the user asks, a tool answers, the assistant says something."""
    store.sessions.create(session_id, **attributes)
    entries = [
        NewEntry({"n": 3 * turn + step}, role=role, entry_id=f"e{3 * turn + step}", created_at=START + turn * HOUR)
        for turn in range(turns)
        for step, role in enumerate(("user", "tool", "assistant"), 1)
    ]
    store.history.append(session_id, entries)


def family(store: Store) -> None:
    """`fork` sees 1 to 7 of `s`, and 8 to 9 are its own; `deep` sees 5 of these 9."""
    conversation(store, "s")
    store.sessions.fork("s", "fork", at_seq=7)
    late = START + 9 * HOUR
    store.history.append("fork", [NewEntry({"n": 80 + n}, role="user", created_at=late) for n in range(2)])
    store.sessions.fork("fork", "deep", at_seq=8)


RANGES: list[dict[str, int]] = [
    {},
    {"last": 3},
    {"last": 0},
    {"limit": 2},
    {"after": 4, "limit": 3},
    {"before": 6, "last": 2},
    {"after": 3, "before": 9},
    {"after": 100},
    {"after": 2**62},
]


def test_messages_are_the_contents_of_what_read_returns(store: Store) -> None:
    family(store)
    store.sessions.create("empty")
    for session_id, window in product(("s", "fork", "deep", "empty"), RANGES):
        entries = store.history.read(session_id, **window)
        assert store.history.messages(session_id, **window) == [entry.content for entry in entries]


def test_messages_come_back_exactly_and_none_is_a_message(store: Store) -> None:
    store.sessions.create("s")
    contents = [None, 0, "", [], {"b": 1, "a": [1.5, "🙂'\\ \u0001"]}, {"role": "user", "content": None}]
    store.history.append("s", [NewEntry(content) for content in contents])
    assert store.history.messages("s") == contents
    assert list(store.history.messages("s")[4]) == ["b", "a"]


@pytest.mark.parametrize("special", [2**70, "\ud800", -(10**30)], ids=["big", "surrogate", "small"])
def test_messages_beside_others_that_few_programs_can_read_come_back_exactly(store: Store, special: Any) -> None:
    store.sessions.create("s")
    contents = [{"n": 1}, {"content": special}, special, {"n": 2}]
    store.history.append("s", [NewEntry(content) for content in contents])
    store.sessions.fork("s", "fork")
    store.history.append("fork", [NewEntry({"n": 3})])
    assert store.history.messages("s") == contents
    assert store.history.messages("s", last=1) == [{"n": 2}]
    assert store.history.messages("fork", last=4) == [*contents[1:], {"n": 3}]


def test_messages_of_any_size_come_back(store: Store) -> None:
    store.sessions.create("s")
    contents = [{"n": 1}, "x" * 1_200_000, {"n": 2}, "y" * 60_000, {"n": 3}]
    store.history.append("s", [NewEntry(content) for content in contents])
    for _ in range(2):
        for last in range(6):
            assert store.history.messages("s", last=last) == contents[5 - last :]
    store.sessions.create("long")
    store.history.append("long", [NewEntry(number) for number in range(300)])
    for most in (199, 200, 201, 300):
        assert store.history.messages("long", last=most) == list(range(300 - most, 300))
        assert store.history.messages("long", limit=most) == list(range(most))


def test_messages_extend_the_ttl_as_a_read_does(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=HOUR)
    clock.advance(minutes=50)
    assert store.history.messages("s", last=5) == []
    clock.advance(minutes=50)
    assert store.history.messages("s") == []
    clock.advance(minutes=61)
    with pytest.raises(SessionNotFoundError):
        store.history.messages("s")
    with pytest.raises(SessionNotFoundError):
        store.history.messages("missing", last=5)


@pytest.mark.parametrize("wrong", [{"last": -1}, {"limit": "1"}, {"last": 1, "limit": 1}, {"after": True}], ids=str)
def test_messages_refuse_what_read_refuses(store: Store, wrong: dict[str, Any]) -> None:
    store.sessions.create("s")
    for call in (store.history.read, store.history.messages):
        with pytest.raises(InvalidValueError):
            call("s", **wrong)


def test_a_turn_has_the_messages_of_its_window(store: Store) -> None:
    conversation(store, "s")
    with entering(store, store.turn("s", max_entries=6)) as turn:
        assert turn.messages == [{"n": n} for n in range(7, 13)]
        turn.messages.clear()
        assert len(turn.messages) == 6


def test_find_sees_what_the_session_sees(store: Store) -> None:
    family(store)
    found = store.history.find("s", "e9")
    assert (found.session_id, found.seq, found.content) == ("s", 9, {"n": 9})
    assert store.history.find("s", "other") is None
    assert store.history.find("fork", "e7") == store.history.get("fork", 7)
    assert store.history.find("fork", "e9") is None
    own = store.history.get("fork", 8)
    assert store.history.find("deep", own.entry_id) == store.history.get("deep", 8)
    assert store.history.find("s", own.entry_id) is None
    store.history.trim("s", keep_last=2)
    assert store.history.find("s", "e9") is None
    assert store.history.find("deep", "e1").seq == 1
    with pytest.raises(SessionNotFoundError):
        store.history.find("missing", "e1")
    for wrong in ("", 5, None, "x" * 513):
        with pytest.raises(InvalidValueError, match="entry_id"):
            store.history.find("s", wrong)


FILTERS: list[dict[str, Any]] = [
    {"role": "user"},
    {"role": "nobody"},
    {"turn": 2},
    {"turn": 0},
    {"since": START + HOUR},
    {"until": START + HOUR},
    {"since": START + HOUR, "until": START + 2 * HOUR, "role": "tool"},
    {"since": (START + 2 * HOUR).astimezone(), "turn": 3},
    {"since": START + 50 * HOUR},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_a_read_returns_the_newest_or_oldest_of_those_that_match(store: Store, filters: dict[str, Any]) -> None:
    family(store)
    for session_id, window in product(("s", "fork", "deep"), RANGES):
        inside = {name: value for name, value in window.items() if name in ("after", "before")}
        matching = [
            entry
            for entry in store.history.read(session_id, **inside)
            if filters.get("role") in (None, entry.role)
            and filters.get("turn") in (None, entry.turn)
            and ("since" not in filters or entry.created_at >= filters["since"])
            and ("until" not in filters or entry.created_at < filters["until"])
        ]
        if "last" in window:
            matching = matching[len(matching) - window["last"] :] if window["last"] < len(matching) else matching
        expected = matching[: window.get("limit", 1000)]
        assert store.history.read(session_id, **window, **filters) == expected


@pytest.mark.parametrize(
    ("wrong", "argument"),
    [
        ({"since": datetime(2026, 1, 1)}, "since"),
        ({"until": "today"}, "until"),
        ({"role": ""}, "role"),
        ({"role": 5}, "role"),
        ({"turn": -1}, "turn"),
        ({"turn": "1"}, "turn"),
    ],
    ids=str,
)
def test_a_filter_that_can_match_nothing_is_refused(store: Store, wrong: dict[str, Any], argument: str) -> None:
    store.sessions.create("s")
    with pytest.raises(InvalidValueError, match=argument):
        store.history.read("s", **wrong)


def test_a_read_with_filters_extends_the_ttl(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=HOUR)
    clock.advance(minutes=50)
    assert store.history.read("s", role="user") == []
    clock.advance(minutes=50)
    assert store.history.find("s", "e1") is None
    clock.advance(minutes=50)
    assert store.history.last_many(["s"], 1) == {"s": []}
    clock.advance(minutes=50)
    assert store.sessions.exists("s")
    clock.advance(minutes=60)
    with pytest.raises(SessionNotFoundError):
        store.history.read("s", role="user")


def test_the_newest_of_many_sessions_come_together(store: Store, clock: MovableClock) -> None:
    family(store)
    store.sessions.create("empty")
    conversation(store, "expired", ttl=HOUR)
    clock.advance(hours=2)
    ids = ["deep", "missing", "s", "empty", "expired", "fork", "s"]
    for n in (0, 1, 3, 100, 2**62):
        expected = {one: store.history.read(one, last=n) for one in ("deep", "s", "empty", "fork")}
        found = store.history.last_many(ids, n)
        assert found == expected
        assert list(found) == ["deep", "s", "empty", "fork"]
        assert store.history.last_many((one for one in ids), n) == expected
        with store.transaction() as tx:
            assert tx.history.last_many(ids, n) == expected
    assert store.history.last_many([], 5) == store.history.last_many(["missing"], 5) == {}


def test_many_sessions_are_one_statement(store: Store) -> None:
    ids = [f"s {number}" for number in range(100)]
    with store.transaction() as tx:
        for number, session_id in enumerate(ids):
            tx.sessions.create(session_id)
            tx.history.append(session_id, [NewEntry(number), NewEntry(-number)])
    found = store.history.last_many(ids, 1)
    assert [entries[0].content for entries in found.values()] == [-number for number in range(100)]


@pytest.mark.parametrize("ids", ["one", b"one", 5, None, [5], [""], ["\0"]], ids=str)
def test_what_is_not_a_list_of_sessions_is_refused(store: Store, ids: Any) -> None:
    with pytest.raises(InvalidValueError, match="session_ids"):
        store.history.last_many(ids, 1)


def test_the_newest_of_none_is_refused(store: Store) -> None:
    for wrong in (-1, None, "1"):
        with pytest.raises(InvalidValueError, match="n"):
            store.history.last_many(["s"], wrong)


def test_other_namespaces_are_not_seen(open_store: Callable[..., Store]) -> None:
    ours, theirs = open_store(namespace="ours"), open_store(namespace="theirs")
    conversation(theirs, "s")
    ours.sessions.create("s")
    assert ours.history.messages("s") == ours.history.read("s", role="user") == []
    assert ours.history.find("s", "e1") is None
    assert ours.history.last_many(["s"], 5) == {"s": []}


def test_what_a_transaction_appends_is_in_what_it_reads(store: Store) -> None:
    store.sessions.create("s")
    with store.transaction() as tx:
        tx.history.append("s", [NewEntry({"n": 1}, role="user", entry_id="one")])
        assert tx.history.messages("s", last=5) == [{"n": 1}]
        assert tx.history.find("s", "one").seq == 1
        assert [entry.seq for entry in tx.history.read("s", role="user")] == [1]


def test_messages_that_are_too_long_for_one_text_are_read(tmp_path: Path) -> None:
    """SQLite has a longest text, of a gigabyte unless it was built or told otherwise."""
    engine = sync_engine(f"sqlite:///{tmp_path}/store.db")
    event.listen(engine, "connect", lambda driver, _: driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 20_000))
    migrate.upgrade(engine)
    contents = [{"n": number, "text": "x" * 6000} for number in range(4)]
    with StateStore(engine) as store:
        store.history.append("s", [NewEntry(content) for content in contents], create=True)
        store.sessions.fork("s", "fork")
        assert store.history.messages("s") == store.history.messages("fork") == contents
        assert store.history.messages("s", last=2) == contents[2:]
    engine.dispose()


def test_messages_are_in_order_whichever_way_sqlite_reads(tmp_path: Path) -> None:
    engine = sync_engine(f"sqlite:///{tmp_path}/store.db")
    event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA reverse_unordered_selects = ON"))
    migrate.upgrade(engine)
    with StateStore(engine) as store:
        store.history.append("s", [NewEntry(number) for number in range(20)], create=True)
        store.sessions.fork("s", "fork", at_seq=15)
        store.history.append("fork", [NewEntry(number) for number in range(100, 103)])
        assert store.history.messages("s", last=5) == [15, 16, 17, 18, 19]
        assert store.history.messages("fork", last=5) == [13, 14, 100, 101, 102]
    engine.dispose()


@pytest.mark.parametrize("damaged", ["{secret", '"secret", "secret"', "", " ", '"x"] "secret" ["'])
def test_messages_say_that_a_row_is_damaged_without_its_content(store: Store, content: Content, damaged: str) -> None:
    if not content.is_sqlite:
        pytest.skip("PostgreSQL checks JSON itself")
    store.sessions.create("s")
    store.history.append("s", [NewEntry("x"), NewEntry("y")])
    content.query("UPDATE history_entries SET content = :damaged WHERE seq = 1 RETURNING 1", damaged=damaged)
    with pytest.raises(Exception, match="damaged") as caught:
        store.history.messages("s")
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None
