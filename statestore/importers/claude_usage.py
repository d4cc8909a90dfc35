"""How much of a response's usage still has to be counted, so that it counts once.

Claude Code writes a response in several lines, and each of them repeats its usage; a resumed session may begin with a
copy of the one before. `claude_transcripts` has the rules.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from statestore.checking import checks, messages
from statestore.errors import InvalidValueError
from statestore.importers.claude_lines import Line
from statestore.values.history import Usage

if TYPE_CHECKING:
    from statestore.store import StateStore

AGENT = "claude-code"
SUB_AGENT = "claude-code/sub-agent"

_BATCH = 500


class CountedResponses:
    """The responses whose usage is already counted: by this import, or by sessions in the store."""

    def __init__(self, store: "StateStore") -> None:
        self._store = store
        self._counted: set[str] = set()

    def add(self, response: str) -> None:
        """Note that this import has counted a response."""
        self._counted.add(response)

    def due(
        self, session_id: str, lines: list[Line], new: list[Line], known: Mapping[str, Usage | None]
    ) -> dict[str, Usage]:
        """The usage that still has to be counted for the responses of the *new* lines."""
        final: dict[str, Usage] = {}
        for line in lines:
            if line.response is not None and isinstance(line.message.get("usage"), Mapping):
                final[line.response] = messages.usage(line.message)
        due = {line.response: final[line.response] for line in new if line.response in final}
        counted: dict[str, Usage] = {}
        for line in lines:
            if line.response in due and (entry_id := line.entry_id) in known:
                used = known[entry_id]
                if used is None:  # It was not read: it is taken as counted.
                    counted[line.response] = final[line.response]
                elif used != Usage():
                    counted[line.response] = _sum(counted.get(line.response, Usage()), used)
        uncounted = [line for line in lines if line.response in due and line.response not in counted]
        others = self._counted | self._elsewhere(session_id, uncounted)
        self._counted.update(line.response for line in lines if line.response is not None and line.entry_id in known)
        return {
            response: _rest(usage, counted[response]) if response in counted else usage
            for response, usage in due.items()
            if response in counted or response not in others
        }

    def _elsewhere(self, session_id: str, lines: list[Line]) -> set[str]:
        """The responses of which another session has a line, from this import or an earlier one.

        It does not matter whether that line has usage: if it has none, another copy has it. Expired sessions count,
        since their usage stays in the reports.
        """
        new = [line for line in lines if line.response not in self._counted]
        asked = {line.uuid: line.response for line in new if line.uuid is not None and _is_key(line.uuid)}
        ids = list(asked)
        found: set[str] = set()
        for start in range(0, len(ids), _BATCH):
            held = self._store.history.locate_many(
                ids[start : start + _BATCH], agent_names=(AGENT, SUB_AGENT), include_expired=True
            )
            others = (uuid for uuid, places in held.items() if [place.session_id for place in places] != [session_id])
            found.update(response for uuid in others if (response := asked[uuid]) is not None)
        return found


def _sum(one: Usage, other: Usage) -> Usage:
    return _combined(one, other, lambda a, b: a + b)


def _rest(whole: Usage, part: Usage) -> Usage:
    """What *whole* has in addition to *part*."""
    return _combined(whole, part, lambda a, b: max(a - b, 0) or None)


def _combined(one: Usage, other: Usage, combine: Callable[[int, int], int | None]) -> Usage:
    found = {}
    for name in (field.name for field in fields(Usage)):
        a, b = getattr(one, name), getattr(other, name)
        found[name] = None if a is None and b is None else combine(a or 0, b or 0)
    return Usage(**found)


def _is_key(text: str) -> bool:
    """Whether an entry can have this id. Lines with other ids are refused when they are appended."""
    try:
        checks.key(text, "entry_id")
    except InvalidValueError:
        return False
    return True
