"""Lists of sessions as products show them: filtered, counted, with page numbers, and many at once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from statestore import NEVER, InvalidValueError, NewEntry, SessionNotFoundError
from tests.support.clock import NOON, MovableClock
from tests.support.crowd import at_once

Store = Any

HOUR = timedelta(hours=1)


def found(store: Store, **conditions: Any) -> list[str]:
    """The ids of the sessions that meet the conditions, which must be as many as are counted."""
    page = store.sessions.page(order_by="created_at", descending=False, with_total=True, **conditions)
    ids = [session.session_id for session in page.sessions]
    assert page.total == store.sessions.count(**conditions) == len(ids)
    page = store.sessions.page(order_by="created_at", descending=False, **conditions)
    assert ids == [session.session_id for session in page.sessions]
    return ids


VALUES = [
    None, True, False, 0, 1, -1, 1.0, 1.5, 1e300, 2**53 + 1, "", "1", "true", "null", "a'b", 'a"b', "\\", "\\u0041",
    "A", "C:\\users", "\x00", "a\x00b", "é", "e\u0301", "\U0001f600", "%", "_", [], [1], ["1"], {}, {"a": 1},
    {"a": "\x00\\u"}, "\b\b", "\ud800", {"\udfff": "\ud800"}, [10**30], {"a": [1e22, "\ud800"]}, 2**63 - 1, -(2**63),
]  # fmt: skip


def test_metadata_is_compared_value_by_value(store: Store) -> None:
    for number, value in enumerate(VALUES):
        store.sessions.create(f"{number:02}", metadata={"nested": {"key": "no"}, "key": value, "other": number})
    store.sessions.create("without")
    for number, value in enumerate(VALUES):
        assert found(store, metadata={"key": value}) == [f"{number:02}"], value
        assert found(store, metadata={"key": value, "other": number}) == [f"{number:02}"]
        assert found(store, metadata={"key": value, "other": -5}) == []
    assert len(found(store, metadata={})) == len(VALUES) + 1


KEYS = ["a.b", "$", "'", '"', "\\", "\b\b", "\x00", "a\x00", "\ud800", "[0]", "", "é", "%", "a b"]


@pytest.mark.parametrize("key", KEYS)
def test_any_key_of_metadata_is_found(store: Store, key: str) -> None:
    store.sessions.create("s", metadata={"first": 1, key: "value"})
    for number, other in enumerate({*KEYS, key + "x", "a", "x"} - {key}):
        store.sessions.create(f"t{number}", metadata={other: "value"})
    assert found(store, metadata={key: "value"}) == ["s"]


def test_floats_are_found_however_they_are_written(store: Store) -> None:
    for number, value in enumerate((1e22, 1e-7, [1e16], 0.0)):
        store.sessions.create(f"{number}", metadata={"key": value})
        store.sessions.create(f"{number} beside what is escaped", metadata={"key": value, "other": "\ud800"})
        assert len(found(store, metadata={"key": value})) == 2
    assert len(found(store, metadata={"key": -0.0})) == 2


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 10**30, -(2**63) - 1])
def test_integers_that_databases_do_not_tell_apart_are_no_condition(store: Store, value: int) -> None:
    store.sessions.create("s", metadata={"key": value})
    for call in (store.sessions.page, store.sessions.count):
        with pytest.raises(InvalidValueError, match="metadata: asks for an integer beyond 64 bits"):
            call(metadata={"key": value})
    store.sessions.create("t", metadata={"key": -(2**63)})
    assert found(store, metadata={"key": -(2**63)}) == ["t"]


def test_a_lenient_store_finds_what_it_has_stored(open_store: Callable[..., Store]) -> None:
    store = open_store(json="lenient")
    metadata: dict[Any, Any] = {1: (2, 3), "at": NOON}
    store.sessions.create("s", metadata=metadata)
    assert found(store, metadata=metadata) == ["s"]
    # A key that is given as a number is the one that is there as text.
    assert store.sessions.merge_metadata("s", {1: 2}).metadata["1"] == 2
    assert store.sessions.fork("s", "f", metadata={1: 3}).metadata["1"] == 3


def test_a_title_is_found_by_its_text(store: Store) -> None:
    for title in ("100% Sure", "1000 sure", "a_b", "axb", None):
        store.sessions.create(str(title), title=title)
    assert found(store, title_contains="0% s") == ["100% Sure"]
    assert found(store, title_contains="SURE") == ["100% Sure", "1000 sure"]
    assert found(store, title_contains="a_") == ["a_b"]


def test_ids_are_found_by_their_beginning(store: Store) -> None:
    for session_id in ("a%1", "a%2", "ab1", "b", "A%1"):
        store.sessions.create(session_id)
    assert found(store, id_prefix="a%") == ["a%1", "a%2"]
    assert found(store, id_prefix="a") == ["a%1", "a%2", "ab1"]
    assert found(store, id_prefix="a%1x") == []


def test_sessions_are_found_by_directory_and_time(store: Store, clock: MovableClock) -> None:
    store.sessions.create("old", project_root="/a", created_at=NOON - 3 * HOUR)
    store.sessions.create("new", project_root="/b")
    clock.advance(hours=2)
    store.sessions.touch("new")
    assert found(store, project_root="/a") == ["old"]
    assert found(store, created_since=NOON) == ["new"]
    assert found(store, created_until=NOON) == ["old"]
    assert found(store, created_since=NOON - 3 * HOUR, created_until=NOON) == ["old"]
    assert found(store, active_since=NOON + HOUR) == ["new"]
    assert found(store, active_until=NOON + HOUR) == ["old"]
    assert found(store, active_since=NOON + 2 * HOUR) == ["new"]
    assert found(store, active_until=NOON + 2 * HOUR, status="ready", agent_name="nobody") == []


def test_a_page_knows_the_total_of_all_pages(store: Store) -> None:
    for number in range(7):
        store.sessions.create(f"s{number}", user_id="ada")
    store.sessions.create("other")
    ask = partial(store.sessions.page, user_id="ada", limit=3, order_by="created_at", descending=False, with_total=True)
    first = ask()
    second = ask(cursor=first.next_cursor)
    assert (first.total, second.total, ask(offset=100).total) == (7, 7, 7)
    assert ask(offset=100).sessions == []
    assert (
        [s.session_id for s in ask(offset=3).sessions] == [s.session_id for s in second.sessions] == ["s3", "s4", "s5"]
    )
    assert ask(offset=6).next_cursor is None
    assert store.sessions.page().total is None
    assert store.sessions.page(user_id="nobody", with_total=True).total == 0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"metadata": [1]}, "metadata"),
        ({"metadata": {"a": float("nan")}}, "metadata"),
        ({"metadata": {str(n): n for n in range(21)}}, "metadata"),
        ({"title_contains": 1}, "title_contains"),
        ({"id_prefix": ""}, "id_prefix"),
        ({"project_root": 1}, "project_root"),
        ({"created_since": datetime(2026, 1, 1)}, "created_since"),
        ({"active_until": "today"}, "active_until"),
        ({"belongs_to": ""}, "belongs_to"),
    ],
)
def test_conditions_are_checked(store: Store, arguments: dict[str, Any], name: str) -> None:
    for call in (store.sessions.page, store.sessions.count):
        with pytest.raises(InvalidValueError, match=name):
            call(**arguments)


def test_an_offset_stands_alone(store: Store) -> None:
    store.sessions.create("a")
    store.sessions.create("b")
    cursor = store.sessions.page(limit=1).next_cursor
    with pytest.raises(InvalidValueError, match="offset"):
        store.sessions.page(cursor=cursor, offset=1)
    with pytest.raises(InvalidValueError, match="offset"):
        store.sessions.page(offset=-1)


def test_a_session_keeps_the_date_it_was_created(store: Store, clock: MovableClock) -> None:
    then = datetime(2020, 2, 3, tzinfo=UTC)
    assert store.sessions.create("s", created_at=then).created_at == then
    assert store.sessions.get("s").last_activity_at == NOON
    assert store.sessions.open("t", created_at=then).created_at == then
    assert store.sessions.create("future", created_at=NOON + HOUR).created_at == NOON
    with pytest.raises(InvalidValueError, match="created_at"):
        store.sessions.create("u", created_at=datetime(2020, 1, 1))


def test_many_sessions_are_loaded_at_once(store: Store, clock: MovableClock, open_store: Callable[..., Store]) -> None:
    store.sessions.create("a", ttl=HOUR)
    store.sessions.create("b", metadata={"n": 1})
    store.sessions.create("part", belongs_to="a")
    store.sessions.create("gone", ttl=HOUR / 2)
    open_store(namespace="elsewhere", clock=clock).sessions.create("c")
    clock.advance(minutes=50)
    loaded = store.sessions.load_many(["part", "b", "a", "c", "gone", "missing", "a"])
    assert list(loaded) == ["part", "b", "a"]
    assert loaded["a"].expires_at == clock.now + HOUR
    assert loaded["b"].metadata == {"n": 1}
    assert store.sessions.load_many([]) == {}
    for wrong in ("a", [1], [""], None):
        with pytest.raises(InvalidValueError, match="session_ids"):
            store.sessions.load_many(wrong)
    with store.transaction() as tx:
        assert list(tx.sessions.load_many(["b", "a"])) == ["b", "a"]


def test_only_the_expected_session_is_deleted(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", user_id="ada")
    store.sessions.create("nobody's")
    store.history.append("s", [NewEntry(1)])
    assert not store.sessions.delete("s", user_id="bob")
    assert not store.sessions.delete("nobody's", user_id="bob")
    with pytest.raises(Exception, match="expected_revision") as caught:
        store.sessions.delete("s", expected_revision=7)
    assert type(caught.value).__name__ == "ConflictError"
    assert store.history.count("s") == 1
    with pytest.raises(InvalidValueError, match="user_id"):
        store.sessions.delete("s", user_id="")
    with store.transaction() as tx:
        assert not tx.sessions.delete("s", user_id="bob")
    assert store.sessions.delete("s", user_id="ada", expected_revision=1)
    assert not store.sessions.delete("s", user_id="ada", expected_revision=1)


def test_metadata_is_merged_into_the_expected_revision(store: Store) -> None:
    store.sessions.create("s", metadata={"a": 1})
    assert store.sessions.merge_metadata("s", {"b": 2}, expected_revision=1).revision == 2
    with pytest.raises(Exception, match="revision 2, not 1"):
        store.sessions.merge_metadata("s", {"c": 3}, expected_revision=1)
    assert store.sessions.get("s").metadata == {"a": 1, "b": 2}


def test_a_fork_may_have_another_user_and_title_and_no_state(store: Store) -> None:
    store.sessions.create("s", user_id="ada", title="t")
    store.state.set("s", "k", 1)
    fork = store.sessions.fork("s", user_id="bob", title="u", with_state=False)
    assert (fork.user_id, fork.title, store.state.get_all(fork.session_id)) == ("bob", "u", {})
    fork = store.sessions.fork("s", user_id=None, title=None)
    assert (fork.user_id, fork.title, store.state.get_all(fork.session_id)) == (None, None, {"k": 1})
    with pytest.raises(InvalidValueError, match="user_id"):
        store.sessions.fork("s", user_id="")


def test_a_session_without_a_ttl_gets_the_store_s(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(clock=clock, default_ttl=HOUR)
    store.sessions.create("created")
    store.sessions.open("opened")
    store.history.append("appended", [NewEntry(1)], create=True)
    for session_id in ("created", "opened", "appended"):
        assert store.sessions.get(session_id).ttl == HOUR, session_id
    assert store.sessions.create("own", ttl=2 * HOUR).ttl == 2 * HOUR
    assert store.sessions.create("never", ttl=NEVER).ttl is None
    assert store.sessions.open("never too", ttl=NEVER).ttl is None
    assert store.sessions.create("part", belongs_to="never").ttl is None
    assert store.sessions.fork("never", "fork").ttl is None
    assert store.sessions.update("created", ttl=NEVER).ttl is None
    assert store.sessions.update("created", title="t").ttl is None


def test_a_saved_session_gets_the_store_s_ttl_unless_it_had_none(open_store: Callable[..., Store]) -> None:
    from statestore import ConversationState

    store = open_store(default_ttl=HOUR)
    store.sessions.save(ConversationState("new"), create=True)
    assert store.sessions.get("new").ttl == HOUR
    store.sessions.create("never", ttl=NEVER)
    conversation = store.sessions.load("never")
    conversation.title = "t"
    store.sessions.save(conversation)
    assert store.sessions.get("never").ttl is None


@pytest.mark.parametrize(
    "options", [{"default_ttl": timedelta(0)}, {"default_ttl": 5}, {"max_sessions": 0}, {"max_sessions": "many"}]
)
def test_options_of_sessions_are_checked(open_store: Callable[..., Store], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(options))):
        open_store(**options)


def test_a_sweep_keeps_the_sessions_that_were_active_last(
    open_store: Callable[..., Store], clock: MovableClock
) -> None:
    store = open_store(clock=clock, max_sessions=3)
    for number in range(7):
        store.sessions.create(f"s{number}")
        clock.advance(minutes=1)
    store.sessions.create("part of s2", belongs_to="s2")
    store.sessions.set_status("s0", "busy")
    store.sessions.touch("s1")
    lease = store.sessions.acquire("s3", owner="me", ttl=HOUR)
    due = store.sweep(dry_run=True)
    report = store.sweep()
    assert due["session_overflow"].rows == report["session_overflow"].rows == 4
    assert {s.session_id for s in store.sessions.page().sessions} >= {"s0", "s3"}
    assert store.sessions.count() == 3
    assert store.sweep()["session_overflow"].rows == 0
    store.sessions.release(lease)


def test_sweeps_at_once_take_no_more_than_is_too_much(open_store: Callable[..., Store]) -> None:
    store = open_store(max_sessions=5)
    for number in range(15):
        store.sessions.create(f"s{number:02}")
    at_once(*(store.sweep for _ in range(4)))
    assert store.sessions.count() == 5


def test_what_is_stuck_in_starting_is_ended(store: Store, clock: MovableClock) -> None:
    store.sessions.create("starting", status="starting")
    store.sessions.create("busy")
    store.sessions.set_status("busy", "busy")
    store.sessions.create("ready")
    clock.advance(hours=2)
    store.sessions.create("fresh", status="starting")
    assert store.sessions.repair_abandoned(older_than=HOUR) == 2
    statuses = {s.session_id: s.status for s in store.sessions.page().sessions}
    assert statuses == {"starting": "dead", "busy": "ready", "ready": "ready", "fresh": "starting"}


def test_the_tokens_of_a_session_are_counted(store: Store) -> None:
    from statestore import Usage

    store.sessions.create("s")
    assert store.sessions.stats("s").token_count == 0
    store.history.append("s", [NewEntry(1, usage=Usage(input_tokens=3, output_tokens=4)), NewEntry(2)])
    assert store.sessions.stats("s").token_count == 7


def test_a_fork_of_what_is_missing_is_refused(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        store.sessions.fork("missing", with_state=False)


INEXACT_ELSEWHERE = [
    "\ud800",
    ["\udfff", 1],
    2**63 - 1,
    -(2**63),
    {"a": 10**30},
    {"a": 10**30 + 1},
    1e300,
    [1e16],
    "A",
    1,
]


@pytest.mark.parametrize("beside", [0, 10**20, "\ud800"])
def test_metadata_that_few_programs_can_read_is_compared_as_well(store: Store, beside: Any) -> None:
    for number, value in enumerate(INEXACT_ELSEWHERE):
        store.sessions.create(f"{number:02}", metadata={"key": value, "beside": beside})
    for number, value in enumerate(INEXACT_ELSEWHERE):
        assert found(store, metadata={"key": value}) == [f"{number:02}"], value


def test_loading_many_extends_the_ttl_of_each_that_is_due(store: Store, clock: MovableClock) -> None:
    for session_id in ("a", "b", "c"):
        store.sessions.create(session_id, ttl=100 * HOUR if session_id == "c" else HOUR)
    store.sessions.create("endless")
    clock.advance(minutes=50)
    loaded = store.sessions.load_many(["endless", "b", "a", "c"])
    assert {session_id: one.expires_at for session_id, one in loaded.items()} == {
        "endless": None,
        "b": clock.now + HOUR,
        "a": clock.now + HOUR,
        "c": NOON + 100 * HOUR,
    }
    assert [store.sessions.get(session_id) for session_id in loaded] == list(loaded.values())


def test_a_key_with_an_odd_character_is_no_other_key(store: Store) -> None:
    for number, key in enumerate(["", "\x00", "\ud800", "\x01"]):
        store.sessions.create(f"{number}", metadata={key: "value"})
    for number, key in enumerate(["", "\x00", "\ud800", "\x01"]):
        assert found(store, metadata={key: "value"}) == [f"{number}"]
