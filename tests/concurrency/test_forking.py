"""A process that forks has two stores: the child makes connections, locks and threads of its own.

Each scene runs in an interpreter of its own, since a fork of the process that runs the tests would be one with threads.
"""

import subprocess
import sys
import textwrap

import pytest

# Seconds. A child that hangs is found by this.
AMPLE = 100

PRELUDE = """
import os, signal, sys, threading, time
from datetime import timedelta
import statestore
from statestore import NewEntry, StateStore

signal.alarm(80)  # Each process ends by itself, whatever hangs.
url = sys.argv[1]


def wait_for(pid):
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status}"


def child(work):
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.alarm(60)
        work()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""


def play(scene: str, url: str, *, warn: str = "error", first: str = "") -> None:
    code = first + PRELUDE + textwrap.dedent(scene)
    done = subprocess.run(
        [sys.executable, "-W", warn, "-c", code, url], capture_output=True, text=True, timeout=AMPLE, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def test_nobody_gets_the_answers_of_another_while_threads_write(database_url: str) -> None:
    # Threads of the test's own make the fork one of several threads, which newer Pythons warn of.
    play(
        """
        store = StateStore.open(url, pool_size=4)
        for n in range(8):
            store.sessions.create(f"s{n}")
        store.sessions.create("parent")
        stop = threading.Event()
        failures = []

        def use(who, times):
            store.cache.set(f"secret of {who}", who)
            session = f"session of {who}"
            store.sessions.create(session)
            for n in range(times):
                assert store.cache.get(f"secret of {who}") == who
                [entry] = store.history.append(session, [NewEntry([who, n])])
                assert entry.seq == n + 1
                assert [e.content for e in store.history.read(session, last=1)] == [[who, n]]

        def write(n):
            count = 0
            try:
                while not stop.is_set():
                    count += 1
                    [entry] = store.history.append(f"s{n}", [NewEntry([n, count])])
                    assert entry.content == [n, count] and entry.seq == count
                    assert store.cache.get(f"nothing {n}") is None
            except BaseException as exc:
                failures.append(repr(exc))

        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for round in range(5):
            pids = [child(lambda: use(f"child {round} {n}", 25)) for n in range(2)]
            use(f"parent {round}", 25)
            for pid in pids:
                wait_for(pid)
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures, failures
        for n in range(8):
            contents = [entry.content for entry in store.history.read(f"s{n}")]
            assert contents == [[n, i + 1] for i in range(len(contents))]
        store.close()
        """,
        database_url,
        warn="ignore",
    )


def test_stores_that_were_dropped_before_do_not_matter(database_url: str) -> None:
    play(
        """
        def open_and_drop():
            with StateStore.open(url) as store:
                store.sessions.open("of a store that is gone")

        open_and_drop()
        store = StateStore.open(url)
        open_and_drop()
        store.sessions.open("s")

        def work():
            for n in range(100):
                store.history.append("s", [NewEntry(["child", n])])

        pid = child(work)
        for n in range(100):
            [entry] = store.history.append("s", [NewEntry(["parent", n])])
            assert entry.content == ["parent", n]
        wait_for(pid)
        assert len(store.history.read("s")) == 200
        store.close()
        """,
        database_url,
    )


HOLD_EVERY_LOCK = """
import _thread, os, sys, threading

made, held = [], []
go, done, release = (_thread.allocate_lock() for _ in range(3))
for lock in go, done, release:
    lock.acquire()


def noted(make):
    def lock():
        made.append(make())
        return made[-1]
    return lock


def hold():
    while True:
        go.acquire()
        held.extend(lock for lock in made if lock.acquire(False))
        done.release()
        release.acquire()
        while held:
            held.pop().release()
        done.release()


def before():
    go.release()
    done.acquire()


def after():
    release.release()
    done.acquire()


# Registered first, so what others do before a fork is done by then.
os.register_at_fork(before=before, after_in_parent=after)
_thread.start_new_thread(hold, ())
threading.Lock, threading.RLock = noted(threading.Lock), noted(threading.RLock)
"""


def test_a_lock_that_any_thread_holds_at_the_fork_does_not_stop_the_child(database_url: str) -> None:
    """All at once: each lock of ours, of SQLAlchemy and of the drivers that somebody could hold is held."""
    play(
        """
        import faulthandler
        from statestore import StateStoreError, migrate

        store = StateStore.open(url, pool_size=4, timeout=30)

        def use(store, name):
            store.sessions.open(name)
            store.history.append(name, [NewEntry("x")])
            assert store.history.read(name, last=1)[0].content == "x"
            store.state.set(name, "k", 1)
            assert store.state.get(name, "k") == 1
            store.cache.set(name, 1)
            assert store.cache.get(name) == store.cache.get_or_compute(f"computed {name}", lambda: 1) == 1
            with store.transaction() as tx:
                tx.state.set(name, "k", 2)
            store.sessions.fork(name)
            store.sweep()

        use(store, "parent")
        stop = threading.Event()

        def write(number):
            while not stop.is_set():
                try:
                    store.history.append(f"s{number}", [NewEntry("x")], create=True)
                except StateStoreError as exc:
                    print(exc, file=sys.stderr)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()

        def work():
            faulthandler.dump_traceback_later(50, exit=True)
            assert len(held) > 20
            failures = []

            def run(number):
                try:
                    use(store, f"child {number}")
                except BaseException as exc:
                    failures.append(repr(exc))

            running = [threading.Thread(target=run, args=(number,)) for number in range(3)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            assert not failures, failures
            store.close()
            migrate.upgrade(url)
            with StateStore.open(url) as another:
                use(another, "another")

        wait_for(child(work))
        use(store, "parent after the fork")
        stop.set()
        for thread in threads:
            thread.join()
        store.close()
        """,
        database_url,
        warn="ignore",
        first=HOLD_EVERY_LOCK,
    )


def test_one_hook_that_fails_does_not_keep_others_from_being_called() -> None:
    play(
        """
        from statestore.engine import process_fork

        class Target:
            renewed = False
            def renew_after_fork(self):
                self.renewed = True
                raise ValueError("for the test")

        first, second = Target(), Target()
        process_fork.renew_in_child(first)
        process_fork.renew_in_child(second)

        def work():
            assert first.renewed and second.renewed

        wait_for(child(work))
        """,
        "sqlite://",
    )


def test_the_connections_of_the_parent_outlive_the_child(database_url: str) -> None:
    play(
        """
        store = StateStore.open(url)
        store.sessions.create("s")
        def work():
            store.history.append("s", [NewEntry("child")])
            store.close()
        for _ in range(5):
            wait_for(child(work))
            store.history.append("s", [NewEntry("parent")])
        with store.transaction() as tx:
            tx.history.append("s", [NewEntry("before")])
        # A child that ends as any program does, without os._exit.
        pid = os.fork()
        if not pid:
            store.state.set("s", "k", 1)
            sys.exit(0)
        wait_for(pid)
        assert store.state.get("s", "k") == 1
        assert [e.content for e in store.history.read("s")] == ["child", "parent"] * 5 + ["before"]
        store.close()
        """,
        database_url,
    )


def test_a_child_outlives_its_parent(database_url: str) -> None:
    play(
        """
        store = StateStore.open(url)
        store.sessions.create("s")
        store.history.append("s", [NewEntry("parent")])
        ready, go = os.pipe(), os.pipe()

        def parent():
            def grandchild():
                os.write(ready[1], b"x")
                os.read(go[0], 1)
                for n in range(50):
                    store.history.append("s", [NewEntry(n)])
                store.close()
            child(grandchild)
            os.read(ready[0], 1)
            store.history.append("s", [NewEntry("middle")])
            store.close()

        wait_for(child(parent))
        store.close()
        os.write(go[1], b"x")
        with StateStore.open(url) as store:
            until = time.monotonic() + 60
            while store.history.count("s") < 52 and time.monotonic() < until:
                time.sleep(0.05)
            assert [e.content for e in store.history.read("s")] == ["parent", "middle", *range(50)]
        """,
        database_url,
    )


def test_what_was_open_at_the_fork_raises_our_error_in_the_child(database_url: str) -> None:
    play(
        """
        import asyncio
        from statestore import AsyncStateStore, StaleLeaseError, StoreClosedError, StateStoreError

        store = StateStore.open(url)
        store.sessions.create("s")
        other = StateStore.open(url)
        other.sessions.get("s")

        def refused(work, error):
            try:
                work()
            except error:
                return
            raise AssertionError("nothing was raised")

        lease = store.sessions.acquire("s", owner="me", ttl=timedelta(minutes=1))
        lease.__enter__()
        # The child's turn raises even where it would come first, and the parent's be the one that is refused.
        turn = store.turn("t", create=True)
        turn.__enter__().append({"role": "user", "content": "said"})

        def of_the_turn():
            refused(lambda: turn.__exit__(None, None, None), StoreClosedError)
            refused(lambda: lease.__enter__(), StaleLeaseError)
            assert not store.sessions.exists("t")
        wait_for(child(of_the_turn))
        turn.__exit__(None, None, None)
        assert store.history.count("t") == 1
        transaction = store.transaction()
        if url.startswith("postgresql"):
            tx = transaction.__enter__()
            tx.state.set("s", "k", 1)

            def work():
                refused(lambda: tx.state.get("s", "k"), StoreClosedError)
                refused(lambda: transaction.__exit__(None, None, None), StoreClosedError)
                refused(lambda: store.history.append("s", [NewEntry("x")], lease=lease), StaleLeaseError)
                refused(lambda: store.sessions.renew(lease), StaleLeaseError)
                refused(lambda: store.turn("s", lease=lease).__enter__(), StaleLeaseError)
                refused(lambda: lease.__exit__(None, None, None), StaleLeaseError)
                assert store.state.get("s", "k", default=None) is None
            wait_for(child(work))
            tx.state.set("s", "k", 2)
            transaction.__exit__(None, None, None)
            assert store.state.get("s", "k") == 2
        else:
            with store.transaction() as tx:
                tx.state.set("s", "k", 1)
                # SQLite's locks cannot be told apart from the parent's then.
                wait_for(child(lambda: refused(lambda: store.state.get("s", "k"), StoreClosedError)))
                wait_for(child(lambda: refused(lambda: StateStore.open(url), StoreClosedError)))
                wait_for(child(lambda: refused(lambda: other.state.get("s", "k"), StoreClosedError)))
            assert store.state.get("s", "k") == 1
            wait_for(child(lambda: store.state.set("s", "k", 3)))
            assert store.state.get("s", "k") == 3
        lease.__exit__(None, None, None)

        async def main():
            astore = await AsyncStateStore.open(url)
            await astore.state.set("s", "k", 4)
            def work():
                async def use():
                    try:
                        await astore.state.get("s", "k")
                    except StoreClosedError:
                        return
                    raise AssertionError("nothing was raised")
                asyncio.set_event_loop(None)
                asyncio._set_running_loop(None)
                asyncio.run(use())
                with StateStore.open(url) as mine:
                    assert mine.state.get("s", "k") == 4
            pid = child(work)
            while True:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    assert status == 0, status
                    break
                await asyncio.sleep(0.01)
            assert await astore.state.get("s", "k") == 4
            await astore.close()
        asyncio.run(main())
        other.close()
        store.close()
        """,
        database_url,
        warn="ignore",
    )


def test_a_database_in_memory_stays_with_its_process() -> None:
    play(
        """
        from statestore import StoreClosedError
        store = StateStore.open(url)
        store.sessions.create("s")
        def work():
            try:
                store.sessions.get("s")
            except StoreClosedError:
                return
            raise AssertionError("nothing was raised")
        wait_for(child(work))
        assert store.sessions.get("s")
        store.close()
        """,
        "sqlite://",
    )


def test_a_fork_does_not_find_threads_of_the_store(database_url: str) -> None:
    """A process of several threads is not forked lightly: newer Pythons warn, which is an error here."""
    play(
        """
        store = StateStore.open(url)
        store.sessions.create("s")
        store.history.read("s")
        wait_for(child(lambda: store.sessions.get("s")))
        store.close()
        """,
        database_url,
    )


def test_a_callers_engine_is_renewed(database_url: str) -> None:
    play(
        """
        from sqlalchemy import create_engine, event
        sqlite = url.startswith("sqlite")
        engine = create_engine(url if sqlite else url.replace("postgresql://", "postgresql+psycopg://"))
        if sqlite:
            @event.listens_for(engine, "connect")
            def configure(connection, record):
                for pragma in ("foreign_keys=ON", "synchronous=FULL", "busy_timeout=30000"):
                    connection.execute(f"PRAGMA {pragma}")
        store = StateStore(engine)
        store.sessions.create("s")
        def work():
            for n in range(30):
                store.history.append("s", [NewEntry(n)])
            engine.dispose()
        pid = child(work)
        for n in range(30):
            store.history.append("s", [NewEntry(n)])
        wait_for(pid)
        assert store.history.count("s") == 60
        store.close()
        engine.dispose()
        """,
        database_url,
    )


@pytest.mark.parametrize("start", ["fork"])
def test_multiprocessing_that_forks_works(database_url: str, start: str) -> None:
    play(
        f"""
        import multiprocessing
        store = StateStore.open(url)
        store.sessions.create("s")

        def work(n):
            return [store.history.append("s", [NewEntry([n, i])])[0].content for i in range(10)] == [
                [n, i] for i in range(10)
            ]

        with multiprocessing.get_context({start!r}).Pool(4) as pool:
            assert all(pool.map(work, range(20)))
        assert sorted(e.content for e in store.history.read("s")) == [[n, i] for n in range(20) for i in range(10)]
        store.close()
        """,
        database_url,
        warn="ignore",
    )


def test_a_callers_sqlite_engine_in_use_at_a_fork_stays_with_the_parent(sqlite_url: str) -> None:
    play(
        """
        from statestore import StoreClosedError
        from tests.support.engines import sync_engine

        engine = sync_engine(url)
        store = StateStore(engine)
        store.sessions.open("s")
        inside, go_on = threading.Event(), threading.Event()

        def hold():
            with store.transaction() as tx:
                tx.state.set("s", "parent", 1)
                inside.set()
                assert go_on.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        assert inside.wait(30)

        def work():
            try:
                store.state.get("s", "parent", None)
            except StoreClosedError:
                return
            raise AssertionError("the child used a file that was in use")

        wait_for(child(work))
        go_on.set()
        holder.join()
        assert store.state.get("s", "parent") == 1
        assert engine.pool.checkedout() == 0
        engine.dispose()
        """,
        sqlite_url,
        warn="ignore",
    )
