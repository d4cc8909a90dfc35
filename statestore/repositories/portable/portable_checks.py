"""Whether the rows of a file fit together: what no row says alone, and no constraint of the database finds."""

from collections.abc import Sequence

from statestore.checking import checks
from statestore.engine.sql import Params
from statestore.errors import InvalidValueError
from statestore.repositories.usage import ledger

# Of a line of the ledger, which is a quarter of an hour of one session: a million of the largest entries, and thousands
# of such lines still have a sum of 64 bits.
MAX_SUM = 10**15
# Of all lines of a file together.
MAX_FILE_SUM = 10**18
_DAMAGED = "the file is damaged"
# What an index has beside the session's id, in rows of these kinds.
_NAMES = {"entry": "entry_id", "state": "key", "list": "name"}
# In bytes, what the longest id of a session leaves for the namespace and the id of an entry.
_ROOM = checks.MAX_NAMES_BYTES - 4 * checks.MAX_KEY_LENGTH


class Histories:
    """That each session has all entries from its first to its last, once, as rows of its own or of another.

    Keeps ranges, not positions: a history of any length is a few.
    """

    def __init__(self, namespace: str) -> None:
        """*namespace*: into which the rows come."""
        self._namespace = namespace
        self._room = max(_ROOM - checks.indexed_bytes(namespace), 64)
        self._long_ids: dict[str, list[tuple[int, str]]] = {}
        """Of entries, with their positions: those that may not fit beside the id of another session."""
        self._sessions: dict[str, tuple[str, int, int]] = {}
        self._own: dict[str, list[range]] = {}
        self._shared: dict[str, list[tuple[str, range, str]]] = {}
        self._roots: dict[str, str] = {}
        self._parents: dict[str, str] = {}
        self._wholes: dict[str, str] = {}
        self._sums: dict[str, int] = {}
        self._lists: dict[tuple[str, str], tuple[str, int]] = {}
        self._items: dict[tuple[str, str], int] = {}

    def add(self, kind: str, values: Params, where: str) -> None:
        """Remember a row; sessions come before what belongs to them.

        Raises:
            InvalidValueError: It cannot be there.
        """
        session_id: str = values["session_id"]
        if kind == "session":
            if session_id in self._sessions:
                raise InvalidValueError(where, f"is a session that the file already has; {_DAMAGED}")
            self._sessions[session_id] = (where, values.get("first_seq", 1), values.get("next_seq", 1))
            self._roots[session_id] = values["root_session_id"]
            if values.get("parent_session_id") is not None:
                self._parents[session_id] = values["parent_session_id"]
            if values.get("belongs_to") is not None:
                self._wholes[session_id] = values["belongs_to"]
                if values.get("ttl") is not None:
                    raise InvalidValueError(where, f"is a part of another session, with a TTL of its own; {_DAMAGED}")
        elif kind != "usage" and session_id not in self._sessions:
            raise InvalidValueError(where, f"belongs to a session that no earlier line has; {_DAMAGED}")
        if kind in _NAMES:
            self._check_names(where, _NAMES[kind], session_id, values[_NAMES[kind]])
        if kind == "usage":
            self._add_up(values, where)
        elif kind == "entry":
            _extend(self._own.setdefault(session_id, []), values["seq"])
            if len(values["entry_id"].encode()) > self._room:
                self._long_ids.setdefault(session_id, []).append((values["seq"], values["entry_id"]))
        elif kind == "list":
            self._lists[session_id, values["name"]] = (where, values.get("item_count", 0))
        elif kind == "list_item":
            self._add_item(session_id, values, where)
        elif kind == "segment":
            if values["owner_session_id"] not in self._sessions:
                raise InvalidValueError(where, f"names entries of a session that is missing; {_DAMAGED}")
            if self._roots[values["owner_session_id"]] != self._roots[session_id]:
                raise InvalidValueError(where, f"names entries of a session of another family; {_DAMAGED}")
            rows = range(values["from_seq"], values["to_seq"] + 1)
            self._shared.setdefault(session_id, []).append((values["owner_session_id"], rows, where))

    def _check_names(self, where: str, column: str, session_id: str, name: str) -> None:
        try:
            checks.together(column, self._namespace, session_id, name)
        except InvalidValueError as error:
            raise InvalidValueError(where, str(error)) from None

    def _add_item(self, session_id: str, values: Params, where: str) -> None:
        place = session_id, values["name"]
        if place not in self._lists:
            raise InvalidValueError(where, f"belongs to a list that no earlier line has; {_DAMAGED}")
        position = self._items.get(place, 0) + 1
        if values["position"] != position:
            raise InvalidValueError(
                where, f"is item {values['position']} of a list where {position} should be; {_DAMAGED}"
            )
        self._items[place] = position

    def _check_lists(self) -> None:
        """That each list has as many items as it says."""
        for place, (where, count) in self._lists.items():
            if self._items.get(place, 0) != count:
                raise InvalidValueError(where, f"is a list with items missing from the file; {_DAMAGED}")

    def _add_up(self, line: Params, where: str) -> None:
        for name in ledger.COUNTS:
            self._sums[name] = self._sums.get(name, 0) + abs(line[name])
            if self._sums[name] > MAX_FILE_SUM:
                raise InvalidValueError(where, f"makes the sum of {name!r} too large; {_DAMAGED}")

    def _check_lineage(self) -> None:
        """That nobody is forked from himself, over however many others."""
        done: set[str] = set()
        for session_id in self._parents:
            path: set[str] = set()
            at: str | None = session_id
            while at is not None and at not in done:
                if at in path:
                    where = self._sessions[at][0]
                    raise InvalidValueError(where, f"would be its own ancestor; {_DAMAGED}")
                path.add(at)
                at = self._parents.get(at)
            done |= path

    def check(self) -> None:
        """Compare, when all rows were added.

        Raises:
            InvalidValueError: An entry is missing, or there is one too many.
        """
        self._check_lineage()
        for session_id, whole in self._wholes.items():
            if whole == session_id or whole in self._wholes:
                raise InvalidValueError(self._sessions[session_id][0], f"is a part of a part of a session; {_DAMAGED}")
        self._check_lists()
        for session_id, (where, first_seq, next_seq) in self._sessions.items():
            shared = self._shared.get(session_id, [])
            for owner, rows, segment_where in shared:
                if not _holds(self._own.get(owner, []), rows):
                    raise InvalidValueError(segment_where, f"names entries that are missing; {_DAMAGED}")
                for seq, entry_id in self._long_ids.get(owner, []):
                    if seq in rows:  # They may become its own.
                        self._check_names(segment_where, "session_id", session_id, entry_id)
            position = first_seq
            for rows in sorted(
                [*self._own.get(session_id, []), *(rows for _, rows, _ in shared)], key=lambda rows: rows.start
            ):
                if rows.start != position:
                    break
                position = rows.stop
            else:
                if position == next_seq:
                    continue
            raise InvalidValueError(
                where,
                f"is a session with the entries {first_seq} to {next_seq - 1}, but from {position} on some are missing "
                f"or duplicated; {_DAMAGED}",
            )


def _extend(ranges: list[range], seq: int) -> None:
    if ranges and ranges[-1].stop == seq:
        ranges[-1] = range(ranges[-1].start, seq + 1)
    else:
        ranges.append(range(seq, seq + 1))


def _holds(ranges: Sequence[range], wanted: range) -> bool:
    return any(rows.start <= wanted.start and wanted.stop <= rows.stop for rows in ranges)
