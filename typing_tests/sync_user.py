"""A user's file: what mypy and pyright infer for a `StateStore`. It is checked, and never run."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, assert_type

from sqlalchemy import Engine

from statestore import (
    MISSING,
    NEVER,
    AgentUsage,
    AppState,
    Cache,
    CacheEntry,
    CacheItem,
    CacheStats,
    ConversationState,
    DayUsage,
    Entry,
    EntryLike,
    EntryPlace,
    ErasureReceipt,
    HeldLease,
    History,
    Lease,
    Lineage,
    Lists,
    ModelPrice,
    NamespaceInfo,
    NamespaceReceipt,
    NewEntry,
    NewSession,
    Prices,
    Session,
    SessionContext,
    SessionPage,
    Sessions,
    SharedPrices,
    State,
    StateEntry,
    StateStore,
    Summary,
    Transaction,
    Turn,
    Usage,
    UsageReports,
    UsageTotals,
    UserState,
    Window,
    prices_of,
    spread,
)

HOUR = timedelta(hours=1)


def opening(engine: Engine) -> None:
    with StateStore.open(
        "sqlite:///agents.db", create=True, timeout=5, cache_default_ttl=NEVER, json="lenient"
    ) as store:
        assert_type(store, StateStore)
        assert_type(store.namespace, str)
    assert_type(StateStore(engine), StateStore)
    with engine.begin() as connection:
        assert_type(StateStore.join(connection, table_prefix="app_"), Transaction)


def groups(store: StateStore) -> None:
    assert_type(store.sessions, Sessions)
    assert_type(store.history, History)
    assert_type(store.state, State)
    assert_type(store.cache, Cache)
    assert_type(store.usage, UsageReports)
    assert_type(store.prices, Prices)


def conversations(store: StateStore) -> None:
    fresh: list[NewEntry] = [NewEntry("x")]
    messages = [{"role": "user", "content": "x"}]
    conversation = ConversationState("chat", entries=fresh, state={"key": 1})
    conversation.entries.append(messages[0])
    conversation.entries = [*store.history.read("chat"), *fresh]
    store.sessions.save(ConversationState("other", entries=messages), create=True)


def sessions(store: StateStore) -> None:
    session = store.sessions.open("user-42", user_id="ada", metadata={"plan": "free"}, ttl=HOUR)
    assert_type(session, Session)
    assert_type(session.title, str | None)
    assert_type(session.entry_count, int)
    assert_type(store.sessions.find("user-42"), Session | None)
    page = store.sessions.page(user_id="ada", limit=10)
    assert_type(page, SessionPage)
    assert_type(page.sessions, list[Session])
    assert_type(store.sessions.fork("user-42", at_seq=3), Session)
    assert_type(store.sessions.lineage("user-42"), Lineage)
    assert_type(store.sessions.create(belongs_to="user-42", ttl=NEVER, created_at=session.created_at), Session)
    assert_type(store.sessions.page(belongs_to="user-42", metadata={"plan": "free"}, with_total=True).total, int | None)
    assert_type(store.sessions.load_many(["user-42"]), dict[str, Session])
    assert_type(store.sessions.delete_many(["user-42"]), int)
    assert_type(store.sessions.delete("user-42", expected_revision=3, user_id="ada"), bool)
    assert_type(store.sessions.delete_user("ada"), ErasureReceipt)


class Response:
    """As an SDK has them."""

    usage: object = None

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        return {"role": "assistant", "content": "Hi"}


def history(store: StateStore) -> None:
    used = Usage(input_tokens=812, output_tokens=46)
    reply = NewEntry({"role": "assistant", "content": "Done."}, usage=used, cost_usd=Decimal("0.0011"), duration=HOUR)
    assert_type(store.history.append("chat", [reply]), list[Entry])
    assert_type(store.history.append("chat", [{"role": "user", "content": "Hi"}, reply], create=True), list[Entry])
    mixed: list[EntryLike] = [{"role": "user", "content": "Hi"}, reply]
    assert_type(store.history.append("chat", mixed, after_seq=2), list[Entry])
    assert_type(store.history.append("chat", [Response(), reply]), list[Entry])
    assert_type(Usage.of(Response().usage), Usage)
    messages: list[dict[str, object]] = [{"role": "user", "content": "Hi"}]
    assert_type(store.history.append("chat", messages), list[Entry])

    created = NewSession(user_id="ada", ttl=HOUR)
    assert_type(store.history.append("chat", [reply], create=created, on_conflict="keep"), list[Entry])
    assert_type(store.history.messages("chat", last=20), list[Any])
    assert_type(store.history.find("chat", "one"), Entry | None)
    assert_type(store.history.locate("one"), EntryPlace | None)
    assert_type(store.history.locate_many(["one"]), dict[str, list[EntryPlace]])
    assert_type(store.history.last_many(["chat"], 2), dict[str, list[Entry]])
    assert_type(store.history.replace("chat", 1, {"role": "user", "content": "…"}, expected_content="secret"), Entry)
    assert_type(store.history.annotate("chat", 1, {"rating": 5}), Entry)
    assert_type(store.history.set_usage("chat", 1, used, response_model="small-1"), Entry)

    entries = store.history.read("chat", last=20, role="user", turn=3)
    assert_type(entries, list[Entry])
    assert_type(entries[0].content, Any)
    assert_type(entries[0].usage.input_tokens, int | None)
    assert_type(entries[0].cost_usd, Decimal | None)
    assert_type(entries[0].created_at, datetime)
    assert_type(store.history.window("chat", max_tokens=8000), Window)
    assert_type(store.history.count("chat"), int)
    assert_type(store.history.summaries("chat"), list[Summary])
    for entry in store.history.iterate("chat", batch=100):
        assert_type(entry, Entry)
    for entry in store.history.follow("chat", timeout=HOUR):
        assert_type(entry, Entry)


def state(store: StateStore) -> None:
    assert_type(store.state.set("chat", "seats", 8, ttl=HOUR), StateEntry)
    assert_type(store.state.get("chat", "seats", default=8), Any)
    assert_type(store.state.entry("chat", "seats"), StateEntry)
    assert_type(store.state.get_all("chat"), dict[str, Any])
    assert_type(store.state.increment("chat", "bookings"), int | float)
    assert_type(store.state.set("chat", "seats", 8, only_if="missing"), StateEntry | None)
    assert_type(store.state.keys("chat", prefix="draft:", limit=10), list[str])
    assert_type(store.state.entries("chat"), list[StateEntry])
    assert_type(store.state.get_all_many(["chat"]), dict[str, dict[str, Any]])
    assert_type(store.user_state, UserState)
    assert_type(store.user_state.get("ada", "language"), Any)
    assert_type(store.app_state, AppState)
    assert_type(store.app_state.increment("travel", "bookings"), int | float)
    assert_type(store.lists, Lists)
    assert_type(store.lists.append("chat", "notes", ["seat 12A"]), int)
    assert_type(store.lists.read("chat", "notes", last=2), list[Any])


def namespaces(store: StateStore) -> None:
    assert_type(store.namespaces(), list[NamespaceInfo])
    assert_type(store.drop_namespace("tenant-1"), NamespaceReceipt)
    assert_type(store.usage.record(record_id="run-1", usage=Usage(input_tokens=3), session_id="chat"), None)


def forecast() -> dict[str, str]:
    return {"sky": "clear"}


def cache(store: StateStore) -> None:
    key = store.cache.make_key("weather", {"place": "Konstanz"})
    assert_type(key, str)
    assert_type(store.cache.get_or_compute(key, forecast, tags=["weather"], ttl=HOUR), dict[str, str])
    assert_type(store.cache.get_or_compute(key, lambda: 1.5, ttl=NEVER), float)
    assert_type(store.cache.get(key, default=MISSING), Any)
    assert_type(store.cache.entry(key), CacheEntry | None)
    assert_type(store.cache.invalidate_tag("weather"), int)
    assert_type(store.cache.stats(), CacheStats)
    assert_type(store.ping(writes=True), None)
    assert_type(store.cache.set(key, 1, ttl=60, only_if="missing"), bool)
    assert_type(store.cache.set(key, 1, ttl=datetime.now(), expected_version=0), bool)
    store.cache.set_many({"a": 1, "b": CacheItem(2, ttl=0.5, tags=["t"])})
    assert_type(store.cache.increment("calls", ttl=HOUR), int | float)
    assert_type(store.cache.increment("calls", only_if="present"), int | float | None)
    assert_type(store.cache.touch(key, NEVER), bool)
    assert_type(store.cache.exists(key), bool)
    assert_type(store.cache.keys(prefix="a"), list[str])
    assert_type(store.cache.invalidate_many([key]), int)
    assert_type(store.cache.pop(key, default=None), Any)
    left = store.cache.ttl(key)
    if left is not None and left is not NEVER:
        assert_type(left, timedelta)

    @store.cache.memoize(ttl=60, tags=["weather"])
    def forecast_of(place: str, *, days: int = 1) -> list[str]:
        return [place] * days

    assert_type(forecast_of("Konstanz", days=2), list[str])
    assert_type(forecast_of.key("Konstanz"), str)
    assert_type(forecast_of.invalidate("Konstanz", days=2), int)


def book(tx: Transaction) -> int:
    return tx.history.count("chat")


def transactions(store: StateStore) -> None:
    with store.transaction() as tx:
        assert_type(tx, Transaction)
        assert_type(tx.history.append("chat", [{"role": "user", "content": "Book it."}]), list[Entry])
    with store.transaction(read_only=True) as tx:
        assert_type(tx.state.get("chat", "seats"), Any)
    assert_type(store.run_transaction(book), int)


def turns(store: StateStore) -> None:
    with store.sessions.acquire("chat", owner="worker-1", ttl=HOUR, wait=HOUR) as lease:
        assert_type(lease, HeldLease)
        assert_type(lease.lost, bool)
        with store.turn("chat", max_tokens=8000, lease=lease) as turn:
            assert_type(turn, Turn)
            assert_type(turn.window, Window)
            assert_type(turn.session, Session | None)
            assert_type([entry.content for entry in turn.window], list[Any])
            turn.append({"role": "assistant", "content": "It is booked."})
            turn.append([NewEntry("It is booked.")])
            turn.state["booked"] = True
        assert_type(turn.stored, list[Entry])
    held = store.sessions.acquire("chat", owner="worker-1", ttl=HOUR)
    assert_type(held, HeldLease)
    assert_type(store.sessions.renew(held), Lease)
    assert_type(store.sessions.release(held), bool)


def reports(store: StateStore) -> None:
    assert_type(store.usage.totals(since=date(2026, 1, 1), tz="Europe/Berlin"), UsageTotals)
    for day in store.usage.by_day(user_id="ada"):
        assert_type(day, DayUsage)
        assert_type(day.day, date)
        assert_type(day.cost_usd, Decimal | None)
    assert_type(store.usage.by_agent(daily=True, limit=3), list[AgentUsage])


def prices(store: StateStore, engine: Engine) -> None:
    assert_type(store.prices.all(), list[ModelPrice])
    assert_type(store.prices.find("small-1"), ModelPrice | None)
    assert_type(prices_of(engine), SharedPrices)
    assert_type(spread("acme", "ada", shards=4), str)


def contexts(store: StateStore) -> None:
    context = SessionContext(store, "user-42", project_root="/srv/app")
    context.on_switch(print)
    assert_type(context.regenerate(as_child=True), str)
    assert_type(context.switch("user-42"), Session)


class Worker:
    """What exported types are for: a part of an application that names what it works with."""

    def __init__(self, history: History, reports: UsageReports) -> None:
        self.history = history
        self.reports = reports

    def answer(self, turn: Turn, lease: HeldLease, said: Mapping[str, Any]) -> int:
        turn.append(said)
        return len(self.history.append(lease.session_id, [said], lease=lease))
