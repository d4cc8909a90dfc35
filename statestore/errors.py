"""Every error that leaves statestore.

    StateStoreError
    ├─ NotFoundError (LookupError)
    │   ├─ SessionNotFoundError
    │   ├─ StateKeyNotFoundError
    │   └─ EntryNotFoundError
    ├─ ConflictError
    │   ├─ SessionExistsError
    │   ├─ StaleLeaseError
    │   └─ InvalidTransitionError
    ├─ InvalidValueError (ValueError)
    ├─ SchemaError
    │   ├─ SchemaMissingError
    │   ├─ SchemaOutdatedError
    │   └─ SchemaAheadError
    ├─ ClockError
    ├─ StoreClosedError
    └─ DatabaseError
        ├─ UnavailableError
        ├─ CommitUnknownError
        ├─ StorageFullError
        └─ ReadOnlyError

An error carries its facts as attributes, and its message says what to do. A message may contain ids, which the caller
chose, but never content, state or metadata. Unless an error's docstring says otherwise, nothing was written.
"""

from datetime import datetime
from typing import Any, ClassVar


class StateStoreError(Exception):
    """The root of all errors of this package."""

    retryable: ClassVar[bool] = False
    """Whether the same call, made again unchanged, may succeed."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own does not pass keyword arguments on, so the error could not be pickled in a worker process.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[StateStoreError], args: tuple[Any, ...], facts: dict[str, Any]) -> StateStoreError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class NotFoundError(StateStoreError, LookupError):
    """What was asked for is not in the store."""


class SessionNotFoundError(NotFoundError):
    """There is no session with this id in this namespace, or it has expired.

    `unsaved` is what a turn had collected for a session that was deleted, or expired, while it was under way.
    """

    def __init__(self, session_id: str, namespace: str) -> None:
        super().__init__(
            f"session {session_id!r} does not exist in namespace {namespace!r} or has expired; "
            "create it with sessions.create() or sessions.open()",
            session_id=session_id,
            namespace=namespace,
        )

    session_id: str
    namespace: str
    unsaved: Any = None


class StateKeyNotFoundError(NotFoundError):
    """There is no such state key, or it has expired. It says whose state it is: a session's, a user's or an agent's."""

    def __init__(self, owner: str, key: str, **facts: str) -> None:
        super().__init__(
            f"{owner} has no state key {key!r}; pass default= to get a value instead of this error", key=key, **facts
        )

    key: str
    session_id: str | None = None
    user_id: str | None = None
    agent_name: str | None = None


class EntryNotFoundError(NotFoundError):
    """The session's history has no entry at this position, or none with this id."""

    def __init__(self, session_id: str, seq: int | None = None, *, entry_id: str | None = None) -> None:
        which = seq if entry_id is None else f"with entry_id {entry_id!r}"
        super().__init__(
            f"session {session_id!r} has no history entry {which}; history.read() lists the entries it has",
            session_id=session_id,
            seq=seq,
            entry_id=entry_id,
        )

    session_id: str
    seq: int | None
    entry_id: str | None


class ConflictError(StateStoreError):
    """What the caller assumed is no longer true: another writer came first. Read again, then decide.

    `expected` and `actual` are versions, revisions or positions, if the conflict is about one. `entry_id` is the id of
    an entry that is already stored, and `field` names what differs in it. `unsaved` is what a turn had collected and
    could not commit.
    """

    expected: int | None = None
    actual: int | None = None
    entry_id: str | None = None
    field: str | None = None
    unsaved: Any = None


class SessionExistsError(ConflictError):
    """A session with this id already exists and has not expired."""

    def __init__(self, session_id: str, namespace: str) -> None:
        super().__init__(
            f"session {session_id!r} already exists in namespace {namespace!r}; "
            "use sessions.open() to resume it, or another id",
            session_id=session_id,
            namespace=namespace,
        )

    session_id: str
    namespace: str


class StaleLeaseError(ConflictError):
    """The lease passed to a write has expired, or another holder has taken it."""


class InvalidTransitionError(ConflictError):
    """The session cannot change from its current status to the requested one."""


class InvalidValueError(StateStoreError, ValueError):
    """An argument cannot be accepted, whatever the database holds. `argument` names it; nothing was sent."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument}: {problem}", argument=argument)

    argument: str


class SchemaError(StateStoreError):
    """The tables in the database are not the ones that this version works with.

    `current` and `expected` are migration revisions; `current` is None if there is no schema at all.
    """

    current: str | None = None
    expected: str | None = None


class SchemaMissingError(SchemaError):
    """The database has no statestore tables yet."""


class SchemaOutdatedError(SchemaError):
    """An older version made the tables."""


class SchemaAheadError(SchemaError):
    """A newer version made the tables, and this version may no longer use them.

    `oldest_code` is the revision that a version must know in order to use them, if the tables record one.
    """

    oldest_code: str | None = None


class ClockError(StateStoreError):
    """By the clock, the last write was implausibly long ago: either the clock is wrong, or nothing was written since.

    `now` is the time by this clock, and `newest` the latest one in the database. Nothing was deleted.
    """

    def __init__(self, now: datetime, newest: datetime) -> None:
        super().__init__(
            f"the clock says {now:%Y-%m-%d %H:%M}Z, but the latest use in the database was at {newest:%Y-%m-%d %H:%M}Z;"
            " set the clock, or, if nothing was used since, allow a larger max_clock_gap",
            now=now,
            newest=newest,
        )

    now: datetime
    newest: datetime


class StoreClosedError(StateStoreError):
    """The store was closed, or the transaction or the turn has ended; open or begin another."""


class DatabaseError(StateStoreError):
    """The database refused or failed. `code` is the SQLSTATE or SQLite error name, and contains no row data."""

    code: str | None = None


class UnavailableError(DatabaseError):
    """The database could not be reached or stayed busy, even after retries. Nothing was written."""

    retryable = True


class CommitUnknownError(DatabaseError):
    """The connection was lost during a commit, which may or may not have happened.

    Raised only if a retry could do the work twice. Read before you repeat the call.
    """


class StorageFullError(DatabaseError):
    """The database's disk or quota is full."""


class ReadOnlyError(DatabaseError):
    """The database accepts no writes: a standby, a read-only file, or missing rights."""
