"""One turn of an agent: it begins with what is there, and ends with one commit or none."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from statestore import (
    CommitUnknownError,
    ConflictError,
    InvalidValueError,
    NewEntry,
    SessionNotFoundError,
    StateStore,
    StateStoreError,
    StoreClosedError,
    UnavailableError,
)
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.wire import Proxy, Traffic
from tests.support.worlds import entering

Store = Any


def say(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.fixture
def session(store: Store) -> str:
    store.sessions.create("s", instructions="be kind")
    store.history.append("s", [say("a"), say("b"), say("c")])
    store.state.set_many("s", {"k": {"n": [1]}, "other": 1})
    return "s"


def test_a_turn_begins_with_window_state_and_instructions(store: Store, session: str) -> None:
    with entering(store, store.turn(session, max_entries=2)) as turn:
        assert [entry.seq for entry in turn.window] == [2, 3]
        assert dict(turn.state) == {"k": {"n": [1]}, "other": 1}
        assert (turn.instructions, turn.session.session_id, turn.session_id) == ("be kind", session, session)


def test_a_turn_takes_the_limits_of_a_window(store: Store, session: str) -> None:
    store.history.add_summary(session, "abc", start_seq=1, end_seq=1)
    with entering(
        store, store.turn(session, max_tokens=2, tokenizer=len, keep_system=True, include_summaries=False)
    ) as turn:
        assert (turn.window.tokens, len(turn.window)) == (2, 2)
    with entering(store, store.turn(session, max_entries=1, include_summaries=True)) as turn:
        assert len(turn.window.summaries) == 1


def test_a_turn_that_has_not_seen_the_newest_entry_may_add_to_it(store: Store, session: str) -> None:
    with entering(store, store.turn(session, max_entries=0)) as turn:
        assert len(turn.window) == 0
        turn.append(say("d"))
    assert [entry.content["content"] for entry in store.history.read(session)] == ["a", "b", "c", "d"]


def test_its_end_commits_entries_and_state_together(store: Store, session: str) -> None:
    with entering(store, store.turn(session)) as turn:
        turn.append(say("question"))
        turn.append([NewEntry({"role": "assistant", "content": "answer"}, cost_usd=1), say("more")])
        turn.state["k"] = 2
        del turn.state["other"]
        assert store.history.count(session) == 3
    assert [entry.seq for entry in turn.stored] == [4, 5, 6]
    assert store.history.read(session, last=3) == turn.stored
    assert store.state.get_all(session) == {"k": 2}
    assert store.state.entry(session, "k").version == 2


def test_a_change_within_a_value_is_a_change(store: Store, session: str) -> None:
    with entering(store, store.turn(session)) as turn:
        turn.state["k"]["n"].append(2)
    assert store.state.get(session, "k") == {"n": [1, 2]}


def test_what_is_not_changed_is_not_written(store: Store, session: str) -> None:
    with entering(store, store.turn(session)) as turn:
        assert turn.state["k"]
        turn.state["other"] = 1
        turn.append(say("x"))
    assert store.state.entry(session, "k").version == store.state.entry(session, "other").version == 1


def test_an_exception_writes_nothing(store: Store, session: str, content: Content) -> None:
    before = content.snapshot()

    def work() -> None:
        with entering(store, store.turn(session)) as turn:
            turn.append(say("x"))
            turn.state["k"] = 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert content.snapshot() == before


def test_a_turn_without_anything_writes_nothing(store: Store, session: str, content: Content) -> None:
    before = content.snapshot()
    with entering(store, store.turn(session)):
        pass
    assert content.snapshot() == before


def test_a_missing_session(store: Store) -> None:
    with pytest.raises(SessionNotFoundError), entering(store, store.turn("missing")):
        pytest.fail("the block must not run")


def test_a_session_that_is_made_by_the_commit(store: Store) -> None:
    with entering(store, store.turn("new", create=True, max_entries=5)) as turn:
        assert (list(turn.window), dict(turn.state), turn.instructions, turn.session) == ([], {}, None, None)
        turn.append(say("x"))
        turn.state["k"] = 1
        assert not store.sessions.exists("new")
    assert store.history.count("new") == 1
    assert store.state.get("new", "k") == 1


def test_a_session_is_not_made_by_an_exception(store: Store) -> None:
    def work() -> None:
        with entering(store, store.turn("new", create=True)) as turn:
            turn.append(say("x"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert not store.sessions.exists("new")


def test_a_session_that_expires_during_the_turn_is_not_brought_back(store: Store, clock: MovableClock) -> None:
    store.sessions.create("short", ttl=timedelta(minutes=1))

    def work() -> None:
        with entering(store, store.turn("short")) as turn:
            turn.append(say("x"))
            clock.advance(minutes=1)

    with pytest.raises(SessionNotFoundError) as caught:
        work()
    assert caught.value.unsaved.entries == (say("x"),)


def test_what_was_collected_for_a_session_that_is_gone_is_in_the_error(store: Store, session: str) -> None:
    def work(**changes: Any) -> None:
        with entering(store, store.turn(session)) as turn:
            turn.append(say("paid for"))
            turn.state.update(changes)
            store.sessions.delete(session)

    with pytest.raises(SessionNotFoundError) as caught:
        work(k=2)
    assert (caught.value.unsaved.entries, caught.value.unsaved.state_set) == ((say("paid for"),), {"k": 2})
    store.sessions.create(session)
    with pytest.raises(SessionNotFoundError) as caught:
        work()
    assert caught.value.unsaved.entries == (say("paid for"),)
    with pytest.raises(SessionNotFoundError) as caught:
        store.history.read(session)
    assert caught.value.unsaved is None


CHANGES: dict[str, Callable[[Any], Any]] = {
    "append": lambda turn: turn.append(say("late")),
    "set": lambda turn: turn.state.update(k=2),
    "delete": lambda turn: turn.state.pop("other"),
    "clear": lambda turn: turn.state.clear(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_turn_that_has_ended_collects_nothing(store: Store, session: str, change: Callable[[Any], Any]) -> None:
    with entering(store, store.turn(session)) as committed:
        committed.append(say("mine"))
    turns = [committed]

    def fail() -> None:
        with entering(store, store.turn(session)) as turn:
            turns.append(turn)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for turn in turns:
        with pytest.raises(StoreClosedError, match="the turn has ended"):
            change(turn)
        assert dict(turn.state) == {"k": {"n": [1]}, "other": 1}
        assert turn.unsaved.entries == ()
    assert store.history.count(session) == 4


def conflicting(store: Store, change: Callable[[], Any], work: Callable[[Any], Any], **options: Any) -> ConflictError:
    """The error of a turn during which *change* was made by another."""

    def run() -> None:
        with entering(store, store.turn("s", **options)) as turn:
            work(turn)
            change()

    with pytest.raises(ConflictError) as caught:
        run()
    return caught.value


def test_who_appended_meanwhile_wins_and_nothing_of_the_turn_is_lost(
    store: Store, session: str, content: Content
) -> None:
    states: list[Any] = []

    def change() -> None:
        store.history.append(session, [say("x")])
        states.append(content.snapshot())

    def work(turn: Any) -> None:
        turn.append(say("x"))  # The very same words: not the same entry.
        turn.state["k"] = 2
        del turn.state["other"]

    error = conflicting(store, change, work)
    assert (error.expected, error.actual) == (3, 4)
    assert error.unsaved.entries == (say("x"),)
    assert (error.unsaved.state_set, error.unsaved.state_deleted) == ({"k": 2}, ("other",))
    assert [content.snapshot()] == states
    store.history.append(session, error.unsaved.entries)


def take_its_place(store: Store) -> None:
    """Another entry at the last position, in one transaction."""
    with store.transaction() as tx:
        tx.history.pop_last("s")
        tx.history.append("s", [say("theirs")])


def remake(store: Store, clock: MovableClock) -> None:
    store.sessions.delete("s")
    clock.advance(seconds=1)
    store.sessions.create("s")
    store.history.append("s", [say("a"), say("b"), say("c")])
    store.state.set_many("s", {"k": {"n": [1]}, "other": 1})


@pytest.mark.parametrize("options", [{}, {"max_entries": 0}, {"max_entries": 1, "keep_system": True}], ids=str)
@pytest.mark.parametrize("forked", [False, True])
@pytest.mark.parametrize("changes", [{}, {"k": 2}], ids=str)
def test_another_entry_in_the_place_of_the_last_is_a_conflict(
    store: Store, content: Content, options: dict[str, Any], forked: bool, changes: dict[str, Any]
) -> None:
    store.sessions.create("source")
    store.history.append("source", [{"role": "system", "content": "a"}, say("b"), say("c")])
    if forked:
        store.sessions.fork("source", "s")
    else:
        store.sessions.create("s")
        store.history.append("s", [entry.content for entry in store.history.read("source")])
    states: list[Any] = []

    def change() -> None:
        take_its_place(store)
        states.append(content.snapshot())

    def work(turn: Any) -> None:
        turn.append(say("mine"))
        turn.state.update(changes)

    error = conflicting(store, change, work, **options)
    assert (error.unsaved.entries, error.unsaved.state_set) == ((say("mine"),), changes)
    assert [content.snapshot()] == states


def test_a_session_made_anew_meanwhile_is_a_conflict(store: Store, session: str, clock: MovableClock) -> None:
    error = conflicting(store, lambda: remake(store, clock), lambda turn: turn.append(say("mine")))
    assert error.unsaved.entries == (say("mine"),)
    error = conflicting(store, lambda: remake(store, clock), lambda turn: turn.state.update(k=2))
    assert error.unsaved.state_set == {"k": 2}
    assert store.state.get(session, "k") == {"n": [1]}


def test_a_session_deleted_meanwhile_is_not_made_anew(store: Store, session: str, content: Content) -> None:
    error = conflicting(
        store, lambda: store.sessions.delete(session), lambda turn: turn.append(say("mine")), create=True
    )
    assert error.unsaved.entries == (say("mine"),)
    assert not store.sessions.exists(session)


def test_a_write_under_way_at_the_end_of_a_turn_is_not_missed(postgres_url: str, connect: Any) -> None:
    """The turn's commit waits for one that puts another entry in the place of the last."""
    store = connect(postgres_url)
    store.sessions.create("s")
    store.history.append("s", [say("a"), say("b")])
    done = threading.Event()

    def release(holder: Any) -> None:
        with Content(postgres_url) as admin:
            while not admin.somebody_waits() and not done.is_set():
                pass
        holder.__exit__(None, None, None)

    def work() -> None:
        with entering(store, store.turn("s")) as turn:
            turn.append(say("mine"))
            holder = other.transaction()
            tx = holder.__enter__()
            tx.history.pop_last("s")
            tx.history.append("s", [say("theirs")])
            thread = threading.Thread(target=release, args=(holder,))
            thread.start()
            threads.append(thread)

    threads: list[threading.Thread] = []
    with StateStore.open(postgres_url) as other:
        try:
            with pytest.raises(ConflictError):
                work()
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert [entry.content["content"] for entry in store.history.read("s")] == ["a", "theirs"]


def test_what_others_do_elsewhere_in_the_session_does_not_disturb(store: Store, session: str) -> None:
    with entering(store, store.turn(session)) as turn:
        turn.append(say("mine"))
        store.sessions.update(session, title="t")
        store.sessions.touch(session)
        store.history.trim(session, keep_last=0)
    assert [entry.seq for entry in turn.stored] == [4]


def test_popping_meanwhile_is_a_conflict_too(store: Store, session: str) -> None:
    conflicting(store, lambda: store.history.pop_last(session), lambda turn: turn.append(say("x")))


@pytest.mark.parametrize("key", ["k", "new"])
def test_who_changed_the_same_key_meanwhile_wins(store: Store, session: str, key: str) -> None:
    error = conflicting(store, lambda: store.state.set(session, key, 9), lambda turn: turn.state.update({key: 5}))
    assert error.unsaved.state_set == {key: 5}
    assert store.state.get(session, key) == 9


def test_changes_of_other_keys_do_not_disturb(store: Store, session: str) -> None:
    with entering(store, store.turn(session)) as turn:
        turn.state["k"] = 5
        store.state.set(session, "other", 6)
    assert store.state.get_all(session) == {"k": 5, "other": 6}


def test_state_alone_does_not_mind_appends(store: Store, session: str) -> None:
    with entering(store, store.turn(session)) as turn:
        turn.state["k"] = 5
        store.history.append(session, [say("x")])
    assert store.state.get(session, "k") == 5


def test_another_entry_under_an_id_that_is_stored_is_a_conflict(store: Store, session: str) -> None:
    store.history.append(session, [NewEntry("x", entry_id="mine")])
    error = conflicting(store, lambda: None, lambda turn: turn.append(NewEntry("y", entry_id="mine")))
    assert (error.entry_id, error.field, error.actual) == ("mine", "content", 4)
    assert [entry.content for entry in error.unsaved.entries] == ["y"]
    assert store.history.count(session) == 4


def test_a_turn_may_be_repeated_with_the_same_ids(store: Store, session: str) -> None:
    """As after a CommitUnknownError."""
    for _ in range(2):
        with entering(store, store.turn(session)) as turn:
            turn.append([NewEntry("x", entry_id="one"), NewEntry("y", entry_id="two")])
            turn.state["k"] = 2
    assert turn.stored == store.history.read(session, after=3)
    assert [entry.seq for entry in turn.stored] == [4, 5]
    with entering(store, store.turn(session)) as turn:
        turn.append([NewEntry("z", entry_id="three"), NewEntry("x", entry_id="one"), say("w")])
        turn.state["k"] = 3
    assert [(entry.seq, entry.content) for entry in turn.stored] == [(6, "z"), (4, "x"), (7, say("w"))]
    assert store.history.count(session) == 7
    assert store.state.get(session, "k") == 3


def test_an_id_that_was_stored_during_the_turn_is_a_conflict(store: Store, session: str) -> None:
    entry = NewEntry("x", entry_id="one")
    error = conflicting(store, lambda: store.history.append(session, [entry]), lambda turn: turn.append(entry))
    assert (error.expected, error.actual) == (3, 4)


def test_an_entry_that_can_never_be_stored_is_refused_when_it_is_collected(store: Store, session: str) -> None:
    with entering(store, store.turn(session)) as turn:
        with pytest.raises(InvalidValueError):
            turn.append({"role": "user", "content": float("nan")})
        with pytest.raises(InvalidValueError):
            turn.state["k"] = {1: 2}
        turn.append(say("good"))
    assert store.history.read(session, last=1)[0].content == say("good")


@pytest.mark.parametrize("wrong", [5, None, object(), "text", b"bytes"], ids=lambda given: type(given).__name__)
def test_what_is_neither_an_entry_nor_several_is_refused(store: Store, session: str, wrong: Any) -> None:
    with entering(store, store.turn(session)) as turn:
        with pytest.raises(InvalidValueError, match=r"^entries: must be an entry, or a sequence of entries, not "):
            turn.append(wrong)
        turn.append(say(text) for text in "xy")
    assert len(turn.stored) == 2


def test_what_was_collected_is_a_copy(store: Store, session: str) -> None:
    message = say("before")
    with entering(store, store.turn(session)) as turn:
        turn.append(message)
        message["content"] = "after"
    assert turn.stored[0].content == say("before")


def test_more_entries_than_one_statement_takes(store: Store, session: str) -> None:
    with entering(store, store.turn(session, max_entries=1)) as turn:
        turn.append([say(str(n)) for n in range(1201)])
    assert store.history.count(session) == 1204
    assert turn.stored[-1].turn == 1204


def test_a_turn_inside_a_transaction(store: Store, session: str) -> None:
    with store.transaction() as tx, entering(store, tx.turn(session)) as turn:
        turn.append(say("x"))
        turn.state["k"] = 3
    assert store.history.count(session) == 4
    assert store.state.get(session, "k") == 3


def test_a_turn_inside_a_transaction_that_changes_the_session_itself(store: Store, session: str) -> None:
    def work() -> None:
        with store.transaction() as tx:
            tx.sessions.touch(session)
            with entering(store, tx.turn(session)) as turn:
                turn.append(say("x"))
                tx.history.pop_last(session)
                tx.history.append(session, [say("y")])

    with pytest.raises(ConflictError):
        work()


@pytest.mark.parametrize("change_state", [False, True])
def test_what_a_turn_costs(connect: Any, traffic: Traffic, change_state: bool) -> None:
    store = connect(traffic.url)
    store.sessions.create("s")
    store.history.append("s", [say(str(n)) for n in range(50)])
    store.state.set("s", "k", 1)
    for _ in range(3):
        traffic.clear()
        with entering(store, store.turn("s", max_entries=20)) as turn:
            begun = len(traffic.statements)
            turn.append([say("x"), say("y")])
            if change_state:
                turn.state["k"] = turn.state["k"] + 1
    assert begun == 3  # session, window, state
    if traffic.url.startswith("postgresql"):
        # BEGIN, append, versions, state, COMMIT; without state the append alone.
        assert traffic.round_trips - begun <= (6 if change_state else 1)


@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize("change_state", [False, True])
def test_a_lost_connection_commits_a_turn_once(proxy: Proxy, connect: Any, lost: Any, change_state: bool) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    with entering(store, store.turn("s")) as turn:
        turn.append(say("x"))
        if change_state:
            turn.state["k"] = 1
        proxy.lose(lost, "COMMIT" if change_state else "INSERT INTO")
    assert proxy.faults_left == 0
    assert [entry.content for entry in store.history.read("s")] == [say("x")]
    assert store.state.get_all("s") == ({"k": 1} if change_state else {})
    assert turn.stored == store.history.read("s")


OWN, PLAIN = [NewEntry("new", entry_id="new")], [say("new")]


@pytest.mark.parametrize(
    ("lost", "new"), [("request", []), ("request", OWN), ("reply", OWN), ("request", PLAIN), ("reply", PLAIN)], ids=str
)
def test_a_lost_connection_loses_no_state_beside_an_entry_that_was_stored_before(
    proxy: Proxy, connect: Any, lost: Any, new: list[Any]
) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    store.history.append("s", [NewEntry("old", entry_id="old")])
    with entering(store, store.turn("s")) as turn:
        turn.append([NewEntry("old", entry_id="old"), *new])
        turn.state["k"] = 1
        proxy.lose(lost, "COMMIT")
    assert proxy.faults_left == 0
    assert store.state.get_all("s") == {"k": 1}
    assert turn.stored == store.history.read("s")
    assert len(turn.stored) == 1 + len(new)


def test_what_could_not_be_saved_can_be_had_from_the_turn(proxy: Proxy, connect: Any) -> None:
    store = connect(proxy.url, retry_for=1)
    store.sessions.create("s")
    turns = []

    def work() -> None:
        with entering(store, store.turn("s")) as turn:
            turns.append(turn)
            turn.append(say("x"))
            proxy.lose("request", "INSERT INTO", times=1000)

    with pytest.raises(StateStoreError) as caught:
        work()
    assert isinstance(caught.value, UnavailableError | CommitUnknownError)
    assert turns[0].unsaved.entries == (say("x"),)
