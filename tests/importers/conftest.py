"""A store as the importers take it, and what they report."""

from collections.abc import Iterator

import pytest

from statestore import StateStore
from statestore.importers import Problem


@pytest.fixture
def store(database_url: str) -> Iterator[StateStore]:
    with StateStore.open(database_url) as store:
        yield store


@pytest.fixture
def problems() -> list[Problem]:
    """To be filled: `on_problem=problems.append`."""
    return []
