"""A session ends when its time is up: at once, for everybody, and with all that it had."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from statestore import NewEntry, SessionNotFoundError
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content, unsound
from tests.support.wire import Traffic

Store = Any

MINUTE = timedelta(minutes=1)


@pytest.fixture
def expired(store: Store, clock: MovableClock) -> str:
    """A session of one minute, a minute ago, that nobody has swept."""
    store.sessions.create("s", ttl=MINUTE, user_id="ada", metadata={"old": True}, title="old")
    store.history.append("s", [NewEntry("old", role="user", entry_id="one"), NewEntry("old")])
    store.state.set("s", "k", "old")
    clock.advance(minutes=1)
    return "s"


def test_an_expired_session_is_found_by_nothing(store: Store, expired: str) -> None:
    assert store.sessions.find(expired) is None
    assert store.sessions.exists(expired) is False
    assert store.sessions.page().sessions == []
    assert store.sessions.count(user_id="ada") == 0
    assert store.sessions.delete(expired) is False


CALLS: list[Callable[[Store], Any]] = [
    lambda store: store.sessions.get("s"),
    lambda store: store.sessions.touch("s"),
    lambda store: store.sessions.update("s", title="new"),
    lambda store: store.sessions.update("s", ttl=None),
    lambda store: store.sessions.merge_metadata("s", {"a": 1}),
    lambda store: store.sessions.fork("s", "fork"),
    lambda store: store.sessions.lineage("s"),
    lambda store: store.history.append("s", [NewEntry("new")]),
    lambda store: store.history.append("s", [NewEntry("old", entry_id="one")]),
    lambda store: store.history.append("s", [NewEntry("new")], after_seq=2),
    lambda store: store.history.append("s", []),
    lambda store: store.history.read("s"),
    lambda store: store.history.messages("s"),
    lambda store: store.history.window("s", max_entries=1),
    lambda store: store.history.summaries("s"),
    lambda store: store.history.get("s", 1),
    lambda store: store.history.find("s", "one"),
    lambda store: store.history.count("s"),
    lambda store: store.history.pop_last("s"),
    lambda store: store.history.trim("s", keep_last=0),
    lambda store: store.history.clear("s"),
    lambda store: store.state.get("s", "k", None),
    lambda store: store.state.entry("s", "k"),
    lambda store: store.state.get_all("s"),
    lambda store: store.state.get_many("s", ["k"]),
    lambda store: store.state.keys("s"),
    lambda store: store.lists.read("s", "l"),
    lambda store: store.lists.names("s"),
    lambda store: store.sessions.load("s"),
    lambda store: store.state.set("s", "k", 1),
    lambda store: store.state.set("s", "k", 1, expected_version=1),
    lambda store: store.state.set_many("s", {"k": 1}),
    lambda store: store.state.increment("s", "n"),
    lambda store: store.state.delete("s", "k"),
    lambda store: store.state.clear("s"),
]


def test_an_expired_session_is_missing(store: Store, content: Content, expired: str, subtests: pytest.Subtests) -> None:
    before = content.snapshot()
    for number, call in enumerate(CALLS):
        with subtests.test(number=number):
            with pytest.raises(SessionNotFoundError):
                call(store)
            assert content.snapshot() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda store: store.sessions.create("s"),
        lambda store: store.sessions.open("s"),
        lambda store: store.history.append("s", [], create=True),
    ],
    ids=["create", "open", "append"],
)
def test_an_expired_session_is_made_anew_with_nothing_of_the_old(
    store: Store, content: Content, clock: MovableClock, expired: str, make: Callable[[Store], Any]
) -> None:
    content.query(
        "INSERT INTO summaries (namespace, session_id, start_seq, end_seq, content, created_at) "
        "SELECT namespace, session_id, 1, 2, 'old', created_at FROM sessions"
    )
    make(store)
    found = store.sessions.get("s")
    assert (found.user_id, found.title, found.metadata, found.ttl, found.resumed) == (None, None, {}, None, False)
    assert (found.created_at, found.revision, found.first_seq, found.next_seq) == (clock(), 1, 1, 1)
    assert (store.history.read("s"), store.state.get_all("s")) == ([], {})
    assert content.sizes() == {
        "sessions": 1, "session_segments": 0, "history_entries": 0, "summaries": 0, "state_entries": 0,
    }  # fmt: skip
    [entry] = store.history.append("s", [NewEntry("new", role="user", entry_id="one")])
    assert (entry.seq, entry.turn) == (1, 1)


def test_an_expired_session_that_is_made_anew_leaves_its_forks_alone(
    store: Store, content: Content, clock: MovableClock
) -> None:
    store.sessions.create("s", ttl=MINUTE)
    store.history.append("s", [NewEntry(n) for n in range(4)])
    store.sessions.fork("s", "fork", at_seq=3)
    store.sessions.update("fork", ttl=None)
    clock.advance(minutes=1)
    assert [entry.content for entry in store.history.read("fork")] == [0, 1, 2]
    store.sessions.create("s")
    store.history.append("s", [NewEntry("new")])
    assert [entry.content for entry in store.history.read("fork")] == [0, 1, 2]
    assert [entry.content for entry in store.history.read("s")] == ["new"]
    assert unsound(content) == []


def test_a_session_lives_to_the_last_microsecond(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=timedelta(milliseconds=50))
    clock.advance(microseconds=49_999)
    assert store.sessions.exists("s")
    clock.advance(microseconds=1)
    assert not store.sessions.exists("s")


def test_without_a_ttl_a_session_lives_on(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s")
    clock.advance(days=365_000)
    assert store.sessions.get("s").expires_at is None


WRITES: dict[str, Any] = {
    "append": lambda store: store.history.append("s", [NewEntry(1)]),
    "append nothing": lambda store: store.history.append("s", []),
    "append again": lambda store: store.history.append("s", [NewEntry("a", entry_id="one")]),
    "set": lambda store: store.state.set("s", "k", 2),
    "set_many": lambda store: store.state.set_many("s", {"k": 2}),
    "set_many of nothing": lambda store: store.state.set_many("s", {}),
    "increment": lambda store: store.state.increment("s", "n"),
    "delete": lambda store: store.state.delete("s", "k"),
    "clear": lambda store: store.state.clear("s"),
    "pop": lambda store: store.history.pop_last("s"),
    "trim": lambda store: store.history.trim("s", keep_last=0),
    "clear history": lambda store: store.history.clear("s"),
    "update": lambda store: store.sessions.update("s", title="t"),
    "merge": lambda store: store.sessions.merge_metadata("s", {"a": 1}),
    "touch": lambda store: store.sessions.touch("s"),
}

READS: dict[str, Any] = {
    "get": lambda store: store.sessions.get("s"),
    "find": lambda store: store.sessions.find("s"),
    "open": lambda store: store.sessions.open("s"),
    "read": lambda store: store.history.read("s"),
    "messages": lambda store: store.history.messages("s"),
    "read nothing": lambda store: store.history.read("s", last=0),
    "entry of the history": lambda store: store.history.get("s", 1),
    "entry by its id": lambda store: store.history.find("s", "one"),
    "last entries of several": lambda store: store.history.last_many(["s"], 1),
    "window": lambda store: store.history.window("s", max_entries=1),
    "summaries": lambda store: store.history.summaries("s"),
    "state get": lambda store: store.state.get("s", "k"),
    "state get of no key": lambda store: store.state.get("s", "missing", None),
    "state entry": lambda store: store.state.entry("s", "k"),
    "state get_all": lambda store: store.state.get_all("s"),
    "state get_many": lambda store: store.state.get_many("s", ["k"]),
    "state keys": lambda store: store.state.keys("s"),
    "list": lambda store: store.lists.read("s", "l"),
    "names of lists": lambda store: store.lists.names("s"),
    "whole session": lambda store: store.sessions.load("s"),
}

LOOKS: dict[str, Any] = {
    "exists": lambda store: store.sessions.exists("s"),
    "count": lambda store: store.sessions.count(),
    "page": lambda store: store.sessions.page(),
    "lineage": lambda store: store.sessions.lineage("s"),
    "count of the history": lambda store: store.history.count("s"),
}


@pytest.fixture
def alive(store: Store) -> Store:
    """A session of a hundred seconds."""
    store.sessions.create("s", ttl=timedelta(seconds=100))
    store.history.append("s", [NewEntry("a", entry_id="one"), NewEntry("b")])
    store.state.set("s", "k", 1)
    return store


def ends(content: Content) -> str:
    [row] = content.rows("sessions", session_id="s")
    return str(row["expires_at"])


@pytest.mark.parametrize("name", WRITES)
def test_every_write_extends(alive: Store, clock: MovableClock, content: Content, name: str) -> None:
    clock.advance(seconds=1)
    before = ends(content)
    WRITES[name](alive)
    assert ends(content) > before
    assert alive.sessions.get("s").expires_at == clock() + timedelta(seconds=100)


@pytest.mark.parametrize("name", READS)
def test_a_read_extends_when_a_tenth_has_gone(alive: Store, clock: MovableClock, content: Content, name: str) -> None:
    before = ends(content)
    clock.advance(seconds=10)
    READS[name](alive)
    assert ends(content) == before, "a read within a tenth of the time was turned into a write"
    clock.advance(microseconds=1)
    READS[name](alive)
    assert ends(content) > before
    assert alive.sessions.get("s").expires_at == clock() + timedelta(seconds=100)


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_never_extends(alive: Store, clock: MovableClock, content: Content, name: str) -> None:
    before = ends(content)
    clock.advance(seconds=99)
    LOOKS[name](alive)
    assert ends(content) == before


def test_a_read_extends_but_is_no_activity(alive: Store, clock: MovableClock) -> None:
    clock.advance(seconds=50)
    alive.history.read("s")
    assert alive.sessions.get("s").last_activity_at == NOON


def test_a_session_in_use_lives_on(alive: Store, clock: MovableClock) -> None:
    for _ in range(20):
        clock.advance(seconds=60)
        assert alive.state.get("s", "k") == 1
    clock.advance(seconds=100)
    assert not alive.sessions.exists("s")


def test_a_hundred_reads_write_once(connect: Callable[..., Store], traffic: Traffic, clock: MovableClock) -> None:
    store = connect(traffic.url, clock=clock)
    store.sessions.create("s", ttl=timedelta(seconds=100))
    store.history.append("s", [NewEntry("a")])
    clock.advance(seconds=11)
    traffic.clear()
    for _ in range(100):
        store.history.read("s", last=5)
        clock.advance(milliseconds=50)
    assert len([sql for sql in traffic.statements if "UPDATE" in sql]) == 1
    assert len(traffic.statements) == 101


def test_a_session_without_a_ttl_is_read_without_a_write(
    connect: Callable[..., Store], traffic: Traffic, clock: MovableClock
) -> None:
    store = connect(traffic.url, clock=clock)
    store.sessions.create("s")
    traffic.clear()
    for _ in range(5):
        clock.advance(days=100)
        store.history.read("s")
        store.sessions.get("s")
    assert [sql for sql in traffic.statements if "UPDATE" in sql] == []


def test_on_the_databases_own_clock_a_session_ends_too(open_store: Callable[..., Store], content: Content) -> None:
    store = open_store()
    store.sessions.create("s", ttl=timedelta(hours=1))
    assert store.sessions.exists("s")
    past = "now() - interval '1 s'" if not content.is_sqlite else "'2020-01-01T00:00:00.000000Z'"
    content.query(f"UPDATE sessions SET expires_at = {past}")
    assert not store.sessions.exists("s")
    with pytest.raises(SessionNotFoundError):
        store.history.append("s", [NewEntry(1)])


def test_times_of_the_databases_own_clock_are_utc(open_store: Callable[..., Store]) -> None:
    store = open_store()
    before = datetime.now(UTC) - timedelta(seconds=5)
    session = store.sessions.create("s", ttl=timedelta(hours=1))
    [entry] = store.history.append("s", [NewEntry(1)])
    state = store.state.set("s", "k", 1)
    after = datetime.now(UTC) + timedelta(seconds=5)
    for moment in (session.created_at, session.last_activity_at, entry.created_at, state.updated_at):
        assert moment.tzinfo is UTC
        assert before < moment < after
    assert session.expires_at == session.created_at + timedelta(hours=1)


def test_a_day_has_24_hours_in_every_time_zone_of_the_server(
    postgres_url: str, connect: Callable[..., Store], clock: MovableClock
) -> None:
    with Content(postgres_url) as content:
        (database,) = content.query("SELECT quote_ident(current_database()) AS name")
        content.query(f"ALTER DATABASE {database['name']} SET timezone TO 'Europe/Berlin'")
    clock.now, day = datetime(2026, 3, 28, 12, tzinfo=UTC), timedelta(days=1)  # Summer time begins in the night.
    store = connect(postgres_url, clock=clock)
    ends = [store.sessions.create("s", ttl=day).expires_at, store.state.set("s", "k", 1, ttl=day).expires_at]
    ends += [store.user_state.set("ada", "k", 1, ttl=day).expires_at, store.sessions.update("s", ttl=day).expires_at]
    store.history.append("s", [NewEntry("new")])
    ends.append(store.sessions.get("s").expires_at)
    store.sessions.touch("s")
    ends.append(store.sessions.get("s").expires_at)
    assert set(ends) == {clock.now + day}
