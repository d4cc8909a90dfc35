"""Sessions: made, resumed, found, changed and removed."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import make_url

from statestore import ConflictError, NewEntry, Session, SessionExistsError, SessionNotFoundError
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content, unsound

Store = Any

ATTRIBUTES: dict[str, Any] = {
    "user_id": "ada",
    "agent_name": "coder",
    "title": "A title",
    "instructions": "Be kind.\nBe brief.",
    "metadata": {"b": 1, "a": [None, True, 1.5]},
    "project_root": "/srv/project",
    "cwd": "/srv/project/src",
    "ttl": timedelta(hours=1),
}


def test_a_session_comes_back_as_it_was_made(store: Store) -> None:
    made = store.sessions.create("s", status="starting", **ATTRIBUTES)
    assert {name: getattr(made, name) for name in ATTRIBUTES} == ATTRIBUTES
    assert list(made.metadata) == ["b", "a"]
    assert (made.session_id, made.namespace, made.status, made.revision) == ("s", "default", "starting", 1)
    assert (made.created_at, made.last_activity_at, made.expires_at) == (NOON, NOON, NOON + timedelta(hours=1))
    assert (made.first_seq, made.next_seq, made.entry_count) == (1, 1, 0)
    assert (made.parent_session_id, made.forked_at_seq, made.root_session_id) == (None, None, "s")
    assert store.sessions.get("s") == store.sessions.find("s") == made
    assert not made.resumed


def test_a_session_needs_nothing(store: Store) -> None:
    made = store.sessions.create()
    assert {name: getattr(made, name) for name in ATTRIBUTES} == dict.fromkeys(ATTRIBUTES) | {"metadata": {}}
    assert (made.status, made.expires_at) == ("ready", None)


def test_an_id_that_was_not_given_is_a_uuid_that_sorts_by_time(store: Store) -> None:
    made = [store.sessions.create().session_id for _ in range(5)]
    assert made == sorted(set(made))
    assert all(UUID(session_id).version == 7 for session_id in made)


def test_a_session_is_made_once(store: Store) -> None:
    store.sessions.create("s", title="first")
    with pytest.raises(SessionExistsError) as caught:
        store.sessions.create("s", title="second")
    assert (caught.value.session_id, caught.value.namespace) == ("s", "default")
    assert store.sessions.get("s").title == "first"


def test_open_makes_what_is_not_there(store: Store) -> None:
    opened = store.sessions.open("s", **ATTRIBUTES)
    assert not opened.resumed
    assert {name: getattr(opened, name) for name in ATTRIBUTES} == ATTRIBUTES


def test_open_resumes_what_is_there_as_it_is(store: Store) -> None:
    store.sessions.create("s", user_id="ada", instructions="Be kind.")
    store.history.append("s", [NewEntry("a")])
    opened = store.sessions.open("s", user_id="bob", instructions="Be rude.", ttl=timedelta(1))
    assert opened.resumed
    assert (opened.user_id, opened.instructions, opened.ttl, opened.entry_count) == ("ada", "Be kind.", None, 1)
    assert not store.sessions.get("s").resumed


def test_find_gives_none_where_get_raises(store: Store) -> None:
    assert store.sessions.find("missing") is None
    with pytest.raises(SessionNotFoundError):
        store.sessions.get("missing")
    assert store.sessions.exists("missing") is False


def test_exists_tells(store: Store) -> None:
    store.sessions.create("s")
    assert store.sessions.exists("s") is True


def test_an_update_changes_what_is_given_and_nothing_else(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", **ATTRIBUTES)
    clock.advance(minutes=1)
    changed = store.sessions.update("s", title="Another", cwd=None)
    expected = ATTRIBUTES | {"title": "Another", "cwd": None}
    assert {name: getattr(changed, name) for name in ATTRIBUTES} == expected
    assert (changed.revision, changed.created_at, changed.last_activity_at) == (2, NOON, clock())
    assert changed.expires_at == clock() + timedelta(hours=1)
    assert store.sessions.get("s") == changed


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_attribute_can_be_set_and_emptied(store: Store, name: str) -> None:
    store.sessions.create("s")
    assert getattr(store.sessions.update("s", **{name: ATTRIBUTES[name]}), name) == ATTRIBUTES[name]
    assert getattr(store.sessions.update("s", **{name: None}), name) == ({} if name == "metadata" else None)
    assert store.sessions.get("s").revision == 3


def test_a_ttl_that_is_changed_counts_from_now(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s")
    clock.advance(minutes=1)
    assert store.sessions.update("s", ttl=timedelta(minutes=5)).expires_at == clock() + timedelta(minutes=5)
    assert store.sessions.update("s", ttl=None).expires_at is None


def test_an_update_of_the_expected_revision_succeeds(store: Store) -> None:
    store.sessions.create("s")
    assert store.sessions.update("s", title="a", expected_revision=1).revision == 2
    assert store.sessions.update("s", title="b", expected_revision=2).revision == 3


def test_an_update_of_another_revision_changes_nothing(store: Store) -> None:
    store.sessions.create("s")
    before = store.sessions.update("s", title="a")
    with pytest.raises(ConflictError) as caught:
        store.sessions.update("s", title="b", expected_revision=1)
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert store.sessions.get("s") == before


def test_history_and_state_leave_the_revision_alone(store: Store) -> None:
    store.sessions.create("s")
    store.history.append("s", [NewEntry(1)])
    store.state.set("s", "k", 1)
    store.sessions.touch("s")
    assert store.sessions.get("s").revision == 1


def test_merged_metadata_keeps_the_rest_and_its_order(store: Store) -> None:
    store.sessions.create("s", metadata={"a": 1, "b": {"deep": 1}})
    merged = store.sessions.merge_metadata("s", {"c": 3, "b": 2, "d": None})
    assert list(merged.metadata.items()) == [("a", 1), ("b", 2), ("c", 3), ("d", None)]
    assert store.sessions.get("s") == merged
    assert merged.revision == 2


def test_a_touch_moves_the_last_activity(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=timedelta(hours=1))
    clock.advance(minutes=1)
    store.sessions.touch("s")
    found = store.sessions.get("s")
    assert (found.last_activity_at, found.expires_at) == (clock(), clock() + timedelta(hours=1))


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.history.append("s", [NewEntry(1)]),
        lambda store: store.state.set("s", "k", 1),
        lambda store: store.state.set_many("s", {"k": 1}),
        lambda store: store.state.increment("s", "n"),
        lambda store: store.state.delete("s", "there"),
        lambda store: store.state.clear("s"),
        lambda store: store.history.pop_last("s"),
        lambda store: store.history.trim("s", keep_last=0),
        lambda store: store.history.clear("s"),
        lambda store: store.sessions.update("s", title="t"),
        lambda store: store.sessions.merge_metadata("s", {"a": 1}),
    ],
    ids=["append", "set", "set_many", "increment", "delete", "clear state", "pop", "trim", "clear", "update", "merge"],
)
def test_every_write_is_an_activity(store: Store, clock: MovableClock, write: Callable[[Store], Any]) -> None:
    store.sessions.create("s", ttl=timedelta(hours=1))
    store.history.append("s", [NewEntry(0), NewEntry(1)])
    store.state.set("s", "there", 1)
    clock.advance(seconds=1)
    write(store)
    found = store.sessions.get("s")
    assert (found.last_activity_at, found.expires_at) == (clock(), clock() + timedelta(hours=1))


def test_a_deleted_session_is_gone_with_all_that_it_had(store: Store, content: Content) -> None:
    store.sessions.create("s", **ATTRIBUTES)
    store.history.append("s", [NewEntry(1)])
    store.state.set("s", "k", 1)
    assert store.sessions.delete("s") is True
    assert store.sessions.delete("s") is False
    assert not any(content.sizes().values())


def test_a_deleted_session_is_not_brought_back_by_a_late_write(store: Store, content: Content) -> None:
    store.sessions.create("s")
    store.sessions.delete("s")
    for write in (
        lambda: store.history.append("s", [NewEntry(1)]),
        lambda: store.state.set("s", "k", 1),
        lambda: store.state.set_many("s", {"k": 1}),
        lambda: store.state.increment("s", "k"),
        lambda: store.sessions.update("s", title="t"),
        lambda: store.sessions.merge_metadata("s", {"a": 1}),
        lambda: store.sessions.touch("s"),
        lambda: store.history.trim("s", keep_last=0),
    ):
        with pytest.raises(SessionNotFoundError):
            write()
    assert not any(content.sizes().values())


def test_a_session_made_again_under_an_id_is_a_new_one(store: Store) -> None:
    store.sessions.create("s", **ATTRIBUTES)
    store.history.append("s", [NewEntry(1, role="user")])
    store.state.set("s", "k", 1)
    store.sessions.delete("s")
    again = store.sessions.create("s")
    assert (again.title, again.metadata, again.revision, again.next_seq) == (None, {}, 1, 1)
    assert (store.history.read("s"), store.state.get_all("s")) == ([], {})
    [entry] = store.history.append("s", [NewEntry(2, role="user")])
    assert (entry.seq, entry.turn) == (1, 1)


def test_a_user_is_forgotten_with_a_receipt(store: Store, content: Content, clock: MovableClock) -> None:
    for n in range(3):
        store.sessions.create(f"of ada {n}", user_id="ada", ttl=timedelta(minutes=1) if n == 2 else None)
        store.history.append(f"of ada {n}", [NewEntry(n), NewEntry(n)])
        store.state.set(f"of ada {n}", "k", n)
    store.sessions.create("of bob", user_id="bob")
    store.sessions.create("of nobody")
    clock.advance(minutes=2)  # One of them has expired, and is removed and counted all the same.
    receipt = store.sessions.delete_user("ada")
    assert (receipt.user_id, receipt.namespace, receipt.erased_at) == ("ada", "default", clock())
    assert (receipt.sessions, receipt.entries, receipt.state_entries, receipt.summaries) == (3, 6, 3, 0)
    assert {row["session_id"] for row in content.rows("sessions")} == {"of bob", "of nobody"}
    assert content.sizes()["history_entries"] == content.sizes()["state_entries"] == 0
    assert store.sessions.delete_user("ada").sessions == 0


def test_what_a_fork_of_another_user_sees_stays_there(store: Store, content: Content) -> None:
    store.sessions.create("of ada", user_id="ada")
    store.history.append("of ada", [NewEntry(n) for n in range(5)])
    store.sessions.fork("of ada", "of bob", at_seq=3)
    store.sessions.update("of bob", user_id="bob")
    assert store.sessions.delete_user("ada").entries == 2
    assert [entry.content for entry in store.history.read("of bob")] == [0, 1, 2]
    assert unsound(content) == []


def test_a_derived_id_is_the_same_everywhere(store: Store, open_store: Callable[..., Store]) -> None:
    assert store.sessions.derive_id("user-123-session") == "99906396-afa4-5b3f-84bc-2737a6bd1a82"
    assert store.sessions.derive_id("a", "b") != store.sessions.derive_id("a:c", "b")
    other = open_store(namespace="other")
    assert other.sessions.derive_id("user-123-session") != store.sessions.derive_id("user-123-session")


def test_a_store_shows_where_it_is_but_no_password(database_url: str, store: Store) -> None:
    text = repr(store)
    assert "'default'" in text
    url = make_url(database_url)
    assert str(url.database) in text
    assert url.password is None or url.password not in text


def test_values_cannot_be_changed(store: Store) -> None:
    session: Session = store.sessions.create("s")
    with pytest.raises(AttributeError):
        session.title = "changed"  # type: ignore[misc]
