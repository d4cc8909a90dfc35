"""Many values at once, large ones, and rows that somebody else has put there."""

from collections.abc import Callable
from typing import Any

import pytest

from statestore import DatabaseError
from statestore.checking import codec, exactjson
from tests.support.content import Content
from tests.support.wire import Traffic

Store = Any

MIB = 1 << 20

# What refuses one row in the middle of a batch, and no longer.
REFUSE = {
    True: "CREATE TRIGGER refuse BEFORE INSERT ON {0} WHEN NEW.key = 'k1500' BEGIN SELECT RAISE(ABORT, 'no'); END",
    False: "ALTER TABLE {0} ADD CONSTRAINT refuse CHECK (key <> 'k1500')",
}
REFUSE_NO_MORE = {True: "DROP TRIGGER refuse", False: "ALTER TABLE {0} DROP CONSTRAINT refuse"}


def refuse_one(content: Content, table: str) -> None:
    content.query(REFUSE[content.is_sqlite].format(table))


def refuse_no_more(content: Content, table: str) -> None:
    content.query(REFUSE_NO_MORE[content.is_sqlite].format(table))


@pytest.mark.parametrize("tags", [(), ("t", "u")], ids=["plain", "tagged"])
def test_of_many_cached_values_all_are_set_or_none(
    open_store: Callable[..., Store], content: Content, tags: tuple[str, ...]
) -> None:
    store = open_store(cache_max_entries=None)
    store.cache.set_many({"k7": "old", "other": 1}, tags=["old"])
    before = content.rows("cache_entries"), content.rows("cache_tags")
    refuse_one(content, "cache_entries")
    with pytest.raises(DatabaseError):
        store.cache.set_many({f"k{n}": n for n in range(1600)}, tags=tags)
    assert (content.rows("cache_entries"), content.rows("cache_tags")) == before
    refuse_no_more(content, "cache_entries")
    store.cache.set_many({f"k{n}": n for n in range(1600)}, tags=tags)
    assert store.cache.get_many([f"k{n}" for n in range(1600)]) == {f"k{n}": n for n in range(1600)}
    assert len(content.rows("cache_tags")) == 1600 * len(tags) + 1


def test_of_many_state_values_all_are_set_or_none(store: Store, content: Content) -> None:
    store.sessions.create("s")
    store.state.set("s", "k7", "old")
    before = content.rows("state_entries")
    refuse_one(content, "state_entries")
    with pytest.raises(DatabaseError):
        store.state.set_many("s", {f"k{n}": n for n in range(1600)})
    assert content.rows("state_entries") == before
    refuse_no_more(content, "state_entries")
    store.state.set_many("s", {f"k{n}": n for n in range(1600)})
    assert len(content.rows("state_entries")) == 1600


def test_setting_ten_times_as_many_costs_ten_times_as_much(connect: Callable[..., Store], traffic: Traffic) -> None:
    """SQLite looks for each named parameter in the list of all of its statement's."""
    store = connect(traffic.url, cache_max_entries=None)
    store.cache.set("warm", 1)
    if not traffic.url.startswith("sqlite"):
        traffic.clear()
        store.cache.set_many({f"k{n:05}": 1 for n in range(2000)})
        assert sum("INSERT" in sql for sql in traffic.statements) == 1
        return

    def inserts(count: int) -> list[int]:
        traffic.clear()
        store.cache.set_many({f"k{n:05}": 1 for n in range(count)})
        return [len(sql) for sql in traffic.statements if "INSERT INTO cache_entries" in sql]

    few, many = inserts(200), inserts(2000)
    assert len(many) <= 10 * len(few)
    assert max(many) <= max(few) + 200


def test_a_planted_value_is_not_decompressed_beyond_what_can_have_been_written(store: Store, content: Content) -> None:
    bomb = codec.zstd.compress(b"\0" * (exactjson.MAX_BYTES + 1))
    assert len(bomb) < 4096
    for name in ("bytes", "str", "json"):
        store.cache.set("k", 1)
        content.query("UPDATE cache_entries SET value = :value, codec = :codec", value=bomb, codec=f"{name}+zstd")
        for read in (
            lambda: store.cache.get("k"),
            lambda: store.cache.get_many(["k"]),
            lambda: store.cache.entry("k"),
            lambda: store.cache.entries(),
            lambda: store.cache.get_or_compute("k", lambda: 1),
        ):
            with pytest.raises(DatabaseError, match=r"larger than 16,777,216 bytes when decompressed; invalidate it"):
                read()
    assert [entry.key for entry in store.cache.entries(values=False)] == ["k"]
    assert store.cache.invalidate("k") == 1


def test_the_largest_value_comes_back_compressed(open_store: Callable[..., Store]) -> None:
    value = b"\0" * (16 * MIB)
    open_store().cache.set("k", value)
    assert open_store(max_value_bytes=MIB).cache.get("k") == value
    larger = b"\0" * (17 * MIB)
    roomy = open_store(max_value_bytes=20 * MIB)
    roomy.cache.set("large", larger)
    assert roomy.cache.get("large") == larger
    assert roomy.cache.get_or_compute("large", lambda: b"") == larger


def test_a_value_with_something_behind_it_is_damaged(store: Store, content: Content) -> None:
    store.cache.set("k", "x" * 20_000)
    whole = content.rows("cache_entries")[0]["value"]
    for bad in (whole[:-1], bytes(whole) + bytes(whole), b""):
        content.query("UPDATE cache_entries SET value = :value", value=bad)
        with pytest.raises(DatabaseError, match="damaged"):
            store.cache.get("k")


def test_tags_of_other_entries_stay_where_the_table_has_parts(store: Store, content: Content) -> None:
    """A row's place is its own only within one part of a partitioned table."""
    if not content.is_sqlite:
        content.query("DROP TABLE cache_tags")
        content.query(
            """CREATE TABLE cache_tags (namespace varchar COLLATE "C", tag varchar COLLATE "C", version bigint,
                key varchar COLLATE "C", PRIMARY KEY (namespace, tag, version),
                FOREIGN KEY (namespace, key) REFERENCES cache_entries ON DELETE CASCADE) PARTITION BY HASH (tag)"""
        )
        for n in range(6):
            content.query(f"CREATE TABLE t{n} PARTITION OF cache_tags FOR VALUES WITH (MODULUS 6, REMAINDER {n})")
    for n in range(60):
        store.cache.set(f"k{n}", n, tags=[f"t{n % 12}"])
    for n in range(0, 60, 5):
        store.cache.set_many({f"k{n}": 0, f"k{n + 1}": 0}, tags=["new"])
    tagged = {(row["tag"], row["key"]) for row in content.rows("cache_tags")}
    rewritten = {n + i for n in range(0, 60, 5) for i in (0, 1)}
    assert tagged == {("new" if n in rewritten else f"t{n % 12}", f"k{n}") for n in range(60)}
    assert store.cache.invalidate_tag("t7") == sum(n % 12 == 7 for n in set(range(60)) - rewritten)
