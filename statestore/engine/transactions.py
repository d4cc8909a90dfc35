"""BEGIN, COMMIT and ROLLBACK on a connection that commits each statement by itself, and who waits for them."""

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from sqlalchemy import Connection

from statestore.engine import cursor_events, pooler, sqlite_files
from statestore.engine.calls import Call
from statestore.engine.driver_errors import classify_or_raise
from statestore.engine.sql import Connected, Dialect


class Borrowed:
    """A SQLAlchemy connection as a `Connected`. Engines of our own use the pool's connection, at half the cost."""

    __slots__ = ("close", "connection", "cursor", "driver_connection", "invalidate")

    def __init__(self, connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            pooler.protect(connection.connection)
        self.connection = connection
        self.cursor = cursor_events.cursors(connection)
        self.driver_connection = connection.connection.driver_connection
        self.invalidate = connection.invalidate
        self.close = connection.close


class Waiter:
    """Who waits for a transaction to begin, *until* then on the monotonic clock, and may have left."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.given_up = False

    def give_up(self) -> None:
        self.given_up = True


class Transaction:
    """BEGIN, COMMIT and ROLLBACK on a connection whose driver commits each statement."""

    def __init__(self, connection: Connected, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def begin(
        self,
        *,
        snapshot: bool = False,
        read_only: bool = False,
        until: float = math.inf,
        call: Call | Waiter | None = None,
    ) -> None:
        """Begin; with *snapshot* all that is read is of one moment.

        SQLite's writer is waited for *until* then, on the monotonic clock, or until *call* is given up.
        """
        if self._dialect.name == "sqlite":
            if snapshot:
                self._execute("BEGIN")
            else:
                file = getattr(self._connection, "info", {}).get(sqlite_files.FILE)
                if file is not None:
                    file.check()
                self._begin_writing(until, call)
        else:
            level = " ISOLATION LEVEL REPEATABLE READ" if snapshot else ""
            begin = f"BEGIN{level}{' READ ONLY' if read_only else ''}"
            timeouts = local_timeouts(self._connection)
            if timeouts:
                self._execute(begin + timeouts, prepare=False)  # Several statements cannot be prepared as one.
            else:
                self._execute(begin)

    def _begin_writing(self, until: float, call: Call | Waiter | None) -> None:
        # A deferred transaction that reads, and then wants to write, may find that another has written since. SQLite's
        # own wait cannot be interrupted, so it is a short one, again and again.
        own = not isinstance(self._connection, Borrowed)
        while True:
            try:
                # Our own connections have a short wait already; a caller's gets back the one that it had.
                with nullcontext() if own else self._short_wait():
                    self._execute("BEGIN IMMEDIATE")
                    return
            except sqlite3.OperationalError as exc:
                if not (exc.sqlite_errorname or "").startswith("SQLITE_BUSY"):
                    raise
                if time.monotonic() >= until or (call is not None and call.given_up):
                    failure = classify_or_raise(exc)
                    break
        raise failure.error

    @contextmanager
    def _short_wait(self) -> Iterator[None]:
        cursor = self._connection.cursor()
        cursor.execute("PRAGMA busy_timeout")
        [(usual,)] = cursor.fetchall()
        cursor.close()
        self._execute(f"PRAGMA busy_timeout = {min(usual, sqlite_files.WAIT)}")
        try:
            yield
        finally:
            self._execute(f"PRAGMA busy_timeout = {usual}")

    def commit(self) -> None:
        self._execute("COMMIT")

    def abandon(self, exc: BaseException) -> None:
        """Undo, whatever state the connection is in."""
        if isinstance(exc, Exception) or self._dialect.name == "sqlite":
            try:
                self._execute("ROLLBACK")
                return
            except Exception as failure:
                # SQLite has rolled back by itself after some errors, and then has nothing left to undo.
                if getattr(failure, "sqlite_errorname", None) == "SQLITE_ERROR":
                    return
        # Interrupted in the middle of an exchange with the server: what comes next on this connection is uncertain.
        self._connection.invalidate()

    def _execute(self, sql: str, **options: bool) -> None:
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql, **options)
        finally:
            cursor.close()


def local_timeouts(connection: Connected) -> str:
    """What a transaction on *connection* is to begin with; empty unless timeouts were asked for behind a pooler.

    A single statement has to have a transaction there.
    """
    found: str = getattr(connection, "info", {}).get(pooler.LOCAL_TIMEOUTS, "")
    return found
