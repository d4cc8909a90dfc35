"""The semantics of a log of pydantic-ai's messages on our API, in the model of `pydantic_ai_model`."""

from collections.abc import Callable
from typing import Any

import pytest

from statestore import ConflictError
from tests.thirdparty.pydantic_ai_model import MessageLog

Store = Any


def message(message_id: str, text: str = "x", kind: str = "request") -> dict[str, Any]:
    return {"id": message_id, "kind": kind, "run_id": "run", "parts": [{"part_kind": "user-prompt", "content": text}]}


@pytest.fixture
def log(store: Store) -> MessageLog:
    return MessageLog(store, "thread-1", owner_id="user-42")


def test_messages_are_appended_once_by_their_ids(log: MessageLog, store: Store) -> None:
    assert log.append([message("a"), message("b", kind="response")]) == [1, 2]
    assert log.append([message("b", kind="response"), message("c")]) == [2, 3]
    assert [one["id"] for one in log.after()] == ["a", "b", "c"]
    assert store.sessions.get("thread-1").user_id == "user-42"


def test_a_message_is_found_by_its_id_here_and_anywhere(log: MessageLog, store: Store) -> None:
    log.append([message("a"), message("b")])
    MessageLog(store, "thread-2").append([message("c")])
    assert (log.find("b"), log.find("c")) == (message("b"), None)
    assert (log.where("c"), log.where("missing")) == (["thread-2"], [])
    assert log.after("a") == [message("b")]


def test_another_message_with_the_same_id_is_refused_and_named(log: MessageLog) -> None:
    log.append([message("a"), message("b")])
    with pytest.raises(ConflictError) as caught:
        log.append([message("c"), message("b", "changed")])
    assert caught.value.entry_id == "b"
    assert [one["id"] for one in log.after()] == ["a", "b"]


def test_another_message_with_the_same_id_is_kept_out_or_replaces_the_old(log: MessageLog) -> None:
    log.append([message("a"), message("b")])
    assert log.append([message("a", "changed"), message("c")], on_conflict="keep") == [1, 3]
    assert log.find("a") == message("a")
    assert log.append([message("a", "changed"), message("d")], on_conflict="replace") == [1, 4]
    assert [one["parts"][0]["content"] for one in log.after()] == ["changed", "x", "x", "x"]


def test_a_rating_stands_beside_the_message(log: MessageLog, store: Store) -> None:
    log.append([message("a")])
    log.rate("a", 5)
    entry = store.history.find("thread-1", "a")
    assert (entry.content, entry.metadata["rating"]) == (message("a"), 5)


def test_finding_takes_one_statement(
    counted_store: Store, statements: Callable[[Callable[[], Any]], int], on_postgresql: bool
) -> None:
    log = MessageLog(counted_store, "thread-1")
    log.append([message(str(n)) for n in range(100)])
    assert statements(lambda: log.find("50")) == 1
    assert statements(lambda: log.where("50")) == 1
    numbers = iter(range(1000))
    cost = statements(lambda: log.append([message(f"new {next(numbers)}")], on_conflict="keep"))
    assert cost == 1 or not on_postgresql
