"""The cache backend, beside Django's own tests."""

import asyncio
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import cache, caches
from django.core.signals import request_finished
from django.test import override_settings

from statestore import InvalidValueError, LazyStore, StateStore
from statestore.adapters import django as adapter
from statestore.adapters.django.cache import StatestoreCache
from tests.adapters.django.conftest import BACKEND
from tests.support.clock import MovableClock
from tests.support.crowd import at_once
from tests.support.wire import Traffic

MakeCache = Callable[..., Any]
spawn = multiprocessing.get_context("spawn")


def test_beyond_its_limit_a_cache_loses_what_was_not_used_for_longest(make_cache: MakeCache) -> None:
    for frequency in (3, 0):
        small = make_cache(OPTIONS={"MAX_ENTRIES": 30, "CULL_FREQUENCY": frequency, "namespace": str(frequency)})
        for number in range(30):
            small.set(number, number)
        assert small.get(0) == 0
        for number in range(30, 49):
            small.set(number, number)
        assert [number for number in range(49) if small.has_key(number)] == [0, *range(20, 49)]


def test_a_cache_keeps_300_entries_as_djangos_own_do(make_cache: MakeCache) -> None:
    usual = make_cache()
    assert usual.set_many({str(number): number for number in range(302)}) == ["0", "1"]
    assert len(usual.get_many(str(number) for number in range(302))) == 300


def test_a_counter_keeps_its_timeout_and_loses_nothing(make_cache: MakeCache, clock: MovableClock) -> None:
    counter = make_cache()
    counter.set("n", 0, 10)
    at_once(*[lambda: counter.incr("n")] * 8)
    assert counter.decr("n", 3) == 5
    assert counter.incr("n", 0.5) == 5.5
    clock.advance(seconds=10)
    with pytest.raises(ValueError, match="not found"):
        counter.incr("n")
    assert counter.get("n") is None


def test_what_is_no_number_cannot_be_counted(make_cache: MakeCache) -> None:
    counter = make_cache()
    for value in ("text", [1], True):
        counter.set("k", value)
        with pytest.raises(TypeError, match="not a number"):
            counter.incr("k")
    counter.set("k", 1)
    with pytest.raises(TypeError, match="by"):
        counter.incr("k", "1")


def test_one_of_many_adds_wins(make_cache: MakeCache) -> None:
    some = make_cache()
    assert sorted(at_once(*[lambda n=n: some.add("k", n) for n in range(8)])) == [False] * 7 + [True]


def test_text_and_numbers_are_stored_as_they_are_and_the_rest_is_pickled(make_cache: MakeCache) -> None:
    some = make_cache()
    values = ["text", 1, 1.5, True, None, 2**70, "\ud800", (1, 2), {"a": {1}}, b"\0", float("inf")]
    some.set_many({str(number): value for number, value in enumerate(values)})
    assert [some.get(str(number)) for number in range(len(values))] == values
    stored = some._store.sync().cache.get_many([f":1:{number}" for number in range(len(values))])
    assert list(stored.values())[:7] == values[:7]
    assert [pickle.loads(value) for value in list(stored.values())[7:]] == values[7:]


def test_with_json_nothing_is_pickled(make_cache: MakeCache) -> None:
    some = make_cache(OPTIONS={"serializer": "json"})
    for value in ("text", 1, {"a": [1, None]}, b"\0"):
        some.set("k", value)
        assert some.get("k") == value
    with pytest.raises(InvalidValueError, match="value"):
        some.set("k", {1, 2})
    some._store.sync().cache.set(":1:k", pickle.dumps("code"))
    assert some.get("k") == pickle.dumps("code")


def test_a_serializer_is_named_as_for_djangos_redis_cache(make_cache: MakeCache) -> None:
    some = make_cache(OPTIONS={"serializer": "django.core.signing.JSONSerializer"})
    some.set("k", {"a": (1,)})
    assert some.get("k") == {"a": [1]}


def test_clear_removes_the_namespace_and_no_other(make_cache: MakeCache, database_url: str) -> None:
    site = make_cache()
    site.set("k", 1)
    site.set("k", 1, version=2)
    with StateStore.open(database_url) as store:
        store.cache.set("an agent's", 1)
        site.clear()
        assert store.cache.get("an agent's") == 1
    assert site.get_many(["k"]) == site.get_many(["k"], version=2) == {}


def test_all_threads_have_one_store_and_a_request_ends_without_closing_it() -> None:
    cache.set("k", 1)
    at_once(*[lambda: cache.get("k")] * 4)
    assert len(adapter._stores) == 1
    store = caches["default"]._store.sync()
    request_finished.send(None)
    assert cache.get("k") == 1
    assert caches["default"]._store.sync() is store


def test_a_location_may_be_a_store_of_the_application(database_url: str) -> None:
    with StateStore.open(database_url, namespace="app") as store:
        some = StatestoreCache(store, {})
        some.set("k", 1)
        assert store.cache.get(":1:k") == 1
    lazy = LazyStore(database_url, namespace="app")
    assert StatestoreCache(lazy, {}).get("k") == 1
    lazy.close()


def test_wrong_options_are_refused_when_the_cache_is_made() -> None:
    with pytest.raises(InvalidValueError, match="url"):
        StatestoreCache("redis://localhost", {})
    with pytest.raises(InvalidValueError, match="cache_max_entries"):
        StatestoreCache("sqlite://", {"OPTIONS": {"MAX_ENTRIES": 0}})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"pool": 1}, "has no option 'pool'; there are MAX_ENTRIES, CULL_FREQUENCY, serializer, namespace, "),
        ({"url": "sqlite://"}, "has no option 'url'; there are "),
        ({"store": "sqlite://"}, "has no option 'store'; there are "),
        (None, "must be a dict, not NoneType"),
        ("namespace=web", "must be a dict, not str"),
        ({"serializer": 5}, "serializer must be 'json', or the dotted name of a class with dumps and loads"),
        ({"serializer": "builtins.dict"}, "serializer must be 'json', or "),
        ({"serializer": "pickel"}, "serializer 'pickel' cannot be imported: "),
    ],
)
def test_wrong_options_are_named_with_their_setting(options: Any, problem: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        StatestoreCache("sqlite://", {"OPTIONS": options})
    assert str(caught.value).startswith(f"OPTIONS: {problem}")


def test_a_location_that_is_given_but_empty_is_refused() -> None:
    empty = {"default": {"BACKEND": BACKEND, "LOCATION": ""}}
    with override_settings(CACHES=empty), pytest.raises(InvalidValueError, match="LOCATION: is empty; is a variable"):
        cache.get("k")


@pytest.mark.parametrize("given", [{}, {"LOCATION": None}], ids=str)
def test_without_a_location_the_database_is_the_default_one(
    given: dict[str, Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATESTORE_URL", database_url)
    with override_settings(CACHES={"default": {"BACKEND": BACKEND, **given}}):
        cache.set("k", 1)
    with StateStore.open(database_url, namespace="django") as store:
        assert store.cache.get(":1:k") == 1


def test_eight_processes_begin_at_once(database_url: str, tmp_path: Path) -> None:
    """On SQLite with a file that is not there yet; on PostgreSQL somebody has migrated before."""
    url = f"sqlite:///{tmp_path}/new.db" if database_url.startswith("sqlite") else database_url
    processes = [spawn.Process(target=count_up, args=(url,)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert StatestoreCache(url, {}).get("n") == 80


def count_up(url: str) -> None:
    some = StatestoreCache(url, {})
    some.add("n", 0)
    for _ in range(10):
        some.incr("n")


def test_all_of_it_awaited() -> None:
    async def use() -> None:
        await cache.aset("n", 1)
        assert await cache.aincr("n") == 2
        assert await cache.aget_or_set("k", lambda: "made") == "made"
        await cache.aset_many({"a": 1, "b": 2})
        assert await cache.aget_many(["a", "b", "c"]) == {"a": 1, "b": 2}
        assert await cache.adelete("a")
        await cache.aclear()
        assert not await cache.ahas_key("b")

    async_to_sync(use)()


def test_awaited_counting_loses_nothing_and_keeps_the_timeout(make_cache: MakeCache, clock: MovableClock) -> None:
    some, same = make_cache(), make_cache()
    some.set("n", 0, timeout=10_000)

    async def count() -> None:
        await asyncio.gather(*(one.aincr("n") for one in (some, same) for _ in range(20)), some.adecr("n"))

    asyncio.run(count())
    assert some.get("n") == 39
    clock.advance(seconds=9_000)
    assert some.get("n") == 39
    clock.advance(seconds=1_001)
    assert some.get("n") is None


def test_what_is_awaited_of_many_takes_one_call(make_cache: MakeCache) -> None:
    some = make_cache(OPTIONS={"MAX_ENTRIES": 2})
    seen: list[str] = []
    some._store.sync().on_operation(lambda operation: seen.append(operation.name))

    async def use() -> None:
        assert await some.aset_many({"a": 1, "b": 2, "c": 3}) == ["a"]
        assert await some.aget_many(["a", "b", "c"]) == {"b": 2, "c": 3}
        await some.adelete_many(["a", "b", "c"])
        assert not await some.ahas_key("b")

    asyncio.run(use())
    assert seen == ["cache.set_many", "cache.get_many", "cache.invalidate_many", "cache.exists"]


@pytest.mark.parametrize("timeout", [10**10, 1e300, float("inf")])
def test_a_timeout_may_be_longer_than_a_store_can_keep_anything(make_cache: MakeCache, timeout: float) -> None:
    some = make_cache()
    some.set("k", 1, timeout=timeout)
    assert some.get("k") == 1
    assert some.touch("k", timeout)


def test_the_cost_of_each_call(traffic: Traffic, clock: MovableClock, database_url: str) -> None:
    some = StatestoreCache(traffic.url, {"OPTIONS": {"clock": clock}})
    some.set_many({str(n): n for n in range(20)}, None)

    def cost(act: Callable[[], Any]) -> int:
        for _ in range(8):
            traffic.clear()
            act()
        return len(traffic.statements)

    assert cost(lambda: some.get("1")) == 1
    assert cost(lambda: some.has_key("1")) == 1
    assert cost(lambda: some.get_many(str(n) for n in range(20))) == 1
    assert cost(lambda: some.get_or_set("1", lambda: 1)) == 1
    if database_url.startswith("postgresql"):
        assert cost(lambda: some.set("1", {"a": 1})) == 1
        assert cost(lambda: some.set_many({str(n): n for n in range(20)})) == 1
        assert cost(lambda: some.touch("1", 100)) == 1
        assert cost(lambda: some.add("1", 100)) == 1
        assert cost(lambda: some.incr("4")) == 1
        assert cost(lambda: some.delete("3")) == 1
        assert cost(lambda: some.delete_many(["1", "2", "3"])) == 1
        assert cost(lambda: some.clear()) == 1
