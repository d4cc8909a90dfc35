"""Removing users and large sessions: hidden at once, deleted in short transactions, and finished whatever happens."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from statestore import ErasureReceipt, NewEntry, SessionNotFoundError, StateStore, Usage
from statestore.engine.calls import Call
from statestore.engine.sql import Statement
from statestore.operations import erasing
from statestore.repositories.expiry.erasure import ErasureRepository
from statestore.repositories.sessions.segments import FAMILY
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound
from tests.support.crowd import at_once
from tests.support.wire import Traffic

Store = Any


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(erasing, "BATCH", 10)
    return 10


def fill(store: Store, user_id: str = "ada", sessions: int = 12) -> None:
    """Sessions with three entries each, of which every second one is forked, for the user and for another one."""
    for n in range(sessions):
        session_id = f"{user_id} {n:02}"
        store.sessions.create(session_id, user_id=user_id, title="private")
        usage = Usage(input_tokens=1)
        store.history.append(session_id, [NewEntry([n, part], role="user", usage=usage) for part in range(3)])
        store.state.set(session_id, "key", n)
        if n % 2:
            store.sessions.fork(session_id, f"fork of {session_id}", at_seq=2)
            store.sessions.fork(session_id, f"{session_id} for bob", at_seq=1)
            store.sessions.update(f"{session_id} for bob", user_id="bob")


def killed_after(store: Store, batches: int) -> None:
    """Erase ada, in a process that dies when so many batches are done."""
    reports: list[ErasureReceipt] = []

    def progress(receipt: ErasureReceipt) -> None:
        reports.append(receipt)
        if len(reports) == batches:
            raise Killed

    with pytest.raises(Killed):
        store.sessions.delete_user("ada", progress=progress)


def no_trace_is_left(store: Store, content: Content) -> None:
    assert unsound(content) == []
    assert {row["user_id"] for row in content.rows("sessions")} <= {"bob"}
    assert not [row for row in content.rows("usage_ledger") if row["session_id"].startswith("ada") or row["user_id"]]
    assert [entry.content for entry in store.history.read("ada 01 for bob")] == [[1, 0]]
    sizes = content.sizes()
    assert (sizes["sessions"], sizes["history_entries"], sizes["session_segments"]) == (6, 6, 0)


def test_a_user_goes_in_batches_and_the_receipt_counts_all(store: Store, content: Content, small_batches: int) -> None:
    fill(store)
    before = store.usage.totals()
    reports: list[ErasureReceipt] = []
    receipt = store.sessions.delete_user("ada", progress=reports.append)
    # Of 36 entries the first ones of six sessions are bob's now, too.
    assert (receipt.sessions, receipt.entries, receipt.state_entries) == (18, 30, 18)
    assert reports[-1] == receipt
    assert len(reports) >= 6
    done = [report.sessions + report.entries + report.state_entries for report in reports]
    assert done == sorted(done)
    assert max(after - before for before, after in zip([0, *done], done, strict=False)) <= small_batches
    no_trace_is_left(store, content)
    assert store.usage.totals() == before
    assert store.sessions.delete_user("ada").sessions == 0


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_everything_is_hidden_at_once(store: Store, small_batches: int, batches: int) -> None:
    fill(store)
    killed_after(store, batches)
    assert store.sessions.count(user_id="ada") == 0
    for n in range(12):
        assert store.sessions.find(f"ada {n:02}") is None
        with pytest.raises(SessionNotFoundError):
            store.history.append(f"ada {n:02}", [NewEntry("more")])
    assert [row.user_id for row in store.usage.by_user() if row.user_id == "ada"] == []
    assert [row.user_id for row in store.usage.storage() if row.user_id == "ada"] == []
    assert store.history.count("ada 01 for bob") == 1


@pytest.mark.parametrize("batches", [1, 3])
def test_what_a_killed_process_left_goes_by_calling_again(
    store: Store, content: Content, small_batches: int, batches: int
) -> None:
    fill(store)
    before = store.usage.totals()
    killed_after(store, batches)
    receipt = store.sessions.delete_user("ada")
    assert 0 < receipt.sessions < 18
    no_trace_is_left(store, content)
    assert store.usage.totals() == before


@pytest.mark.parametrize("batches", [1, 3])
def test_what_a_killed_process_left_goes_with_the_sweep(
    store: Store, content: Content, clock: MovableClock, small_batches: int, batches: int
) -> None:
    fill(store)
    before = store.usage.totals()
    killed_after(store, batches)
    assert store.sweep().rows == 0, "it has only begun: who erases counts what goes"
    clock.advance(hours=1)
    due = store.sweep(dry_run=True)
    assert due.rows > 0
    assert store.sweep().kinds == due.kinds
    no_trace_is_left(store, content)
    assert store.usage.totals() == before


def test_two_erasures_of_different_users_count_their_own(store: Store, content: Content, small_batches: int) -> None:
    for round in range(10):
        for user_id in ("ada", "eve"):
            for n in range(8):
                store.sessions.create(f"{user_id} {n}", user_id=user_id)
                store.history.append(f"{user_id} {n}", [NewEntry(n), NewEntry(round)])
        receipts = at_once(*(partial(store.sessions.delete_user, user_id) for user_id in ("ada", "eve")), store.sweep)
        assert [(receipt.sessions, receipt.entries) for receipt in receipts[:2]] == [(8, 16), (8, 16)]
        assert not any(content.sizes().values())


def test_appends_during_an_erasure_are_refused_or_erased(store: Store, content: Content, small_batches: int) -> None:
    """An append that waited for the session while it was hidden must not bring it back."""
    for _ in range(10):
        for n in range(6):
            store.sessions.create(f"s{n}", user_id="ada", ttl=timedelta(hours=1))

        def write(n: int) -> None:
            for count in range(100):
                try:
                    store.history.append(f"s{n}", [NewEntry(count)])
                except SessionNotFoundError:
                    return

        at_once(*(partial(write, n) for n in range(6)), partial(store.sessions.delete_user, "ada"))
        assert not any(content.sizes().values())


def test_inside_a_transaction_it_is_all_or_none(store: Store, content: Content, small_batches: int) -> None:
    fill(store)
    before = content.snapshot()
    with suppress(ZeroDivisionError), store.transaction() as tx:
        assert tx.sessions.delete_user("ada").sessions == 18
        raise ZeroDivisionError
    assert content.snapshot() == before
    with store.transaction() as tx:
        tx.sessions.delete_user("ada")
    no_trace_is_left(store, content)


def test_an_erased_session_that_is_made_anew_before_it_went_is_another_one(
    store: Store, content: Content, small_batches: int
) -> None:
    fill(store)
    killed_after(store, 1)
    for n in range(12):
        store.sessions.create(f"ada {n:02}", user_id="carol")
        store.history.append(f"ada {n:02}", [NewEntry("new")])
    store.sessions.delete_user("ada")
    assert store.sessions.count(user_id="carol") == 12
    assert [entry.content for entry in store.history.read("ada 05")] == ["new"]
    assert unsound(content) == []
    assert not [row for row in content.rows("usage_ledger") if row["session_id"].startswith("ada")]


@pytest.mark.parametrize("forked", [False, True])
def test_a_large_session_is_gone_at_once_and_deleted_in_batches(
    open_store: Callable[..., Store], content: Content, clock: MovableClock, small_batches: int, forked: bool
) -> None:
    store = open_store(clock=clock)
    store.sessions.create("large", user_id="ada")
    store.history.append("large", [NewEntry(n, role="user") for n in range(95)])
    store.state.set_many("large", {f"key {n}": n for n in range(25)})
    if forked:
        store.sessions.fork("large", "fork", at_seq=40)
    removed = store._target._database if hasattr(store, "_target") else store._database
    call = Call(ErasureRepository.remove, ("large", small_batches))
    first = store._portal.run(removed.run(call)) if hasattr(store, "_target") else removed.run(call)
    assert (first.lived, first.more) == (True, True)
    assert not store.sessions.exists("large")
    assert content.sizes()["history_entries"] == 95
    before = store.usage.totals()
    assert store.sessions.delete("large") is False
    assert content.sizes()["history_entries"] == (40 if forked else 0)
    assert content.sizes()["sessions"] == forked
    assert unsound(content) == []
    assert store.usage.totals() == before
    if forked:
        assert store.history.count("fork") == len(store.history.read("fork")) == 40
        assert content.sizes()["session_segments"] == 0


def test_each_batch_of_a_deletion_is_a_short_transaction(
    connect: Callable[..., Store], traffic: Traffic, clock: MovableClock, small_batches: int
) -> None:
    store = connect(traffic.url, clock=clock)
    store.sessions.create("large")
    store.history.append("large", [NewEntry(n) for n in range(95)])
    traffic.clear()
    assert store.sessions.delete("large") is True
    # One that hides it, one for each ten entries, and the last for what is left. On PostgreSQL the first look for a
    # session by that connection may be one more.
    assert 11 <= traffic.transactions <= 13


def test_the_root_of_a_tree_that_is_erased_with_it_hands_nothing_over(
    store: Store, content: Content, traffic: Traffic, connect: Callable[..., Store], clock: MovableClock
) -> None:
    store = connect(traffic.url, clock=clock)
    store.sessions.create("root", user_id="ada")
    store.history.append("root", [NewEntry(n) for n in range(20)])
    with store.transaction() as tx:
        for n in range(40):
            tx.sessions.fork("root", f"fork {n:02}", at_seq=1 + n % 20)
    traffic.clear()
    receipt = store.sessions.delete_user("ada")
    assert (receipt.sessions, receipt.entries) == (41, 20)
    assert [sql for sql in traffic.statements if "usage_folded = 1" in sql] == []
    assert len([sql for sql in traffic.statements if sql.lstrip().startswith("UPDATE")]) <= 8
    assert not any(content.sizes().values())


# Sessions of one entry, and a fork of each.
TREES = [
    (
        "sessions",
        "namespace, session_id, user_id, root_session_id, next_seq, created_at, last_activity_at, active_hour",
        "'default', 's' || n, 'ada', 's' || n, 2, now(), now(), now()",
    ),
    (
        "sessions",
        "namespace, session_id, user_id, parent_session_id, root_session_id, forked_at_seq, next_seq, created_at, "
        "last_activity_at, active_hour",
        "'default', 'f' || n, 'ada', 's' || n, 's' || n, 1, 2, now(), now(), now()",
    ),
    (
        "history_entries",
        "namespace, session_id, seq, entry_id, turn, content, content_bytes, created_at",
        "'default', 's' || n, 1, 'e' || n, 1, '1', 1, now()",
    ),
    (
        "session_segments",
        "namespace, session_id, from_seq, to_seq, owner_session_id",
        "'default', 'f' || n, 1, 1, 's' || n",
    ),
]


# Those of Citus are of another kind.
_LOCKS = Statement(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objsubid < 3"
)


@pytest.mark.parametrize("in_transaction", [False, True])
def test_the_families_of_a_user_do_not_fill_the_lock_table(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, in_transaction: bool
) -> None:
    """PostgreSQL has room for some thousands of locks in all: 6,400 by default."""
    sweep, locks = ErasureRepository._sweep, []

    def counting(repository: ErasureRepository, *args: Any, **kwargs: Any) -> Any:
        batch = sweep(repository, *args, **kwargs)
        locks.append((repository._link.one(_LOCKS) or (0,))[0])
        return batch

    monkeypatch.setattr(ErasureRepository, "_sweep", counting)
    content = Content(postgres_url)
    for table, columns, values in TREES:
        content.query(f"INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, 250) AS n")
    with StateStore.open(postgres_url) as store:
        if in_transaction:
            with store.transaction() as tx:
                receipt = tx.sessions.delete_user("ada")
        else:
            receipt = store.sessions.delete_user("ada")
    assert (receipt.sessions, receipt.entries) == (500, 250)
    assert not any(content.sizes().values())
    content.close()
    # One of them is that of the user's own state.
    assert max(locks) <= (2 if in_transaction else 102)


def test_families_of_other_namespaces_have_other_locks(postgres_url: str) -> None:
    content = Content(postgres_url)
    names = ["a", "a/b", "b", "b/c", "/", "a/b/c", "b/", "/b", "a/"]
    keys = set()
    for namespace in names:
        for root in names:
            sql = f"SELECT {FAMILY} AS key FROM (SELECT CAST(:root AS text) AS root_session_id) AS s"
            sql = sql.replace(":namespace", f"'{namespace}'")
            keys.add(content.query(sql, root=root)[0]["key"])
    content.close()
    assert len(keys) == len(names) ** 2


@pytest.fixture
def parts_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "ENTRIES", 10)


@pytest.mark.parametrize("keep_last", [0, 1, 7, 64, 65, 80])
def test_a_long_history_is_trimmed_in_parts(
    connect: Callable[..., Store],
    traffic: Traffic,
    content: Content,
    clock: MovableClock,
    parts_of_ten: None,
    keep_last: int,
) -> None:
    store = connect(traffic.url, clock=clock)
    store.sessions.create("long")
    store.history.append("long", [NewEntry(n, role="user") for n in range(65)])
    store.sessions.fork("long", "fork", at_seq=33)
    before = store.usage.totals()
    traffic.clear()
    gone = max(0, 65 - keep_last)
    assert store.history.trim("long", keep_last=keep_last) == gone
    assert traffic.transactions >= max(1, -(-gone // 10))
    assert [entry.content for entry in store.history.read("long")] == list(range(gone, 65))
    assert [entry.content for entry in store.history.read("fork")] == list(range(33))
    assert unsound(content) == []
    assert store.usage.totals() == before
    assert store.history.append("long", [NewEntry("next", role="user")])[0].seq == 66


@pytest.mark.parametrize("length", [0, 9, 10, 11, 65])
def test_a_long_history_is_cleared_in_parts(store: Store, content: Content, parts_of_ten: None, length: int) -> None:
    store.sessions.create("long")
    store.history.append("long", [NewEntry(n, role="user") for n in range(length)])
    store.sessions.fork("long", "fork")
    assert store.history.clear("long") == length
    assert store.history.read("long") == []
    assert store.history.append("long", [NewEntry("next", role="user")])[0].seq == 1
    assert store.history.count("fork") == len(store.history.read("fork")) == length
    assert unsound(content) == []


def test_inside_a_transaction_the_parts_are_one(store: Store, parts_of_ten: None) -> None:
    store.sessions.create("long")
    store.history.append("long", [NewEntry(n, role="user") for n in range(65)])
    for shorten in (lambda tx: tx.history.clear("long"), lambda tx: tx.history.trim("long", keep_last=1)):
        with suppress(ZeroDivisionError), store.transaction() as tx:
            assert shorten(tx) >= 64
            raise ZeroDivisionError
        assert store.history.count("long") == 65


def test_what_is_made_anew_while_a_history_is_trimmed_stays(
    store: Store, content: Content, parts_of_ten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions begin at 1 again: those of the old history say nothing of the new one."""
    store.sessions.create("s")
    store.history.append("s", [NewEntry(n, role="user") for n in range(65)])
    flow = erasing.trim("s", 5)
    runner = store._target._runner if hasattr(store, "_target") else store._runner

    def step(call: Call) -> Any:
        return store._portal.run(runner.run(call)) if hasattr(store, "_target") else runner.run(call)

    answer = step(next(flow))
    store.history.clear("s")
    store.history.append("s", [NewEntry(f"new {n}", role="user") for n in range(5)])
    with pytest.raises(StopIteration) as ended:
        flow.send(step(flow.send(answer)))
    assert ended.value.value == 10
    assert [entry.content for entry in store.history.read("s")] == [f"new {n}" for n in range(5)]


def test_appends_beside_a_trim_all_stay(store: Store, content: Content, parts_of_ten: None) -> None:
    for round in range(10):
        store.history.append("s", [NewEntry([round, n], role="user") for n in range(45)], create=True)

        def write(round: int = round) -> None:
            for n in range(10):
                store.history.append("s", [NewEntry(["new", round, n], role="user")])

        at_once(write, partial(store.history.trim, "s", keep_last=12))
        kept = [entry.content for entry in store.history.read("s")]
        assert kept[-10:] == [["new", round, n] for n in range(10)]
        assert unsound(content) == []
