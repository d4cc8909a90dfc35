"""Sweeps beside each other, and beside those who use what is due."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from statestore import NewEntry, SessionNotFoundError, StateStore
from statestore.repositories.expiry.batch import Batch
from statestore.repositories.expiry.erasure import ErasureRepository
from statestore.repositories.expiry.repository import ExpiryRepository
from statestore.repositories.sessions import endings
from tests.support.crowd import at_once

Store = Any

HOUR = timedelta(hours=1)


def test_sweeps_at_once_delete_the_overflow_once(open_store: Callable[..., Store]) -> None:
    filling = open_store(cache_max_entries=None)
    filling.cache.set_many({f"k{n}": n for n in range(300)})
    sweeping = [open_store(cache_max_entries=200) for _ in range(4)]
    reports = at_once(*(lambda store=store: store.sweep(batch_size=40) for store in sweeping))
    assert sum(report["cache_overflow"].rows for report in reports) == 100
    assert filling.cache.stats().entries == 200


@pytest.fixture
def other(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody who is in the middle of a transaction."""
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        yield connection


def wait_until_over(connection: psycopg.Connection[Any], table: str, column: str) -> None:
    """What is due soon has to be due by the server's clock, which tests cannot move."""
    query = f"SELECT pg_sleep(greatest(extract(epoch FROM max({column}) - clock_timestamp()), 0) + 0.001) FROM {table}"
    connection.execute(query)
    connection.commit()


def test_a_session_that_is_extended_while_a_sweep_looks_at_it_stays(
    postgres_url: str, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with StateStore.open(postgres_url) as store:
        store.sessions.create("s", ttl=timedelta(milliseconds=1))
        wait_until_over(other, "statestore.sessions", "expires_at")
        take = ExpiryRepository._take

        def extend_and_take(repository: ExpiryRepository, found: dict[str, bool]) -> Any:
            assert list(found) == ["s"], "the sweep has to find it first"
            other.execute("UPDATE statestore.sessions SET expires_at = now() + interval '1 hour'")
            other.commit()
            return take(repository, found)

        monkeypatch.setattr(ExpiryRepository, "_take", extend_and_take)
        report = store.sweep()
        assert report.rows == 0
        assert store.sessions.exists("s")


def test_a_session_that_is_forked_while_a_sweep_looks_at_it_leaves_the_fork_its_entries(
    postgres_url: str, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found without a fork, so without the lock of its family: it is left to the next sweep."""
    with StateStore.open(postgres_url) as store:
        store.sessions.create("s")
        store.history.append("s", [NewEntry(n) for n in range(3)])
        expire = "UPDATE statestore.sessions SET ttl = '1 hour', expires_at = now()"
        take = ExpiryRepository._take

        def fork_and_take(repository: ExpiryRepository, found: dict[str, bool]) -> Any:
            if "s" in found and not store.sessions.exists("fork"):
                other.execute("UPDATE statestore.sessions SET ttl = NULL, expires_at = NULL")
                other.commit()
                thread = threading.Thread(target=store.sessions.fork, args=("s", "fork"))
                thread.start()
                thread.join()
                other.execute(f"{expire} WHERE session_id = 's'")
                other.commit()
            return take(repository, found)

        monkeypatch.setattr(ExpiryRepository, "_take", fork_and_take)
        other.execute(expire)
        other.commit()
        first = store.sweep()
        assert (first.rows, first.complete) == (0, False)
        assert store.sweep()["expired_sessions"].rows == 1
        assert [entry.content for entry in store.history.read("fork")] == [0, 1, 2]


def test_a_sweep_neither_waits_for_nor_deletes_what_somebody_is_extending(
    postgres_url: str, other: psycopg.Connection[Any]
) -> None:
    with StateStore.open(postgres_url) as store:
        soon = timedelta(milliseconds=1)
        store.sessions.create("expired", ttl=soon)
        store.sessions.create("idle")
        store.sessions.create("s")
        store.set_retention(HOUR)
        store.state.set("s", "key", 1, ttl=soon)
        store.cache.set("key", 1, ttl=soon)
        long_ago = "last_activity_at = now() - interval '3 hours', active_hour = now() - interval '4 hours'"
        other.execute(f"UPDATE statestore.sessions SET {long_ago} WHERE session_id = 'idle'")
        other.commit()
        wait_until_over(other, "statestore.cache_entries", "keep_until")

        later = "now() + interval '1 hour'"
        other.execute(f"UPDATE statestore.sessions SET expires_at = {later} WHERE session_id = 'expired'")
        other.execute("UPDATE statestore.sessions SET last_activity_at = now(), active_hour = now()")
        other.execute(f"UPDATE statestore.state_entries SET expires_at = {later}")
        other.execute(f"UPDATE statestore.cache_entries SET expires_at = {later}, keep_until = {later}")
        report = store.sweep()
        assert (report.rows, report.complete) == (0, False)
        other.commit()
        report = store.sweep()
        assert (report.rows, report.complete) == (0, True)
        assert store.sessions.exists("expired")
        assert store.sessions.exists("idle")
        assert store.state.get("s", "key") == 1
        assert store.cache.get("key") == 1


@pytest.mark.parametrize("safe", [True, False])
def test_an_append_that_waited_while_its_session_was_hidden_is_refused(
    postgres_url: str, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, safe: bool
) -> None:
    """It goes by the time at which it began: a session that ended only since would be brought back, then deleted."""
    monkeypatch.setattr(ErasureRepository, "_erase", lambda *args: Batch())  # Only hidden: the process dies.
    if not safe:
        monkeypatch.setattr(endings, "BACK", timedelta(0))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%next_seq%'"
    outcome: list[str] = []

    def append() -> None:
        try:
            store.history.append("s", [NewEntry(1)])
        except SessionNotFoundError:
            outcome.append("refused")
        else:
            outcome.append("acknowledged")

    with StateStore.open(postgres_url) as store:
        store.sessions.create("s", user_id="ada")
        thread = threading.Thread(target=append)
        with store.transaction() as tx:
            tx.sessions.touch("s")
            thread.start()
            while other.execute(waiting).fetchone() == (0,):
                other.commit()
            tx.sessions.delete_user("ada")
        thread.join()
    assert outcome == ["refused" if safe else "acknowledged"]


def test_a_sweep_passes_by_unseen_entries_of_a_session_that_somebody_holds(
    postgres_url: str, other: psycopg.Connection[Any]
) -> None:
    with StateStore.open(postgres_url, lock_timeout=timedelta(seconds=2)) as store:
        for session_id in ("held", "free"):
            store.history.append(session_id, [NewEntry(n) for n in range(3)], create=True)
        other.execute("UPDATE statestore.sessions SET first_seq = 2")
        other.commit()
        other.execute("SELECT 1 FROM statestore.sessions WHERE session_id = 'held' FOR UPDATE")
        report = store.sweep()
        assert (report["unseen_entries"].rows, report.complete) == (1, False)
        other.commit()
        report = store.sweep()
        assert (report["unseen_entries"].rows, report.complete) == (1, True)
