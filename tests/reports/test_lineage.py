"""The lineage view: what it says, that it ends whatever the rows say, and that it looks at one namespace alone."""

import json
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.migrations.databases import connected, prefix, rows
from tests.support.clock import MovableClock

Store = Any
NOW = "'2026-01-31T12:00:00.000000Z'"


def descent(store: Store, **arguments: Any) -> dict[str, tuple[Any, ...]]:
    found = store.usage.lineage(**arguments)
    return {row.session_id: (row.parent_session_id, row.depth, row.forks) for row in found}


def plant(url: str, sessions: dict[str, str | None], namespace: str = "default") -> None:
    """Sessions with their parents, all of one moment, behind the store's back."""
    with connected(url) as connection:
        for session_id, parent in sessions.items():
            fork = "NULL, NULL" if parent is None else f"'{parent}', 0"
            connection.exec_driver_sql(
                f"INSERT INTO {prefix(url)}sessions (namespace, session_id, root_session_id, parent_session_id,"
                f" forked_at_seq, created_at, last_activity_at, active_hour)"
                f" VALUES ('{namespace}', '{session_id}', 'root', {fork}, {NOW}, {NOW}, {NOW})"
            )


def test_the_lineage_counts_forks_as_far_as_the_sessions_between_are_there(store: Store, clock: MovableClock) -> None:
    store.history.append("a", [{"role": "user", "content": "x"}], create=True)
    for source, fork in (("a", "b"), ("b", "c"), ("c", "d"), ("a", "e")):
        clock.advance(seconds=1)
        store.sessions.fork(source, fork)
    assert descent(store) == {"a": (None, 0, 2), "b": ("a", 1, 1), "c": ("b", 2, 1), "d": ("c", 3, 0), "e": ("a", 1, 0)}
    store.sessions.delete("b")
    assert descent(store) == {"a": (None, 0, 1), "c": ("b", 1, 1), "d": ("c", 2, 0), "e": ("a", 1, 0)}
    # A session of the same name that is younger is no ancestor.
    clock.advance(seconds=1)
    store.sessions.create("b")
    assert descent(store, root_session_id="a") == {
        "a": (None, 0, 1), "c": ("b", 1, 1), "d": ("c", 2, 0), "e": ("a", 1, 0)
    }  # fmt: skip


def test_a_fork_counts_until_the_moment_at_which_it_ends(store: Store, clock: MovableClock) -> None:
    store.sessions.create("a")
    store.sessions.fork("a", "b")
    store.sessions.update("b", ttl=timedelta(seconds=10))
    clock.advance(seconds=10, microseconds=-1)
    assert descent(store) == {"a": (None, 0, 1), "b": ("a", 1, 0)}
    clock.advance(microseconds=1)
    assert descent(store) == {"a": (None, 0, 0)}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cycle_of_forks_ends(store: Store, database_url: str, length: int) -> None:
    names = [f"s{number}" for number in range(length)]
    plant(database_url, {name: names[number - 1] for number, name in enumerate(names)})
    plant(database_url, {"below": "s0", "far below": "below"})
    found = descent(store)
    assert {name: found[name][1] for name in names} == dict.fromkeys(names, length)
    assert (found["below"][1], found["far below"][1]) == (length + 1, length + 2)
    assert len(rows(database_url, f"SELECT * FROM {prefix(database_url)}session_lineage")) == length + 2


def test_what_other_namespaces_hold_costs_nothing(database_url: str, open_store: Callable[..., Store]) -> None:
    store = open_store(namespace="small")
    plant(database_url, {"a": None, "b": "a", "c": "b"}, namespace="small")
    plant(database_url, {f"s{number}": f"s{number - 1}" for number in range(1, 50)}, namespace="large")
    before = work(database_url)
    plant(database_url, {f"s{number}": f"s{number - 1}" for number in range(50, 250)}, namespace="large")
    assert work(database_url) <= before * 1.1
    assert [row.depth for row in store.usage.lineage()] == [0, 1, 2]


def work(url: str) -> int:
    """How much the database does for the lineage of the namespace `small`: rows, or instructions on SQLite."""
    query = f"SELECT * FROM {prefix(url)}session_lineage WHERE namespace = 'small'"
    if url.startswith("postgresql"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET enable_seqscan = off")
            connection.execute("ANALYZE")
            [(plan,)] = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}").fetchall()  # type: ignore[call-overload]
        return _rows(json.loads(plan) if isinstance(plan, str) else plan)
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    connection.set_progress_handler(step, 1)
    connection.execute(query).fetchall()
    connection.close()
    return steps


def _rows(plan: Any) -> int:
    if isinstance(plan, list):
        return sum(map(_rows, plan))
    if not isinstance(plan, dict):
        return 0
    own = plan.get("Actual Rows", 0) * plan.get("Actual Loops", 0) + plan.get("Rows Removed by Filter", 0)
    return int(own) + sum(_rows(part) for part in plan.values() if isinstance(part, dict | list))
