"""All rows of the table, in its order."""

from tests.faults import (  # noqa: F401  each puts its rows into the table
    files,
    forking,
    killing,
    network,
    poolers,
    power,
    refusals,
)
from tests.faults.table import CASES

__all__ = ["CASES"]
