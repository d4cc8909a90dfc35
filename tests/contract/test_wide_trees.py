"""Roots with many forks: what letting go of their entries costs, and what it leaves behind."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from statestore import NewEntry
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound
from tests.support.wire import Traffic

Store = Any

LETTING_GO: dict[str, Callable[[Store], Any]] = {
    "trim": lambda store: store.history.trim("root", keep_last=20),
    "pop": lambda store: store.history.pop_last("root", 20),
    "clear": lambda store: store.history.clear("root"),
    "delete": lambda store: store.sessions.delete("root"),
}


def plant(store: Store, forks: int) -> dict[str, int]:
    """A root of 40 entries, and forks of it that see 1 to 40 of them."""
    store.sessions.create("root")
    store.history.append("root", [NewEntry(n, role="user") for n in range(1, 41)])
    ends = {f"fork {n:04}": 1 + (7 * n) % 40 for n in range(forks)}
    with store.transaction() as tx:
        for session_id, end in ends.items():
            tx.sessions.fork("root", session_id, at_seq=end)
    return ends


def segments(content: Content) -> dict[str, list[tuple[int, int, str]]]:
    found: dict[str, list[tuple[int, int, str]]] = {}
    for row in content.rows("session_segments"):
        found.setdefault(row["session_id"], []).append((row["from_seq"], row["to_seq"], row["owner_session_id"]))
    return found


@pytest.mark.parametrize("how", LETTING_GO)
def test_each_fork_goes_on_seeing_its_entries_in_one_piece(store: Store, content: Content, how: str) -> None:
    ends = plant(store, 60)
    LETTING_GO[how](store)
    assert unsound(content) == []
    for session_id, end in ends.items():
        assert [entry.content for entry in store.history.read(session_id)] == list(range(1, end + 1))
    # One for what was handed over, and one for what the root has kept.
    most = 2 if how in ("trim", "pop") else 1
    assert max(map(len, segments(content).values())) <= most
    assert len({owner for held in segments(content).values() for *_, owner in held}) <= most


@pytest.mark.parametrize("how", LETTING_GO)
def test_the_number_of_forks_does_not_change_the_number_of_statements(
    connect: Callable[..., Store], traffic: Traffic, clock: MovableClock, how: str
) -> None:
    costs = []
    for forks in (8, 80):
        store = connect(traffic.url, clock=clock, namespace=f"{forks} forks")
        plant(store, forks)
        traffic.clear()
        LETTING_GO[how](store)
        costs.append(len(traffic.statements))
    assert costs[1] <= costs[0] <= 25


def test_a_sweep_takes_larger_slices_of_a_root_with_many_forks(
    store: Store, content: Content, clock: MovableClock
) -> None:
    plant(store, 100)
    store.sessions.update("root", ttl=timedelta(hours=1))
    clock.advance(hours=1)
    begins: set[int] = set()

    def step(report: Any) -> None:
        begins.update(row["first_seq"] for row in content.rows("sessions", session_id="root"))

    store.sweep(batch_size=1, progress=step)
    assert len(begins) < 20
    assert unsound(content) == []


def test_only_segments_that_are_put_together_are_written(store: Store, content: Content) -> None:
    if content.is_sqlite:
        pytest.skip("SQLite does not tell which rows were written")
    ends = plant(store, 12)
    versions = []
    for keep_last in (35, 30):
        store.history.trim("root", keep_last=keep_last)
        found = content.query("SELECT session_id, xmin FROM session_segments WHERE owner_session_id <> 'root'")
        versions.append({row["session_id"]: row["xmin"] for row in found})
    before, after = versions
    kept = {session_id for session_id in after if after[session_id] == before[session_id]}
    assert kept == {session_id for session_id, end in ends.items() if end <= 5 and session_id in after}


def test_what_is_handed_over_next_to_what_was_before_is_one_piece(store: Store, content: Content) -> None:
    plant(store, 12)
    for keep_last in (35, 30, 11, 3, 0):
        store.history.trim("root", keep_last=keep_last)
        assert unsound(content) == []
    assert max(map(len, segments(content).values())) == 1


def test_segments_in_pieces_become_whole_when_they_change_hands(store: Store, content: Content) -> None:
    """As earlier versions left them."""
    ends = plant(store, 12)
    for session_id, end in ends.items():
        content.query("DELETE FROM session_segments WHERE session_id = :session_id", session_id=session_id)
        for seq in range(1, end + 1):
            content.query(
                "INSERT INTO session_segments (namespace, session_id, from_seq, to_seq, owner_session_id) "
                "VALUES ('default', :session_id, :seq, :seq, 'root')",
                session_id=session_id,
                seq=seq,
            )
    [longest] = [session_id for session_id, end in ends.items() if end == max(ends.values())]
    store.sessions.fork(longest, "grandchild")
    assert len(segments(content)["grandchild"]) == 1
    store.history.trim("root", keep_last=5)
    assert unsound(content) == []
    assert max(map(len, segments(content).values())) <= 2
    for session_id, end in ends.items():
        assert [entry.content for entry in store.history.read(session_id)] == list(range(1, end + 1))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_let_go_a_fork_never_holds_neighbours_of_one_owner(
    open_store: Callable[..., Store], content: Content, clock: MovableClock, seed: int
) -> None:
    """Forks that were trimmed and popped see ranges that overlap in every way."""
    store = open_store(clock=clock)
    chance = random.Random(seed)
    plant(store, 10)
    expected = {}
    for session in store.sessions.page().sessions:
        expected[session.session_id] = [entry.content for entry in store.history.read(session.session_id)]
    for _ in range(40):
        session_id = chance.choice(sorted(expected))
        held = expected[session_id]
        what = chance.choice(["trim", "trim", "pop", "append", "fork", "delete"])
        if what == "trim":
            keep = chance.randrange(len(held) + 1)
            store.history.trim(session_id, keep_last=keep)
            expected[session_id] = held[len(held) - keep :]
        elif what == "pop":
            gone = chance.randrange(len(held) + 1)
            store.history.pop_last(session_id, gone)
            expected[session_id] = held[: len(held) - gone]
        elif what == "append":
            store.history.append(session_id, [NewEntry(chance.randrange(1000)) for _ in range(3)])
            expected[session_id] = [entry.content for entry in store.history.read(session_id)]
            assert expected[session_id][:-3] == held
        elif what == "fork":
            fork = store.sessions.fork(session_id).session_id
            expected[fork] = [*held]
        elif len(expected) > 3:
            store.sessions.delete(session_id)
            del expected[session_id]
    assert unsound(content) == []
    for session_id, contents in expected.items():
        assert [entry.content for entry in store.history.read(session_id)] == contents
