"""Leases whose holders are interrupted: what was given out is given back, and what was done is known to be done."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from statestore import AsyncStateStore, StaleLeaseError, StateStore
from tests.support.wire import Proxy
from tests.support.worlds import entering

Store = Any

TTL = timedelta(minutes=1)
ROUNDS = 10


@pytest.fixture
def other(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody who is in the middle of a transaction."""
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        yield connection


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_a_block_ends_well_if_the_answer_to_its_end_was_lost(
    connect: Callable[..., Store], proxy: Proxy, lost: Any
) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    for _ in range(ROUNDS):
        with entering(store, store.sessions.acquire("s", owner="a", ttl=TTL)) as lease:
            proxy.lose(lost, "CASE WHEN s.status = 'busy'")
        assert proxy.faults_left == 0
        assert not lease.lost
        assert store.sessions.get("s").status == "ready"


def test_a_block_whose_lease_went_to_another_says_so_though_the_answer_was_lost(
    connect: Callable[..., Store], proxy: Proxy, postgres_url: str
) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    with StateStore.open(postgres_url) as second:
        block = entering(store, store.sessions.acquire("s", owner="a", ttl=TTL))
        second.sessions.release(block.__enter__())
        taken = second.sessions.acquire("s", owner="b", ttl=TTL)
        proxy.lose("reply", "CASE WHEN s.status = 'busy'")
        with pytest.raises(StaleLeaseError):
            block.__exit__(None, None, None)
        assert second.sessions.renew(taken).token == taken.token


def test_a_lease_that_comes_after_its_caller_was_cancelled_is_free_again(
    postgres_url: str, other: psycopg.Connection[Any]
) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%lease_owner%'"

    async def cancel_while_it_waits(round: int) -> None:
        async with await AsyncStateStore.open(postgres_url) as store:
            await store.sessions.open("s")
            other.execute("SELECT 1 FROM statestore.sessions WHERE session_id = 's' FOR UPDATE")
            acquiring = asyncio.create_task(store.sessions.acquire("s", owner=f"cancelled {round}", ttl=TTL))
            with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as look:
                while look.execute(waiting).fetchone() == (0,):
                    await asyncio.sleep(0)
            acquiring.cancel()
            letting_go = threading.Timer(0.01 * round, other.commit)
            letting_go.start()
            with pytest.raises(asyncio.CancelledError):
                await acquiring
            letting_go.join()
            lease = await store.sessions.acquire("s", owner="next", ttl=TTL, wait=timedelta(seconds=10))
            await store.sessions.release(lease)

    for round in range(ROUNDS):
        asyncio.run(cancel_while_it_waits(round))
