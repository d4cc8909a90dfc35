"""Called by marked sources while tests run: which places each test has reached. Imports next to nothing."""

import os

# In the process that runs the tests, places since the current test began; in its children, since they started.
reached: set[str] = set()


def mark(place: str) -> None:
    if place not in reached:
        reached.add(place)
        if os.environ.get("MUTANTS_PROCESS") != str(os.getpid()):
            _tell(place)


def _tell(place: str) -> None:
    """A child may be killed at any moment, so it says at once what it has reached."""
    notes, test = os.environ.get("MUTANTS_NOTES"), os.environ.get("PYTEST_CURRENT_TEST", "")
    if notes and test:
        with open(f"{notes}.children", "a") as file:
            file.write(f"{test.rpartition(' ')[0]}\t{place}\n")
