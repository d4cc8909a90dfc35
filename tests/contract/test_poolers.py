"""A pooler between the store and PostgreSQL, which gives each transaction whatever connection is free."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import NullPool, create_engine

from statestore import NewEntry, StateStore, StateStoreError, UnavailableError
from tests.support.crowd import at_once
from tests.support.pgbouncer import PgBouncer, prepares
from tests.support.wire import Proxy

Store = Any

WORLDS = pytest.mark.parametrize("world", ["sync", "async", "engine"], indirect=True)
OWN_ENGINE = pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
SOON = timedelta(milliseconds=50)


@pytest.fixture
def pooled_url(pgbouncer: PgBouncer, postgres_url: str) -> Any:
    yield pgbouncer.url(postgres_url)
    pgbouncer.hang_up(postgres_url)


def wrong_answers(stores: list[Store]) -> list[Any]:
    """What the stores say that is not so, while they all work at once, each on a session of its own."""
    wrong: list[Any] = []

    def work(store: Store, name: str) -> None:
        for n in range(20):
            try:
                store.history.append(name, [NewEntry(n)], create=True)
                store.state.set(name, "key", [name, n])
                found = store.history.count(name), store.state.get(name, "key"), store.sessions.get(name).session_id
            except Exception as exc:
                wrong.append(exc)
            else:
                if found != (n + 1, [name, n], name):
                    wrong.append(found)

    at_once(*[partial(work, stores[n % len(stores)], f"s{n}") for n in range(6)])
    return wrong


@WORLDS
def test_a_pooler_is_found_out(connect: Callable[..., Store], pooled_url: str) -> None:
    assert wrong_answers([connect(pooled_url, pool_size=3) for _ in range(2)]) == []


@OWN_ENGINE
@pytest.mark.skipif(prepares(), reason="this PgBouncer keeps prepared statements apart")
def test_behind_it_prepared_statements_are_somebody_elses(connect: Callable[..., Store], pooled_url: str) -> None:
    """The control: a store that is told to prepare does, and the test above would notice."""
    assert wrong_answers([connect(pooled_url, pool_size=3, prepared_statements=True) for _ in range(2)]) != []


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_joined_transactions_prepare_nothing_behind_it(connect: Callable[..., Store], pooled_url: str) -> None:
    connect(pooled_url).sessions.create("s")
    engine = create_engine(pooled_url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.connect() as connection:
        for n in range(10):
            with connection.begin():
                StateStore.join(connection).history.append("s", [NewEntry(n)])
            prepared = connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar()
            connection.rollback()
            assert prepared == 0
    assert connect(pooled_url).history.count("s") == 10


@OWN_ENGINE
def test_a_new_connection_is_asked_once_who_is_at_its_other_end(connect: Callable[..., Store], proxy: Proxy) -> None:
    """Also if its opener says whether to prepare: what a lost connection leaves behind is found by its process."""
    for prepared in (True, False, None):
        proxy.traffic.clear()
        connect(proxy.url, prepared_statements=prepared)
        assert sum("pg_backend_pid" in sql for sql in proxy.traffic.statements) == 1


WAITING: dict[str, Callable[[Store], Any]] = {
    "append": lambda store: store.history.append("s", [NewEntry(1)]),
    "one statement": lambda store: store.state.set("s", "k", 1),
    "several statements": lambda store: store.history.clear("s"),
    "transaction": lambda store: transaction(store),
}


def transaction(store: Store) -> None:
    with store.transaction() as tx:
        tx.state.set("s", "k", 1)


def unhurried(call: Callable[[], Any]) -> Any:
    """What the call returns, though a busy machine may take longer over it than the store's timeout allows."""
    for _ in range(20):
        with suppress(UnavailableError):
            return call()
    return call()


@OWN_ENGINE
@pytest.mark.parametrize("prepared", [None, True])
@pytest.mark.parametrize(("setting", "code"), [("lock_timeout", "55P03"), ("statement_timeout", "57014")])
def test_timeouts_hold_behind_a_pooler(
    connect: Callable[..., Store], pooled_url: str, postgres_url: str, setting: str, code: str, prepared: bool | None
) -> None:
    connect(postgres_url).sessions.create("s")
    store = connect(pooled_url, prepared_statements=prepared, **{setting: SOON})
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT 1 FROM statestore.sessions WHERE namespace = 'default' FOR UPDATE")
        for call in WAITING.values():
            for _ in range(2):
                with pytest.raises(UnavailableError) as caught:
                    call(store)
                assert caught.value.code == code
    for n in range(7):  # Often enough for psycopg to prepare what it runs.
        unhurried(lambda n=n: store.history.append("s", [NewEntry(n)]))
        assert [entry.content for entry in unhurried(lambda: store.history.read("s"))] == list(range(n + 1))
    # Nobody else has them now.
    others = [psycopg.connect(pooled_url) for _ in range(2)]
    for other in others:
        row = other.execute(f"SHOW {setting}").fetchone()  # type: ignore[arg-type]
        assert row == ("0",)
    for other in others:
        other.close()


@OWN_ENGINE
@pytest.mark.parametrize(
    ("options", "arguments", "code"),
    [
        ("-c statement_timeout=50", {"lock_timeout": timedelta(seconds=20)}, "57014"),
        ("-c statement_timeout=20000", {"lock_timeout": SOON}, "55P03"),
        ("-c lock_timeout=20000", {"lock_timeout": SOON}, "55P03"),
    ],
)
def test_timeouts_hold_beside_the_options_of_a_url(
    connect: Callable[..., Store], postgres_url: str, options: str, arguments: dict[str, timedelta], code: str
) -> None:
    connect(postgres_url).sessions.create("s")
    store = connect(f"{postgres_url}?options={options.replace(' ', '%20')}", **arguments)
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT 1 FROM statestore.sessions WHERE namespace = 'default' FOR UPDATE")
        with pytest.raises(UnavailableError) as caught:
            store.state.set("s", "k", 1)
    assert caught.value.code == code


@OWN_ENGINE
def test_the_options_of_a_url_that_a_pooler_refuses_are_named(connect: Callable[..., Store], pooled_url: str) -> None:
    with pytest.raises(StateStoreError) as caught, suppress(LookupError):
        connect(f"{pooled_url}?options=-c%20work_mem=5MB")
    assert "unsupported startup parameter: options" in str(caught.value)
