"""Operations on sessions."""

from collections.abc import Sequence
from datetime import timedelta

from statestore.checking import checks
from statestore.engine.calls import Call
from statestore.engine.flows import Flow, empty_log, entering, run, run_async
from statestore.errors import InvalidValueError
from statestore.operations import erasing, leases
from statestore.operations.base import AsyncGroup, Group, Operations, documented, flow, operation
from statestore.operations.leases import AsyncHeldLease, HeldLease
from statestore.repositories.conversations.load_save import ConversationsRepository
from statestore.repositories.sessions.forks import ForksRepository
from statestore.repositories.sessions.leases import LeasesRepository
from statestore.repositories.sessions.lifecycle import LifecycleRepository
from statestore.repositories.sessions.listing import ListingRepository
from statestore.repositories.sessions.repository import SessionsRepository
from statestore.repositories.sessions.statistics import StatisticsRepository
from statestore.values import ids
from statestore.values.conversations import ConversationState, SaveReport
from statestore.values.sessions import ErasureReceipt, Lease


class SessionOperations(Operations):
    create = operation(SessionsRepository.create)
    open = operation(SessionsRepository.open)
    get = operation(SessionsRepository.get)
    find = operation(SessionsRepository.find)
    exists = operation(SessionsRepository.exists)
    page = operation(ListingRepository.page)
    count = operation(ListingRepository.count)
    load_many = operation(ListingRepository.load_many)
    update = operation(SessionsRepository.update)
    merge_metadata = operation(SessionsRepository.merge_metadata)
    touch = operation(SessionsRepository.touch)
    fork = operation(ForksRepository.fork)
    lineage = operation(ForksRepository.lineage)
    set_status = operation(LifecycleRepository.set_status)
    terminate = operation(LifecycleRepository.terminate)
    repair_abandoned = operation(LifecycleRepository.repair_abandoned)
    renew = operation(LeasesRepository.renew)
    release = operation(LeasesRepository.release)
    stats = operation(StatisticsRepository.stats)
    load = operation(ConversationsRepository.load)

    @flow
    @documented(ConversationsRepository.save)
    def save(
        self, conversation: ConversationState, *, create: bool = False, lease: Lease | None = None
    ) -> Flow[SaveReport]:
        options = {"create": create, "lease": lease}
        report: SaveReport = yield Call(ConversationsRepository.save, (conversation,), options)
        _saved(conversation, report)
        return report

    @flow
    def delete(
        self, session_id: str, *, expected_revision: int | None = None, user_id: str | None = None
    ) -> Flow[bool]:
        """Remove a session with its history, state and summaries, and all that belongs to it. Forks keep what they see.

        It is gone at once. If it has more than a thousand entries, its rows are deleted in batches, each in its own
        short transaction, so that nobody waits long; if this is interrupted, the next sweep deletes the rest. A later
        write does not bring the session back.

        Args:
            session_id: The session.
            expected_revision: Delete the session only if it has this revision.
            user_id: Delete the session only if it is this user's.

        Returns:
            Whether there was such a session; an expired one, or another user's, does not count.

        Raises:
            ConflictError: The session does not have the expected revision. Nothing was deleted.
        """
        return erasing.delete(session_id, expected_revision=expected_revision, user_id=user_id)

    @flow
    def delete_many(self, session_ids: Sequence[str]) -> Flow[int]:
        """Remove sessions, each as by `delete`: if this is interrupted, some are gone and the others are not.

        Up to 500 sessions with up to a thousand entries in all go in one transaction, on PostgreSQL in one statement.
        Larger ones, those with parts or forks, and those that somebody is writing to, take a transaction each there.

        Returns:
            How many there were. An id that is given twice counts once.
        """
        return erasing.delete_many(checks.keys(session_ids, "session_ids"))

    @flow
    def delete_user(self, user_id: str, *, progress: erasing.Progress | None = None) -> Flow[ErasureReceipt]:
        """Remove all sessions of a user, expired ones included, and the user's own state (`user_state`).

        The first transaction removes all of them at once, and the user's id with them; sessions that the user opens
        later are not affected. Their rows are deleted in batches, each in its own short transaction, so that nobody
        waits long. If this is interrupted, call it again, or leave the rest to the sweep, which continues after an
        hour. Inside a caller's transaction it is all or none, and other forks and deletions in the namespace wait.

        Entries that a fork of another user sees stay there, and belong to that user. What the user's entries used and
        cost stays in the usage ledger, without the user's id, and with random session ids.

        Args:
            user_id: The user.
            progress: Called after each batch with the receipt so far.

        Returns:
            What was removed, for the record, including what an earlier, interrupted call had left.
        """
        checks.optional_function(progress, "progress")
        receipt = yield from erasing.delete_user(self._namespace, user_id, progress)
        yield from empty_log(self._runner)
        return receipt

    def derive_id(self, *parts: str) -> str:
        """A stable id: the same parts give the same id in this namespace, on every host. Does not use the database."""
        if not parts:
            raise InvalidValueError("parts", "must name at least one part")
        return ids.derive(self._namespace, *(checks.key(part, "parts") for part in parts))


class Sessions(SessionOperations, Group):
    """Creating, finding, forking, leasing and deleting sessions: `store.sessions`."""

    def acquire(self, session_id: str, *, owner: str, ttl: timedelta, wait: timedelta | None = None) -> HeldLease:
        """Get the sole right to work on a session, across processes and hosts, until the lease runs out.

        Pass the lease to writes as `lease=`: they are refused once somebody else may hold the session. As a context
        manager it renews itself in the background and marks the session busy, then ready:
        `with store.sessions.acquire(…) as lease:`. A lease that is not renewed can be taken over.

        Args:
            session_id: The session.
            owner: Who acquires it, for people to read; it need not be unique.
            ttl: How long the lease is valid unless it is renewed; at most 12 hours. The store's clock decides: on
                SQLite, that of the process. A lease that ends later than any lease may, because its holder's clock is
                far ahead, counts as free.
            wait: How long to wait if somebody else has it; by default not at all.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            ConflictError: Somebody else holds it, even after waiting. `owner` and `until` say who, and until when.
        """
        taking = leases.acquire(session_id, owner=owner, ttl=ttl, wait=wait)
        return HeldLease(run(self._runner, taking), self._runner)


class AsyncSessions(SessionOperations, AsyncGroup):
    """As `Sessions`, awaited."""

    @entering
    async def acquire(
        self, session_id: str, *, owner: str, ttl: timedelta, wait: timedelta | None = None
    ) -> AsyncHeldLease:
        """As `Sessions.acquire`: await the lease, or enter it with `async with store.sessions.acquire(…) as lease:`."""
        taking = leases.acquire(session_id, owner=owner, ttl=ttl, wait=wait)
        return AsyncHeldLease(await run_async(self._runner, taking), self._runner)


def _saved(conversation: ConversationState, report: SaveReport) -> None:
    """Make what was saved the new baseline of a loaded conversation. One made by hand keeps replacing what is stored.

    Its entries stay as its owner put them there: the next save recognizes the stored ones by their content.
    """
    if conversation.baseline is not None:
        conversation.baseline = report.conversation.baseline
        conversation.session = report.conversation.session
        conversation.summaries = [*report.conversation.summaries]
