"""The state of users and of agents, which belongs to no session."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from statestore import AppState, CommitUnknownError, ConflictError, InvalidValueError, StateKeyNotFoundError, UserState
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content
from tests.support.wire import Proxy

Store = Any

OWNERS = {"user_state": "user_id", "app_state": "agent_name"}


@pytest.fixture(params=OWNERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def state(store: Store, name: str) -> Any:
    return getattr(store, name)


def test_a_value_comes_back_without_any_session(state: Any, store: Store) -> None:
    entry = state.set("ada", "k", {"b": 1, "a": None})
    assert (entry.key, entry.value, entry.version, entry.created_at) == ("k", {"b": 1, "a": None}, 1, NOON)
    assert state.entry("ada", "k") == entry == state.entries("ada")[0]
    assert list(state.get("ada", "k")) == ["b", "a"]
    assert store.sessions.count() == 0


def test_it_has_all_that_the_state_of_a_session_has(state: Any, clock: MovableClock) -> None:
    assert list(state.set_many("ada", {"b": 2, "a": 1})) == ["b", "a"]
    assert state.get_all("ada") == {"a": 1, "b": 2}
    assert state.get_many("ada", ["b", "c"]) == {"b": 2}
    assert state.increment("ada", "n", 5) == 5
    assert state.increment("ada", "n", -7, ttl=timedelta(minutes=1)) == -2
    assert state.keys("ada") == ["a", "b", "n"]
    assert state.keys("ada", prefix="b") == ["b"]
    assert [entry.key for entry in state.entries("ada", after="a", limit=1)] == ["b"]
    assert state.count("ada") == 3
    assert state.exists("ada", "n") is True
    clock.advance(minutes=1)
    assert state.exists("ada", "n") is False
    assert state.get("ada", "n", 7) == 7
    assert state.set("ada", "a", 2, only_if="missing") is None
    assert state.set("ada", "c", 2, only_if="present") is None
    assert state.set("ada", "a", 3, expected_version=1).version == 2
    assert state.delete("ada", "a") is True
    assert state.delete("ada", "a") is False
    assert state.delete_many("ada", ["a", "b", "c"]) == 1
    assert state.clear("ada") == 0


def test_thousands_of_keys_may_be_written(state: Any) -> None:
    values = {f"key {n:05}": n for n in range(2_500)}
    assert len(state.set_many("ada", values)) == 2_500
    assert state.get_all("ada") == values
    assert state.clear("ada") == 2_500


def test_an_owner_without_keys_has_an_empty_state(state: Any) -> None:
    assert state.get_all("nobody") == {}
    assert state.keys("nobody") == state.entries("nobody") == []
    assert state.count("nobody") == 0
    assert state.exists("nobody", "k") is False
    assert state.delete("nobody", "k") is False
    assert state.set_many("nobody", {}) == {}


def test_each_owner_has_a_state_of_its_own(store: Store, open_store: Callable[..., Store]) -> None:
    other = open_store(namespace="other")
    store.sessions.create("x")
    for number, group in enumerate((store.user_state, store.app_state, store.state, other.user_state)):
        group.set("x", "k", number)
        group.set("x", str(number), number)
    store.user_state.set("y", "k", 9)
    for number, group in enumerate((store.user_state, store.app_state, store.state, other.user_state)):
        assert group.get_all("x") == {"k": number, str(number): number}
    assert store.user_state.clear("x") == 2
    assert store.app_state.count("x") == store.state.count("x") == other.user_state.count("x") == 2
    assert store.user_state.get_all("y") == {"k": 9}


def test_errors_name_whose_key_it_is(state: Any, name: str) -> None:
    with pytest.raises(StateKeyNotFoundError) as missing:
        state.get("ada", "k")
    assert (missing.value.key, missing.value.session_id) == ("k", None)
    assert getattr(missing.value, OWNERS[name]) == "ada"
    state.set("ada", "k", 1)
    with pytest.raises(ConflictError) as conflict:
        state.set("ada", "k", 1, expected_version=3)
    assert (conflict.value.expected, conflict.value.actual) == (3, 1)
    assert getattr(conflict.value, OWNERS[name]) == "ada"
    with pytest.raises(InvalidValueError, match=rf"^{OWNERS[name]}\b"):
        state.set("", "k", 1)


def test_damage_names_whose_key_it_is(store: Store, content: Content) -> None:
    if not content.is_sqlite:
        pytest.skip("PostgreSQL keeps its JSON valid")
    store.user_state.set("ada", "k", 1)
    content.query("UPDATE shared_state SET value = 'secret'")
    with pytest.raises(Exception, match="key 'k' of user 'ada'") as caught:
        store.user_state.get("ada", "k")
    assert "secret" not in str(caught.value)


def test_the_owner_may_be_named(state: Any, name: str) -> None:
    owner = {OWNERS[name]: "ada"}
    state.set(key="k", value=1, **owner)
    assert state.get(key="k", **owner) == state.get("ada", "k") == 1
    for wrong in ({"session_id": "ada"}, {"ada": 1}):
        with pytest.raises(TypeError):
            state.get_all(**wrong)
    with pytest.raises(TypeError):
        state.set("ada", "k", 1, create=True)
    operations = {"user_state": UserState, "app_state": AppState}[name]
    itself, first, *others = inspect.signature(operations.set.method).parameters
    assert (itself, first) == ("self", OWNERS[name])
    assert "create" not in others


def test_it_is_read_and_written_in_a_transaction(state: Any, store: Store, name: str) -> None:
    with store.transaction() as tx:
        getattr(tx, name).set("ada", "k", getattr(tx, name).get("ada", "k", 0) + 1)
        assert getattr(tx, name).get_all("ada") == {"k": 1}
        assert getattr(tx, name).increment("ada", "k") == 2
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        getattr(tx, name).set("ada", "k", 1 / 0 if getattr(tx, name).clear("ada") else 0)
    assert state.get_all("ada") == {"k": 2}


def test_the_sweep_deletes_expired_keys(store: Store, clock: MovableClock, content: Content) -> None:
    store.sessions.create("s")
    for group, owner in ((store.state, "s"), (store.user_state, "ada"), (store.app_state, "bot")):
        group.set_many(owner, {str(n): "value" for n in range(5)}, ttl=timedelta(minutes=1))
        group.set(owner, "stays", 1)
    clock.advance(minutes=1)
    [backlog] = store.usage.expiry_backlog()
    assert (backlog.kind, backlog.due) == ("expired_state", 15)
    due = store.sweep(dry_run=True)
    swept = store.sweep(batch_size=4)
    assert swept["expired_state"] == due["expired_state"]
    assert (swept["expired_state"].rows, swept["expired_state"].bytes) == (15, 15 * 7)
    assert [row["key"] for table in ("state_entries", "shared_state") for row in content.rows(table)] == ["stays"] * 3


def test_the_state_of_an_erased_user_is_erased(store: Store, content: Content) -> None:
    for user in ("ada", "bob"):
        store.sessions.create(user, user_id=user)
        store.state.set(user, "k", 1)
        store.user_state.set_many(user, {"a": 1, "b": 2})
    store.app_state.set("ada", "k", 1)
    receipt = store.sessions.delete_user("ada")
    assert (receipt.sessions, receipt.state_entries, receipt.user_state_entries) == (1, 1, 2)
    assert store.user_state.get_all("ada") == {}
    assert store.user_state.get_all("bob") == {"a": 1, "b": 2}
    assert store.app_state.get_all("ada") == {"k": 1}
    assert store.sessions.delete_user("nobody").user_state_entries == 0
    assert len(content.rows("shared_state")) == 3


def test_keys_that_an_agent_keeps_for_a_user_are_erased_with_the_user(store: Store, content: Content) -> None:
    state = store.app_state
    state.set("bot", "of ada", 1, user_id="ada")
    state.set_many("bot", {"also ada's": 1, "and this": 2}, user_id="ada")
    state.set("helper", "of ada", 1, user_id="ada")
    state.set("bot", "of bob", 1, user_id="bob")
    state.set("bot", "of nobody", 1)
    assert store.sessions.delete_user("ada").user_state_entries == 4
    assert (state.keys("bot"), state.keys("helper")) == (["of bob", "of nobody"], [])
    assert {row["key"] for row in content.rows("shared_state")} == {"of bob", "of nobody"}
    assert store.sessions.delete_user("ada").user_state_entries == 0


def test_a_key_stays_its_users_until_another_one_is_named(store: Store) -> None:
    state = store.app_state
    for change in (
        lambda: state.set("bot", "k", 2),
        lambda: state.set("bot", "k", 2, only_if="present"),
        lambda: state.set("bot", "k", 2, expected_version=1),
        lambda: state.set_many("bot", {"k": 2}),
        lambda: state.increment("bot", "k"),
        lambda: state.set_many("bot", {"k": 2}, only_if="missing", user_id="bob"),
    ):
        state.set("bot", "k", 1, user_id="ada")
        change()
        assert store.sessions.delete_user("bob").user_state_entries == 0
        assert store.sessions.delete_user("ada").user_state_entries == 1
        assert not state.exists("bot", "k")
    state.set("bot", "k", 1, user_id="ada")
    state.set("bot", "k", 2, user_id="bob", only_if="present")
    assert store.sessions.delete_user("ada").user_state_entries == 0
    assert store.sessions.delete_user("bob").user_state_entries == 1


def test_a_key_that_has_expired_is_nobodys(store: Store, clock: MovableClock) -> None:
    store.app_state.set("bot", "k", 1, user_id="ada", ttl=timedelta(minutes=1))
    clock.advance(minutes=2)
    store.app_state.set("bot", "k", 2)
    store.sessions.delete_user("ada")
    assert store.app_state.get("bot", "k") == 2


def test_a_user_is_erased_from_an_agents_state_in_a_transaction_or_not_at_all(store: Store) -> None:
    store.app_state.set("bot", "k", 1, user_id="ada")
    with suppress(ZeroDivisionError), store.transaction() as tx:
        assert tx.sessions.delete_user("ada").user_state_entries == 1
        assert tx.app_state.keys("bot") == []
        raise ZeroDivisionError
    assert store.app_state.get("bot", "k") == 1


def test_only_a_key_of_an_agent_can_be_written_for_a_user(store: Store) -> None:
    store.sessions.create("s")
    for wrong in (
        lambda: store.state.set("s", "k", 1, user_id="ada"),
        lambda: store.user_state.set("ada", "k", 1, user_id="ada"),
    ):
        with pytest.raises(TypeError):
            wrong()
    for user_id in ("", "x" * 513, 1, "a\0b"):
        with pytest.raises(InvalidValueError, match="user_id"):
            store.app_state.set("bot", "k", 1, user_id=user_id)
        with pytest.raises(InvalidValueError, match="user_id"):
            store.app_state.set_many("bot", {"k": 1}, user_id=user_id)
    assert not store.app_state.exists("bot", "k")


def test_an_increment_whose_reply_is_lost_is_not_repeated(connect: Callable[..., Store], proxy: Proxy) -> None:
    store = connect(proxy.url)
    store.user_state.set("ada", "n", 1)
    proxy.lose("reply", "UPDATE")
    with pytest.raises(CommitUnknownError):
        store.user_state.increment("ada", "n")
    assert store.user_state.get("ada", "n") == 2
