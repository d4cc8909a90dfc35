"""Of all that ask for a missing key at once, one computes and the others wait for its result."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from statestore import InvalidValueError, StateStore, UnavailableError
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.portal import BlockingStore

Store = Any


class Compute:
    """Counts its calls, and can be made to wait or to fail. Blocking, or a coroutine function for an async store."""

    def __init__(self, store: Store, value: Any = "computed", *, fails: int = 0, opens: bool = True) -> None:
        self.calls = 0
        self.value = value
        self.fails = fails
        self.gate = threading.Event()
        self.begun = threading.Event()
        if opens:
            self.gate.set()
        self._async = isinstance(store, BlockingStore)

    def __call__(self) -> Any:
        self.calls += 1
        self.begun.set()
        return self._later() if self._async else self._now()

    def _now(self) -> Any:
        assert self.gate.wait(30)
        return self._result()

    async def _later(self) -> Any:
        while not self.gate.is_set():
            await asyncio.sleep(0.002)
        return self._result()

    def _result(self) -> Any:
        if self.calls <= self.fails:
            raise OSError(f"failure {self.calls}")
        return self.value


def test_a_missing_value_is_computed_and_kept(store: Store, content: Content) -> None:
    compute = Compute(store, {"a": [1]})
    assert store.cache.get_or_compute("k", compute, tags=["t"], agent_name="x", request="r") == {"a": [1]}
    assert store.cache.get_or_compute("k", compute, agent_name="x") == {"a": [1]}
    assert compute.calls == 1
    entry = store.cache.entry("k")
    assert (entry.tags, entry.agent_name, entry.request, entry.access_count) == (("t",), "x", "r", 1)
    assert content.rows("cache_claims") == []
    stats = store.cache.stats()
    assert (stats.hits, stats.misses, stats.sets) == (1, 1, 1)
    assert stats.by_agent["x"].misses == 1


def test_a_computed_none_is_a_value(store: Store) -> None:
    compute = Compute(store, None)
    assert store.cache.get_or_compute("k", compute) is None
    assert store.cache.get_or_compute("k", compute) is None
    assert compute.calls == 1


def test_a_plain_function_serves_both_stores(store: Store) -> None:
    assert store.cache.get_or_compute("k", lambda: 1) == 1


def test_callers_share_nothing(store: Store) -> None:
    compute = Compute(store, [[]], opens=False)
    found = crowd(compute, *(partial(store.cache.get_or_compute, "k", compute) for _ in range(4)))
    found[0][0].append("changed")
    assert found[1:] == [[[]], [[]], [[]]]


def crowd(compute: Compute, *calls: Callable[[], Any]) -> list[Any]:
    """Run *calls* at once, and let the computation go on when all have had the time to come to it."""

    def release() -> None:
        compute.begun.wait(30)
        time.sleep(0.05)
        compute.gate.set()

    return at_once(*calls, release)[:-1]  # type: ignore[arg-type]


def test_many_at_once_have_it_computed_once(store: Store) -> None:
    compute = Compute(store, opens=False)
    found = crowd(compute, *(partial(store.cache.get_or_compute, "k", compute) for _ in range(20)))
    assert found == ["computed"] * 20
    assert compute.calls == 1


def test_stores_at_once_have_it_computed_once(open_store: Callable[..., Store]) -> None:
    stores = [open_store() for _ in range(4)]
    compute = Compute(stores[0], opens=False)
    found = crowd(compute, *(partial(stores[n % 4].cache.get_or_compute, "k", compute) for n in range(12)))
    assert found == ["computed"] * 12
    assert compute.calls == 1


def test_many_keys_at_once_are_computed_once_each(open_store: Callable[..., Store]) -> None:
    stores = [open_store(cache_max_entries=None) for _ in range(2)]
    computes = [Compute(stores[0], n) for n in range(1000)]

    def work(number: int) -> list[Any]:
        store = stores[number % 2]
        order = range(0, 1000) if number < 2 else range(999, -1, -1)
        return sorted(store.cache.get_or_compute(f"k{n}", computes[n]) for n in order)

    assert at_once(*(partial(work, number) for number in range(4))) == [list(range(1000))] * 4
    assert [compute.calls for compute in computes] == [1] * 1000


def test_a_failure_reaches_its_own_caller_and_the_next_one_computes(store: Store, content: Content) -> None:
    compute = Compute(store, fails=1, opens=False)

    def call() -> Any:
        try:
            return store.cache.get_or_compute("k", compute)
        except OSError as exc:
            return str(exc)

    found = crowd(compute, *[call] * 6)
    assert sorted(found) == ["computed"] * 5 + ["failure 1"]
    assert compute.calls == 2
    assert content.rows("cache_claims") == []


def test_a_failure_of_one_store_is_not_one_of_the_other(open_store: Callable[..., Store]) -> None:
    one, two = open_store(), open_store()
    compute = Compute(one, fails=1, opens=False)

    def call(store: Store) -> Any:
        try:
            return store.cache.get_or_compute("k", compute)
        except OSError as exc:
            return str(exc)

    assert sorted(crowd(compute, partial(call, one), partial(call, two))) == ["computed", "failure 1"]


def test_a_value_that_cannot_be_kept_is_a_failure(store: Store, content: Content) -> None:
    with pytest.raises(InvalidValueError):
        store.cache.get_or_compute("k", Compute(store, {1: 2}))
    assert content.rows("cache_entries") == content.rows("cache_claims") == []


def test_whoever_waits_too_long_is_told(store: Store, content: Content, clock: MovableClock) -> None:
    claim(content, clock, seconds=60)
    compute = Compute(store)
    with pytest.raises(UnavailableError, match="'k'") as raised:
        store.cache.get_or_compute("k", compute, timeout=timedelta(milliseconds=50))
    assert raised.value.retryable
    assert compute.calls == 0


def test_in_a_process_too(store: Store) -> None:
    compute = Compute(store, opens=False)

    def impatient() -> str:
        compute.begun.wait(30)
        with pytest.raises(UnavailableError):
            store.cache.get_or_compute("k", compute, timeout=timedelta(milliseconds=50))
        compute.gate.set()
        return "told"

    assert at_once(partial(store.cache.get_or_compute, "k", compute), impatient) == ["computed", "told"]
    assert compute.calls == 1


def test_who_died_is_replaced(store: Store, content: Content, clock: MovableClock) -> None:
    claim(content, clock, seconds=60)
    compute = Compute(store)

    def later() -> None:
        time.sleep(0.05)
        clock.advance(seconds=60)

    found, _ = at_once(partial(store.cache.get_or_compute, "k", compute), later)  # type: ignore[list-item]
    assert found == "computed"
    assert compute.calls == 1
    assert content.rows("cache_claims") == []


def claim(content: Content, clock: MovableClock, *, seconds: int) -> None:
    """As left behind by a process that died while it computed."""
    until: Any = clock() + timedelta(seconds=seconds)
    if content.is_sqlite:
        until = until.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    content.query(
        "INSERT INTO cache_claims (namespace, key, token, claimed_until) VALUES ('default', 'k', 'theirs', :until)",
        until=until,
    )


def test_a_claim_is_kept_as_long_as_one_computes(
    open_store: Callable[..., Store], content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statestore.operations.single_flight._SHORTEST_CLAIM", timedelta(seconds=0.8))
    monkeypatch.setattr("statestore.operations.single_flight._LONGEST_CLAIM", timedelta(seconds=0.8))
    one, two = open_store(), open_store()
    compute = Compute(one, opens=False)

    def later() -> None:
        compute.begun.wait(30)
        time.sleep(2)
        compute.gate.set()

    found = at_once(
        partial(one.cache.get_or_compute, "k", compute),
        partial(two.cache.get_or_compute, "k", compute),
        later,  # type: ignore[arg-type]
    )
    assert found[:2] == ["computed"] * 2
    assert compute.calls == 1
    assert content.rows("cache_claims") == []


def test_a_claim_is_kept_no_longer_than_the_timeout(
    open_store: Callable[..., Store], content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statestore.operations.single_flight._SHORTEST_CLAIM", timedelta(seconds=0.3))
    one, two = open_store(), open_store()
    slow, quick = Compute(one, "slow", opens=False), Compute(two, "quick")

    def other() -> Any:
        slow.begun.wait(30)
        found = two.cache.get_or_compute("k", quick)
        slow.gate.set()
        return found

    found = at_once(partial(one.cache.get_or_compute, "k", slow, timeout=timedelta(seconds=1)), other)
    assert found == ["slow", "quick"]
    assert content.rows("cache_claims") == []


def test_what_came_while_one_waited_is_not_computed_again(store: Store, content: Content, clock: MovableClock) -> None:
    claim(content, clock, seconds=60)
    compute = Compute(store)

    def other() -> None:
        time.sleep(0.05)
        store.cache.set("k", "theirs")

    found, _ = at_once(partial(store.cache.get_or_compute, "k", compute), other)  # type: ignore[list-item]
    assert found == "theirs"
    assert compute.calls == 0


def test_a_stale_value_is_served_while_one_refreshes_it(store: Store, clock: MovableClock, content: Content) -> None:
    options = {"ttl": timedelta(seconds=10), "stale_ttl": timedelta(seconds=20)}
    store.cache.get_or_compute("k", Compute(store, "old"), **options)
    clock.advance(seconds=10)
    assert store.cache.get("k") is None
    assert store.cache.evict() == 0
    compute = Compute(store, "new", opens=False)

    def reader() -> Any:
        compute.begun.wait(30)
        found = [store.cache.get_or_compute("k", compute, **options) for _ in range(5)]
        compute.gate.set()
        return found

    refreshed, stale = at_once(partial(store.cache.get_or_compute, "k", compute, **options), reader)
    assert (refreshed, stale) == ("new", ["old"] * 5)
    assert compute.calls == 1
    clock.advance(seconds=30)
    assert store.cache.evict() == 1
    assert store.cache.get_or_compute("k", Compute(store, "newest"), **options) == "newest"


def test_a_stale_value_is_served_while_another_process_refreshes_it(
    store: Store, clock: MovableClock, content: Content
) -> None:
    store.cache.set("k", "old", ttl=timedelta(seconds=10), stale_ttl=timedelta(seconds=20))
    clock.advance(seconds=10)
    claim(content, clock, seconds=60)
    compute = Compute(store)
    assert store.cache.get_or_compute("k", compute, stale_ttl=timedelta(seconds=20)) == "old"
    with pytest.raises(UnavailableError):
        store.cache.get_or_compute("k", compute, timeout=timedelta(milliseconds=30))
    clock.advance(seconds=20)
    with pytest.raises(UnavailableError):
        store.cache.get_or_compute("k", compute, stale_ttl=timedelta(seconds=20), timeout=timedelta(milliseconds=30))
    assert compute.calls == 0


def test_in_a_transaction_one_computes_by_oneself(store: Store, content: Content) -> None:
    compute = Compute(store)
    with store.transaction() as tx:
        assert tx.cache.get_or_compute("k", compute) == "computed"
        assert tx.cache.get_or_compute("k", compute) == "computed"
    assert compute.calls == 1
    assert store.cache.get("k") == "computed"
    assert content.rows("cache_claims") == []


def test_a_computation_that_waits_for_itself_is_refused(store: Store) -> None:
    if isinstance(store, StateStore):

        def compute() -> Any:
            return store.cache.get_or_compute("k", compute)
    else:

        async def compute() -> Any:
            return await store._target.cache.get_or_compute("k", compute)

    with pytest.raises(InvalidValueError, match="itself"):
        store.cache.get_or_compute("k", compute)
    assert store.cache.get_or_compute("k", Compute(store)) == "computed"


def test_a_computation_that_waits_for_itself_in_a_task_or_thread_is_refused(store: Store) -> None:
    if isinstance(store, StateStore):

        def compute() -> Any:
            context = copy_context()  # As asyncio.to_thread does.
            return at_once(lambda: context.run(store.cache.get_or_compute, "k", compute))[0]
    else:

        async def compute() -> Any:
            return (await asyncio.gather(store._target.cache.get_or_compute("k", compute)))[0]

    with pytest.raises(InvalidValueError, match="itself"):
        store.cache.get_or_compute("k", compute)


def test_what_a_computation_started_may_ask_when_that_is_over(store: Store) -> None:
    contexts = []

    def compute() -> int:
        contexts.append(copy_context())
        return 1

    store.cache.get_or_compute("k", compute, ttl=timedelta(seconds=1))
    store.cache.invalidate("k")
    assert contexts[0].run(store.cache.get_or_compute, "k", compute) == 1
    assert len(contexts) == 2


def test_a_store_that_was_closed_meanwhile_hides_no_error_of_the_computation(open_store: Callable[..., Store]) -> None:
    store = open_store()

    def compute() -> Any:
        store.close()
        raise OSError("mine")

    async def compute_async() -> Any:
        await store._target.close()
        raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        store.cache.get_or_compute("k", compute if isinstance(store, StateStore) else compute_async)


def test_a_refresh_that_fails_says_so_and_the_stale_value_stays(store: Store, clock: MovableClock) -> None:
    options = {"ttl": timedelta(seconds=10), "stale_ttl": timedelta(seconds=20)}
    store.cache.get_or_compute("k", Compute(store, "old"), **options)
    clock.advance(seconds=10)
    compute = Compute(store, "new", fails=1, opens=False)

    def reader() -> Any:
        compute.begun.wait(30)
        found = store.cache.get_or_compute("k", compute, **options)
        compute.gate.set()
        return found

    def refresh() -> Any:
        with pytest.raises(OSError, match="failure 1"):
            store.cache.get_or_compute("k", compute, **options)

    assert at_once(refresh, reader) == [None, "old"]
    assert store.cache.get_or_compute("k", compute, **options) == "new"


def test_arguments_that_make_no_sense_are_refused_before_anything_is_computed(store: Store) -> None:
    compute = Compute(store)
    for arguments in (
        {"compute": "text"},
        {"timeout": None},
        {"timeout": timedelta(0)},
        {"stale_ttl": timedelta(0)},
        {"tags": "text"},
        {"ttl": "5"},
        {"request": object()},
        {"metadata": [1]},
        {"content_hash": ""},
        {"agent_name": ""},
    ):
        with pytest.raises(InvalidValueError):
            store.cache.get_or_compute("k", **{"compute": compute, **arguments})
    for timeout in (timedelta(0), timedelta(days=40_000), 5, None):
        with pytest.raises(InvalidValueError, match=r"^timeout: ") as raised:
            store.cache.get_or_compute("k", compute, timeout=timeout)
        assert "None for" not in str(raised.value)
    assert compute.calls == 0


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_whatever_compute_raises_reaches_its_caller_as_it_is(store: StateStore) -> None:
    """StopIteration too, as `next()` raises it, which generators turn into something else."""
    nothing: Iterator[int] = iter(())
    with pytest.raises(StopIteration):
        store.cache.get_or_compute("k", lambda: next(nothing))
    store.sessions.create("s")
    with pytest.raises(StopIteration), store.turn("s"):
        next(nothing)
    assert store.cache.get_or_compute("k", lambda: 1) == 1
