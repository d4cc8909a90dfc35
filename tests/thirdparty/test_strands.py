"""The semantics of strands' repository of messages on our API, in the model of `strands_model`."""

from collections.abc import Callable
from typing import Any

import pytest

from statestore import EntryNotFoundError
from tests.thirdparty.strands_model import StrandsRepository

Store = Any


def say(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": [{"text": text}]}


SECRET = "4111 1111 1111 1111"
REDACTED = say("[redacted by the guardrail]")


@pytest.fixture
def repository(store: Store) -> StrandsRepository:
    repository = StrandsRepository(store, "session")
    repository.create_agent("planner", {"step": 1})
    return repository


def test_messages_have_an_index_and_are_listed_from_an_offset(repository: StrandsRepository) -> None:
    assert [repository.create_message("planner", say(str(n))) for n in range(5)] == [0, 1, 2, 3, 4]
    assert repository.read_message("planner", 3) == say("3")
    assert repository.read_message("planner", 5) is None
    assert repository.list_messages("planner") == [say(str(n)) for n in range(5)]
    assert repository.list_messages("planner", offset=2, limit=2) == [say("2"), say("3")]


def test_a_redacted_message_is_gone_and_the_rest_stays(repository: StrandsRepository, store: Store) -> None:
    for text in ("Hello", f"My card is {SECRET}", "Thank you"):
        index = repository.create_message("planner", say(text))
    repository.update_message("planner", 1, REDACTED)
    assert repository.list_messages("planner") == [say("Hello"), REDACTED, say("Thank you")]
    assert index == 2
    assert SECRET not in repr(store.sessions.load("session/planner"))
    with pytest.raises(EntryNotFoundError):
        repository.update_message("planner", 3, REDACTED)


def test_a_redaction_in_a_fork_leaves_what_it_was_forked_from(repository: StrandsRepository, store: Store) -> None:
    repository.create_message("planner", say(SECRET))
    store.sessions.fork("session/planner", "fork")
    store.history.replace("fork", 1, REDACTED)
    assert (store.history.messages("fork"), repository.list_messages("planner")) == ([REDACTED], [say(SECRET)])


def test_agents_have_state_and_belong_to_the_session(repository: StrandsRepository, store: Store) -> None:
    repository.create_message("writer", say("made on the way"))
    repository.update_agent("planner", {"step": 2, "plan": ["a"]})
    assert repository.read_agent("planner") == {"step": 2, "plan": ["a"]}
    assert repository.read_agent("missing") is None
    assert set(repository.agents()) == {"planner", "writer"}
    assert [one.session_id for one in store.sessions.page().sessions] == ["session"]
    repository.delete()
    assert repository.read_agent("planner") is None


def test_a_redaction_takes_one_statement(
    counted_store: Store, statements: Callable[[Callable[[], Any]], int], on_postgresql: bool
) -> None:
    repository = StrandsRepository(counted_store, "session")
    for n in range(30):
        repository.create_message("planner", say(str(n)))
    cost = statements(lambda: repository.update_message("planner", 29, REDACTED))
    assert cost == 1 or not on_postgresql
    assert statements(lambda: repository.list_messages("planner", offset=10, limit=10)) == 1
