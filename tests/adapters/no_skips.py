"""A plugin of pytest: a test that is skipped is one that failed, and its reason is said."""

from typing import Any

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    for report in reporter.stats.get("skipped", ()):
        reporter.write_line(f"counted as failed, since it was skipped: {report.nodeid}: {report.longrepr[-1]}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
