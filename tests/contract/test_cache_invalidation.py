"""Entries are removed by reason: exactly those, in one statement, found in an index."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from statestore import InvalidValueError
from statestore.engine.sql import Dialect
from statestore.repositories.cache import invalidation
from statestore.repositories.cache.eviction import Removal
from tests.conftest import POSTGRESQL
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.wire import Traffic

Store = Any


def keys(store: Store) -> list[str]:
    return [entry.key for entry in store.cache.entries()]


def test_a_key(store: Store) -> None:
    store.cache.set_many({"a": 1, "b": 2})
    assert store.cache.invalidate("a") == 1
    assert store.cache.invalidate("a") == 0
    assert keys(store) == ["b"]


def test_a_tag(store: Store) -> None:
    store.cache.set("k1", 1, tags=["1", "2"])
    store.cache.set("k2", 2, tags=["1"])
    store.cache.set("k3", 3, tags=["3"])
    assert store.cache.invalidate_tag("1") == 2
    assert store.cache.invalidate_tag("1") == 0
    assert keys(store) == ["k3"]


def test_any_of_some_tags_or_all_of_them(store: Store) -> None:
    def fill() -> None:
        store.cache.clear()
        for key, tags in {"a": "xy", "b": "x", "c": "y", "d": "xyz", "e": "z", "f": ""}.items():
            store.cache.set(key, 1, tags=list(tags))

    cases: list[tuple[list[str], str, list[str]]] = [
        (["x", "y"], "any", ["e", "f"]),
        (["x", "y"], "all", ["b", "c", "e", "f"]),
        (["x", "y", "x"], "all", ["b", "c", "e", "f"]),
        (["x", "unknown"], "any", ["c", "e", "f"]),
        (["x", "unknown"], "all", ["a", "b", "c", "d", "e", "f"]),
        ([], "any", ["a", "b", "c", "d", "e", "f"]),
        ([], "all", ["a", "b", "c", "d", "e", "f"]),
    ]
    for tags, match, left in cases:
        fill()
        assert store.cache.invalidate_tags(tags, match=match) == 6 - len(left)
        assert keys(store) == left
    assert store.cache.invalidate_tags(iter(["f", "z"])) == 2
    with pytest.raises(InvalidValueError):
        store.cache.invalidate_tags(["x"], match="some")


def test_a_content_hash(store: Store) -> None:
    store.cache.set_many({"a": 1, "b": 2}, content_hash="h")
    store.cache.set("c", 3, content_hash="other")
    assert store.cache.invalidate_content_hash("h") == 2
    assert keys(store) == ["c"]


def test_a_store_may_ignore_content_hashes(open_store: Callable[..., Store]) -> None:
    store = open_store(content_hash_invalidation=False)
    store.cache.set("a", 1, content_hash="h")
    assert store.cache.invalidate_content_hash("h") == 0
    assert keys(store) == ["a"]
    assert open_store().cache.invalidate_content_hash("h") == 1


def test_an_agent(store: Store) -> None:
    store.cache.set_many({"a1": 1, "a2": 2}, agent_name="a")
    store.cache.set("b1", 3, agent_name="b")
    store.cache.set("none", 4)
    assert store.cache.invalidate_agent("a") == 2
    assert keys(store) == ["b1", "none"]


def test_all_of_them(store: Store) -> None:
    store.cache.set_many({"a": 1, "b": 2}, tags=["t"])
    assert store.cache.clear() == 2
    assert store.cache.clear() == 0
    assert store.cache.stats().entries == 0


def test_what_has_expired_goes_too_and_is_not_counted(store: Store, clock: MovableClock, content: Content) -> None:
    from datetime import timedelta

    store.cache.set("gone", 1, ttl=timedelta(seconds=1), tags=["t"], agent_name="a")
    store.cache.set("there", 1, tags=["t"], agent_name="a")
    clock.advance(seconds=1)
    assert store.cache.invalidate_tag("t") == 1
    assert content.rows("cache_entries") == content.rows("cache_tags") == []
    stats = store.cache.stats()
    assert (stats.invalidations["tag"], stats.expirations) == (1, 1)


def test_an_old_tag_does_not_reach_a_new_value(store: Store) -> None:
    store.cache.set("k", 1, tags=["old", "kept"])
    store.cache.set("k", 2, tags=["kept"])
    assert store.cache.invalidate_tag("old") == 0
    assert store.cache.get("k") == 2
    store.cache.invalidate("k")
    store.cache.set("k", 3)
    assert store.cache.invalidate_tags(["old", "kept"]) == 0
    assert store.cache.get("k") == 3
    store.cache.set_many({"k": 4, "l": 5}, tags=["new"])
    store.cache.set_many({"k": 6})
    assert store.cache.invalidate_tag("new") == 1
    assert store.cache.get_many(["k", "l"]) == {"k": 6}


def test_removed_entries_leave_no_tags(store: Store, content: Content) -> None:
    for remove in (lambda: store.cache.invalidate("k"), store.cache.clear, lambda: store.cache.invalidate_tag("a")):
        store.cache.set("k", 1, tags=["a", "b"])
        store.cache.set("k", 1, tags=["a", "c"])
        assert [row["tag"] for row in content.rows("cache_tags")] == ["a", "c"]
        remove()
        assert content.rows("cache_tags") == []


def test_sets_of_one_key_at_once_leave_the_tags_of_the_one_that_won(store: Store) -> None:
    for _ in range(10):
        at_once(*(partial(store.cache.set, "k", n, tags=[f"tag {n}", "common"]) for n in range(6)))
        entry = store.cache.entry("k")
        assert entry.tags == ("common", f"tag {entry.value}")
        for n in range(6):
            if n != entry.value:
                assert store.cache.invalidate_tag(f"tag {n}") == 0
        assert store.cache.get("k") == entry.value
        assert store.cache.invalidate_tags(["common", f"tag {entry.value}"], match="all") == 1


def test_sets_and_invalidations_at_once_do_not_stand_in_each_others_way(open_store: Callable[..., Store]) -> None:
    store = open_store(cache_max_entries=20)

    def work(name: int) -> None:
        for n in range(40):
            store.cache.set_many({f"k{i}": n for i in range(n % 5, n % 5 + 4)}, tags=["t", f"t{name}"])
            store.cache.get_many([f"k{i}" for i in range(8)])
            store.cache.invalidate_tags(["t", f"t{name}"], match="all" if n % 2 else "any")
            store.cache.flush()

    at_once(*(partial(work, name) for name in range(5)))
    assert store.cache.clear() <= 8
    assert store.cache.stats().entries == 0


# Each reason's statement, its parameters, and the index that finds the entries.
PLANS: dict[str, tuple[Removal, dict[str, Any], str]] = {
    "key": (invalidation._BY_KEY, {"key": "k5"}, "cache_entries"),
    "tag": (invalidation._BY_TAG, {"tag": "rare"}, "pk_cache_tags"),
    "tags": (invalidation._BY_TAGS, {"keys": ["rare", "rarer"], "needed": 1}, "pk_cache_tags"),
    "agent": (invalidation._BY_AGENT, {"agent_name": "rare"}, "ix_cache_entries_namespace_agent_name"),
    "hash": (
        invalidation._BY_CONTENT_HASH,
        {"content_hash": "rare"},
        "ix_cache_entries_namespace_content_hash",
    ),
}


def plan(content: Content, removal: Removal, params: dict[str, Any]) -> str:
    """How the database would remove the entries, as text."""
    dialect = Dialect("sqlite" if content.is_sqlite else "postgresql")
    params = {"namespace": "default", **params}
    if content.is_sqlite:
        params = {name: json.dumps(v) if isinstance(v, list) else v for name, v in params.items()}
        params["now"] = "2026-01-01T00:00:00.000000Z"
        sql = removal.within.render(dialect)
        rows = content._connection.execute(f"EXPLAIN QUERY PLAN {sql}", params).fetchall()
        return "\n".join(row["detail"] for row in rows)
    sql = removal.alone.render(dialect)
    rows = content._connection.execute(f"EXPLAIN {sql}", params).fetchall()
    return "\n".join(row["QUERY PLAN"] for row in rows)


@pytest.fixture
def filled(content: Content) -> Content:
    """100,000 entries of 100 tags and one more, which a hundredth of them have."""
    numbers = (
        "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999)"
        if content.is_sqlite
        else "WITH n (i) AS (SELECT generate_series(0, 99999))"
    )
    value, time = ("x'31'", "'2026-01-01T00:00:00.000000Z'") if content.is_sqlite else ("'1'::bytea", "now()")
    content.query(f"""
        {numbers} INSERT INTO cache_entries (namespace, key, value, codec, size_bytes, agent_name, content_hash,
            version, created_at, last_accessed_at, access_seq)
        SELECT 'default', 'k' || i, {value}, 'json', 1, CASE WHEN i / 100 * 100 = i THEN 'rare' ELSE 'common' END,
            CASE WHEN i / 100 * 100 = i THEN 'rare' ELSE 'h' || i END, i, {time}, {time}, i FROM n""")
    content.query("""
        INSERT INTO cache_tags (namespace, tag, version, key)
        SELECT namespace,
            CASE WHEN version / 100 * 100 = version THEN 'rare' ELSE 'tag ' || (version - version / 100 * 100) END,
            version, key
        FROM cache_entries""")
    for table in ("cache_entries", "cache_tags"):
        content.query(f"ANALYZE {table}")
    return content


@pytest.mark.parametrize("reason", PLANS)
def test_an_invalidation_finds_its_entries_in_an_index(filled: Content, reason: str) -> None:
    removal, params, index = PLANS[reason]
    found = plan(filled, removal, params)
    if filled.is_sqlite:
        # SQLite names a primary key's index after the table.
        index = index.replace("pk_cache_tags", "sqlite_autoindex_cache_tags_1")
        index = index.replace("cache_entries", "sqlite_autoindex_cache_entries_1", index == "cache_entries")
        assert "SCAN e" not in found
        assert "SCAN t" not in found.replace("SCAN t USING COVERING INDEX", "")
    else:
        assert "Seq Scan on cache" not in found
        index = {"cache_entries": "pk_cache_entries"}.get(index, index)
    assert index in found, found


def test_a_thousand_tagged_among_a_hundred_thousand_go_in_one_statement(
    filled: Content, connect: Callable[..., Store], traffic: Traffic
) -> None:
    store = connect(traffic.url, cache_max_entries=None)
    store.cache.get("k1")
    traffic.clear()
    assert store.cache.invalidate_tag("rare") == 1000
    deletes = [sql for sql in traffic.statements if "DELETE" in sql]
    assert len(deletes) == 1
    if not filled.is_sqlite:
        assert (len(traffic.statements), traffic.round_trips, traffic.transactions) == (1, 1, 1)
    assert filled.query("SELECT count(*) AS n FROM cache_entries") == [{"n": 99_000}]
    assert filled.query("SELECT count(*) AS n FROM cache_tags") == [{"n": 99_000}]
    assert store.cache.stats().by_agent["rare"].invalidations["tag"] == 1000


@pytest.mark.parametrize("world", ["sync"], indirect=True)
@pytest.mark.parametrize("database_url", [POSTGRESQL], indirect=True)
def test_many_are_found_one_by_one_in_tables_that_were_never_analyzed(store: Store, content: Content) -> None:
    store.cache.set_many({f"k{n}": n for n in range(500)}, tags=["t"])
    removal, params, _ = PLANS["tag"]
    sql = removal.alone.render(Dialect("postgresql"))
    values = {"namespace": "default", **params, "tag": "t"}
    rows = content._connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values).fetchall()
    read = [step for step in steps(rows[0]["QUERY PLAN"][0]["Plan"]) if step.get("Alias") == "x"]
    assert read
    assert sum(step["Actual Rows"] * step["Actual Loops"] for step in read) <= 500


def steps(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(step for child in plan.get("Plans", ()) for step in steps(child))]
