"""What each column of `sessions` is: an attribute that goes wherever its session goes, or not one, and why."""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from statestore import ConversationState, NewSession, Session, StateStore, schema
from statestore.repositories.expiry import erasure
from statestore.repositories.portable import portable_values
from statestore.repositories.sessions.repository import SessionsRepository
from statestore.repositories.sessions.session_columns import ATTRIBUTES

COLUMNS = {column.name for column in schema.sessions.columns}

# Each exception with its reason: a column that is new is in neither list, and a test fails.
NO_ATTRIBUTES = {
    "names a session": "namespace session_id parent_session_id root_session_id forked_at_seq belongs_to",
    "follows from the history": "first_seq next_seq last_turn",
    "follows from what was done, and when": "status revision expires_at created_at last_activity_at active_hour",
    "is of a lease, not of the session": "lease_owner lease_token lease_until",
}
NOT_ERASED = {
    "names a session, by which its rows are found": NO_ATTRIBUTES["names a session"],
    "names an agent, not a user": "agent_name",
    "counts, and is needed until the rows are deleted": "first_seq next_seq last_turn revision lease_token",
    "says nothing that the rows of the usage do not": "status created_at last_activity_at active_hour",
}
NOT_EXPORTED = {
    "is that of the store that imports": "namespace",
    "ends with the store": "lease_owner lease_token lease_until",
    "follows from another": "active_hour",
}

GIVEN: dict[str, Any] = {
    "user_id": "ada",
    "agent_name": "coder",
    "title": "A title",
    "instructions": "Be brief.",
    "metadata": {"a": 1},
    "project_root": "/project",
    "cwd": "/project/src",
    "ttl": timedelta(days=3),
}


def names(reasons: dict[str, str]) -> set[str]:
    return {name for some in reasons.values() for name in some.split()}


def attributes(found: Session | ConversationState) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ATTRIBUTES}


def test_a_column_is_an_attribute_or_not_one_for_a_reason() -> None:
    assert set(ATTRIBUTES) == COLUMNS - names(NO_ATTRIBUTES)
    assert set(ATTRIBUTES) == set(GIVEN)


def test_a_column_is_erased_with_its_user_or_kept_for_a_reason() -> None:
    changes, _, _ = erasure._HIDE.partition("WHERE")
    erased = set(re.findall(r"(\w+) = ", changes))
    assert erased == COLUMNS - names(NOT_ERASED)


def test_a_column_is_exported_or_left_behind_for_a_reason() -> None:
    exported = {column.name for column in portable_values.carried(schema.sessions)}
    assert exported == COLUMNS - names(NOT_EXPORTED)


@pytest.mark.parametrize(
    "takes",
    [NewSession, ConversationState, SessionsRepository.create, SessionsRepository.open, SessionsRepository.update],
)
def test_an_attribute_is_taken_by_all_that_write_a_session(takes: Callable[..., Any]) -> None:
    assert set(ATTRIBUTES) <= set(inspect.signature(takes).parameters)


def test_an_attribute_is_read_with_its_session() -> None:
    assert set(ATTRIBUTES) <= {field.name for field in fields(Session)}


def test_a_fork_and_a_saved_conversation_have_all_attributes(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        assert attributes(store.sessions.create("source", **GIVEN)) == GIVEN
        assert attributes(store.sessions.fork("source", "fork")) == GIVEN
        conversation = store.sessions.load("source")
        assert attributes(conversation) == GIVEN
        conversation.session_id = "copy"
        store.sessions.save(conversation, create=True)
        assert attributes(store.sessions.get("copy")) == GIVEN
