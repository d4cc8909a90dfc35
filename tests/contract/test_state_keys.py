"""Looking through the keys of a state, and writing under conditions."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from statestore import ConflictError, InvalidValueError, NewSession, SessionNotFoundError
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content

Store = Any

KEYS = ["a", "user:", "user:1", "user:2", "user;", "user:\U0010ffff", "user:\U0010ffff!", "ü", "\ud7ff", "\U0001f600"]


@pytest.fixture(autouse=True)
def session(store: Store) -> None:
    store.sessions.create("s")


@pytest.fixture
def keyed(store: Store) -> Store:
    store.state.set_many("s", {key: f"value of {key}" for key in KEYS})
    return store


def test_keys_come_in_the_order_of_their_characters(keyed: Store) -> None:
    assert keyed.state.keys("s") == sorted(KEYS)
    assert [entry.key for entry in keyed.state.entries("s")] == sorted(KEYS)
    assert keyed.state.count("s") == len(KEYS)


@pytest.mark.parametrize(
    "prefix", ["", "u", "user:", "user:\U0010ffff", "\ud7ff", "\U0001f600", "\U0010ffff", "%", "A"]
)
def test_a_prefix_is_taken_character_by_character(keyed: Store, prefix: str) -> None:
    expected = sorted(key for key in KEYS if key.startswith(prefix))
    assert keyed.state.keys("s", prefix=prefix) == expected
    assert [entry.key for entry in keyed.state.entries("s", prefix=prefix)] == expected
    assert keyed.state.count("s", prefix=prefix) == len(expected)


def test_keys_come_in_pages(keyed: Store) -> None:
    found: list[str] = []
    while page := keyed.state.keys("s", after=found[-1] if found else None, limit=3):
        assert len(page) <= 3
        found += page
    assert found == sorted(KEYS)
    assert keyed.state.keys("s", prefix="user:", after="user:1", limit=1) == ["user:2"]
    assert keyed.state.keys("s", after="no key") == [key for key in sorted(KEYS) if key > "no key"]
    assert keyed.state.keys("s", limit=0) == keyed.state.entries("s", limit=0) == []


def test_keys_come_from_the_end(keyed: Store) -> None:
    found: list[str] = []
    while page := keyed.state.keys("s", after=found[-1] if found else None, limit=3, descending=True):
        assert len(page) <= 3
        found += page
    assert found == sorted(KEYS, reverse=True)
    assert [entry.key for entry in keyed.state.entries("s", descending=True)] == found
    assert keyed.state.entries("s", prefix="user:", after="user:2", limit=1, descending=True)[0].key == "user:1"
    assert keyed.state.keys("s", after="no key", descending=True) == ["a"]
    assert keyed.state.keys("s", prefix="none", descending=True) == []
    assert keyed.state.keys("s", limit=0, descending=True) == []


def test_several_keys_are_read_with_those_of_a_prefix(keyed: Store) -> None:
    found = keyed.state.get_many("s", ["ü", "none", "a"], prefix="user:")
    assert list(found) == ["ü", "a", *sorted(key for key in KEYS if key.startswith("user:"))]
    assert all(value == f"value of {key}" for key, value in found.items())
    assert list(keyed.state.get_many("s", ["user:2", "a"], prefix="user:")) == [
        "user:2", "a", "user:", "user:1", "user:\U0010ffff", "user:\U0010ffff!",
    ]  # fmt: skip
    assert keyed.state.get_many("s", [], prefix="none") == {}
    assert len(keyed.state.get_many("s", [], prefix="")) == len(KEYS)


def test_several_keys_are_written_if_they_are_missing(store: Store, clock: MovableClock) -> None:
    store.state.set("s", "kept", 1)
    store.state.set("s", "gone", 1, ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    written = store.state.set_many("s", {"new": 2, "kept": 2, "gone": 2}, only_if="missing")
    assert {key: (entry.value, entry.version) for key, entry in written.items()} == {"new": (2, 1), "gone": (2, 1)}
    assert store.state.get_all("s") == {"gone": 2, "kept": 1, "new": 2}
    assert store.state.set_many("s", {"new": 3, "kept": 3}, only_if="missing") == {}
    assert store.state.set_many("s", {}, only_if="missing") == {}
    with store.transaction() as tx:
        assert list(tx.state.set_many("s", {"new": 3, "more": 3}, only_if="missing")) == ["more"]
        assert tx.state.keys("s", descending=True, limit=1) == ["new"]
        assert tx.state.get_many("s", ["new"], prefix="m") == {"new": 2, "more": 3}
    made = store.state.set_many("other", {"k": 1}, only_if="missing", create=True)
    assert made["k"].version == 1
    with pytest.raises(InvalidValueError, match="only_if"):
        store.state.set_many("s", {"k": 1}, only_if="present")


def test_an_entry_says_when_it_was_made_and_how_large_it_is(store: Store, clock: MovableClock) -> None:
    store.state.set("s", "k", "ü")
    clock.advance(minutes=1)
    store.state.set("s", "k", "üü")
    clock.advance(minutes=1)
    store.state.increment("s", "n")
    store.state.increment("s", "n", 9)
    [k, n] = store.state.entries("s")
    assert (k.value, k.version, k.created_at, k.updated_at, k.size_bytes) == (
        "üü", 2, NOON, NOON + timedelta(minutes=1), 6,
    )  # fmt: skip
    assert (n.value, n.version, n.created_at, n.size_bytes) == (10, 2, clock(), 2)
    assert store.state.entry("s", "k") == k


def test_an_expired_key_that_is_written_again_is_made_then(store: Store, clock: MovableClock) -> None:
    store.state.set("s", "k", 1, ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    assert store.state.set("s", "k", 2).created_at == clock()


def test_a_key_from_before_has_the_time_of_its_last_write(store: Store, clock: MovableClock, content: Content) -> None:
    store.state.set("s", "k", 1)
    content.query("UPDATE state_entries SET created_at = NULL")
    clock.advance(minutes=1)
    assert store.state.entry("s", "k").created_at == NOON
    assert store.state.set("s", "k", 2).created_at == NOON
    content.query("UPDATE state_entries SET created_at = NULL")
    assert store.state.increment("s", "k") == 3
    assert store.state.entry("s", "k").created_at == NOON + timedelta(minutes=1)


def test_several_keys_are_read_at_once(keyed: Store) -> None:
    assert list(keyed.state.get_many("s", ["user:2", "missing", "a", "a"]).items()) == [
        ("user:2", "value of user:2"),
        ("a", "value of a"),
    ]
    assert keyed.state.get_many("s", iter(["a"])) == {"a": "value of a"}
    assert keyed.state.get_many("s", []) == {}


def test_several_keys_are_removed_at_once(keyed: Store) -> None:
    assert keyed.state.delete_many("s", iter(["user:1", "missing", "a", "a"])) == 2
    assert keyed.state.delete_many("s", ["user:1"]) == 0
    assert keyed.state.delete_many("s", []) == 0
    assert keyed.state.keys("s") == sorted({*KEYS} - {"user:1", "a"})


def test_a_key_exists_or_not(keyed: Store) -> None:
    assert keyed.state.exists("s", "a") is True
    assert keyed.state.exists("s", "b") is False


def test_expired_keys_are_not_there(store: Store, clock: MovableClock) -> None:
    store.state.set("s", "short", 1, ttl=timedelta(minutes=1))
    store.state.set("s", "long", 2)
    clock.advance(minutes=1)
    assert store.state.keys("s") == ["long"]
    assert [entry.key for entry in store.state.entries("s")] == ["long"]
    assert store.state.count("s") == 1
    assert store.state.exists("s", "short") is False
    assert store.state.get_many("s", ["short", "long"]) == {"long": 2}
    assert store.state.delete_many("s", ["short"]) == 0


READS: dict[str, Callable[[Store], Any]] = {
    "keys": lambda store: store.state.keys("s"),
    "entries": lambda store: store.state.entries("s"),
    "get_many": lambda store: store.state.get_many("s", ["k"]),
}
LOOKS: dict[str, Callable[[Store], Any]] = {
    "count": lambda store: store.state.count("s"),
    "exists": lambda store: store.state.exists("s", "k"),
    "get_all_many": lambda store: store.state.get_all_many(["s"]),
}
WRITES: dict[str, Callable[[Store], Any]] = {
    "set": lambda store: store.state.set("s", "k", 1),
    "set, only_if": lambda store: store.state.set("s", "k", 1, only_if="missing"),
    "set, expected_version": lambda store: store.state.set("s", "k", 1, expected_version=0),
    "set_many": lambda store: store.state.set_many("s", {"k": 1}),
    "increment": lambda store: store.state.increment("s", "k"),
    "delete": lambda store: store.state.delete("s", "k"),
    "delete_many": lambda store: store.state.delete_many("s", ["k"]),
    "clear": lambda store: store.state.clear("s"),
}


@pytest.mark.parametrize("name", sorted({**READS, **LOOKS, **WRITES}.keys() - {"get_all_many"}))
def test_there_is_no_state_without_a_session(store: Store, clock: MovableClock, content: Content, name: str) -> None:
    call = {**READS, **LOOKS, **WRITES}[name]
    store.sessions.delete("s")
    with pytest.raises(SessionNotFoundError):
        call(store)
    store.sessions.create("s", ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    with pytest.raises(SessionNotFoundError):
        call(store)
    with store.transaction() as tx, pytest.raises(SessionNotFoundError):
        call(tx)
    assert content.rows("state_entries") == []


@pytest.mark.parametrize("name", READS | WRITES)
def test_reads_and_writes_extend_the_session(store: Store, clock: MovableClock, name: str) -> None:
    store.sessions.update("s", ttl=timedelta(minutes=10))
    clock.advance(minutes=9)
    (READS | WRITES)[name](store)
    assert store.sessions.page().sessions[0].expires_at == clock() + timedelta(minutes=10)


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("name", WRITES)
def test_writes_to_a_part_extend_what_it_belongs_to(
    store: Store, clock: MovableClock, name: str, in_transaction: bool
) -> None:
    store.sessions.delete("s")
    store.sessions.create("whole", ttl=timedelta(minutes=10))
    store.sessions.create("s", belongs_to="whole")
    clock.advance(minutes=9)
    if in_transaction:
        with store.transaction() as tx:
            WRITES[name](tx)
    else:
        WRITES[name](store)
    part, whole = sorted(store.sessions.page(include_parts=True).sessions, key=lambda session: session.session_id)
    assert whole.expires_at == clock() + timedelta(minutes=10)
    assert part.last_activity_at == clock()


def test_a_part_is_told_of_a_write_once_a_second_though_what_it_belongs_to_is_due(
    store: Store, clock: MovableClock
) -> None:
    store.sessions.create("whole", ttl=timedelta(milliseconds=500))
    store.sessions.create("part", belongs_to="whole")
    for _ in range(5):
        clock.advance(milliseconds=100)
        store.state.set("part", "k", 1)
    assert store.sessions.find("whole") is not None
    assert store.sessions.load_many(["part"])["part"].last_activity_at == NOON


@pytest.mark.parametrize("name", LOOKS)
def test_looking_does_not_extend_the_session(store: Store, clock: MovableClock, name: str) -> None:
    store.sessions.update("s", ttl=timedelta(minutes=10))
    clock.advance(minutes=9)
    LOOKS[name](store)
    assert store.sessions.page().sessions[0].expires_at == NOON + timedelta(minutes=10)


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("name", WRITES)
def test_writes_move_the_last_activity_at_most_once_a_second(
    store: Store, clock: MovableClock, name: str, in_transaction: bool
) -> None:
    def write() -> Any:
        if in_transaction:
            with store.transaction() as tx:
                WRITES[name](tx)
        elif name == "set, expected_version":
            store.state.delete("s", "k")
            WRITES[name](store)
        else:
            WRITES[name](store)
        return store.sessions.page().sessions[0].last_activity_at

    clock.advance(milliseconds=999)
    assert write() == NOON
    store.state.clear("s")
    clock.advance(milliseconds=1)
    assert write() == clock()


def test_a_short_ttl_is_extended_in_steps_of_a_tenth(store: Store, clock: MovableClock) -> None:
    store.sessions.update("s", ttl=timedelta(milliseconds=500))
    clock.advance(milliseconds=51)
    store.state.set("s", "k", 1)
    assert store.sessions.page().sessions[0].expires_at == clock() + timedelta(milliseconds=500)


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_key_is_set_only_if_it_is_missing(store: Store, clock: MovableClock, in_transaction: bool) -> None:
    def set_(value: Any, **options: Any) -> Any:
        if in_transaction:
            with store.transaction() as tx:
                return tx.state.set("s", "k", value, only_if="missing", **options)
        return store.state.set("s", "k", value, only_if="missing", **options)

    assert set_(1, ttl=timedelta(minutes=1)).version == 1
    assert set_(2) is None
    assert store.state.get("s", "k") == 1
    clock.advance(minutes=1)
    entry = set_(3)
    assert (entry.value, entry.version, entry.expires_at) == (3, 1, None)


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_key_is_set_only_if_it_is_present(store: Store, clock: MovableClock, in_transaction: bool) -> None:
    def set_(value: Any, **options: Any) -> Any:
        if in_transaction:
            with store.transaction() as tx:
                return tx.state.set("s", "k", value, only_if="present", **options)
        return store.state.set("s", "k", value, only_if="present", **options)

    assert set_(1) is None
    assert store.state.keys("s") == []
    store.state.set("s", "k", 2)
    entry = set_(3, ttl=timedelta(minutes=1))
    assert (entry.value, entry.version, entry.expires_at) == (3, 2, NOON + timedelta(minutes=1))
    clock.advance(minutes=1)
    assert set_(4) is None


def test_a_conflict_says_which_version_there_is(store: Store) -> None:
    store.state.set("s", "k", 1)
    for expected, key, actual in ((0, "k", 1), (2, "k", 1), (1, "missing", 0)):
        with pytest.raises(ConflictError) as caught:
            store.state.set("s", key, 2, expected_version=expected)
        assert (caught.value.expected, caught.value.actual, caught.value.session_id) == (expected, actual, "s")


def test_the_states_of_several_sessions_are_read_at_once(store: Store, clock: MovableClock) -> None:
    store.sessions.create("empty")
    store.sessions.create("expired", ttl=timedelta(minutes=1))
    store.sessions.create("t")
    for name in ("expired", "t", "s"):
        store.state.set_many(name, {"b": name, "a": None})
    store.state.set("t", "short", 1, ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    found = store.state.get_all_many(["t", "missing", "expired", "empty", "s", "t"])
    assert list(found.items()) == [("t", {"a": None, "b": "t"}), ("empty", {}), ("s", {"a": None, "b": "s"})]
    assert store.state.get_all_many([]) == {}


CREATES: dict[str, Callable[..., Any]] = {
    "set": lambda store, **options: store.state.set("new", "k", 1, **options),
    "set_many": lambda store, **options: store.state.set_many("new", {"k": 1}, **options),
    "increment": lambda store, **options: store.state.increment("new", "k", **options),
    "set, only_if": lambda store, **options: store.state.set("new", "k", 1, only_if="missing", **options),
}


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("name", CREATES)
def test_a_write_creates_the_session_if_that_is_wanted(store: Store, name: str, in_transaction: bool) -> None:
    new = NewSession(user_id="ada", agent_name="a", title="t", metadata={"a": 1}, ttl=timedelta(hours=1))
    if in_transaction:
        with store.transaction() as tx:
            CREATES[name](tx, create=new)
    else:
        CREATES[name](store, create=new)
    found = store.sessions.get("new")
    assert (found.user_id, found.agent_name, found.title, found.metadata, found.ttl) == (
        "ada", "a", "t", {"a": 1}, timedelta(hours=1),
    )  # fmt: skip
    assert store.state.get_all("new") == {"k": 1}
    store.state.clear("new")
    CREATES[name](store, create=NewSession(user_id="bob"))
    assert store.sessions.get("new").user_id == "ada"


@pytest.mark.parametrize("name", CREATES)
def test_a_write_replaces_an_expired_session(store: Store, clock: MovableClock, name: str) -> None:
    store.sessions.create("new", ttl=timedelta(minutes=1))
    store.state.set("new", "old", 1)
    clock.advance(minutes=1)
    CREATES[name](store, create=True)
    assert store.state.get_all("new") == {"k": 1}


INVALID: dict[str, tuple[str, Callable[[Store], Any]]] = {
    "prefix": ("prefix", lambda store: store.state.keys("s", prefix="a\0")),
    "prefix of another type": ("prefix", lambda store: store.state.count("s", prefix=1)),
    "after": ("after", lambda store: store.state.entries("s", after="")),
    "limit": ("limit", lambda store: store.state.keys("s", limit=-1)),
    "keys": ("keys", lambda store: store.state.get_many("s", "abc")),
    "no keys": ("keys", lambda store: store.state.delete_many("s", None)),
    "an empty key": ("keys", lambda store: store.state.delete_many("s", ["a", ""])),
    "key": ("key", lambda store: store.state.exists("s", "")),
    "session_ids": ("session_ids", lambda store: store.state.get_all_many("s")),
    "only_if": ("only_if", lambda store: store.state.set("s", "k", 1, only_if="there")),
    "both": ("only_if", lambda store: store.state.set("s", "k", 1, only_if="missing", expected_version=0)),
    "create": ("create", lambda store: store.state.set("s", "k", 1, create="yes")),
    "a new session's": ("user_id", lambda store: store.state.set("s", "k", 1, create=NewSession(user_id=""))),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_cannot_be_asked_is_refused(store: Store, content: Content, name: str) -> None:
    argument, call = INVALID[name]
    with pytest.raises(InvalidValueError, match=rf"^{argument}\b"):
        call(store)
    assert content.rows("state_entries") == []
