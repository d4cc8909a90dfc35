"""Leases: who has the sole right to work on a session."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from statestore.checking import checks
from statestore.engine.calls import reported_as, writes_in_one_statement, writes_once_in_one_statement
from statestore.engine.sql import Statement
from statestore.repositories.base import Repository
from statestore.repositories.sessions import lease_checks, lifecycle, session_rows
from statestore.values.sessions import Lease

# The token is the real time in microseconds, and at least one more than the last token: a session that is created again
# under an old id must not reuse tokens.
_TAKE = f"""
    UPDATE $sessions AS s SET lease_owner = :owner, lease_token = %s,
        lease_until = $later(CAST(:lease_ttl AS interval)), {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live
        AND {lease_checks.FREE}
    RETURNING lease_token, lease_until"""
_ACQUIRE = Statement(
    postgresql=_TAKE
    % "greatest(s.lease_token + 1, CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS bigint))",
    sqlite=_TAKE % "max(s.lease_token + 1, :real_time)",
)

_RENEW = Statement(f"""
    UPDATE $sessions AS s SET lease_until = $later(CAST(:lease_ttl AS interval)), {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live {session_rows.HELD}
    RETURNING lease_until""")

_RELEASE = Statement(f"""
    UPDATE $sessions AS s SET lease_owner = NULL, lease_until = NULL, {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live {session_rows.HELD}""")

# A session that was left busy may be taken over as it is: the lease proves that nobody else is working on it.
_BEGIN_WORK = Statement(f"""
    UPDATE $sessions AS s SET status = 'busy', {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live AND s.status IN ('ready', 'busy')
        {session_rows.HELD}""")

_END_WORK = Statement(f"""
    UPDATE $sessions AS s SET lease_owner = NULL, lease_until = NULL, {session_rows.ACTIVE},
        status = CASE WHEN s.status = 'busy' THEN 'ready' ELSE s.status END
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live {session_rows.HELD}""")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the requested lease, and until when."""

    owner: str | None
    until: datetime | None


class LeasesRepository(Repository):
    """What a holder does with its lease."""

    @writes_in_one_statement
    def renew(self, lease: Lease, *, ttl: timedelta | None = None) -> Lease:
        """Hold a lease for longer. Inside a transaction it also keeps everybody else away until the commit.

        Args:
            lease: A lease that still holds.
            ttl: How long from now, at most 12 hours; by default as long as it was acquired for.

        Returns:
            The lease with its new end.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            StaleLeaseError: The lease is no longer valid. Nothing was written.
        """
        token = lease_checks.own_token(lease)
        ttl = lease_checks.ttl(lease.ttl, "lease.ttl") if ttl is None else lease_checks.ttl(ttl)
        row = self._link.one(_RENEW, session_id=lease.session_id, lease_token=token, lease_ttl=ttl)
        if row is None:
            session_rows.check_lease(self._link, lease)
            raise session_rows.not_found(self._link, lease.session_id)
        (until,) = row
        until = self._link.dialect.time(until)
        return Lease(session_id=lease.session_id, owner=lease.owner, token=lease.token, ttl=ttl, until=until)

    @writes_in_one_statement
    def release(self, lease: Lease) -> bool:
        """Give a lease back before it runs out, so that others need not wait.

        Returns:
            Whether it was still valid. If it was not, that is not an error.
        """
        token = lease_checks.own_token(lease)
        return self._link.run(_RELEASE, session_id=lease.session_id, lease_token=token) > 0


class LeaseWork(Repository):
    """The steps of `sessions.acquire` and of a lease as a context manager; no operations of their own."""

    @reported_as("sessions.acquire")
    @writes_once_in_one_statement
    def take(self, session_id: str, *, owner: str, ttl: timedelta) -> Lease | Holder:
        """The lease, or its current holder."""
        checks.key(session_id, "session_id")
        checks.key(owner, "owner")
        lease_checks.ttl(ttl)
        row = self._link.one(
            _ACQUIRE,
            session_id=session_id,
            owner=owner,
            lease_ttl=ttl,
            latest_lease=lease_checks.LATEST,
            real_time=time.time_ns() // 1000,
        )
        if row is not None:
            token, until = row
            return Lease(session_id=session_id, owner=owner, token=token, ttl=ttl, until=self._link.dialect.time(until))
        held = session_rows.find_lease(self._link, session_id)
        if held is None:
            raise session_rows.not_found(self._link, session_id)
        holder, _, until, _ = held
        return Holder(holder, self._link.dialect.time(until))

    @writes_in_one_statement
    def begin_work(self, lease: Lease) -> None:
        """Mark the session busy."""
        if self._link.run(_BEGIN_WORK, session_id=lease.session_id, lease_token=lease.token):
            return
        session_rows.check_lease(self._link, lease)
        found = self._link.one(lifecycle.STATUS, session_id=lease.session_id)
        if found is None:
            raise session_rows.not_found(self._link, lease.session_id)
        (status,) = found
        raise lifecycle.invalid_transition(lease.session_id, status, "busy")

    @writes_in_one_statement
    def end_work(self, lease: Lease) -> bool:
        """Mark a busy session ready and release the lease. Returns whether it was still valid."""
        if self._link.run(_END_WORK, session_id=lease.session_id, lease_token=lease.token):
            return True
        # On a retry after a lost connection, the first try may have done it already.
        row = session_rows.find_lease(self._link, lease.session_id) if self._call.attempt > 1 else None
        if row is None:
            return False
        _, token, until, _ = row
        return token == lease.token and until is None
