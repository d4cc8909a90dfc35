"""Sessions that belong to another: made, hidden, used and gone with it."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from statestore import (
    NEVER,
    InvalidValueError,
    NewEntry,
    NewSession,
    SessionExistsError,
    SessionNotFoundError,
    Usage,
)
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound
from tests.support.crowd import at_once
from tests.support.worlds import entering

Store = Any

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def whole(store: Store) -> Store:
    """A store with a session, two parts of it and another session."""
    store.sessions.create("whole", user_id="ada", ttl=HOUR)
    store.sessions.create("part", belongs_to="whole", user_id="bob")
    store.sessions.open("other part", belongs_to="whole")
    store.sessions.create("another", user_id="ada")
    for session_id in ("whole", "part", "other part", "another"):
        store.history.append(session_id, [NewEntry("hello", role="user")])
        store.state.set(session_id, "key", "value")
    return store


def ids(page: Any) -> set[str]:
    return {session.session_id for session in page.sessions}


def expiry_of(store: Store, session_id: str = "whole") -> Any:
    """Asked for without being a use."""
    return next(one.expires_at for one in store.sessions.page().sessions if one.session_id == session_id)


def test_a_part_knows_what_it_belongs_to(whole: Store) -> None:
    part = whole.sessions.get("part")
    assert (part.belongs_to, part.ttl, part.expires_at, part.user_id) == ("whole", None, None, "bob")
    assert whole.sessions.get("whole").belongs_to is None
    assert whole.sessions.open("part", belongs_to="another").belongs_to == "whole"


def test_a_part_of_a_part_belongs_to_the_whole(whole: Store) -> None:
    assert whole.sessions.create("deeper", belongs_to="part").belongs_to == "whole"
    assert whole.sessions.delete("part")
    assert whole.sessions.exists("deeper")


def test_a_part_needs_a_living_session(store: Store, clock: MovableClock, content: Content) -> None:
    store.sessions.create("gone", ttl=SECOND)
    clock.advance(hours=1)
    for call in (
        partial(store.sessions.create, "part", belongs_to="missing"),
        partial(store.sessions.open, "part", belongs_to="missing"),
        partial(store.sessions.create, "part", belongs_to="part"),
        partial(store.sessions.create, "part", belongs_to="gone"),
    ):
        with pytest.raises(SessionNotFoundError):
            call()
    assert [row["session_id"] for row in content.rows("sessions")] == ["gone"]


def test_a_part_has_no_ttl_of_its_own(whole: Store) -> None:
    for call in (
        partial(whole.sessions.create, "new", belongs_to="whole", ttl=HOUR),
        partial(whole.sessions.open, "new", belongs_to="whole", ttl=HOUR),
        partial(whole.sessions.update, "part", ttl=HOUR),
    ):
        with pytest.raises(InvalidValueError, match="ttl"):
            call()
    assert not whole.sessions.exists("new")
    assert whole.sessions.create("new", belongs_to="whole", ttl=NEVER).ttl is None
    assert whole.sessions.update("part", ttl=None, title="t").title == "t"


@pytest.mark.parametrize("belongs_to", ["", 7, "\0"])
def test_what_a_part_belongs_to_is_a_key(store: Store, belongs_to: Any) -> None:
    with pytest.raises(InvalidValueError, match="belongs_to"):
        store.sessions.create("part", belongs_to=belongs_to)
    assert not store.sessions.exists("part")


def test_a_part_takes_no_id_of_a_living_session(whole: Store) -> None:
    before = whole.sessions.get("whole").last_activity_at
    with pytest.raises(SessionExistsError):
        whole.sessions.create("another", belongs_to="whole")
    assert whole.sessions.get("another").belongs_to is None
    assert whole.sessions.get("whole").last_activity_at == before


def test_parts_are_hidden_from_lists(whole: Store) -> None:
    assert ids(whole.sessions.page()) == {"whole", "another"}
    assert whole.sessions.count() == 2
    assert ids(whole.sessions.page(belongs_to="whole")) == {"part", "other part"}
    assert whole.sessions.count(belongs_to="whole") == 2
    assert whole.sessions.count(belongs_to="another") == 0
    assert ids(whole.sessions.page(include_parts=True)) == {"whole", "part", "other part", "another"}
    assert whole.sessions.count(include_parts=True, user_id="bob") == 1


def test_another_namespace_has_no_part_of_it(whole: Store, open_store: Callable[..., Store]) -> None:
    with pytest.raises(SessionNotFoundError):
        open_store(namespace="elsewhere").sessions.create("part of it", belongs_to="whole")


def test_a_part_expires_with_the_whole(whole: Store, clock: MovableClock) -> None:
    clock.advance(minutes=61)
    assert whole.sessions.find("part") is None
    assert not whole.sessions.exists("part")
    assert whole.sessions.count(include_parts=True) == 1
    for call in (
        partial(whole.history.append, "part", [NewEntry("late")]),
        partial(whole.history.read, "part"),
        partial(whole.state.get, "part", "key"),
        partial(whole.state.set, "part", "key", 1),
        partial(whole.sessions.touch, "part"),
        partial(whole.sessions.load, "part"),
        partial(whole.sessions.fork, "part", "fork"),
    ):
        with pytest.raises(SessionNotFoundError):
            call()


def test_reads_of_a_part_keep_the_whole(whole: Store, clock: MovableClock) -> None:
    for read in (
        partial(whole.sessions.get, "part"),
        partial(whole.history.read, "part"),
        partial(whole.state.get, "part", "key"),
        partial(whole.sessions.load_many, ["part"]),
        partial(whole.history.last_many, ["part"], 1),
        partial(whole.sessions.create, "new", belongs_to="whole"),
    ):
        clock.advance(hours=0.9)
        read()
    assert whole.sessions.get("part").session_id == "part"
    assert whole.sessions.exists("whole")


def test_writes_to_a_part_keep_the_whole(whole: Store, clock: MovableClock) -> None:
    def in_a_turn() -> None:
        with entering(whole, whole.turn("part")) as turn:
            turn.append({"role": "user", "content": "in a turn"})

    def in_a_transaction() -> None:
        with whole.transaction() as tx:
            tx.history.append("part", [NewEntry("in a transaction")])

    writes: dict[str, Callable[[], Any]] = {
        "append": partial(whole.history.append, "part", [NewEntry("late")]),
        "append with an id": partial(whole.history.append, "part", [NewEntry("late", entry_id="id")]),
        "append it again": partial(whole.history.append, "part", [NewEntry("late", entry_id="id")]),
        "append nothing": partial(whole.history.append, "part", []),
        "append to a new part": partial(
            whole.history.append, "new part", [NewEntry("x")], create=NewSession(belongs_to="whole")
        ),
        "append many": partial(whole.history.append, "part", [NewEntry(n) for n in range(600)]),
        "turn": in_a_turn,
        "transaction": in_a_transaction,
        "touch": partial(whole.sessions.touch, "part"),
        "state": partial(whole.state.set, "part", "key", 1),
        "list": partial(whole.lists.append, "part", "list", [1]),
    }
    for name, write in writes.items():
        clock.advance(hours=0.9)
        write()
        expires_at = expiry_of(whole)
        assert expires_at == clock() + HOUR, name
    clock.advance(hours=0.09)
    whole.history.append("part", [NewEntry("soon after")])
    assert expiry_of(whole) == expires_at


def test_appends_to_parts_in_one_batch_keep_each_whole(whole: Store, clock: MovableClock) -> None:
    whole.sessions.create("next", ttl=HOUR)
    whole.sessions.create("part of next", belongs_to="next")
    clock.advance(hours=0.9)
    parts = ["part", "other part", "another", "part of next"] * 5
    at_once(*(partial(whole.history.append, part, [NewEntry(n)]) for n, part in enumerate(parts)))
    assert expiry_of(whole) == expiry_of(whole, "next") == clock() + HOUR


def test_an_append_to_a_part_waits_for_nobody_who_has_the_whole(
    whole: Store, open_store: Callable[..., Store], clock: MovableClock, database_url: str
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("SQLite has one writer")
    clock.advance(hours=0.5)
    other = open_store(clock=clock)
    with whole.transaction() as tx:
        tx.sessions.update("whole", title="t")
        other.history.append("part", [NewEntry("meanwhile")])
        tx.sessions.delete("whole")
    assert not whole.sessions.exists("part")


def test_a_part_whose_whole_goes_while_metadata_is_merged_is_gone(whole: Store, content: Content) -> None:
    if content.is_sqlite:
        pytest.skip("SQLite has one writer")

    def end_the_whole() -> None:
        while not content.somebody_waits():
            pass
        content.query("UPDATE sessions SET expires_at = created_at WHERE session_id = 'whole'")
        content.query("COMMIT")

    def merge() -> None:
        with pytest.raises(SessionNotFoundError):
            whole.sessions.merge_metadata("part", {"a": 1})

    content.query("BEGIN")
    content.query("LOCK TABLE sessions IN SHARE MODE")  # The part can be locked and read, and then not written.
    at_once(merge, end_the_whole)
    assert [row["metadata"] for row in content.rows("sessions", session_id="part")] == [{}]


@pytest.mark.parametrize("way", ["delete", "in a transaction", "sweep", "create again"])
def test_parts_go_with_the_whole(whole: Store, clock: MovableClock, content: Content, way: str) -> None:
    if way == "delete":
        assert whole.sessions.delete("whole")
    elif way == "in a transaction":
        with whole.transaction() as tx:
            assert tx.sessions.delete("whole")
    else:
        clock.advance(minutes=61)
        if way == "create again":
            whole.sessions.create("whole")
            assert whole.sessions.find("part") is None
            whole.sweep()
            assert whole.sessions.delete("whole")
        else:
            due = whole.sweep(dry_run=True)
            report = whole.sweep()
            assert {kind: swept.rows for kind, swept in due.kinds.items() if swept.rows} == {
                kind: swept.rows for kind, swept in report.kinds.items() if swept.rows
            }
            assert report["expired_sessions"].rows == 3
            assert report.complete
    assert [row["session_id"] for row in content.rows("sessions")] == ["another"]
    assert [row["session_id"] for row in content.rows("history_entries")] == ["another"]
    assert unsound(content) == []


def test_parts_of_a_long_session_go_with_it(store: Store, content: Content) -> None:
    store.sessions.create("whole")
    store.history.append("whole", [NewEntry(n) for n in range(1100)])
    store.sessions.create("part", belongs_to="whole")
    store.history.append("part", [NewEntry(n) for n in range(1100)])
    assert store.sessions.delete("whole")
    assert content.rows("sessions") == content.rows("history_entries") == []


def test_deleting_a_part_leaves_the_whole(whole: Store) -> None:
    assert whole.sessions.delete("part")
    assert ids(whole.sessions.page(belongs_to="whole")) == {"other part"}
    assert whole.sessions.exists("whole")


def test_no_part_comes_back_with_another_session_of_the_id(whole: Store) -> None:
    whole.sessions.delete("whole")
    whole.sessions.create("whole")
    assert whole.sessions.count(belongs_to="whole") == 0
    assert whole.sessions.create("part").belongs_to is None


def test_erasing_a_user_takes_the_parts_of_the_user_s_sessions(whole: Store, content: Content) -> None:
    receipt = whole.sessions.delete_user("ada")
    assert receipt.sessions == 4
    assert receipt.entries == 4
    assert content.rows("sessions") == []


def test_idle_parts_stay_with_a_session_in_use_and_keep_it(whole: Store, clock: MovableClock) -> None:
    whole.sessions.update("whole", ttl=None)
    whole.set_retention(HOUR)
    clock.advance(hours=0.8)
    whole.sessions.touch("whole")
    clock.advance(hours=0.8)
    assert whole.sweep()["idle_sessions"].rows == 1
    whole.history.append("part", [NewEntry("still here")])
    clock.advance(hours=0.8)
    assert whole.sweep()["idle_sessions"].rows == 0
    clock.advance(hours=1)
    assert whole.sweep(dry_run=True)["idle_sessions"].rows == 3
    assert whole.sweep()["idle_sessions"].rows == 3
    assert whole.sessions.count(include_parts=True) == 0


def test_a_fork_of_a_part_is_a_part_and_a_fork_of_the_whole_has_none(whole: Store) -> None:
    assert whole.sessions.fork("part", "fork of part").belongs_to == "whole"
    assert whole.sessions.fork("whole", "fork of whole").belongs_to is None
    assert whole.sessions.count(belongs_to="fork of whole") == 0
    assert whole.sessions.delete("whole")
    assert whole.sessions.find("fork of part") is None
    assert [entry.content for entry in whole.history.read("fork of whole")] == ["hello"]


def test_a_fork_can_be_a_part_of_its_source(store: Store, clock: MovableClock) -> None:
    store.sessions.create("whole", ttl=HOUR, user_id="ada")
    store.history.append("whole", [NewEntry("x", role="user")] * 3)
    part = store.sessions.fork("whole", "part", at_seq=2, as_part=True)
    assert (part.belongs_to, part.parent_session_id, part.ttl, part.user_id) == ("whole", "whole", None, "ada")
    assert store.sessions.fork("part", "part of part", as_part=True).belongs_to == "whole"
    assert ids(store.sessions.page()) == {"whole"}
    assert ids(store.sessions.page(belongs_to="whole")) == {"part", "part of part"}
    store.history.append("part", [NewEntry("x", role="user")] * 1)
    store.history.clear("whole")
    assert [store.history.count(each) for each in ("whole", "part", "part of part")] == [0, 3, 2]
    clock.advance(hours=1)
    assert store.sessions.find("part") is None


@pytest.mark.parametrize("way", ["delete", "delete_user", "expire"])
def test_forks_that_are_parts_go_with_their_source(store: Store, clock: MovableClock, way: str) -> None:
    store.sessions.create("whole", ttl=HOUR, user_id="ada")
    store.history.append("whole", [NewEntry("x", role="user")] * 3)
    store.sessions.fork("whole", "part", as_part=True)
    store.sessions.fork("whole", "fork")
    store.sessions.update("fork", ttl=NEVER, user_id=None)
    match way:
        case "delete":
            assert store.sessions.delete("whole")
        case "delete_user":
            store.sessions.delete_user("ada")
        case "expire":
            clock.advance(hours=1)
    assert store.sessions.find("part") is None
    clock.advance(days=2)
    store.sweep()
    assert store.sessions.count(include_parts=True) == 1
    assert store.history.count("fork") == 3


def test_a_part_is_saved_as_a_part(whole: Store) -> None:
    conversation = whole.sessions.load("part")
    conversation.entries.append(NewEntry("more"))
    whole.sessions.save(conversation)
    assert whole.sessions.get("part").belongs_to == "whole"
    assert whole.history.count("part") == 2


@pytest.mark.parametrize("seed", range(10))
def test_no_part_outlives_the_whole(store: Store, content: Content, seed: int) -> None:
    store.sessions.create("whole")

    def make(name: str) -> None:
        try:
            store.sessions.create(name, belongs_to="whole")
            store.history.append(name, [NewEntry("a")])
        except SessionNotFoundError:
            pass

    def delete() -> None:
        assert store.sessions.delete("whole")

    at_once(delete, *(partial(make, f"part {n}") for n in range(3)))
    assert store.sessions.count(include_parts=True) == 0
    store.sessions.create("whole")
    assert store.sessions.count(include_parts=True) == 1
    store.sweep()
    assert [row["session_id"] for row in content.rows("sessions")] == ["whole"]


def test_the_usage_of_a_session_is_asked_with_or_without_its_parts(whole: Store) -> None:
    for number, session_id in enumerate(("whole", "part", "other part", "another")):
        whole.history.append(session_id, [NewEntry("used", usage=Usage(input_tokens=10**number))])
    ask = partial(whole.usage.totals, session_id="whole")
    assert ask().input_tokens == 1
    assert ask(include_parts=True).input_tokens == 111
    rows = whole.usage.by_session(session_id="whole", include_parts=True)
    assert {row.session_id: row.input_tokens for row in rows} == {"whole": 1, "part": 10, "other part": 100}
    with pytest.raises(InvalidValueError, match="include_parts"):
        whole.usage.totals(include_parts=True)


def test_erasing_a_user_leaves_others_the_bill_for_their_parts(store: Store) -> None:
    store.sessions.create("whole", user_id="ada")
    store.sessions.create("part", user_id="bob", belongs_to="whole")
    for session_id in ("whole", "part"):
        store.history.append(session_id, [NewEntry("x", usage=Usage(input_tokens=5, output_tokens=1))])
    store.sessions.delete_user("ada")
    assert store.sessions.find("part") is None
    assert {row.user_id: row.input_tokens for row in store.usage.by_user()} == {None: 5, "bob": 5}
    assert "part" not in {row.session_id for row in store.usage.by_session()}
