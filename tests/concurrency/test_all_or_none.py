"""What takes several statements is stored as a whole, or not at all."""

from dataclasses import replace
from typing import Any

import pytest

from statestore import DatabaseError, NewEntry
from statestore.repositories.history import appending
from tests.contract.test_idempotency import FULL
from tests.support.content import Content

Store = Any

MANY = 2 * appending.CHUNK + 200


def refuse(content: Content, table: str, condition: str) -> None:
    """Let the database fail at a row of *table*."""
    if content.is_sqlite:
        content.query(
            f"CREATE TRIGGER refuse BEFORE INSERT ON {table} WHEN NEW.{condition}"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        return
    content.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$"
    )
    content.query(
        f"CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW WHEN (NEW.{condition}) EXECUTE FUNCTION refuse()"
    )


def allow(content: Content, table: str) -> None:
    content.query("DROP TRIGGER refuse" + ("" if content.is_sqlite else f" ON {table}"))


@pytest.mark.parametrize("wide", [False, True], ids=["narrow", "wide"])
@pytest.mark.parametrize("how", [{}, {"create": True}, {"after_seq": 0}], ids=["plain", "create", "after_seq"])
def test_a_large_append_that_fails_at_its_end_leaves_nothing(
    store: Store, content: Content, wide: bool, how: dict[str, Any]
) -> None:
    if "create" not in how:
        store.sessions.create("s")
    entries = [replace(FULL, content=n, entry_id=f"id {n}") if wide else NewEntry(n) for n in range(MANY)]
    before = content.snapshot()
    refuse(content, "history_entries", f"seq = {MANY - 1}")
    with pytest.raises(DatabaseError):
        store.history.append("s", entries, **how)
    assert content.snapshot() == before
    allow(content, "history_entries")
    assert [entry.seq for entry in store.history.append("s", entries, **how)] == list(range(1, MANY + 1))
    assert [entry.content for entry in store.history.read("s")] == list(range(MANY))


def test_many_keys_of_which_one_fails_leave_nothing(store: Store, content: Content) -> None:
    store.sessions.create("s")
    values = {f"key {n:04}": n for n in range(1600)}
    before = content.snapshot()
    refuse(content, "state_entries", "key = 'key 1500'")
    with pytest.raises(DatabaseError):
        store.state.set_many("s", values)
    assert content.snapshot() == before
    allow(content, "state_entries")
    store.state.set_many("s", values)
    assert store.state.get_all("s") == values
