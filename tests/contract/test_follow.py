"""Following a history: every entry once, in order, whatever happens meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from statestore import InvalidValueError, SessionNotFoundError, StateStore, StateStoreError, UnavailableError, migrate
from statestore.engine import flows, waits
from statestore.operations import follow
from statestore.repositories.history import follows
from tests.conftest import POSTGRESQL, SQLITE
from tests.postgres import LocalServer, start_server
from tests.support.portal import BlockingStore, Portal
from tests.support.worlds import iterating

Store = Any
SOON = timedelta(seconds=0.3)
LATE = timedelta(seconds=60)


@pytest.fixture
def store(open_store: Callable[..., Any]) -> Store:
    store = open_store()
    store.sessions.create("s")
    return store


def say(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


def followed(store: Store, session_id: str = "s", **options: Any) -> Iterator[str]:
    for entry in iterating(store, store.history.follow(session_id, **{"timeout": LATE, **options})):
        yield entry.content["content"]


def take(entries: Iterator[str], count: int) -> list[str]:
    return [next(entries) for _ in range(count)]


def test_what_is_there_comes_first_then_what_is_appended(store: Store) -> None:
    store.history.append("s", say("a", "b", "c"))
    entries = followed(store, after=1)
    assert take(entries, 2) == ["b", "c"]
    store.history.append("s", say("d"))
    assert take(entries, 1) == ["d"]
    entries.close()  # type: ignore[attr-defined]


def test_without_a_position_only_what_is_new_comes(store: Store) -> None:
    store.history.append("s", say("old"))
    result: list[str] = []
    started = threading.Event()

    def run() -> None:
        started.set()
        result.extend(followed(store, timeout=timedelta(seconds=2)))

    follower = threading.Thread(target=run)
    follower.start()
    started.wait()
    for n in range(100):  # Whichever of them the follower begins with, it goes on without a gap.
        store.history.append("s", say(str(n)))
    follower.join()
    assert result == [str(n) for n in range(100 - len(result), 100)]
    assert "old" not in result


def test_it_ends_when_nothing_has_come_for_so_long(store: Store) -> None:
    store.history.append("s", say("a"))
    assert list(followed(store, after=0, timeout=SOON)) == ["a"]


def test_a_fork_can_be_followed(store: Store) -> None:
    store.history.append("s", say("a", "b"))
    store.sessions.fork("s", "f", at_seq=1)
    entries = followed(store, "f", after=0)
    assert take(entries, 1) == ["a"]
    store.history.append("s", say("not this"))
    store.history.append("f", say("x"))
    assert take(entries, 1) == ["x"]
    entries.close()  # type: ignore[attr-defined]


def test_a_missing_session_cannot_be_followed(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        next(followed(store, "missing"))


def test_it_ends_when_the_session_is_deleted(store: Store) -> None:
    store.history.append("s", say("a"))
    entries = followed(store, after=0)
    assert take(entries, 1) == ["a"]
    store.sessions.delete("s")
    with pytest.raises(SessionNotFoundError):
        next(entries)


def test_what_takes_the_place_of_popped_entries_comes_too(store: Store) -> None:
    store.history.append("s", say("a", "b", "c"))
    entries = followed(store, after=2)
    assert take(entries, 1) == ["c"]
    store.history.pop_last("s", 2)
    store.history.append("s", say("B", "C", "D"))
    assert take(entries, 3) == ["B", "C", "D"]
    entries.close()  # type: ignore[attr-defined]


def test_a_cleared_history_is_followed_from_its_new_start(store: Store) -> None:
    store.history.append("s", say("a", "b"))
    entries = followed(store, after=0)
    assert take(entries, 2) == ["a", "b"]
    store.history.clear("s")
    store.history.append("s", say("x", "y", "z"))
    assert take(entries, 3) == ["x", "y", "z"]
    entries.close()  # type: ignore[attr-defined]


def test_nothing_comes_from_before_a_position_that_was_not_reached_yet(store: Store) -> None:
    store.history.append("s", say("1"))
    entries = followed(store, after=5, timeout=timedelta(seconds=1))
    appending = threading.Timer(0.3, lambda: [store.history.append("s", say(str(n))) for n in range(2, 8)])
    appending.start()
    assert list(entries) == ["6", "7"]
    appending.join()


def test_it_ends_when_another_session_is_made_under_the_id(store: Store) -> None:
    store.history.append("s", say(*map(str, range(400))))
    entries = followed(store, after=0)
    take(entries, 400)
    with store.transaction() as tx:
        tx.sessions.delete("s")
        tx.sessions.create("s")
        tx.history.append("s", say("new"))
    with pytest.raises(SessionNotFoundError):
        next(entries)


def test_a_long_history_that_was_cleared_is_followed_from_its_new_start(store: Store) -> None:
    store.history.append("s", say(*map(str, range(400))))
    entries = followed(store, after=0)
    take(entries, 400)
    store.history.clear("s")
    store.history.append("s", say("x", "y"))
    assert take(entries, 2) == ["x", "y"]
    store.history.append("s", say("z"))
    assert take(entries, 1) == ["z"]
    entries.close()  # type: ignore[attr-defined]


def test_popping_far_back_repeats_nothing(store: Store) -> None:
    store.history.append("s", say(*map(str, range(400))))
    entries = followed(store, after=0)
    take(entries, 400)
    store.history.pop_last("s", 390)
    assert list(followed(store, after=10, timeout=SOON)) == []
    result: list[str] = []
    waiting = threading.Thread(target=lambda: result.extend(take(entries, 1)))
    waiting.start()
    waiting.join(1.5)  # It looks at least once a second.
    store.history.append("s", say("x"))
    waiting.join()
    assert result == ["x"]
    entries.close()  # type: ignore[attr-defined]


def test_trimming_what_was_passed_on_repeats_nothing(store: Store) -> None:
    store.history.append("s", say("a", "b", "c"))
    entries = followed(store, after=0)
    assert take(entries, 3) == ["a", "b", "c"]
    store.history.trim("s", keep_last=0)
    store.history.append("s", say("d"))
    assert take(entries, 1) == ["d"]
    entries.close()  # type: ignore[attr-defined]


def test_waiting_does_not_keep_a_session_alive(store: Store) -> None:
    store.sessions.create("short", ttl=timedelta(milliseconds=400))
    with pytest.raises(SessionNotFoundError):
        next(followed(store, "short", after=0))


def test_it_does_not_run_inside_a_transaction(store: Store) -> None:
    with store.transaction() as tx, pytest.raises(InvalidValueError):
        next(iter(iterating(store, tx.history.follow("s"))))


def test_an_append_wakes_the_follower(
    store: Store, monkeypatch: pytest.MonkeyPatch, database_url: str, world: str
) -> None:
    if database_url.startswith("sqlite") or world == "engine":
        pytest.skip("there are no notifications")
    # Without a notification it would look again long after the test's end.
    monkeypatch.setattr(follow, "_PAUSE_WHEN_NOTIFIED", 3600.0)
    monkeypatch.setattr(follow, "_LONGEST_PAUSE", 3600.0)
    store.history.append("s", say("a"))
    entries = followed(store, after=0, timeout=timedelta(hours=2))
    assert take(entries, 1) == ["a"]
    result: list[str] = []
    waiting = threading.Thread(target=lambda: result.extend(take(entries, 1)))
    waiting.start()
    store.history.append("s", say("b"))
    waiting.join(30)
    assert result == ["b"]
    entries.close()  # type: ignore[attr-defined]


def test_nothing_is_held_when_one_stops_following(postgres_url: str, world: str, connect: Callable[..., Any]) -> None:
    if world == "engine":
        pytest.skip("an engine of the caller's is looked through, without a connection of its own")
    store = connect(postgres_url)
    store.sessions.create("s")
    store.history.append("s", say("a"))
    with psycopg.connect(postgres_url, autocommit=True) as admin:

        def wait_for(held: int) -> None:
            for _ in range(1000):
                if admin.execute(locks).fetchone() == (held,):
                    return
                time.sleep(0.01)
            pytest.fail(f"there are never {held} locks")

        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        entries = followed(store, after=0)
        take(entries, 1)
        wait_for(1)
        store.history.append("s", say("b"))
        wait_for(1)
        entries.close()  # type: ignore[attr-defined]
        wait_for(0)


@pytest.mark.parametrize("away_for", [0.0, 119.0, 121.0])
def test_a_follower_waits_two_minutes_for_the_database(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, away_for: float
) -> None:
    now = 0.0

    class Signal(waits.Signal):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            now += timeout or 0.0
            return False

    monkeypatch.setattr(follow, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(flows, "waits", SimpleNamespace(Signal=Signal))
    with StateStore.open(sqlite_url) as store:
        store.sessions.create("s")
        store.history.append("s", say("a", "b"))
        run, looks = store._database.run, 0

        def away(call: Any) -> Any:
            nonlocal looks
            looks += 1
            if looks > 1 and now < away_for:
                raise UnavailableError("away")
            return run(call)

        monkeypatch.setattr(store._database, "run", away)
        entries = store.history.follow("s", after=0, timeout=timedelta(hours=1))
        if away_for < 120:
            assert [next(entries).seq, next(entries).seq] == [1, 2]
        else:
            with pytest.raises(UnavailableError):
                next(entries)
            assert 120 < now < 121
        entries.close()  # type: ignore[attr-defined]


# The first name of each pair is followed; the second must not be taken for it.
ALIKE = [(("acme", "prod/1"), ("acme/prod", "1")), (("a", "b/c"), ("a/b", "c")), (("a/", "b"), ("a", "/b"))]


@pytest.mark.parametrize(("followed_name", "other"), ALIKE)
def test_sessions_of_other_namespaces_wake_nobody(
    postgres_url: str, followed_name: tuple[str, str], other: tuple[str, str]
) -> None:
    with (
        StateStore.open(postgres_url, namespace=other[0]) as others,
        psycopg.connect(postgres_url, autocommit=True) as ear,
    ):
        others.sessions.create(other[1])
        channel = ear.execute(follows.LISTENING.listen_to, followed_name).fetchone()[0]  # type: ignore[index]
        ear.execute(f'LISTEN "{channel}"')
        assert ear.execute(follows.LISTENING.try_lock, followed_name).fetchone() == (True,)
        others.history.append(other[1], say("not for you"))
        assert list(ear.notifies(timeout=0.2)) == []
        with StateStore.open(postgres_url, namespace=followed_name[0]) as own:
            own.sessions.create(followed_name[1])
            own.history.append(followed_name[1], say("for you"))
        assert len(list(ear.notifies(timeout=20, stop_after=1))) == 1


def test_a_follower_does_not_hold_the_lock_of_a_cache(postgres_url: str) -> None:
    with (
        psycopg.connect(postgres_url, autocommit=True) as follower,
        StateStore.open(postgres_url, namespace="a/b", cache_max_entries=1, lock_timeout=timedelta(seconds=1)) as store,
    ):
        # Joined by a slash it is what the cache of namespace a/b locks.
        assert follower.execute(follows.LISTENING.try_lock, ("statestore.cache:a", "b")).fetchone() == (True,)
        for key in ("k", "l"):
            store.cache.set(key, 1)
        assert store.cache.stats().entries == 1


@pytest.fixture(scope="module")
def restartable() -> Iterator[LocalServer]:
    # A crash must not lose what was acknowledged: then there would be nothing to hold against.
    with start_server(settings={"synchronous_commit": "on"}) as server:
        assert isinstance(server, LocalServer)
        yield server


@pytest.mark.parametrize("database", [SQLITE, POSTGRESQL])
def test_a_thousand_concurrent_appends_and_a_restart_come_once_and_in_order(
    database: str, world: str, request: pytest.FixtureRequest
) -> None:
    server: LocalServer | None = None
    if database == "postgresql":
        server = request.getfixturevalue("restartable")
        name = f"follow_{world}"
        server.create_database(name)
        url = server.url(name)
        migrate.upgrade(url)
    else:
        url = request.getfixturevalue("sqlite_url")
    portal: Portal = request.getfixturevalue("portal")
    opened = {"sync": StateStore.open, "async": partial(BlockingStore.open, portal)}
    store: Any = opened.get(world, partial(BlockingStore.on_engine, portal))(url)
    writer = StateStore.open(url)
    store.sessions.create("s")
    done = threading.Semaphore(0)

    def append(worker: int) -> None:
        for n in range(100):
            text = f"{worker}-{n}"
            entry = {"role": "user", "content": text}
            while True:
                try:
                    # The end may have been reached by an earlier try whose answer was lost.
                    if any(e.content == entry for e in writer.history.read("s", last=30)):
                        break
                    writer.history.append("s", [entry])
                    break
                except StateStoreError:
                    continue
            done.release()

    workers = [threading.Thread(target=append, args=(worker,)) for worker in range(10)]
    for worker in workers:
        worker.start()

    def restart() -> None:
        for _ in range(300):
            done.acquire()
        if server is not None:
            server.restart("immediate")

    restarter = threading.Thread(target=restart)
    restarter.start()
    got = []
    entries = iterating(store, store.history.follow("s", after=0, timeout=LATE))
    for entry in entries:
        got.append(entry)
        if len({e.content["content"] for e in got}) == 1000:
            break
    entries.close()  # type: ignore[attr-defined]
    for thread in [*workers, restarter]:
        thread.join()
    stored = writer.history.read("s")
    assert [entry.seq for entry in got] == list(range(1, len(got) + 1))
    assert got == stored[: len(got)]
    assert len({entry.content["content"] for entry in stored}) == 1000
    store.close()
    writer.close()


def test_a_follower_does_not_keep_a_transaction_from_reading_that_its_session_is_gone(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as follower, StateStore.open(postgres_url, timeout=5) as store:
        assert follower.execute(follows.LISTENING.try_lock, ("default", "gone")).fetchone() == (True,)
        with store.transaction() as tx:
            assert tx.sessions.find("gone") is None
