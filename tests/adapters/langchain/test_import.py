"""What LangChain's own SQL history wrote is read by ours."""

import json
import warnings
from collections.abc import Iterator

import pytest
from langchain_core.messages import HumanMessage
from sqlalchemy import Engine, create_engine

from statestore import LazyStore, StateStore
from statestore.adapters.langchain import StatestoreChatMessageHistory
from statestore.importers import DatabaseReport, Problem, langchain
from tests.adapters.langchain.test_history import EVERY_KIND

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # It says that it is no longer maintained.
    from langchain_community.chat_message_histories import SQLChatMessageHistory


@pytest.fixture
def theirs(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url.replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


@pytest.fixture
def store(empty_sqlite_url: str) -> Iterator[StateStore]:
    with StateStore.open(f"{empty_sqlite_url}.ours") as store:
        yield store


def test_their_reader_and_ours_find_the_same(theirs: Engine, database_url: str, store: StateStore) -> None:
    for session_id in ("chat/1", "chat", "empty"):
        history = SQLChatMessageHistory(session_id, connection=theirs)
        if session_id != "empty":
            history.add_messages(EVERY_KIND)
    assert langchain(store, database_url) == DatabaseReport(sessions=2, entries=20, added=20)
    for session_id in ("chat/1", "chat"):
        read = SQLChatMessageHistory(session_id, connection=theirs).messages
        assert StatestoreChatMessageHistory(session_id, store).messages == read == EVERY_KIND
    assert store.usage.totals().input_tokens == 20


def test_again_it_adds_what_is_new(theirs: Engine, database_url: str, store: StateStore) -> None:
    history = SQLChatMessageHistory("s", connection=theirs)
    history.add_messages(EVERY_KIND)
    langchain(store, database_url)
    assert langchain(store, database_url) == DatabaseReport(sessions=1, entries=10, unchanged=1)
    history.add_messages([HumanMessage("more")])
    assert langchain(store, database_url) == DatabaseReport(sessions=1, entries=11, added=1)
    assert store.usage.totals().input_tokens == 10
    store.history.replace("s", 1, {"role": "user", "content": "changed here"})
    report = langchain(store, database_url)
    assert (report.differing, report.complete) == (("s",), False)


def test_a_bad_message_keeps_its_chat_out_and_no_other(theirs: Engine, database_url: str, store: StateStore) -> None:
    for session_id in ("a", "bad", "c"):
        SQLChatMessageHistory(session_id, connection=theirs).add_messages([HumanMessage(session_id)])
    with theirs.begin() as connection:
        wrong = json.dumps({"type": "human", "data": "secret"})
        connection.exec_driver_sql(f"UPDATE message_store SET message = '{wrong}' WHERE session_id = 'bad'")
    problems: list[Problem] = []
    report = langchain(store, database_url, on_problem=problems.append)
    assert (report.sessions, report.failed) == (2, 1)
    assert "session 'bad'" in problems[0].source
    assert "secret" not in str(problems)
    assert StatestoreChatMessageHistory("c", LazyStore.of(store)).messages == [HumanMessage("c")]


def test_messages_of_no_chat_are_reported_and_hide_no_other(
    theirs: Engine, database_url: str, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statestore.importers.langchain_messages._PAGE", 2)  # None of the chat is on the first page.
    SQLChatMessageHistory("s", connection=theirs).add_messages([HumanMessage("lost")] * 4 + [HumanMessage("kept")])
    with theirs.begin() as connection:
        connection.exec_driver_sql("UPDATE message_store SET session_id = NULL WHERE id < 5")
    problems: list[Problem] = []
    report = langchain(store, database_url, on_problem=problems.append)
    assert (report.sessions, report.entries, report.failed) == (1, 1, 1)
    assert "without an id" in problems[0].source
    assert StatestoreChatMessageHistory("s", LazyStore.of(store)).messages == [HumanMessage("kept")]
