# pyright: basic
"""A user's mistakes: mypy and pyright report each line with a comment, under the rules in it, and no other line."""

from datetime import timedelta

from statestore import (
    AsyncSessionContext,
    AsyncStateStore,
    HeldLease,
    NewEntry,
    SessionContext,
    StateStore,
    Turn,
    Usage,
)

HOUR = timedelta(hours=1)
HI = {"role": "user", "content": "Hi"}


def forecast(place: str) -> str:
    return place


def arguments(store: StateStore) -> None:
    store.history.append("chat", HI)  # wrong: arg-type reportArgumentType
    store.history.append("chat", "Hi")  # wrong: arg-type reportArgumentType
    store.history.append(42, [HI])  # wrong: arg-type reportArgumentType
    store.history.append("chat", [HI], creat=True)  # wrong: call-arg reportCallIssue
    store.history.append("chat", [NewEntry(HI, role=3)])  # wrong: arg-type reportArgumentType
    store.history.read("chat", 20)  # wrong: call-arg reportCallIssue
    store.state.set("chat", "seats", 8, ttl=60)  # wrong: call-overload reportArgumentType
    store.cache.get_or_compute("key", 42)  # wrong: arg-type reportArgumentType
    store.cache.set("key", 1, only_if="absent")  # wrong: arg-type reportArgumentType
    store.cache.memoize()(forecast)(place=5)  # wrong: arg-type reportArgumentType
    store.sessions.set_status("chat", "sleeping")  # wrong: arg-type reportArgumentType
    store.sessions.acquire("chat", owner="worker-1", ttl=30)  # wrong: arg-type reportArgumentType
    store.usage.by_day(since="2026-01-01")  # wrong: arg-type reportArgumentType
    StateStore.open("sqlite://", durability="none")  # wrong: arg-type reportArgumentType


def results(store: StateStore) -> None:
    title: str = store.sessions.get("chat").title  # wrong: assignment reportAssignmentType
    print(store.sessions.find("chat").title, title)  # wrong: union-attr reportOptionalMemberAccess
    store.history.read("chat")[0].seq = 2  # wrong: misc reportAttributeAccessIssue
    store.history.fork("chat")  # wrong: attr-defined reportAttributeAccessIssue
    usage = Usage(input_tokens="812")  # wrong: arg-type reportArgumentType
    print(usage)
    with store.turn("chat") as turn:
        turn.append("Hi")  # wrong: arg-type reportArgumentType
        print(turn.windows)  # wrong: attr-defined reportAttributeAccessIssue
    with store.transaction() as tx:
        tx.sweep()  # wrong: attr-defined reportAttributeAccessIssue


async def worlds(store: StateStore, awaited: AsyncStateStore, turn: Turn) -> None:
    awaited.history.append("chat", [HI])  # wrong: unused-coroutine reportUnusedCoroutine
    awaited.state.set("chat", "seats", 8)  # wrong: unused-coroutine reportUnusedCoroutine
    awaited.cache.get_or_compute("key", lambda: 1)  # wrong: unused-coroutine reportUnusedCoroutine
    awaited.close()  # wrong: unused-coroutine reportUnusedCoroutine
    lease = awaited.sessions.acquire("chat", owner="w", ttl=HOUR)
    print(lease.lost)  # wrong: attr-defined reportAttributeAccessIssue
    opened = AsyncStateStore.open()
    print(opened.history)  # wrong: attr-defined reportAttributeAccessIssue
    print(len(awaited.history.read("chat")))  # wrong: arg-type reportArgumentType
    await store.history.append("chat", [HI])  # wrong: misc reportGeneralTypeIssues
    await turn.append(HI)  # wrong: misc,func-returns-value reportGeneralTypeIssues
    with awaited.transaction() as tx:  # wrong: attr-defined reportGeneralTypeIssues
        print(tx)
    for entry in awaited.history.iterate("chat"):  # wrong: attr-defined reportGeneralTypeIssues
        print(entry)
    SessionContext(awaited, project_root="/srv/app")  # wrong: arg-type reportArgumentType
    AsyncSessionContext(store, project_root="/srv/app")  # wrong: arg-type reportArgumentType


def lent(store: StateStore, awaited: AsyncStateStore) -> HeldLease:
    print(store.sessions.acquire("chat", owner="worker-1", ttl=HOUR))
    return awaited.sessions.acquire("chat", owner="w", ttl=HOUR)  # wrong: return-value reportReturnType
