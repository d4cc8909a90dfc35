"""Named lists of a session, to which values are only added."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from statestore.checking import checks, exactjson
from statestore.engine.calls import reads, writes_in_one_statement, writes_once_in_one_statement
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import unnest
from statestore.errors import InvalidValueError
from statestore.repositories.state.owned import OwnedRepository
from statestore.repositories.state.scopes import SESSION
from statestore.values.sessions import NewSession

_ALL = 2**62

_SOURCE, _LIVES = SESSION.found
_LIST = "l.namespace = :namespace AND l.session_id = :owner_id AND l.name = :name"

# The list's own row says where its items go, and its lock orders those who add some.
_COUNT_UP = """INSERT INTO $session_lists AS l (namespace, session_id, name, item_count, created_at, updated_at)
        %s
        ON CONFLICT (namespace, session_id, name) DO UPDATE SET item_count = l.item_count + excluded.item_count,
            updated_at = excluded.updated_at
        RETURNING item_count"""
_ADD_POSTGRESQL = f"""
    head AS ({
    _COUNT_UP % "SELECT :namespace, :owner_id, :name, CAST(:count AS bigint), $now, $now FROM owner WHERE true"
}),
    added AS (
        INSERT INTO $session_list_items (namespace, session_id, name, position, value, created_at)
        SELECT :namespace, :owner_id, :name, head.item_count - CAST(:count AS bigint) + v.number,
            CAST(v.value AS json), $now
        FROM head, {unnest("v", {"value": "text"}, ordinal="number")}),
    done AS (SELECT item_count FROM head)"""
_ADD_SQLITE = _COUNT_UP % "VALUES (:namespace, :owner_id, :name, :count, $now, $now)"
_ADD = {
    alone: Statement(postgresql=SESSION.entered(_ADD_POSTGRESQL, alone), sqlite=_ADD_SQLITE) for alone in (False, True)
}
_ADD_ITEM = Statement(
    sqlite="""
    INSERT INTO $session_list_items (namespace, session_id, name, position, value, created_at)
    VALUES (:namespace, :owner_id, :name, :position, :value, $now)"""
)

# Items go with the list, by ON DELETE CASCADE.
_DELETE_POSTGRESQL = f"done AS (DELETE FROM $session_lists AS l USING owner WHERE {_LIST} RETURNING true)"
_DELETE = {
    alone: Statement(
        postgresql=SESSION.entered(_DELETE_POSTGRESQL, alone),
        sqlite=f"DELETE FROM $session_lists AS l WHERE {_LIST} RETURNING true",
    )
    for alone in (False, True)
}

_READ, _READ_LAST = (
    Statement(f"""
    SELECT {SESSION.reading_due}, i.value, i.position FROM {_SOURCE} LEFT JOIN (
        SELECT CAST(l.value AS text) AS value, l.position FROM $session_list_items AS l
        WHERE {_LIST} AND l.position > :after ORDER BY l.position {direction} LIMIT :limit) AS i ON true
    WHERE {_LIVES} ORDER BY i.position""")
    for direction in ("", "DESC")
)
_COUNT = Statement(f"""
    SELECT false, coalesce((SELECT l.item_count FROM $session_lists AS l WHERE {_LIST}), 0)
    FROM {_SOURCE} WHERE {_LIVES}""")
_NAMES = Statement(f"""
    SELECT {SESSION.reading_due}, l.name FROM {_SOURCE}
    LEFT JOIN $session_lists AS l ON l.namespace = :namespace AND l.session_id = :owner_id
    WHERE {_LIVES} ORDER BY l.name""")


class ListsRepository(OwnedRepository, group="lists"):
    """Named lists of values. Those who append to one list queue up; appends to others do not wait for them."""

    @writes_once_in_one_statement
    def append(self, session_id: str, name: str, items: Iterable[Any], *, create: bool | NewSession = False) -> int:
        """Add *items* to the end of a list, in their order: all or none. Extends the session's TTL, as `state.set`.

        What it costs does not grow with the list. The list begins with its first item.

        Args:
            session_id: The session.
            name: The list's name, 1 to 512 characters.
            items: Exact JSON values, oldest first. Empty is allowed and only checks that the session exists.
            create: As for `state.set`.

        Returns:
            How many items the list has now: the position of the last one, counted from 1.

        Raises:
            SessionNotFoundError: No such session, or it has expired, and *create* is false. Nothing was written.
            CommitUnknownError: The connection was lost, and the items may have been added or not: `count` tells.
            InvalidValueError: An item is not exact JSON or is too large. Nothing was written.
        """
        self._fits("name", self._owner(session_id), checks.key(name, "name"))
        texts = self._once("items", lambda: self._texts(items))
        columns = self._columns(create)
        if not texts:
            return self._length_of(session_id, name, columns)
        on_sqlite = self._link.dialect.name == "sqlite"
        values: dict[str, Any] = {} if on_sqlite else {"value_array": texts}
        ((length,),) = self._write(session_id, _ADD, columns, name=name, count=len(texts), **values)
        if on_sqlite:
            first = length - len(texts) + 1
            rows = [{"position": position, "value": text} for position, text in enumerate(texts, first)]
            self._link.many(_ADD_ITEM, rows, owner_id=session_id, name=name)
        return int(length)

    @reads
    def read(
        self,
        session_id: str,
        name: str,
        *,
        last: int | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[Any]:
        """The items of a list, oldest first; none if there is no such list. Extends the session's TTL.

        Args:
            session_id: The session.
            name: The list's name.
            last: Return only this many, the newest.
            after: Only items after this position: as many as were read before give the next page.
            limit: Return only this many, the oldest. Not together with *last*.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            InvalidValueError: A negative number, or *last* together with *limit*.
        """
        self._owner(session_id)
        checks.key(name, "name")
        for argument, value in {"last": last, "after": after, "limit": limit}.items():
            checks.optional_count(value, argument)
        if last is not None and limit is not None:
            raise InvalidValueError(
                "limit", "cannot be combined with last; limit counts from the start, last from the end"
            )
        most = last if limit is None else limit
        statement = _READ if last is None else _READ_LAST
        rows = self._rows(statement, session_id, name=name, after=after or 0, limit=_ALL if most is None else most)
        return [_value(session_id, name, *row) for row in rows]

    @reads
    def count(self, session_id: str, name: str) -> int:
        """How many items a list has; 0 if there is no such list. Does not extend the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        self._owner(session_id)
        ((found,),) = self._first(_COUNT, session_id, name=checks.key(name, "name"))
        return int(found)

    @reads
    def names(self, session_id: str) -> list[str]:
        """The names of the session's lists, in their order. Extends its TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        return [name for (name,) in self._rows(_NAMES, self._owner(session_id))]

    @writes_in_one_statement
    def delete(self, session_id: str, name: str) -> bool:
        """Remove a list with all its items.

        Returns:
            Whether there was one.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        self._owner(session_id)
        return bool(self._write(session_id, _DELETE, None, name=checks.key(name, "name")))

    def _texts(self, items: Iterable[Any]) -> list[str]:
        if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
            raise InvalidValueError("items", "must be a list of values; put a single one into a list")
        return [self._json(item, f"items[{index}]") for index, item in enumerate(items)]

    def _length_of(self, session_id: str, name: str, columns: Mapping[str, Any] | None) -> int:
        while True:
            self._scope.hold(self._link, session_id)
            row = self._link.one(_COUNT, owner_id=session_id, name=name)
            if row is not None:
                return int(row[1])
            self._make(session_id, columns)


def _value(session_id: str, name: str, text: str, position: int) -> Any:
    try:
        return exactjson.loads(text)
    except orjson.JSONDecodeError:
        pass  # Not raised from here: the error would hold this one, and this one holds the text.
    place = f"item {position} of list {name!r} of session {session_id!r}"
    raise exactjson.damaged("session_list_items", place, session_id=session_id)
