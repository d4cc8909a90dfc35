"""Sessions: create, find, change and delete them. Their other operations are in the files beside this one."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from statestore.checking import checks, exactjson
from statestore.engine.calls import reads, writes, writes_in_one_statement, writes_once_in_one_statement
from statestore.engine.sql import Statement
from statestore.errors import InvalidValueError, SessionExistsError
from statestore.repositories.base import Repository
from statestore.repositories.sessions import holding, session_columns, session_life, session_rows
from statestore.values import ids
from statestore.values.markers import MISSING, MissingType, NeverType
from statestore.values.sessions import Session, Status

_EXISTS = Statement("""
    SELECT 1 FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")


class SessionsRepository(Repository):
    """The sessions of a namespace."""

    @writes_once_in_one_statement
    def create(
        self,
        session_id: str | None = None,
        *,
        user_id: str | None = None,
        agent_name: str | None = None,
        title: str | None = None,
        instructions: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        project_root: str | None = None,
        cwd: str | None = None,
        ttl: timedelta | NeverType | None = None,
        status: Status = "ready",
        belongs_to: str | None = None,
        created_at: datetime | None = None,
    ) -> Session:
        """Create a session.

        Args:
            session_id: Its id; a UUIDv7 if none is given.
            user_id: The user it belongs to; used for lists, reports and erasure.
            agent_name: The agent that runs it.
            title: A title for people to read.
            instructions: The agent's standing instructions, returned on resume.
            metadata: A mapping of exact JSON.
            project_root: The directory that the session is about; it stays when *cwd* changes.
            cwd: The current directory.
            ttl: How long after its last use the session expires; by default the store's `default_ttl`, NEVER for never.
            status: `ready`, `starting` for an agent that is not up yet, `busy` or `dead`.
            belongs_to: The session that it is to be a part of, such as a sub-agent's of its agent's. A part has no TTL:
                it is hidden from `page` and `count`, and expires and goes with that session. A part of a part belongs
                to the same session. To create, read or touch a part, to append to it, or to write its state or lists,
                counts as a use of the whole.
            created_at: When it was created, for imports; by default now; a time in the future counts as now.

        Raises:
            SessionExistsError: A living session has this id. Nothing was written.
            SessionNotFoundError: *belongs_to* does not exist, or has expired. Nothing was written.
            InvalidValueError: For example, *ttl* together with *belongs_to*. Nothing was written.
        """
        session_id = self._once("session_id", ids.uuid7) if session_id is None else session_id
        attributes = {
            "user_id": user_id,
            "agent_name": agent_name,
            "title": title,
            "instructions": instructions,
            "metadata": metadata,
            "project_root": project_root,
            "cwd": cwd,
            "ttl": ttl,
            "belongs_to": belongs_to,
            "created_at": created_at,
        }
        columns = session_columns.new(self._link, session_id, attributes, status)
        session = self._create(session_id, columns)
        if session is None:
            raise SessionExistsError(session_id, self._link.settings.namespace)
        return session

    @writes_in_one_statement
    def open(
        self,
        session_id: str,
        *,
        user_id: str | None = None,
        agent_name: str | None = None,
        title: str | None = None,
        instructions: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        project_root: str | None = None,
        cwd: str | None = None,
        ttl: timedelta | NeverType | None = None,
        status: Status = "ready",
        belongs_to: str | None = None,
        created_at: datetime | None = None,
    ) -> Session:
        """Resume a session, or create it: `Session.resumed` tells which.

        A resumed session keeps its attributes; the other arguments are only used to create one. A dead session is
        revived: it gets *status*, `ready` or `starting`. Its TTL is extended. Inside a transaction, nobody else can
        change the session from here on until the transaction ends. Arguments and errors are those of `create`.
        """
        attributes = {
            "user_id": user_id,
            "agent_name": agent_name,
            "title": title,
            "instructions": instructions,
            "metadata": metadata,
            "project_root": project_root,
            "cwd": cwd,
            "ttl": ttl,
            "belongs_to": belongs_to,
            "created_at": created_at,
        }
        columns = session_columns.new(self._link, session_id, attributes, status)
        while True:
            found = session_rows.find(self._link, session_id, resumed=True)
            if found is not None and found.status == "dead":
                found = session_life.revive(self._link, session_id, status)
                if found is None:
                    continue
            session = found or self._create(session_id, columns)
            if session is not None:
                return session

    @reads
    def get(self, session_id: str) -> Session:
        """The session. Extends its TTL.

        Inside a transaction, nobody else can change the session, its history or its state from here on until the
        transaction ends, so writing back loses no update. The same holds for `find`, `open` and `load`, but not for
        lists and counts.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        found = session_rows.find(self._link, checks.key(session_id, "session_id"))
        if found is None:
            raise session_rows.not_found(self._link, session_id)
        return found

    @reads
    def find(self, session_id: str) -> Session | None:
        """The session, or None. Extends its TTL.

        Inside a transaction, a session that was found is held, as by `get`. If it is missing, other transactions that
        look for it wait; a call outside a transaction may still create it, and creating it here then raises
        `SessionExistsError`.
        """
        return session_rows.find(self._link, checks.key(session_id, "session_id"))

    @reads
    def exists(self, session_id: str) -> bool:
        """Whether there is such a session. Does not extend its TTL."""
        return bool(holding.read(self._link, _EXISTS, session_id=checks.key(session_id, "session_id")))

    @writes_once_in_one_statement
    def update(
        self,
        session_id: str,
        *,
        user_id: str | MissingType | None = MISSING,
        agent_name: str | MissingType | None = MISSING,
        title: str | MissingType | None = MISSING,
        instructions: str | MissingType | None = MISSING,
        metadata: Mapping[str, Any] | MissingType | None = MISSING,
        project_root: str | MissingType | None = MISSING,
        cwd: str | MissingType | None = MISSING,
        ttl: timedelta | NeverType | MissingType | None = MISSING,
        expected_revision: int | None = None,
    ) -> Session:
        """Change a session's attributes; those not given stay. Extends its TTL.

        Args:
            session_id: The session.
            user_id: As for `create`, like the others; None clears an attribute.
            agent_name: …
            title: …
            instructions: …
            metadata: Replaces all metadata; `merge_metadata` changes some keys.
            project_root: …
            cwd: …
            ttl: Counts from now; None or NEVER for no expiry, whatever the store's `default_ttl`.
            expected_revision: Change the session only if it has this revision.

        Returns:
            The session as it is now, its revision one higher.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
            ConflictError: The session does not have the expected revision. Nothing was written.
            InvalidValueError: For example, *ttl* for a session that belongs to another. Nothing was written.
        """
        checks.key(session_id, "session_id")
        checks.optional_count(expected_revision, "expected_revision")
        given = {
            "user_id": user_id,
            "agent_name": agent_name,
            "title": title,
            "instructions": instructions,
            "metadata": {} if metadata is None else metadata,
            "project_root": project_root,
            "cwd": cwd,
            "ttl": ttl,
        }
        columns = {
            name: session_columns.attribute(self._link, name, value)
            for name, value in given.items()
            if value is not MISSING
        }
        statement = session_rows.update_statement(tuple(columns), expected_revision is not None)
        while True:
            row = self._link.one(statement, session_id=session_id, expected_revision=expected_revision, **columns)
            if row is not None:
                return session_rows.from_row(self._link, row)
            found = session_rows.find(self._link, session_id)
            if found is None:
                raise session_rows.not_found(self._link, session_id)
            if found.belongs_to is not None and columns.get("ttl") is not None:
                raise session_columns.part_has_no_ttl()
            if expected_revision not in (None, found.revision):
                raise session_rows.other_revision(session_id, found.revision, expected_revision)
            # Made meanwhile, or made anew: a statement that waited for a row that goes does not see the next one.

    @writes
    def merge_metadata(
        self, session_id: str, metadata: Mapping[str, Any], *, expected_revision: int | None = None
    ) -> Session:
        """Set some keys of a session's metadata and keep the others, even if somebody else does so at the same time.

        Existing keys keep their place; a None value is stored as None.

        Args:
            session_id: The session.
            metadata: The keys to set.
            expected_revision: Change the session only if it has this revision.

        Returns:
            The session as it is now.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
            ConflictError: The session does not have the expected revision. Nothing was written.
        """
        checks.key(session_id, "session_id")
        if metadata is None:
            raise InvalidValueError("metadata", "must be a mapping of the keys to set, not None")
        checks.optional_count(expected_revision, "expected_revision")
        given = exactjson.loads(session_columns.attribute(self._link, "metadata", metadata))
        held = session_rows.lock(self._link, session_id).session
        if expected_revision not in (None, held.revision):
            raise session_rows.other_revision(session_id, held.revision, expected_revision)
        merged = session_columns.attribute(self._link, "metadata", held.metadata | given)
        row = self._link.one(
            session_rows.update_statement(("metadata",), False), session_id=session_id, metadata=merged
        )
        if row is None:
            raise session_rows.not_found(self._link, session_id)
        return session_rows.from_row(self._link, row)

    @writes_in_one_statement
    def touch(self, session_id: str) -> None:
        """Mark the session as used: extends its TTL and updates its last activity.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        session_rows.mark_active(self._link, checks.key(session_id, "session_id"))

    def _create(self, session_id: str, columns: Mapping[str, Any]) -> Session | None:
        """Create the session; None if a living one has the id."""
        if not self._link.in_transaction:
            made = session_rows.insert(self._link, session_id, columns)
            if made is not None:
                return made
        self._needs_transaction()
        return session_life.create(self._link, session_id, columns)
