"""What the result cache promises to whoever reads and writes it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from statestore import MISSING, NEVER, CacheEntry, InvalidValueError
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content

Store = Any

VALUES = [
    None,
    False,
    0,
    -(2**63),
    2**64 - 1,
    [2**64, "\ud800"],
    "caf\udce9.txt",
    1.5,
    "",
    "text with \0 and 🦄",
    b"",
    b"\0\xff" * 100,
    {"b": [1, {"a": None}], "a": "\0"},
    "x" * 20_000,
    b"x" * 20_000,
    ["long"] * 5_000,
]
ODD_NAMES = ["50%", "a_b", "it's", '"q"', "a\nb", "🦄🦄", "\\", "x" * 512, "🦄" * 512, " ", "{a}", ":key", "%(key)s"]


def held(content: Content, **where: Any) -> list[str]:
    return [row["key"] for row in content.rows("cache_entries", **where)]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:24])
def test_a_value_comes_back_as_it_was_set(store: Store, value: Any) -> None:
    store.cache.set("k", value)
    found = store.cache.get("k", MISSING)
    assert found == value
    assert type(found) is type(value)
    assert store.cache.get_many(["k"]) == {"k": value}
    assert store.cache.entry("k").value == value


def test_key_order_is_kept(store: Store) -> None:
    store.cache.set("k", {"z": 1, "a": {"y": 2, "b": 3}})
    assert list(store.cache.get("k")) == ["z", "a"]
    assert list(store.cache.get("k")["a"]) == ["y", "b"]


@pytest.mark.parametrize(
    "value",
    [float("nan"), [10**4300], (1,), {1: 2}, {"a": b"x"}, bytearray(b"x"), object(), "\ud83d\ude00", MISSING],
    ids=lambda value: ascii(value)[:20] if value != [10**4300] else "4,301 digits",
)
def test_what_would_not_come_back_is_refused(store: Store, content: Content, value: Any) -> None:
    with pytest.raises(InvalidValueError) as raised:
        store.cache.set("k", value)
    assert raised.value.argument == "value"
    with pytest.raises(InvalidValueError):
        store.cache.set_many({"a": 1, "k": value})
    assert held(content) == []


def test_the_codec_says_how_a_value_is_stored(store: Store, content: Content) -> None:
    long = {"json": ["a"] * 3000, "str": "a" * 5000, "bytes": b"a" * 5000}
    store.cache.set_many(long | {"short": "a" * 4096, "random": bytes(range(256)) * 17})
    found = {row["key"]: (row["codec"], row["size_bytes"], len(row["value"])) for row in content.rows("cache_entries")}
    for kind in long:
        codec, size, stored = found[kind]
        assert codec == f"{kind}+zstd"
        assert size == stored < 200
    assert found["short"][:2] == ("str", 4096)
    assert store.cache.get_many([*long, "short"]) == long | {"short": "a" * 4096}


def test_a_value_beyond_the_limit_is_refused_however_well_it_compresses(
    open_store: Callable[..., Store], content: Content
) -> None:
    store = open_store(max_value_bytes=10_000)
    for value in ("x" * 10_001, b"x" * 10_001, ["x" * 10_000]):
        with pytest.raises(InvalidValueError, match="limit of 10,000"):
            store.cache.set("k", value)
    assert held(content) == []
    store.cache.set("k", "x" * 10_000)


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name)[:12])
def test_any_text_is_a_key_a_tag_an_agent_and_a_content_hash(store: Store, name: str) -> None:
    def fill() -> None:
        store.cache.set(name, name, tags=[name], agent_name=name, content_hash=name, request=name, metadata={name: 1})
        store.cache.set("other", 1, tags=["other"], agent_name="other", content_hash="other")

    fill()
    entry = store.cache.entry(name)
    assert (entry.key, entry.tags, entry.agent_name, entry.content_hash) == (name, (name,), name, name)
    assert (entry.request, entry.metadata, entry.value) == (name, {name: 1}, name)
    assert store.cache.get_many([name, "other"]) == {name: name, "other": 1}
    for remove in (
        lambda: store.cache.invalidate(name),
        lambda: store.cache.invalidate_tag(name),
        lambda: store.cache.invalidate_tags([name, "unknown"]),
        lambda: store.cache.invalidate_tags([name], match="all"),
        lambda: store.cache.invalidate_agent(name),
        lambda: store.cache.invalidate_content_hash(name),
    ):
        fill()
        assert remove() == 1
        assert store.cache.get_many([name, "other"]) == {"other": 1}


def test_the_longest_key_and_the_longest_tag_fit_together(store: Store) -> None:
    # Texts that do not compress: PostgreSQL's index entries end at 2,704 bytes.
    def text(seed: int) -> str:
        return "".join(chr(0x10000 + (seed + 7919 * n * n) % 60_000) for n in range(512))

    key, tags = text(1), [text(2), text(3)]
    store.cache.set(key, 1, tags=tags, agent_name=text(4), content_hash=text(5))
    assert store.cache.get(key) == 1
    assert store.cache.invalidate_tags(tags, match="all") == 1


@pytest.mark.parametrize("bad", ["", "a\0b", "x" * 513, 7, None, b"k"], ids=repr)
def test_a_name_that_cannot_be_stored_is_refused(store: Store, bad: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: store.cache.get(bad),
        lambda: store.cache.set(bad, 1),
        lambda: store.cache.add(bad, 1),
        lambda: store.cache.get_many(["a", bad]),
        lambda: store.cache.set_many({"a": 1, bad: 1}),
        lambda: store.cache.entry(bad),
        lambda: store.cache.set("k", 1, tags=["a", bad]),
        lambda: store.cache.invalidate(bad),
        lambda: store.cache.invalidate_tag(bad),
        lambda: store.cache.invalidate_tags([bad]),
        lambda: store.cache.invalidate_agent(bad),
        lambda: store.cache.invalidate_content_hash(bad),
        lambda: store.cache.get_or_compute(bad, lambda: 1),
    ]
    if bad is not None:
        calls.append(lambda: store.cache.set("k", 1, agent_name=bad))
        calls.append(lambda: store.cache.set("k", 1, content_hash=bad))
    for call in calls:
        with pytest.raises(InvalidValueError):
            call()
    assert store.cache.stats().entries == 0


def test_tags_are_not_taken_from_the_letters_of_a_string(store: Store) -> None:
    with pytest.raises(InvalidValueError, match="list"):
        store.cache.set("k", 1, tags="tag")
    with pytest.raises(InvalidValueError, match="list"):
        store.cache.invalidate_tags("tag")


def test_none_is_a_value(store: Store) -> None:
    store.cache.set("k", None)
    assert store.cache.get("k", MISSING) is None
    assert store.cache.get("other", MISSING) is MISSING
    assert store.cache.get("other") is None
    assert store.cache.get_many(["k", "other"]) == {"k": None}
    assert store.cache.stats().hits == 2


def test_several_are_read_in_the_order_asked_for(store: Store) -> None:
    store.cache.set_many({"a": 1, "b": 2, "c": 3})
    assert list(store.cache.get_many(["c", "x", "a", "c"]).items()) == [("c", 3), ("a", 1)]
    assert store.cache.get_many([]) == {}
    assert store.cache.get_many(iter(["b"])) == {"b": 2}


def test_several_are_set_or_none(store: Store) -> None:
    store.cache.set("a", "old", tags=["old"])
    store.cache.set_many({"a": 1, "b": 2}, tags=["t", "u"], agent_name="x", ttl=timedelta(seconds=5))
    entries = store.cache.entries()
    assert [(e.key, e.value, e.tags, e.agent_name) for e in entries] == [
        ("a", 1, ("t", "u"), "x"),
        ("b", 2, ("t", "u"), "x"),
    ]
    with pytest.raises(InvalidValueError):
        store.cache.set_many({"a": 3, "c": float("inf")})
    assert store.cache.get_many(["a", "c"]) == {"a": 1}
    store.cache.set_many({})
    assert store.cache.invalidate_tag("old") == 0


def test_many_are_set_at_once(open_store: Callable[..., Store]) -> None:
    store = open_store(cache_max_entries=None)
    values = {f"key {n}": n for n in range(12_000)}
    store.cache.set_many(values, tags=["t"])
    assert store.cache.get_many(values) == values
    assert store.cache.entry("key 11999").tags == ("t",)
    assert store.cache.invalidate_tag("t") == 12_000


def test_an_entry_tells_all_that_is_known(store: Store, clock: MovableClock) -> None:
    store.cache.set(
        "k",
        [1],
        ttl=timedelta(minutes=5),
        tags=["b", "a", "b"],
        agent_name="writer",
        request={"q": 1},
        content_hash="h",
        metadata={"m": 1},
    )
    clock.advance(seconds=10)
    store.cache.get("k")
    clock.advance(seconds=10)
    assert store.cache.entry("k") == CacheEntry(
        key="k",
        value=[1],
        agent_name="writer",
        request={"q": 1},
        content_hash="h",
        metadata={"m": 1},
        tags=("a", "b"),
        size_bytes=3,
        created_at=NOON,
        expires_at=NOON + timedelta(minutes=5),
        last_accessed_at=NOON + timedelta(seconds=10),
        access_count=1,
    )
    assert store.cache.entry("other") is None


def test_entries_are_listed_by_key_in_pages(store: Store, clock: MovableClock) -> None:
    for n in range(7):
        store.cache.set(f"k{n}", n, agent_name=f"agent {n % 2}", tags=["even"] if n % 2 == 0 else [])
    store.cache.set("gone", 1, ttl=timedelta(seconds=1))
    clock.advance(seconds=1)
    first = store.cache.entries(limit=4)
    assert [entry.key for entry in first] == ["k0", "k1", "k2", "k3"]
    assert [entry.key for entry in store.cache.entries(limit=4, after="k3")] == ["k4", "k5", "k6"]
    assert [entry.key for entry in store.cache.entries(tag="even", agent_name="agent 0")] == ["k0", "k2", "k4", "k6"]
    assert [entry.value for entry in store.cache.entries(limit=2, values=False)] == [MISSING, MISSING]
    assert store.cache.stats().hits == 0
    with pytest.raises(InvalidValueError):
        store.cache.entries(limit=0)


def test_a_value_expires_at_its_time_counted_from_the_write(store: Store, clock: MovableClock) -> None:
    store.cache.set("k", 1, ttl=timedelta(milliseconds=1))
    store.cache.set("used", 1, ttl=timedelta(seconds=10))
    assert store.cache.get("k") == 1
    clock.advance(milliseconds=1)
    assert store.cache.get("k", MISSING) is MISSING
    assert store.cache.get_many(["k"]) == {}
    assert store.cache.entry("k") is None
    assert store.cache.entries(limit=1)[0].key == "used"
    assert store.cache.stats().entries == 1
    clock.advance(seconds=9)
    assert store.cache.get("used") == 1  # Which does not prolong it.
    clock.advance(seconds=1)
    assert store.cache.get("used", MISSING) is MISSING


def test_without_a_ttl_the_default_holds(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(clock=clock)
    brief = open_store(clock=clock, cache_default_ttl=timedelta(seconds=1))
    endless = open_store(clock=clock, cache_default_ttl=NEVER)
    store.cache.set("hour", 1)
    brief.cache.set("second", 1)
    endless.cache.set("endless", 1)
    store.cache.set("never", 1, ttl=NEVER)
    expiry = {entry.key: entry.expires_at for entry in store.cache.entries()}
    assert expiry == {
        "hour": NOON + timedelta(hours=1),
        "second": NOON + timedelta(seconds=1),
        "endless": None,
        "never": None,
    }
    clock.now = datetime(2126, 1, 1, tzinfo=UTC)
    assert store.cache.get_many(expiry) == {"endless": 1, "never": 1}


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), 0, -1.5, True, "1h"], ids=repr)
def test_a_ttl_that_is_none_is_refused(store: Store, ttl: Any) -> None:
    with pytest.raises(InvalidValueError) as raised:
        store.cache.set("k", 1, ttl=ttl)
    assert raised.value.argument == "ttl"


def test_setting_again_begins_anew(store: Store, clock: MovableClock) -> None:
    store.cache.set("k", 1, ttl=timedelta(seconds=10), agent_name="a", content_hash="h", request="r", metadata={"m": 1})
    store.cache.get("k")
    clock.advance(seconds=5)
    store.cache.set("k", 2, ttl=timedelta(seconds=10))
    entry = store.cache.entry("k")
    assert (entry.value, entry.access_count, entry.created_at) == (2, 0, NOON + timedelta(seconds=5))
    assert (entry.agent_name, entry.content_hash, entry.request, entry.metadata) == (None, None, None, {})
    assert store.cache.invalidate_content_hash("h") == 0
    clock.advance(seconds=9)
    assert store.cache.get("k") == 2


def test_a_hit_that_was_not_written_yet_is_not_counted_for_the_next_value(store: Store) -> None:
    store.cache.set("k", 1)
    store.cache.get("k")
    store.cache.set("k", 2)
    assert store.cache.entry("k").access_count == 0
    store.cache.get("k")
    store.cache.invalidate("k")
    store.cache.set("k", 3)
    assert store.cache.entry("k").access_count == 0
    assert store.cache.stats().hits == 2


def test_add_keeps_what_is_there(store: Store, clock: MovableClock) -> None:
    assert store.cache.add("k", 1, ttl=timedelta(seconds=1), tags=["first"]) is True
    assert store.cache.add("k", 2, tags=["second"]) is False
    assert store.cache.get("k") == 1
    assert store.cache.entry("k").tags == ("first",)
    clock.advance(seconds=1)
    assert store.cache.add("k", 3, tags=["third"]) is True
    assert store.cache.get("k") == 3
    assert store.cache.invalidate_tag("first") == 0
    assert store.cache.invalidate_tag("third") == 1


def test_namespaces_do_not_see_each_other(open_store: Callable[..., Store]) -> None:
    one, two = open_store(namespace="one", cache_max_entries=2), open_store(namespace="two", cache_max_entries=2)
    for store in (one, two):
        store.cache.set_many({"a": store.namespace, "b": 1}, tags=["t"], agent_name="x", content_hash="h")
    one.cache.set("c", 1)
    assert two.cache.get_many(["a", "b", "c"]) == {"a": "two", "b": 1}
    for remove in (
        lambda: one.cache.invalidate("a"),
        lambda: one.cache.invalidate_tag("t"),
        lambda: one.cache.invalidate_agent("x"),
        lambda: one.cache.invalidate_content_hash("h"),
        one.cache.clear,
        one.cache.evict,
    ):
        remove()
    assert two.cache.stats().entries == 2
    assert one.cache.stats().entries == 0


def test_an_entry_is_restored_as_it_was(store: Store, clock: MovableClock) -> None:
    entry = CacheEntry(
        key="k",
        value={"a": [1]},
        agent_name="a",
        request=["r"],
        content_hash="h",
        metadata={"m": 1},
        tags=("t", "u"),
        size_bytes=9,
        created_at=NOON - timedelta(days=2),
        expires_at=NOON + timedelta(seconds=3),
        last_accessed_at=NOON - timedelta(days=1),
        access_count=7,
    )
    assert store.cache.restore(entry) is True
    assert store.cache.entry("k") == entry
    assert store.cache.invalidate_tag("t") == 1
    clock.advance(seconds=3)
    assert store.cache.restore(entry) is False
    assert store.cache.stats().entries == 0


@pytest.mark.parametrize(
    ("changed", "argument"),
    [
        ({"created_at": None}, "created_at"),
        ({"last_accessed_at": None}, "last_accessed_at"),
        ({"created_at": datetime(2026, 1, 1)}, "created_at"),
        ({"expires_at": NOON + timedelta(days=40_000)}, "expires_at"),
        ({"access_count": 2**63 - 1}, "access_count"),
        ({"access_count": -1}, "access_count"),
        ({"access_count": None}, "access_count"),
        ({"metadata": []}, "metadata"),
        ({"tags": "t"}, "tags"),
        ({"tags": None}, "tags"),
        ({"key": ""}, "key"),
        ({"value": MISSING}, "value"),
    ],
)
def test_an_entry_that_cannot_be_one_is_not_restored(store: Store, changed: dict[str, Any], argument: str) -> None:
    store.cache.set("k", 1)
    before = store.cache.entry("k")
    with pytest.raises(InvalidValueError, match=rf"^{argument}: "):
        store.cache.restore(replace(before, **changed))
    assert store.cache.entry("k") == before


def test_what_is_no_entry_is_not_restored(store: Store) -> None:
    for entry in (None, {"key": "k"}, "k"):
        with pytest.raises(InvalidValueError, match=r"^entry: "):
            store.cache.restore(entry)


def test_bytes_that_may_change_are_no_value(store: Store) -> None:
    for value in (bytearray(b"x"), memoryview(b"x")):
        with pytest.raises(InvalidValueError, match=r"^value: .*pass bytes"):
            store.cache.set("k", value)


def test_keys_are_made_of_all_three_and_of_nothing_else(store: Store) -> None:
    make = store.cache.make_key
    key = make("agent", {"b": 1, "a": [{"d": 1, "c": 2}]}, {"read": True, "write": False})
    assert key == make("agent", {"a": [{"c": 2, "d": 1}], "b": 1}, {"write": False, "read": True})
    assert len(key) == 64
    assert set(key) <= set("0123456789abcdef")
    different = [
        ("ab", "c", None),
        ("a", "bc", None),
        ("a", "b", "c"),
        ("a", ["b"], "c"),
        ("a", ["b", "c"], None),
        ("a", '["b","c"]', None),
        ("a", {"b": "c"}, None),
        ("a", {"b": ["c"]}, None),
        ("a", None, None),
        ("a", "null", None),
        ("a", 1, None),
        ("a", "1", None),
        ("a", True, None),
        ("a", [1, 2], None),
        ("a", [2, 1], None),
    ]
    assert len({make(*inputs) for inputs in different}) == len(different)
    assert make("a", "b") == make("a", "b", None)
    # For good: a key made by one version is found by the next.
    assert make("agent", {"q": 1}, ["read"]) == "6824acc575035ea42ea793aabfc04dd2ed8ddc62f59d1947e1de8cbaff6ee77d"


@pytest.mark.parametrize("bad", [{1: 2}, (1,), b"x", float("nan"), {"a": {1, 2}}, object()], ids=lambda b: repr(b)[:12])
def test_a_key_is_not_made_of_what_is_not_exact(store: Store, bad: Any) -> None:
    with pytest.raises(InvalidValueError) as raised:
        store.cache.make_key("agent", bad, None)
    assert raised.value.argument == "request"
    with pytest.raises(InvalidValueError) as raised:
        store.cache.make_key("agent", "request", bad)
    assert raised.value.argument == "permissions"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cache_max_entries", 0),
        ("cache_max_entries", "many"),
        ("cache_max_bytes", -1),
        ("cache_default_ttl", None),
        ("cache_default_ttl", timedelta(0)),
        ("cache_compress_above", -1),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(open_store: Callable[..., Store], option: str, value: Any) -> None:
    with pytest.raises(InvalidValueError) as raised:
        open_store(**{option: value})
    assert raised.value.argument == option
