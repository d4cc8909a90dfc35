"""The state of users and of agents: the operations on the state of a session, on another table."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar, Literal

from statestore.checking import checks
from statestore.engine.calls import writes_in_one_statement
from statestore.repositories.state import scopes
from statestore.repositories.state.repository import StateRepository
from statestore.repositories.state.scopes import Scope
from statestore.repositories.state.statements import APP_STATEMENTS, USER_STATEMENTS, Statements
from statestore.values.state import StateEntry


class UserStateRepository(StateRepository, group="user_state"):
    """Named values of a user, shared by all sessions."""

    _scope: ClassVar[Scope] = scopes.USER
    _sql: ClassVar[Statements] = USER_STATEMENTS


class AppStateRepository(StateRepository, group="app_state"):
    """Named values of an agent, shared by all users and sessions."""

    _scope: ClassVar[Scope] = scopes.APP
    _sql: ClassVar[Statements] = APP_STATEMENTS

    @writes_in_one_statement
    def set(  # type: ignore[override]  # No session is there to be created.
        self,
        agent_name: str,
        key: str,
        value: Any,
        *,
        ttl: timedelta | None = None,
        expected_version: int | None = None,
        only_if: Literal["missing", "present"] | None = None,
        user_id: str | None = None,
    ) -> StateEntry | None:
        """As `state.set`, for *agent_name*: it takes no session, so there is no TTL to extend.

        Args:
            agent_name: The agent.
            key: As for `state.set`, like the next four.
            value: …
            ttl: …
            expected_version: …
            only_if: …
            user_id: The user whom the value is about: `sessions.delete_user` erases the key with all else of theirs.
                The key stays this user's until a write names another one.
        """
        user_id = checks.optional_key(user_id, "user_id")
        return self._set(agent_name, key, value, ttl, expected_version, only_if, user_id=user_id)

    @writes_in_one_statement
    def set_many(  # type: ignore[override]
        self,
        agent_name: str,
        values: Mapping[str, Any],
        *,
        ttl: timedelta | None = None,
        only_if: Literal["missing"] | None = None,
        user_id: str | None = None,
    ) -> dict[str, StateEntry]:
        """As `state.set_many`, for *agent_name*. For *user_id* see `set`."""
        user_id = checks.optional_key(user_id, "user_id")
        return self._set_many(agent_name, values, ttl, only_if, user_id=user_id)
