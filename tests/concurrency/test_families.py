"""Forks, pops, trims and deletes on one family of sessions at once: no deadlock shows, no entry is lost or kept."""

import os
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from statestore import ConflictError, NewEntry, SessionNotFoundError
from tests.support.content import Content, unsound
from tests.support.crowd import at_once

Store = Any

ROUNDS = 60 if os.environ.get("STATESTORE_HYPOTHESIS_PROFILE") == "long" else 3
FAMILY = [f"member {n}" for n in range(6)]


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


def deadlocks(content: Content) -> int:
    """How many the database has resolved by undoing somebody's work, which is then tried again."""
    if content.is_sqlite:
        return 0
    content.query("SELECT pg_stat_force_next_flush()")
    return int(
        content.query("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")[0]["deadlocks"]
    )


def test_a_fork_during_appends_is_an_exact_prefix(store: Store, content: Content) -> None:
    store.sessions.create("s")

    def write() -> None:
        for n in range(40):
            store.history.append("s", [NewEntry([n, part], role="user") for part in range(3)])

    def fork(forker: int) -> None:
        for n in range(10):
            while store.history.count("s") < 9 * n:  # Or else all forks may come before the first append.
                pass
            store.sessions.fork("s", f"fork {forker} {n}")

    at_once(write, *(partial(fork, forker) for forker in range(3)))
    whole = [entry.content for entry in store.history.read("s")]
    lengths = []
    for forker in range(3):
        for n in range(10):
            entries = store.history.read(f"fork {forker} {n}")
            assert [entry.content for entry in entries] == whole[: len(entries)]
            assert len(entries) % 3 == 0
            lengths.append(len(entries))
            [added] = store.history.append(f"fork {forker} {n}", [NewEntry("next", role="user")])
            assert (added.seq, added.turn) == (len(entries) + 1, len(entries) + 1)
    assert len(set(lengths)) > 1, "all forks came at one moment: nothing was tested"
    assert unsound(content) == []


def test_a_fork_during_pops_and_appends_is_an_exact_prefix(store: Store, content: Content) -> None:
    """The source reuses its positions: a fork must hold what stood there at one moment, never a mixture."""
    store.sessions.create("s")
    store.history.append("s", [NewEntry(0, role="user") for _ in range(5)])

    def write() -> None:
        for n in range(1, 25):
            with store.transaction() as tx:
                tx.history.pop_last("s", 5)
                tx.history.append("s", [NewEntry(n) for _ in range(5)])

    def fork(forker: int) -> None:
        for n in range(8):
            store.sessions.fork("s", f"fork {forker} {n}")

    at_once(write, *(partial(fork, forker) for forker in range(3)))
    for forker in range(3):
        for n in range(8):
            contents = [entry.content for entry in store.history.read(f"fork {forker} {n}")]
            assert len(contents) == 5
            assert len(set(contents)) == 1
    assert unsound(content) == []


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_storm_on_a_family_leaves_it_sound(store: Store, content: Content, seed: int) -> None:
    store.sessions.create(FAMILY[0])
    store.history.append(FAMILY[0], [NewEntry(n) for n in range(20)])

    def act(chance: random.Random) -> None:
        one, other = chance.choice(FAMILY), chance.choice(FAMILY)
        what = chance.choice(["append"] * 3 + ["create", "fork", "fork", "fork", "pop", "trim", "clear", "delete"])
        if what == "append":
            store.history.append(one, [NewEntry(chance.random()) for _ in range(3)])
        elif what == "create":
            store.history.append(one, [NewEntry(chance.random()) for _ in range(3)], create=True)
        elif what == "fork":
            store.sessions.fork(one, other)
        elif what == "pop":
            store.history.pop_last(one, chance.randrange(6))
        elif what == "trim":
            store.history.trim(one, keep_last=chance.randrange(12))
        elif what == "clear":
            store.history.clear(one)
        else:
            store.sessions.delete(one)

    def storm(chance: random.Random) -> None:
        for _ in range(40):
            with suppress(SessionNotFoundError, ConflictError):
                act(chance)
            # A read may come while an entry changes hands; it must see the whole history all the same.
            try:
                entries = store.history.read(chance.choice(FAMILY))
            except SessionNotFoundError:
                continue
            seqs = [entry.seq for entry in entries]
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs))) if seqs else True

    at_once(*(partial(storm, random.Random(f"{seed} {thread}")) for thread in range(8)))
    assert unsound(content) == []
    seen = set()
    for session in store.sessions.page().sessions:
        entries = store.history.read(session.session_id)
        assert [entry.seq for entry in entries] == list(range(session.first_seq, session.next_seq))
        seen |= {entry.entry_id for entry in entries}
    assert content.sizes()["history_entries"] == len(seen), "an entry is stored twice, or by nobody seen"
    for session_id in FAMILY:
        store.sessions.delete(session_id)
    assert not any(content.sizes().values())
    assert deadlocks(content) == 0, "locks were taken in another order: each costs its callers a second"


def test_deleting_a_source_and_its_forks_at_once_leaves_nothing(store: Store, content: Content) -> None:
    for _ in range(5):
        store.sessions.create("s")
        store.history.append("s", [NewEntry(n) for n in range(12)])
        for n in range(6):
            store.sessions.fork("s", f"fork {n}", at_seq=2 * n)
        at_once(*(partial(store.sessions.delete, f"fork {n}") for n in range(6)), partial(store.sessions.delete, "s"))
        assert not any(content.sizes().values())
