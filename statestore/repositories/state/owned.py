"""Reading and writing what belongs to an owner, on either database, in a transaction or by one statement."""

from collections.abc import Mapping
from typing import Any, ClassVar

from statestore.checking import checks
from statestore.engine.sql import Row, Statement
from statestore.repositories.base import Repository
from statestore.repositories.sessions import session_columns, session_life
from statestore.repositories.state import scopes
from statestore.repositories.state.scopes import STEP, Scope
from statestore.values.sessions import NewSession


class OwnedRepository(Repository):
    """Operations on what belongs to the session that is given, or to another owner."""

    _scope: ClassVar[Scope] = scopes.SESSION

    def _owner(self, session_id: str) -> str:
        return checks.key(session_id, self._scope.argument)

    def _rows(self, statement: Statement, session_id: str, **params: Any) -> list[Row]:
        return [row for row in self._first(statement, session_id, **params) if row[0] is not None]

    def _first(self, statement: Statement, session_id: str, **params: Any) -> list[Row]:
        """What a statement has read, for an owner that is there. Extends the session's TTL if that is due."""
        self._scope.hold(self._link, session_id)
        rows = self._link.all(statement, owner_id=session_id, **params)
        if not rows:
            raise self._scope.not_found(self._link, session_id)
        if rows[0][0]:
            self._scope.note_read(self._link, session_id)
        return [row[1:] for row in rows]

    def _write(
        self,
        session_id: str,
        statements: Mapping[bool, Statement],
        columns: Mapping[str, Any] | None,
        *,
        always: bool = True,
        **params: Any,
    ) -> list[Row]:
        """What a statement that writes has written. Without *always*, a session is told only if that is something.

        Raises:
            SessionNotFoundError: There is no owner, and none is made of *columns*. Nothing was written.
        """
        link = self._link
        if link.dialect.name == "sqlite":
            self._needs_transaction()
            self._enter(session_id, columns)
            return list(link.all(statements[False], owner_id=session_id, **params))
        if link.in_transaction:
            if columns is not None and self._call.memo.pop("missing", False):
                self._make(session_id, columns)
            self._scope.enter(link, session_id)
        while True:
            rows = link.all(statements[link.holds_reads], owner_id=session_id, step=STEP, always=always, **params)
            if rows:
                break
            if not self._scope.is_there(link, session_id):
                self._make(session_id, columns)
        (due, done, *_) = rows[0]
        if due and (always or done is not None) and (link.holds_reads or not link.in_transaction):
            self._scope.note_write(link, session_id)
        return [row[1:] for row in rows if row[1] is not None]

    def _enter(self, session_id: str, columns: Mapping[str, Any] | None) -> None:
        while not self._scope.enter(self._link, session_id):
            self._make(session_id, columns)

    def _make(self, session_id: str, columns: Mapping[str, Any] | None) -> None:
        """Make a session that is missing, if that is wanted."""
        if columns is None:
            raise self._scope.not_found(self._link, session_id)
        if not self._link.in_transaction:
            self._call.memo["missing"] = True  # So that the transaction begins with making it.
        self._needs_transaction()
        session_life.create(self._link, session_id, columns)

    def _columns(self, create: bool | NewSession) -> Mapping[str, Any] | None:
        return session_columns.of_new(self._link, create)
