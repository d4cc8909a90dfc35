"""What each operation costs: statements, round trips and transactions, counted on the wire, exactly.

A change here is a change of what callers pay. docs/performance.md quotes this table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from statestore import CacheItem, NewEntry, NewSession, Usage
from tests.contract.test_close import OPERATIONS
from tests.support.wire import Traffic

Store = Any

HOUR = timedelta(hours=1)

# psycopg prepares a statement, in a round trip of its own, when a connection runs it for the sixth time.
WARM_UP = 8


@dataclass(frozen=True)
class Cost:
    statements: int
    round_trips: int
    transactions: int


ONE = Cost(1, 1, 1)
THREE = Cost(3, 3, 3)


def transaction(statements: int) -> Cost:
    """BEGIN and COMMIT are two of the statements."""
    return Cost(statements, statements, 1)


def words(n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"word {index}"} for index in range(n)]


def nothing(store: Store, s: str) -> None:
    pass


def session(store: Store, s: str) -> None:
    store.sessions.create(s, user_id=f"user of {s}")


def two(store: Store, s: str) -> None:
    session(store, s)
    session(store, f"other {s}")


def history(store: Store, s: str) -> None:
    session(store, s)
    store.history.append(s, words(30))


def annotated(store: Store, s: str) -> None:
    history(store, s)
    store.history.annotate(s, 7, {"a": 1})


def priced(store: Store, s: str) -> None:
    history(store, s)
    store.prices.set("m", input_price=1, output_price=1)
    store.history.append(s, [NewEntry("x", usage=Usage(input_tokens=1, output_tokens=1), response_model="m")])


def state(store: Store, s: str) -> None:
    session(store, s)
    store.state.set_many(s, {"a": 1, "b": 2, "c": 3})


def part(store: Store, s: str) -> None:
    session(store, f"whole of {s}")
    store.sessions.create(s, belongs_to=f"whole of {s}")


def busy_part(store: Store, s: str) -> None:
    """A part with a TTL to keep, of which hardly any time has gone."""
    store.sessions.create(f"whole of {s}", ttl=HOUR)
    store.sessions.create(s, belongs_to=f"whole of {s}")


def listed(store: Store, s: str) -> None:
    session(store, s)
    store.lists.append(s, "a", range(100))


def fork(store: Store, s: str) -> None:
    history(store, f"source of {s}")
    store.sessions.fork(f"source of {s}", s)


def deep_fork(store: Store, s: str) -> None:
    source = f"{s} 0"
    history(store, source)
    for depth in range(1, 5):
        target = s if depth == 4 else f"{s} {depth}"
        store.sessions.fork(source, target, at_seq=27 + depth)
        store.history.append(target, words(2))
        source = target


def fork_with_state(store: Store, s: str) -> None:
    state(store, s)
    store.history.append(s, words(30))


def forked(store: Store, s: str) -> None:
    history(store, s)
    store.sessions.fork(s, f"fork of {s}", at_seq=20)


def stored_with_ids(store: Store, s: str) -> None:
    session(store, s)
    store.history.append(s, [NewEntry("a", entry_id="a")])


def hundred_sessions(store: Store, s: str) -> None:
    if not store.sessions.count():
        with store.transaction() as tx:
            for n in range(30):
                tx.sessions.create(f"{s} {n}")


def append_in_transaction(store: Store, s: str, *entries: NewEntry, after_seq: int) -> None:
    with store.transaction() as tx:
        tx.history.append(s, entries, after_seq=after_seq)


CALL = {"id": "call", "type": "function", "function": {"name": "add", "arguments": "{}"}}
CALLED = {"role": "assistant", "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "tool_call_id": "call", "content": "3"}

Act = Callable[[Store, str], Any]

# Operation, what stands before it, the call, the cost on PostgreSQL, statements and transactions on SQLite.
COSTS: dict[str, tuple[Act, Act, Cost, Cost]] = {}


def case(name: str, prepare: Act, act: Act, postgresql: Cost, sqlite: tuple[int, int]) -> None:
    statements, transactions = sqlite
    assert name not in COSTS
    COSTS[name] = (prepare, act, postgresql, Cost(statements, 0, transactions))


case("sessions.create", nothing, lambda store, s: store.sessions.create(s), ONE, (3, 1))
case("sessions.open, new", nothing, lambda store, s: store.sessions.open(s), Cost(2, 2, 2), (4, 1))
case("sessions.open, there already", session, lambda store, s: store.sessions.open(s), ONE, (3, 1))
case("sessions.get", session, lambda store, s: store.sessions.get(s), ONE, (1, 1))
case("sessions.find", session, lambda store, s: store.sessions.find(s), ONE, (1, 1))
case("sessions.find, missing", nothing, lambda store, s: store.sessions.find(s), ONE, (1, 1))
case("sessions.exists", session, lambda store, s: store.sessions.exists(s), ONE, (1, 1))
case("sessions.count", session, lambda store, s: store.sessions.count(user_id="ada"), ONE, (1, 1))
case("sessions.page", hundred_sessions, lambda store, s: store.sessions.page(limit=10), ONE, (1, 1))
case(
    "sessions.create, as a part",
    session,
    lambda store, s: store.sessions.create(f"part of {s}", belongs_to=s),
    ONE,
    (5, 1),
)
case("history.append, to a part", busy_part, lambda store, s: store.history.append(s, words(1)), ONE, (5, 1))
case("sessions.get, of a part", part, lambda store, s: store.sessions.get(s), ONE, (1, 1))
case(
    "sessions.page, filtered, with the total",
    hundred_sessions,
    lambda store, s: store.sessions.page(limit=10, metadata={"a": 1}, title_contains="x", with_total=True),
    ONE,
    (1, 1),
)
case(
    "sessions.load_many, of 21",
    hundred_sessions,
    lambda store, s: store.sessions.load_many([f"session 0 {n}" for n in range(21)]),
    ONE,
    (1, 1),
)
case("sessions.update", session, lambda store, s: store.sessions.update(s, title="t"), ONE, (3, 1))
case(
    "sessions.update, expected_revision",
    session,
    lambda store, s: store.sessions.update(s, title="t", expected_revision=1),
    ONE,
    (3, 1),
)
case(
    "sessions.merge_metadata",
    session,
    lambda store, s: store.sessions.merge_metadata(s, {"a": 1}),
    transaction(4),
    (4, 1),
)
case("sessions.touch", session, lambda store, s: store.sessions.touch(s), ONE, (3, 1))
case("sessions.fork", history, lambda store, s: store.sessions.fork(s, f"fork of {s}"), transaction(11), (11, 1))
case(
    "sessions.fork, within the history",
    history,
    lambda store, s: store.sessions.fork(s, f"f {s}", at_seq=9),
    transaction(12),
    (12, 1),
)
case(
    "sessions.fork, with state",
    fork_with_state,
    lambda store, s: store.sessions.fork(s, f"fork of {s}"),
    transaction(11),
    (11, 1),
)
case(
    "sessions.fork, of a fork of depth 4",
    deep_fork,
    lambda store, s: store.sessions.fork(s, f"fork of {s}"),
    Cost(16, 12, 1),
    (16, 1),
)
case("sessions.lineage", fork, lambda store, s: store.sessions.lineage(s), Cost(3, 3, 3), (3, 3))
case("sessions.delete", history, lambda store, s: store.sessions.delete(s), ONE, (11, 1))
case(
    "sessions.delete, of this user's",
    history,
    lambda store, s: store.sessions.delete(s, user_id=f"user of {s}"),
    ONE,
    (11, 1),
)
case(
    "sessions.delete_many, of 2",
    two,
    lambda store, s: store.sessions.delete_many([s, f"other {s}"]),
    ONE,
    (9, 1),
)
case(
    "sessions.delete_many, of a fork and its source",
    forked,
    lambda store, s: store.sessions.delete_many([s, f"fork of {s}"]),
    Cost(16, 16, 4),
    (23, 1),
)
case("sessions.delete, with a fork", forked, lambda store, s: store.sessions.delete(s), Cost(14, 14, 2), (13, 1))
case(
    "sessions.delete_user, of one session",
    history,
    lambda store, s: store.sessions.delete_user(f"user of {s}"),
    transaction(21),
    (23, 1),
)


def recorded(store: Store, s: str) -> None:
    record(store, s)


def record(store: Store, s: str, **more: Any) -> None:
    store.usage.record(record_id=s, usage=Usage(input_tokens=1, output_tokens=1), session_id=s, **more)


case("usage.record", session, lambda store, s: record(store, s, model="gpt-4o"), ONE, (4, 1))
case("usage.record, again", recorded, record, ONE, (4, 1))
case("history.append, 1 entry", session, lambda store, s: store.history.append(s, words(1)), ONE, (4, 1))
case("history.append, 100 entries", session, lambda store, s: store.history.append(s, words(100)), ONE, (103, 1))
case(
    "history.append, a call and its result",
    session,
    lambda store, s: store.history.append(s, [CALLED, ANSWERED]),
    ONE,
    (5, 1),
)
case(
    "history.append, the result of a stored call",
    lambda store, s: (session(store, s), store.history.append(s, [CALLED])),
    lambda store, s: store.history.append(s, [ANSWERED]),
    Cost(2, 2, 2),
    (5, 1),
)
case("history.append, to a fork", fork, lambda store, s: store.history.append(s, words(1)), ONE, (4, 1))
case(
    "history.append, with create=True",
    nothing,
    lambda store, s: store.history.append(s, words(1), create=True),
    Cost(6, 6, 2),
    (7, 1),
)
case(
    "history.append, with create and entry_id",
    nothing,
    lambda store, s: store.history.append(s, [NewEntry("a", entry_id="a")], create=NewSession(user_id="ada")),
    Cost(6, 6, 2),
    (7, 1),
)
case(
    "history.append, with create and entry_id, a part",
    session,
    lambda store, s: store.history.append(
        f"part of {s}", [NewEntry("a", entry_id="a")], create=NewSession(belongs_to=s)
    ),
    Cost(7, 7, 2),
    (10, 1),
)
case(
    "history.append, create=True, there already",
    session,
    lambda store, s: store.history.append(s, words(1), create=True),
    ONE,
    (4, 1),
)
case(
    "history.append, with entry_id",
    session,
    lambda store, s: store.history.append(s, [NewEntry("a", entry_id="a")]),
    ONE,
    (4, 1),
)
case(
    "history.append, with entry_id, again",
    stored_with_ids,
    lambda store, s: store.history.append(s, [NewEntry("a", entry_id="a")]),
    Cost(6, 6, 2),
    (6, 1),
)
case(
    "history.append, after_seq at the end",
    history,
    lambda store, s: store.history.append(s, words(1), after_seq=30),
    ONE,
    (4, 1),
)
case(
    "history.append, after_seq, again",
    history,
    lambda store, s: store.history.append(s, [{"role": "user", "content": "word 29"}], after_seq=29),
    Cost(6, 6, 2),
    (6, 1),
)
case(
    "history.append, after_seq and entry_id in a transaction",
    history,
    lambda store, s: append_in_transaction(store, s, NewEntry("a", entry_id="a"), after_seq=30),
    Cost(3, 3, 1),
    (4, 1),
)
case("history.read, last 20", history, lambda store, s: store.history.read(s, last=20), ONE, (1, 1))
case("history.read, all", history, lambda store, s: store.history.read(s), ONE, (1, 1))
case("history.read, last 20 of a fork", fork, lambda store, s: store.history.read(s, last=20), ONE, (1, 1))
case(
    "history.read, last 20 of a fork of depth 4",
    deep_fork,
    lambda store, s: store.history.read(s, last=20),
    ONE,
    (1, 1),
)
case("history.get", history, lambda store, s: store.history.get(s, 7), ONE, (1, 1))
case("history.messages, last 20", history, lambda store, s: store.history.messages(s, last=20), ONE, (1, 1))
case("history.messages, of a fork", fork, lambda store, s: store.history.messages(s), ONE, (1, 1))
case("history.read, by role", history, lambda store, s: store.history.read(s, role="user", last=5), ONE, (1, 1))
case("history.find", history, lambda store, s: store.history.find(s, "a"), ONE, (1, 1))
case("history.last_many", fork, lambda store, s: store.history.last_many([s, f"source of {s}"], 5), ONE, (1, 1))
case("history.replace", history, lambda store, s: store.history.replace(s, 7, words(1)[0]), ONE, (7, 1))
case("history.annotate", history, lambda store, s: store.history.annotate(s, 7, {"a": 1}), ONE, (7, 1))
case("history.set_usage", history, lambda store, s: store.history.set_usage(s, 7, Usage(input_tokens=1)), ONE, (8, 1))
case("history.annotate, again", annotated, lambda store, s: store.history.annotate(s, 7, {"b": 1}), THREE, (7, 1))
case(
    "history.set_usage, with known prices",
    priced,
    lambda store, s: store.history.set_usage(s, 7, Usage(input_tokens=1, output_tokens=1), response_model="m"),
    Cost(2, 2, 2),
    (9, 1),
)
case(
    "history.replace, with a fork",
    forked,
    lambda store, s: store.history.replace(s, 7, words(1)[0]),
    Cost(18, 18, 2),
    (17, 1),
)
case("history.count", history, lambda store, s: store.history.count(s), ONE, (1, 1))
case("history.pop_last", history, lambda store, s: store.history.pop_last(s), Cost(2, 2, 2), (12, 1))
case("history.pop_last, with a fork", forked, lambda store, s: store.history.pop_last(s, 20), Cost(16, 16, 3), (14, 1))
case("history.trim", history, lambda store, s: store.history.trim(s, keep_last=10), ONE, (11, 1))
case("history.clear", history, lambda store, s: store.history.clear(s), ONE, (11, 1))
case("state.set", session, lambda store, s: store.state.set(s, "a", 1), ONE, (4, 1))
case(
    "state.set, expected_version",
    state,
    lambda store, s: store.state.set(s, "a", 2, expected_version=1),
    ONE,
    (4, 1),
)
case("state.set, only_if", state, lambda store, s: store.state.set(s, "a", 2, only_if="missing"), ONE, (4, 1))
case("state.set, create, there already", session, lambda store, s: store.state.set(s, "a", 1, create=True), ONE, (4, 1))
case("state.set, create", nothing, lambda store, s: store.state.set(s, "a", 1, create=True), Cost(7, 7, 3), (6, 1))
case("state.get_many", state, lambda store, s: store.state.get_many(s, ["a", "b"]), ONE, (1, 1))
case("state.get_all_many", state, lambda store, s: store.state.get_all_many([s, "x", "y"]), ONE, (1, 1))
case("state.keys", state, lambda store, s: store.state.keys(s, prefix="a"), ONE, (1, 1))
case("state.entries", state, lambda store, s: store.state.entries(s, limit=2), ONE, (1, 1))
case("state.count", state, lambda store, s: store.state.count(s), ONE, (1, 1))
case("state.exists", state, lambda store, s: store.state.exists(s, "a"), ONE, (1, 1))
case("state.delete_many", state, lambda store, s: store.state.delete_many(s, ["a", "b"]), ONE, (4, 1))
case("lists.append", session, lambda store, s: store.lists.append(s, "a", [1, 2]), ONE, (6, 1))
case("lists.append, 2,000 items", session, lambda store, s: store.lists.append(s, "a", range(2000)), ONE, (2004, 1))
case("lists.read", listed, lambda store, s: store.lists.read(s, "a", last=10), ONE, (1, 1))
case("lists.count", listed, lambda store, s: store.lists.count(s, "a"), ONE, (1, 1))
case("lists.names", listed, lambda store, s: store.lists.names(s), ONE, (1, 1))
case("lists.delete", listed, lambda store, s: store.lists.delete(s, "a"), ONE, (4, 1))


def shared(store: Store, s: str) -> None:
    for group in (store.user_state, store.app_state):
        group.set_many(s, {"a": 1, "b": 2, "c": 3})


SHARED: dict[str, tuple[Callable[[Any, str], Any], Cost, tuple[int, int]]] = {
    "set": (lambda state, s: state.set(s, "a", 1), ONE, (3, 1)),
    "set_many": (lambda state, s: state.set_many(s, {"a": 1, "d": 2}), ONE, (3, 1)),
    "get": (lambda state, s: state.get(s, "a"), ONE, (1, 1)),
    "get_many": (lambda state, s: state.get_many(s, ["a", "b"]), ONE, (1, 1)),
    "get_all": (lambda state, s: state.get_all(s), ONE, (1, 1)),
    "entry": (lambda state, s: state.entry(s, "a"), ONE, (1, 1)),
    "entries": (lambda state, s: state.entries(s), ONE, (1, 1)),
    "keys": (lambda state, s: state.keys(s), ONE, (1, 1)),
    "count": (lambda state, s: state.count(s), ONE, (1, 1)),
    "exists": (lambda state, s: state.exists(s, "a"), ONE, (1, 1)),
    "increment": (lambda state, s: state.increment(s, "a"), Cost(2, 2, 2), (4, 1)),
    "delete": (lambda state, s: state.delete(s, "a"), ONE, (3, 1)),
    "delete_many": (lambda state, s: state.delete_many(s, ["a", "b"]), ONE, (3, 1)),
    "clear": (lambda state, s: state.clear(s), ONE, (3, 1)),
}
for _group in ("user_state", "app_state"):
    for _name, (_act, _postgresql, _sqlite) in SHARED.items():
        case(
            f"{_group}.{_name}",
            shared,
            lambda store, s, group=_group, act=_act: act(getattr(store, group), s),  # type: ignore[misc]
            _postgresql,
            _sqlite,
        )

case("state.set_many, 3 keys", session, lambda store, s: store.state.set_many(s, {"a": 1, "b": 2, "c": 3}), ONE, (4, 1))
case(
    "state.set_many, 250 keys",
    session,
    lambda store, s: store.state.set_many(s, dict.fromkeys(map(str, range(250)), 1)),
    ONE,
    (8, 1),
)
case("state.get", state, lambda store, s: store.state.get(s, "a"), ONE, (1, 1))
case("state.entry", state, lambda store, s: store.state.entry(s, "a"), ONE, (1, 1))
case("state.get_all", state, lambda store, s: store.state.get_all(s), ONE, (1, 1))
case("state.scopes_many", state, lambda store, s: store.state.scopes_many([s, "other"]), ONE, (1, 1))
case("state.increment", state, lambda store, s: store.state.increment(s, "a"), Cost(2, 2, 2), (5, 1))
case("state.delete", state, lambda store, s: store.state.delete(s, "a"), ONE, (4, 1))
case("state.clear", state, lambda store, s: store.state.clear(s), ONE, (4, 1))


def leased(store: Store, s: str) -> None:
    session(store, s)
    LEASES[s] = store.sessions.acquire(s, owner="me", ttl=HOUR)


LEASES: dict[str, Any] = {}


def cached(store: Store, s: str) -> None:
    store.cache.set(s, 1, tags=[f"tag of {s}"], agent_name=f"agent of {s}", content_hash=f"hash of {s}")


def summarized(store: Store, s: str) -> None:
    history(store, s)
    store.history.add_summary(s, "in short", start_seq=1, end_seq=10)


def loaded(store: Store, s: str) -> None:
    history(store, s)
    LOADED[s] = store.sessions.load(s)
    LOADED[s].entries.append({"role": "user", "content": "more"})


LOADED: dict[str, Any] = {}


def priced(store: Store, s: str) -> None:
    store.prices.set(s, input_price=1.0, output_price=2.0)


def versioned(store: Store, s: str) -> None:
    cached(store, s)
    ENTRIES[s] = store.cache.entry(s)


def counter(store: Store, s: str) -> None:
    store.cache.set(s, 1)


def restored(store: Store, s: str) -> None:
    cached(store, s)
    ENTRIES[s] = store.cache.entry(s)
    store.cache.invalidate(s)


ENTRIES: dict[str, Any] = {}


case("sessions.acquire", session, lambda store, s: store.sessions.acquire(s, owner="me", ttl=HOUR), ONE, (3, 1))
case("sessions.renew", leased, lambda store, s: store.sessions.renew(LEASES[s]), ONE, (3, 1))
case("sessions.release", leased, lambda store, s: store.sessions.release(LEASES[s]), ONE, (3, 1))
case("sessions.set_status", session, lambda store, s: store.sessions.set_status(s, "busy"), ONE, (3, 1))
case("sessions.terminate", session, lambda store, s: store.sessions.terminate(s), ONE, (3, 1))
case(
    "sessions.repair_abandoned",
    session,
    lambda store, s: store.sessions.repair_abandoned(older_than=HOUR),
    transaction(3),
    (3, 1),
)
case("sessions.stats", history, lambda store, s: store.sessions.stats(s), ONE, (1, 1))
case("sessions.load", history, lambda store, s: store.sessions.load(s), transaction(6), (6, 1))
case("sessions.save, one new entry", loaded, lambda store, s: store.sessions.save(LOADED[s]), transaction(13), (12, 1))
case(
    "history.append, with a lease",
    leased,
    lambda store, s: store.history.append(s, words(1), lease=LEASES[s]),
    ONE,
    (4, 1),
)
case("history.locate", history, lambda store, s: store.history.locate("a"), ONE, (1, 1))
case(
    "history.locate_many, of an agent's sessions",
    history,
    lambda store, s: store.history.locate_many(["a", "b"], agent_names=["x"]),
    ONE,
    (1, 1),
)
case("history.window", history, lambda store, s: store.history.window(s, max_entries=20), ONE, (1, 1))
case(
    "history.add_summary",
    history,
    lambda store, s: store.history.add_summary(s, "in short", start_seq=1, end_seq=10),
    ONE,
    (4, 1),
)
case("history.summaries", summarized, lambda store, s: store.history.summaries(s), ONE, (1, 1))
case("cache.get, a hit", cached, lambda store, s: store.cache.get(s), ONE, (1, 1))
case("cache.get, a miss", nothing, lambda store, s: store.cache.get(s), ONE, (1, 1))
case("cache.get_many", cached, lambda store, s: store.cache.get_many([s, "other"]), ONE, (1, 1))
case("cache.entry", cached, lambda store, s: store.cache.entry(s), Cost(2, 2, 2), (4, 2))
case("cache.entries", cached, lambda store, s: store.cache.entries(), Cost(2, 2, 2), (4, 2))
case("cache.set, new", nothing, lambda store, s: store.cache.set(s, 1), ONE, (4, 1))
case("cache.set, with tags, again", cached, lambda store, s: store.cache.set(s, 2, tags=["a", "b"]), ONE, (6, 1))
case(
    "cache.set_many, 3 keys",
    nothing,
    lambda store, s: store.cache.set_many({f"{s} {n}": n for n in range(3)}),
    ONE,
    (5, 1),
)
case("cache.add", nothing, lambda store, s: store.cache.add(s, 1), ONE, (4, 1))
case("cache.set, only if present", cached, lambda store, s: store.cache.set(s, 2, only_if="present"), ONE, (5, 1))
case(
    "cache.set, expected_version",
    versioned,
    lambda store, s: store.cache.set(s, 2, expected_version=ENTRIES[s].version),
    ONE,
    (5, 1),
)
case(
    "cache.set_many, 3 items with lifetimes and tags",
    nothing,
    lambda store, s: store.cache.set_many({f"{s} {n}": CacheItem(n, ttl=n + 1, tags=["a"]) for n in range(3)}),
    ONE,
    (6, 1),
)
case("cache.increment, new", nothing, lambda store, s: store.cache.increment(s), Cost(2, 2, 2), (5, 1))
case("cache.increment", counter, lambda store, s: store.cache.increment(s, ttl=HOUR), ONE, (4, 1))
case(
    "cache.increment, if it is there",
    counter,
    lambda store, s: store.cache.increment(s, only_if="present"),
    ONE,
    (4, 1),
)
case(
    "cache.increment, if it is there, missing",
    nothing,
    lambda store, s: store.cache.increment(s, only_if="present"),
    ONE,
    (3, 1),
)
case("cache.increment, with tags", cached, lambda store, s: store.cache.increment(s), ONE, (5, 1))
case("cache.increment, a fraction", counter, lambda store, s: store.cache.increment(s, 0.5), transaction(5), (4, 1))
case("cache.touch", cached, lambda store, s: store.cache.touch(s, HOUR), ONE, (3, 1))
case("cache.exists", cached, lambda store, s: store.cache.exists(s), ONE, (1, 1))
case("cache.ttl", cached, lambda store, s: store.cache.ttl(s), ONE, (1, 1))
case("cache.keys", cached, lambda store, s: store.cache.keys(prefix=s), ONE, (1, 1))
case("cache.pop", cached, lambda store, s: store.cache.pop(s), ONE, (3, 1))
case("cache.invalidate_many", cached, lambda store, s: store.cache.invalidate_many([s, "other"]), ONE, (4, 1))
case("cache.invalidate_prefix", cached, lambda store, s: store.cache.invalidate_prefix(s), ONE, (4, 1))
case("cache.restore", restored, lambda store, s: store.cache.restore(ENTRIES[s]), transaction(7), (7, 1))
case("cache.invalidate", cached, lambda store, s: store.cache.invalidate(s), ONE, (4, 1))
case("cache.invalidate_tag", cached, lambda store, s: store.cache.invalidate_tag(f"tag of {s}"), ONE, (4, 1))
case(
    "cache.invalidate_tags", cached, lambda store, s: store.cache.invalidate_tags([f"tag of {s}", "other"]), ONE, (4, 1)
)
case("cache.invalidate_agent", cached, lambda store, s: store.cache.invalidate_agent(f"agent of {s}"), ONE, (4, 1))
case(
    "cache.invalidate_content_hash",
    cached,
    lambda store, s: store.cache.invalidate_content_hash(f"hash of {s}"),
    ONE,
    (4, 1),
)
case("cache.clear", cached, lambda store, s: store.cache.clear(), ONE, (4, 1))
case("cache.evict", cached, lambda store, s: store.cache.evict(), transaction(6), (5, 1))
case("cache.stats", cached, lambda store, s: store.cache.stats(), Cost(3, 3, 3), (5, 3))
case(
    "prices.set",
    nothing,
    lambda store, s: store.prices.set(s, input_price=1.0, output_price=2.0),
    transaction(5),
    (5, 1),
)
case("prices.remove", priced, lambda store, s: store.prices.remove(s), transaction(4), (4, 1))
case("prices.all", priced, lambda store, s: store.prices.all(), ONE, (1, 1))
case("prices.find", priced, lambda store, s: store.prices.find(s), ONE, (1, 1))
case("usage.lineage", history, lambda store, s: store.usage.lineage(), ONE, (1, 1))
case("usage.totals", history, lambda store, s: store.usage.totals(), ONE, (1, 1))
case("usage.by_day", history, lambda store, s: store.usage.by_day(), ONE, (1, 1))
case("usage.by_hour", history, lambda store, s: store.usage.by_hour(), ONE, (1, 1))
case("usage.by_session", history, lambda store, s: store.usage.by_session(), ONE, (1, 1))
case("usage.by_user", history, lambda store, s: store.usage.by_user(), ONE, (1, 1))
case("usage.by_agent", history, lambda store, s: store.usage.by_agent(), ONE, (1, 1))
case("usage.by_model", history, lambda store, s: store.usage.by_model(), ONE, (1, 1))
case("usage.by_tool", history, lambda store, s: store.usage.by_tool(), ONE, (1, 1))
case("usage.cache_by_day", cached, lambda store, s: store.usage.cache_by_day(), ONE, (1, 1))
case("usage.storage", history, lambda store, s: store.usage.storage(), ONE, (1, 1))
case("usage.expiry_backlog", history, lambda store, s: store.usage.expiry_backlog(), Cost(2, 2, 2), (2, 2))
case("sweep, nothing due", history, lambda store, s: store.sweep(), Cost(30, 30, 8), (30, 8))
case("stats", history, lambda store, s: store.stats(), ONE, (1, 1))
case("ping", nothing, lambda store, s: store.ping(), ONE, (1, 1))
case("ping, writes", nothing, lambda store, s: store.ping(writes=True), ONE, (1, 1))


def measure(store: Store, traffic: Traffic, prepare: Act, act: Act) -> Cost:
    for n in range(WARM_UP):
        prepare(store, f"session {n}")
        traffic.clear()
        act(store, f"session {n}")
    return Cost(len(traffic.statements), traffic.round_trips, traffic.transactions)


@pytest.mark.parametrize("name", COSTS)
def test_an_operation_costs_what_is_written_here(
    connect: Callable[..., Store], traffic: Traffic, database_url: str, name: str
) -> None:
    prepare, act, postgresql, sqlite = COSTS[name]
    cost = measure(connect(traffic.url), traffic, prepare, act)
    assert cost == (sqlite if database_url.startswith("sqlite") else postgresql), traffic.statements


def test_a_fork_that_another_store_made_costs_one_statement_more_once(
    connect: Callable[..., Store], traffic: Traffic, database_url: str
) -> None:
    deep_fork(connect(database_url), "s")
    store = connect(traffic.url)
    history(store, "other")
    for _ in range(WARM_UP):
        store.history.read("other")
    costs = []
    for _ in range(2):
        traffic.clear()
        store.history.read("s", last=20)
        costs.append(len(traffic.statements))
    assert costs == [2, 1]


def test_to_replace_what_a_full_cache_has_costs_no_more_than_to_set(
    connect: Callable[..., Store], traffic: Traffic, database_url: str
) -> None:
    store = connect(traffic.url, cache_max_entries=4)
    store.cache.set_many({"a": 0, "b": 0, "c": 0, "d": 0}, tags=["t"])
    for n in range(WARM_UP):
        traffic.clear()
        store.cache.set("b", n)
    on_sqlite = database_url.startswith("sqlite")
    assert (len(traffic.statements), traffic.transactions) == ((4, 1) if on_sqlite else (1, 1)), traffic.statements
    store.cache.set("c", 1, tags=["u"])
    assert store.cache.stats().entries == 4
    assert store.cache.invalidate_tag("t") == 2
    assert store.cache.invalidate_tag("u") == 1
    assert [entry.key for entry in store.cache.entries()] == ["b"]
    assert store.cache.get("b") == WARM_UP - 1


def test_a_session_that_is_made_anew_is_no_fork_any_more(store: Store) -> None:
    fork(store, "s")
    assert len(store.history.read("s")) == 30
    store.sessions.delete("s")
    store.sessions.create("s")
    assert store.history.read("s") == []
    store.history.append("s", words(250))
    assert [entry.seq for entry in store.history.read("s")] == [*range(1, 251)]


# Steps of what has a public name of its own.
INTERNAL = {"prices.apply"}


def test_every_operation_is_counted() -> None:
    counted = {name.split(",")[0] for name in COSTS}
    assert {f"{group}.{name}" for group, name in OPERATIONS} - counted == INTERNAL
