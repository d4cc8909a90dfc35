"""What strands asks of a repository, and what the store adds."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from strands import Agent, tool
from strands.session.repository_session_manager import RepositorySessionManager
from strands.types.exceptions import SessionException
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

from statestore import InvalidValueError, LazyStore, StateStore
from statestore.adapters.strands import StatestoreSessionRepository, agent_session_id
from tests.adapters.strands.fake_model import FakeModel
from tests.support.clock import MovableClock
from tests.support.wire import Traffic

Repository = StatestoreSessionRepository
PLANNER = agent_session_id("trip", "planner")
SECRET = "4111 1111 1111 1111"


def say(text: str, role: str = "user", **fields: Any) -> Any:
    return {"role": role, "content": [{"text": text}], **fields}


def agent(agent_id: str = "planner", **state: Any) -> SessionAgent:
    return SessionAgent(agent_id, state, {"removed": 0}, {"interrupt_state": {}})


def message(index: int, text: str = "hello", **fields: Any) -> SessionMessage:
    return SessionMessage.from_message(say(text, **fields), index)


@pytest.fixture
def begun(repository: Repository) -> Repository:
    """A session with one agent."""
    repository.create_session(Session("trip", SessionType.AGENT))
    repository.create_agent("trip", agent(step=1))
    return repository


def test_a_session_comes_back_as_it_was(repository: Repository) -> None:
    assert repository.read_session("trip") is None
    session = Session("trip", SessionType.AGENT, "2025-01-02T03:04:05Z", "2025-01-02T03:04:06+00:00")
    assert repository.create_session(session) is session
    assert repository.read_session("trip") == session
    with pytest.raises(SessionException, match="already exists"):
        repository.create_session(session)
    repository.delete_session("trip")
    assert repository.read_session("trip") is None
    with pytest.raises(SessionException, match="does not exist"):
        repository.delete_session("trip")


def test_an_agent_comes_back_as_it_was_and_keeps_when_it_was_created(begun: Repository) -> None:
    given = agent("writer", plan=["a", {"b": None}], data=b"\x00\xff")
    begun.create_agent("trip", given)
    assert begun.read_agent("trip", "writer") == given
    changed = agent("writer", plan=(1, 2))
    changed.created_at = "later"
    begun.update_agent("trip", changed)
    found = begun.read_agent("trip", "writer")
    assert found is not None
    assert (found.created_at, found.updated_at, found.state) == (given.created_at, changed.updated_at, {"plan": [1, 2]})
    assert begun.read_agent("trip", "missing") is None
    assert begun.read_agent("missing", "writer") is None


def test_messages_come_back_as_they_were_in_order(begun: Repository) -> None:
    given = [message(n, str(n), tracking_id=f"t{n}", metadata={"custom": {"n": n}}) for n in range(5)]
    given[3].message["content"].append({"image": {"format": "png", "source": {"bytes": b"\x89PNG"}}})
    for one in given:
        begun.create_message("trip", "planner", one)
    assert begun.list_messages("trip", "planner") == given
    assert begun.list_messages("trip", "planner", offset=1, limit=2) == given[1:3]
    assert begun.list_messages("trip", "planner", limit=0) == begun.list_messages("trip", "planner", offset=5) == []
    assert begun.read_message("trip", "planner", 3) == given[3]
    assert begun.read_message("trip", "planner", 5) is None
    assert begun.read_message("trip", "missing", 0) is None


def test_order_survives_equal_times(begun: Repository) -> None:
    for n in range(20):
        one = message(n, str(n))
        one.created_at = one.updated_at = "2025-01-02T03:04:05+00:00"
        begun.create_message("trip", "planner", one)
    texts = [one.message["content"][0]["text"] for one in begun.list_messages("trip", "planner")]
    assert texts == [str(n) for n in range(20)]


def test_a_message_that_is_updated_keeps_when_it_was_created(begun: Repository) -> None:
    first = message(0, f"My card is {SECRET}")
    begun.create_message("trip", "planner", first)
    begun.create_message("trip", "planner", message(1))
    given = message(0, f"My card is {SECRET}")
    given.redact_message, given.created_at = say("[redacted]"), "later"
    begun.update_message("trip", "planner", given)
    found = begun.list_messages("trip", "planner")[0]
    assert (found.message, found.to_message()) == (first.message, say("[redacted]"))
    assert (found.created_at, found.updated_at) == (first.created_at, given.updated_at)
    for index, agent_id in ((2, "planner"), (0, "missing")):
        with pytest.raises(SessionException, match="does not exist"):
            begun.update_message("trip", agent_id, message(index))


def test_readers_of_the_store_see_the_redacted_message(begun: Repository, store: StateStore) -> None:
    given = message(0, SECRET)
    begun.create_message("trip", "planner", given)
    given.redact_message = say("[redacted]")
    begun.update_message("trip", "planner", given)
    assert store.history.messages(PLANNER) == [say("[redacted]")]


def test_a_message_has_to_be_the_next_one(begun: Repository) -> None:
    begun.create_message("trip", "planner", message(0, "first"))
    for index in (0, 2):
        with pytest.raises(SessionException, match="not the next one"):
            begun.create_message("trip", "planner", message(index, "another"))
    again = begun.read_message("trip", "planner", 0)
    assert again is not None
    begun.create_message("trip", "planner", again)
    assert begun.list_messages("trip", "planner") == [again]


def test_what_is_missing_is_said_as_strands_does(repository: Repository) -> None:
    repository.create_session(Session("trip", SessionType.AGENT))
    calls: list[Callable[[], Any]] = [
        lambda: repository.create_agent("missing", agent()),
        lambda: repository.update_agent("trip", agent()),
        lambda: repository.create_message("trip", "planner", message(0)),
        lambda: repository.list_messages("trip", "planner"),
        lambda: repository.create_multi_agent("missing", Mock(id="swarm", serialize_state=dict)),
        lambda: repository.update_multi_agent("trip", Mock(id="swarm", serialize_state=dict)),
    ]
    for call in calls:
        with pytest.raises(SessionException, match="does not exist"):
            call()


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", None, 5])
def test_ids_that_strands_does_not_allow_are_named(repository: Repository, name: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"^session_id: "):
        repository.read_session(name)
    with pytest.raises(InvalidValueError, match=r"^agent_id: "):
        repository.read_agent("trip", name)
    with pytest.raises(InvalidValueError, match=r"^multi_agent_id: "):
        repository.read_multi_agent("trip", name)
    with pytest.raises(InvalidValueError, match=r"^message_id: "):
        repository.read_message("trip", "planner", "1")  # type: ignore[arg-type]


def test_multi_agents_have_a_state(begun: Repository) -> None:
    assert begun.read_multi_agent("trip", "swarm") is None
    begun.create_multi_agent("trip", Mock(id="swarm", serialize_state=lambda: {"node": 1, "next": ("a",)}))
    assert begun.read_multi_agent("trip", "swarm") == {"node": 1, "next": ["a"]}
    begun.update_multi_agent("trip", Mock(id="swarm", serialize_state=lambda: {"node": 2}))
    assert begun.read_multi_agent("trip", "swarm") == {"node": 2}
    assert begun.read_multi_agent("missing", "swarm") is None


def test_of_writers_at_once_one_adds_the_next_message(begun: Repository, database_url: str) -> None:
    repositories = [Repository(database_url) for _ in range(4)]
    barrier = threading.Barrier(len(repositories))

    def write(number: int) -> str:
        barrier.wait(30)
        try:
            repositories[number].create_message("trip", "planner", message(0, str(number)))
        except SessionException:
            return "refused"
        return "done"

    with ThreadPoolExecutor(len(repositories)) as pool:
        assert sorted(pool.map(write, range(4))) == ["done", *["refused"] * 3]
    assert len(begun.list_messages("trip", "planner")) == 1
    for one in repositories:
        one.close()


# The framework is imported once, and takes seconds; then there are eight processes.
FIRST_USE = """
import multiprocessing, sys
from strands import Agent
from strands.session.repository_session_manager import RepositorySessionManager
from statestore.adapters.strands import StatestoreSessionRepository
from tests.adapters.strands.fake_model import FakeModel

def run(session_id):
    repository = StatestoreSessionRepository(sys.argv[1])
    barrier.wait(60)
    manager = RepositorySessionManager(session_id, repository)
    Agent(model=FakeModel("Hello."), session_manager=manager, callback_handler=None)("Hi")
    repository.close()

context = multiprocessing.get_context("fork")
barrier = context.Barrier(8)
processes = [context.Process(target=run, args=[f"s{n}"]) for n in range(8)]
for one in processes: one.start()
for one in processes: one.join()
sys.exit(sum(one.exitcode != 0 for one in processes))
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_first_use_by_eight_processes_at_once(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("empty_sqlite_url" if kind == "sqlite" else "postgres_url")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", FIRST_USE, url], env=environment, check=True, timeout=100)
    with StateStore.open(url) as store:
        assert store.sessions.count() == 8
        assert [store.history.count(agent_session_id(f"s{n}", "default")) for n in range(8)] == [2] * 8


@tool
def look_up() -> str:
    """Look it up."""
    return "42"


def talk(repository: Repository, model: FakeModel, session_id: str = "trip", **options: Any) -> Agent:
    manager = RepositorySessionManager(session_id, session_repository=repository)
    return Agent(model=model, tools=[look_up], session_manager=manager, callback_handler=None, **options)


def test_an_agent_goes_on_where_it_was(repository: Repository) -> None:
    first = talk(repository, FakeModel({"tool": "look_up", "id": "c1"}, "It is 42."), agent_id="planner")
    first.state.set("step", 2)
    first("What is it?")
    second = talk(repository, FakeModel("As I said."), agent_id="planner")
    assert (second.messages, second.state.get()) == (first.messages, {"step": 2})
    assert len(second.messages) == 4
    second("Again?")
    assert len(repository.list_messages("trip", "planner")) == 6


def test_tokens_reach_the_reports_once(repository: Repository, store: StateStore) -> None:
    model = FakeModel({"tool": "look_up", "id": "c1"}, "It is 42.")
    talk(repository, model, agent_id="planner")("What is it?")
    talk(repository, model, agent_id="planner")
    totals = store.usage.totals(user_id="ada")
    assert (totals.input_tokens, totals.output_tokens, totals.model_calls) == (20, 10, 2)
    [row] = [row for row in store.usage.by_agent() if row.input_tokens]
    assert row.agent_name == "planner"
    [used] = [row for row in store.usage.by_tool() if row.tool_name]
    assert (used.tool_name, used.tool_calls) == ("look_up", 1)
    entries = store.history.read(PLANNER)
    assert [one.role for one in entries] == ["user", "assistant", "tool", "assistant"]
    assert entries[1].duration is not None
    given = repository.list_messages("trip", "planner")[3]
    given.redact_message = say("[redacted]", "assistant")
    repository.update_message("trip", "planner", given)
    assert store.usage.totals(user_id="ada").input_tokens == 20


@pytest.mark.parametrize(("total", "expected"), [(15, 10), (22, 17), (None, 17)])
def test_cached_tokens_count_once_whatever_the_model_includes(
    begun: Repository, store: StateStore, total: int | None, expected: int
) -> None:
    used = {"inputTokens": 10, "outputTokens": 5, "cacheReadInputTokens": 4, "cacheWriteInputTokens": 3}
    used |= {} if total is None else {"totalTokens": total}
    begun.create_message("trip", "planner", message(0, role="assistant", metadata={"usage": used}))
    begun.create_message("trip", "planner", message(1, role="assistant", metadata={"usage": {}}))
    assert store.usage.totals(session_id=PLANNER).input_tokens == expected


@pytest.mark.parametrize("figure", [-1, 10**9 + 1])
def test_what_a_model_has_made_up_keeps_no_message_out(begun: Repository, store: StateStore, figure: int) -> None:
    used = {"inputTokens": figure, "outputTokens": 5, "totalTokens": figure + 5}
    odd = message(0, role="assistant", metadata={"usage": used})
    odd.message["content"] = [{"toolUse": {"toolUseId": "i" * 513, "name": "n" * 513, "input": {}}}]
    begun.create_message("trip", "planner", odd)
    totals = store.usage.totals(session_id=PLANNER)
    assert (totals.entries, totals.input_tokens, totals.output_tokens) == (1, 0, 5)
    assert begun.list_messages("trip", "planner")[0].message == odd.message


def test_a_fork_shows_through_the_repository(begun: Repository, store: StateStore) -> None:
    for n in range(3):
        begun.create_message("trip", "planner", message(n, str(n)))
    store.sessions.fork(PLANNER, agent_session_id("trip", "retry"), at_seq=2)
    begun.create_message("trip", "retry", message(2, "another way"))
    texts = [one.message["content"][0]["text"] for one in begun.list_messages("trip", "retry")]
    assert texts == ["0", "1", "another way"]
    assert len(begun.list_messages("trip", "planner")) == 3
    found = begun.read_agent("trip", "retry")
    assert found is not None
    assert (found.agent_id, found.state) == ("retry", {"step": 1})
    assert store.history.messages(agent_session_id("trip", "retry"))[-1] == say("another way")


def test_what_the_store_made_shows_through_the_repository(repository: Repository, store: StateStore) -> None:
    store.sessions.create("trip")
    assert repository.read_session("trip") is not None
    repository.create_agent("trip", agent())
    store.history.append(PLANNER, [say("from the store")])
    [found] = repository.list_messages("trip", "planner")
    assert (found.message, found.message_id) == (say("from the store"), 0)


def test_sessions_expire_with_their_agents_and_are_swept(database_url: str, clock: MovableClock) -> None:
    lazy = LazyStore(database_url, clock=clock, default_ttl=timedelta(hours=1))
    repository = Repository(lazy)
    repository.create_session(Session("trip", SessionType.AGENT))
    repository.create_agent("trip", agent())
    repository.create_message("trip", "planner", message(0))
    clock.advance(minutes=59)
    repository.update_agent("trip", agent())
    clock.advance(minutes=59)
    assert repository.read_session("trip") is not None
    clock.advance(minutes=61)
    assert repository.read_session("trip") is None
    assert repository.read_agent("trip", "planner") is None
    assert lazy.sync().sweep()["history_entries"].rows == 1
    lazy.close()


def test_a_user_can_be_erased(begun: Repository, store: StateStore) -> None:
    begun.create_message("trip", "planner", message(0))
    assert store.sessions.delete_user("ada").entries == 1
    assert begun.read_session("trip") is None
    with pytest.raises(SessionException):
        begun.create_message("trip", "planner", message(1))


def test_a_store_that_was_given_stays_open_and_one_that_was_not_is_closed(
    database_url: str, store: StateStore, tmp_path: Path
) -> None:
    Repository(store).close()
    assert store.sessions.count() == 0
    own = Repository(database_url)
    own.create_session(Session("trip", SessionType.AGENT))
    opened = own._store.sync()
    own.close()
    with pytest.raises(Exception, match="closed"):
        opened.sessions.count()
    path = tmp_path / "new.db"
    Repository(f"sqlite:///{path}")
    assert not path.exists()


# Statements on PostgreSQL, and on SQLite, with those of the transaction.
COSTS: dict[str, tuple[int, int]] = {
    "read_session": (1, 1),
    "create_agent": (8, 8),
    "read_agent": (1, 1),
    "update_agent": (1, 4),
    "create_message": (1, 5),
    "update_message": (2, 9),
    "list_messages": (1, 1),
    "read_message": (1, 1),
    "update_multi_agent": (2, 5),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_call_takes_few_statements(name: str, traffic: Traffic, database_url: str) -> None:
    with StateStore.open(traffic.url) as store:
        repository = Repository(store)
        repository.create_session(Session("trip", SessionType.AGENT))
        repository.create_agent("trip", agent())
        for n in range(30):
            repository.create_message("trip", "planner", message(n))
        swarm = Mock(id="swarm", serialize_state=lambda: {"node": 1})
        repository.create_multi_agent("trip", swarm)
        calls: dict[str, Callable[[int], Any]] = {
            "read_session": lambda n: repository.read_session("trip"),
            "create_agent": lambda n: repository.create_agent("trip", agent(f"a{n}")),
            "read_agent": lambda n: repository.read_agent("trip", "planner"),
            "update_agent": lambda n: repository.update_agent("trip", agent(step=n)),
            "create_message": lambda n: repository.create_message("trip", "planner", message(30 + n)),
            "update_message": lambda n: repository.update_message("trip", "planner", message(29, str(n))),
            "list_messages": lambda n: repository.list_messages("trip", "planner", offset=10, limit=10),
            "read_message": lambda n: repository.read_message("trip", "planner", 7),
            "update_multi_agent": lambda n: repository.update_multi_agent("trip", swarm),
        }
        for n in range(8):
            traffic.clear()
            calls[name](n)
    assert len(traffic.statements) == COSTS[name][database_url.startswith("sqlite")], traffic.statements
