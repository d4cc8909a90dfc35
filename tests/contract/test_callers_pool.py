"""A store on a caller's engine takes no connection longer than a call, and none for longer than the call may take."""

import threading
import time

import pytest
from sqlalchemy import create_engine, text

from statestore import StateStore, UnavailableError
from tests.support.engines import sync_engine
from tests.support.wire import Proxy

AMPLE = 15


@pytest.mark.parametrize("pings", [True, False])
def test_a_connection_that_was_used_before_is_not_waited_for(postgres_url: str, pings: bool) -> None:
    proxy = Proxy(postgres_url)
    engine = create_engine(
        proxy.url.replace("postgresql://", "postgresql+psycopg://"), pool_pre_ping=pings, isolation_level="AUTOCOMMIT"
    )
    connections = [engine.connect() for _ in range(3)]
    for connection in connections:
        connection.execute(text("SELECT 1"))
        connection.close()
    store = StateStore(engine, timeout=1, retry_for=1)
    store.sessions.create("s")
    proxy.swallow()
    outcome: list[BaseException] = []

    def get() -> None:
        try:
            store.sessions.get("s")
        except BaseException as exc:
            outcome.append(exc)

    thread = threading.Thread(target=get, daemon=True)
    begun = time.monotonic()
    thread.start()
    thread.join(AMPLE)
    assert outcome
    assert isinstance(outcome[0], UnavailableError)
    assert time.monotonic() - begun < AMPLE
    proxy.close()
    engine.dispose()


def test_what_a_call_has_borrowed_is_given_back(database_url: str) -> None:
    engine = sync_engine(database_url)
    with StateStore(engine) as store:
        store.sessions.create("s")
        assert engine.pool.checkedout() == 0
        with store.transaction() as tx:
            assert tx.sessions.get("s").session_id == "s"
            assert engine.pool.checkedout() == 1
        assert engine.pool.checkedout() == 0
    engine.dispose()
