"""The status of a session: starting, ready, busy or dead."""

from datetime import timedelta
from functools import lru_cache

from statestore.checking import checks
from statestore.engine.calls import writes, writes_in_one_statement
from statestore.engine.sql import Statement
from statestore.errors import InvalidTransitionError
from statestore.repositories.base import Repository
from statestore.repositories.sessions import lease_checks, session_rows
from statestore.values.sessions import STATUSES, Lease, Session, Status

# The statuses that may follow each status. A dead session is resumed by starting it again, or by `sessions.open`.
TRANSITIONS: dict[str, tuple[str, ...]] = {
    "starting": ("ready", "dead"),
    "ready": ("busy", "dead"),
    "busy": ("ready", "dead"),
    "dead": ("starting", "ready"),
}

STATUS = Statement("""
    SELECT s.status FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")

# Ending a session from outside revokes any lease on it.
_TAKE_BACK = "lease_owner = NULL, lease_until = NULL"

_TERMINATE = Statement(f"""
    UPDATE $sessions AS s SET status = 'dead', {_TAKE_BACK}, {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")

# Renewing a lease also updates the last activity, so this one condition covers both kinds of work.
_REPAIR = Statement(f"""
    UPDATE $sessions AS s SET status = CASE WHEN s.status = 'starting' THEN 'dead' ELSE 'ready' END, {_TAKE_BACK}
    WHERE s.namespace = :namespace AND s.status IN ('starting', 'busy') AND $live
        AND s.last_activity_at <= $later(-CAST(:older_than AS interval))
        AND {lease_checks.FREE}""")


@lru_cache(maxsize=32)
def _set_status(to: str, leased: bool, repeated: bool) -> Statement:
    before = [status for status, following in TRANSITIONS.items() if to in following] + ([to] if repeated else [])
    allowed = ", ".join(f"'{status}'" for status in before)
    take_back = f"{_TAKE_BACK}, " if to == "dead" and not leased else ""
    return Statement(f"""
        UPDATE $sessions AS s SET status = :status, {take_back}{session_rows.ACTIVE}
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live AND s.status IN ({allowed})
        {session_rows.HELD if leased else ""}
        RETURNING {session_rows.COLUMNS}""")


class LifecycleRepository(Repository):
    """From starting to dead, and back."""

    @writes_in_one_statement
    def set_status(self, session_id: str, status: Status, *, lease: Lease | None = None) -> Session:
        """Move a session to another status, in one statement: of two callers at once, the loser gets an error.

        starting leads to ready or dead, ready to busy or dead, busy to ready or dead, dead to starting or ready. A
        change of status does not count for `revision`. Setting a session to dead from outside, without *lease*, revokes
        any lease on it.

        Args:
            session_id: The session.
            status: The new status.
            lease: Change it only while this lease is valid.

        Returns:
            The session as it is now.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
            InvalidTransitionError: Its status does not lead to *status*. Nothing was written.
            StaleLeaseError: *lease* is no longer valid. Nothing was written.
        """
        checks.key(session_id, "session_id")
        checks.one_of(status, STATUSES, "status")
        token = lease_checks.token(lease, session_id)
        statement = _set_status(status, lease is not None, self._call.attempt > 1)
        while True:
            row = self._link.one(statement, session_id=session_id, status=status, lease_token=token)
            if row is not None:
                return session_rows.from_row(self._link, row)
            if lease is not None:
                session_rows.check_lease(self._link, lease)
            found = self._link.one(STATUS, session_id=session_id)
            if found is None:
                raise session_rows.not_found(self._link, session_id)
            if status not in TRANSITIONS[found[0]]:
                break  # Otherwise the session was made anew, or changed, meanwhile.
        raise invalid_transition(session_id, found[0], status)

    @writes_in_one_statement
    def terminate(self, session_id: str) -> bool:
        """End a session, whatever its status: it becomes dead, and its lease is revoked. `open` resumes it.

        Returns:
            Whether there is such a session. A missing one is not an error.
        """
        return self._link.run(_TERMINATE, session_id=checks.key(session_id, "session_id")) > 0

    @writes
    def repair_abandoned(self, *, older_than: timedelta) -> int:
        """Mark sessions as ready again that a process left busy when it died, and as dead those it left starting.

        A session is abandoned if it is busy or starting, has not been used for *older_than*, and has no valid lease.

        Args:
            older_than: Longer than any working session goes without activity.

        Returns:
            How many there were.
        """
        checks.duration(older_than, "older_than")
        return self._link.run(_REPAIR, older_than=older_than, latest_lease=lease_checks.LATEST)


def invalid_transition(session_id: str, status: str, wanted: str) -> InvalidTransitionError:
    allowed = TRANSITIONS[status]
    return InvalidTransitionError(
        f"session {session_id!r} is {status} and cannot become {wanted}, only {' or '.join(allowed)}",
        session_id=session_id,
        current=status,
        wanted=wanted,
        allowed=allowed,
    )
