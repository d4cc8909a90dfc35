"""agno on a store: the sessions of agents, teams and workflows, and their runs.

    agent = Agent(db=StatestoreDb("postgresql://app@db/agents"), session_id="user-42", add_history_to_context=True)

`StatestoreDb` is for `run`, `AsyncStatestoreDb` for `arun`. They connect at first use. `store` is a URL, a store that
is open, or a `statestore.LazyStore`. The other parts of agno's databases, such as memories and traces, are not here,
and raise `NotImplementedError`; agno itself asks for them only if they are switched on.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

from agno.db.base import AsyncBaseDb, BaseDb

from statestore import LazyStore, StoreLike
from statestore.adapters.agno import runs, sessions
from statestore.adapters.agno.rest import NotHere
from statestore.adapters.flows import Flow, arun, run


def _called(flow: Callable[..., Flow[Any]]) -> Any:
    @wraps(flow)
    def method(self: "StatestoreDb", *args: Any, **kwargs: Any) -> Any:
        return run(self._store.sync(), flow(self._sessions, *args, **kwargs))

    return method


def _awaited(flow: Callable[..., Flow[Any]]) -> Any:
    @wraps(flow)
    async def method(self: "AsyncStatestoreDb", *args: Any, **kwargs: Any) -> Any:
        return await arun(await self._store.here(), flow(self._sessions, *args, **kwargs))

    return method


class StatestoreDb(NotHere, BaseDb):
    """A database for `Agent(db=…)`, `Team` and `Workflow`: a session is a session, and each run an entry of it."""

    def __init__(self, store: StoreLike = None, *, id: str | None = None, ttl: timedelta | None = None) -> None:
        """Take where sessions are. Nothing is connected before the first use.

        Args:
            store: Where they are; by default at `STATESTORE_URL`.
            id: The id of the database, as agno has it.
            ttl: How long after its last use a new session expires; by default what the store says.
        """
        super().__init__(id=id)
        self._store = LazyStore.of(store)
        self._sessions = sessions.Sessions(ttl)

    def close(self) -> None:
        """Close what was opened here. A store that it was given stays open."""
        self._store.close()

    def table_exists(self, table_name: str) -> bool:
        """True for sessions and runs, whose tables are the store's."""
        return table_name in (self.session_table_name, self.runs_table_name)

    get_session = _called(sessions.get_session)
    get_sessions = _called(sessions.get_sessions)
    upsert_session = _called(sessions.upsert_session)
    upsert_sessions = _called(sessions.upsert_sessions)
    rename_session = _called(sessions.rename_session)
    reassign_session_owner = _called(sessions.reassign_session_owner)
    delete_session = _called(sessions.delete_session)
    delete_sessions = _called(sessions.delete_sessions)
    get_run = _called(runs.get_run)
    get_runs = _called(runs.get_runs)
    upsert_run = _called(runs.upsert_run)
    cancel_pending_run = _called(runs.cancel_pending_run)
    delete_run = _called(runs.delete_run)
    delete_runs = _called(runs.delete_runs)


class AsyncStatestoreDb(NotHere, AsyncBaseDb):
    """As `StatestoreDb`, awaited."""

    def __init__(self, store: StoreLike = None, *, id: str | None = None, ttl: timedelta | None = None) -> None:
        """As `StatestoreDb`."""
        super().__init__(id=id)
        self._store = LazyStore.of(store)
        self._sessions = sessions.Sessions(ttl)

    async def close(self) -> None:
        """As `StatestoreDb.close`."""
        await self._store.aclose()

    async def table_exists(self, table_name: str) -> bool:
        """As `StatestoreDb.table_exists`."""
        return table_name in (self.session_table_name, self.runs_table_name)

    get_session = _awaited(sessions.get_session)
    get_sessions = _awaited(sessions.get_sessions)
    upsert_session = _awaited(sessions.upsert_session)
    upsert_sessions = _awaited(sessions.upsert_sessions)
    rename_session = _awaited(sessions.rename_session)
    reassign_session_owner = _awaited(sessions.reassign_session_owner)
    delete_session = _awaited(sessions.delete_session)
    delete_sessions = _awaited(sessions.delete_sessions)
    get_run = _awaited(runs.get_run)
    get_runs = _awaited(runs.get_runs)
    upsert_run = _awaited(runs.upsert_run)
    cancel_pending_run = _awaited(runs.cancel_pending_run)
    delete_run = _awaited(runs.delete_run)
    delete_runs = _awaited(runs.delete_runs)


__all__ = ["AsyncStatestoreDb", "StatestoreDb"]
