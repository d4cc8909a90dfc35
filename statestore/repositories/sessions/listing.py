"""Lists of sessions."""

import base64
import binascii
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import orjson

from statestore.checking import checks
from statestore.engine.calls import reads, reported_as
from statestore.engine.sql import Statement
from statestore.errors import InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.sessions import session_rows
from statestore.repositories.sessions.session_rows import COLUMNS
from statestore.values.sessions import STATUSES, Session, SessionPage, Status

OrderBy = Literal["last_activity_at", "created_at"]
_MAX_PAGE = 10_000


@lru_cache(maxsize=128)
def _page_statement(filters: tuple[str, ...], order_by: OrderBy, descending: bool, continues: bool) -> Statement:
    """Keyset paging: each page starts where the last one ended, found in the index, however far down."""
    # By the indexed hour first, then by the exact time within it: the same order, without an index on the exact time.
    keys = ["s.active_hour", "s.last_activity_at"] if order_by == "last_activity_at" else ["s.created_at"]
    keys.append("s.session_id")
    where = ["s.namespace = :namespace", "$live", *(f"s.{column} = :{column}" for column in filters)]
    if continues:
        comparison = "<" if descending else ">"
        hour = "$time(:at_hour), " if order_by == "last_activity_at" else ""
        where.append(f"({', '.join(keys)}) {comparison} ({hour}$time(:at), :at_id)")
    direction = " DESC" if descending else ""
    order = ", ".join(key + direction for key in keys)
    return Statement(f"""
    SELECT {COLUMNS} FROM $sessions AS s
    WHERE {" AND ".join(where)} ORDER BY {order} LIMIT :limit""")


@lru_cache(maxsize=128)
def _count_statement(filters: tuple[str, ...]) -> Statement:
    where = ["s.namespace = :namespace", "$live", *(f"s.{column} = :{column}" for column in filters)]
    return Statement("SELECT count(*) FROM $sessions AS s WHERE " + " AND ".join(where))


class ListingRepository(Repository):
    """The sessions of a namespace, page by page."""

    @reported_as(rows=lambda page: len(page.sessions))
    @reads
    def page(
        self,
        *,
        user_id: str | None = None,
        status: Status | None = None,
        agent_name: str | None = None,
        order_by: OrderBy = "last_activity_at",
        descending: bool = True,
        limit: int = 100,
        cursor: str | None = None,
    ) -> SessionPage:
        """A page of sessions, the latest first. Expired ones are left out; no TTL is extended.

        Each page costs the same, however far down it is. A session that is used meanwhile moves, and may be seen twice
        or missed; order by `created_at` to see each session once.

        Args:
            user_id: Only this user's.
            status: Only those in this status.
            agent_name: Only this agent's.
            order_by: `last_activity_at` or `created_at`.
            descending: The latest first.
            limit: The largest number to return, 1 to 10,000.
            cursor: `next_cursor` of the previous page, which must have the same order.

        Raises:
            InvalidValueError: For example, the cursor is not from a page in this order.
        """
        filters = _filters(user_id, status, agent_name)
        checks.one_of(order_by, ("last_activity_at", "created_at"), "order_by")
        if checks.count(limit, "limit", least=1) > _MAX_PAGE:
            raise InvalidValueError("limit", f"must be at most {_MAX_PAGE:,}; get the next page with next_cursor")
        position = {} if cursor is None else _position(cursor, order_by, descending)
        statement = _page_statement(tuple(filters), order_by, bool(descending), bool(position))
        rows = self._link.all(statement, limit=limit + 1, **filters, **position)
        sessions = [session_rows.from_row(self._link, row) for row in rows[:limit]]
        more = len(rows) > limit
        return SessionPage(sessions, _cursor(sessions[-1], order_by, descending) if more else None)

    @reads
    def count(self, *, user_id: str | None = None, status: Status | None = None, agent_name: str | None = None) -> int:
        """How many sessions there are, without expired ones. Arguments as for `page`."""
        filters = _filters(user_id, status, agent_name)
        ((sessions,),) = self._link.all(_count_statement(tuple(filters)), **filters)
        found: int = sessions
        return found


def _filters(user_id: str | None, status: str | None, agent_name: str | None) -> dict[str, str]:
    filters = {
        "user_id": checks.optional_key(user_id, "user_id"),
        "status": None if status is None else checks.one_of(status, STATUSES, "status"),
        "agent_name": checks.optional_key(agent_name, "agent_name"),
    }
    return {name: value for name, value in filters.items() if value is not None}


def _cursor(session: Session, order_by: OrderBy, descending: bool) -> str:
    at = session.last_activity_at if order_by == "last_activity_at" else session.created_at
    return base64.urlsafe_b64encode(orjson.dumps([order_by, descending, at.isoformat(), session.session_id])).decode()


def _position(cursor: str, order_by: OrderBy, descending: bool) -> dict[str, Any]:
    """Where a page continues."""
    wrong = InvalidValueError("cursor", "is not the next_cursor of a page in this order; start without a cursor")
    try:
        kept_order, kept_descending, text, session_id = orjson.loads(base64.urlsafe_b64decode(cursor))
        at = checks.optional_time(datetime.fromisoformat(text), "cursor")
        checks.key(session_id, "cursor")
    except (binascii.Error, ValueError, TypeError):
        raise wrong from None
    if (kept_order, kept_descending) != (order_by, descending) or at is None:
        raise wrong
    return {"at": at, "at_hour": at.replace(minute=0, second=0, microsecond=0), "at_id": session_id}
