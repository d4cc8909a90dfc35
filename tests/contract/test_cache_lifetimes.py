"""How long an entry lives can be said in several ways, asked for, and changed."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

from statestore import MISSING, NEVER, CacheItem, InvalidValueError
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once

Store = Any
MINUTE = timedelta(minutes=1)

ENDS = [
    (MINUTE, NOON + MINUTE),
    (60, NOON + MINUTE),
    (0.5, NOON + timedelta(milliseconds=500)),
    (NOON + MINUTE, NOON + MINUTE),
    ((NOON + MINUTE).astimezone(timezone(timedelta(hours=9))), NOON + MINUTE),
    (NOON + timedelta(microseconds=1), NOON + timedelta(microseconds=1)),
    (NEVER, None),
    (None, NOON + timedelta(hours=1)),
]
BAD_ENDS = [
    0,
    -1,
    timedelta(0),
    True,
    "60",
    float("nan"),
    float("inf"),
    1e300,
    timedelta(days=40_000),
    NOON,
    NOON - MINUTE,
    NOON + timedelta(days=40_000),
    datetime(2100, 1, 1),
    datetime.max.replace(tzinfo=UTC),
]

SETS: dict[str, Callable[[Store, Any], Any]] = {
    "set": lambda store, ttl: store.cache.set("k", 1, ttl=ttl),
    "set, described": lambda store, ttl: store.cache.set("k", 1, ttl=ttl, tags=["t"], agent_name="a"),
    "set, missing": lambda store, ttl: store.cache.set("k", 1, ttl=ttl, only_if="missing"),
    "add": lambda store, ttl: store.cache.add("k", 1, ttl=ttl),
    "set_many": lambda store, ttl: store.cache.set_many({"k": 1, "other": 2}, ttl=ttl),
    "set_many, an item": lambda store, ttl: store.cache.set_many({"k": CacheItem(1, ttl=ttl), "other": 2}),
    "set_many, the only item": lambda store, ttl: store.cache.set_many({"k": CacheItem(1, ttl=ttl)}),
    "increment": lambda store, ttl: store.cache.increment("k", ttl=ttl),
    "get_or_compute": lambda store, ttl: store.cache.get_or_compute("k", lambda: 1, ttl=ttl),
}


class Undo(Exception):
    pass


@pytest.mark.parametrize("name", SETS)
def test_an_end_can_be_said_in_several_ways(store: Store, content: Content, name: str) -> None:
    for ttl, expires_at in ENDS:
        SETS[name](store, ttl)
        entry = store.cache.entry("k")
        assert (entry.expires_at, entry.stale_ttl) == (expires_at, None), ttl
        store.cache.clear()


@pytest.mark.parametrize("name", SETS)
def test_an_end_that_is_none_is_refused(store: Store, name: str) -> None:
    late = {NOON, NOON - MINUTE} if name == "get_or_compute" else set()
    for ttl in BAD_ENDS:
        if isinstance(ttl, datetime) and ttl.tzinfo is not None and ttl in late:
            continue
        with pytest.raises(InvalidValueError, match=r"^(values\[0\]\.)?ttl: "):
            SETS[name](store, ttl)
    assert store.cache.keys() == []


def test_the_refusal_of_an_end_says_all_that_is_taken(store: Store, open_store: Callable[..., Store]) -> None:
    kinds = "must be a timedelta, a number of seconds"
    with pytest.raises(InvalidValueError, match=f"^ttl: {kinds}, an aware datetime or NEVER, not str$"):
        store.cache.touch("k", "5")
    with pytest.raises(InvalidValueError, match=f"^stale_ttl: {kinds} or None, not bool$"):
        store.cache.set("k", 1, stale_ttl=True)
    with pytest.raises(InvalidValueError, match=f"^cache_default_ttl: {kinds} or NEVER, not str$"):
        open_store(cache_default_ttl="5")


def test_a_value_whose_end_has_passed_while_it_was_computed_is_returned_and_not_kept(
    store: Store, clock: MovableClock
) -> None:
    def compute() -> int:
        clock.advance(minutes=2)
        return 1

    assert store.cache.get_or_compute("k", compute, ttl=clock.now + MINUTE) == 1
    assert store.cache.get("k", MISSING) is MISSING


def test_the_end_is_exact_on_the_clock_of_the_database(open_store: Callable[..., Store]) -> None:
    store = open_store()
    at = datetime.now(UTC) + timedelta(days=3, microseconds=7)
    store.cache.set("k", 1, ttl=at, stale_ttl=2.5)
    store.cache.set_many({"a": CacheItem(1, ttl=at), "b": 2})
    store.cache.increment("n", ttl=at)
    store.cache.set("t", 1, ttl=5, stale_ttl=timedelta(days=200, seconds=2))
    assert store.cache.touch("t", at) is True
    entries = {entry.key: entry for entry in store.cache.entries()}
    assert {entries[key].expires_at for key in ("k", "a", "n", "t")} == {at}
    assert entries["k"].stale_ttl == timedelta(seconds=2.5)
    assert entries["t"].stale_ttl == timedelta(days=200, seconds=2)
    assert timedelta(days=2) < store.cache.ttl("k") <= timedelta(days=3)


def test_a_day_has_24_hours_in_every_time_zone_of_the_server(
    postgres_url: str, connect: Callable[..., Store], clock: MovableClock
) -> None:
    with Content(postgres_url) as content:
        (database,) = content.query("SELECT quote_ident(current_database()) AS name")
        content.query(f"ALTER DATABASE {database['name']} SET timezone TO 'Europe/Berlin'")
    clock.now, day = datetime(2026, 3, 28, 12, tzinfo=UTC), timedelta(days=1)
    store = connect(postgres_url, clock=clock)
    store.cache.set("a", 1, ttl=day)
    store.cache.set_many({"b": CacheItem(1, ttl=day), "c": 1}, ttl=day)
    store.cache.increment("d", ttl=day)
    store.cache.set("e", 1, ttl=60, stale_ttl=day)
    assert store.cache.touch("e", day) is True
    assert {key: store.cache.ttl(key) for key in "abcde"} == dict.fromkeys("abcde", day)
    assert store.cache.entry("e").stale_ttl == day


def test_the_default_may_be_in_seconds(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(clock=clock, cache_default_ttl=90)
    store.cache.set("k", 1)
    assert store.cache.ttl("k") == timedelta(seconds=90)
    for bad in (0, True, NOON, None, float("nan")):
        with pytest.raises(InvalidValueError, match=r"^cache_default_ttl: "):
            open_store(cache_default_ttl=bad)


def test_a_stale_time_may_be_in_seconds(store: Store, clock: MovableClock) -> None:
    store.cache.set("k", "old", ttl=10, stale_ttl=20)
    assert store.cache.entry("k").stale_ttl == timedelta(seconds=20)
    clock.advance(seconds=15)
    with pytest.raises(ZeroDivisionError):  # Who computes it gets its error, and others the old value meanwhile.
        store.cache.get_or_compute("k", lambda: 1 // 0, stale_ttl=20)
    for bad in (0, -1, True, "5", NOON + MINUTE):
        with pytest.raises(InvalidValueError, match=r"^stale_ttl: "):
            store.cache.set("k", 1, stale_ttl=bad)
        with pytest.raises(InvalidValueError, match=r"^stale_ttl: "):
            store.cache.get_or_compute("k", lambda: 1, stale_ttl=bad)


def test_existence_and_time_left_are_told_without_a_hit(store: Store, clock: MovableClock) -> None:
    store.cache.set("k", "x" * 10_000, ttl=60)
    store.cache.set("never", 1, ttl=NEVER)
    clock.advance(seconds=20)
    assert (store.cache.exists("k"), store.cache.exists("never"), store.cache.exists("none")) == (True, True, False)
    assert store.cache.ttl("k") == timedelta(seconds=40)
    assert store.cache.ttl("never") is NEVER
    assert store.cache.ttl("none") is None
    clock.advance(seconds=40)
    assert (store.cache.exists("k"), store.cache.ttl("k")) == (False, None)
    stats = store.cache.stats()
    assert (stats.hits, stats.misses, store.cache.entry("never").last_accessed_at) == (0, 0, NOON)


def test_a_touch_moves_the_end_and_nothing_else(store: Store, clock: MovableClock) -> None:
    store.cache.set("k", 1, ttl=60, stale_ttl=7, tags=["t"], agent_name="a")
    before, counts = store.cache.entry("k"), store.cache.stats()
    clock.advance(seconds=30)
    for ttl, left in ((90, 90), (timedelta(seconds=5), 5), (clock.now + MINUTE, 60), (None, 3600)):
        assert store.cache.touch("k", ttl) is True
        assert store.cache.ttl("k") == timedelta(seconds=left)
        entry = store.cache.entry("k")
        assert (entry.stale_ttl, entry.version) == (timedelta(seconds=7), before.version)
    assert store.cache.touch("k", NEVER) is True
    entry = store.cache.entry("k")
    assert (entry.expires_at, entry.stale_ttl, entry.tags) == (None, None, ("t",))
    assert (entry.created_at, entry.last_accessed_at) == (before.created_at, before.last_accessed_at)
    assert store.cache.touch("k", 10) is True
    assert store.cache.entry("k").stale_ttl is None
    assert store.cache.stats() == counts
    assert store.cache.invalidate_tag("t") == 1


def test_what_has_expired_is_not_touched(store: Store, clock: MovableClock) -> None:
    store.cache.set("k", 1, ttl=10, stale_ttl=100)
    clock.advance(seconds=10)
    assert store.cache.touch("k", 10) is False
    assert store.cache.touch("none", 10) is False
    assert store.cache.exists("k") is False


def test_a_touch_of_what_cannot_be_is_refused(store: Store) -> None:
    store.cache.set("k", 1, ttl=60)
    for ttl in BAD_ENDS:
        with pytest.raises(InvalidValueError, match=r"^(values\[0\]\.)?ttl: "):
            store.cache.touch("k", ttl)
    for call in (store.cache.touch, store.cache.exists, store.cache.ttl, store.cache.pop, store.cache.increment):
        for bad in ("", None, 7, "x" * 513, "a\0"):
            with pytest.raises(InvalidValueError, match=r"^key: "):
                call(bad)
    assert store.cache.ttl("k") == MINUTE


def test_in_a_transaction_an_end_moves_with_it(store: Store) -> None:
    store.cache.set("k", 1, ttl=60)
    with suppress(Undo), store.transaction() as tx:
        assert tx.cache.touch("k", 600) is True
        assert tx.cache.ttl("k") == 10 * MINUTE
        assert tx.cache.exists("k") is True
        assert (tx.cache.touch("none"), tx.cache.exists("none"), tx.cache.ttl("none")) == (False, False, None)
        raise Undo
    assert store.cache.ttl("k") == MINUTE


def test_what_a_transaction_found_missing_stays_so_until_its_end(open_store: Callable[..., Store]) -> None:
    one, other = open_store(), open_store()
    for look in ("exists", "ttl", "touch", "pop"):
        found = []

        def reads(look: str = look, found: list[Any] = found) -> None:
            with one.transaction() as tx:
                getattr(tx.cache, look)(f"k {look}")
                found.append(tx.cache.get(f"k {look}", MISSING))
                tx.cache.set(f"k {look}", "mine")

        at_once(reads, partial(other.cache.add, f"k {look}", "theirs"))
        if found == [MISSING]:
            assert one.cache.get(f"k {look}") == "mine"


def test_items_have_lifetimes_and_tags_of_their_own(store: Store, clock: MovableClock) -> None:
    at = clock.now + timedelta(days=2)
    store.cache.set_many({"a": "old", "b": "old"}, tags=["old"])
    store.cache.set_many(
        {
            "a": CacheItem([1], ttl=10, tags=["x", "all"]),
            "b": CacheItem(b"2", ttl=at, tags=iter(["y"])),
            "c": CacheItem(None, ttl=NEVER),
            "d": "plain",
            "e": CacheItem("item"),
        },
        ttl=60,
        tags=["all"],
        agent_name="agent",
    )
    entries = {entry.key: entry for entry in store.cache.entries()}
    assert {key: entry.value for key, entry in entries.items()} == {
        "a": [1], "b": b"2", "c": None, "d": "plain", "e": "item",
    }  # fmt: skip
    assert {key: entry.tags for key, entry in entries.items()} == {
        "a": ("all", "x"), "b": ("all", "y"), "c": ("all",), "d": ("all",), "e": ("all",),
    }  # fmt: skip
    assert [entries[key].expires_at for key in "abcde"] == [
        NOON + timedelta(seconds=10), at, None, NOON + MINUTE, NOON + MINUTE,
    ]  # fmt: skip
    assert {entry.agent_name for entry in entries.values()} == {"agent"}
    assert len({entry.version for entry in entries.values()}) == 5
    assert store.cache.invalidate_tag("old") == 0
    assert store.cache.invalidate_tag("x") == 1
    assert store.cache.invalidate_tag("all") == 4
    assert store.cache.stats().sets == 7


def test_many_items_are_set_at_once(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(clock=clock, cache_max_entries=None)
    items = {f"key {n:03}": CacheItem(n, ttl=n + 1, tags=[f"t{n % 2}", str(n)]) for n in range(250)}
    store.cache.set_many(items)
    entries = store.cache.entries(limit=1000)
    assert [(entry.value, entry.expires_at - NOON) for entry in entries] == [
        (n, timedelta(seconds=n + 1)) for n in range(250)
    ]
    assert entries[249].tags == ("249", "t1")
    assert store.cache.invalidate_tag("t1") == 125


@pytest.mark.parametrize(
    ("item", "argument"),
    [
        (CacheItem(float("nan")), "values[1]"),
        (CacheItem(MISSING), "values[1]"),
        (CacheItem(CacheItem(1)), "values[1]"),
        ({1, 2}, "values[1]"),
        (CacheItem(1, ttl=0), "values[1].ttl"),
        (CacheItem(1, ttl=NOON), "values[1].ttl"),
        (CacheItem(1, tags="tag"), "values[1].tags"),
        (CacheItem(1, tags=[""]), "values[1].tags"),
    ],
)
def test_an_item_that_cannot_be_stored_is_refused(store: Store, item: Any, argument: str) -> None:
    with pytest.raises(InvalidValueError) as raised:
        store.cache.set_many({"a": 1, "the key": item})
    assert raised.value.argument == argument
    assert "the key" not in str(raised.value)
    assert store.cache.keys() == []


def test_an_item_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        CacheItem(1).ttl = 5  # type: ignore[misc]


def test_items_keep_to_the_limits(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(clock=clock, cache_max_entries=3)
    store.cache.set_many({"a": 1, "b": 2, "c": 3})
    store.cache.set_many({"d": CacheItem(4, ttl=5), "b": CacheItem(5, tags=["t"])})
    assert store.cache.keys() == ["b", "c", "d"] or store.cache.keys() == ["a", "b", "d"]
    assert store.cache.get_many(["b", "d"]) == {"b": 5, "d": 4}
    with pytest.raises(InvalidValueError, match=r"^values: "):
        store.cache.set_many({str(n): CacheItem(n, ttl=5) for n in range(4)})
