"""Chats of LangChain, from the table of its SQLChatMessageHistory."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sqlalchemy import RowMapping

from statestore.errors import InvalidValueError
from statestore.importers.databases import Address, DatabaseReport, Progress, importing
from statestore.importers.problems import OnProblem
from statestore.importers.source_values import json_of
from statestore.values.history import NewEntry
from statestore.values.sessions import NewSession

if TYPE_CHECKING:
    from statestore.store import StateStore

_TABLE = "message_store"
# There is no index on sessions: each page goes through the table, so it is a large one.
_PAGE = 5_000


def langchain(
    store: "StateStore", url: Address, *, progress: Progress | None = None, on_problem: OnProblem | None = None
) -> DatabaseReport:
    """Import the chats that LangChain's `SQLChatMessageHistory` wrote to its table `message_store`.

    Each chat becomes a session of the same id, with its messages as `StatestoreChatMessageHistory` has them. LangChain
    keeps no times, so theirs is that of the import. Repeating an import adds what is new.

    Args:
        store: The store to import into.
        url: The database, by URL or by path. It is opened read-only.
        progress: Called with the number of messages that were read since the last call.
        on_problem: Called with each chat that is left out because it cannot be stored. If None, the first raises.

    Returns:
        How many sessions and entries there are, how many were added, and which sessions differ from the source.

    Raises:
        InvalidValueError: *store* is not a `StateStore`, or *url* leads to no such table: nothing was written. Or a
            chat cannot be stored, and there is no *on_problem*: those before it stay.
        DatabaseError: One of the databases failed. What was written before stays.
    """
    with importing(store, url, progress, on_problem) as (source, bringing):
        source.require(_TABLE, "LangChain")
        if source.rows_without(_TABLE, "session_id"):
            # The column allows it. They belong to no chat, and in the order of chats nothing comes after them.
            bringing.refuse(None, InvalidValueError("session_id", "is missing; give these messages one"))
        rows = source.rows(_TABLE, "message", key=("session_id", "id"), page=_PAGE)
        for session_id, messages in groupby(rows, key=lambda row: row["session_id"]):
            bringing.bring(session_id, NewSession(), _entries(messages))
    return bringing.report()


def _entries(rows: Iterable[RowMapping]) -> Iterator[NewEntry]:
    for row in rows:
        where = f"message {row['id']}"
        content = _content(json_of(row["message"], where), where)
        said = content.get("response_metadata")
        provider = said.get("model_provider") if isinstance(said, dict) else None
        yield NewEntry(content, entry_id=f"langchain-{row['id']}", provider_name=provider)


def _content(message: Any, where: str) -> dict[str, Any]:
    """The message as it dumps itself, without the envelope."""
    if not isinstance(message, dict) or not isinstance(message.get("data"), dict):
        raise InvalidValueError(where, "is not a message of LangChain")
    data: dict[str, Any] = message["data"]
    return data if "type" in data else {"type": message.get("type"), **data}
