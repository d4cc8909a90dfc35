"""A server that no longer accepts writes, with another one beside it or without."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from statestore import NewEntry, ReadOnlyError, StateStore, UnavailableError, migrate
from statestore.engine import hosts
from tests.postgres import PostgresServer, start_server
from tests.support.crowd import at_once

Store = Any
WORLDS = pytest.mark.parametrize("world", ["sync", "async", "engine"], indirect=True)
OWN_ENGINE = pytest.mark.parametrize("world", ["sync", "async"], indirect=True)


class Primary:
    """A server that can be told to take no writes, and that has its sessions at once do as they are told."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    def url(self, database: str) -> str:
        return self._server.url(database)

    def take_writes(self, whether: bool) -> None:
        with psycopg.connect(self._server.url(), autocommit=True) as admin:
            admin.execute("SET default_transaction_read_only = off")
            admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'off' if whether else 'on'}")  # type: ignore[arg-type]
            admin.execute("SELECT pg_reload_conf()")
        # A session that was told by the reload has its own value no longer: all have heard when a new one has.
        wanted = ("off" if whether else "on",)
        while True:
            with psycopg.connect(self._server.url(), autocommit=True) as admin:
                if admin.execute("SHOW default_transaction_read_only").fetchone() == wanted:
                    return


@pytest.fixture(scope="module")
def primary() -> Iterator[Primary]:
    with start_server(settings={}) as server:
        yield Primary(server)


@pytest.fixture
def old(primary: Primary, postgres_url: str) -> Iterator[Primary]:
    """A primary with a database of the same name as the tests' own server."""
    url = make_url(postgres_url)
    server = primary._server
    server.create_database(str(url.database))
    migrate.upgrade(primary.url(str(url.database)))
    yield primary
    primary.take_writes(True)
    server.drop_database(str(url.database))


@pytest.fixture
def old_url(old: Primary, postgres_url: str) -> str:
    return old.url(str(make_url(postgres_url).database))


@pytest.fixture
def both(old_url: str, postgres_url: str) -> Iterator[str]:
    """A URL of both servers, as libpq writes it. The old primary comes first."""
    servers = [make_url(old_url), make_url(postgres_url)]
    for command in ("CREATE ROLE of_both SUPERUSER LOGIN PASSWORD 'same'", "DROP ROLE of_both"):
        for server in servers:
            with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as admin:
                admin.execute("SET default_transaction_read_only = off")
                admin.execute(command)  # type: ignore[call-overload]
        if command.startswith("CREATE"):
            addresses = ",".join(f"{server.host}:{server.port}" for server in servers)
            yield f"postgresql://of_both:same@{addresses}/{servers[0].database}?target_session_attrs=read-write"


def opened(connect: Callable[..., Store], world: str, url: str) -> Store:
    """A store on *url*; an engine of the caller's is given what SQLAlchemy understands."""
    if world == "engine":
        url = hosts.parse(url, "url").render_as_string(hide_password=False)
    return connect(url, pool_size=4)


WRITES: dict[str, Callable[[Store], Any]] = {
    "one statement": lambda store: store.state.set("s", "k", 1),
    "several statements": lambda store: store.history.trim("s", keep_last=5),
    "append": lambda store: store.history.append("s", [NewEntry("new")]),
    "appends": lambda store: at_once(*[partial(store.history.append, "s", [NewEntry("new")])] * 4),
}


@WORLDS
@pytest.mark.parametrize("write", WRITES)
def test_the_new_primary_is_found(
    connect: Callable[..., Store], old: Primary, both: str, postgres_url: str, world: str, write: str
) -> None:
    with StateStore.open(postgres_url) as new:
        new.sessions.create("s")
    store = opened(connect, world, both)
    store.sessions.create("s")
    at_once(*[lambda: store.history.append("s", [NewEntry("old")])] * 4)
    at_once(*[lambda: store.sessions.get("s")] * 4)
    old.take_writes(False)
    WRITES[write](store)
    store.state.set("s", "found", True)
    assert {entry.content for entry in store.history.read("s")} <= {"new"}
    with StateStore.open(postgres_url) as new:
        assert new.state.get("s", "found") is True


@WORLDS
def test_a_transaction_on_the_old_primary_may_be_repeated(
    connect: Callable[..., Store], old: Primary, both: str, postgres_url: str, world: str
) -> None:
    with StateStore.open(postgres_url) as new:
        new.sessions.create("s")
    store = opened(connect, world, both)
    store.sessions.create("s")

    def work() -> None:
        with store.transaction() as tx:
            tx.state.set("s", "k", 1)

    work()
    old.take_writes(False)
    with pytest.raises(UnavailableError) as caught:
        work()
    assert caught.value.code == "25006"
    assert caught.value.retryable
    work()
    with StateStore.open(postgres_url) as new:
        assert new.state.get("s", "k") == 1


@WORLDS
def test_one_host_is_read_only_until_it_is_not(
    connect: Callable[..., Store], old: Primary, old_url: str, world: str
) -> None:
    store = opened(connect, world, old_url)
    store.sessions.create("s")
    old.take_writes(False)
    for write in WRITES.values():
        with pytest.raises(ReadOnlyError) as caught:
            write(store)
        assert caught.value.code == "25006"
    assert store.sessions.get("s").session_id == "s"
    old.take_writes(True)
    for write in WRITES.values():
        write(store)
    assert store.state.get("s", "k") == 1


@OWN_ENGINE
def test_no_primary_is_said_to_be_missing(connect: Callable[..., Store], old: Primary, both: str) -> None:
    url = hosts.parse(both, "url")
    only_old = url.update_query_dict({name: str(url.query[name]).split(",")[0] for name in ("host", "port")})
    old.take_writes(False)
    with pytest.raises(UnavailableError) as caught:
        connect(only_old.render_as_string(hide_password=False))
    assert "target_session_attrs" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("h1:1,h2:2/db", {"host": "h1,h2", "port": "1,2"}),
        ("u:p%40:@h1,h2:2/db", {"host": "h1,h2", "port": "5432,2"}),
        ("u@[::1]:1,[::2]/db?target_session_attrs=any", {"host": "::1,::2", "port": "1,5432"}),
        ("u@h1,h2,h3/db?connect_timeout=3", {"host": "h1,h2,h3", "port": "5432,5432,5432"}),
    ],
)
def test_several_hosts_are_read_as_libpq_writes_them(given: str, read: dict[str, str]) -> None:
    url = hosts.parse(f"postgresql://{given}", "url")
    assert {name: url.query[name] for name in ("host", "port")} == read
    assert url.database == "db"
    assert url.host is None
    assert hosts.several(url)
    assert url.password in (None, "p@:")


def test_one_host_is_one() -> None:
    for url in ("postgresql://h/db", "postgresql://u:a,b@h:1/db", "postgresql:///db?host=h"):
        assert not hosts.several(hosts.parse(url, "url"))
    assert hosts.several(hosts.parse("postgresql://h/db?target_session_attrs=primary", "url"))
