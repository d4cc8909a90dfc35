"""Whether all that was acknowledged is there: read back once the load is over."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.load.agents import Job, Ledger
from statestore import AsyncStateStore, SessionNotFoundError

_AT_ONCE = 8
_SHOWN = 20


@dataclass
class Verdict:
    """What was looked at, and what is wrong; the first findings in words."""

    sessions: int = 0
    entries: int = 0
    lost: int = 0
    wrong: int = 0
    findings: list[str] = field(default_factory=list)
    complete: bool = True

    def add(self, other: "Verdict") -> None:
        self.sessions += other.sessions
        self.entries += other.entries
        self.lost += other.lost
        self.wrong += other.wrong
        self.findings = (self.findings + other.findings)[:_SHOWN]
        self.complete &= other.complete

    def says(self, finding: str) -> None:
        if len(self.findings) < _SHOWN:
            self.findings.append(finding)


async def verify(job: Job, *, skip: Callable[[], bool]) -> Verdict:
    """Compare each session with its ledger, until *skip* says to stop."""
    verdict = Verdict()
    left = list(job.ledgers.items())
    deleted = list(job.deleted)

    async def work() -> None:
        while left or deleted:
            if skip():
                verdict.complete = False
                return
            if left:
                await _compare(job.store, *left.pop(), verdict)
            elif await job.store.sessions.exists(session := deleted.pop()):
                verdict.wrong += 1
                verdict.says(f"{session} was deleted and is there")

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    return verdict


async def _compare(store: AsyncStateStore, session: str, ledger: Ledger, verdict: Verdict) -> None:
    verdict.sessions += 1
    verdict.entries += len(ledger.entries)
    try:
        entries = [entry async for entry in store.history.iterate(session)]
        step = await store.state.get(session, "step", 0)
    except SessionNotFoundError:
        verdict.lost += len(ledger.entries)
        verdict.says(f"{session} is not there, with {len(ledger.entries)} entries")
        return
    found = [str(entry.entry_id) for entry in entries]
    missing = set(ledger.entries) - set(found)
    verdict.lost += len(missing)
    if missing:
        verdict.says(f"{session} has lost {len(missing)} entries, such as {min(missing)}")
    if [one for one in found if one not in ledger.unsure] != [one for one in ledger.entries if one not in missing]:
        verdict.wrong += 1
        verdict.says(f"{session} has entries twice, in another order, or that nobody wrote")
    if [entry.seq for entry in entries] != list(range(1, len(entries) + 1)):
        verdict.wrong += 1
        verdict.says(f"{session} has gaps in its history")
    if step not in (ledger.step, ledger.step_unsure):
        verdict.wrong += 1
        verdict.says(f"the state of {session} is of step {step}, and {ledger.step} was acknowledged")
