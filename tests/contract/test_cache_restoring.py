"""An entry that was read comes back as it was, and not over what others have written since."""

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from statestore import MISSING, NEVER, CacheEntry, InvalidValueError
from statestore.importers import cache_files
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once

Store = Any


def test_what_others_have_set_since_stays(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store, other = open_store(clock=clock), open_store(clock=clock)
    for later in (0, 1):  # Also within one tick of the clock.
        store.cache.set("k", "old", tags=["old"])
        entry = store.cache.entry("k")
        clock.advance(seconds=later)
        other.cache.set("k", "theirs", tags=["theirs"])
        assert store.cache.restore(entry) is False
        assert store.cache.get("k") == "theirs"
        assert store.cache.invalidate_tag("old") == 0
        assert store.cache.invalidate_tag("theirs") == 1


def test_with_others_who_set_at_once_the_last_one_wins(open_store: Callable[..., Store]) -> None:
    stores = [open_store(), open_store()]
    for round in range(10):
        stores[0].cache.set(f"k{round}", "old")
        entry = stores[0].cache.entry(f"k{round}")
        at_once(partial(stores[0].cache.restore, entry), partial(stores[1].cache.set, f"k{round}", "theirs"))
        assert stores[0].cache.get(f"k{round}") == "theirs", round
        stores[0].cache.invalidate(f"k{round}")
        at_once(partial(stores[0].cache.restore, entry), partial(stores[1].cache.set, f"k{round}", "theirs"))
        assert stores[0].cache.get(f"k{round}") == "theirs", round


def test_it_comes_back_after_it_was_removed_and_over_what_is_older(store: Store, clock: MovableClock) -> None:
    store.cache.set("k", {"a": 1}, ttl=timedelta(hours=1))
    old = store.cache.entry("k")
    clock.advance(seconds=1)
    store.cache.set("k", {"a": 2}, ttl=timedelta(hours=1))
    new = store.cache.entry("k")
    store.cache.clear()
    assert store.cache.restore(old) is True
    assert store.cache.restore(new) is True
    assert store.cache.entry("k") == new
    assert store.cache.restore(old) is False
    assert store.cache.entry("k") == new
    clock.advance(hours=2)  # What has expired is no longer anybody's.
    assert store.cache.restore(replace(old, expires_at=None)) is True
    assert store.cache.entry("k") == replace(old, expires_at=None)


def test_hits_since_are_not_taken_back(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store, packed = open_store(clock=clock), open_store(clock=clock, cache_compress_above=10)
    store.cache.set("k", "x" * 1000)
    entry = store.cache.entry("k")
    clock.advance(seconds=1)
    store.cache.get("k")
    store.cache.flush()
    # The same value, though it is stored in another way.
    assert packed.cache.restore(entry) is True
    assert store.cache.entry("k").access_count == 1
    assert store.cache.entry("k").last_accessed_at == clock.now
    assert store.cache.entry("k").created_at == entry.created_at


def test_a_value_stays_stale_as_long_as_it_was_to(store: Store, clock: MovableClock) -> None:
    stale = timedelta(hours=2)
    store.cache.set("k", 1, ttl=timedelta(minutes=1), stale_ttl=stale)
    store.cache.set("plain", 1, ttl=timedelta(minutes=1))
    store.cache.set("never", 1, ttl=NEVER, stale_ttl=stale)
    entries = {entry.key: entry for entry in store.cache.entries()}
    assert {key: entry.stale_ttl for key, entry in entries.items()} == {"k": stale, "plain": None, "never": None}
    store.cache.clear()
    for entry in entries.values():
        assert store.cache.restore(entry) is True
    assert {entry.key: entry for entry in store.cache.entries()} == entries
    clock.advance(hours=1)
    assert store.cache.evict() == 1
    calls: list[int] = []

    def fail() -> Any:
        calls.append(1)
        raise RuntimeError

    with pytest.raises(RuntimeError):  # It computes anew, and has a stale value meanwhile: the row is still there.
        store.cache.get_or_compute("k", fail, stale_ttl=stale)
    assert calls == [1]
    assert store.cache.get("k", MISSING) is MISSING
    clock.advance(hours=1, minutes=2)
    assert store.cache.evict() == 1


def test_a_file_holds_how_long_a_value_is_stale(store: Store, clock: MovableClock, content: Content) -> None:
    store.cache.set("k", 1, ttl=timedelta(minutes=1), stale_ttl=timedelta(hours=2))
    store.cache.set("plain", "x", ttl=timedelta(minutes=1))
    entries = store.cache.entries()
    lines = [cache_files.dump(entry) for entry in entries]
    assert [b"keep_until" in line for line in lines] == [True, False]
    found = [entry for _, entry in cache_files.load(io.BytesIO(b"".join(lines)))]
    assert [replace(entry, size_bytes=0) for entry in entries] == found
    before = [row["keep_until"] for row in content.rows("cache_entries")]
    store.cache.clear()
    for entry in found:
        assert store.cache.restore(entry)
    assert [row["keep_until"] for row in content.rows("cache_entries")] == before


@pytest.mark.parametrize("keep_until", [b'"2020-01-01T00:00:00Z"', b'"x"', b"7"])
def test_a_file_whose_times_make_no_sense_is_refused(store: Store, keep_until: bytes) -> None:
    store.cache.set("k", 1, ttl=timedelta(minutes=1), stale_ttl=timedelta(hours=2))
    begin, _ = cache_files.dump(store.cache.entry("k")).split(b'"keep_until":')
    with pytest.raises(InvalidValueError, match="line 1"):
        list(cache_files.load([begin + b'"keep_until":' + keep_until + b"}"]))


def test_a_stale_ttl_that_is_none_is_refused(store: Store) -> None:
    store.cache.set("k", 1)
    entry: CacheEntry = store.cache.entry("k")
    store.cache.clear()
    for bad in (timedelta(0), timedelta(seconds=-1), -5):
        with pytest.raises(InvalidValueError, match="stale_ttl"):
            store.cache.restore(replace(entry, stale_ttl=bad))
    assert store.cache.entries() == []


def test_a_damaged_value_is_replaced_once_it_is_removed(store: Store, content: Content) -> None:
    store.cache.set("k", "x" * 20_000)
    entry = store.cache.entry("k")
    content.query("UPDATE cache_entries SET value = :value", value=b"\0")
    assert store.cache.restore(entry) is False
    assert store.cache.invalidate("k") == 1
    assert store.cache.restore(entry) is True
    assert store.cache.get("k") == "x" * 20_000
