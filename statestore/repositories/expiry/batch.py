"""What a step of a sweep hands to the next one."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from statestore.values.usage import SweepKind, Swept


@dataclass(slots=True)
class Batch:
    """What one step has done.

    Attributes:
        kinds: What it deleted.
        after: Where the next step goes on; None if nothing more was found.
        left: Something was due, and held by somebody else.
        state_entries: How many state keys went with sessions.
        summaries: How many summaries went with them.
        user_state_entries: How many keys of a user's own state were erased.
    """

    kinds: dict[SweepKind, Swept] = field(default_factory=dict)
    after: tuple[Any, ...] | None = None
    left: bool = False
    state_entries: int = 0
    summaries: int = 0
    user_state_entries: int = 0

    @property
    def rows(self) -> int:
        return sum(swept.rows for swept in self.kinds.values())

    def add(self, kind: SweepKind, rows: int, size: Any = 0) -> None:
        if rows or size:
            self.kinds[kind] = self.kinds.get(kind, Swept()) + Swept(int(rows), int(size or 0))


@dataclass(frozen=True, slots=True)
class NamespaceBatch:
    """What one step of dropping a namespace has done; `after` says where the next one goes on, None at the end."""

    deleted: int = 0
    after: str | None = None
    at: datetime | None = None
