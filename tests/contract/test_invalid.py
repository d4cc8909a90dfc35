"""What can never be stored is refused before any SQL, with one verdict for both databases, and nothing is written."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import orjson
import pytest
from sqlalchemy import create_engine

from statestore import (
    ConflictError,
    EntryNotFoundError,
    InvalidValueError,
    NewEntry,
    SessionExistsError,
    SessionNotFoundError,
    StateKeyNotFoundError,
    StateStoreError,
    Usage,
)
from tests.support.clock import MovableClock
from tests.support.content import Content

Store = Any
Call = Callable[[Store], Any]

CANARY = "cAnArY-7f3a"


class Odd:
    def __repr__(self) -> str:
        return CANARY


def nested(depth: int) -> Any:
    return nested_around(CANARY, depth)


def nested_around(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def nested_objects(depth: int) -> Any:
    value: Any = CANARY
    for _ in range(depth):
        value = {"k": value}
    return value


def circular() -> list[Any]:
    value: list[Any] = [CANARY]
    value.append(value)
    return value


# Not at import: a million lists and objects, which every process that collects tests would keep.
@cache
def bad_json() -> dict[str, Any]:
    return {
        "NaN": [CANARY, float("nan")],
        "infinity": {CANARY: float("inf")},
        "negative infinity": [CANARY, float("-inf")],
        "4,301 digits": [CANARY, 10**4300],
        "4,301 digits, negative": {CANARY: -(10**4300)},
        "surrogate pair as two characters": CANARY + "\ud83d\ude00",
        "surrogate pair as two characters in a key": {CANARY + "\ud83d\ude00": 1},
        "tuple beside a lone surrogate": [CANARY + "\ud800", (1,)],
        "integer key beside a large integer": {CANARY: 2**64, 1: 1},
        "depth 201": nested(201),
        "depth 201, objects": nested_objects(201),
        "depth 201, the last one empty": nested_around([], 200),
        "half a million lists": [[] for _ in range(500_000)],
        "half a million objects": {"k": [{} for _ in range(500_000)]},
        "depth 300": nested(300),
        "depth 100,000": nested(100_000),
        "contains itself": circular(),
        "17 MiB": CANARY + "x" * (17 << 20),
        "a key that is an int": {1: CANARY},
        "a key that is None": {None: CANARY},
        "a key that is a bool": {"deep": [{True: CANARY}]},
        "a key that is a tuple": {("a",): CANARY},
        "tuple": (CANARY,),
        "tuple inside": [(CANARY,)],
        "set": {CANARY},
        "bytes": CANARY.encode(),
        "datetime": [CANARY, datetime(2026, 1, 1, tzinfo=UTC)],
        "Decimal": [CANARY, Decimal(1)],
        "an object": [CANARY, Odd()],
        "a dataclass": [CANARY, Usage(input_tokens=1)],
        "a class": Odd,
    }


BAD_KEYS: dict[str, Any] = {
    "empty": "",
    "513 characters": "x" * 513,
    "NUL": "a\0b",
    "lone surrogate": "a\ud800",
    "None": None,
    "int": 1,
    "bytes": b"s",
    "list": ["s"],
    "tuple": ("s",),
}

BAD_COUNTS: dict[str, Any] = {
    "negative": -1,
    "bool": True,
    "float": 1.0,
    "text": "1",
    "2**63": 2**63,
    "huge": 10**5000,
}

BAD_TTLS: dict[str, Any] = {
    "zero": timedelta(0),
    "negative": timedelta(seconds=-1),
    "int": 60,
    "float": 1.5,
    "bool": True,
    "text": "1h",
    "longer than the calendar": timedelta.max,
}

BAD_TEXTS: dict[str, Any] = {
    "NUL": f"{CANARY}\0",
    "lone surrogate": f"{CANARY}\udc00",
    "int": 1,
    "17 MiB": "x" * (17 << 20),
}


def bad_metadata() -> dict[str, Any]:
    return {
        "list": [CANARY],
        "text": CANARY,
        "pairs": [("a", CANARY)],
        **{name: {"deep": value} for name, value in bad_json().items()},
    }


BAD_COSTS: dict[str, Any] = {
    "negative": -0.01,
    "NaN": float("nan"),
    "signalling NaN": Decimal("sNaN"),
    "infinity": Decimal("inf"),
    "ten billion": Decimal(10) ** 10,
    "huge": 10**5000,
    "text": "0.1",
    "bool": True,
}

BAD_TIMES: dict[str, Any] = {
    "naive": datetime(2026, 1, 1),
    "text": "2026-01-01T00:00:00Z",
    "int": 0,
    "date": datetime(2026, 1, 1).date(),
}


def entry(**facts: Any) -> Call:
    return lambda store: store.history.append("s", [NewEntry("first"), NewEntry(CANARY, **facts)])


def cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode()


def invalid() -> dict[str, Call]:
    """Everything that is refused with `InvalidValueError`."""
    cases: dict[str, Call] = {}

    def add(name: str, values: dict[str, Any], call: Callable[[Store, Any], Any]) -> None:
        for problem, value in values.items():
            cases[f"{name}: {problem}"] = lambda store, value=value: call(store, value)

    optional_keys = {name: value for name, value in BAD_KEYS.items() if name != "None"}
    add("content", bad_json(), lambda store, v: store.history.append("s", [NewEntry("first"), NewEntry(v)]))
    add("message", bad_json(), lambda store, v: store.history.append("s", [{"role": "user", "content": v}]))
    add("content of a new session", bad_json(), lambda store, v: store.history.append("n", [NewEntry(v)], create=True))
    add("value", bad_json(), lambda store, v: store.state.set("s", "k", v))
    add("values", bad_json(), lambda store, v: store.state.set_many("s", {"fine": 1, "k": v}))
    add("metadata", bad_metadata(), lambda store, v: store.sessions.create("n", metadata=v))
    add("metadata of an update", bad_metadata(), lambda store, v: store.sessions.update("s", metadata=v))
    add("metadata of a merge", bad_metadata() | {"None": None}, lambda store, v: store.sessions.merge_metadata("s", v))
    add("metadata of a fork", bad_metadata(), lambda store, v: store.sessions.fork("s", "n", metadata=v))
    add("metadata of an entry", bad_metadata(), lambda store, v: entry(metadata=v)(store))

    for name in ("open", "get", "find", "exists", "touch", "lineage", "delete", "update"):
        add(f"sessions.{name}", BAD_KEYS, lambda store, v, name=name: getattr(store.sessions, name)(v))
    for name in ("read", "count", "pop_last", "clear"):
        add(f"history.{name}", BAD_KEYS, lambda store, v, name=name: getattr(store.history, name)(v))
    for name in ("get_all", "clear"):
        add(f"state.{name}", BAD_KEYS, lambda store, v, name=name: getattr(store.state, name)(v))
    for name in ("get", "entry", "delete", "increment"):
        add(f"state.{name}", BAD_KEYS, lambda store, v, name=name: getattr(store.state, name)("s", v))
        add(f"state.{name} of", BAD_KEYS, lambda store, v, name=name: getattr(store.state, name)(v, "k"))
    add("sessions.create", optional_keys, lambda store, v: store.sessions.create(v))
    add("sessions.fork of", BAD_KEYS, lambda store, v: store.sessions.fork(v, "n"))
    add("sessions.fork to", optional_keys, lambda store, v: store.sessions.fork("s", v))
    add("sessions.merge_metadata", BAD_KEYS, lambda store, v: store.sessions.merge_metadata(v, {}))
    add("sessions.delete_user", BAD_KEYS, lambda store, v: store.sessions.delete_user(v))
    add("history.append", BAD_KEYS, lambda store, v: store.history.append(v, [NewEntry(1)], create=True))
    add("history.append of nothing", BAD_KEYS, lambda store, v: store.history.append(v, []))
    add("history.trim", BAD_KEYS, lambda store, v: store.history.trim(v, keep_last=0))
    add("history.get", BAD_KEYS, lambda store, v: store.history.get(v, 1))
    add("state.set", BAD_KEYS, lambda store, v: store.state.set("s", v, 1))
    add("state.set of", BAD_KEYS, lambda store, v: store.state.set(v, "k", 1))
    hashable = {name: value for name, value in BAD_KEYS.items() if name != "list"}
    add("state.set_many", hashable, lambda store, v: store.state.set_many("s", {"fine": 1, v: 1}))

    for name in ("user_id", "agent_name"):
        add(f"create {name}", optional_keys, lambda store, v, name=name: store.sessions.create("n", **{name: v}))
        add(f"update {name}", optional_keys, lambda store, v, name=name: store.sessions.update("s", **{name: v}))
        add(f"page {name}", optional_keys, lambda store, v, name=name: store.sessions.page(**{name: v}))
        add(f"count {name}", optional_keys, lambda store, v, name=name: store.sessions.count(**{name: v}))
    for name in ("title", "instructions", "project_root", "cwd"):
        add(f"create {name}", BAD_TEXTS, lambda store, v, name=name: store.sessions.create("n", **{name: v}))
        add(f"update {name}", BAD_TEXTS, lambda store, v, name=name: store.sessions.update("s", **{name: v}))
    add("create ttl", BAD_TTLS, lambda store, v: store.sessions.create("n", ttl=v))
    add("open ttl", BAD_TTLS, lambda store, v: store.sessions.open("n", ttl=v))
    add("update ttl", BAD_TTLS, lambda store, v: store.sessions.update("s", ttl=v))
    add("set ttl", BAD_TTLS, lambda store, v: store.state.set("s", "k", 1, ttl=v))
    add("set_many ttl", BAD_TTLS, lambda store, v: store.state.set_many("s", {"k": 1}, ttl=v))
    add("increment ttl", BAD_TTLS, lambda store, v: store.state.increment("s", "k", ttl=v))
    for name in ("last", "after", "before", "limit"):
        add(f"read {name}", BAD_COUNTS, lambda store, v, name=name: store.history.read("s", **{name: v}))
    add("pop_last n", BAD_COUNTS, lambda store, v: store.history.pop_last("s", v))
    add("trim keep_last", BAD_COUNTS, lambda store, v: store.history.trim("s", keep_last=v))
    add("get seq", BAD_COUNTS, lambda store, v: store.history.get("s", v))
    add("append after_seq", BAD_COUNTS, lambda store, v: store.history.append("s", [NewEntry(1)], after_seq=v))
    add("fork at_seq", BAD_COUNTS, lambda store, v: store.sessions.fork("s", "n", at_seq=v))
    add("set expected_version", BAD_COUNTS, lambda store, v: store.state.set("s", "k", 1, expected_version=v))
    add("update expected_revision", BAD_COUNTS, lambda store, v: store.sessions.update("s", expected_revision=v))
    add("page limit", BAD_COUNTS | {"zero": 0, "10,001": 10_001}, lambda store, v: store.sessions.page(limit=v))
    statuses = {"unknown": "sleeping", "int": 1, "list": [], "upper case": "READY"}
    add("create status", statuses | {"None": None}, lambda store, v: store.sessions.create("n", status=v))
    add("page status", statuses, lambda store, v: store.sessions.page(status=v))
    add(
        "page order_by",
        {"unknown": "title", "list": [], "None": None},
        lambda store, v: store.sessions.page(order_by=v),
    )
    at = "2026-01-01T00:00:00+00:00"
    cursors = {
        "text": "garbage", "empty": "", "int": 1, "bytes": b"x", "not ASCII": "é", "no JSON": "eHg=",
        "no list": base64.urlsafe_b64encode(b"{}").decode(), "too short": cursor("last_activity_at", True),
        "of the other order": cursor("created_at", True, at, "s"),
        "of the other direction": cursor("last_activity_at", False, at, "s"),
        "naive time": cursor("last_activity_at", True, "2026-01-01T00:00:00", "s"),
        "no time": cursor("last_activity_at", True, "yesterday", "s"),
        "an id that is none": cursor("last_activity_at", True, at, 5),
        "an id with a NUL": cursor("last_activity_at", True, at, "\0"),
        "an empty id": cursor("last_activity_at", True, at, ""),
    }  # fmt: skip
    add("page cursor", cursors, lambda store, v: store.sessions.page(cursor=v))

    for name in ("role", "agent_name", "provider_name", "request_model", "response_model", "tool_name", "tool_call_id",
                 "finish_reason", "error_type", "entry_id"):  # fmt: skip
        add(f"entry {name}", optional_keys, lambda store, v, name=name: entry(**{name: v})(store))
    add("entry cost_usd", BAD_COSTS, lambda store, v: entry(cost_usd=v)(store))
    add("entry created_at", BAD_TIMES, lambda store, v: entry(created_at=v)(store))
    durations = {"negative": timedelta(-1), "float": 1.5, "longer than any": timedelta.max}
    add("entry duration", durations, lambda store, v: entry(duration=v)(store))
    add("entry usage", {"dict": {"tokens": 1}, "int": 5, "text": "5"}, lambda store, v: entry(usage=v)(store))
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens",
                 "reasoning_output_tokens"):  # fmt: skip
        add(f"entry {name}", BAD_COUNTS, lambda store, v, name=name: entry(usage=Usage(**{name: v}))(store))
    no_entries = {
        "a message": {"role": "user", "content": "Hi"}, "text": "Hi", "bytes": b"Hi", "None": None, "int": 5,
        "an entry": NewEntry(1), "a text in a list": ["Hi"], "None in a list": [None], "a pair": [("user", "Hi")],
    }  # fmt: skip
    add("entries", no_entries, lambda store, v: store.history.append("s", v))
    amounts = {"text": "1", "bool": True, "None": None, "NaN": float("nan"), "infinity": float("inf"),
               "Decimal": Decimal(1), "huge": 10**4300}  # fmt: skip
    add("increment of none", amounts, lambda store, v: store.state.increment("s", "new", v))
    add("increment of a float", amounts, lambda store, v: store.state.increment("s", "float", v))
    cases["increment of a text"] = lambda store: store.state.increment("s", "text")
    cases["increment of a bool"] = lambda store: store.state.increment("s", "bool")
    for problem, value in {"None": None, "list": ["k"], "text": "k"}.items():
        cases[f"set_many values: {problem}"] = lambda store, value=value: store.state.set_many("s", value)
    cases["append with last and limit"] = lambda store: store.history.read("s", last=1, limit=1)
    cases["fork behind the end"] = lambda store: store.sessions.fork("s", "n", at_seq=4)
    cases["derive_id of nothing"] = lambda store: store.sessions.derive_id()
    cases["derive_id of an empty part"] = lambda store: store.sessions.derive_id("a", "")
    return cases


OTHERS: dict[str, tuple[type[StateStoreError], Call]] = {
    "get of no session": (SessionNotFoundError, lambda store: store.sessions.get("missing")),
    "touch of no session": (SessionNotFoundError, lambda store: store.sessions.touch("missing")),
    "update of no session": (SessionNotFoundError, lambda store: store.sessions.update("missing", title="t")),
    "update of no session, with a revision": (
        SessionNotFoundError,
        lambda store: store.sessions.update("missing", title="t", expected_revision=1),
    ),
    "merge into no session": (SessionNotFoundError, lambda store: store.sessions.merge_metadata("missing", {"a": 1})),
    "fork of no session": (SessionNotFoundError, lambda store: store.sessions.fork("missing", "n")),
    "lineage of no session": (SessionNotFoundError, lambda store: store.sessions.lineage("missing")),
    "append to no session": (SessionNotFoundError, lambda store: store.history.append("missing", [NewEntry(CANARY)])),
    "read of no session": (SessionNotFoundError, lambda store: store.history.read("missing")),
    "entry of no session": (SessionNotFoundError, lambda store: store.history.get("missing", 1)),
    "count of no session": (SessionNotFoundError, lambda store: store.history.count("missing")),
    "pop of no session": (SessionNotFoundError, lambda store: store.history.pop_last("missing")),
    "trim of no session": (SessionNotFoundError, lambda store: store.history.trim("missing", keep_last=1)),
    "clear of no session": (SessionNotFoundError, lambda store: store.history.clear("missing")),
    "state of no session": (SessionNotFoundError, lambda store: store.state.get("missing", "k", None)),
    "set of no session": (SessionNotFoundError, lambda store: store.state.set("missing", "k", CANARY)),
    "set_many of no session": (SessionNotFoundError, lambda store: store.state.set_many("missing", {"k": CANARY})),
    "set_many of nothing of no session": (SessionNotFoundError, lambda store: store.state.set_many("missing", {})),
    "increment of no session": (SessionNotFoundError, lambda store: store.state.increment("missing", "k")),
    "state delete of no session": (SessionNotFoundError, lambda store: store.state.delete("missing", "k")),
    "state clear of no session": (SessionNotFoundError, lambda store: store.state.clear("missing")),
    "get of no key": (StateKeyNotFoundError, lambda store: store.state.get("s", "missing")),
    "entry of no key": (StateKeyNotFoundError, lambda store: store.state.entry("s", "missing")),
    "get of no entry": (EntryNotFoundError, lambda store: store.history.get("s", 4)),
    "create of a living session": (SessionExistsError, lambda store: store.sessions.create("s", title=CANARY)),
    "fork onto a living session": (SessionExistsError, lambda store: store.sessions.fork("s", "t")),
    "fork onto itself": (SessionExistsError, lambda store: store.sessions.fork("s", "s")),
    "append behind a gap": (
        ConflictError,
        lambda store: store.history.append("s", [NewEntry(CANARY)], after_seq=2**63 - 1),
    ),
    "append of another content": (
        ConflictError,
        lambda store: store.history.append("s", [NewEntry("x"), NewEntry(CANARY, entry_id="known")]),
    ),
    "append of another content at a position": (
        ConflictError,
        lambda store: store.history.append("s", [NewEntry(CANARY)], after_seq=0),
    ),
    "set of another version": (
        ConflictError,
        lambda store: store.state.set("s", "text", CANARY, expected_version=2),
    ),
    "set of a new key that is there": (
        ConflictError,
        lambda store: store.state.set("s", "text", CANARY, expected_version=0),
    ),
    "set of a version of no key": (
        ConflictError,
        lambda store: store.state.set("s", "missing", CANARY, expected_version=1),
    ),
    "update of another revision": (
        ConflictError,
        lambda store: store.sessions.update("s", title=CANARY, expected_revision=2**63 - 1),
    ),
}  # fmt: skip


@pytest.fixture
def full(store: Store, clock: MovableClock, content: Content) -> Store:
    """A store with something in it to be spoilt, and later, so that any write would show."""
    store.sessions.create("s", metadata={"secret": CANARY}, ttl=timedelta(days=1))
    store.sessions.create("t")
    store.history.append("s", [NewEntry(f"{CANARY} a", entry_id="known"), NewEntry("b"), NewEntry("c")])
    store.state.set_many("s", {"text": CANARY, "bool": True, "float": 1.5, "big": 2**64 - 2})
    clock.advance(seconds=1)
    return store


def check(store: Store, expected: type[StateStoreError], call: Call) -> None:
    with pytest.raises(expected) as caught:
        call(store)
    assert type(caught.value) is expected
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value.__dict__)
    for link in (caught.value.__cause__, caught.value.__context__ if not caught.value.__suppress_context__ else None):
        assert link is None or CANARY not in str(link)


def test_what_cannot_be_stored_is_refused(full: Store, content: Content, subtests: pytest.Subtests) -> None:
    before, sizes = content.snapshot(), content.sizes()
    for name, call in invalid().items():
        with subtests.test(name):
            check(full, InvalidValueError, call)
            assert content.sizes() == sizes
    assert content.snapshot() == before


def test_what_is_not_as_assumed_is_refused(full: Store, content: Content, subtests: pytest.Subtests) -> None:
    before, sizes = content.snapshot(), content.sizes()
    for name, (expected, call) in OTHERS.items():
        with subtests.test(name):
            check(full, expected, call)
            assert content.sizes() == sizes
    assert content.snapshot() == before


def test_an_invalid_value_is_named(store: Store) -> None:
    with pytest.raises(InvalidValueError) as caught:
        store.history.append("s", [NewEntry(1), NewEntry(float("nan"))])
    assert caught.value.argument == "entries[1].content"
    assert str(caught.value).startswith("entries[1].content: ")


def test_the_limit_of_a_value_can_be_set(open_store: Callable[..., Store]) -> None:
    store = open_store(max_value_bytes=100)
    store.sessions.create("s")
    store.state.set("s", "k", "x" * 98)
    for call in (
        lambda: store.state.set("s", "k", "x" * 99),
        lambda: store.state.set("s", "k", "ü" * 50),
        lambda: store.history.append("s", [NewEntry("x" * 99)]),
        lambda: store.sessions.update("s", metadata={"k": "x" * 99}),
        lambda: store.sessions.update("s", title="x" * 101),
    ):
        with pytest.raises(InvalidValueError):
            call()


def test_merged_metadata_may_not_outgrow_the_limit(open_store: Callable[..., Store]) -> None:
    store = open_store(max_value_bytes=100)
    store.sessions.create("s", metadata={"a": "x" * 60})
    with pytest.raises(InvalidValueError):
        store.sessions.merge_metadata("s", {"b": "x" * 60})
    assert store.sessions.get("s").metadata == {"a": "x" * 60}


@pytest.mark.parametrize("clock_returns", [datetime(2026, 1, 1), 5, None, "2026-01-01T00:00:00Z"])
def test_a_clock_that_tells_no_time_is_refused(
    open_store: Callable[..., Store], content: Content, clock_returns: Any
) -> None:
    with pytest.raises(InvalidValueError):
        open_store(clock=lambda: clock_returns).sessions.create("s")
    assert content.sizes()["sessions"] == 0


@pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
@pytest.mark.parametrize(
    "arguments",
    [
        {"namespace": ""},
        {"namespace": "a\0"},
        {"namespace": "x" * 513},
        {"namespace": None},
        {"clock": 5},
        {"durability": "none"},
        {"schema": ""},
        {"max_value_bytes": 0},
        {"pool_size": 0},
        {"pool_size": 10_001},
        {"pool_size": True},
        {"pool_timeout": timedelta(0)},
        {"pool_timeout": None},
        {"lock_timeout": 5},
        {"statement_timeout": timedelta(-1)},
    ],
    ids=str,
)
def test_a_store_is_not_opened_with_arguments_that_mean_nothing(
    open_store: Callable[..., Store], arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValueError) as caught:
        open_store(**arguments)
    assert caught.value.argument in arguments


@pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://h/d",
        "postgresql+asyncpg://h/d",
        "sqlite+pysqlcipher://",
        5,
        "://",
        create_engine("sqlite://"),
    ],
    ids=str,
)
def test_a_store_is_not_opened_on_an_url_that_means_nothing(connect: Callable[..., Store], url: Any) -> None:
    with pytest.raises(InvalidValueError) as caught:
        connect(url)
    assert caught.value.argument == "url"
