"""Readiness: whether the database answers, in one round trip and in time."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from statestore import ReadOnlyError, StateStoreError, StoreClosedError, UnavailableError, deadline
from tests.support.wire import Proxy

Store = Any


def test_a_database_that_answers_is_ready(store: Store) -> None:
    assert store.ping() is None
    assert store.ping(writes=True) is None


def test_a_closed_store_is_not(store: Store) -> None:
    store.close()
    with pytest.raises(StoreClosedError):
        store.ping()


@pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
def test_a_database_that_is_gone_is_told_within_the_deadline(connect: Callable[..., Store], postgres_url: str) -> None:
    proxy = Proxy(postgres_url)
    store = connect(proxy.url)
    store.ping()
    proxy.close()
    with deadline(0.5), pytest.raises(UnavailableError):
        store.ping()


def test_a_restarted_database_is_ready_again(connect: Callable[..., Store], postgres_url: str) -> None:
    """A lost connection is made anew."""
    from tests.contract.test_connections import terminate

    store = connect(postgres_url)
    store.ping()
    assert terminate(postgres_url) >= 1
    store.ping()


def test_a_database_that_takes_no_writes_can_still_be_read(connect: Callable[..., Store], postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on',"
            " current_database()); END $$"
        )
    store = connect(postgres_url)
    store.ping()
    with pytest.raises(ReadOnlyError, match="does not accept writes"):
        store.ping(writes=True)


def test_a_table_that_cannot_be_read_is_not_ready(store: Store, content: Any) -> None:
    store.ping()
    content.query("ALTER TABLE sessions RENAME TO away")
    with pytest.raises(StateStoreError):
        store.ping()
