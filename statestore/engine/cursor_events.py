"""SQLAlchemy's cursor events and `echo` for statements that go to the driver's cursor by themselves.

While nobody listens, connections hand out the driver's own cursors. What listeners get is what SQLAlchemy documents for
`before_cursor_execute`, `after_cursor_execute` and `handle_error`; an error that a listener of the latter returns or
raises is not passed on, since it is the driver's own that tells what came of a call.
"""

import logging
import reprlib
from collections.abc import Callable
from functools import partial
from typing import Any, Self

from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.engine import ExceptionContext, ExecutionContext
from sqlalchemy.engine.interfaces import ExecuteStyle
from sqlalchemy.exc import DBAPIError

from statestore.engine.driver_errors import classify


def cursors(connection: Connection) -> Callable[[], Any]:
    """What makes cursors on a connection of SQLAlchemy's: the driver's own, unless somebody listens now."""
    plain: Callable[[], Any] = connection.connection.cursor
    return partial(_made, connection, plain) if _is_heard(connection) else plain


def _made(connection: Connection, make: Callable[[], Any]) -> "HeardCursor":
    return HeardCursor(connection, make())


def _is_heard(connection: Connection) -> bool:
    # The flags that SQLAlchemy itself goes by. They are true for any event, so the second look is at ours.
    if connection._echo:
        return True
    return (connection._has_events or connection.engine._has_events) and are_heard(connection.dispatch)


def are_heard(events: Any) -> bool:
    """Whether somebody listens to statements, of those that an engine or a connection tells."""
    return bool(events.before_cursor_execute) or bool(events.after_cursor_execute)


def echoes(engine: Engine) -> bool:
    """Whether an engine's statements are logged, by `echo=` or by the level of `sqlalchemy.engine`."""
    return bool(engine.logger.isEnabledFor(logging.INFO))


class HeardConnection:
    """A connection of a pool, whose cursors all tell the listeners."""

    def __init__(self, pooled: PoolProxiedConnection, engine: Engine) -> None:
        self.pooled = pooled
        self._connection = Connection(engine, pooled)

    def cursor(self) -> Any:
        return HeardCursor(self._connection, self.pooled.cursor())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pooled, name)


class HeardCursor:
    """A driver's cursor that tells who listens what it executes."""

    def __init__(self, connection: Connection, cursor: Any) -> None:
        self._connection = connection
        self._cursor = cursor

    # Both drivers return the cursor, so that what it found can be fetched in the same expression.

    def execute(self, statement: str, parameters: Any = None, **options: Any) -> Self:
        self._execute(self._cursor.execute, statement, parameters, False, options)
        return self

    def executemany(self, statement: str, parameters: Any) -> Self:
        self._execute(self._cursor.executemany, statement, parameters, True, {})
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def _execute(
        self, execute: Callable[..., Any], statement: str, given: Any, many: bool, options: dict[str, Any]
    ) -> None:
        connection, cursor = self._connection, self._cursor
        parameters = {} if given is None else given
        context = _Execution(connection, cursor, statement, parameters, many)
        for listener in connection.dispatch.before_cursor_execute:
            statement, parameters = listener(connection, cursor, statement, parameters, context, many)
        if connection._echo:
            _echo(connection.engine, statement, parameters)
        try:
            # Without parameters a driver takes a % as it is.
            arguments = () if given is None and not parameters else (parameters,)
            execute(statement, *arguments, **options)
        except BaseException as exc:
            _tell_error(context, statement, parameters, exc)
            raise
        connection.dispatch.after_cursor_execute(connection, cursor, statement, parameters, context, many)


class _Execution(ExecutionContext):
    """What listeners get to know of an execution besides its arguments, and where they may put notes of their own."""

    compiled = None
    invoked_statement = None
    isinsert = isupdate = False

    def __init__(self, connection: Connection, cursor: Any, statement: str, parameters: Any, many: bool) -> None:
        self.connection = self.root_connection = connection
        self.engine = connection.engine
        self.dialect = connection.dialect
        self.execution_options = connection.get_execution_options()
        self.cursor = cursor
        self.statement = statement
        self.parameters = parameters if many else [parameters]
        self.no_parameters = not parameters
        self.executemany = many
        self.execute_style = ExecuteStyle.EXECUTEMANY if many else ExecuteStyle.EXECUTE


class _Failure(ExceptionContext):
    """What listeners get to know of an error."""

    chained_exception = None
    invalidate_pool_on_disconnect = False
    is_pre_ping = False

    def __init__(self, context: _Execution, statement: str, parameters: Any, exc: BaseException) -> None:
        self.execution_context = context
        self.connection = context.connection
        self.engine = context.engine
        self.dialect = context.dialect
        self.cursor = context.cursor
        self.statement = statement
        self.parameters = parameters
        self.original_exception = exc
        failure = classify(exc) if isinstance(exc, Exception) else None
        self.is_disconnect = failure is not None and failure.lost
        self.sqlalchemy_exception = None
        driver = context.dialect.loaded_dbapi
        if isinstance(exc, driver.Error):
            self.sqlalchemy_exception = DBAPIError.instance(
                statement,
                parameters,
                exc,
                driver.Error,
                hide_parameters=context.engine.hide_parameters,
                connection_invalidated=self.is_disconnect,
                dialect=context.dialect,
            )


def _tell_error(context: _Execution, statement: str, parameters: Any, exc: BaseException) -> None:
    listeners = list(context.dialect.dispatch.handle_error) if context.dialect._has_events else []
    if not listeners:
        return
    failure = _Failure(context, statement, parameters, exc)
    for listener in listeners:
        try:
            listener(failure)
        except Exception:  # As in SQLAlchemy, where it would be what the caller gets.
            return


_short = reprlib.Repr()
_short.maxdict = _short.maxlist = _short.maxtuple = 20
_short.maxstring = _short.maxother = 300


def _echo(engine: Engine, statement: str, parameters: Any) -> None:
    engine.logger.info(statement)
    if engine.hide_parameters:
        engine.logger.info("[raw sql] [SQL parameters hidden due to hide_parameters=True]")
    else:
        engine.logger.info("[raw sql] %s", _short.repr(parameters))
