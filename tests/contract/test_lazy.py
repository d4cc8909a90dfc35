"""A store that is opened when it is first used, and an asynchronous one on one event loop after another."""

import asyncio
import gc
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from statestore import AsyncStateStore, InvalidValueError, LazyStore, StateStore, StoreClosedError

MESSAGE = {"role": "user", "content": "Hi"}


@pytest.fixture
def lazy(database_url: str) -> Iterator[LazyStore]:
    lazy = LazyStore(database_url)
    yield lazy
    asyncio.run(lazy.aclose())


async def crowd(store: AsyncStateStore) -> None:
    """Enough at once that some of it waits, in the writer's queue and in batches."""

    async def in_a_transaction() -> None:
        async with store.transaction() as tx:
            await tx.state.set("s", "key", 1, create=True)
            await asyncio.sleep(0.001)

    appends = (store.history.append("s", [MESSAGE], create=True) for _ in range(20))
    await asyncio.gather(*appends, *(in_a_transaction() for _ in range(5)))


def test_nothing_is_connected_before_the_first_use(tmp_path: Path) -> None:
    LazyStore(f"sqlite:///{tmp_path}/new.db")
    LazyStore("postgresql://nobody@127.0.0.1:1/nothing")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [{"url": "mysql://host/database"}, {"namespace": ""}, {"pool_size": 0}])
def test_what_cannot_be_opened_is_said_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        LazyStore(**arguments)


def test_what_is_not_a_store_is_named_as_the_argument_of_an_adapter() -> None:
    with pytest.raises(
        InvalidValueError, match=r"^store: must be a URL, .* or AsyncStateStore, not object; for an engine"
    ):
        LazyStore.of(object())  # type: ignore[arg-type]


def test_it_is_what_it_is_given() -> None:
    with StateStore.open("sqlite://") as store:
        given = LazyStore.of(store)
        assert given.sync() is store
        given.close()
        assert store.sessions.count() == 0
        with pytest.raises(InvalidValueError, match="store"):
            asyncio.run(given.here())


def test_a_lazy_store_stays_its_owners(tmp_path: Path) -> None:
    lazy = LazyStore(tmp_path / "store.db")
    lent = LazyStore.of(LazyStore.of(lazy))
    assert repr(lent) == repr(lazy)
    with lent.sync() as store:
        assert store is lazy.sync()
        lent.close()
        assert store.sessions.count() == 0

    async def use() -> None:
        opened = await lent.here()
        assert opened is await lazy.here()
        await lent.aclose()
        assert await opened.sessions.count() == 0
        await lazy.aclose()

    asyncio.run(use())


def test_an_open_asynchronous_store_stays_its_owners() -> None:
    async def use() -> None:
        async with AsyncStateStore.open("sqlite://") as store:
            given = LazyStore.of(store)
            assert await given.here() is store
            await given.aclose()
            assert await store.sessions.count() == 0
            with pytest.raises(InvalidValueError, match="store"):
                given.sync()

    asyncio.run(use())


def test_a_later_use_opens_it_again(lazy: LazyStore) -> None:
    lazy.sync().sessions.create("s")
    first = lazy.sync()
    assert lazy.sync() is first
    lazy.close()
    assert lazy.sync() is not first
    assert lazy.sync().sessions.exists("s")


def test_tasks_that_come_first_together_have_one_store(lazy: LazyStore) -> None:
    async def all_of_them() -> None:
        stores = await asyncio.gather(*(lazy.here() for _ in range(20)))
        assert len(set(map(id, stores))) == 1

    asyncio.run(all_of_them())


def test_what_is_being_opened_is_closed_too(lazy: LazyStore) -> None:
    async def close_early() -> None:
        opening = asyncio.ensure_future(lazy.here())
        await asyncio.sleep(0)
        await lazy.aclose()
        with pytest.raises(StoreClosedError):
            await (await opening).sessions.count()

    asyncio.run(close_early())


def test_event_loops_one_after_the_other_have_one_store(lazy: LazyStore) -> None:
    async def use() -> tuple[int, int]:
        store = await lazy.here()
        await crowd(store)
        return id(store), len(await store.history.messages("s"))

    assert [asyncio.run(use())[1] for _ in range(3)] == [20, 40, 60]
    assert len({asyncio.run(use())[0] for _ in range(2)}) == 1


def test_in_memory_event_loops_one_after_the_other_find_the_same() -> None:
    lazy = LazyStore("sqlite://")

    async def use() -> int:
        store = await lazy.here()
        await store.history.append("s", [MESSAGE], create=True)
        return len(await store.history.messages("s"))

    assert [asyncio.run(use()) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(InvalidValueError, match="url"):
        lazy.sync()
    asyncio.run(lazy.aclose())


def test_event_loops_at_the_same_time_have_stores_of_their_own(lazy: LazyStore) -> None:
    together = threading.Barrier(4)
    stores: set[int] = set()

    async def use() -> None:
        store = await lazy.here()
        stores.add(id(store))
        together.wait(10)
        await crowd(store)
        together.wait(10)

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 4
    assert lazy.sync().history.count("s") == 80


def in_a_child(act: Callable[[], None]) -> None:
    child = multiprocessing.get_context("fork").Process(target=act)
    child.start()
    child.join(20)
    child.kill()
    assert child.exitcode == 0


def test_a_forked_child_has_stores_of_its_own(lazy: LazyStore) -> None:
    async def append() -> None:
        await (await lazy.here()).history.append("s", [MESSAGE], create=True)

    def child() -> None:
        asyncio.run(append())
        lazy.sync().history.append("s", [MESSAGE])

    asyncio.run(append())
    lazy.sync().history.append("s", [MESSAGE])
    in_a_child(child)
    assert lazy.sync().history.count("s") == 4
    asyncio.run(append())
    assert lazy.sync().history.count("s") == 5


def test_a_forked_child_may_close_before_it_uses_anything(lazy: LazyStore) -> None:
    async def append() -> None:
        await (await lazy.here()).history.append("s", [MESSAGE], create=True)

    def child() -> None:
        asyncio.run(lazy.aclose())
        asyncio.run(append())
        asyncio.run(lazy.aclose())

    asyncio.run(append())
    in_a_child(child)
    asyncio.run(append())
    assert lazy.sync().history.count("s") == 3


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_a_thread_opens_the_store_opens_its_own(
    lazy: LazyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child() -> None:
        lazy.sync().sessions.create("s")

    opening, go_on = threading.Event(), threading.Event()
    usual = StateStore.open

    def slowly(*args: Any, **options: Any) -> StateStore:
        opening.set()
        assert go_on.wait(20)
        return usual(*args, **options)

    monkeypatch.setattr(StateStore, "open", slowly)
    thread = threading.Thread(target=lazy.sync)
    thread.start()
    assert opening.wait(20)
    monkeypatch.setattr(StateStore, "open", usual)
    try:
        in_a_child(child)
    finally:
        go_on.set()
        thread.join()
    assert lazy.sync().sessions.exists("s")


async def opened(url: str) -> AsyncStateStore:
    return await AsyncStateStore.open(url)


def test_another_event_loop_goes_on_with_a_store_when_the_first_has_ended(database_url: str) -> None:
    store = asyncio.run(opened(database_url))
    for _ in range(3):
        asyncio.run(crowd(store))

    async def end() -> int:
        async with store:
            return await store.history.count("s")

    assert asyncio.run(end()) == 60


def test_calls_that_an_ended_event_loop_left_behind_do_not_stop_the_next(database_url: str) -> None:
    store = asyncio.run(opened(database_url))
    loop = asyncio.new_event_loop()

    async def begin() -> None:
        for _ in range(20):
            asyncio.ensure_future(store.history.append("s", [MESSAGE], create=True))  # noqa: RUF006
        await asyncio.sleep(0)

    loop.run_until_complete(begin())
    loop.close()
    asyncio.run(crowd(store))
    asyncio.run(store.close())
    gc.collect()  # What complains then fails the test run.


def test_a_store_belongs_to_one_event_loop_at_a_time(database_url: str) -> None:
    async def use() -> None:
        async with AsyncStateStore.open(database_url) as store:
            await store.sessions.create("s")
            refused: list[BaseException] = []

            def elsewhere() -> None:
                try:
                    asyncio.run(crowd(store))
                except StoreClosedError as error:
                    refused.append(error)

            await asyncio.to_thread(elsewhere)
            assert "LazyStore" in str(refused[0])
            assert await store.history.count("s") == 0

    asyncio.run(use())


@pytest.mark.parametrize("url", ["postgresql://app:hidden@host/database", "postgresql://host/database?password=hidden"])
def test_its_password_is_not_shown(url: str) -> None:
    assert "hidden" not in repr(LazyStore(url))
