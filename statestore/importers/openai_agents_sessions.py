"""Sessions of the OpenAI Agents SDK, from the tables of its SQLiteSession and its SQLAlchemySession."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from statestore.importers.databases import Address, DatabaseReport, Import, Progress, Source, json_of, opened, time_of
from statestore.importers.problems import OnProblem
from statestore.values.history import NewEntry
from statestore.values.sessions import NewSession

if TYPE_CHECKING:
    from statestore.store import StateStore

_SESSIONS = "agent_sessions"
_MESSAGES = "agent_messages"


def openai_agents(
    store: "StateStore", url: Address, *, progress: Progress | None = None, on_problem: OnProblem | None = None
) -> DatabaseReport:
    """Import the sessions of the OpenAI Agents SDK from its own database.

    Each session becomes one of the same id, with its items as they are, and with its times. Repeating an import adds
    what is new.

    Args:
        store: The store to import into.
        url: The database, by URL or by path. It is opened read-only.
        progress: Called with the number of items that were read since the last call.
        on_problem: Called with each session that is left out because it cannot be stored. If None, the first raises.

    Returns:
        How many sessions and entries there are, how many were added, and which sessions differ from the source.

    Raises:
        InvalidValueError: *store* is not a `StateStore`, or *url* leads to no database of the SDK: nothing was written.
            Or a session cannot be stored, and there is no *on_problem*: those before it stay.
        DatabaseError: One of the databases failed. What was written before stays.
    """
    with opened(url) as source:
        bringing = Import(store, source, progress, on_problem)
        source.require(_MESSAGES, "the OpenAI Agents SDK")
        for row in source.rows(_SESSIONS, "created_at", key=("session_id",)):
            session_id = row["session_id"]
            new = NewSession(created_at=time_of(row["created_at"], f"session {session_id[:80]!r}"))
            bringing.bring(session_id, new, _items(source, session_id))
    return bringing.report()


def _items(source: Source, session_id: str) -> Iterator[NewEntry]:
    columns = ("message_data", "created_at")
    for row in source.rows(_MESSAGES, *columns, key=("id",), where={"session_id": session_id}):
        where = f"item {row['id']}"
        yield NewEntry(
            json_of(row["message_data"], where),
            entry_id=f"openai-agents-{row['id']}",
            created_at=time_of(row["created_at"], where),
        )
