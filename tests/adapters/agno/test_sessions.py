"""Sessions and runs of agno, in our store, called and awaited."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agno.agent import Agent
from agno.db.base import AsyncBaseDb, BaseDb, SessionType
from agno.metrics import RunMetrics
from agno.run.base import RunStatus
from agno.run.team import TeamRunOutput
from agno.run.workflow import WorkflowRunOutput
from agno.session import AgentSession, TeamSession, WorkflowSession
from agno.team import Team
from agno.workflow.types import StepMetrics, WorkflowMetrics

from statestore import InvalidValueError, LazyStore, SessionNotFoundError, StateStore
from statestore.adapters.agno import AsyncStatestoreDb, StatestoreDb
from tests.adapters.agno.fake import FakeModel, made_run
from tests.support.clock import MovableClock
from tests.support.wire import Traffic


class Awaited:
    """An asynchronous database whose operations are called."""

    def __init__(self, db: AsyncStatestoreDb) -> None:
        self.db = db

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: asyncio.run(getattr(self.db, name)(*args, **kwargs))


@pytest.fixture
def lazy(database_url: str) -> Iterator[LazyStore]:
    lazy = LazyStore(database_url)
    yield lazy
    asyncio.run(lazy.aclose())


@pytest.fixture
def store(lazy: LazyStore) -> StateStore:
    return lazy.sync()


@pytest.fixture(params=[False, True], ids=["called", "awaited"])
def db(lazy: LazyStore, request: pytest.FixtureRequest) -> Any:
    return Awaited(AsyncStatestoreDb(lazy)) if request.param else StatestoreDb(lazy)


def agent_session(session_id: str = "s", user_id: str | None = "ada", **given: Any) -> AgentSession:
    return AgentSession(**{"session_id": session_id, "agent_id": "guide", "user_id": user_id, **given})


def fill(db: Any, n: int = 25) -> None:
    """Sessions `s0` to `s(n-1)`, a minute apart: each third of a team, each fifth about billing."""
    for number in range(n):
        values: dict[str, Any] = {
            "session_id": f"s{number}",
            "user_id": "ada" if number % 4 else "bob",
            "session_data": {"session_name": f"Billing 100%_{number}" if number % 5 == 0 else f"Chat {number}"},
            "created_at": 60 * number,
        }
        component = f"component {number % 2}"
        session: Any = AgentSession(agent_id=component, **values)
        db.upsert_session(session if number % 3 else TeamSession(team_id=component, **values))


def ids(rows: Iterable[Any]) -> list[str]:
    return [row["session_id"] if isinstance(row, dict) else row.session_id for row in rows]


def test_sessions_of_all_kinds_come_back_with_their_runs(db: Any) -> None:
    data = {"session_name": "Walks", "session_state": {"n": 1.5, "empty": None, "big": 10**30}}
    common: dict[str, Any] = {"user_id": "ada", "session_data": data, "metadata": {"k": ["v"]}, "created_at": 100}
    sessions: list[Any] = [
        AgentSession("a", agent_id="guide", agent_data={"name": "Guide"}, **common),
        TeamSession("t", team_id="crew", team_data={"name": "Crew"}, **common),
        WorkflowSession("w", workflow_id="flow", workflow_data={"name": "Flow"}, **common),
    ]
    runs: list[Any] = [
        made_run("r1", session_id="a"),
        TeamRunOutput(run_id="r2", team_id="crew", content="x", status=RunStatus.completed),
        WorkflowRunOutput(run_id="r3", workflow_id="flow", content="y", status=RunStatus.completed),
    ]
    for session, run in zip(sessions, runs, strict=True):
        written = db.upsert_session(session)
        db.upsert_run(run, session.session_id, user_id="ada")
        session.updated_at = written.updated_at
        read = db.get_session(session.session_id)
        assert type(read) is type(session)
        assert read.to_dict(include_runs=False) == session.to_dict(include_runs=False)
        assert [type(one) for one in read.runs] == [type(run)]
        assert db.get_session(session.session_id, deserialize=False)["runs"] == [run.to_dict()]
        assert db.get_run(run.run_id, deserialize=False)["run_data"] == run.to_dict()
        assert db.get_run(run.run_id).to_dict() == read.runs[0].to_dict()
    assert db.get_session("missing") is None
    assert db.get_run("missing") is None


def test_a_page_has_its_rows_and_the_total_of_all_pages(db: Any) -> None:
    fill(db)
    page: dict[str, Any] = {"limit": 10, "sort_by": "created_at", "deserialize": False}
    first, total = db.get_sessions(page=1, **page)
    assert (ids(first), total) == ([f"s{n}" for n in range(24, 14, -1)], 25)
    last, total = db.get_sessions(page=3, sort_order="asc", **page)
    assert (ids(last), total) == ([f"s{n}" for n in range(20, 25)], 25)
    assert db.get_sessions(page=4, **page) == ([], 25)
    with pytest.raises(ValueError, match="`page` was provided without `limit`"):
        db.get_sessions(page=2)


def test_a_list_is_filtered_by_kind_name_user_component_and_time(db: Any) -> None:
    fill(db)
    cases: list[tuple[dict[str, Any], Iterable[int]]] = [
        ({}, range(25)),
        ({"session_type": SessionType.TEAM}, range(0, 25, 3)),
        ({"session_name": "billing"}, range(0, 25, 5)),
        ({"session_name": "100%_"}, range(0, 25, 5)),
        ({"user_id": "bob"}, range(0, 25, 4)),
        ({"user_id": ""}, ()),
        ({"component_id": "component 1", "session_type": SessionType.TEAM}, range(3, 25, 6)),
        ({"component_id": "component 1"}, range(1, 25, 2)),
        ({"start_timestamp": 600}, range(10, 25)),
        ({"end_timestamp": 600}, range(11)),
    ]
    for filters, wanted in cases:
        expected = [f"s{n}" for n in wanted]
        assert ids(db.get_sessions(sort_by="created_at", sort_order="asc", **filters)) == expected, filters
        assert db.get_sessions(deserialize=False, limit=2, **filters)[1] == len(expected), filters


def test_a_list_has_runs_unless_they_are_not_wanted(db: Any) -> None:
    db.upsert_session(agent_session())
    db.upsert_run(made_run("r1"), "s")
    [with_runs] = db.get_sessions()
    [without] = db.get_sessions(include_runs=False)
    assert [run.run_id for run in with_runs.runs] == ["r1"]
    assert not without.runs


def test_a_run_is_stored_once_and_replaced_as_it_goes_on(db: Any, store: StateStore) -> None:
    db.upsert_session(agent_session())
    db.upsert_run(made_run("r1", "", status=RunStatus.running, metrics=None), "s")
    db.upsert_run(made_run("r2"), "s")
    for _ in range(2):
        db.upsert_run(made_run("r1", "done"), "s")
    assert [(run.run_id, run.content) for run in db.get_session("s").runs] == [("r1", "done"), ("r2", "done")]
    totals = store.usage.totals()
    assert (totals.entries, totals.input_tokens, totals.cache_read_input_tokens) == (2, 20, 8)


def test_a_run_that_is_gone_or_elsewhere_by_now_is_added_again(db: Any, store: StateStore) -> None:
    db.upsert_session(agent_session())
    for run_id in ("r1", "r2"):
        db.upsert_run(made_run(run_id), "s")
    store.history.clear("s")
    db.upsert_run(made_run("r2", "again"), "s")
    assert [(run.run_id, run.content) for run in db.get_session("s").runs] == [("r2", "again")]
    db.delete_session("s")
    with pytest.raises(SessionNotFoundError):
        db.upsert_run(made_run("r2"), "s")


def test_a_context_has_the_latest_runs_that_count(db: Any) -> None:
    db.upsert_session(agent_session())
    for number in range(5):
        db.upsert_run(made_run(f"r{number}"), "s")
    db.upsert_run(made_run("member", parent_run_id="r4"), "s")
    db.upsert_run(made_run("failed", status=RunStatus.error), "s")
    assert [run.run_id for run in db.get_session("s", runs_limit=2).runs] == ["r3", "r4"]
    assert db.get_session("s", runs_limit=0).runs == []
    assert len(db.get_session("s").runs) == 7


def test_what_a_run_used_reaches_the_reports(db: Any, store: StateStore) -> None:
    db.upsert_session(agent_session())
    used = RunMetrics(input_tokens=100, output_tokens=50, reasoning_tokens=7, cost=0.25, duration=2.0)
    db.upsert_run(made_run("r1", metrics=used), "s", user_id="ada")
    [row] = store.usage.by_model()
    assert (row.provider_name, row.model, row.input_tokens, row.reasoning_output_tokens) == ("Fakes", "fake-1", 100, 7)
    assert (float(row.cost_usd or 0), row.duration) == (0.25, timedelta(seconds=2))
    assert [(row.user_id, row.output_tokens) for row in store.usage.by_user()] == [("ada", 50)]
    assert [row.agent_name for row in store.usage.by_agent()] == ["guide"]


def test_a_workflow_used_what_its_steps_used(db: Any, store: StateStore) -> None:
    db.upsert_session(WorkflowSession("w", workflow_id="flow"))
    used = RunMetrics(input_tokens=10, output_tokens=5, cost=0.5)
    steps = {name: StepMetrics(name, "agent", name, metrics=used) for name in ("one", "two")}
    run = WorkflowRunOutput(run_id="r", workflow_id="flow", metrics=WorkflowMetrics(steps=steps, duration=3.0))
    db.upsert_run(run, "w")
    totals = store.usage.totals()
    assert (totals.input_tokens, totals.output_tokens, float(totals.cost_usd or 0)) == (20, 10, 1.0)


def test_a_session_is_only_its_users(db: Any) -> None:
    assert db.upsert_session(agent_session(user_id=None)) is not None
    assert db.upsert_session(agent_session(user_id="ada")) is not None  # Claimed.
    assert db.upsert_session(agent_session(user_id="bob")) is None
    assert db.upsert_session(agent_session(user_id=None)) is None
    assert db.upsert_sessions([agent_session(user_id="bob"), agent_session("t", user_id="bob")])[0].session_id == "t"
    assert db.get_session("s", user_id="bob") is None
    assert db.rename_session("s", SessionType.AGENT, "mine", user_id="bob") is None
    assert [db.delete_session("s", user_id=user) for user in ("bob", "")] == [False, False]
    db.delete_sessions(["s", "t", "missing"], user_id="bob")
    assert db.get_session("s", user_id="ada").user_id == "ada"
    assert db.get_session("t") is None
    assert db.delete_session("s", user_id="ada")
    assert not db.delete_session("s")


def test_a_session_is_renamed_with_all_else_as_it_was(db: Any, store: StateStore) -> None:
    db.upsert_session(agent_session(session_data={"session_state": {"k": 1}}, agent_data={"name": "Guide"}))
    db.upsert_run(made_run("r1"), "s")
    renamed = db.rename_session("s", SessionType.AGENT, "Walks")
    assert renamed.session_data == {"session_state": {"k": 1}, "session_name": "Walks"}
    assert (renamed.agent_data, [run.run_id for run in renamed.runs]) == ({"name": "Guide"}, ["r1"])
    assert store.sessions.get("s").title == "Walks"
    assert db.rename_session("missing", None, "x") is None


def test_an_idle_session_can_be_given_to_another_user(db: Any) -> None:
    db.upsert_session(agent_session())
    db.upsert_run(made_run("r1", status=RunStatus.running), "s")
    assert not db.reassign_session_owner("s", previous_user_id="ada", user_id="bob")
    db.upsert_run(made_run("r1"), "s")
    assert not db.reassign_session_owner("s", previous_user_id="eve", user_id="bob")
    assert db.reassign_session_owner("s", previous_user_id="ada", user_id="bob")
    assert db.get_session("s").user_id == "bob"


def test_a_pending_run_is_cancelled_unless_it_has_gone_on(db: Any) -> None:
    db.upsert_session(agent_session())
    db.upsert_run(made_run("r1", "", status=RunStatus.pending), "s", user_id="ada")
    cancel: dict[str, Any] = {"session_id": "s", "reason": "too late"}
    assert not db.cancel_pending_run("r1", user_id="bob", **cancel)
    assert not db.cancel_pending_run("r1", user_id="ada", expected_status="RUNNING", **cancel)
    assert db.cancel_pending_run("r1", user_id="ada", **cancel)
    assert not db.cancel_pending_run("r1", user_id="ada", **cancel)
    assert not db.cancel_pending_run("missing", **cancel)
    assert (db.get_run("r1").status, db.get_run("r1").content) == (RunStatus.cancelled, "too late")
    with pytest.raises(ValueError, match="PENDING or RUNNING"):
        db.cancel_pending_run("r1", expected_status="COMPLETED", **cancel)


def test_runs_are_listed_and_deleted(db: Any, store: StateStore) -> None:
    for session_id in ("s", "t"):
        db.upsert_session(agent_session(session_id))
    for run_id, session_id in (("r1", "s"), ("r2", "s"), ("r3", "t")):
        db.upsert_run(made_run(run_id, status=RunStatus.error if run_id == "r2" else RunStatus.completed), session_id)
    assert [run.run_id for run in db.get_runs(session_id="s")] == ["r1", "r2"]
    assert sorted(run.run_id for run in db.get_runs(status=RunStatus.completed)) == ["r1", "r3"]
    rows, total = db.get_runs(agent_id="guide", limit=1, page=2, sort_by="run_id", sort_order="asc", deserialize=False)
    assert ([row["run_id"] for row in rows], total) == (["r2"], 3)
    assert [db.delete_run("r1"), db.delete_run("r1"), db.delete_run("missing")] == [True, False, False]
    db.delete_runs(["r3", "missing"])
    assert db.get_run("r1") is None
    assert [run.run_id for run in db.get_session("s").runs] == ["r2"]
    assert [run.run_id for run in db.get_runs()] == ["r2"]
    assert store.usage.totals().input_tokens == 30


def test_a_run_needs_an_id_and_a_session(db: Any) -> None:
    with pytest.raises(ValueError, match="run_id"):
        db.upsert_run({"agent_id": "guide"}, "s")
    with pytest.raises(SessionNotFoundError):
        db.upsert_run(made_run("r1"), "missing")
    with pytest.raises(InvalidValueError):
        db.upsert_session(agent_session("x" * 600))


def test_what_else_agno_has_says_that_it_is_not_here(db: Any) -> None:
    with pytest.raises(NotImplementedError, match="sessions and runs only, and no get_user_memories"):
        db.get_user_memories()
    assert BaseDb in StatestoreDb.__mro__
    assert AsyncBaseDb in AsyncStatestoreDb.__mro__


def test_a_fork_shows_and_goes_its_own_way(db: Any, store: StateStore) -> None:
    db.upsert_session(agent_session(session_data={"session_name": "Walks"}))
    for run_id in ("r1", "r2"):
        db.upsert_run(made_run(run_id), "s")
    store.sessions.fork("s", "retry", at_seq=1)
    db.upsert_run(made_run("r1", "changed"), "retry")
    db.upsert_run(made_run("r3"), "retry")
    assert [(run.run_id, run.content) for run in db.get_session("retry").runs] == [("r1", "changed"), ("r3", "done")]
    assert [(run.run_id, run.content) for run in db.get_session("s").runs] == [("r1", "done"), ("r2", "done")]
    assert sorted(ids(db.get_sessions(session_name="walks"))) == ["retry", "s"]
    assert store.usage.totals().input_tokens == 30


def test_sessions_of_others_in_the_store_are_left_alone(db: Any, store: StateStore) -> None:
    store.sessions.create("s", metadata={"theirs": 1})
    assert db.get_session("s") is None
    assert db.get_sessions() == []
    db.upsert_session(agent_session())
    assert db.get_session("s").agent_id == "guide"
    assert store.sessions.get("s").metadata["theirs"] == 1
    db.upsert_run(made_run("r1"), "s")
    store.history.append("s", [{"role": "user", "content": "not a run"}])
    assert [run.run_id for run in db.get_session("s").runs] == [run.run_id for run in db.get_runs()] == ["r1"]


def test_sessions_of_others_are_not_deleted(db: Any, store: StateStore) -> None:
    for session_id in ("one", "two"):
        store.sessions.create(session_id, user_id="ada")
    db.upsert_session(agent_session())
    assert not db.delete_session("one")
    db.delete_sessions(["one", "two", "s", "missing"])
    assert [store.sessions.find(one) is not None for one in ("one", "two", "s")] == [True, True, False]


def test_a_lazy_store_is_closed_by_its_owner(db: Any, store: StateStore) -> None:
    db.upsert_session(agent_session())
    db.close()
    assert store.sessions.get("s").user_id == "ada"


def test_it_expires_is_swept_and_erased(database_url: str, clock: MovableClock) -> None:
    with StateStore.open(database_url, clock=clock) as store:
        db: Any = StatestoreDb(store, ttl=timedelta(hours=1))
        db.upsert_session(agent_session())
        db.upsert_run(made_run("r1"), "s")
        clock.advance(minutes=50)
        assert db.get_session("s") is not None
        clock.advance(hours=2)
        assert db.get_session("s") is None
        assert db.get_sessions() == []
        assert store.sweep()["expired_sessions"].rows == 1
        assert store.usage.totals().input_tokens == 10
        db.upsert_session(agent_session())
        assert store.sessions.delete_user("ada").sessions == 1
        assert db.get_session("s") is None


def test_order_survives_equal_times(db: Any) -> None:
    db.upsert_session(agent_session())
    for number in range(30):
        db.upsert_run(made_run(f"r{number}", created_at=1_700_000_000), "s")
    assert [run.run_id for run in db.get_session("s").runs] == [f"r{number}" for number in range(30)]


def test_writers_at_once_lose_nothing(lazy: LazyStore) -> None:
    db: Any = StatestoreDb(lazy)

    def write(writer: int) -> None:
        for number in range(8):
            assert db.upsert_session(agent_session(session_data={"writer": writer})) is not None
            db.upsert_run(made_run(f"{writer}.{number}"), "s")
            db.rename_session("s", None, f"{writer}.{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    runs = [run.run_id for run in db.get_session("s").runs]
    assert sorted(runs) == sorted(f"{writer}.{number}" for writer in range(4) for number in range(8))
    for writer in range(4):
        assert [run for run in runs if run.startswith(f"{writer}.")] == [f"{writer}.{number}" for number in range(8)]


WRITERS = """
import multiprocessing, sys
from agno.session import AgentSession
from statestore.adapters.agno import StatestoreDb
from tests.adapters.agno.fake import made_run

def write(number):
    gate.wait()
    db = StatestoreDb(sys.argv[1])
    assert db.upsert_session(AgentSession("s", agent_id="guide", user_id="ada"))
    db.upsert_run(made_run(str(number)), "s")

forking = multiprocessing.get_context("fork")
gate = forking.Barrier(8)
started = [forking.Process(target=write, args=[number]) for number in range(8)]
for process in started:
    process.start()
for process in started:
    process.join()
sys.exit(any(process.exitcode for process in started))
"""


def test_eight_processes_begin_at_once(database_url: str, tmp_path: Path) -> None:
    # On SQLite a file that is not there yet; PostgreSQL gets its schema in a deployment.
    url = database_url if database_url.startswith("postgresql") else f"sqlite:///{tmp_path / 'new.db'}"
    subprocess.run([sys.executable, "-c", WRITERS, url], check=True, timeout=100, cwd=Path(__file__).parents[3])
    db: Any = StatestoreDb(url)
    assert sorted(run.run_id for run in db.get_session("s").runs) == [str(number) for number in range(8)]
    db.close()


def test_an_agent_goes_on_where_another_one_left_off(lazy: LazyStore, store: StateStore) -> None:
    given: dict[str, Any] = {"id": "guide", "session_id": "s", "user_id": "ada", "add_history_to_context": True}
    called = Agent(model=FakeModel(), db=StatestoreDb(lazy), telemetry=False, **given)
    assert [called.run("one").content, called.run("two").content] == ["1 messages", "3 messages"]
    awaited = Agent(model=FakeModel(), db=AsyncStatestoreDb(lazy), telemetry=False, **given)
    assert asyncio.run(awaited.arun("three")).content == "5 messages"
    assert store.usage.totals(user_id="ada").input_tokens == 30


def test_a_team_and_its_member_share_a_session(lazy: LazyStore, store: StateStore) -> None:
    db: Any = StatestoreDb(lazy)
    member = Agent(id="member", model=FakeModel(), telemetry=False)
    team = Team(id="crew", members=[member], model=FakeModel(), db=db, telemetry=False)
    assert team.run("one", session_id="s", user_id="ada").content
    [session] = db.get_sessions(session_type=SessionType.TEAM, component_id="crew", user_id="ada")
    assert [run.status for run in session.runs] == [RunStatus.completed]
    assert store.usage.totals().input_tokens == 10


@pytest.mark.parametrize(
    ("act", "most"),
    [
        (lambda db: db.get_session("s"), 2),
        (lambda db: db.get_session("s", runs_limit=3), 2),
        (lambda db: db.get_sessions(user_id="ada", limit=20, deserialize=False, include_runs=False), 1),
        (lambda db: db.get_sessions(user_id="ada", limit=20), 2),
        (lambda db: db.upsert_run(made_run(str(time.perf_counter_ns())), "s"), 1),
        (lambda db: db.upsert_run(made_run("r1", str(time.perf_counter_ns())), "s"), 2),
        (lambda db: db.upsert_session(agent_session()), 2),
    ],
    ids=["get", "get some runs", "list", "list with runs", "run", "run that goes on", "upsert"],
)
def test_operations_take_few_transactions(traffic: Traffic, act: Callable[[Any], Any], most: int) -> None:
    with StateStore.open(traffic.url) as store:
        db: Any = StatestoreDb(store)
        db.upsert_session(agent_session())
        for _ in range(8):
            traffic.clear()
            act(db)
        if traffic.url.startswith("postgresql"):
            assert len(traffic.statements) == most
        assert traffic.transactions <= most


@pytest.mark.parametrize("seconds", [1_700_000_000_000, 10**18, "2026"], ids=["milliseconds", "nanoseconds", "text"])
def test_a_time_that_is_not_in_seconds_is_refused(db: Any, seconds: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"^created_at: must be a time in seconds since 1970$"):
        db.upsert_session(agent_session(created_at=seconds))
    with pytest.raises(InvalidValueError, match=r"^start_timestamp: "):
        db.get_sessions(start_timestamp=seconds)
    if not isinstance(seconds, str):
        with pytest.raises(InvalidValueError, match=r"^end_timestamp: "):
            db.get_sessions(end_timestamp=seconds)
    assert db.get_session("s") is None
