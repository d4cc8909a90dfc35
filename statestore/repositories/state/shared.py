"""The state of users and of agents: the operations on the state of a session, on another table."""

from typing import ClassVar

from statestore.repositories.state import scopes
from statestore.repositories.state.repository import StateRepository
from statestore.repositories.state.scopes import Scope
from statestore.repositories.state.statements import APP_STATEMENTS, USER_STATEMENTS, Statements


class UserStateRepository(StateRepository, group="user_state"):
    """Named values of a user, shared by all sessions."""

    _scope: ClassVar[Scope] = scopes.USER
    _sql: ClassVar[Statements] = USER_STATEMENTS


class AppStateRepository(StateRepository, group="app_state"):
    """Named values of an agent, shared by all users and sessions."""

    _scope: ClassVar[Scope] = scopes.APP
    _sql: ClassVar[Statements] = APP_STATEMENTS
