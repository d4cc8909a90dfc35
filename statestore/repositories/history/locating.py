"""Finding entries by their ids, in whichever session they are."""

from collections.abc import Iterable

from statestore.checking import checks
from statestore.engine.calls import reads
from statestore.engine.sql import Statement
from statestore.repositories.base import Repository
from statestore.values.history import EntryPlace

_LOCATE_SQL = """
    SELECT h.entry_id, h.session_id, h.seq FROM $history_entries AS h
    JOIN $sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
    WHERE h.entry_id $in(:entry_ids) AND h.namespace = :namespace
        AND (:any_agent OR s.agent_name $in(:agent_names)) AND (:expired_too OR $live)
    ORDER BY h.created_at, h.session_id"""
# The unique index on entries begins with their ids. SQLite, which has no statistics, would take any index that begins
# with the namespace, and read all of it; + keeps it from that.
_LOCATE = Statement(
    postgresql=_LOCATE_SQL, sqlite=_LOCATE_SQL.replace("h.namespace = :namespace", "+h.namespace = :namespace")
)


class LocatingRepository(Repository):
    """Looks entries up across the sessions of a namespace."""

    @reads
    def locate(self, entry_id: str) -> EntryPlace | None:
        """The session and the position of the entry with this id; None if no session has it.

        An `entry_id` is unique only within a session. If several have it, this is the one whose entry is the oldest;
        `locate_many` names all of them, and says what counts as having it.

        Raises:
            InvalidValueError: The id can never be stored.
        """
        found = self._places([checks.key(entry_id, "entry_id")])
        return found[0][1] if found else None

    @reads
    def locate_many(
        self, entry_ids: Iterable[str], *, agent_names: Iterable[str] | None = None, include_expired: bool = False
    ) -> dict[str, list[EntryPlace]]:
        """The sessions that entries with these ids were appended to, with their positions, in one statement.

        An `entry_id` is unique only within a session, so this tells what the store already has, in any session. A fork
        that shares an entry is not named: only the session that the entry's usage counts for. Does not extend any TTL.
        Inside a caller's transaction, others may change what was found before it ends.

        Args:
            entry_ids: The ids to look for, any number; several hundred at a time are a good size.
            agent_names: Look only at the sessions of these agents; by default at all sessions.
            include_expired: Also look at expired sessions that no sweep has deleted yet: until then their usage is in
                the reports too.

        Returns:
            The places, the oldest entry first, by entry id, in the order given. Ids that no session has are left out.

        Raises:
            InvalidValueError: An id or a name can never be stored, or an argument is a single string, not a list.
        """
        ids = self._once("entry_ids", lambda: checks.keys(entry_ids, "entry_ids"))
        names = self._once(
            "agent_names", lambda: checks.keys(() if agent_names is None else agent_names, "agent_names")
        )
        if not ids:
            return {}
        found: dict[str, list[EntryPlace]] = {}
        for entry_id, place in self._places(
            ids, names, any_agent=agent_names is None, expired_too=bool(include_expired)
        ):
            found.setdefault(entry_id, []).append(place)
        return {entry_id: found[entry_id] for entry_id in ids if entry_id in found}

    def _places(
        self,
        entry_ids: list[str],
        agent_names: list[str] | None = None,
        *,
        any_agent: bool = True,
        expired_too: bool = False,
    ) -> list[tuple[str, EntryPlace]]:
        rows = self._link.all(
            _LOCATE, entry_ids=entry_ids, agent_names=agent_names or [], any_agent=any_agent, expired_too=expired_too
        )
        return [(entry_id, EntryPlace(session_id, seq)) for entry_id, session_id, seq in rows]
