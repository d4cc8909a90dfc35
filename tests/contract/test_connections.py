"""Connections that break, and what a store sets on those that it makes."""

import os
import re
import sqlite3
import stat
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
import psycopg
import pytest

from statestore import (
    CommitUnknownError,
    ConflictError,
    InvalidValueError,
    NewEntry,
    ReadOnlyError,
    SchemaMissingError,
    SessionExistsError,
    StateStore,
    StateStoreError,
    UnavailableError,
)
from statestore.engine import connections
from tests.support.content import Content, unsound
from tests.support.crowd import at_once
from tests.support.wire import Proxy, Traffic

Store = Any

OWN_ENGINE = pytest.mark.parametrize("world", ["sync", "async"], indirect=True)


@pytest.fixture
def there(connect: Callable[..., Store], proxy: Proxy) -> Store:
    """A store behind the proxy, with a session `s` of one entry and one key."""
    store = connect(proxy.url)
    store.sessions.create("s")
    store.history.append("s", [NewEntry("first")])
    store.state.set("s", "n", 1)
    return store


def contents(store: Store, session_id: str = "s") -> list[Any]:
    return [entry.content for entry in store.history.read(session_id)]


def terminate(url: str) -> int:
    """End every other connection to the database, as a restart does."""
    with psycopg.connect(url, autocommit=True) as admin:
        rows = admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    return len(rows)


EVERYTHING: dict[str, Callable[[Store], Any]] = {
    "create": lambda store: store.sessions.create("new"),
    "open": lambda store: store.sessions.open("new"),
    "get": lambda store: store.sessions.get("s"),
    "page": lambda store: store.sessions.page(),
    "update": lambda store: store.sessions.update("s", title="t"),
    "merge": lambda store: store.sessions.merge_metadata("s", {"a": 1}),
    "touch": lambda store: store.sessions.touch("s"),
    "fork": lambda store: store.sessions.fork("s", "fork"),
    "delete": lambda store: store.sessions.delete("s"),
    "append": lambda store: store.history.append("s", [NewEntry("x")]),
    "read": lambda store: store.history.read("s"),
    "pop": lambda store: store.history.pop_last("s"),
    "trim": lambda store: store.history.trim("s", keep_last=0),
    "clear": lambda store: store.history.clear("s"),
    "set": lambda store: store.state.set("s", "k", 1),
    "set_many": lambda store: store.state.set_many("s", {"k": 1}),
    "state get": lambda store: store.state.get("s", "n"),
    "increment": lambda store: store.state.increment("s", "n"),
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_connection_that_broke_while_idle_is_not_noticed(there: Store, postgres_url: str, name: str) -> None:
    """What was sent into a dead connection was never done: anything may be tried again, were it not for doubt."""
    at_once(*[partial(there.history.read, "s")] * 5)
    assert terminate(postgres_url) >= 1
    try:
        EVERYTHING[name](there)
    except CommitUnknownError:
        assert name in ("create", "update"), "only a single statement that must not be repeated may be in doubt"
    assert there.sessions.page().sessions is not None


@OWN_ENGINE
@pytest.mark.parametrize("name", EVERYTHING)
def test_an_idle_connection_that_ended_is_noticed_before_anything_is_sent(
    connect: Callable[..., Store], postgres_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Then nothing is in doubt, not even what must not be repeated."""
    monkeypatch.setattr(connections, "_PAUSE", -1.0)  # However short it was idle.
    store = connect(postgres_url, retry_for=0.001)
    store.sessions.create("s")
    store.history.append("s", [NewEntry("first")])
    store.state.set("s", "n", 1)
    at_once(*[partial(store.history.read, "s")] * 5)
    assert terminate(postgres_url) >= 1
    EVERYTHING[name](store)


@pytest.mark.parametrize(
    ("fragment", "call", "check"),
    [
        ("history_entries", EVERYTHING["append"], lambda store: contents(store) == ["first", "x"]),
        ("UPDATE", EVERYTHING["touch"], lambda store: True),
        ("state_entries", EVERYTHING["set"], lambda store: store.state.get("s", "k") == 1),
        ("state_entries", EVERYTHING["set_many"], lambda store: store.state.get("s", "k") == 1),
        ("history_entries", EVERYTHING["read"], lambda store: True),
        ("COMMIT", EVERYTHING["merge"], lambda store: store.sessions.get("s").metadata == {"a": 1}),
        ("history_entries", EVERYTHING["trim"], lambda store: contents(store) == []),
        ("history_entries", EVERYTHING["clear"], lambda store: contents(store) == []),
        ("history_entries", EVERYTHING["delete"], lambda store: not store.sessions.exists("s")),
    ],
    ids=["append", "touch", "set", "set_many", "read", "merge", "trim", "clear", "delete"],
)
@pytest.mark.parametrize("lost", ["request", "reply"])
def test_what_may_be_repeated_survives_a_lost_connection(
    there: Store, proxy: Proxy, lost: Any, fragment: str, call: Callable[[Store], Any], check: Callable[[Store], bool]
) -> None:
    proxy.lose(lost, fragment)
    call(there)
    assert proxy.faults_left == 0, "nothing was lost: nothing was tested"
    assert check(there)


@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize("own_ids", [False, True])
@pytest.mark.parametrize("size", [1, 700])
def test_an_append_whose_commit_was_lost_is_stored_once(
    there: Store, proxy: Proxy, lost: Any, own_ids: bool, size: int
) -> None:
    entries = [NewEntry(n, entry_id=f"{n}" if own_ids else None, role="user") for n in range(size)]
    proxy.lose(lost, "history_entries" if size == 1 else "COMMIT")
    stored = there.history.append("s", entries)
    assert proxy.faults_left == 0
    assert [entry.content for entry in stored] == list(range(size))
    assert there.history.read("s", after=1) == stored
    assert there.history.append("s", [NewEntry("next", role="user")])[0].turn == size + 1


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_an_append_by_position_whose_commit_was_lost_is_stored_once(there: Store, proxy: Proxy, lost: Any) -> None:
    proxy.lose(lost, "history_entries")
    assert [entry.seq for entry in there.history.append("s", [NewEntry("x"), NewEntry("y")], after_seq=1)] == [2, 3]
    assert contents(there) == ["first", "x", "y"]


def test_a_first_append_whose_commit_was_lost_is_stored_once(there: Store, proxy: Proxy) -> None:
    proxy.lose("reply", "COMMIT")
    there.history.append("new", [NewEntry("x")], create=True)
    assert proxy.faults_left == 0
    assert contents(there, "new") == ["x"]


def test_an_append_that_is_lost_again_and_again_is_stored_once(there: Store, proxy: Proxy) -> None:
    proxy.lose("reply", "history_entries", times=3)
    there.history.append("s", [NewEntry("x")])
    assert proxy.faults_left == 0
    assert contents(there) == ["first", "x"]


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_an_increment_is_done_once_or_said_to_be_in_doubt(there: Store, proxy: Proxy, lost: Any) -> None:
    proxy.lose(lost, "UPDATE")
    with pytest.raises(CommitUnknownError) as caught:
        there.state.increment("s", "n")
    assert not caught.value.retryable
    assert there.state.get("s", "n") == (2 if lost == "reply" else 1)


def test_an_increment_that_only_read_is_tried_again(there: Store, proxy: Proxy) -> None:
    proxy.lose("reply", "SELECT")
    assert there.state.increment("s", "n") == 2
    assert proxy.faults_left == 0
    assert there.state.get("s", "n") == 2


@pytest.mark.parametrize(
    ("fragment", "call"),
    [
        ("INSERT INTO", EVERYTHING["create"]),
        ("UPDATE", EVERYTHING["update"]),
        ("COMMIT", EVERYTHING["fork"]),
        ("DELETE FROM", EVERYTHING["pop"]),
    ],
    ids=["create", "update", "fork", "pop"],
)
def test_what_must_not_be_repeated_says_when_it_is_in_doubt(
    there: Store, proxy: Proxy, fragment: str, call: Callable[[Store], Any]
) -> None:
    proxy.lose("reply", fragment)
    with pytest.raises(CommitUnknownError):
        call(there)


@pytest.mark.parametrize("expected_version", [1, 0])
def test_a_write_of_an_expected_version_never_says_that_it_failed_when_it_did_not(
    there: Store, proxy: Proxy, expected_version: int
) -> None:
    """The second try would find the version that the first has written, and call it somebody else's."""
    key = "n" if expected_version else "new"
    proxy.lose("reply", "state_entries")
    try:
        there.state.set("s", key, "mine", expected_version=expected_version)
    except CommitUnknownError:
        pass
    except ConflictError:
        pytest.fail("a conflict with oneself")
    assert there.state.get("s", key) == "mine"


def test_a_transaction_whose_commit_was_lost_is_in_doubt(there: Store, proxy: Proxy) -> None:
    def work() -> None:
        with there.transaction() as tx:
            tx.history.append("s", [NewEntry("x")])

    proxy.lose("reply", "COMMIT")
    with pytest.raises(CommitUnknownError):
        work()
    assert contents(there) == ["first", "x"]


@pytest.mark.parametrize("what", ["request", "reply"])
def test_a_transaction_that_could_not_begin_begins_on_another_connection(there: Store, proxy: Proxy, what: str) -> None:
    for n in range(3):
        proxy.lose(what, "BEGIN")
        with there.transaction() as tx:
            tx.history.append("s", [NewEntry(n)])
    assert contents(there) == ["first", 0, 1, 2]


def test_a_transaction_that_was_cut_off_is_undone_and_not_repeated(there: Store, proxy: Proxy) -> None:
    times = []

    def work() -> None:
        times.append(1)
        with there.transaction() as tx:
            tx.history.append("s", [NewEntry("x")])

    proxy.lose("reply", "history_entries")
    with pytest.raises(UnavailableError):
        work()
    assert contents(there) == ["first"]
    assert len(times) == 1


def test_writers_and_a_server_that_drops_them_lose_nothing_and_double_nothing(
    there: Store, postgres_url: str, content_of: Callable[[str], Content]
) -> None:
    done = threading.Event()

    def write(writer: int) -> None:
        for n in range(25):
            there.history.append("s", [NewEntry([writer, n])])

    def drop() -> None:
        for _ in range(8):
            terminate(postgres_url)
            done.wait(0.03)

    at_once(*(partial(write, writer) for writer in range(6)), drop)
    entries = there.history.read("s", after=1)
    assert sorted(entry.content for entry in entries) == [[writer, n] for writer in range(6) for n in range(25)]
    assert unsound(content_of(postgres_url)) == []


@pytest.fixture
def content_of(request: pytest.FixtureRequest) -> Callable[[str], Content]:
    def make(url: str) -> Content:
        content = Content(url)
        request.addfinalizer(content.close)
        return content

    return make


@OWN_ENGINE
def test_a_server_that_is_not_there_is_said_to_be(connect: Callable[..., Store], postgres_url: str) -> None:
    for url in (
        "postgresql://canary:canary-secret@127.0.0.1:1/nowhere",
        postgres_url.replace("postgres:", "canary:canary-secret", 1).replace("canary-secret", "canary-secret-", 1),
    ):
        with pytest.raises(UnavailableError) as caught:
            connect(url)
        assert "secret" not in str(caught.value) + repr(caught.value.__dict__)
        assert caught.value.__cause__ is None


@OWN_ENGINE
def test_no_more_connections_are_made_than_allowed(
    connect: Callable[..., Store], postgres_url: str, content_of: Callable[[str], Content]
) -> None:
    store = connect(postgres_url, pool_size=3)
    store.sessions.create("s")
    at_once(*[partial(store.history.read, "s")] * 12)
    [row] = content_of(postgres_url).query(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'statestore' "
        "AND datname = current_database()"
    )
    assert 1 <= row["n"] <= 3


@OWN_ENGINE
def test_who_finds_no_connection_in_time_is_told(connect: Callable[..., Store], postgres_url: str) -> None:
    store = connect(postgres_url, pool_size=1, pool_timeout=timedelta(milliseconds=50))
    store.sessions.create("s")
    with store.transaction(), pytest.raises(UnavailableError) as caught:
        at_once(partial(store.sessions.get, "s"))
    assert "pool_size" in str(caught.value)


@OWN_ENGINE
def test_who_waits_too_long_for_a_lock_is_told(connect: Callable[..., Store], postgres_url: str) -> None:
    store = connect(postgres_url, lock_timeout=timedelta(milliseconds=50))
    store.sessions.create("s")
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT 1 FROM statestore.sessions WHERE namespace = 'default' FOR UPDATE")
        with pytest.raises(UnavailableError) as caught:
            store.history.append("s", [NewEntry(1)])
    assert caught.value.code == "55P03"
    assert store.history.count("s") == 0


@OWN_ENGINE
def test_a_statement_that_takes_too_long_is_ended(connect: Callable[..., Store], postgres_url: str) -> None:
    connect(postgres_url).sessions.create("s")
    store = connect(postgres_url, statement_timeout=timedelta(milliseconds=50))
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT 1 FROM statestore.sessions WHERE namespace = 'default' FOR UPDATE")
        with pytest.raises(UnavailableError) as caught:
            store.history.append("s", [NewEntry(1)])
    assert caught.value.code == "57014"


@OWN_ENGINE
def test_a_locked_file_is_waited_for_and_then_reported(connect: Callable[..., Store], sqlite_url: str) -> None:
    store = connect(sqlite_url, lock_timeout=timedelta(milliseconds=20))
    store.sessions.create("s")
    with Content(sqlite_url) as content:
        content.query("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError) as caught:
            store.history.append("s", [NewEntry(1)])
    assert caught.value.code is not None
    assert caught.value.code.startswith("SQLITE_BUSY")
    assert caught.value.retryable
    store.history.append("s", [NewEntry(2)])
    assert contents(store) == [2]


def test_a_database_that_takes_no_writes_says_so(
    connect: Callable[..., Store], postgres_url: str, content_of: Callable[[str], Content]
) -> None:
    with StateStore.open(postgres_url) as before:
        before.sessions.create("s")
    database = content_of(postgres_url).query("SELECT current_database() AS name")[0]["name"]
    content_of(postgres_url).query(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    store = connect(postgres_url)
    with pytest.raises(ReadOnlyError):
        store.history.append("s", [NewEntry(1)])
    with pytest.raises(ReadOnlyError):
        store.state.increment("s", "n")
    assert contents(store) == []


def test_errors_of_the_database_tell_nothing_of_the_rows(
    connect: Callable[..., Store], postgres_url: str, content_of: Callable[[str], Content]
) -> None:
    content = content_of(postgres_url)
    content.query("ALTER TABLE state_entries ADD CONSTRAINT picky CHECK (length(value::text) < 10)")
    content.query("ALTER TABLE history_entries ADD CONSTRAINT picky CHECK (length(content::text) < 10)")
    store = connect(postgres_url)
    store.sessions.create("s")
    for call in (
        lambda: store.state.set("s", "k", "canary canary"),
        lambda: store.history.append("s", [NewEntry("canary canary")]),
    ):
        with pytest.raises(StateStoreError) as caught:
            call()
        error: BaseException | None = caught.value
        assert error is not None
        assert "canary" not in str(error) + repr(error.__dict__)
        assert "23514" in str(error)
        assert error.__cause__ is None
        assert error.__suppress_context__


def test_nothing_is_said_to_a_pooler_that_outlives_a_transaction(
    connect: Callable[..., Store], proxy: Proxy, traffic_of_all: tuple[Store, Traffic]
) -> None:
    """PgBouncer hands a server connection to another client after each transaction."""
    store, traffic = traffic_of_all
    store.sessions.create("s", ttl=timedelta(hours=1))
    for call in EVERYTHING.values():
        try:
            call(store)
        except (LookupError, SessionExistsError):
            store.sessions.create("s")
            store.history.append("s", [NewEntry("x")])
            store.state.set("s", "n", 1)
    with store.transaction() as tx:
        tx.history.append("new", [NewEntry("x")], create=True)
    assert len(traffic.statements) > 30
    lasting = re.compile(r"^(SET|RESET|LISTEN|NOTIFY|PREPARE|DEALLOCATE|DISCARD|DECLARE)\b|PG_ADVISORY_LOCK|\bTEMP\b")
    found = [lasting.search(" ".join(sql.split()).upper()) for sql in traffic.statements]
    assert [match.group() for match in found if match] == []
    # Appends try for a lock that outlives a transaction; what they get they give back in the same expression.
    with psycopg.connect(proxy.url, autocommit=True) as other:
        held = other.execute(
            "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
            "WHERE l.locktype = 'advisory' AND d.datname = current_database() AND l.objsubid < 3"  # Citus has others.
        ).fetchone()
    assert held == (0,)


@pytest.fixture
def traffic_of_all(connect: Callable[..., Store], proxy: Proxy, world: str) -> tuple[Store, Traffic]:
    kwargs = {} if world == "engine" else {"prepared_statements": False}
    return connect(proxy.url, **kwargs), proxy.traffic


@OWN_ENGINE
def test_without_prepared_statements_none_is_prepared(connect: Callable[..., Store], proxy: Proxy) -> None:
    store = connect(proxy.url, prepared_statements=False)
    store.sessions.create("s")
    for n in range(20):
        store.history.append("s", [NewEntry(n)])
    assert contents(store) == list(range(20))
    assert proxy.prepared == set()


@OWN_ENGINE
def test_with_prepared_statements_the_frequent_are(connect: Callable[..., Store], proxy: Proxy) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    for n in range(20):
        store.history.append("s", [NewEntry(n)])
    assert len(proxy.prepared) == 1


@OWN_ENGINE
def test_a_file_is_made_for_its_owner_alone(connect: Callable[..., Store], tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    before = os.umask(0)
    try:
        store = connect(f"sqlite:///{path}")
        store.sessions.create("s")
    finally:
        os.umask(before)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


@OWN_ENGINE
def test_a_file_that_is_there_keeps_its_rights(connect: Callable[..., Store], sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    path.chmod(0o640)
    connect(sqlite_url).sessions.create("s")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@OWN_ENGINE
@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
def test_a_file_is_used_with_the_settings_that_lose_nothing(
    connect: Callable[..., Store], sqlite_url: str, durability: str, synchronous: int
) -> None:
    store = connect(sqlite_url, durability=durability)
    store.sessions.create("s")
    target = getattr(store, "_target", store)
    database = getattr(target._database, "database", target._database)
    connection = database.engine.raw_connection()
    try:
        found = {
            name: connection.cursor().execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "secure_delete")
        }
    finally:
        connection.close()
    expected = {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 250, "secure_delete": 1}
    assert found == expected | {"synchronous": synchronous}


@OWN_ENGINE
def test_a_database_in_memory_lives_as_long_as_its_store(connect: Callable[..., Store]) -> None:
    store = connect("sqlite://")
    store.sessions.create("s")
    at_once(*[lambda: [store.state.increment("s", "n") for _ in range(5)]] * 4)
    assert store.state.get("s", "n") == 20
    assert not connect("sqlite://").sessions.exists("s")


@OWN_ENGINE
def test_a_new_file_gets_its_tables(connect: Callable[..., Store], empty_sqlite_url: str) -> None:
    connect(empty_sqlite_url).sessions.create("s")
    assert connect(empty_sqlite_url).sessions.exists("s")


@OWN_ENGINE
def test_a_server_without_tables_is_refused_with_the_command(
    connect: Callable[..., Store], empty_postgres_url: str
) -> None:
    with pytest.raises(SchemaMissingError) as caught:
        connect(empty_postgres_url)
    assert "statestore migrate up" in str(caught.value)


def test_a_sqlite_that_is_too_old_is_refused(
    connect: Callable[..., Store], empty_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sqlite3.dbapi2, aiosqlite):
        monkeypatch.setattr(module, "sqlite_version", "3.34.1")
        monkeypatch.setattr(module, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(InvalidValueError) as caught:
        connect(empty_sqlite_url)
    assert "has SQLite 3.34.1; use one with SQLite 3.35 or newer" in str(caught.value)


@OWN_ENGINE
def test_a_file_in_a_folder_that_is_not_there_is_refused(connect: Callable[..., Store], tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        connect(f"sqlite:///{tmp_path / 'missing' / 'new.db'}")


@OWN_ENGINE
def test_a_file_that_is_no_database_is_refused(connect: Callable[..., Store], tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("This is not a database, and it is long enough to tell." * 100)
    with pytest.raises(StateStoreError):
        connect(f"sqlite:///{path}")
    assert path.read_text().startswith("This is not")


@OWN_ENGINE
def test_the_url_may_come_from_the_environment(
    connect: Callable[..., Store], sqlite_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATESTORE_URL", sqlite_url)
    connect(None).sessions.create("s")  # type: ignore[arg-type]
    monkeypatch.delenv("STATESTORE_URL")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    connect(None).sessions.create("elsewhere")  # type: ignore[arg-type]
    for url, name in ((sqlite_url, "s"), (f"sqlite:///{elsewhere / 'statestore.db'}", "elsewhere")):
        with Content(url) as content:
            assert [row["session_id"] for row in content.rows("sessions")] == [name]
