"""Lists of sessions."""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import orjson

from statestore.checking import checks
from statestore.checking.namespaces import chosen
from statestore.engine.calls import reads, reported_as
from statestore.engine.sql import Statement
from statestore.errors import InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.sessions import session_filters, session_rows
from statestore.repositories.sessions.session_rows import COLUMNS
from statestore.values.sessions import Session, SessionPage, Status

OrderBy = Literal["last_activity_at", "created_at"]
_MAX_PAGE = 10_000
# How the names in a cursor are called in the statement: of a page of one namespace, and of several.
_NAMES = (("at_id",), ("at_id", "at_namespace"))


@lru_cache(maxsize=256)
def _page_statement(
    conditions: tuple[str, ...],
    order_by: OrderBy,
    descending: bool,
    continues: bool,
    with_total: bool,
    several: bool,
) -> Statement:
    """Keyset paging: each page starts where the last one ended, found in the index, however far down."""
    # By the indexed hour first, then by the exact time within it: the same order, without an index on the exact time.
    keys = ["active_hour", "last_activity_at"] if order_by == "last_activity_at" else ["created_at"]
    keys += ["session_id", "namespace"] if several else ["session_id"]
    columns = f"{COLUMNS}, namespace" if several else COLUMNS
    order = ", ".join(f"{{0}}.{key}{' DESC' if descending else ''}" for key in keys)
    comparison = "<" if descending else ">"
    hour = "$time(:at_hour), " if order_by == "last_activity_at" else ""
    names = ", ".join(f":{name}" for name in _NAMES[several])
    behind = f"({', '.join(f's.{key}' for key in keys)}) {comparison} ({hour}$time(:at), {names})"

    def page(where: str) -> str:
        place = f"{where} AND {behind}" if continues else where
        rows = f"FROM $sessions AS s WHERE {place} ORDER BY {order.format('s')} LIMIT :limit OFFSET :offset"
        if not with_total:
            return f"SELECT {columns} {rows}"
        return f"""
    SELECT {columns}, total FROM (SELECT count(*) AS total FROM $sessions AS s WHERE {where}) AS t
    LEFT JOIN (SELECT s.* {rows}) AS page ON true ORDER BY {order.format("page")}"""

    return session_filters.statement(conditions, page, ordered=keys[0])


@lru_cache(maxsize=256)
def _count_statement(conditions: tuple[str, ...]) -> Statement:
    return session_filters.statement(conditions, "SELECT count(*) FROM $sessions AS s WHERE {}".format)


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
        metadata: Mapping[str, Any] | None = None,
        title_contains: str | None = None,
        id_prefix: str | None = None,
        project_root: str | None = None,
        created_since: datetime | None = None,
        created_until: datetime | None = None,
        active_since: datetime | None = None,
        active_until: datetime | None = None,
        belongs_to: str | None = None,
        include_parts: bool = False,
        namespaces: str | Iterable[str] | None = None,
        order_by: OrderBy = "last_activity_at",
        descending: bool = True,
        limit: int = 100,
        cursor: str | None = None,
        offset: int = 0,
        with_total: bool = False,
    ) -> SessionPage:
        r"""A page of sessions, the latest first. Expired ones are left out; no TTL is extended.

        Each page costs the same, however far down it is. A session that is used meanwhile moves, and may be seen twice
        or missed; order by `created_at` to see each session once. All conditions that are given have to be met. Those
        on agent, metadata, title and directory are checked session by session, in the order of the page.

        Args:
            user_id: Only this user's.
            status: Only those in this status.
            agent_name: Only this agent's.
            metadata: Only those whose metadata has each of these keys with just this value: 1 is not 1.0, and a mapping
                has its keys in the same order. At most 20 keys.
            title_contains: Only those with this text in their title. The case of the letters A to Z does not count; no
                character stands for others.
            id_prefix: Only those whose id begins so.
            project_root: Only those about this directory.
            created_since: Only those created at this time or later.
            created_until: Only those created before this time.
            active_since: Only those last written to at this time or later.
            active_until: Only those last written to before this time.
            belongs_to: Only the parts of this session.
            include_parts: Parts of sessions too, which are left out otherwise.
            namespaces: Those of these namespaces instead of the store's own, in one order: a name, a prefix such as
                `acme/*`, or a list of these. Only a `*` at the end stands for anything, and not in `\*`. Hand in no
                text of a user's here: it may be any namespace of the database.
            order_by: `last_activity_at` or `created_at`.
            descending: The latest first.
            limit: The largest number to return, 1 to 10,000.
            cursor: `next_cursor` of the previous page, which must have the same order; give the same conditions too.
            offset: How many to leave out, for lists with page numbers; not together with *cursor*. All that is left out
                is gone through: *cursor* costs less.
            with_total: Count all sessions that meet the conditions: `SessionPage.total`.

        Raises:
            InvalidValueError: For example, the cursor is not from a page in this order.
        """
        checks.flags(descending=descending, with_total=with_total)
        several = chosen(namespaces)
        conditions, params = session_filters.conditions(
            self._link,
            user_id=user_id,
            status=status,
            agent_name=agent_name,
            metadata=metadata,
            title_contains=title_contains,
            id_prefix=id_prefix,
            project_root=project_root,
            created_since=created_since,
            created_until=created_until,
            active_since=active_since,
            active_until=active_until,
            belongs_to=belongs_to,
            include_parts=include_parts,
            namespaces=several,
        )
        checks.one_of(order_by, ("last_activity_at", "created_at"), "order_by")
        if checks.count(limit, "limit", least=1) > _MAX_PAGE:
            raise InvalidValueError("limit", f"must be at most {_MAX_PAGE:,}; get the next page with next_cursor")
        if checks.count(offset, "offset") and cursor is not None:
            raise InvalidValueError("offset", "cannot be combined with cursor, which says where the page begins")
        order = (order_by, bool(descending))
        position = {} if cursor is None else _position(cursor, order, several is not None)
        statement = _page_statement(conditions, *order, bool(position), bool(with_total), several is not None)
        rows = self._link.all(statement, limit=limit + 1, offset=offset, **params, **position)
        total = rows[0][-1] if with_total else None
        if with_total and rows[0][0] is None:
            rows = ()  # Only the count.
        place = -2 if with_total else -1
        sessions = [
            session_rows.from_row(self._link, row, namespace=None if several is None else row[place])
            for row in rows[:limit]
        ]
        more = len(rows) > limit
        return SessionPage(sessions, _cursor(sessions[-1], order, several is not None) if more else None, total)

    @reads
    def count(
        self,
        *,
        user_id: str | None = None,
        status: Status | None = None,
        agent_name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        title_contains: str | None = None,
        id_prefix: str | None = None,
        project_root: str | None = None,
        created_since: datetime | None = None,
        created_until: datetime | None = None,
        active_since: datetime | None = None,
        active_until: datetime | None = None,
        belongs_to: str | None = None,
        include_parts: bool = False,
        namespaces: str | Iterable[str] | None = None,
    ) -> int:
        """How many sessions there are, without expired ones. Arguments as for `page`."""
        conditions, params = session_filters.conditions(
            self._link,
            user_id=user_id,
            status=status,
            agent_name=agent_name,
            metadata=metadata,
            title_contains=title_contains,
            id_prefix=id_prefix,
            project_root=project_root,
            created_since=created_since,
            created_until=created_until,
            active_since=active_since,
            active_until=active_until,
            belongs_to=belongs_to,
            include_parts=include_parts,
            namespaces=chosen(namespaces),
        )
        (sessions,) = self._link.only(_count_statement(conditions), **params)
        found: int = sessions
        return found

    @reads
    def load_many(self, session_ids: Sequence[str]) -> dict[str, Session]:
        """The sessions with these ids, by id, in the order given; those that are missing or expired are left out.

        One statement, however many ids. These are sessions as `get` gives them, without their history and state: see
        `history.last_many` and `state.get_all_many`. Extends their TTLs, which takes a second statement if one of them
        is due. Inside a transaction, those that were found
        are held, as by `get`.
        """
        wanted = self._once("session_ids", lambda: checks.keys(session_ids, "session_ids"))
        return session_rows.find_many(self._link, wanted) if wanted else {}


def _cursor(session: Session, order: tuple[OrderBy, bool], several: bool) -> str:
    at = session.last_activity_at if order[0] == "last_activity_at" else session.created_at
    names = [session.session_id, session.namespace] if several else [session.session_id]
    return base64.urlsafe_b64encode(orjson.dumps([*order, at.isoformat(), *names])).decode()


def _position(cursor: str, order: tuple[OrderBy, bool], several: bool) -> dict[str, Any]:
    """Where a page continues."""
    wrong = InvalidValueError("cursor", "is not the next_cursor of a page in this order; start without a cursor")
    try:
        kept_order, kept_descending, text, *names = orjson.loads(base64.urlsafe_b64decode(cursor))
        at = checks.optional_time(datetime.fromisoformat(text), "cursor")
        place = dict(zip(_NAMES[several], (checks.key(name, "cursor") for name in names), strict=True))
    except (binascii.Error, ValueError, TypeError):
        raise wrong from None
    if (kept_order, kept_descending) != order or at is None:
        raise wrong
    return {"at": at, "at_hour": at.replace(minute=0, second=0, microsecond=0), **place}
