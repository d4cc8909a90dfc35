"""How much of a SQLite file is free, and giving some of it back."""

from statestore.engine.calls import reads, reported_as, writes
from statestore.engine.sql import Link, Statement
from statestore.repositories.base import Repository

INCREMENTAL = 2

# Two megabytes, as files are made: about as long as a large append. Page by page: of a statement that returns no rows
# the driver does the first step only, and each step frees one page.
_AT_ONCE = 500
_FREE_ONE = Statement(sqlite="PRAGMA incremental_vacuum(1)")
_PRAGMAS = {name: Statement(sqlite=f"PRAGMA {name}") for name in ("auto_vacuum", "freelist_count")}


class VacuumWork(Repository, group="vacuum"):
    """The steps of `statestore vacuum`; no operations of their own."""

    @reads
    def mode(self) -> int:
        """How the file gives space back: not at all (0), by itself (1), or when asked (2)."""
        return _pragma(self._link, "auto_vacuum")

    @reads
    def free_pages(self) -> int:
        return _pragma(self._link, "freelist_count")

    @reported_as(rows=lambda _: None)
    @writes
    def step(self) -> int:
        """Cut some free pages off the file's end; others wait no longer than that takes. Returns how many are left."""
        for _ in range(_AT_ONCE):
            self._link.run(_FREE_ONE)
        return _pragma(self._link, "freelist_count")


def _pragma(link: Link, name: str) -> int:
    (value,) = link.only(_PRAGMAS[name])
    found: int = value
    return found
