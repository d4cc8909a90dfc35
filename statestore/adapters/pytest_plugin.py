"""Fixtures for the tests of those who use statestore: each test has a database of its own.

pytest imports this in every run on a machine that has statestore, so it imports nothing before a test asks for it.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from statestore import AsyncStateStore, StateStore

OPTION = "statestore_url"
_NAME = "statestore_pytest_"


@dataclass
class Clock:
    """The time of a test's stores: it stands still until it is moved."""

    now: datetime = datetime(2030, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> datetime:
        """Move on by a `timedelta` of these arguments, such as `hours=2`, and return the new time."""
        self.now += timedelta(**by)
        return self.now


def pytest_addoption(parser: pytest.Parser) -> None:
    text = (
        "the PostgreSQL server for the fixtures of statestore, which makes a database for each test; by default SQLite"
    )
    parser.getgroup("statestore").addoption("--statestore-url", metavar="URL", help=text)
    parser.addini(OPTION, help=text)


@pytest.fixture
def statestore_clock() -> Clock:
    """The clock of the test's stores: `statestore_clock.advance(hours=2)`."""
    return Clock()


@pytest.fixture
def statestore_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database that only this test uses, with statestore's tables."""
    config = request.config
    on_server = config.getoption(OPTION) or config.getini(OPTION)
    return str(request.getfixturevalue("_statestore_on_server" if on_server else "_statestore_file"))


@pytest.fixture
def statestore_store(statestore_url: str, statestore_clock: Clock) -> "Iterator[StateStore]":
    """A store on the test's database, with the clock that the test moves."""
    from statestore import StateStore

    with StateStore.open(statestore_url, clock=statestore_clock, durability="normal") as store:
        yield store


@pytest.fixture
def statestore_async_store(statestore_url: str, statestore_clock: Clock) -> "Iterator[AsyncStateStore]":
    """The same for asynchronous tests, on the same database, whatever runs them on asyncio."""
    from statestore import AsyncStateStore

    async def close() -> None:
        await store.close()

    async def opened() -> AsyncStateStore:
        return await AsyncStateStore.open(statestore_url, clock=statestore_clock, durability="normal")

    store: AsyncStateStore = _elsewhere(opened())
    yield store
    _elsewhere(close())


@pytest.fixture
def _statestore_file(_statestore_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("statestore")
    path = shutil.copyfile(_statestore_template, folder / "statestore.db")
    yield f"sqlite:///{path}"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _statestore_template(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the tables, made once for all workers of pytest-xdist: the first one that is there wins."""
    from statestore.migrate import upgrade

    root = tmp_path_factory.getbasetemp()
    # What xdist gives its workers. Its variable in the environment is also in a run that a test of a worker starts.
    root = root.parent if hasattr(pytestconfig, "workerinput") else root
    template = root / "statestore-template.db"
    if not template.exists():
        made = tmp_path_factory.mktemp("statestore-template") / "statestore.db"
        upgrade(f"sqlite:///{made}")
        made.replace(template)
    return template


@pytest.fixture
def _statestore_on_server(_statestore_server: Any) -> Iterator[str]:
    engine, template = _statestore_server
    name = f"{_NAME}{uuid4().hex}"
    _run(engine, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _url_of(engine, name)
    _run(engine, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _statestore_server(pytestconfig: pytest.Config) -> Iterator[Any]:
    """Where to make databases, and which one to copy; each worker of pytest-xdist has its own template."""
    from sqlalchemy import NullPool, create_engine, make_url

    from statestore.migrate import upgrade

    url = make_url(pytestconfig.getoption(OPTION) or pytestconfig.getini(OPTION))
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise pytest.UsageError("--statestore-url is for PostgreSQL; leave it out for SQLite")
    # NullPool, since a database that somebody is connected to cannot be copied.
    engine = create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    template = f"{_NAME}{uuid4().hex}"
    _run(engine, f"CREATE DATABASE {template}")
    try:
        upgrade(_url_of(engine, template))
        yield engine, template
    finally:
        _run(engine, f"DROP DATABASE IF EXISTS {template} WITH (FORCE)")


def _run(engine: Any, statement: str) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


def _url_of(engine: Any, database: str) -> str:
    return str(engine.url.set(drivername="postgresql", database=database).render_as_string(hide_password=False))


def _elsewhere(coroutine: Any) -> Any:
    """Run a coroutine on an event loop of its own, in a thread, whichever loop the test has or will have.

    A store belongs to no loop; so neither pytest-asyncio nor anyio is needed, and neither is disturbed.
    """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
