"""agno on a store: the sessions of agents, teams and workflows, and their runs.

    agent = Agent(db=StatestoreDb("postgresql://app@db/agents"), session_id="user-42", add_history_to_context=True)

`StatestoreDb` is for `run`, `AsyncStatestoreDb` for `arun`. They connect at first use. `store` is a URL, a store that
is open, or a `statestore.LazyStore`. The other parts of agno's databases, such as memories and traces, are not here,
and raise `NotImplementedError`; agno itself asks for them only if they are switched on.
"""

from datetime import timedelta

from agno.db.base import AsyncBaseDb, BaseDb

from statestore import StoreLike
from statestore.adapters.agno import runs, sessions
from statestore.adapters.agno.rest import NotHere
from statestore.adapters.flows import awaited, called


class StatestoreDb(NotHere, sessions.Sessions, BaseDb):
    """A database for `Agent(db=…)`, `Team` and `Workflow`: a session is a session, and each run an entry of it."""

    def __init__(self, store: StoreLike = None, *, id: str | None = None, ttl: timedelta | None = None) -> None:
        """Take where sessions are. Nothing is connected before the first use.

        Args:
            store: Where they are; by default at `STATESTORE_URL`.
            id: The id of the database, as agno has it.
            ttl: How long after its last use a new session expires; by default what the store says.
        """
        BaseDb.__init__(self, id=id)
        sessions.Sessions.__init__(self, store, ttl)

    def close(self) -> None:
        """Close what was opened here. A store that it was given stays open."""
        self._store.close()

    def table_exists(self, table_name: str) -> bool:
        """True for sessions and runs, whose tables are the store's."""
        return table_name in (self.session_table_name, self.runs_table_name)

    get_session = called(sessions.get_session)
    get_sessions = called(sessions.get_sessions)
    upsert_session = called(sessions.upsert_session)
    upsert_sessions = called(sessions.upsert_sessions)
    rename_session = called(sessions.rename_session)
    reassign_session_owner = called(sessions.reassign_session_owner)
    delete_session = called(sessions.delete_session)
    delete_sessions = called(sessions.delete_sessions)
    get_run = called(runs.get_run)
    get_runs = called(runs.get_runs)
    upsert_run = called(runs.upsert_run)
    cancel_pending_run = called(runs.cancel_pending_run)
    delete_run = called(runs.delete_run)
    delete_runs = called(runs.delete_runs)


class AsyncStatestoreDb(NotHere, sessions.Sessions, AsyncBaseDb):
    """As `StatestoreDb`, awaited."""

    def __init__(self, store: StoreLike = None, *, id: str | None = None, ttl: timedelta | None = None) -> None:
        """As `StatestoreDb`."""
        AsyncBaseDb.__init__(self, id=id)
        sessions.Sessions.__init__(self, store, ttl)

    async def close(self) -> None:  # type: ignore[override]
        """As `StatestoreDb.close`."""
        await self._store.aclose()

    async def table_exists(self, table_name: str) -> bool:
        """As `StatestoreDb.table_exists`."""
        return table_name in (self.session_table_name, self.runs_table_name)

    get_session = awaited(sessions.get_session)
    get_sessions = awaited(sessions.get_sessions)
    upsert_session = awaited(sessions.upsert_session)
    upsert_sessions = awaited(sessions.upsert_sessions)
    rename_session = awaited(sessions.rename_session)
    reassign_session_owner = awaited(sessions.reassign_session_owner)
    delete_session = awaited(sessions.delete_session)
    delete_sessions = awaited(sessions.delete_sessions)
    get_run = awaited(runs.get_run)
    get_runs = awaited(runs.get_runs)
    upsert_run = awaited(runs.upsert_run)
    cancel_pending_run = awaited(runs.cancel_pending_run)
    delete_run = awaited(runs.delete_run)
    delete_runs = awaited(runs.delete_runs)


__all__ = ["AsyncStatestoreDb", "StatestoreDb"]
