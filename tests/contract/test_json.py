"""Exact JSON: what is kept to the last digit, what is refused and where, and what a lenient store makes of it."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from statestore import (
    ConflictError,
    InvalidValueError,
    NewEntry,
    StateStore,
)
from tests.contract.test_values import nested, same
from tests.support.worlds import export_sessions, import_sessions

Store = Any

# With lone surrogates; two that make a pair are one character to JSON.
TEXT = st.text(st.characters(), max_size=20).filter(lambda text: not re.search("[\ud800-\udbff][\udc00-\udfff]", text))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXT, children, max_size=4),
    max_leaves=20,
)


def test_any_json_value_comes_back(database_url: str) -> None:
    with StateStore.open(database_url, durability="normal") as store:
        store.sessions.create("s")

        @settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(value=JSON)
        def check(value: Any) -> None:
            [appended] = store.history.append("s", [NewEntry(value, metadata={"k": value})])
            assert same((appended.content, appended.metadata), (value, {"k": value}))
            assert same(store.history.read("s", last=1)[0].content, value)
            store.state.set("s", "k", value)
            assert same(store.state.get_all("s"), {"k": value})
            assert same(store.sessions.merge_metadata("s", {"k": value}).metadata, {"k": value})
            store.cache.set("k", value, request=value, metadata={"k": value})
            entry = store.cache.entry("k")
            assert same((entry.value, entry.request, entry.metadata), (value, value, {"k": value}))
            store.cache.invalidate("k")
            assert store.cache.restore(entry)
            assert same(store.cache.get("k"), value)
            assert store.cache.make_key("a", [value]) == store.cache.make_key("a", [value])

        check()
        file = io.BytesIO()
        export_sessions(store, file)
        file.seek(0)
        with StateStore.open(database_url, namespace="other") as other:
            import_sessions(other, file)
            assert same(other.sessions.get("s").metadata, store.sessions.get("s").metadata)
            assert same(other.state.get_all("s"), store.state.get_all("s"))
            assert [same(a, b) for a, b in zip(other.history.read("s"), store.history.read("s"), strict=True)]


def test_sessions_with_any_json_are_loaded_saved_and_sent_again(store: Store) -> None:
    value = {"role": "user", "content": "caf\udce9", "n": [2**64, -(10**300)], "k\ud800": 1}
    entry = NewEntry(value, metadata={"m": value}, entry_id="e")
    store.sessions.create("s", metadata=value)
    [stored] = store.history.append("s", [entry])
    assert store.history.append("s", [entry]) == [stored]
    with pytest.raises(ConflictError):
        store.history.append("s", [NewEntry({**value, "n": [2**64 + 1]}, entry_id="e")])
    conversation = store.sessions.load("s")
    conversation.entries.append({"role": "assistant", "content": "\ud800"})
    assert store.sessions.save(conversation).appended == 1
    assert store.sessions.fork("s", "f", metadata={"k": 2**70}).metadata == {**value, "k": 2**70}
    window = store.history.window("f", max_tokens=1000)
    assert same([one.content for one in window], [value, {"role": "assistant", "content": "\ud800"}])


def test_text_that_is_no_json_value_must_be_valid_unicode(store: Store) -> None:
    store.sessions.create("s")
    for argument in ("title", "user_id", "agent_name"):
        with pytest.raises(InvalidValueError, match=f"^{argument}: contains a lone surrogate"):
            store.sessions.create("t", **{argument: "\ud800"})
    with pytest.raises(InvalidValueError, match="lone surrogate"):
        store.state.set("s", "\ud800", 1)
    assert not store.sessions.exists("t")


def test_an_error_names_the_place_in_a_value(store: Store) -> None:
    store.sessions.create("s")
    secret = "a key that is somebody's data"
    content = {"messages": [{}, {"score": 1.0}, {"score": float("nan")}], secret: 1}
    with pytest.raises(InvalidValueError, match=r"^entries\[1\]\.content: messages\[2\]\.score contains NaN"):
        store.history.append("s", [NewEntry(1), NewEntry(content)])
    with pytest.raises(InvalidValueError, match=r"^value: \[key 2\]\[0\] contains a tuple") as caught:
        store.state.set("s", "k", {"a": 1, secret: [(secret,)]})
    assert secret not in str(caught.value)
    with pytest.raises(InvalidValueError, match=r"^metadata: a\.b contains an integer of more than 4,300 digits"):
        store.sessions.update("s", metadata={"a": {"b": 10**4300}})
    with pytest.raises(InvalidValueError, match=r"^value: \[0\] has a key of type int"):
        store.cache.set("k", [{1: 2}])
    assert store.history.count("s") == 0


@dataclass
class Point:
    x: int
    at: Any


class Colour(Enum):
    RED = "red"


LENIENT: dict[str, tuple[Any, Any]] = {
    "tuples": ((1, (2,)), [1, [2]]),
    "sets": ({3, 1, 2}, [1, 2, 3]),
    "keys": (
        {1: "a", None: "b", 1.5: "c", date(2026, 1, 1): "d"},
        {"1": "a", "null": "b", "1.5": "c", "2026-01-01": "d"},
    ),
    "NaN": ([float("nan"), float("inf"), 1.0], [None, None, 1.0]),
    "bytes": ({"b": b"\x00\xff"}, {"b": {"$bytes": "AP8="}}),
    "times": (
        [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), date(2026, 1, 2), time(3, 4), timedelta(minutes=1)],
        ["2026-01-02T03:04:05+00:00", "2026-01-02", "03:04:00", 60.0],
    ),
    "ids and decimals": ([UUID(int=1), Decimal("1.10")], ["00000000-0000-0000-0000-000000000001", "1.10"]),
    "enums": ([Colour.RED, {Colour.RED: 1}], ["red", {"red": 1}]),
    "dataclasses": (Point(1, Point(2, None)), {"x": 1, "at": {"x": 2, "at": None}}),
    "a surrogate pair": ("\ud83d\ude00\ud800", "😀\ud800"),
    "what is exact": ({"z": [2**80, "\ud800", 0.1, None]}, {"z": [2**80, "\ud800", 0.1, None]}),
}


def test_a_lenient_store_converts_what_json_cannot_hold(
    open_store: Callable[..., Store], subtests: pytest.Subtests
) -> None:
    store = open_store(json="lenient")
    store.sessions.create("s", metadata={"t": (1, 2)})
    assert store.sessions.get("s").metadata == {"t": [1, 2]}
    for name, (value, stored) in LENIENT.items():
        with subtests.test(name):
            [appended] = store.history.append("s", [NewEntry(value, metadata={"k": value})])
            assert same((appended.content, appended.metadata), (stored, {"k": stored}))
            assert store.history.get("s", appended.seq) == appended
            assert same(store.state.set("s", "k", value).value, stored)
            assert same(store.state.get("s", "k"), stored)
            store.cache.set("k", {"v": value}, request=value)
            assert same(store.cache.get("k"), {"v": stored})
            assert store.cache.make_key("a", value) == store.cache.make_key("a", stored)
    for value in (object(), [open_store], {1: 1, "1": 2}, nested(202), {(1,): 1}):
        with pytest.raises(InvalidValueError):
            store.state.set("s", "k", value)
    with pytest.raises(InvalidValueError, match="json: must be one of exact, lenient"):
        open_store(json="loose")


def test_the_turn_of_a_lenient_store_converts_too(database_url: str) -> None:
    with StateStore.open(database_url, json="lenient") as store:
        store.sessions.create("s")
        with store.turn("s") as turn:
            turn.append({"role": "user", "content": "hi", "at": (1, 2)})
            turn.state["k"] = {"at": date(2026, 1, 1)}
        assert store.history.read("s")[0].content == {"role": "user", "content": "hi", "at": [1, 2]}
        assert store.state.get("s", "k") == {"at": "2026-01-01"}
        assert store.cache.get_or_compute("c", lambda: (1, 2)) == [1, 2]
