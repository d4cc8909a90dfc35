"""Which responses of Claude Code a database has counted already, under whichever session."""

from collections.abc import Iterable

from statestore.engine.calls import Call, reads
from statestore.engine.sql import Statement
from statestore.repositories.base import Repository
from statestore.store import StateStore

_BATCH = 500

# Whether the entry carries usage does not matter: where another copy has it, it was not to be counted again either.
# The index on entries' ids finds them; sessions that have expired count, since their usage stays in the reports.
_HELD = Statement("""
    SELECT DISTINCT h.entry_id FROM $history_entries AS h
    JOIN $sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
    WHERE h.entry_id $in(:entry_ids) AND h.namespace = :namespace AND h.session_id <> :session_id
        AND s.agent_name $in(:agents)""")


class CountedRepository(Repository):
    """Looks entries up by their ids, across sessions."""

    @reads
    def elsewhere(self, entry_ids: list[str], session_id: str, agents: list[str]) -> list[str]:
        """Those of the ids that a session of these agents has, other than *session_id*."""
        rows = self._link.all(_HELD, entry_ids=entry_ids, session_id=session_id, agents=agents)
        return [row[0] for row in rows]


def elsewhere(store: StateStore, entry_ids: Iterable[str], *, session_id: str, agents: Iterable[str]) -> set[str]:
    """Those of the ids that a session of these agents has, other than *session_id*: a statement for 500 of them."""
    ids, names = list(entry_ids), list(agents)
    found: set[str] = set()
    for start in range(0, len(ids), _BATCH):
        asked = (ids[start : start + _BATCH], session_id, names)
        found.update(store._database.run(Call(CountedRepository.elsewhere, asked)))
    return found
