"""Whose state it is: a session's, a user's or an agent's. What differs between the three, so that nothing else does.

On PostgreSQL, whoever writes a key takes the owner's lock in share mode, and so waits only for writers of the same key.
Whoever has to be sure that nothing changes takes it alone: a caller's transaction that reads or writes, and a turn that
compares versions. It is an advisory lock, since a row that some share could be kept from those who want it alone for
ever, and users and agents have no row. A session's row is always locked before it by those who wait for both: those who
share it pass by a row that is locked.
"""

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import ClassVar

from statestore.checking import exactjson
from statestore.engine.sql import Link, Statement
from statestore.errors import DatabaseError, StateStoreError
from statestore.repositories.base import one_row
from statestore.repositories.sessions import holding, session_rows

# A write says so in the session's row at most so often: others may have that row, and each version of it is space.
STEP = timedelta(seconds=1)

_TENTH_PASSED = session_rows.TENTH_PASSED.format("s")
_DUE = f"""(s.last_activity_at <= $later(-CAST(:step AS interval)) OR s.active_hour <> $hour
            OR ({_TENTH_PASSED}) IS TRUE)"""
_WHOLE_DUE = session_rows.WHOLE_DUE
_SESSION = "s.namespace = :namespace AND s.session_id = :owner_id AND $live"


class Scope(ABC):
    """A kind of owner.

    Attributes:
        name: What identifies it among the scopes.
        argument: What callers call the owner, and errors that are about one.
        table: The table of its keys.
        columns: The columns that say whose a key is.
        values: Their values in an INSERT.
        owned: That row `e` is the owner's.
        for_user: Whether a key can be written for a user, with whom it is erased.
        found: FROM and WHERE of a row for an owner that can have keys.
        reading_due: Whether a read has to extend the owner's TTL.
        sharing: Common table expressions that a write on PostgreSQL begins with, which take the owner's lock in share
            mode: `owner` has a row if it can have keys.
        alone: The same, with the lock in exclusive mode.
        from_owner: FROM of a write of a row of `owner`, and the namespace in it.
        noting: What notes the write in the owner's row, unless somebody else has locked that; without `:always`, only
            if something is `done`.
        writing_due: Whether the write has still to be noted in the owner's row.
    """

    name: ClassVar[str]
    argument: ClassVar[str]
    table: ClassVar[str]
    columns: ClassVar[str]
    values: ClassVar[str]
    owned: ClassVar[str]
    for_user: ClassVar[bool] = False
    found: ClassVar[tuple[str, str]]
    reading_due: ClassVar[str] = "false"
    sharing: ClassVar[str]
    alone: ClassVar[str]
    from_owner: ClassVar[tuple[str, str]] = ("owner", ":namespace")
    noting: ClassVar[str] = ""
    writing_due: ClassVar[str] = "false"

    def entered(self, work: str, alone: bool) -> str:
        """A write of PostgreSQL: *work* is of rows of `owner`, and what it has written it calls `done`.

        It has a row for an owner that can have keys, whatever is done, and says first whether the owner has still to be
        told of it.
        """
        return f"""
    WITH {self.alone if alone else self.sharing},
    {work}{self.noting}
    SELECT {self.writing_due}, done.* FROM owner LEFT JOIN done ON true"""

    @abstractmethod
    def hold(self, link: Link, owner_id: str) -> None:
        """See to it that others change nothing before the transaction ends. On PostgreSQL, in a caller's own."""

    @abstractmethod
    def not_found(self, link: Link, owner_id: str) -> StateStoreError:
        """The error for an owner that cannot have keys."""

    def enter(self, link: Link, owner_id: str) -> bool:
        """Before a write in a transaction: whether the owner can have keys, as far as is known."""
        return True

    def is_there(self, link: Link, owner_id: str) -> bool:
        """Whether an owner that a write did not find is there, once who holds its row has ended."""
        return False

    def note_read(self, link: Link, owner_id: str) -> None:  # noqa: B027
        """After a read that found that it is due."""

    def note_write(self, link: Link, owner_id: str) -> None:  # noqa: B027
        """After a write that found that it is due."""

    @abstractmethod
    def damaged(self, owner_id: str, key: str) -> DatabaseError:
        """The error for a value that is no longer JSON."""

    @abstractmethod
    def named(self, owner_id: str) -> str:
        """The owner, in a message."""

    def fact(self, owner_id: str) -> dict[str, str]:
        """The owner, as an attribute of an error."""
        return {self.argument: owner_id}


def _lock(function: str, number: int) -> str:
    """The owner's lock. The number is this kind of lock's own; see `holding`."""
    place = f"hashtextextended(CAST(:namespace AS text), {number})"
    return f"CAST(pg_advisory_xact_{function}(hashtextextended(CAST(:owner_id AS text), {place})) AS text) AS entered"


_HOLD = Statement(
    postgresql=f"""
    WITH locked AS MATERIALIZED (SELECT s.session_id FROM $sessions AS s WHERE {_SESSION} $lock)
    SELECT {_lock("lock", 17)} FROM locked"""
)
_LOOK = Statement(f"SELECT {_DUE}, {_WHOLE_DUE} FROM $sessions AS s WHERE {_SESSION}")
_WAIT = Statement(postgresql=f"SELECT 1 FROM $sessions AS s WHERE {_SESSION} FOR KEY SHARE OF s")
_EXTEND_WHOLE = f"""UPDATE $sessions AS s SET expires_at = $later(s.ttl)
        WHERE s.namespace = :namespace AND $live AND {_TENTH_PASSED} AND s.session_id = (
            SELECT x.belongs_to FROM $sessions AS x WHERE x.namespace = :namespace AND x.session_id = :owner_id)"""
_NOTE_WHOLE = Statement(sqlite=_EXTEND_WHOLE)
# First the row of what it belongs to, as those do who remove that.
_NOTE = Statement(
    postgresql=f"""
    WITH whole AS ({_EXTEND_WHOLE} RETURNING 1)
    UPDATE $sessions AS s SET {session_rows.ACTIVE} WHERE (SELECT count(*) FROM whole) >= 0 AND {_SESSION} AND {_DUE}"""
)


class SessionScope(Scope):
    """The state of a session, which has to live."""

    name = "session"
    argument = "session_id"
    table = "$state_entries"
    columns = "session_id"
    values = ":owner_id"
    owned = "e.session_id = :owner_id"
    found = ("$sessions AS s", _SESSION)
    reading_due = session_rows.EXTENSION_DUE
    # The row is locked as the foreign key does it, which blocks deletions only. One that is being deleted
    # is passed by, and waited for without the lock.
    sharing = f"""
    owner AS MATERIALIZED (
        SELECT s.session_id, {_DUE} AS due, {_WHOLE_DUE} AS whole_due, {_lock("lock_shared", 17)}
        FROM $sessions AS s WHERE {_SESSION} FOR KEY SHARE OF s SKIP LOCKED),
    idle AS MATERIALIZED (
        SELECT s.session_id FROM $sessions AS s WHERE s.namespace = :namespace
            AND s.session_id = (SELECT owner.session_id FROM owner WHERE owner.due) $lock SKIP LOCKED)"""
    alone = f"""
    owner AS MATERIALIZED (
        SELECT locked.*, {_lock("lock", 17)} FROM (
            SELECT s.session_id, {_DUE} AS due, {_WHOLE_DUE} AS whole_due
            FROM $sessions AS s WHERE {_SESSION} $lock) AS locked),
    idle AS (SELECT owner.session_id FROM owner WHERE owner.due)"""
    from_owner = ("owner$at_home(sessions, session_id = :owner_id)", "$home")
    # A write that is refused changes nothing.
    noting = f""",
    noted AS (
        UPDATE $sessions AS s SET {session_rows.ACTIVE} FROM idle
        WHERE s.namespace = :namespace AND s.session_id = idle.session_id
            AND (CAST(:always AS boolean) OR EXISTS (SELECT 1 FROM done)) RETURNING 1)"""
    writing_due = "(owner.due AND NOT EXISTS (SELECT 1 FROM noted) OR owner.whole_due)"

    def hold(self, link: Link, owner_id: str) -> None:
        if not link.holds_reads or (self.name, owner_id) in link.held:
            return
        if link.one(_HOLD, owner_id=owner_id) is None:
            holding.hold_absence(link, owner_id)
            if link.one(_HOLD, owner_id=owner_id) is None:
                return
        link.held.add((self.name, owner_id))

    def not_found(self, link: Link, owner_id: str) -> StateStoreError:
        return session_rows.not_found(link, owner_id)

    def enter(self, link: Link, owner_id: str) -> bool:
        if link.dialect.name == "postgresql":
            # Before the lock that is shared: whoever has that one alone has the row.
            if not link.holds_reads:
                self.note_write(link, owner_id)
            return True
        row = link.one(_LOOK, owner_id=owner_id, step=STEP)
        if row is None:
            return False
        due, whole_due = row
        if whole_due:
            link.run(_NOTE_WHOLE, owner_id=owner_id)
        if due:
            session_rows.mark_active(link, owner_id)
        return True

    def is_there(self, link: Link, owner_id: str) -> bool:
        return link.dialect.name == "postgresql" and link.one(_WAIT, owner_id=owner_id) is not None

    def note_read(self, link: Link, owner_id: str) -> None:
        session_rows.extend(link, owner_id)

    def note_write(self, link: Link, owner_id: str) -> None:
        link.run(_NOTE, owner_id=owner_id, step=STEP)

    def damaged(self, owner_id: str, key: str) -> DatabaseError:
        place = f"key {key!r} of {self.named(owner_id)}"
        return exactjson.damaged("state_entries", place, session_id=owner_id, key=key)

    def named(self, owner_id: str) -> str:
        return f"session {owner_id!r}"


_HERE = one_row("shared_state", "scope")


class SharedScope(Scope):
    """State that belongs to no session. Its owner need not exist anywhere else."""

    table = "$shared_state"
    columns = "scope, owner_id"
    found = ("(SELECT 1) AS s", "true")
    kind: ClassVar[str]
    number: ClassVar[int]

    def __init_subclass__(cls, *, number: int) -> None:
        cls.number = number
        cls.values = f"'{cls.name}', :owner_id"
        cls.owned = f"e.scope = '{cls.name}' AND e.owner_id = :owner_id"
        cls.sharing = f"owner AS MATERIALIZED (SELECT {_lock('lock_shared', number)} FROM {_HERE})"
        cls.alone = f"owner AS MATERIALIZED (SELECT {_lock('lock', number)} FROM {_HERE})"

    def __init__(self) -> None:
        self.lock = Statement(postgresql=f"SELECT {_lock('lock', self.number)} FROM {_HERE}")

    def hold(self, link: Link, owner_id: str) -> None:
        if link.holds_reads and (self.name, owner_id) not in link.held:
            link.all(self.lock, owner_id=owner_id)
            link.held.add((self.name, owner_id))

    def not_found(self, link: Link, owner_id: str) -> StateStoreError:
        raise AssertionError("an owner that has no row is always there")

    def damaged(self, owner_id: str, key: str) -> DatabaseError:
        place = f"key {key!r} of {self.named(owner_id)}"
        return exactjson.damaged("shared_state", place, **self.fact(owner_id), key=key)

    def named(self, owner_id: str) -> str:
        return f"{self.kind} {owner_id!r}"


class UserScope(SharedScope, number=19):
    name = "user"
    kind = "user"
    argument = "user_id"


class AppScope(SharedScope, number=23):
    name = "app"
    kind = "agent"
    argument = "agent_name"
    for_user = True


SESSION = SessionScope()
USER = UserScope()
APP = AppScope()
BY_NAME: dict[str, Scope] = {scope.name: scope for scope in (SESSION, USER, APP)}
