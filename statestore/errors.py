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
    ├─ StoreClosedError
    └─ DatabaseError
        ├─ UnavailableError
        ├─ CommitUnknownError
        ├─ StorageFullError
        └─ ReadOnlyError

An error carries its facts as attributes and says in its message what to do. A message may hold ids, which the caller
chose, but never content, state or metadata. Unless an error's docstring says otherwise, nothing was written.
"""

from typing import Any, ClassVar


class StateStoreError(Exception):
    """The root of all errors of this package."""

    retryable: ClassVar[bool] = False
    """Whether the same call, made again unchanged, may succeed."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __reduce__(self) -> tuple[Any, ...]:
        # An error with keyword facts would otherwise not survive the trip out of a worker process.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[StateStoreError], args: tuple[Any, ...], facts: dict[str, Any]) -> StateStoreError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class NotFoundError(StateStoreError, LookupError):
    """What was asked for is not in the store."""


class SessionNotFoundError(NotFoundError):
    """No session with this id in this namespace, or it has expired."""

    def __init__(self, session_id: str, namespace: str) -> None:
        super().__init__(
            f"session {session_id!r} does not exist in namespace {namespace!r} or has expired; "
            "create it with sessions.create() or sessions.open()",
            session_id=session_id,
            namespace=namespace,
        )

    session_id: str
    namespace: str


class StateKeyNotFoundError(NotFoundError):
    """The session has no such state key, or the key has expired."""

    def __init__(self, session_id: str, key: str) -> None:
        super().__init__(
            f"session {session_id!r} has no state key {key!r}; pass default= to get a value instead of this error",
            session_id=session_id,
            key=key,
        )

    session_id: str
    key: str


class EntryNotFoundError(NotFoundError):
    """The session's history has no entry at this position."""

    def __init__(self, session_id: str, seq: int) -> None:
        super().__init__(
            f"session {session_id!r} has no history entry {seq}; history.read() lists those it has",
            session_id=session_id,
            seq=seq,
        )

    session_id: str
    seq: int


class ConflictError(StateStoreError):
    """What the caller assumed no longer holds: another writer came first. Read again, then decide.

    `expected` and `actual` hold the version, revision or position where there is one. `entry_id` is that of an entry
    that is stored already, and `field` the name of what differs in it. `unsaved` holds what a turn had collected and
    could not commit.
    """

    expected: int | None = None
    actual: int | None = None
    entry_id: str | None = None
    field: str | None = None
    unsaved: Any = None


class SessionExistsError(ConflictError):
    """There is a living session with this id already."""

    def __init__(self, session_id: str, namespace: str) -> None:
        super().__init__(
            f"session {session_id!r} exists already in namespace {namespace!r}; "
            "use sessions.open() to resume it, or another id",
            session_id=session_id,
            namespace=namespace,
        )

    session_id: str
    namespace: str


class StaleLeaseError(ConflictError):
    """The lease that came with a write has been lost to another holder, or has run out."""


class InvalidTransitionError(ConflictError):
    """The session's status does not lead to the one asked for."""


class InvalidValueError(StateStoreError, ValueError):
    """An argument that can never be accepted. `argument` names it; the database was not asked."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument}: {problem}", argument=argument)

    argument: str


class SchemaError(StateStoreError):
    """The tables in the database are not those that this version works with.

    `current` and `expected` are migration revisions; `current` is None where there is no schema at all.
    """

    current: str | None = None
    expected: str | None = None


class SchemaMissingError(SchemaError):
    """The database holds no statestore tables yet."""


class SchemaOutdatedError(SchemaError):
    """The tables were made by an older version."""


class SchemaAheadError(SchemaError):
    """The tables were made by a newer version, and this one may not use them any more.

    `oldest_code` is the revision that a version has to know to use them, where they say so.
    """

    oldest_code: str | None = None


class StoreClosedError(StateStoreError):
    """The store was closed; open another."""


class DatabaseError(StateStoreError):
    """The database refused or failed. `code` is its SQLSTATE or SQLite error name, without any data of a row."""

    code: str | None = None


class UnavailableError(DatabaseError):
    """The database could not be reached or stayed busy, also after retries. Nothing was written."""

    retryable = True


class CommitUnknownError(DatabaseError):
    """The connection was lost while a commit was under way: it may or may not have happened.

    Raised only where a second try could do the work twice. Read before you repeat the call.
    """


class StorageFullError(DatabaseError):
    """The disk or the quota of the database is used up."""


class ReadOnlyError(DatabaseError):
    """The database accepts no writes: a standby, a read-only file, or missing rights."""
