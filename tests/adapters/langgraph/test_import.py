"""Threads that langgraph's own savers wrote go on here."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from operator import add
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel

from statestore import StateStore
from statestore.adapters.langgraph import StatestoreSaver
from statestore.importers import langgraph
from statestore.importers.databases import Source


@pytest.fixture
def store(database_url: str) -> Iterator[StateStore]:
    """With the time of the source."""
    with StateStore.open(database_url) as store:
        yield store


class Place(BaseModel):
    name: str


class State(MessagesState):
    places: Annotated[list[Place], add]
    note: str
    photo: bytes


def graph_on(saver: Any) -> Any:
    def agent(state: State) -> dict[str, Any]:
        used = {"input_tokens": 10, "output_tokens": 1, "total_tokens": 11}
        answer = AIMessage("Yes.", id=f"{state['messages'][0].content}-{len(state['messages'])}", usage_metadata=used)
        return {"messages": [answer], "places": [Place(name="Konstanz")], "note": "n" * 300, "photo": b"\0\xff" * 200}

    def each(state: dict[str, Any]) -> dict[str, Any]:
        return {"places": [Place(name=state["name"])]}

    def ask(state: State) -> dict[str, Any]:
        return {"note": interrupt("Which day?")}

    builder = StateGraph(State)
    for node in (agent, each, ask):
        builder.add_node(node)
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", lambda _: [Send("each", {"name": name}) for name in ("Lindau", "Bregenz")])
    builder.add_edge("each", "ask")
    return builder.compile(checkpointer=saver)


@pytest.fixture
def source(request: pytest.FixtureRequest, kind: str) -> str:
    name = "empty_sqlite_url" if kind == "sqlite" else "empty_postgres_url"
    return str(request.getfixturevalue(name)).replace("statestore.db", "theirs.db")


@contextmanager
def theirs(url: str) -> Iterator[Any]:
    if url.startswith("postgresql"):
        with PostgresSaver.from_conn_string(url.replace("+psycopg", "")) as saver:
            saver.setup()
            yield saver
    else:
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), check_same_thread=False)
        yield SqliteSaver(connection)
        connection.close()


THREAD: Any = {"configurable": {"thread_id": "trip", "user_id": "ada"}}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_thread_goes_on_after_an_import(database_url: str, source: str, store: StateStore) -> None:
    with theirs(source) as saver:
        graph = graph_on(saver)
        graph.invoke({"messages": [("user", "Is Saturday good?")]}, THREAD)
        graph.update_state(next(iter(saver.list(THREAD, before=graph.get_state(THREAD).config))).config, {"note": "b"})
        graph.invoke({"messages": [("user", "And Sunday?")]}, THREAD)
        graph.invoke({"messages": [("user", "Hi.")]}, {"configurable": {"thread_id": "a/b"}})
        expected = {name: list(saver.list({"configurable": {"thread_id": name}})) for name in ("trip", "a/b")}
    counted: list[int] = []
    report = langgraph(store, source, progress=counted.append)
    assert (report.sessions, report.failed, report.differing) == (2, 0, ())
    assert report.entries == report.added == sum(counted) > 20
    ours = StatestoreSaver(database_url)
    for name, tuples in expected.items():
        found = list(ours.list({"configurable": {"thread_id": name}}))
        assert [each.config for each in found] == [each.config for each in tuples]
        for mine, other in zip(found, tuples, strict=True):
            assert mine.checkpoint == {key: value for key, value in other.checkpoint.items() if key != "pending_sends"}
            assert (mine.metadata, mine.parent_config) == (other.metadata, other.parent_config)
            assert mine.pending_writes == other.pending_writes
    session = store.sessions.get("trip")
    assert session.user_id == "ada"
    assert session.created_at == datetime.fromisoformat(expected["trip"][-1].checkpoint["ts"])
    totals = store.usage.totals(user_id="ada")
    assert (totals.model_calls, totals.input_tokens) == (2, 20)
    again = langgraph(store, source)
    assert (again.added, again.unchanged, again.entries) == (0, 2, report.entries)
    assert store.usage.totals(user_id="ada") == totals

    done = graph_on(ours).invoke(Command(resume="Sunday"), THREAD)
    assert done["note"] == "Sunday"
    assert [message.type for message in done["messages"]] == ["human", "ai"] * 2
    after = langgraph(store, source)
    assert (after.added, after.complete) == (0, True)
    ours.close()


@pytest.mark.parametrize("kind", ["sqlite"])
def test_what_is_damaged_is_named(database_url: str, source: str, store: StateStore) -> None:
    with theirs(source) as saver:
        graph_on(saver).invoke({"messages": [("user", "Hi.")]}, THREAD)
        graph_on(saver).invoke({"messages": [("user", "Hi.")]}, {"configurable": {"thread_id": "z"}})
        saver.conn.execute("UPDATE checkpoints SET checkpoint = x'85a1' WHERE thread_id = 'trip'")
        saver.conn.execute("UPDATE checkpoints SET type = 'pickle' WHERE thread_id = 'z'")
        saver.conn.commit()
    problems: list[Any] = []
    report = langgraph(store, source, on_problem=problems.append)
    assert (report.sessions, report.failed) == (0, 2)
    assert ["MessagePack" in problems[0].reason, "pickle" in problems[1].reason] == [True, True]
    assert "trip" in problems[0].source


@pytest.mark.parametrize(
    ("kind", "checkpoint"),
    [("sqlite", "type = 'json', checkpoint = '{\"id\": 7}'"), ("postgresql", "checkpoint = '[]', metadata = '[]'")],
)
def test_a_checkpoint_of_another_form_keeps_its_thread_out_and_no_other(
    source: str, store: StateStore, checkpoint: str
) -> None:
    with theirs(source) as saver:
        for thread_id in ("odd", "trip"):
            graph_on(saver).invoke({"messages": [("user", "Hi.")]}, {"configurable": {"thread_id": thread_id}})
        saver.conn.execute(f"UPDATE checkpoints SET {checkpoint} WHERE thread_id = 'odd'")
        saver.conn.commit()
    problems: list[Any] = []
    report = langgraph(store, source, on_problem=problems.append)
    assert (report.sessions, report.failed) == (1, 1)
    assert "odd" in problems[0].source
    assert "form" in problems[0].reason


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_graph_may_run_while_its_thread_is_imported(
    database_url: str, source: str, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Source.read
    with theirs(source) as saver:
        graph = graph_on(saver)
        graph.invoke({"messages": [("user", "Hi.")]}, THREAD)
        reads = 0

        def read_and_run(self: Source, statement: Any) -> Any:
            nonlocal reads
            found = read(self, statement)
            reads += 1
            if reads == 2:
                graph.invoke({"messages": [("user", "And Sunday?")]}, THREAD)
            return found

        monkeypatch.setattr(Source, "read", read_and_run)
        langgraph(store, source)
        monkeypatch.undo()
        expected = saver.get_tuple(THREAD)
        ours = StatestoreSaver(database_url)
        before = {each.config["configurable"]["checkpoint_id"]: each.checkpoint for each in saver.list(THREAD)}
        for found in ours.list(THREAD):
            wanted = before[found.config["configurable"]["checkpoint_id"]]["channel_values"]
            assert found.checkpoint["channel_values"] == wanted
        report = langgraph(store, source)
        assert report.complete
        assert ours.get_tuple(THREAD) == expected
        ours.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_no_checkpoint_is_imported_without_its_values(database_url: str, source: str) -> None:
    with theirs(source) as saver:
        graph = graph_on(saver)
        for number in range(60):
            graph.update_state(THREAD, {"note": f"{number}" * 200}, as_node="ask")
        graph.update_state(THREAD, {"photo": b"0" * 50_000}, as_node="ask")
        for number in range(60):
            graph.update_state(THREAD, {"note": f"{number}" * 200}, as_node="ask")
        expected = {each.config["configurable"]["checkpoint_id"]: each.checkpoint for each in saver.list(THREAD)}
    problems: list[Any] = []
    with StateStore.open(database_url, max_value_bytes=20_000) as small:
        report = langgraph(small, source, on_problem=problems.append)
        assert (report.failed, len(problems)) == (1, 1)
        for found in StatestoreSaver(small).list(THREAD):
            assert found.checkpoint == expected[found.config["configurable"]["checkpoint_id"]]
