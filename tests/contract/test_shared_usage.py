"""What an entry used is counted once, however many sessions have it and whichever of them changes it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from statestore import NewEntry, Usage
from tests.support.content import Content, unsound

Store = Any


def used(n: int) -> Usage:
    return Usage(input_tokens=n, output_tokens=n)


def total(store: Store) -> int:
    return int(store.usage.totals().input_tokens)


@dataclass(eq=False)
class Said:
    """That an entry used so many tokens, for all sessions that see that or have a copy that says the same."""

    tokens: int
    counts: bool = True


class Family:
    """Sessions that were forked from each other, and what is said in each by position."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.said: list[Said] = []
        self.sessions: dict[str, dict[int, Said]] = {"root": {}}
        self.done: list[str] = []
        store.sessions.create("root")
        for _ in range(3):
            self.append("root")

    def step(self) -> None:
        act = self.random.choice(
            [self.append, self.fork, self.fork, self.note, self.note, self.let_go, *[self.tell] * 4]
        )
        act(self.random.choice(list(self.sessions)))

    def new(self) -> Said:
        self.said.append(Said(1 << len(self.said)))
        return self.said[-1]

    def append(self, session_id: str) -> None:
        said = self.new()
        role = self.random.choice(["user", "assistant"])
        [entry] = self.store.history.append(session_id, [NewEntry("x", role=role, usage=used(said.tokens))])
        self.sessions[session_id][entry.seq] = said
        self.done.append(f"append to {session_id}")

    def fork(self, session_id: str) -> None:
        if len(self.sessions) < 5:
            fork = f"fork {len(self.done)}"
            self.store.sessions.fork(session_id, fork)
            self.sessions[fork] = dict(self.sessions[session_id])
            self.done.append(f"{fork} of {session_id}")

    def let_go(self, session_id: str) -> None:
        if len(self.sessions) > 2 and self.random.random() < 0.5:
            self.store.sessions.delete(session_id)
            del self.sessions[session_id]
            self.done.append(f"delete {session_id}")
        elif self.sessions[session_id]:
            self.store.history.trim(session_id, keep_last=len(self.sessions[session_id]) - 1)
            del self.sessions[session_id][min(self.sessions[session_id])]
            self.done.append(f"trim {session_id}")

    def note(self, session_id: str) -> None:
        """Change something else."""
        if seqs := list(self.sessions[session_id]):
            seq = self.random.choice(seqs)
            if self.random.random() < 0.5:
                self.store.history.annotate(session_id, seq, {"n": len(self.done)})
            else:
                self.save(session_id, seq, content=f"edited {len(self.done)}")
            self.done.append(f"note {session_id} {seq}")

    def tell(self, session_id: str) -> None:
        """Say that an entry used something else."""
        if seqs := list(self.sessions[session_id]):
            seq, said = self.random.choice(seqs), self.new()
            role = self.random.choice(["user", "assistant"])
            entry = NewEntry("y", role=role, usage=used(said.tokens))
            how = self.random.choice(["set_usage", "replace", "on_conflict", "save"])
            if how == "set_usage":
                self.store.history.set_usage(session_id, seq, entry.usage)
            elif how == "replace":
                self.store.history.replace(session_id, seq, entry)
            elif how == "on_conflict":
                entry_id = self.store.history.get(session_id, seq).entry_id
                self.store.history.append(session_id, [replace(entry, entry_id=entry_id)], on_conflict="replace")
            else:
                self.save(session_id, seq, usage=entry.usage, role=role)
            self.sessions[session_id][seq].counts = False
            self.sessions[session_id][seq] = said
            self.done.append(f"{how} {session_id} {seq}")

    def save(self, session_id: str, seq: int, **changes: Any) -> None:
        loaded = self.store.sessions.load(session_id)
        loaded.entries = [replace(entry, **changes) if entry.seq == seq else entry for entry in loaded.entries]
        self.store.sessions.save(loaded)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_sessions_of_a_family_say_counts_once(store: Store, content: Content, seed: int) -> None:
    family = Family(store, seed)
    for _ in range(40):
        family.step()
        assert total(store) == sum(said.tokens for said in family.said if said.counts), family.done
    assert unsound(content) == []


@pytest.mark.parametrize("first", ["s", "fork"])
def test_copies_of_one_entry_take_away_what_it_used_once(store: Store, first: str) -> None:
    store.history.append("s", [NewEntry("x", usage=used(1000))], create=True)
    store.sessions.fork("s", "fork")
    # Each has a row of its own then, and neither shares anything any more.
    store.history.annotate("fork", 1, {"rated": True})
    assert total(store) == 1000
    store.history.set_usage(first, 1, used(7))
    assert total(store) == 7
    store.history.set_usage("fork" if first == "s" else "s", 1, used(20))
    assert total(store) == 27
    store.sessions.delete_many(["s", "fork"])
    assert total(store) == 27


def test_entries_of_others_with_the_same_id_are_other_entries(store: Store) -> None:
    for name in ("s", "other"):
        store.history.append(name, [NewEntry("x", entry_id="1", usage=used(100))], create=True)
    store.sessions.fork("s", "fork", at_seq=0)
    store.history.append("fork", [NewEntry("x", entry_id="1", usage=used(100))])
    for n, name in enumerate(("fork", "s", "other")):
        store.history.annotate(name, 1, {"a": 1})
        store.history.set_usage(name, 1, used(1))
        assert total(store) == 200 - 100 * n + n + 1


def test_a_price_that_was_applied_to_the_source_goes_with_what_it_used(open_store: Callable[..., Store]) -> None:
    with open_store() as store:
        entry = NewEntry("x", usage=Usage(input_tokens=1_000_000, output_tokens=0), response_model="m")
        store.history.append("s", [entry], create=True)
        store.sessions.fork("s", "fork")
        store.history.annotate("fork", 1, {"a": 1})
        store.prices.set("m", input_price=3, output_price=1)
        store.prices.apply(10)
        assert store.usage.totals().cost_usd == 3
        store.history.set_usage("fork", 1, Usage(input_tokens=2_000_000, output_tokens=0))
        assert (total(store), store.usage.totals().cost_usd) == (2_000_000, Decimal(6))


def test_a_plain_message_of_another_turn_keeps_what_it_used(store: Store) -> None:
    def said(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    entries = [NewEntry(said("user", "a")), NewEntry(said("assistant", "b"), usage=used(7), metadata={"k": 1})]
    store.history.append("s", entries, create=True)
    [_, before] = store.history.read("s")
    loaded = store.sessions.load("s")
    loaded.entries = [said("system", "a"), said("assistant", "b")]
    report = store.sessions.save(loaded)
    assert report.replaced == 1
    [first, second] = store.history.read("s")
    assert (first.turn, second) == (0, replace(before, turn=0))
    assert total(store) == 7


@pytest.mark.parametrize(
    ("how", "changed"), [("replace", "entry_id"), ("save", "created_at"), ("save", "response_model")]
)
def test_an_entry_that_becomes_another_counts_beside_its_copies(store: Store, how: str, changed: str) -> None:
    said = NewEntry("x", entry_id="a", usage=used(1000), response_model="m")
    [entry] = store.history.append("s", [said], create=True)
    store.sessions.fork("s", "fork")
    store.history.annotate("fork", 1, {"rated": True})
    other = {"entry_id": "b", "created_at": entry.created_at - timedelta(days=1), "response_model": "n"}[changed]
    if how == "replace":
        store.history.replace("s", 1, replace(said, **{changed: other}))
    else:
        loaded = store.sessions.load("s")
        loaded.entries = [replace(entry, **{changed: other})]
        store.sessions.save(loaded)
    assert total(store) == 1000
    store.history.set_usage("fork", 1, used(20))
    assert total(store) == 1020
    store.history.set_usage("s", 1, used(7))
    assert total(store) == 27
    assert all(line.input_tokens > 0 for line in store.usage.by_model())


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_fork_that_does_not_say_what_its_entry_used_takes_nothing_away(store: Store, role: str) -> None:
    store.history.append("s", [NewEntry("x", role="assistant", usage=used(1000))], create=True)
    store.sessions.fork("s", "fork")
    store.history.replace("fork", 1, NewEntry("redacted", role=role))
    assert total(store) == 1000


def test_the_same_said_by_two_sessions_is_taken_away_once_by_a_copy(store: Store) -> None:
    store.history.append("s", [NewEntry("x", usage=used(1000))], create=True)
    store.sessions.fork("s", "fork")
    for name in ("s", "fork"):
        store.history.set_usage(name, 1, used(7))
    store.sessions.fork("fork", "copy")
    store.history.annotate("copy", 1, {"rated": True})
    assert total(store) == 14
    for n, name in enumerate(("copy", "s", "fork")):
        store.history.set_usage(name, 1, used(10**n))
    assert total(store) == 111


@pytest.mark.parametrize("how", ["replace", "save"])
@pytest.mark.parametrize("annotated", [False, True], ids=["shared", "copied"])
def test_a_fork_that_no_longer_says_what_was_used_takes_nothing_away(store: Store, annotated: bool, how: str) -> None:
    store.history.append("s", [NewEntry("x", role="assistant", usage=used(100))], create=True)
    store.sessions.fork("s", "fork")
    if annotated:
        store.history.annotate("fork", 1, {"rated": True})
    if how == "replace":
        store.history.replace("fork", 1, NewEntry("redacted", role="assistant"))
    else:
        loaded = store.sessions.load("fork")
        loaded.entries[0] = replace(loaded.entries[0], usage=Usage())
        store.sessions.save(loaded)
    assert total(store) == 100
    store.history.set_usage("fork", 1, used(7))
    assert total(store) == 107
    store.history.set_usage("s", 1, used(20))
    assert total(store) == 27


def test_what_was_taken_out_comes_back_only_with_other_figures(store: Store) -> None:
    store.history.append("s", [NewEntry("x", role="assistant", usage=used(100))], create=True)
    store.sessions.fork("s", "fork")
    store.history.set_usage("fork", 1, used(7))
    store.history.replace("s", 1, NewEntry("y", role="user", usage=used(100)))
    assert total(store) == 7
    store.history.set_usage("s", 1, used(50))
    assert total(store) == 57
