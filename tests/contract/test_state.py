"""The key-value state of a session."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from statestore import ConflictError, InvalidValueError, SessionNotFoundError, StateKeyNotFoundError
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content

Store = Any


@pytest.fixture(autouse=True)
def session(store: Store) -> None:
    store.sessions.create("s")


def test_a_value_comes_back(store: Store) -> None:
    entry = store.state.set("s", "k", {"b": [1, 2.5], "a": None})
    assert (entry.key, entry.value, entry.version) == ("k", {"b": [1, 2.5], "a": None}, 1)
    assert (entry.updated_at, entry.expires_at) == (NOON, None)
    assert store.state.get("s", "k") == {"b": [1, 2.5], "a": None}
    assert list(store.state.get("s", "k")) == ["b", "a"]
    assert store.state.entry("s", "k") == entry


def test_a_value_that_is_none_is_a_value(store: Store) -> None:
    store.state.set("s", "k", None)
    assert store.state.get("s", "k", "default") is None
    assert store.state.get_all("s") == {"k": None}


def test_a_key_that_is_not_there_has_a_default_or_raises(store: Store) -> None:
    assert store.state.get("s", "k", 7) == 7
    assert store.state.get("s", "k", default=None) is None
    with pytest.raises(StateKeyNotFoundError) as caught:
        store.state.get("s", "k")
    assert (caught.value.session_id, caught.value.key) == ("s", "k")


def test_a_default_is_for_the_key_and_not_for_the_session(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        store.state.get("missing", "k", 7)


def test_each_write_is_a_version(store: Store) -> None:
    versions = [store.state.set("s", "k", n).version for n in range(3)]
    store.state.increment("s", "k")
    assert [*versions, store.state.entry("s", "k").version] == [1, 2, 3, 4]
    store.state.delete("s", "k")
    assert store.state.set("s", "k", 0).version == 1


def test_a_write_of_the_expected_version_succeeds(store: Store) -> None:
    assert store.state.set("s", "k", "a", expected_version=0).version == 1
    assert store.state.set("s", "k", "b", expected_version=1).version == 2
    with pytest.raises(ConflictError) as caught:
        store.state.set("s", "k", "c", expected_version=1)
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert store.state.get("s", "k") == "b"


def test_an_expired_key_has_no_version(store: Store, clock: MovableClock) -> None:
    store.state.set("s", "k", "a", ttl=timedelta(seconds=1))
    clock.advance(seconds=1)
    with pytest.raises(ConflictError) as caught:
        store.state.set("s", "k", "b", expected_version=1)
    assert caught.value.actual == 0
    assert store.state.set("s", "k", "b", expected_version=0).version == 1


def test_all_keys_come_in_their_order(store: Store) -> None:
    for key in ("b", "a", "ä", "B", "_", "%", "10", "9"):
        store.state.set("s", key, key)
    found = store.state.get_all("s")
    assert list(found) == sorted(found, key=str.encode)
    assert all(found[key] == key for key in found)
    assert len(found) == 8


def test_several_keys_are_written_at_once(store: Store) -> None:
    store.state.set("s", "b", 0)
    written = store.state.set_many("s", {"c": 3, "b": 2, "a": 1})
    assert list(written) == ["c", "b", "a"]
    assert [entry.version for entry in written.values()] == [1, 2, 1]
    assert store.state.get_all("s") == {"a": 1, "b": 2, "c": 3}


def test_several_keys_are_written_all_or_none(store: Store) -> None:
    with pytest.raises(InvalidValueError):
        store.state.set_many("s", {"a": 1, "b": float("nan")})
    assert store.state.get_all("s") == {}


def test_no_keys_may_be_written(store: Store) -> None:
    assert store.state.set_many("s", {}) == {}


def test_tens_of_thousands_of_keys_may_be_written(store: Store) -> None:
    values = {f"key {n:05}": n for n in range(35_000)}
    assert len(store.state.set_many("s", values)) == 35_000
    assert store.state.get_all("s") == values


def test_a_deleted_key_is_gone(store: Store) -> None:
    store.state.set_many("s", {"a": 1, "b": 2})
    assert store.state.delete("s", "a") is True
    assert store.state.delete("s", "a") is False
    assert store.state.get_all("s") == {"b": 2}


def test_a_cleared_state_is_empty(store: Store) -> None:
    store.state.set_many("s", {"a": 1, "b": 2, "c": 3})
    assert store.state.clear("s") == 3
    assert store.state.clear("s") == 0
    assert store.state.get_all("s") == {}


@pytest.mark.parametrize(
    ("start", "amount", "total"),
    [(None, 1, 1), (5, -7, -2), (1, 0.5, 1.5), (0.1, 0.2, 0.1 + 0.2), (2**53, 1, 2**53 + 1), (2**64 - 2, 1, 2**64 - 1)],
)
def test_an_increment_adds_exactly(store: Store, start: Any, amount: Any, total: Any) -> None:
    if start is not None:
        store.state.set("s", "n", start)
    assert store.state.increment("s", "n", amount) == total
    found = store.state.get("s", "n")
    assert (found, type(found)) == (total, type(total))


def test_an_increment_keeps_the_end_of_a_key(store: Store, clock: MovableClock) -> None:
    store.state.set("s", "n", 1, ttl=timedelta(minutes=1))
    store.state.increment("s", "n")
    assert store.state.entry("s", "n").expires_at == NOON + timedelta(minutes=1)
    store.state.increment("s", "n", ttl=timedelta(minutes=9))
    assert store.state.entry("s", "n").expires_at == NOON + timedelta(minutes=9)


def test_an_increment_of_an_expired_key_starts_at_zero(store: Store, clock: MovableClock) -> None:
    store.state.set("s", "n", 100, ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    assert store.state.increment("s", "n") == 1
    entry = store.state.entry("s", "n")
    assert (entry.version, entry.expires_at) == (1, None)


def test_a_key_ends_by_itself(store: Store, clock: MovableClock, content: Content) -> None:
    entry = store.state.set("s", "short", 1, ttl=timedelta(milliseconds=500))
    store.state.set("s", "long", 2)
    assert entry.expires_at == NOON + timedelta(milliseconds=500)
    clock.advance(milliseconds=499)
    assert store.state.get("s", "short") == 1
    clock.advance(milliseconds=1)
    with pytest.raises(StateKeyNotFoundError):
        store.state.get("s", "short")
    with pytest.raises(StateKeyNotFoundError):
        store.state.entry("s", "short")
    assert store.state.get_all("s") == {"long": 2}
    assert store.state.delete("s", "short") is False
    assert store.state.clear("s") == 1
    assert content.sizes()["state_entries"] == 0


def test_a_read_does_not_extend_a_key(store: Store, clock: MovableClock) -> None:
    store.state.set("s", "k", 1, ttl=timedelta(minutes=1))
    clock.advance(seconds=50)
    store.state.get("s", "k")
    clock.advance(seconds=10)
    assert store.state.get("s", "k", None) is None


def test_a_write_without_a_ttl_lets_a_key_stay(store: Store, clock: MovableClock) -> None:
    store.state.set("s", "k", 1, ttl=timedelta(minutes=1))
    store.state.set("s", "k", 2)
    clock.advance(minutes=2)
    assert store.state.get("s", "k") == 2


def test_an_expired_key_that_is_written_again_starts_afresh(store: Store, clock: MovableClock) -> None:
    store.state.set("s", "k", 1, ttl=timedelta(minutes=1))
    store.state.set("s", "k", 2, ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    assert store.state.set("s", "k", 3).version == 1


@pytest.mark.parametrize("json", ["exact", "lenient"])
def test_an_increment_never_makes_null_of_a_number(
    open_store: Callable[..., Store], json: str, subtests: pytest.Subtests
) -> None:
    store = open_store(json=json)
    counters = {
        "state": (store.state, ("s", "k"), "amount"),
        "user_state": (store.user_state, ("ada", "k"), "amount"),
        "app_state": (store.app_state, ("bot", "k"), "amount"),
        "cache": (store.cache, ("k",), "by"),
    }
    for name, (counter, place, argument) in counters.items():
        with subtests.test(name):
            for amount in (float("nan"), float("inf"), -float("inf")):
                with pytest.raises(InvalidValueError, match="finite") as raised:
                    counter.increment(*place, amount)
                assert (raised.value.argument, counter.exists(*place)) == (argument, False)
            for held, amount in ((1.7e308, 1.7e308), (-1.7e308, -1.7e308), (10**400, 0.5)):
                counter.set(*place, held)
                with pytest.raises(InvalidValueError, match="the sum does not fit") as raised:
                    counter.increment(*place, amount)
                assert (raised.value.argument, counter.get(*place)) == (argument, held)
            counter.set(*place, 10**4300 - 1)
            with pytest.raises(InvalidValueError, match="the sum does not fit"):
                counter.increment(*place, 1)
