"""The rows of the fault table: what each one is called, where it runs, and what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.bench import Bench

Database = str
World = str
BOTH_DATABASES = ("sqlite", "postgresql")
BOTH_WORLDS = ("sync", "async")
SHOWN = 5


class Missing(Exception):
    """This machine lacks what the row needs. The message names it."""


@dataclass
class Tally:
    """What a run counted.

    Attributes:
        acknowledged: Writes whose call returned.
        lost: Acknowledged writes that are not stored.
        doubled: Writes stored more than once, though the caller did only what the answers allowed.
        wrong: Answers that cannot be true, and errors that are not ours.
        hung: Calls that took longer than the store's timeout allows.
        notes: A few examples of what went wrong, and figures worth knowing.
    """

    rounds: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    hung: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def violations(self) -> int:
        return self.lost + self.doubled + self.wrong + self.hung

    def note(self, text: str) -> None:
        if len(self.notes) < 2 * SHOWN:
            self.notes.append(text)

    def is_wrong(self, text: str) -> None:
        self.wrong += 1
        self.note(f"wrong: {text}")

    def is_hung(self, text: str) -> None:
        self.hung += 1
        self.note(f"hung: {text}")

    def add(self, other: Tally) -> None:
        for name in ("rounds", "acknowledged", "lost", "doubled", "wrong", "hung"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for text in other.notes:
            self.note(text)


Run = Callable[["Bench"], Tally]


@dataclass(frozen=True)
class Case:
    """One row of the table: a fault, on one database, in one world.

    Attributes:
        short: The rounds of the short form, which is a test.
        long: The rounds of the long form.
        control: What makes the control unsafe.
        control_rounds: How many rounds the control is given to lose.
        limit: Seconds after which the long form is stopped and counts as hung.
    """

    fault: str
    database: Database
    world: World
    short: int
    long: int
    control: str
    control_rounds: int
    limit: int
    run: Run

    @property
    def name(self) -> str:
        return f"{self.fault.replace(' ', '-').replace(',', '')}-{self.database}-{self.world}"


CASES: list[Case] = []


def fault(
    name: str,
    *,
    control: str,
    short: int,
    long: int | dict[Database, int],
    databases: tuple[Database, ...] = BOTH_DATABASES,
    worlds: tuple[World, ...] = BOTH_WORLDS,
    control_rounds: int = 0,
    limit: int = 600,
) -> Callable[[Run], Run]:
    """Put a function into the table, once for each database and world.

    It runs as many rounds as its bench says, and with `bench.unsafe` it does the same the unsafe way, which must show.
    The rounds of the long form are shared by the worlds.
    """

    def register(run: Run) -> Run:
        for database in databases:
            whole = long if isinstance(long, int) else long[database]
            for world in worlds:
                rounds = -(-whole // len(worlds))
                CASES.append(Case(name, database, world, short, rounds, control, control_rounds or short, limit, run))
        return run

    return register


@dataclass
class Outcome:
    """A case that was run, with its control."""

    fault: str
    database: str
    world: str
    tally: Tally
    control: str
    control_lost: int | None
    missing: str | None = None
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        if self.missing is not None:
            return f"missing: {self.missing}"
        if self.tally.violations:
            return "FAILED"
        if not self.control_lost:
            return "void"
        if not self.tally.acknowledged:
            return "void: nothing was written"
        return "held"

    def as_dict(self) -> dict[str, Any]:
        return {
            "fault": self.fault,
            "database": self.database,
            "world": self.world,
            **{name: getattr(self.tally, name) for name in COUNTED},
            "control": self.control,
            "control_lost": self.control_lost,
            "verdict": self.verdict,
            "seconds": round(self.seconds, 1),
            "notes": self.tally.notes,
        }


COUNTED = ("rounds", "acknowledged", "lost", "doubled", "wrong", "hung")
