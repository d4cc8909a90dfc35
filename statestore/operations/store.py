"""Operations outside the groups: a turn, and statistics of the whole namespace."""

from statestore.engine.flows import Block
from statestore.operations import turn
from statestore.operations.base import Operations, block, operation
from statestore.operations.turn import Turn
from statestore.repositories.history.windows import Limits, Tokenizer
from statestore.repositories.sessions.statistics import Readiness, StoreStatistics
from statestore.values.sessions import Lease, NewSession


class StoreOperations(Operations):
    """Operations of a store as a whole."""

    stats = operation(StoreStatistics.stats)
    ping = operation(Readiness.ping)

    @block
    def turn(
        self,
        session_id: str,
        *,
        max_entries: int | None = None,
        max_tokens: int | None = None,
        tokenizer: Tokenizer | None = None,
        keep_system: bool = False,
        keep_newest: bool = True,
        include_summaries: bool = False,
        create: bool | NewSession = False,
        lease: Lease | None = None,
    ) -> Block[Turn]:
        """One turn of an agent: `with store.turn(session_id, max_tokens=8000) as turn:`, or `async with`.

        The block gets `turn.window`, `turn.state` and `turn.instructions`, and collects changes with `turn.append(…)`
        and `turn.state[…] = …`. The end of the block commits all of them in one transaction. If the block raises,
        nothing is written.

        Args:
            session_id: The session.
            max_entries: As for `history.window`, like the next five.
            max_tokens: …
            tokenizer: …
            keep_system: …
            keep_newest: …
            include_summaries: …
            create: If there is no such session, begin with nothing, and let the commit create it. A `NewSession` says
                what it is to be like.
            lease: Begin and commit only while this lease is valid.

        Raises:
            SessionNotFoundError: No such session, or it has expired, and *create* is false. If that happened during the
                block, the error's `unsaved` has what was collected.
            ConflictError: At the end of the block: since the turn began, others have changed the end of the history, or
                a state key that the turn changed, or have deleted the session and *create* is true, or created it
                again; or another entry is stored under the `entry_id` of one that was collected. Nothing was written;
                the error's `unsaved` has what was collected.
            StoreClosedError: `turn.append` or a change of `turn.state` after the end of the block.
            StaleLeaseError: *lease* is no longer valid, at the start or at the end, even if nothing was collected.
            InvalidValueError: A value can never be stored. Nothing was written.
        """
        limits = Limits(
            max_entries=max_entries,
            max_tokens=max_tokens,
            tokenizer=tokenizer,
            keep_system=keep_system,
            keep_newest=keep_newest,
            include_summaries=include_summaries,
        )
        return turn.turn(session_id, limits.check(), create=create, lease=lease)
