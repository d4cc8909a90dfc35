"""What is stored comes back exactly: every JSON value, every id, every fact of an entry."""

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import pytest

from statestore import ConversationState, InvalidValueError, NewEntry, Usage
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content

Store = Any


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = [value] if depth % 2 else {"k": value}
    return value


EXACT: dict[str, Any] = {
    "none": None,
    "true": True,
    "zero": 0,
    "int that looks like a bool": 1,
    "largest": 2**64 - 1,
    "beyond signed": 2**63,
    "smallest": -(2**63),
    "beyond 64 bits": [2**64, -(2**63) - 1, 10**4299, {"n": 1 - 10**4300}],
    "lone surrogates": ["\ud800", "caf\udce9.txt", "\udfff\ud83d", "😀\ud83d", {"k\udc80": {"\udbff": None}}],
    "a lone surrogate beside all else": {"z": "\ud800", "a": [0.1, 5e-324, -0.0, 2**53 + 1, "\0\\ud800\u2028é", {}]},
    "beyond a double": 2**53 + 1,
    "float that is whole": 1.0,
    "negative zero": -0.0,
    "tenth": 0.1,
    "large float": 1.7976931348623157e308,
    "small float": 5e-324,
    "float with many digits": 0.30000000000000004,
    "empty text": "",
    "NUL": "a\0b",
    "only NUL": "\0",
    "NUL in a key": {"a\0b": 1},
    "escapes": '"\\/\b\f\n\r\t\x01\x1f\x7f\u2028\u2029',
    "what looks like an escape": "\\u0000 \\ud800",
    "unicode": "zażółć gęślą jaźń 漢字 👩\u200d👩\u200d👧 e\u0301 \u202e \ufeff \uffff \U0010ffff",
    "not normalised": ["é", "e\u0301"],
    "empty list": [],
    "empty object": {},
    "empty key": {"": 1},
    "key order": {"z": 1, "a": 2, "m": {"y": 1, "b": 2}, "1": 0, "0": 0},
    "keys that differ in case": {"a": 1, "A": 2},
    "depth 200, lists": nested(199),
    "brackets in text": ["[" * 600, "\\", '"[{' * 400, {'\\"' + "{" * 300: "]}" * 300}, '\\"'],
    "many brackets in text": "[{" * 600_000,
    "many lists": [[] for _ in range(10_000)],
    "depth 200": [nested(199)],
    "depth 200, objects": nested(200),
    "wide": list(range(5000)),
    "json in a text": '{"a": [1, 2]}',
    "percent": "100% %s %(name)s :name $1 ?",
    "sql": "'; DROP TABLE sessions; --",
    "large": "x" * (1 << 20),
    "largest text": "x" * ((16 << 20) - 2),
}

IDS: dict[str, str] = {
    "one character": "x",
    "512 characters": "x" * 512,
    "512 wide characters": "🦜" * 512,
    "percent": "%",
    "underscore": "_",
    "backslash": "a\\b\\",
    "single quotes": "it''s 'quoted'",
    "double quotes": '"quoted"',
    "newlines": "a\nb\r\n\tc",
    "spaces around": "  a  ",
    "space": " ",
    "slash": "a/b/../c",
    "colon": "user:42",
    "sql": "'; DROP TABLE sessions; --",
    "parameter": ":session_id %(session_id)s $1 $sessions",
    "composed": "é",
    "decomposed": "e\u0301",
    "upper case": "ABC",
    "lower case": "abc",
    "right to left": "\u202eabc\u05d0",
    "control": "\x01\x7f",
    "not a character": "\uffff\U0010ffff",
}


def same(a: Any, b: Any) -> bool:
    """Equal in types, key order and the sign of zero too, which == does not tell."""
    return repr(a) == repr(b)


def test_every_json_value_comes_back_exactly(store: Store, subtests: pytest.Subtests) -> None:
    shallow = {name: value for name, value in EXACT.items() if "large" not in name and "depth" not in name}
    store.sessions.create("s", metadata=shallow)
    assert same(store.sessions.get("s").metadata, shallow)
    for name, value in EXACT.items():
        with subtests.test(name):
            [appended] = store.history.append("s", [NewEntry(value, metadata={"k": shallow.get(name)})])
            read = store.history.get("s", appended.seq)
            assert same(appended.content, value)
            assert same(read.content, value)
            assert read == appended
            assert same(read.metadata, {"k": shallow.get(name)})
            assert same(store.state.set("s", name, value).value, value)
            assert same(store.state.get("s", name), value)


def test_every_id_is_kept_verbatim(store: Store, subtests: pytest.Subtests) -> None:
    for name, key in IDS.items():
        with subtests.test(name):
            store.sessions.create(key, user_id=key, agent_name=key, title=key)
            [entry] = store.history.append(key, [NewEntry(name, entry_id=key, role=key, tool_name=key, agent_name=key)])
            store.state.set(key, key, name)
    assert store.sessions.count() == len(IDS)
    for name, key in IDS.items():
        with subtests.test(name):
            session = store.sessions.get(key)
            assert (session.session_id, session.user_id, session.agent_name, session.title) == (key,) * 4
            [entry] = store.history.read(key)
            assert (entry.entry_id, entry.role, entry.tool_name, entry.agent_name) == (key,) * 4
            assert (entry.session_id, entry.content) == (key, name)
            assert store.state.get_all(key) == {key: name}
            assert [found.session_id for found in store.sessions.page(user_id=key).sessions] == [key]
            assert store.sessions.fork(key).parent_session_id == key
            assert store.sessions.delete(key) is True


def wide(seed: int, length: int = 512) -> str:
    """Characters of four bytes each, which do not compress."""
    return "".join(chr(0x10000 + (seed + 7919 * n * n) % 60_000) for n in range(length))


def test_ids_that_are_together_too_long_are_refused_by_name(store: Store, content: Content) -> None:
    """PostgreSQL's indexes take rows of 2,700 bytes, which only such ids together exceed; SQLite's take any."""
    session_id = wide(1)
    for length in (300, 512):
        store.sessions.create(wide(length, length), user_id=wide(2), agent_name=wide(3))
    store.state.set(wide(300, 300), wide(4, 300), 1)
    store.history.append(wide(300, 300), [NewEntry(1, entry_id=wide(5, 300))])
    store.history.append(session_id, [NewEntry(1)], create=True)
    before = content.snapshot()
    calls: dict[str, Callable[[], Any]] = {
        "key": lambda: store.state.set(session_id, wide(2), 1),
        "values": lambda: store.state.set_many(session_id, {"k": 1, wide(2): 1}),
        "entry_id": lambda: store.history.append(session_id, [NewEntry(2), NewEntry(2, entry_id=wide(2))]),
        "name": lambda: store.lists.append(session_id, wide(2), [1]),
        "conversation.state": lambda: store.sessions.save(ConversationState(session_id, state={wide(2): 1})),
        "conversation.entries": lambda: store.sessions.save(
            ConversationState(session_id, entries=[NewEntry(2, entry_id=wide(2))])
        ),
    }
    for argument, call in (*calls.items(), ("key", lambda: store.state.increment(session_id, wide(2)))):
        with pytest.raises(InvalidValueError, match=r"and the ids beside it take [\d,]+ bytes") as caught:
            call()
        assert caught.value.argument == argument
    assert content.snapshot() == before


def test_a_fork_gets_no_id_that_is_too_long_for_what_comes_with_it(
    store: Store, content: Content, clock: MovableClock
) -> None:
    fork_id = wide(9)
    for session_id in ("key", "list", "entry", "expired"):
        store.sessions.create(session_id)
        store.history.append(session_id, [NewEntry(1), NewEntry(2, entry_id=wide(2) if session_id == "entry" else "e")])
    store.state.set("key", wide(2), 1)
    store.state.set("expired", wide(2), 1, ttl=timedelta(seconds=1))
    clock.advance(seconds=1)
    store.lists.append("list", wide(2), [1])
    store.sessions.fork("entry", "fork")
    store.history.append("fork", [NewEntry(3)])
    before = content.snapshot()
    for source_id in ("key", "list", "entry", "fork"):
        with store.transaction() as tx, pytest.raises(InvalidValueError, match=r"and the ids beside it") as caught:
            tx.sessions.fork(source_id, fork_id)
        assert caught.value.argument == "new_session_id"
        with pytest.raises(InvalidValueError):
            store.sessions.fork(source_id, fork_id)
    assert content.snapshot() == before
    for number, (source_id, some) in enumerate(
        {
            "key": {"with_state": False},
            "list": {"with_state": False},
            "entry": {"at_seq": 1},
            "fork": {"at_seq": 1},
            "expired": {},
        }.items()
    ):
        made = store.sessions.fork(source_id, wide(10 + number), **some)
        assert made.next_seq == (2 if "at_seq" in some else 3)
    for source_id in ("key", "list", "entry", "fork"):
        made = store.sessions.fork(source_id)
        store.sessions.delete(source_id)
        assert [entry.seq for entry in store.history.read(made.session_id)] == list(range(1, made.next_seq))


def test_a_namespace_leaves_room_for_the_ids_beside_it(connect: Callable[..., Store], database_url: str) -> None:
    with pytest.raises(InvalidValueError, match=r"namespace.*takes 604 bytes") as caught:
        connect(database_url, namespace=wide(1, 151))
    assert caught.value.argument == "namespace"
    for namespace in (wide(1, 150), "n" * 512, "🦜" * 512):
        store = connect(database_url, namespace=namespace)
        store.sessions.create(wide(2), user_id=wide(3), agent_name=wide(4))
        store.history.append(wide(2), [NewEntry(1)])
        store.cache.set(wide(5), 1, tags=[wide(6)], agent_name=wide(7), content_hash=wide(8))
        assert store.history.count(wide(2)) == store.cache.get(wide(5)) == 1


def test_texts_are_kept_verbatim(store: Store) -> None:
    text = "".join(chr(n) for n in range(1, 0xD800, 7)) + "🦜\r\n\t' \" \\ %s :x $1"
    store.sessions.create("s", title=text, instructions=text * 3, project_root=text, cwd=text)
    found = store.sessions.get("s")
    assert (found.title, found.instructions, found.project_root, found.cwd) == (text, text * 3, text, text)


def test_subclasses_of_json_types_are_stored_as_what_they_are(store: Store) -> None:
    class Color(StrEnum):
        RED = "red"

    store.sessions.create("s")
    store.state.set("s", "k", OrderedDict(b=Color.RED, a=[Color.RED]))
    assert same(store.state.get("s", "k"), {"b": "red", "a": ["red"]})


def test_a_mapping_of_any_kind_is_a_message(store: Store) -> None:
    store.sessions.create("s")
    [entry] = store.history.append("s", [MappingProxyType({"role": "user", "content": "Hi"})])
    assert same(entry.content, {"role": "user", "content": "Hi"})


def test_what_is_stored_is_not_what_was_handed_in(store: Store) -> None:
    message = {"role": "user", "content": ["a"]}
    store.sessions.create("s")
    [entry] = store.history.append("s", [message])
    entry_state = store.state.set("s", "k", message)
    message["content"].append("b")  # type: ignore[attr-defined]
    assert entry.content == store.history.get("s", 1).content == {"role": "user", "content": ["a"]}
    assert store.state.get("s", "k") == {"role": "user", "content": ["a"]}
    assert entry_state.key == "k"


def test_every_fact_of_an_entry_comes_back(store: Store) -> None:
    store.sessions.create("s")
    facts: dict[str, Any] = {
        "role": "assistant",
        "agent_name": "coder",
        "usage": Usage(
            input_tokens=10**9, output_tokens=0, cache_read_input_tokens=3, cache_write_input_tokens=4,
            reasoning_output_tokens=5,
        ),
        "provider_name": "anthropic",
        "request_model": "claude",
        "response_model": "claude-1",
        "cost_usd": Decimal("0.0123456789"),
        "tool_name": "search",
        "tool_call_id": "call_1",
        "duration": timedelta(milliseconds=1234, microseconds=567),
        "finish_reason": "stop",
        "error_type": "timeout",
        "metadata": {"b": 1, "a": 2},
        "entry_id": "one",
        "created_at": datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    }  # fmt: skip
    [appended] = store.history.append("s", [NewEntry("ü", **facts)])
    assert {name: getattr(appended, name) for name in facts} == facts
    assert appended.content_bytes == len('"ü"'.encode())
    assert store.history.read("s") == [appended]
    assert list(appended.metadata) == ["b", "a"]


def test_an_entry_without_facts_has_none(store: Store) -> None:
    store.sessions.create("s")
    [entry] = store.history.append("s", [NewEntry(None)])
    assert (entry.role, entry.agent_name, entry.cost_usd, entry.duration, entry.usage) == (None,) * 4 + (Usage(),)
    assert (entry.metadata, entry.created_at, entry.content_bytes) == ({}, NOON, 4)
    assert store.history.read("s") == [entry]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (0.1, "0.1"),
        (0, "0"),
        (Decimal("0.0000000001"), "0.0000000001"),
        (1e-11, "0"),
        (Decimal("1234567.8901234567"), "1234567.8901234567"),
        (9_999, "9999"),
    ],
)
def test_a_cost_is_kept_to_ten_decimals(store: Store, given: Any, kept: str) -> None:
    store.sessions.create("s")
    [appended] = store.history.append("s", [NewEntry(1, cost_usd=given)])
    [read] = store.history.read("s")
    assert appended.cost_usd == read.cost_usd == Decimal(kept)


def test_a_time_of_another_zone_is_the_same_moment_in_utc(store: Store) -> None:
    store.sessions.create("s")
    kolkata = timezone(timedelta(hours=5, minutes=30))
    [entry] = store.history.append("s", [NewEntry(1, created_at=datetime(2026, 1, 1, 3, tzinfo=kolkata))])
    assert entry.created_at == datetime(2025, 12, 31, 21, 30, tzinfo=UTC)
    assert store.history.read("s")[0].created_at.tzinfo is UTC


@pytest.mark.parametrize("moment", [datetime.min, datetime.max, datetime(1, 1, 2), datetime(9999, 12, 30)])
def test_a_time_at_the_end_of_the_calendar_is_kept_or_refused_and_poisons_nothing(
    store: Store, moment: datetime
) -> None:
    store.sessions.create("s")
    try:
        [entry] = store.history.append("s", [NewEntry(1, created_at=moment.replace(tzinfo=UTC))])
    except InvalidValueError:
        assert store.history.read("s") == []
    else:
        assert store.history.read("s") == [entry]
        assert entry.created_at == moment.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "duration", [timedelta(0), timedelta(microseconds=1), timedelta(days=400), timedelta(days=36_500)]
)
def test_a_duration_is_kept(store: Store, duration: timedelta) -> None:
    store.sessions.create("s")
    [appended] = store.history.append("s", [NewEntry(1, duration=duration)])
    assert appended.duration == duration
    assert store.history.read("s") == [appended]


def test_two_stores_on_one_database_see_the_same(open_store: Callable[..., Store], store: Store) -> None:
    store.sessions.create("s")
    [entry] = store.history.append("s", [NewEntry({"a": 1.5})])
    assert open_store().history.read("s") == [entry]
