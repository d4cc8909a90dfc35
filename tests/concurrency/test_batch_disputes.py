"""What needs a decision is decided in a group of appends as it is alone."""

import asyncio
import time
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from functools import partial

import pytest

from statestore import AsyncStateStore, ConflictError, NewEntry, StateStore, Usage
from statestore.engine.batching import carry_out
from statestore.engine.calls import Call
from statestore.engine.sql import Link
from statestore.repositories.history import append_batches, entry_rows
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.repositories.history.repository import HistoryRepository
from tests.support.crowd import at_once

OTHERS = 12


def test_threads_that_repeat_an_ancestor_s_entry_find_it(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        store.sessions.create("s")
        [first] = store.history.append("s", [NewEntry("a", entry_id="one")])
        for turn in range(10):
            # In a fork of its own each: of several in one, the database itself would notice.
            forks = [store.sessions.fork("s", f"fork {turn} {n}").session_id for n in range(OTHERS)]
            entries = [NewEntry("a", entry_id="one")]
            found = at_once(*(partial(store.history.append, fork, entries) for fork in forks))
            assert {(entry.entry_id, entry.seq) for [entry] in found} == {("one", first.seq)}
            assert [store.history.count(fork) for fork in forks] == [1] * OTHERS


def test_tasks_that_repeat_an_ancestor_s_entry_find_it(database_url: str) -> None:
    async def main() -> None:
        async with await AsyncStateStore.open(database_url) as store:
            await store.sessions.create("s")
            [first] = await store.history.append("s", [NewEntry("a", entry_id="one")])
            for turn in range(10):
                fork = (await store.sessions.fork("s", f"fork {turn}")).session_id
                plain = [store.history.append(fork, [NewEntry(n)]) for n in range(OTHERS)]
                repeated = store.history.append(fork, [NewEntry("a", entry_id="one")])
                [found] = (await asyncio.gather(*plain, repeated))[-1]
                assert (found.entry_id, found.seq) == ("one", first.seq)
                assert await store.history.count(fork) == 1 + OTHERS
                other = [store.history.append(fork, [NewEntry(n)]) for n in range(OTHERS)]
                conflict = store.history.append(fork, [NewEntry("b", entry_id="one")])
                results = await asyncio.gather(*other, conflict, return_exceptions=True)
                assert isinstance(results[-1], ConflictError)
                assert await store.history.count(fork) == 1 + 2 * OTHERS

    asyncio.run(main())


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_prices_that_change_within_a_group_are_those_of_all_behind_it(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    """Another thread of the store learns of the new prices while the group is put together."""
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    calls = [
        Call(HistoryRepository.append, (f"s{n}", [NewEntry(n, response_model="m", usage=usage)])) for n in range(4)
    ]
    with StateStore.open(postgres_url) as store, StateStore.open(postgres_url) as other:
        for name in ("s0", "s1", "s2", "s3", "elsewhere"):
            store.sessions.create(name)
        store.prices.set("m", input_price=1, output_price=1, valid_from=date(1970, 1, 1))
        append = partial(store.history.append, "elsewhere", [NewEntry("x", response_model="m", usage=usage)])
        append()
        price = entry_rows.price
        priced: list[Sequence[PreparedEntry]] = []

        def disturbed(link: Link, batch: Sequence[PreparedEntry]) -> tuple[Sequence[PreparedEntry], int | None]:
            if len(priced) == turn:
                priced.append(batch)
                other.prices.set("m", input_price=7, output_price=1, valid_from=date(1970, 1, 1))
                append()
            priced.append(batch)
            return price(link, batch)

        monkeypatch.setattr(append_batches.entry_rows, "price", disturbed)
        stored = carry_out(append_batches.APPENDS, store._database, calls, time.monotonic() + 30)
        monkeypatch.undo()
        for call, entries in zip(calls, stored, strict=True):
            if entries is None:
                store._database.run_alone(call)
        costs = [store.history.read(f"s{n}")[0].cost_usd for n in range(4)]
    assert costs == [Decimal(7)] * 4
