"""Lists of sessions, page by page."""

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry
from tests.support.clock import MovableClock

Store = Any


def make(store: Store, clock: MovableClock, n: int, **attributes: Any) -> None:
    """Sessions 0 to n - 1, each a minute younger than the one before."""
    for index in range(n):
        store.sessions.create(f"{index:03}", **attributes)
        clock.advance(minutes=1)


def walk(store: Store, **arguments: Any) -> list[list[str]]:
    pages = []
    cursor = None
    while True:
        page = store.sessions.page(cursor=cursor, **arguments)
        pages.append([session.session_id for session in page.sessions])
        cursor = page.next_cursor
        if cursor is None:
            return pages


@pytest.mark.parametrize("order_by", ["last_activity_at", "created_at"])
@pytest.mark.parametrize("descending", [True, False])
def test_ten_sessions_by_three_make_four_pages(
    store: Store, clock: MovableClock, order_by: str, descending: bool
) -> None:
    make(store, clock, 10)
    # Reverse the activity, so that the two orders differ.
    for index in reversed(range(10)):
        store.sessions.touch(f"{index:03}")
        clock.advance(minutes=7)
    pages = walk(store, limit=3, order_by=order_by, descending=descending)
    assert [len(page) for page in pages] == [3, 3, 3, 1]
    upwards = descending == (order_by == "last_activity_at")
    expected = [f"{index:03}" for index in range(10)]
    assert [name for page in pages for name in page] == (expected if upwards else expected[::-1])


def test_a_page_has_a_hundred_if_not_told_otherwise(store: Store, clock: MovableClock) -> None:
    make(store, clock, 150)
    first = store.sessions.page()
    assert len(first.sessions) == 100
    assert first.sessions[0].session_id == "149"
    second = store.sessions.page(cursor=first.next_cursor)
    assert (len(second.sessions), second.next_cursor) == (50, None)


@pytest.mark.parametrize("limit", [5, 10])
def test_the_last_page_says_that_it_is(store: Store, clock: MovableClock, limit: int) -> None:
    make(store, clock, 10)
    assert [len(page) for page in walk(store, limit=limit)] == [limit] * (10 // limit)


@pytest.mark.parametrize("order_by", ["last_activity_at", "created_at"])
@pytest.mark.parametrize("descending", [True, False])
def test_sessions_of_one_moment_are_all_seen_once(store: Store, order_by: str, descending: bool) -> None:
    names = {store.sessions.create(f"{index:03}").session_id for index in range(11)}
    pages = walk(store, limit=2, order_by=order_by, descending=descending)
    seen = [name for page in pages for name in page]
    assert len(seen) == 11
    assert set(seen) == names


def test_hours_do_not_disturb_the_order(store: Store, clock: MovableClock) -> None:
    """The index holds the hour of the last activity; the order is that of the moment."""
    moments = [3, 50, 58, 61, 65, 119, 121, 180]
    for minute in (61, 3, 121, 58, 180, 65, 50, 119):
        store.sessions.create(f"{minute:03}")
    start = clock()
    for minute in moments:
        clock.now = start + timedelta(minutes=minute)
        store.sessions.touch(f"{minute:03}")
    for descending in (True, False):
        seen = [name for page in walk(store, limit=3, descending=descending) for name in page]
        assert seen == [f"{minute:03}" for minute in sorted(moments, reverse=descending)]


def test_an_append_moves_a_session_to_the_front(store: Store, clock: MovableClock) -> None:
    make(store, clock, 3)
    store.history.append("000", [NewEntry(1)])
    assert walk(store) == [["000", "002", "001"]]
    assert walk(store, order_by="created_at") == [["002", "001", "000"]]


def test_a_list_can_be_narrowed(store: Store, clock: MovableClock) -> None:
    store.sessions.create("a", user_id="ada", agent_name="coder")
    store.sessions.create("b", user_id="ada", agent_name="critic", status="starting")
    store.sessions.create("c", user_id="bob", agent_name="coder")
    store.sessions.create("d")
    assert {name for page in walk(store, user_id="ada", limit=1) for name in page} == {"a", "b"}
    assert walk(store, user_id="ada", agent_name="coder") == [["a"]]
    assert walk(store, status="starting") == [["b"]]
    assert walk(store, status="dead") == [[]]
    assert walk(store, user_id="nobody") == [[]]
    counts = [store.sessions.count(**f) for f in ({}, {"user_id": "ada"}, {"agent_name": "coder"}, {"status": "ready"})]
    assert counts == [4, 2, 2, 3]
    assert store.sessions.count(user_id="ada", agent_name="critic", status="starting") == 1


def test_a_filter_is_no_pattern(store: Store) -> None:
    for name in ("100%", "1000", "a_b", "aXb", "it's"):
        store.sessions.create(name, user_id=name)
    for name in ("100%", "a_b", "it's"):
        assert walk(store, user_id=name) == [[name]]
    assert store.sessions.count(user_id="%") == 0


def test_an_empty_store_has_one_empty_page(store: Store) -> None:
    page = store.sessions.page()
    assert (page.sessions, page.next_cursor) == ([], None)
    assert store.sessions.count() == 0


def test_the_expired_are_neither_listed_nor_counted(store: Store, clock: MovableClock) -> None:
    make(store, clock, 4)
    store.sessions.create("short", ttl=timedelta(minutes=1))
    assert store.sessions.count() == 5
    clock.advance(minutes=1)
    assert store.sessions.count() == 4
    assert "short" not in [name for page in walk(store, limit=2) for name in page]


def test_a_cursor_goes_on_behind_a_session_that_was_deleted(store: Store, clock: MovableClock) -> None:
    make(store, clock, 4)
    first = store.sessions.page(limit=2)
    store.sessions.delete(first.sessions[-1].session_id)
    assert [session.session_id for session in store.sessions.page(cursor=first.next_cursor).sessions] == ["001", "000"]


def test_a_cursor_serves_its_own_order_alone(store: Store, clock: MovableClock) -> None:
    make(store, clock, 4)
    cursor = store.sessions.page(limit=2).next_cursor
    for arguments in ({"descending": False}, {"order_by": "created_at"}):
        with pytest.raises(InvalidValueError) as caught:
            store.sessions.page(cursor=cursor, **arguments)
        assert caught.value.argument == "cursor"


def test_any_id_serves_in_a_cursor(store: Store) -> None:
    names = ["a'b", 'a"b', "a\\b", "ä%_", "🦜", "x" * 512, "\n"]
    for name in names:
        store.sessions.create(name)
    assert {name for page in walk(store, limit=1) for name in page} == set(names)


@pytest.mark.parametrize(
    "forged",
    [
        ["last_activity_at", True, "0001-01-01T00:00:00+14:00", "s"],
        ["last_activity_at", True, "9999-12-31T23:59:59-12:00", "s"],
        ["last_activity_at", True, "2026-01-01T00:00:00", "s"],
        ["last_activity_at", True, "2026-01-01T00:00:00Z", ""],
        ["last_activity_at", True, "2026-01-01T00:00:00Z", "a\0"],
        ["last_activity_at", True, "2026-01-01T00:00:00Z", 5],
        ["last_activity_at", True, 5, "s"],
        ["last_activity_at", True, None, "s"],
        ["last_activity_at", True],
        {"a": 1},
        5,
    ],
)
def test_a_forged_cursor_is_refused(store: Store, forged: Any) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode()
    for given in (cursor, cursor + "=", "\udcff", "ä", "", 5, b"\xff"):
        with pytest.raises(InvalidValueError, match=r"^cursor: "):
            store.sessions.page(cursor=given)
