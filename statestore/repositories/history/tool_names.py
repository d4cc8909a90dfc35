"""The tool that a result belongs to: it carries the id of the call that it answers, and seldom the name of the tool.

With the name, its error and its duration count for that tool. The call may come before it in the same append, or have
been stored by an earlier one: then the newest entries of the session are searched, with one more statement for all that
is appended together. Of a fork these are its own, not those that it shares.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from statestore.checking import exactjson, messages
from statestore.engine.sql import Link, Params, Statement
from statestore.repositories.history.entry_rows import PreparedEntry

# A call is answered right away, so it is among the newest entries. By the primary key, so the search costs little
# however long the session is.
_SEARCHED = 100

# The column has the first id of an entry. The others are in its content, which is fetched only for them.
_CALLS = """
    SELECT h.session_id, h.tool_call_id, h.tool_name, CASE WHEN {another} THEN CAST(h.content AS text) END
    FROM $sessions AS s JOIN $history_entries AS h
        ON h.namespace = s.namespace AND h.session_id = s.session_id AND h.seq >= s.next_seq - :searched
    WHERE s.namespace = :namespace AND s.session_id {sessions} AND $live
        AND h.tool_call_id IS NOT NULL AND h.tool_name IS NOT NULL AND (h.role IS NULL OR h.role <> 'tool')
        AND (h.tool_call_id $in(:call_ids) OR {another})
    ORDER BY h.seq"""
_ANOTHER = {
    "postgresql": """EXISTS (SELECT 1 FROM unnest(CAST(:call_ids AS text[])) AS w (id)
        WHERE w.id <> h.tool_call_id AND strpos(CAST(h.content AS text), w.id) > 0)""",
    "sqlite": """EXISTS (SELECT 1 FROM json_each(:call_ids) AS w
        WHERE w.value <> h.tool_call_id AND instr(h.content, w.value) > 0)""",
}


def _find(sessions: str) -> Statement:
    texts = {name: _CALLS.format(another=another, sessions=sessions) for name, another in _ANOTHER.items()}
    return Statement(postgresql=texts["postgresql"], sqlite=texts["sqlite"])


# Most appends are to one session. PostgreSQL plans a list of sessions anew at each call, which takes a third longer.
_FIND_IN_ONE = _find("= :session_id")
_FIND_IN_SEVERAL = _find("$in(:session_ids)")

_Calls = dict[tuple[str, str], str]
"""The names of the tools, by the session and the call's id."""


def complete(link: Link, appends: Iterable[tuple[str, Sequence[PreparedEntry]]]) -> list[Sequence[PreparedEntry]]:
    """Give the results among the entries of some sessions the names of the tools; in the order given."""
    listed = list(appends)
    missing = {(session_id, call_id) for session_id, batch in listed for call_id in _missing(batch)}
    if not missing:
        return [batch for _, batch in listed]
    calls: _Calls = {}
    for session_id, batch in listed:
        calls |= {(session_id, call_id): name for call_id, name in _made(batch)}
    if unknown := missing - calls.keys():
        calls = _stored(link, unknown) | calls
    return [[_named(entry, session_id, calls) for entry in batch] for session_id, batch in listed]


def awaits_name(entry: PreparedEntry) -> bool:
    """Whether an entry is a result that does not say whose."""
    columns = entry.columns
    return columns["role"] == "tool" and "tool_call_id" in columns and "tool_name" not in columns


def named(entry: PreparedEntry, name: str | None) -> PreparedEntry:
    """The entry as that of a tool, if *name* is known."""
    return entry if name is None else replace(entry, columns={**entry.columns, "tool_name": name})


def _missing(batch: Sequence[PreparedEntry]) -> list[str]:
    return [entry.columns["tool_call_id"] for entry in batch if awaits_name(entry)]


def _made(batch: Sequence[PreparedEntry]) -> Iterable[tuple[str, str]]:
    for entry in batch:
        call_id, name = entry.columns.get("tool_call_id"), entry.columns.get("tool_name")
        if name is None or call_id is None or entry.columns["role"] == "tool":
            continue
        yield from _calls_in(entry.content)
        yield call_id, name


def _calls_in(content: object) -> Iterable[tuple[str, str]]:
    for call in messages.tools(content)[0] if isinstance(content, dict) else ():
        if call.call_id is not None and call.name is not None:
            yield call.call_id, call.name


def _stored(link: Link, wanted: set[tuple[str, str]]) -> _Calls:
    params: Params = {"call_ids": sorted({call_id for _, call_id in wanted}), "searched": _SEARCHED}
    sessions = sorted({session_id for session_id, _ in wanted})
    if len(sessions) == 1:
        rows = link.all(_FIND_IN_ONE, session_id=sessions[0], **params)
    else:
        rows = link.all(_FIND_IN_SEVERAL, session_ids=sessions, **params)
    found: _Calls = {}
    for session_id, call_id, name, content in rows:
        if content is not None:
            made = _calls_in(exactjson.loads(content))
            found |= {(session_id, another): tool for another, tool in made}
        found[session_id, call_id] = name
    return found


def _named(entry: PreparedEntry, session_id: str, calls: _Calls) -> PreparedEntry:
    return named(entry, calls.get((session_id, entry.columns["tool_call_id"]))) if awaits_name(entry) else entry
