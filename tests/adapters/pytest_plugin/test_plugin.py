"""The fixtures, as people use them in projects of their own."""

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from statestore import migrate
from tests.postgres import PostgresServer

ROOT = Path(__file__).parents[3]

TESTS = """
def test_one(statestore_store, statestore_clock):
    assert statestore_store.sessions.count() == 0
    session = statestore_store.sessions.create("chat", ttl=statestore_clock.now.resolution * 10**6)
    assert session.created_at == statestore_clock.now
    statestore_clock.advance(seconds=1)
    assert not statestore_store.sessions.exists("chat")
    statestore_store.sessions.create("chat")

def test_another_has_a_database_of_its_own(statestore_store):
    assert statestore_store.sessions.count() == 0
    statestore_store.sessions.create("chat")

def test_one_more(statestore_store, statestore_url):
    from statestore import StateStore
    statestore_store.sessions.create("chat")
    with StateStore.open(statestore_url) as other:
        assert other.sessions.count() == 1
"""

ASYNCIO = ("-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function")
# The plugin was imported before, by the run of this test.
STRICT = ("-W", "error", "-W", "ignore:Module already imported so cannot be rewritten")

ASYNC_TESTS = """
    assert await statestore_async_store.sessions.count() == 0
    await statestore_async_store.history.append("chat", [{{"role": "user", "content": "Hi"}}], create=True)
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(statestore_async_store.state.increment("chat", "n"))
    assert await statestore_async_store.state.get("chat", "n") == 8
    async with statestore_async_store.transaction() as tx:
        await tx.state.set("chat", "x", {number})
    assert statestore_store.state.get("chat", "x") == {number}
"""


def async_tests(mark: str) -> str:
    lines = ["import asyncio, pytest"]
    for number in range(3):
        lines += [mark, f"async def test_{number}(statestore_async_store, statestore_store):"]
        lines += ASYNC_TESTS.format(number=number).splitlines()
    return "\n".join(lines)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only our plugin, and those that a test names: many others are installed here, and each run would load them."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "statestore.adapters.pytest_plugin")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def options(request: pytest.FixtureRequest) -> list[str]:
    """The options of a run on each database."""
    if request.param == "sqlite":
        return []
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return ["--statestore-url", postgres.url()]


def test_each_test_has_a_database_of_its_own(pytester: pytest.Pytester, options: list[str]) -> None:
    pytester.makepyfile(TESTS)
    pytester.runpytest_inprocess(*options).assert_outcomes(passed=3)


def test_workers_of_xdist_share_a_template(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS, test_more=TESTS)
    pytester.runpytest_subprocess("-p", "xdist.plugin", "-n", "2", "--basetemp=kept").assert_outcomes(passed=6)
    assert len(list(Path(pytester.path, "kept").rglob("statestore-template.db"))) == 1


def test_a_run_that_a_worker_of_xdist_starts_keeps_its_template_to_itself(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    pytester.makepyfile(TESTS)
    Path(pytester.path, "statestore-template.db").write_text("of a run long ago")
    pytester.runpytest_subprocess("--basetemp=kept").assert_outcomes(passed=3)


def test_asynchronous_tests_of_pytest_asyncio(pytester: pytest.Pytester, options: list[str]) -> None:
    pytester.makepyfile(async_tests("@pytest.mark.asyncio"))
    pytester.runpytest_inprocess(*ASYNCIO, *STRICT, *options).assert_outcomes(passed=3)


def test_asynchronous_tests_on_one_event_loop(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(async_tests('@pytest.mark.asyncio(loop_scope="module")'))
    pytester.runpytest_inprocess(*ASYNCIO, *STRICT).assert_outcomes(passed=3)


def test_asynchronous_tests_of_anyio(pytester: pytest.Pytester, options: list[str]) -> None:
    pytest.importorskip("anyio")
    backend = "@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n@pytest.mark.anyio"
    pytester.makepyfile(async_tests(backend))
    pytester.runpytest_inprocess("-p", "anyio.pytest_plugin", *STRICT, *options).assert_outcomes(passed=3)


def test_tests_that_run_their_event_loop_themselves(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
import asyncio
from statestore import LazyStore

def test_it(statestore_async_store, statestore_url):
    for _ in range(2):
        asyncio.run(statestore_async_store.state.set("chat", "k", 1, create=True))
    lazy = LazyStore(statestore_url)
    assert lazy.sync().state.get("chat", "k") == 1
    lazy.close()
""")
    pytester.runpytest_inprocess(*STRICT).assert_outcomes(passed=1)


@pytest.mark.postgresql
def test_nothing_is_left_on_the_server(pytester: pytest.Pytester, postgres: PostgresServer) -> None:
    pytester.makepyfile(TESTS + "\ndef test_fails(statestore_store):\n    assert False\n")
    pytester.makeini(f"[pytest]\nstatestore_url = {postgres.url()}")
    pytester.runpytest_inprocess().assert_outcomes(passed=3, failed=1)
    databases = [name for (name,) in postgres._execute("SELECT datname FROM pg_database")]
    assert not [name for name in databases if name.startswith("statestore_pytest_")]


def test_a_url_of_something_else_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("--statestore-url=sqlite:///mine.db")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines("*--statestore-url is for PostgreSQL; leave it out for SQLite*")


def test_those_who_do_not_use_it_pay_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
import sys

def test_it(request):
    assert "statestore.adapters.pytest_plugin" in sys.modules
    assert not {"sqlalchemy", "alembic", "orjson", "psycopg", "statestore.store"} & set(sys.modules)
    assert not [name for name in request.fixturenames if "statestore" in name]
""")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_its_fixtures_can_be_overridden(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
import pytest

@pytest.fixture
def statestore_url(tmp_path):
    return f"sqlite:///{tmp_path}/mine.db"
""")
    pytester.makepyfile("def test_it(statestore_store):\n    assert 'mine.db' in repr(statestore_store)\n")
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


def test_the_tables_are_made_once_for_all_tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh store is a copy of a file then, which takes a few milliseconds."""
    made: list[str] = []

    def upgrade(url: str) -> None:
        made.append(url)
        migrations_run(url)

    migrations_run = migrate.upgrade
    monkeypatch.setattr(migrate, "upgrade", upgrade)
    pytester.makepyfile("""
import pytest

@pytest.mark.parametrize("n", range(20))
def test_it(statestore_store, n):
    statestore_store.sessions.create("chat")
""")
    pytester.runpytest_inprocess().assert_outcomes(passed=20)
    assert len(made) == 1


def test_it_is_registered_by_an_entry_point() -> None:
    (found,) = [entry for entry in entry_points(group="pytest11") if entry.name == "statestore"]
    assert found.load().__name__ == "statestore.adapters.pytest_plugin"


def test_the_example_runs(pytester: pytest.Pytester) -> None:
    page = (ROOT / "docs" / "adapters" / "pytest_plugin.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    pytester.makepyfile("\n\n".join(examples))
    result = pytester.runpytest_inprocess(*ASYNCIO, "-o", "asyncio_mode=auto")
    result.assert_outcomes(passed=sum(example.count("def test_") for example in examples))
