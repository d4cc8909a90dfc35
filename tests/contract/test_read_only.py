"""Where nothing can be written, what is stored can still be read: then a TTL is not extended, and that is all."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from statestore import NewEntry, ReadOnlyError, StateStoreError
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.worlds import entering

Store = Any

HOUR = timedelta(hours=1)

READS: dict[str, Callable[[Any], Any]] = {
    "sessions.get": lambda store: store.sessions.get("s").title,
    "sessions.find": lambda store: store.sessions.find("s").title,
    "sessions.open": lambda store: store.sessions.open("s").title,
    "sessions.load": lambda store: store.sessions.load("s").entries[0].content,
    "history.read": lambda store: store.history.read("s")[0].content,
    "history.read of a fork": lambda store: store.history.read("fork")[0].content,
    "history.get": lambda store: store.history.get("s", 1).content,
    "history.locate": lambda store: "a" if store.history.locate("e") == ("s", 1) else "nothing",
    "history.window": lambda store: store.history.window("s", max_tokens=10)[0].content,
    "history.summaries": lambda store: store.history.summaries("s")[0].content,
    "state.get": lambda store: store.state.get("s", "k"),
    "state.entry": lambda store: store.state.entry("s", "k").value,
    "state.get_all": lambda store: store.state.get_all("s")["k"],
}


def make_due(store: Store, clock: MovableClock) -> None:
    """A session and a fork whose TTL is to be extended by the next read."""
    store.sessions.create("s", title="a", ttl=HOUR)
    store.history.append("s", [NewEntry("a", role="user", entry_id="e")])
    store.state.set("s", "k", "a")
    store.history.add_summary("s", "a", start_seq=1, end_seq=1)
    store.sessions.fork("s", "fork")
    store.close()
    clock.advance(minutes=30)


@pytest.fixture
def due(store: Store, clock: MovableClock) -> None:
    make_due(store, clock)


@pytest.fixture
def reader(due: None, database_url: str, connect: Callable[..., Store], clock: MovableClock) -> Store:
    """A store that can only read."""
    if database_url.startswith("sqlite"):
        path = make_url(database_url).database
        return connect(f"sqlite:///file:{path}?mode=ro&uri=true", clock=clock)
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    return connect(database_url, clock=clock)


@pytest.fixture
def unprivileged(postgres_url: str, connect: Callable[..., Store], clock: MovableClock) -> Iterator[Store]:
    """A store whose user may look at the tables and no more."""
    make_due(connect(postgres_url, clock=clock), clock)
    role = f"reader_{uuid.uuid4().hex[:12]}"
    name = sql.Identifier(role)
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'reader'").format(name))
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA statestore TO {}").format(name))
        connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA statestore TO {}").format(name))
        store = connect(make_url(postgres_url).set(username=role, password="reader"), clock=clock)
        yield store
        store.close()
        connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
        connection.execute(sql.SQL("DROP ROLE {}").format(name))


@pytest.mark.parametrize("read", READS)
def test_a_read_returns_what_is_stored_and_extends_nothing(reader: Store, content: Content, read: str) -> None:
    before = content.rows("sessions")
    assert READS[read](reader) == "a"
    assert READS[read](reader) == "a"
    assert content.rows("sessions") == before


def test_all_reads_work_in_one_transaction(reader: Store) -> None:
    with reader.transaction() as tx:
        assert [read(tx) for read in READS.values()] == ["a"] * len(READS)
        assert tx.history.count("s") == 1


def test_a_turn_that_writes_nothing_ends_well(reader: Store) -> None:
    with entering(reader, reader.turn("s")) as turn:
        assert [entry.content for entry in turn.window] == ["a"]
        assert dict(turn.state) == {"k": "a"}


def test_a_write_still_says_that_it_cannot_be_done(reader: Store) -> None:
    writes: list[Callable[[], Any]] = [
        lambda: reader.history.append("s", [NewEntry("b")]),
        lambda: reader.state.set("s", "k", 1),
        lambda: reader.sessions.touch("s"),
        lambda: reader.sessions.create("new"),
    ]
    for write in writes:
        with pytest.raises(ReadOnlyError):
            write()
    assert reader.history.count("s") == 1


@pytest.mark.parametrize("world", ["sync", "async"])
def test_who_has_no_right_to_write_can_read(unprivileged: Store) -> None:
    assert [read(unprivileged) for read in READS.values()] == ["a"] * len(READS)
    with pytest.raises(ReadOnlyError):
        unprivileged.sessions.touch("s")


def test_a_transaction_that_only_reads_extends_nothing(
    due: None, open_store: Callable[..., Store], content: Content, clock: MovableClock
) -> None:
    store = open_store(clock=clock)
    before = content.rows("sessions")
    # `open` may have to write, and is refused as all that may.
    reads = [read for name, read in READS.items() if name != "sessions.open"]
    with store.transaction(read_only=True) as tx, store.transaction() as writing:
        assert [read(tx) for read in reads] == ["a"] * len(reads)
        # It stands in nobody's way, either.
        writing.history.append("other", [NewEntry("b")], create=True)
        assert [read(tx) for read in reads] == ["a"] * len(reads)
    assert [row for row in content.rows("sessions") if row["session_id"] != "other"] == before


def test_where_it_can_be_written_a_read_extends(
    due: None, open_store: Callable[..., Store], content: Content, clock: MovableClock
) -> None:
    store = open_store(clock=clock)
    assert store.history.read("s")[0].content == "a"
    assert store.sessions.get("s").expires_at == clock.now + HOUR


def test_an_extension_that_fails_where_it_can_be_written_is_told(
    due: None, open_store: Callable[..., Store], content: Content, clock: MovableClock
) -> None:
    store = open_store(clock=clock)
    content.fill_up("sessions", "UPDATE")
    with pytest.raises(StateStoreError) as raised:
        store.sessions.get("s")
    assert not isinstance(raised.value, ReadOnlyError)


def test_a_failure_that_was_caught_does_not_fail_a_transaction_that_only_reads(store: Store) -> None:
    store.sessions.create("s")
    with store.transaction(read_only=True) as tx:
        with suppress(ReadOnlyError):
            tx.state.set("s", "k", 1)
        assert tx.sessions.get("s").session_id == "s"
