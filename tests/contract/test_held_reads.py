"""Sessions that a transaction has read: nobody changes them before it ends."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from statestore import SessionExistsError
from tests.support.crowd import at_once

Store = Any

ROUNDS = 10


@pytest.fixture
def stores(open_store: Callable[..., Store]) -> list[Store]:
    """Of two processes, as far as the database can tell."""
    return [open_store(), open_store()]


def by_get(tx: Any) -> dict[str, Any]:
    return dict(tx.sessions.get("s").metadata)


READS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "get": by_get,
    "find": lambda tx: dict(tx.sessions.find("s").metadata),
    "open": lambda tx: dict(tx.sessions.open("s").metadata),
    "load": lambda tx: dict(tx.sessions.load("s").metadata),
}


@pytest.mark.parametrize("name", READS)
def test_read_and_write_back_loses_nothing(stores: list[Store], name: str) -> None:
    stores[0].sessions.create("s", metadata={"n": 0}, title="0")

    def count(store: Store) -> None:
        for _ in range(ROUNDS):
            with store.transaction() as tx:
                metadata = READS[name](tx)
                tx.sessions.update("s", metadata={"n": metadata["n"] + 1}, title=str(metadata["n"] + 1))

    at_once(*(partial(count, store) for store in stores * 2))
    session = stores[0].sessions.get("s")
    assert (session.metadata, session.title) == ({"n": 4 * ROUNDS}, str(4 * ROUNDS))


def test_a_status_that_was_read_is_still_that_one_when_it_is_set(stores: list[Store]) -> None:
    stores[0].sessions.create("s")
    begun: list[int] = []

    def work(number: int, store: Store) -> None:
        for _ in range(ROUNDS):
            with store.transaction() as tx:
                if tx.sessions.get("s").status == "ready":
                    tx.sessions.set_status("s", "busy")  # Raises where somebody else was faster.
                    begun.append(number)
                    tx.sessions.set_status("s", "ready")

    at_once(*(partial(work, number, store) for number, store in enumerate(stores * 2)))
    assert len(begun) == 4 * ROUNDS


def test_a_whole_conversation_that_was_loaded_is_saved_without_a_conflict(stores: list[Store]) -> None:
    stores[0].sessions.create("s")

    def add(number: int, store: Store) -> None:
        for n in range(5):
            with store.transaction() as tx:
                loaded = tx.sessions.load("s")
                loaded.entries.append({"role": "user", "content": f"{number} {n}"})
                loaded.state["n"] = loaded.state.get("n", 0) + 1
                tx.sessions.save(loaded)

    at_once(*(partial(add, number, store) for number, store in enumerate(stores * 2)))
    assert stores[0].history.count("s") == 20
    assert stores[0].state.get("s", "n") == 20


def test_of_two_who_find_nothing_one_makes_it_and_the_other_is_told(stores: list[Store]) -> None:
    for n in range(ROUNDS):

        def make(store: Store, session_id: str = f"s{n}") -> bool:
            try:
                with store.transaction() as tx:
                    if tx.sessions.find(session_id) is None:
                        tx.sessions.create(session_id)
                        return True
            except SessionExistsError:
                pass
            return False

        assert sum(at_once(*(partial(make, store) for store in stores * 2))) == 1


def test_reads_outside_a_transaction_wait_for_nobody(stores: list[Store]) -> None:
    stores[0].sessions.create("s")
    with stores[0].transaction() as tx:
        tx.sessions.get("s")
        tx.sessions.update("s", title="uncommitted")
        assert stores[1].sessions.get("s").title is None
        assert stores[1].sessions.load("s").title is None
    assert stores[1].sessions.get("s").title == "uncommitted"
