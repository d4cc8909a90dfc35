"""The semantics of agno's sessions on our API, in the model of `agno_model`."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.support.clock import MovableClock
from tests.thirdparty.agno_model import AgnoSessions

Store = Any


def fill(sessions: AgnoSessions, clock: MovableClock, n: int = 25) -> None:
    """Sessions `s0` to `s(n-1)`, a minute apart: each third of a team, each fifth about billing."""
    for number in range(n):
        sessions.upsert_run(
            f"s{number}",
            {"run_id": f"r{number}", "content": f"run of {number}"},
            kind="agent" if number % 3 else "team",
            component_id=f"component {number % 2}",
            user_id="ada" if number % 4 else "bob",
            name=f"Billing {number}" if number % 5 == 0 else f"Chat {number}",
        )
        clock.advance(minutes=1)


@pytest.fixture
def sessions(store: Store) -> AgnoSessions:
    return AgnoSessions(store)


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["session_id"] for row in rows]


def test_a_page_has_its_rows_and_the_total_of_all_pages(sessions: AgnoSessions, clock: MovableClock) -> None:
    fill(sessions, clock)
    first, total = sessions.get_sessions(limit=10, page=1)
    last, again = sessions.get_sessions(limit=10, page=3)
    assert (ids(first), total) == ([f"s{n}" for n in range(24, 14, -1)], 25)
    assert (ids(last), again) == ([f"s{n}" for n in range(4, -1, -1)], 25)
    assert sessions.get_sessions(limit=10, page=4) == ([], 25)


def test_a_list_is_filtered_by_kind_name_user_component_and_time(sessions: AgnoSessions, clock: MovableClock) -> None:
    start = clock.now
    fill(sessions, clock)
    from_ten = start + (clock.now - start) * 10 / 25
    cases: list[tuple[dict[str, Any], Iterable[int]]] = [
        ({"kind": "team"}, range(0, 25, 3)),
        ({"session_name": "billing"}, range(0, 25, 5)),
        ({"user_id": "bob"}, range(0, 25, 4)),
        ({"component_id": "component 1", "kind": "team"}, range(3, 25, 6)),
        ({"since": from_ten}, range(10, 25)),
        ({"until": from_ten}, range(11)),
    ]
    for filters, wanted in cases:
        rows, total = sessions.get_sessions(descending=False, limit=100, **filters)
        expected = [f"s{n}" for n in wanted]
        assert (ids(rows), total) == (expected, len(expected)), filters


def test_a_run_is_added_once_and_replaced_when_it_has_gone_on(sessions: AgnoSessions) -> None:
    for content in ("begun", "done", "done"):
        sessions.upsert_run("s", {"run_id": "r1", "content": content}, kind="agent", component_id="c")
    sessions.upsert_run("s", {"run_id": "r2", "content": "more"}, kind="agent", component_id="c")
    [row], _ = sessions.get_sessions(runs=10)
    assert [run["content"] for run in row["runs"]] == ["done", "more"]


def test_what_the_members_of_a_team_do_belongs_to_the_team(sessions: AgnoSessions, store: Store) -> None:
    sessions.upsert_run("team", {"run_id": "r"}, kind="team", component_id="t", user_id="ada")
    for member in ("m1", "m2"):
        sessions.upsert_run(
            member, {"run_id": member}, kind="agent", component_id=member, user_id="ada", team_session_id="team"
        )
    rows, total = sessions.get_sessions(user_id="ada")
    assert (ids(rows), total) == (["team"], 1)
    assert {one.session_id for one in store.sessions.page(belongs_to="team").sessions} == {"m1", "m2"}
    sessions.delete_sessions(["team"])
    assert not any(store.sessions.exists(one) for one in ("team", "m1", "m2"))


def test_sessions_of_another_user_are_not_deleted(sessions: AgnoSessions, store: Store) -> None:
    for user in ("ada", "bob"):
        sessions.upsert_run(user, {"run_id": user}, kind="agent", component_id="c", user_id=user)
    sessions.delete_sessions(["ada", "bob", "missing"], user_id="ada")
    assert (store.sessions.exists("ada"), store.sessions.exists("bob")) == (False, True)


def test_a_page_with_total_and_runs_takes_two_statements(
    counted_store: Store, statements: Callable[[Callable[[], Any]], int], clock: MovableClock
) -> None:
    sessions = AgnoSessions(counted_store)
    fill(sessions, clock, 21)
    about: dict[str, Any] = {"kind": "agent", "session_name": "chat", "limit": 20}
    assert statements(lambda: sessions.get_sessions(**about)) == 1
    assert statements(lambda: sessions.get_sessions(**about, runs=5)) == 2
