"""What an entry used is counted once, too, when a save stores the entry anew.

Its new row counts in place of the old one if that was the session's own and not in the usage ledger, and else is marked
as the old one was. If it says something else that is counted, that is changed first, as by `set_usage`.
"""

from collections.abc import Mapping, Sequence

from statestore.engine.sql import Link, Params, Statement
from statestore.repositories.history import entry_edits, entry_rows
from statestore.repositories.history.entry_edits import Found
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.repositories.sessions import unshared
from statestore.values.history import Entry
from statestore.values.sessions import Session

_ROWS = Statement("""
    SELECT h.seq, h.usage_folded, h.session_id FROM $history_entries AS h
    WHERE h.namespace = :namespace AND h.session_id = :session_id AND h.seq $in(:seqs)
    UNION ALL
    SELECT h.seq, h.usage_folded, h.session_id FROM $session_segments AS g
    JOIN $history_entries AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
        AND h.seq BETWEEN g.from_seq AND g.to_seq
    WHERE g.namespace = :namespace AND g.session_id = :session_id AND h.seq $in(:seqs)""")
# Of a session that neither is a fork nor has any. Nobody else has a row of its entries: nothing is to be compared then.
_COUNT_ANEW = Statement(f"""
    UPDATE $history_entries SET usage_folded = 1
    WHERE namespace = :namespace AND session_id = :session_id AND seq $in(:seqs) AND usage_folded = 0
        AND EXISTS (SELECT 1 FROM $sessions AS s
            WHERE s.namespace = :namespace AND s.session_id = :session_id AND NOT {unshared.HAS_FAMILY})
    RETURNING seq""")
_DO_NOT_BILL = Statement("""
    UPDATE $history_entries SET usage_folded = 1
    WHERE namespace = :namespace AND session_id = :session_id AND seq $in(:seqs)""")
_MARK = Statement("""
    UPDATE $history_entries SET usage_folded = :folded
    WHERE namespace = :namespace AND session_id = :session_id AND seq = :seq""")


def prepare(link: Link, session: Session, restored: Sequence[tuple[Entry, PreparedEntry]]) -> dict[str, int]:
    """Before rows are let go of whose entries are stored anew. The locks for a release are held.

    Args:
        link: The connection.
        session: The session.
        restored: The entries as they are stored and as they are to be.

    Returns:
        How their new rows are to be marked, by the id of the entry; what is to count as it is, is left out.
    """
    session_id = session.session_id
    seqs = [stored.seq for stored, _ in restored]
    alone = {seq for (seq,) in link.all(_COUNT_ANEW, session_id=session_id, seqs=seqs)}
    restored = [one for one in restored if one[0].seq not in alone]
    if not restored:
        return {}
    old = [stored for stored, _ in restored]
    found = _find(link, session_id, old)
    priced, _ = entry_rows.price(link, [entry for _, entry in restored])
    changed = False
    for stored, entry in zip(old, priced, strict=True):
        columns = entry_edits.counted_columns(entry)
        if entry_edits.counts_differently(found[stored.seq], columns):
            entry_edits.change(link, session, found[stored.seq], columns)
            changed = True
    if changed:
        found = _find(link, session_id, old)
    counting = {seq for seq, row in found.items() if row.folded == 0 and row.owner == session_id}
    link.run(_DO_NOT_BILL, session_id=session_id, seqs=sorted(counting))
    return {row.entry.entry_id: max(row.folded, 1) for seq, row in found.items() if seq not in counting}


def _find(link: Link, session_id: str, entries: Sequence[Entry]) -> dict[int, Found]:
    seqs = [entry.seq for entry in entries]
    rows = {seq: (folded, owner) for seq, folded, owner in link.all(_ROWS, session_id=session_id, seqs=seqs)}
    return {entry.seq: Found(entry, *rows[entry.seq]) for entry in entries}


def mark(link: Link, session_id: str, stored: Sequence[tuple[int, PreparedEntry]], marks: Mapping[str, int]) -> None:
    """Mark the new rows, given by their positions, as `prepare` has said."""
    rows: list[Params] = [
        {"seq": seq, "folded": marks[entry.entry_id]} for seq, entry in stored if entry.entry_id in marks
    ]
    link.many(_MARK, rows, session_id=session_id)
