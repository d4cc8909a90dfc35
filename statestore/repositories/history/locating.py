"""Finding entries by their ids, in whichever session they are."""

from collections.abc import Iterable

from statestore.checking import checks
from statestore.engine.calls import reads
from statestore.engine.sql import Statement
from statestore.repositories.base import Repository

# The unique index on entries begins with their ids.
_LOCATE = Statement("""
    SELECT h.entry_id, h.session_id FROM $history_entries AS h
    JOIN $sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
    WHERE h.entry_id $in(:entry_ids) AND h.namespace = :namespace
        AND (:any_agent OR s.agent_name $in(:agent_names)) AND (:expired_too OR $live)""")


class LocatingRepository(Repository):
    """Looks entries up across the sessions of a namespace."""

    @reads
    def locate(
        self, entry_ids: Iterable[str], *, agent_names: Iterable[str] | None = None, include_expired: bool = False
    ) -> dict[str, list[str]]:
        """The sessions that entries with these ids were appended to, in one statement.

        An `entry_id` is unique only within a session, so this tells what the store already has, in any session. A fork
        that shares an entry is not named: only the session that the entry's usage counts for. Does not extend any TTL.
        Inside a caller's transaction, others may change what was found before it ends.

        Args:
            entry_ids: The ids to look for, any number; several hundred at a time are a good size.
            agent_names: Look only at the sessions of these agents; by default at all sessions.
            include_expired: Also look at expired sessions that no sweep has deleted yet: until then their usage is in
                the reports too.

        Returns:
            The session ids, sorted, by entry id, in the order given. Ids that no session has are left out.

        Raises:
            InvalidValueError: An id or a name can never be stored, or an argument is a single string, not a list.
        """
        ids = self._once("entry_ids", lambda: checks.keys(entry_ids, "entry_ids"))
        names = self._once(
            "agent_names", lambda: checks.keys(() if agent_names is None else agent_names, "agent_names")
        )
        if not ids:
            return {}
        found: dict[str, list[str]] = {}
        for entry_id, session_id in self._link.all(
            _LOCATE, entry_ids=ids, agent_names=names, any_agent=agent_names is None, expired_too=include_expired
        ):
            found.setdefault(entry_id, []).append(session_id)
        return {entry_id: sorted(found[entry_id]) for entry_id in ids if entry_id in found}
