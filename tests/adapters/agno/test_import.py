"""What agno's own databases wrote is read by ours."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from agno.db.postgres import PostgresDb
from agno.db.sqlite import SqliteDb
from agno.db.utils import HISTORY_SKIP_STATUSES
from agno.run.team import TeamRunOutput
from agno.session import AgentSession, TeamSession, WorkflowSession
from sqlalchemy import text

from statestore import StateStore
from statestore.adapters.agno import StatestoreDb
from statestore.adapters.layouts.agno import NOT_IN_CONTEXT
from statestore.importers import DatabaseReport, Problem, agno
from tests.adapters.agno.fake import made_run


@pytest.fixture
def theirs(database_url: str) -> Iterator[Any]:
    theirs: Any
    if database_url.startswith("sqlite"):
        theirs = SqliteDb(db_url=database_url)
    else:
        theirs = PostgresDb(db_url=database_url.replace("postgresql:", "postgresql+psycopg:"))
    yield theirs
    theirs.close()


@pytest.fixture
def store(empty_sqlite_url: str) -> Iterator[StateStore]:
    with StateStore.open(f"{empty_sqlite_url}.ours") as store:
        yield store


def write(theirs: Any) -> None:
    data = {"session_name": "Walks", "session_state": {"n": 1.5, "list": [1, None]}}
    times = {"created_at": 1_700_000_000, "updated_at": 1_700_000_100}
    agent = AgentSession("a", agent_id="guide", user_id="ada", session_data=data, agent_data={"x": 1}, **times)
    theirs.upsert_session(agent)
    for number in range(120):
        run = made_run(f"run {number}", f"answer {number}", created_at=1_700_000_000)
        theirs.upsert_run(run, "a", user_id="ada", run_index=number)
    theirs.upsert_session(TeamSession("t", team_id="crew", metadata={"k": "v"}, **times))
    theirs.upsert_run(TeamRunOutput(run_id="team run", team_id="crew", content="x"), "t", run_index=0)
    theirs.upsert_session(WorkflowSession("w", workflow_id="flow", workflow_data={"name": "flow"}, **times))


def test_their_reader_and_ours_find_the_same(theirs: Any, database_url: str, store: StateStore) -> None:
    write(theirs)
    assert agno(store, database_url) == DatabaseReport(sessions=3, entries=121, added=121)
    ours = StatestoreDb(store)
    for session_id in ("a", "t", "w"):
        there, here = (db.get_session(session_id, deserialize=False) for db in (theirs, ours))
        assert {name: value for name, value in here.items() if value} == {n: v for n, v in there.items() if v}
        assert ours.get_session(session_id).to_dict() == theirs.get_session(session_id).to_dict()
    assert store.usage.totals(user_id="ada").input_tokens == 1200
    assert store.sessions.get("a").created_at.timestamp() == 1_700_000_000


def test_again_it_adds_what_is_new(theirs: Any, database_url: str, store: StateStore) -> None:
    write(theirs)
    agno(store, database_url)
    assert agno(store, database_url) == DatabaseReport(sessions=3, entries=121, unchanged=3)
    theirs.upsert_run(made_run("more"), "a", user_id="ada", run_index=120)
    assert agno(store, database_url).added == 1
    assert store.usage.totals().input_tokens == 1210


def test_again_it_brings_what_a_session_has_become(theirs: Any, database_url: str, store: StateStore) -> None:
    def there(name: str, updated_at: int) -> None:
        data = {"session_name": name, "session_state": {"name": name}}
        session = AgentSession("a", agent_id="guide", user_id="ada", session_data=data, created_at=1)
        session.updated_at = updated_at
        theirs.upsert_sessions([session], preserve_updated_at=True)

    def here() -> tuple[str | None, Any]:
        session = store.sessions.get("a")
        return session.title, session.metadata["session_data"]["session_state"]

    there("before", 1_700_000_000)
    agno(store, database_url)
    store.sessions.update("a", metadata={**store.sessions.get("a").metadata, "kept": True})
    there("after", 1_700_000_100)
    agno(store, database_url)
    assert here() == ("after", {"name": "after"})
    assert store.sessions.get("a").metadata["kept"]
    StatestoreDb(store).rename_session("a", None, "later")
    assert agno(store, database_url).complete
    assert here() == ("later", {"name": "after"})


RUN: dict[str, Any] = {"run_id": "r", "agent_id": "guide", "status": "COMPLETED", "created_at": 1_700_000_000}


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {**RUN, "created_at": "2024-01-01"},
        {**RUN, "created_at": 1_700_000_000_000},
        {**RUN, "metrics": {"input_tokens": [1, 2]}},
        {**RUN, "metrics": {"steps": [1]}},
        {**RUN, "metrics": {"duration": "1 s"}},
        {**RUN, "status": ["COMPLETED"]},
    ],
)
def test_a_run_of_another_form_keeps_its_session_out_and_no_other(
    theirs: Any, database_url: str, store: StateStore, content: Any
) -> None:
    for session_id in ("a", "b", "c"):
        theirs.upsert_session(AgentSession(session_id, agent_id="guide", created_at=1))
        theirs.upsert_run(made_run(f"run of {session_id}"), session_id, run_index=0)
    prefix = "" if database_url.startswith("sqlite") else "ai."
    with theirs.Session() as session, session.begin():
        change = text(f"UPDATE {prefix}agno_runs SET run_data = :data WHERE session_id = 'a'")
        session.execute(change, {"data": json.dumps(content)})
        session.execute(text(f"UPDATE {prefix}agno_sessions SET session_data = '[1]' WHERE session_id = 'b'"))
    problems: list[Problem] = []
    report = agno(store, database_url, on_problem=problems.append)
    assert (report.sessions, report.failed) == (1, 2)
    assert ["form" in problem.reason for problem in problems] == [True, True]
    assert len(store.history.messages("c")) == 1


def test_runs_that_an_older_version_left_in_the_row_are_taken(
    theirs: Any, database_url: str, store: StateStore
) -> None:
    theirs.upsert_session(AgentSession("a", agent_id="guide", created_at=1))
    old, moved = made_run("old").to_dict(), made_run("moved", "before").to_dict()
    theirs.upsert_run(made_run("moved", "after"), "a", run_index=1)
    on_sqlite = database_url.startswith("sqlite")
    name = "agno_sessions" if on_sqlite else "ai.agno_sessions"
    with theirs.Session() as session, session.begin():
        session.execute(text(f"ALTER TABLE {name} ADD COLUMN runs {'JSON' if on_sqlite else 'JSONB'}"))
        session.execute(text(f"UPDATE {name} SET runs = :runs"), {"runs": json.dumps([old, moved])})
    agno(store, database_url)
    assert [run["content"] for run in store.history.messages("a")] == ["done", "after"]


def test_what_is_not_in_a_context_is_what_agno_says() -> None:
    assert set(HISTORY_SKIP_STATUSES) == NOT_IN_CONTEXT
