"""All rows of the table, in its order."""

from tests.faults import (  # noqa: F401  each puts its rows into the table
    clocks,
    conflicts,
    files,
    forking,
    killing,
    migrating,
    network,
    poolers,
    power,
    refusals,
    standbys,
    stopping,
)
from tests.faults.table import CASES

__all__ = ["CASES"]
