"""A plugin for pytest: notes what each test reaches (MUTANTS_NOTES), or runs only chosen tests (MUTANTS_CHOSEN)."""

import faulthandler
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from mutants import reaching

# A test that hangs is not to be mistaken for one that waits for others on the machine.
LEAST_SECONDS, TIMES_AS_LONG = 60.0, 10

# The worlds of the contract but the plain one, which comes first: the others repeat it.
_AWAITED = re.compile(r"\[(?:.*-)?(?:async|engine|pgbouncer-\w+|psycopg2|asyncpg)\b")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["MUTANTS_PROCESS"] = str(os.getpid())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "MUTANTS_NOTES" in os.environ:
        _note(test=None, reached=_by_module(reaching.reached))
        repeated, awaited = _repeated(items), os.environ["MUTANTS_WORLDS"] == "awaited"
        items[:] = [item for item in items if (item.nodeid in repeated) == awaited]
        return
    with open(os.environ["MUTANTS_CHOSEN"]) as file:
        chosen: dict[str, float] = dict(json.load(file))
    if chosen:
        found = {item.nodeid: item for item in items}
        items[:] = [found[test] for test in chosen if test in found]
    else:
        first: dict[str, pytest.Item] = {}
        repeated = _repeated(items)
        for item in items:
            if "postgresql" not in item.nodeid and item.nodeid not in repeated:
                first.setdefault(item.nodeid.split("[")[0], item)
        items[:] = first.values()
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(max(LEAST_SECONDS, TIMES_AS_LONG * chosen.get(item.nodeid, 0.0))))


def _repeated(items: list[pytest.Item]) -> set[str]:
    """Those that do in another world what there is in the plain one. A test may be about another world alone."""
    others = {item.nodeid for item in items if _AWAITED.search(item.nodeid)}
    plain = {item.nodeid.split("[")[0] for item in items if item.nodeid not in others}
    return {name for name in others if name.split("[")[0] in plain}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: Any, nextitem: pytest.Item | None) -> bool:
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reaching.reached.clear()
    begun = time.monotonic()
    with _limited(item):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    seconds = time.monotonic() - begun
    failed = [report.longreprtext for report in reports if report.failed]
    if failed and "MUTANTS_CHOSEN" in os.environ and not any("Timeout (>" in text for text in failed):
        # Whatever else runs on the machine may let a test fail once. What ran out of time would have no limit now.
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if "MUTANTS_NOTES" in os.environ:
        passed = any(report.when == "call" and report.passed for report in reports)
        _note(test=item.nodeid, seconds=seconds, passed=passed and not failed, reached=_by_module(reaching.reached))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@contextmanager
def _limited(item: pytest.Item) -> Iterator[None]:
    """End all if a test has run out of time, and its clean-up hangs: pytest's own limit ends one of them alone."""
    limit = item.get_closest_marker("timeout")
    if "MUTANTS_CHOSEN" not in os.environ or limit is None:
        yield
        return
    with open(os.environ["MUTANTS_OUTPUT"], "a") as output:
        faulthandler.dump_traceback_later(limit.args[0] + LEAST_SECONDS, exit=True, file=output)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _by_module(places: set[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place in places.copy():
        module, _, line = place.rpartition(":")
        found.setdefault(module, []).append(int(line))
    return found


def _note(**what: Any) -> None:
    with open(os.environ["MUTANTS_NOTES"], "a") as file:
        file.write(json.dumps(what) + "\n")
