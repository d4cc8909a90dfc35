"""Whole sessions out and in: `load` and `save`, and summaries."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from statestore import (
    ConflictError,
    ConversationState,
    InvalidValueError,
    NewEntry,
    SessionNotFoundError,
    Summary,
    Usage,
)
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound
from tests.support.crowd import at_once

Store = Any


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def texts(entries: Any) -> list[str]:
    return [entry.content["content"] for entry in entries]


@pytest.fixture
def session(store: Store) -> str:
    """Five entries, two state keys, a summary, and every attribute."""
    store.sessions.create(
        "s", user_id="ada", agent_name="a", title="t", instructions="i", metadata={"z": 1, "a": 2},
        project_root="/p", cwd="/p/x", ttl=timedelta(days=1),
    )  # fmt: skip
    store.history.append("s", [user("a"), said("b"), user("c"), said("d"), user("e")])
    store.state.set_many("s", {"k": {"y": 1, "x": 2}, "l": 1})
    store.history.add_summary("s", "a and b", start_seq=1, end_seq=2, token_count=3)
    return "s"


def counts(report: Any) -> tuple[int, int, int, int]:
    return (report.appended, report.trimmed, report.replaced, report.removed)


def test_load_gives_all_of_a_session(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    assert loaded.entries == store.history.read(session)
    assert loaded.state == {"k": {"y": 1, "x": 2}, "l": 1}
    assert loaded.summaries == store.history.summaries(session)
    assert loaded.session == store.sessions.get(session)
    for name in ("user_id", "agent_name", "title", "instructions", "metadata", "project_root", "cwd", "ttl"):
        assert getattr(loaded, name) == getattr(loaded.session, name)


def test_loading_a_missing_session(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        store.sessions.load("missing")


def test_loading_keeps_the_session_alive(store: Store, session: str, clock: MovableClock) -> None:
    for _ in range(3):
        clock.advance(hours=20)
        store.sessions.load(session)
    assert store.sessions.exists(session)


def test_changing_what_was_loaded_changes_nothing_stored(store: Store, session: str, content: Content) -> None:
    before = content.snapshot()
    loaded = store.sessions.load(session)
    loaded.entries.clear()
    loaded.state["k"]["y"] = 9
    loaded.metadata["z"] = 9
    loaded.summaries.clear()
    assert content.snapshot() == before
    assert store.sessions.load(session).state["k"] == {"y": 1, "x": 2}


def test_saving_what_was_loaded_changes_nothing(store: Store, session: str, content: Content) -> None:
    before = content.snapshot()
    report = store.sessions.save(store.sessions.load(session))
    assert counts(report) == (0, 0, 0, 0)
    assert (report.created, report.state_set, report.state_deleted, report.summaries_changed) == (False, (), (), 0)
    assert content.snapshot() == before


def test_what_is_new_is_appended(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    loaded.entries += [said("f"), NewEntry(user("g"), cost_usd=1)]
    assert counts(store.sessions.save(loaded)) == (2, 0, 0, 0)
    assert texts(store.history.read(session)) == list("abcdefg")
    assert store.history.read(session, last=1)[0].turn == 4


def test_what_is_missing_in_front_is_trimmed(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    del loaded.entries[:2]
    assert counts(store.sessions.save(loaded)) == (0, 2, 0, 0)
    assert [entry.seq for entry in store.history.read(session)] == [3, 4, 5]


def test_what_was_edited_is_replaced_where_it_stands(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    loaded.entries[1] = replace(loaded.entries[1], content=said("B"))
    assert counts(store.sessions.save(loaded)) == (0, 0, 1, 0)
    entries = store.history.read(session)
    assert texts(entries) == list("aBcde")
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[1].entry_id == loaded.entries[1].entry_id
    assert entries[1].created_at == loaded.entries[1].created_at


def test_what_is_missing_at_the_end_is_removed(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    del loaded.entries[3:]
    assert counts(store.sessions.save(loaded)) == (0, 0, 0, 2)
    assert [entry.seq for entry in store.history.append(session, [user("x")])] == [4]


def test_all_of_it_at_once(store: Store, session: str, content: Content) -> None:
    loaded = store.sessions.load(session)
    del loaded.entries[0]
    loaded.entries[2] = replace(loaded.entries[2], content=said("D"), metadata={"edited": True})
    loaded.entries.append(said("f"))
    report = store.sessions.save(loaded)
    assert counts(report) == (1, 1, 1, 0)
    assert texts(store.history.read(session)) == list("bcDef")
    assert report.conversation.entries == store.history.read(session)
    assert unsound(content) == []


def test_an_entry_put_in_the_middle_moves_the_others(store: Store, session: str, content: Content) -> None:
    loaded = store.sessions.load(session)
    loaded.entries.insert(1, user("new"))
    store.sessions.save(loaded)
    entries = store.history.read(session)
    assert texts(entries) == ["a", "new", "b", "c", "d", "e"]
    assert [entry.turn for entry in entries] == [1, 2, 2, 3, 3, 4]
    assert {entry.entry_id for entry in loaded.entries if not isinstance(entry, dict)} < {e.entry_id for e in entries}
    assert unsound(content) == []


def test_another_role_counts_the_turns_anew(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    loaded.entries[0] = replace(loaded.entries[0], role="system", content={"role": "system", "content": "a"})
    store.sessions.save(loaded)
    assert [entry.turn for entry in store.history.read(session)] == [0, 0, 1, 1, 2]
    assert store.history.append(session, [user("x")])[0].turn == 3


def test_nothing_but_what_is_given_stays(store: Store) -> None:
    def conversation(*messages: Any) -> ConversationState:
        return ConversationState("s", entries=list(messages))

    assert counts(store.sessions.save(conversation(user("1"), said("2"), user("3")), create=True)) == (3, 0, 0, 0)
    store.sessions.save(conversation(user("other")))
    assert texts(store.history.read("s")) == ["other"]
    store.sessions.save(conversation())
    assert store.history.read("s") == []


def test_messages_are_known_by_their_content(store: Store) -> None:
    messages = [user("1"), said("2"), user("3")]
    store.sessions.save(ConversationState("s", entries=list(messages)), create=True)
    ids = [entry.entry_id for entry in store.history.read("s")]
    report = store.sessions.save(ConversationState("s", entries=[*messages[1:], said("4")]))
    assert counts(report) == (1, 1, 0, 0)
    assert [entry.entry_id for entry in store.history.read("s")][:2] == ids[1:]


def test_the_report_s_conversation_can_be_saved_again(store: Store, session: str) -> None:
    conversation = store.sessions.load(session)
    for number in range(3):
        conversation.entries.append(user(str(number)))
        conversation.state["n"] = number
        conversation = store.sessions.save(conversation).conversation
    assert texts(store.history.read(session))[-3:] == ["0", "1", "2"]
    assert store.state.get(session, "n") == 2


def test_state_becomes_what_is_given(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    loaded.state["k"]["z"] = 3
    del loaded.state["l"]
    loaded.state["new"] = None
    report = store.sessions.save(loaded)
    assert (report.state_set, report.state_deleted) == (("k", "new"), ("l",))
    assert store.state.get_all(session) == {"k": {"y": 1, "x": 2, "z": 3}, "new": None}


def test_attributes_become_what_is_given(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    before = loaded.session
    loaded.metadata["new"] = 1
    store.sessions.save(replace(loaded, title=None, instructions="others"))
    after = store.sessions.get(session)
    assert (after.title, after.instructions, list(after.metadata)) == (None, "others", ["z", "a", "new"])
    assert (after.user_id, after.revision) == ("ada", before.revision + 1)


def test_summaries_become_what_is_given(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    added = replace(loaded.summaries[0], start_seq=3, end_seq=4, content="c and d")
    loaded.summaries[:] = [replace(loaded.summaries[0], content="A and B"), added]
    assert store.sessions.save(loaded).summaries_changed == 2
    assert [summary.content for summary in store.history.summaries(session)] == ["A and B", "c and d"]
    loaded = store.sessions.load(session)
    loaded.summaries.clear()
    assert store.sessions.save(loaded).summaries_changed == 2
    assert store.history.summaries(session) == []


def replace_last(store: Store) -> None:
    store.history.pop_last("s")
    store.history.append("s", [said("theirs")])


def edit(store: Store, **changes: Any) -> None:
    conversation = store.sessions.load("s")
    conversation.entries[1] = replace(conversation.entries[1], **changes)
    store.sessions.save(conversation)


def remake(store: Store) -> None:
    """The same once more: only the session and the ids of its entries are others."""
    theirs = store.sessions.load("s")
    store.sessions.delete("s")
    theirs.entries = [entry.content for entry in theirs.entries]
    store.sessions.save(theirs, create=True)


CHANGES: dict[str, Any] = {
    "append": lambda store: store.history.append("s", [said("theirs")]),
    "pop": lambda store: store.history.pop_last("s"),
    "update": lambda store: store.sessions.update("s", title="theirs"),
    "pop and append": replace_last,
    "edit under the same id": lambda store: edit(store, content=said("theirs")),
    "other metadata of an entry": lambda store: edit(store, metadata={"theirs": 1}),
    "another summary": lambda store: store.history.add_summary("s", "theirs", start_seq=3, end_seq=4),
    "a summary in place of the other": lambda store: store.history.add_summary("s", "theirs", start_seq=1, end_seq=2),
    "delete and make anew": remake,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_others_changed_since_is_not_overwritten(
    store: Store, session: str, content: Content, change: Any
) -> None:
    loaded = store.sessions.load(session)
    loaded.entries.append(said("mine"))
    change(store)
    before = content.snapshot()
    with pytest.raises(ConflictError):
        store.sessions.save(loaded)
    assert content.snapshot() == before


def test_a_session_made_anew_is_another_though_it_looks_the_same(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s")
    loaded = store.sessions.load("s")
    store.sessions.delete("s")
    clock.advance(seconds=1)
    store.sessions.create("s")
    with pytest.raises(ConflictError):
        store.sessions.save(loaded)


def test_nothing_is_lost_of_what_many_change_at_once(store: Store) -> None:
    store.sessions.create("s")
    store.history.append("s", [user("0")])

    def count() -> None:
        for _ in range(5):
            while True:
                conversation = store.sessions.load("s")
                conversation.entries[0] = user(str(int(texts(conversation.entries)[0]) + 1))
                try:
                    store.sessions.save(conversation)
                except ConflictError:
                    continue
                break

    at_once(*[count] * 6)
    assert texts(store.history.read("s")) == ["30"]


def test_a_conversation_can_be_saved_again_and_again(store: Store, session: str) -> None:
    conversation = store.sessions.load(session)
    for number in range(3):
        conversation.entries += [user(str(number)), NewEntry(said("x"), cost_usd=1)]
        conversation.state["n"] = number
        conversation.title = f"title {number}"
        report = store.sessions.save(conversation)
        assert counts(report) == (2, 0, 0, 0)
        assert conversation.session == store.sessions.get(session)
    assert texts(store.history.read(session)) == [*"abcde", "0", "x", "1", "x", "2", "x"]
    conversation.entries.pop()
    store.history.append(session, [said("theirs")])
    with pytest.raises(ConflictError):
        store.sessions.save(conversation)


def test_a_save_that_failed_can_be_repeated(store: Store, session: str) -> None:
    conversation = store.sessions.load(session)
    conversation.entries.append({"role": "user", "content": float("nan")})
    with pytest.raises(InvalidValueError):
        store.sessions.save(conversation)
    conversation.entries[-1] = user("f")
    store.sessions.save(conversation)
    assert texts(store.history.read(session)) == list("abcdef")


def test_a_save_that_was_undone_overwrites_nothing_later(store: Store, session: str) -> None:
    conversation = store.sessions.load(session)
    conversation.entries.append(user("f"))

    def work() -> None:
        with store.transaction() as tx:
            tx.sessions.save(conversation)
            conversation.entries.append(user("g"))
            tx.sessions.save(conversation)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    with pytest.raises(ConflictError):
        store.sessions.save(conversation)
    assert texts(store.history.read(session)) == list("abcde")


def test_one_made_by_hand_goes_on_replacing_what_there_is(store: Store) -> None:
    conversation = ConversationState("s", entries=[user("mine")])
    store.sessions.save(conversation, create=True)
    store.history.append("s", [user("theirs")])
    assert counts(store.sessions.save(conversation)) == (0, 0, 0, 1)


def test_no_metadata_is_empty_metadata(store: Store, session: str) -> None:
    conversation = store.sessions.load(session)
    conversation.metadata = None
    store.sessions.save(conversation)
    assert store.sessions.get(session).metadata == {}
    store.sessions.save(ConversationState("new", metadata=None), create=True)  # type: ignore[arg-type]
    assert store.sessions.get("new").metadata == {}


def test_a_conversation_is_made_of_any_sequences_and_is_its_own(store: Store) -> None:
    messages: list[NewEntry] = [NewEntry("a", entry_id="a")]
    state = {"key": 1}
    conversation = ConversationState("c", entries=messages, state=state)
    conversation.entries.append(user("b"))
    conversation.state["other"] = 2
    assert (len(messages), state) == (1, {"key": 1})
    store.sessions.save(conversation, create=True)
    assert store.history.count("c") == 2
    assert ConversationState("d", entries=(user("b"),)) == ConversationState("d", entries=[user("b")])


def test_a_summary_goes_with_the_entries_that_it_reaches_into(store: Store, session: str) -> None:
    store.history.add_summary(session, "c to e", start_seq=3, end_seq=5)
    conversation = store.sessions.load(session)
    conversation.entries.pop()
    assert store.sessions.save(conversation).summaries_changed == 1
    assert [summary.start_seq for summary in store.history.summaries(session)] == [1]
    conversation.entries.append(user("other"))
    assert store.sessions.save(conversation).summaries_changed == 0
    assert [summary.start_seq for summary in store.history.summaries(session)] == [1]


def test_a_state_key_that_both_changed_is_a_conflict(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    store.state.set(session, "l", 2)
    loaded.state["l"] = 3
    with pytest.raises(ConflictError):
        store.sessions.save(loaded)
    assert store.state.get(session, "l") == 2


def test_a_state_key_that_another_changed_is_left_alone(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    store.state.set(session, "theirs", 2)
    store.state.set(session, "l", 2)
    loaded.state["k"] = 3
    store.sessions.save(loaded)
    assert store.state.get_all(session) == {"k": 3, "l": 2, "theirs": 2}


def test_a_missing_session_is_made_only_when_asked(store: Store) -> None:
    conversation = ConversationState(
        "s", entries=[user("a")], state={"k": 1}, user_id="ada", ttl=timedelta(hours=1), metadata={"m": 1},
        summaries=[],
    )  # fmt: skip
    with pytest.raises(SessionNotFoundError):
        store.sessions.save(conversation)
    report = store.sessions.save(conversation, create=True)
    assert report.created
    session = store.sessions.get("s")
    assert (session.user_id, session.ttl, session.metadata, session.revision) == (
        "ada",
        timedelta(hours=1),
        {"m": 1},
        1,
    )
    assert store.state.get_all("s") == {"k": 1}


def test_a_conversation_that_is_gone_can_be_brought_back(store: Store, session: str) -> None:
    loaded = store.sessions.load(session)
    store.sessions.delete(session)
    with pytest.raises(SessionNotFoundError):
        store.sessions.save(loaded)
    store.sessions.save(loaded, create=True)
    again = store.sessions.load(session)
    assert [entry.entry_id for entry in again.entries] == [entry.entry_id for entry in loaded.entries]
    assert (again.state, texts(again.entries), again.instructions) == (loaded.state, list("abcde"), "i")


def test_an_expired_session_leaves_nothing_behind(store: Store, session: str, clock: MovableClock) -> None:
    clock.advance(days=2)
    store.sessions.save(ConversationState(session, entries=[user("new")]), create=True)
    assert texts(store.history.read(session)) == ["new"]
    assert store.state.get_all(session) == {}


def test_forks_keep_what_they_see(store: Store, session: str, content: Content) -> None:
    store.sessions.fork(session, "f")
    before = store.history.read("f")
    loaded = store.sessions.load(session)
    del loaded.entries[0]
    loaded.entries[1] = replace(loaded.entries[1], content=user("C"))
    store.sessions.save(loaded)
    assert texts(store.history.read("f")) == list("abcde")
    assert [entry.entry_id for entry in store.history.read("f")] == [entry.entry_id for entry in before]
    assert texts(store.history.read(session)) == list("bCde")
    assert unsound(content) == []


def test_saving_a_fork_leaves_its_source_alone(store: Store, session: str, content: Content) -> None:
    store.sessions.fork(session, "f")
    loaded = store.sessions.load("f")
    loaded.entries[1] = replace(loaded.entries[1], content=said("B"))
    loaded.entries.insert(0, user("first"))
    store.sessions.save(loaded)
    assert texts(store.history.read(session)) == list("abcde")
    assert texts(store.history.read("f")) == ["first", "a", "B", "c", "d", "e"]
    assert unsound(content) == []


@pytest.mark.parametrize("forked", [False, True])
def test_what_was_spent_is_not_counted_again(store: Store, content: Content, forked: bool) -> None:
    """Live rows and ledger together say what was appended, however often it is moved about."""
    store.sessions.create("s")
    store.history.append(
        "s", [NewEntry(user(str(n)), usage=Usage(input_tokens=10**n), cost_usd=Decimal(n)) for n in range(5)]
    )
    name = "s"
    if forked:
        store.sessions.fork("s", "f")
        name = "f"
    for change in (
        lambda entries: entries.insert(0, user("x")),
        lambda entries: entries.__setitem__(2, replace(entries[2], content=user("edited"))),
        lambda entries: entries.reverse(),
        lambda entries: entries.__delitem__(slice(0, 2)),
        lambda entries: entries.__delitem__(slice(2, None)),
    ):
        conversation = store.sessions.load(name)
        change(conversation.entries)
        store.sessions.save(conversation)
    [live] = content.query(
        "SELECT coalesce(sum(input_tokens), 0) AS tokens, coalesce(sum(cost_usd), 0) AS cost FROM history_entries"
        " WHERE usage_folded = 0"
    )
    [folded] = content.query(
        "SELECT coalesce(sum(input_tokens), 0) AS tokens, coalesce(sum(cost_usd), 0) AS cost FROM usage_ledger"
    )
    assert live["tokens"] + folded["tokens"] == 11111
    assert Decimal(str(live["cost"])) + Decimal(str(folded["cost"])) == 10
    assert unsound(content) == []


def billed(store: Store) -> tuple[int, int, Decimal]:
    totals = store.usage.totals()
    return (totals.entries, totals.input_tokens, totals.cost_usd or Decimal(0))


BESIDE: list[dict[str, Any]] = [
    {"usage": Usage(input_tokens=7)},
    {"metadata": {"k": 1}},
    {"tool_name": "t"},
    {"agent_name": "planner"},
    {"response_model": "m"},
    {"cost_usd": Decimal("0.5")},
    {"duration": timedelta(seconds=1)},
    {"finish_reason": "stop"},
    {"error_type": "timeout"},
]


@pytest.mark.parametrize("known_by", ["id", "content", "loading"])
def test_what_stands_beside_the_content_is_saved(store: Store, subtests: pytest.Subtests, known_by: str) -> None:
    for beside in BESIDE:
        [name] = beside
        with subtests.test(name):
            store.sessions.create(name)
            first, other = store.history.append(name, [NewEntry("a", role="user", entry_id="one"), NewEntry("b")])
            store.history.append(name, [user("c")])
            conversation = store.sessions.load(name)
            if known_by == "loading":
                conversation.entries[0] = replace(first, **beside)
            else:
                entry_id = "one" if known_by == "id" else None
                conversation.entries[0] = NewEntry("a", role="user", entry_id=entry_id, **beside)
            report = store.sessions.save(conversation)
            assert counts(report) == (0, 0, 1, 0)
            stored, *rest = store.history.read(name)
            assert getattr(stored, name) == beside[name]
            assert (stored.entry_id, stored.seq, stored.created_at) == ("one", 1, first.created_at)
            assert rest[0] == other
            # Once more, and there is nothing left to do.
            conversation = store.sessions.load(name)
            conversation.entries[0] = NewEntry("a", role="user", **beside)
            assert counts(store.sessions.save(conversation)) == (0, 0, 0, 0)


def test_what_the_store_fills_in_is_nothing_to_be_saved(store: Store) -> None:
    store.prices.set("m", input_price=1, output_price=1)
    usage = Usage(input_tokens=10, output_tokens=5)
    given = NewEntry("a", role="user", response_model="m", usage=usage)
    store.sessions.save(ConversationState("s", entries=[given]), create=True)
    [first] = store.history.read("s")
    assert first.cost_usd is not None
    assert counts(store.sessions.save(ConversationState("s", entries=[given]))) == (0, 0, 0, 0)
    assert store.history.read("s") == [first]


def test_a_plain_message_leaves_what_stands_beside_it_alone(store: Store) -> None:
    store.sessions.create("s")
    stored = store.history.append("s", [NewEntry(user("a"), usage=Usage(input_tokens=7), metadata={"k": 1})])
    assert counts(store.sessions.save(ConversationState("s", entries=[user("a")]))) == (0, 0, 0, 0)
    assert store.history.read("s") == stored


@pytest.mark.parametrize("seen", ["by nobody", "by a fork", "by a fork that it came from"])
@pytest.mark.parametrize("known_by", ["id", "content", "loading"])
def test_usage_that_comes_with_a_save_is_billed_once(store: Store, seen: str, known_by: str) -> None:
    store.prices.set("m", input_price=1_000_000, output_price=0)
    store.sessions.create("s")
    store.history.append("s", [user("a"), NewEntry("b", response_model="m", entry_id="one"), user("c")])
    name = "s"
    if seen != "by nobody":
        store.sessions.fork("s", "fork")
        name = "s" if seen == "by a fork" else "fork"
    entries = billed(store)[0]
    usage = Usage(input_tokens=100, output_tokens=1)
    for _ in range(2):
        conversation = store.sessions.load(name)
        if known_by == "loading":
            conversation.entries[1] = replace(conversation.entries[1], usage=usage)
        else:
            entry_id = "one" if known_by == "id" else None
            conversation.entries[1] = NewEntry("b", response_model="m", usage=usage, entry_id=entry_id)
        store.sessions.save(conversation)
        assert billed(store) == (entries, 100, Decimal(100))
    store.history.clear(name)
    assert billed(store) == (entries, 100, Decimal(100))
    store.sessions.delete("s")
    store.sessions.delete("fork")
    assert billed(store) == (entries, 100, Decimal(100))


def test_usage_that_a_save_changes_is_billed_as_it_is_now(store: Store) -> None:
    store.sessions.create("s")
    store.history.append("s", [user("a"), NewEntry("b", usage=Usage(input_tokens=100)), user("c")])
    for tokens in (150, 40):
        conversation = store.sessions.load("s")
        conversation.entries[1] = replace(conversation.entries[1], usage=Usage(input_tokens=tokens))
        store.sessions.save(conversation)
        assert billed(store)[:2] == (3, tokens)
    store.sessions.delete("s")
    assert billed(store)[:2] == (3, 40)


@pytest.mark.parametrize(
    "change",
    [
        {"entries": [user("x"), {"role": "user", "content": float("nan")}]},
        {"entries": {"role": "user"}},
        {"entries": 5},
        {"entries": None},
        {"state": 5},
        {"state": None},
        {"summaries": 5},
        {"summaries": None},
        {"metadata": 5},
        {"title": 5},
        {"state": {"k": {1: 2}}},
        {"state": {"": 1}},
        {"metadata": {"k": {1, 2}}},
        {"ttl": timedelta(0)},
        {"summaries": ["text"]},
        {"entries": [NewEntry("x", entry_id="e"), NewEntry("y", entry_id="e")]},
    ],
    ids=str,
)
def test_what_can_never_be_stored_changes_nothing(
    store: Store, session: str, content: Content, change: dict[str, Any]
) -> None:
    before = content.snapshot()
    with pytest.raises(InvalidValueError):
        store.sessions.save(ConversationState(session, **change))
    assert content.snapshot() == before


def test_a_summary_beyond_the_end_cannot_be_saved(store: Store, session: str, clock: MovableClock) -> None:
    summary = Summary(session_id=session, start_seq=1, end_seq=2, content="x", token_count=None, created_at=clock.now)
    with pytest.raises(InvalidValueError):
        store.sessions.save(ConversationState(session, entries=[user("a")], summaries=[summary]))


def test_only_a_conversation_can_be_saved(store: Store) -> None:
    with pytest.raises(InvalidValueError):
        store.sessions.save({"session_id": "s"})


# --- summaries


def test_a_summary_comes_back(store: Store, session: str, clock: MovableClock) -> None:
    added = store.history.add_summary(session, "c \x01 d 🙂", start_seq=3, end_seq=4)
    assert added == Summary(
        session_id=session, start_seq=3, end_seq=4, content="c \x01 d 🙂", token_count=None, created_at=clock.now
    )
    assert [summary.start_seq for summary in store.history.summaries(session)] == [1, 3]
    assert store.history.summaries(session)[1] == added


def test_a_summary_that_begins_at_the_same_position_is_replaced(store: Store, session: str) -> None:
    store.history.add_summary(session, "longer", start_seq=1, end_seq=4)
    assert [(s.content, s.end_seq, s.token_count) for s in store.history.summaries(session)] == [("longer", 4, None)]


def test_summaries_outlive_what_they_stand_for(store: Store, session: str) -> None:
    store.history.trim(session, keep_last=1)
    assert len(store.history.summaries(session)) == 1


def test_summaries_of_what_is_taken_back_go_too(store: Store, session: str) -> None:
    store.history.add_summary(session, "d and e", start_seq=4, end_seq=5)
    store.history.pop_last(session)
    assert [summary.start_seq for summary in store.history.summaries(session)] == [1]
    store.history.clear(session)
    assert store.history.summaries(session) == []


@pytest.mark.parametrize(("start_seq", "end_seq"), [(0, 1), (2, 1), (1, 6), (6, 6)])
def test_a_summary_stands_for_entries_that_there_were(
    store: Store, session: str, content: Content, start_seq: int, end_seq: int
) -> None:
    before = content.snapshot()
    with pytest.raises(InvalidValueError):
        store.history.add_summary(session, "x", start_seq=start_seq, end_seq=end_seq)
    assert content.snapshot() == before


def test_a_summary_of_a_missing_session(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        store.history.add_summary("missing", "x", start_seq=1, end_seq=1)
    with pytest.raises(SessionNotFoundError):
        store.history.summaries("missing")
