"""The short form of each row, as a test of its own. `./run faults --long` is the same, more often.

That a control loses is a matter of chance, so `./run faults` shows it beside its row; here it is part of the long run.
"""

import os
from collections.abc import Callable

import pytest

from tests.faults.bench import Bench
from tests.faults.rows import CASES
from tests.faults.table import Case, Missing
from tests.postgres import PostgresServer


def parameters(*, controls: bool = False) -> list[object]:
    found, done = [], set()
    for case in CASES:
        # A control is about the row and not about the store: one world is enough.
        if controls and (case.fault, case.database) in done:
            continue
        done.add((case.fault, case.database))
        found.append(pytest.param(case, id=case.name, marks=getattr(pytest.mark, case.database)))
    return found


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Callable[[], PostgresServer]:
    """Starts the server of the tests when it is needed."""
    return lambda: request.getfixturevalue("postgres")  # type: ignore[no-any-return]


@pytest.fixture
def template(request: pytest.FixtureRequest, case: Case) -> Callable[[], str]:
    fixture = "template_sqlite" if case.database == "sqlite" else "template_database"
    return lambda: str(request.getfixturevalue(fixture))


@pytest.mark.parametrize("case", parameters())
def test_it_holds(case: Case, server: Callable[[], PostgresServer], template: Callable[[], str]) -> None:
    with Bench(case.database, case.world, case.short, server=server, template=template) as bench:
        try:
            tally = case.run(bench)
        except Missing as exc:
            pytest.skip(f"needs {exc}")
    assert tally.violations == 0, tally
    assert tally.acknowledged


if os.environ.get("STATESTORE_HYPOTHESIS_PROFILE") == "long":

    @pytest.mark.parametrize("case", parameters(controls=True))
    def test_it_does_not_hold_with_the_safety_off(case: Case, server: Callable[[], PostgresServer]) -> None:
        with Bench(case.database, case.world, case.control_rounds, server=server, unsafe=True) as bench:
            try:
                tally = case.run(bench)
            except Missing as exc:
                pytest.skip(f"needs {exc}")
        assert tally.violations
