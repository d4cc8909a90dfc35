"""What is said when there is no connection: which host, which reason, what to do; and no secret."""

import re
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, make_url

from statestore import (
    AsyncStateStore,
    InvalidValueError,
    NewEntry,
    StateStore,
    StateStoreError,
    UnavailableError,
    migrate,
)
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.engines import async_engine, sync_engine
from tests.support.wire import Proxy

Store = Any
WORLDS = pytest.mark.parametrize("world", ["sync", "async", "engine"], indirect=True)
OWN_ENGINE = pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
NEEDLE = "needle-in-a-haystack"


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a host that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def no_connection_left(url: URL) -> URL:
    with psycopg.connect(str(url.render_as_string(False)), autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS few")
        admin.execute("CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 0")
    return url.set(username="few", password="few")


REASONS: dict[str, tuple[Callable[[URL], URL], str, str | None, bool]] = {
    "wrong password": (lambda url: url.set(password=NEEDLE), "password authentication failed", "28000", False),
    "no such user": (lambda url: url.set(username="who"), 'failed for user "who"', "28000", False),
    "no such database": (lambda url: url.set(database="nowhere"), 'database "nowhere" does not exist', "3D000", False),
    "nothing runs": (lambda url: url.set(port=1), '"127.0.0.1", port 1 failed: Connection refused', None, True),
    "no such host": (lambda url: url.set(host="nowhere.invalid"), "nowhere.invalid", None, True),
    "no such socket": (
        lambda url: url.set(host=None).update_query_dict({"host": "/nowhere"}),
        "/nowhere/.s.PGSQL",
        None,
        True,
    ),
    "TLS": (lambda url: url.update_query_dict({"sslmode": "require"}), "SSL was required", None, False),
    "no connection left": (no_connection_left, "too many connections for role", "53300", True),
    "wrong part": (
        lambda url: url.update_query_dict({"target_session_attrs": "standby"}),
        "not in hot standby mode",
        None,
        True,
    ),
    "several hosts": (
        lambda url: url.set(host=None, port=None).update_query_dict({"host": "127.0.0.1,127.0.0.1", "port": "1,2"}),
        '"127.0.0.1", port 1 failed: Connection refused; connection to server at "127.0.0.1", port 2 failed',
        None,
        True,
    ),
}


@WORLDS
@pytest.mark.parametrize("reason", REASONS)
def test_the_reason_is_given(connect: Callable[..., Store], postgres_url: str, reason: str) -> None:
    change, words, code, retryable = REASONS[reason]
    url = change(make_url(postgres_url))
    with pytest.raises(UnavailableError) as caught:
        connect(url.render_as_string(hide_password=False)).sessions.exists("s")
    assert words in str(caught.value)
    assert caught.value.code == code
    assert caught.value.retryable is retryable
    assert ";" in str(caught.value), "no remedy"
    assert "\n" not in str(caught.value)
    assert found_in(caught.value, NEEDLE, str(make_url(postgres_url).password)) == []


@OWN_ENGINE
def test_a_host_that_says_nothing_is_named(connect: Callable[..., Store], postgres_url: str, silent: int) -> None:
    url = make_url(postgres_url).set(port=silent).update_query_dict({"connect_timeout": "2"})
    with pytest.raises(UnavailableError) as caught:
        connect(url.render_as_string(hide_password=False))
    assert f"127.0.0.1, port {silent}: connection timeout expired" in str(caught.value)


@OWN_ENGINE
@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("conect_timeout=3", "conect_timeout"),
        ("prepare_threshold=0", "prepare_threshold"),
        ("connect_timeout=x", "conn"),
    ],
)
def test_an_unknown_option_is_named(connect: Callable[..., Store], postgres_url: str, option: str, named: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        connect(f"{postgres_url}?{option}")
    assert caught.value.argument == "url"
    assert named in str(caught.value)


@OWN_ENGINE
def test_who_was_idle_in_a_transaction_is_told_so(connect: Callable[..., Store], postgres_url: str) -> None:
    store = connect(f"{postgres_url}?options=-c%20idle_in_transaction_session_timeout=300")
    store.sessions.create("s")

    def wait() -> None:
        others = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        with psycopg.connect(postgres_url, autocommit=True) as other:
            while other.execute(others).fetchone():
                pass

    def call() -> None:
        with store.transaction() as tx:
            tx.state.set("s", "k", 1)
            wait()
            tx.state.set("s", "k", 2)

    with pytest.raises(UnavailableError) as caught:
        call()
    assert caught.value.code == "25P03"
    assert "idle_in_transaction_session_timeout" in str(caught.value)
    assert "reached" not in str(caught.value)


@pytest.mark.parametrize("secret", ["password", "sslpassword", "passfile"])
def test_a_store_shows_no_secret(postgres_url: str, portal: Any, tmp_path: Path, secret: str) -> None:
    value = str(tmp_path / NEEDLE) if secret == "passfile" else NEEDLE
    url = make_url(postgres_url)
    query = {secret: value}
    if secret == "password":
        query, url = {secret: str(url.password)}, url.set(password=None)
        value = query[secret]
    url = url.update_query_dict(query)
    text = url.render_as_string(hide_password=False)
    engine, awaited = sync_engine(text), async_engine(text)
    with StateStore.open(text) as store, StateStore(engine) as borrowed:
        opened = portal.run(AsyncStateStore.open(text))
        shown = [repr(each) for each in (store, borrowed, opened, AsyncStateStore(awaited))]
        portal.run(opened.close())
    engine.dispose()
    portal.run(awaited.dispose())
    for each in shown:
        assert value not in each
        assert re.search("127.0.0.1|localhost", each)
    with pytest.raises(StateStoreError) as caught:
        migrate.upgrade(url.set(port=1))
    assert value not in str(caught.value)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and all that led to it."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and all(one is not other for other in seen):
            seen.append(one)
            waiting += [one.__context__, one.__cause__]
            yield one


def found_in(error: BaseException, *needles: str) -> list[str]:
    """Where in an error and in what led to it one of the needles is, or a driver's error that might have it."""
    found = []
    for one in chain(error):
        module = type(one).__module__
        if module.partition(".")[0] in ("psycopg", "sqlite3", "sqlalchemy", "aiosqlite"):
            found.append(f"{module}.{type(one).__name__}")
        text = f"{one!s} {one!r} {one.__dict__!r}"
        found += [text for needle in needles if needle in text]
    return found


def failing(store: Store, url: str) -> dict[str, Callable[[], Any]]:
    def in_transaction() -> None:
        with store.transaction() as tx:
            tx.state.set("s", "k", NEEDLE)

    return {
        "set": lambda: store.state.set("s", "k", NEEDLE),
        "set_many": lambda: store.state.set_many("s", {"a": NEEDLE, "b": NEEDLE}),
        "append": lambda: store.history.append("s", [NewEntry(NEEDLE)]),
        "appends": lambda: at_once(*[lambda: store.history.append("s", [NewEntry(NEEDLE)])] * 4),
        "transaction": in_transaction,
        "create": lambda: store.sessions.create("s2", metadata={"a": NEEDLE}),
        "cache": lambda: store.cache.set("k", NEEDLE),
    }


REFUSE = {
    "sqlite": "CREATE TRIGGER no_{table} BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, '" + NEEDLE + "'); END",
    "postgresql": "ALTER TABLE {table} ADD CONSTRAINT picky CHECK ({column}::text !~ 'needle')",
}
TABLES = {"state_entries": "value", "history_entries": "content", "sessions": "metadata", "cache_entries": "key"}


@WORLDS
def test_nothing_of_the_drivers_is_left_in_an_error(
    connect: Callable[..., Store], database_url: str, content: Content
) -> None:
    store = connect(database_url)
    store.sessions.create("s")
    kind = "sqlite" if content.is_sqlite else "postgresql"
    for table, column in TABLES.items():
        if table == "cache_entries" and not content.is_sqlite:
            content.query("ALTER TABLE cache_entries ADD CONSTRAINT picky CHECK (false) NOT VALID")
            continue
        content.query(REFUSE[kind].format(table=table, column=column, event="INSERT"))
    for name, call in failing(store, database_url).items():
        with pytest.raises(StateStoreError) as caught:
            call()
        assert found_in(caught.value, NEEDLE) == [], name


@WORLDS
def test_nothing_of_the_drivers_is_left_where_connections_break(
    connect: Callable[..., Store], proxy: Proxy, postgres_url: str
) -> None:
    store = connect(proxy.url, retry_for=1)
    store.sessions.create("s")
    store.history.append("s", [NewEntry("first")])

    def commit() -> None:
        with store.transaction() as tx:
            tx.state.set("s", "k", NEEDLE)

    calls: dict[str, tuple[str, Callable[[], Any]]] = {
        "create": ("sessions", lambda: store.sessions.create("new", metadata={"a": NEEDLE})),
        "commit": ("COMMIT", commit),
        "begin": ("BEGIN", commit),
    }
    for name, (fragment, call) in calls.items():
        for lost in ("request", "reply"):
            proxy.lose(lost, fragment, times=100)  # type: ignore[arg-type]
            with pytest.raises(StateStoreError) as caught:
                call()
            proxy.lose("request", "never", times=0)
            assert found_in(caught.value, NEEDLE, str(make_url(postgres_url).password)) == [], (name, lost)


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_what_the_caller_was_handling_stays_in_the_context(connect: Callable[..., Store], sqlite_url: str) -> None:
    store = connect(sqlite_url, lock_timeout=timedelta(milliseconds=10))
    store.sessions.create("s")
    holder = Content(sqlite_url)
    holder.query("BEGIN IMMEDIATE")

    def call() -> None:
        try:
            raise ValueError("of the caller")
        except ValueError:
            store.history.append("s", [NewEntry(1)])

    with pytest.raises(UnavailableError) as caught:
        call()
    assert any(isinstance(one, ValueError) for one in chain(caught.value))
    assert found_in(caught.value) == []
    holder.query("ROLLBACK")
    holder.close()
