"""The databases that tests run on.

A test asks for `database_url` (once on each database), or for `sqlite_url` or `postgres_url`; the names with `empty_`
give a database without the schema. Each test has a database for itself: cloned from a template that the migrations
built once, or, on PostgreSQL, emptied by `tests.support.clones` when the test before had it.
"""

import gc
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.citus import CitusCluster
from tests.postgres import LocalServer, PostgresServer, fast_folder, start_server
from tests.support.clock import MovableClock
from tests.support.clones import Clones, is_looking
from tests.support.content import Content
from tests.support.impossible import SPREAD_FILES, impossible
from tests.support.joined import Joined
from tests.support.pgbouncer import PgBouncer
from tests.support.pgbouncer import program as pgbouncer_program
from tests.support.portal import BlockingStore, Portal
from tests.support.spread import Spread
from tests.support.standby import Standby
from tests.support.warm import programs
from tests.support.wire import Proxy, Traffic, traced_sqlite

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.postgresql)
SQLITE = pytest.param("sqlite", marks=pytest.mark.sqlite)

# With STATESTORE_TEST_PARTITIONED=1 all tests on PostgreSQL find the histories and the cache in so many partitions.
PARTITIONS = 4

server_name = pytest.StashKey[str]()

# Of a server with a standby: what is acknowledged is on its way there, and stays there until it has been fetched.
FOLLOWED = {"synchronous_commit": "on", "wal_keep_size": "4GB"}


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    with start_server(settings=FOLLOWED if pytestconfig.getoption("--replica") else None) as server:
        pytestconfig.stash[server_name] = f"PostgreSQL {server.version} ({server.host})"
        yield server


@pytest.fixture(scope="session")
def template_database(postgres: PostgresServer) -> Iterator[str]:
    from statestore.migrate import upgrade
    from statestore.partitioning import partition

    with postgres.database() as name:
        upgrade(postgres.url(name))
        if isinstance(postgres, CitusCluster):
            postgres.distribute(name)
        if os.environ.get("STATESTORE_TEST_PARTITIONED"):
            partition(postgres.url(name), partitions=PARTITIONS)
        yield name


@pytest.fixture(scope="session")
def partitioned_template(postgres: PostgresServer, template_database: str) -> Iterator[str]:
    from statestore.partitioning import partition

    with postgres.database(template=template_database) as name:
        partition(postgres.url(name), partitions=PARTITIONS)
        yield name


@pytest.fixture
def partitioned_url(postgres: PostgresServer, partitioned_template: str) -> Iterator[str]:
    """A PostgreSQL database whose histories and cache are partitioned."""
    with postgres.database(template=partitioned_template) as name:
        yield postgres.url(name)


@pytest.fixture(scope="session")
def clones(postgres: PostgresServer, template_database: str) -> Iterator[Clones]:
    with closing(Clones(postgres, template_database)) as clones:
        yield clones


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, postgres: PostgresServer, template_database: str) -> Iterator[str]:
    # A standby is not emptied at the same moment, and a cluster is more than one database.
    alone = request.config.getoption("--replica") or isinstance(postgres, CitusCluster) or is_looking(request.path)
    source: Any = partial(postgres.database, template_database) if alone else request.getfixturevalue("clones").database
    with source() as name:
        yield postgres.url(name)


@pytest.fixture
def empty_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as name:
        yield postgres.url(name)


@pytest.fixture(scope="session")
def template_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from statestore.migrate import upgrade

    path = tmp_path_factory.mktemp("template") / "statestore.db"
    upgrade(f"sqlite:///{path}")
    assert list(path.parent.iterdir()) == [path], "a connection was left open; part of the schema may be in the log"
    return path


@pytest.fixture(scope="session")
def sqlite_folders() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="statestore-sqlite-", dir=fast_folder()))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sqlite_folder(sqlite_folders: Path) -> Iterator[Path]:
    """In memory where there is room: on a disk a test waits twice as long for its commits as it runs."""
    folder = Path(tempfile.mkdtemp(dir=sqlite_folders))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sqlite_url(template_sqlite: Path, sqlite_folder: Path) -> str:
    path = shutil.copyfile(template_sqlite, sqlite_folder / "statestore.db")
    return f"sqlite:///{path}"


@pytest.fixture
def empty_sqlite_url(sqlite_folder: Path) -> str:
    return f"sqlite:///{sqlite_folder / 'statestore.db'}"


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def database_url(request: pytest.FixtureRequest) -> str:
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    return str(request.getfixturevalue(fixture))


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    fixture = {"sqlite": "empty_sqlite_url", "postgresql": "empty_postgres_url"}[request.param]
    return str(request.getfixturevalue(fixture))


@pytest.fixture(scope="session")
def portal() -> Iterator[Portal]:
    portal = Portal()
    yield portal
    portal.close()


@pytest.fixture(scope="session")
def pgbouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    if pgbouncer_program() is None:
        pytest.skip("PgBouncer is not installed")
    with PgBouncer(postgres) as pgbouncer:
        yield pgbouncer


@pytest.fixture(scope="session")
def standby(postgres: PostgresServer) -> Iterator[Standby]:
    assert isinstance(postgres, LocalServer), "a standby needs a server that the tests have started"
    with Standby(postgres) as standby:
        yield standby


@pytest.fixture
def reporting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], dict[str, Any]]:
    """With `--replica`: the options with which a store on a URL reads from a standby all that it may.

    What others have written has to be there, too, since tests write with one store and read with another.
    """
    if not request.config.getoption("--replica") or request.path.name in WITHOUT_REPLICA:
        return lambda url: {}
    from statestore.engine import replicas

    monkeypatch.setattr(replicas, "_CATCHING_UP", 5.0)

    def options(url: Any) -> dict[str, Any]:
        given = str(url)
        if given.startswith("sqlite"):
            named = make_url(given)
            return {} if named.database in (None, "", ":memory:") else {"reporting_url": given, "max_lag": 0}
        server = request.getfixturevalue("postgres")
        named = make_url(given)
        if make_url(server.url()).port != named.port:
            return {}
        standby = request.getfixturevalue("standby").url(named.database)
        copy = make_url(standby).set(username=named.username, password=named.password)
        return {"reporting_url": copy.render_as_string(hide_password=False), "max_lag": 0}

    return options


# These look at what one server is asked, or take it away; tests of replicas bring their own.
WITHOUT_REPLICA = frozenset({"test_replicas.py", "test_failover.py"})

POOLED = "pgbouncer-"


@pytest.fixture
def any_world(request: pytest.FixtureRequest) -> str:
    """What `pytest_generate_tests` gives a test that does not choose its world."""
    return str(getattr(request, "param", ""))


@pytest.fixture
def world(request: pytest.FixtureRequest, any_world: str) -> str:
    """Which store a test runs on: `StateStore`, `AsyncStateStore`, or the latter on an engine of the caller's.

    It calls all of them in the same, blocking way; see `tests.support.portal`. The first two also run with PgBouncer in
    between; they do not differ in anything else.
    """
    return str(getattr(request, "param", any_world)).removeprefix(POOLED)


@pytest.fixture
def connect(
    request: pytest.FixtureRequest, world: str, reporting: Callable[[Any], dict[str, Any]]
) -> Iterator[Callable[..., Any]]:
    """`StateStore.open(url, …)` in the test's world. What it opened is closed after the test."""
    from statestore import StateStore

    spread_out = request.config.getoption("--spread")
    homes: dict[str, str] = {}
    pooler: PgBouncer | None = request.getfixturevalue("pgbouncer") if is_pooled(request.node) else None
    with ExitStack() as stack:

        def connect(url: str, **kwargs: Any) -> Any:
            if spread_out and "namespace" not in kwargs:
                return Spread(lambda namespace: connect(url, namespace=namespace, **kwargs), homes)
            if pooler is not None and str(url).startswith("postgresql"):
                stack.callback(pooler.hang_up, url)
                url = pooler.url(url)
            if world != "engine":
                kwargs = {**reporting(url), **kwargs}
            is_sync = world in ("sync", "psycopg2")
            if request.config.getoption("--joined"):
                store: Any = Joined(url, None if is_sync else request.getfixturevalue("portal"), **kwargs)
            elif is_sync:
                store = StateStore.open(url, **kwargs)
            elif world in ("async", "asyncpg"):
                store = BlockingStore.open(request.getfixturevalue("portal"), url, **kwargs)
            else:
                store = BlockingStore.on_engine(request.getfixturevalue("portal"), url, **kwargs)
            stack.callback(store.close)
            return store

        yield connect


@pytest.fixture
def open_store(database_url: str, connect: Callable[..., Any]) -> Callable[..., Any]:
    """`connect` to the test's database."""
    return partial(connect, database_url)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def store(open_store: Callable[..., Any], clock: MovableClock) -> Any:
    """A store on the test's database, with the clock that the test moves."""
    return open_store(clock=clock)


@pytest.fixture
def content(database_url: str) -> Iterator[Content]:
    content = Content(database_url)
    yield content
    content.close()


@pytest.fixture
def warm_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of an export or import have imported the package already: see `tests.support.warm`."""

    class Sys:
        executable = str(programs() / "python")

        def __getattr__(self, name: str) -> Any:
            return getattr(sys, name)

    monkeypatch.setattr("statestore.portable.jobs.sys", Sys())


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    proxy = Proxy(postgres_url)
    yield proxy
    proxy.close()


@pytest.fixture
def traffic(request: pytest.FixtureRequest, database_url: str) -> Iterator[Traffic]:
    """What the stores opened on `traffic.url` send to the test's database."""
    if database_url.startswith("postgresql"):
        yield request.getfixturevalue("proxy").traffic
    else:
        with traced_sqlite(database_url) as traffic:
            yield traffic


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Iterator[object]:
    """What is collected, two million objects, stays until the end: the garbage collector need not look at it again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_itemcollected(item: pytest.Item) -> None:
    fixtures = set(getattr(item, "fixturenames", ()))
    if "postgres" in fixtures:
        item.add_marker(pytest.mark.postgresql)
    if fixtures & {"sqlite_url", "empty_sqlite_url"}:
        item.add_marker(pytest.mark.sqlite)


# The world of a caller's own AsyncEngine differs in how it waits and fails, not in what operations do. So by default it
# runs these files only; STATESTORE_HYPOTHESIS_PROFILE=long, the long run, has all.
ENGINE_FILES = frozenset(
    {
        "test_history.py",
        "test_state.py",
        "test_transactions.py",
        "test_connections.py",
        "test_connection_errors.py",
        "test_failover.py",
        "test_poolers.py",
        "test_cancellation.py",
        "test_close.py",
        "test_deadlines.py",
        "test_ends.py",
        "test_outcomes.py",
        "test_portable.py",
        "test_telemetry.py",
        "test_cursor_events.py",
        "test_logging.py",
    }
)


# Likewise for a pooler in between: by default these files, all of the contract with `--pgbouncer` and in the long run.
POOLED_FILES = frozenset({"test_state.py", "test_transactions.py"})


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each processor: half of the time tests wait, for other processes, for locks and for time to pass."""
    return 2 * min(4, os.cpu_count() or 1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pgbouncer", action="store_true", help="run the whole contract through PgBouncer, too")
    parser.addoption("--replica", action="store_true", help="let stores read from a standby all that they may")
    parser.addoption(
        "--table-prefix", default="", help="tests on SQLite only, and all tables have this prefix unless a test says so"
    )
    parser.addoption(
        "--joined",
        action="store_true",
        help="tests on PostgreSQL only, and each operation joins a transaction of psycopg2's, or of asyncpg's",
    )
    parser.addoption("--spread", action="store_true", help="let a tenant of 4 namespaces stand for each store")
    parser.addoption("--need-postgresql", action="store_true", help="fail if no test ran on PostgreSQL")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what runs in the background deaf to Ctrl-C, and so would be all programs that tests interrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if prefix := config.getoption("--table-prefix"):
        from tests.support.prefix import take

        take(prefix)


def parameters(item: pytest.Item) -> dict[str, Any]:
    found: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return found


def is_pooled(item: pytest.Item) -> bool:
    return str(parameters(item).get("any_world", "")).startswith(POOLED)


# What these find at the server are the pooler's connections, not the store's, and behind a pooler nobody listens.
SERVER_CONNECTIONS = frozenset({"test_nothing_is_left_connected", "test_nothing_is_held_when_one_stops_following"})


def has_no_pooler(item: pytest.Item) -> bool:
    """Whether a pooler makes no difference to a test: on SQLite, and where it reads what goes over the wire."""
    fixtures = set(getattr(item, "fixturenames", ()))
    database = parameters(item).get("database_url") or parameters(item).get("empty_database_url")
    on_postgresql = "postgres" in fixtures if database is None else database == "postgresql"
    looks_at_the_server = getattr(item, "originalname", "") in SERVER_CONNECTIONS
    return not on_postgresql or looks_at_the_server or bool(fixtures & {"proxy", "traffic"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The worlds of a test that does not choose them itself, by its arguments or by a fixture of its own."""
    chosen = (str(marker.args[0]) for marker in metafunc.definition.iter_markers("parametrize"))
    if "any_world" not in metafunc.fixturenames or any("world" in re.split(r"\W+", names) for names in chosen):
        return
    path = metafunc.definition.path
    long = os.environ.get("STATESTORE_HYPOTHESIS_PROFILE") == "long"
    worlds = ["sync", "async"]
    if long or path.name in ENGINE_FILES:
        worlds.append("engine")
    whole_contract = long or metafunc.config.getoption("--pgbouncer")
    if path.parent.name == "contract" if whole_contract else path.name in POOLED_FILES:
        worlds += [f"{POOLED}sync", f"{POOLED}async"]
    metafunc.parametrize("any_world", worlds, indirect=True)


def is_left_out(item: pytest.Item) -> bool:
    """Whether a test is of a database that the run is not about, or has nothing of what it is to run with."""
    on_postgresql = item.get_closest_marker("postgresql") is not None
    if item.config.getoption("--spread") and item.path.name not in SPREAD_FILES:
        return True
    if item.config.getoption("--joined") or parameters(item).get("world") in ("psycopg2", "asyncpg"):
        return not on_postgresql
    # The portable files go from one kind of database to the other.
    if item.config.getoption("--table-prefix") and (on_postgresql or item.path.name.startswith("test_portable")):
        return True
    return is_pooled(item) and has_no_pooler(item)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    variables = {"citus": "STATESTORE_TEST_CITUS_URL", "partitioned": "STATESTORE_TEST_PARTITIONED"}
    worlds = {name: bool(os.environ.get(variable)) for name, variable in variables.items()}
    worlds["spread"] = bool(config.getoption("--spread"))
    for item in items:
        if (reason := impossible(item, **worlds, pooled=is_pooled(item))) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
    left_out = [item for item in items if is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker process tells its parent which server it used, and the parent whether all databases took part."""
    if not hasattr(session.config, "workeroutput"):
        if session.config.getoption("--need-postgresql") and not ran_on(session.config, "postgresql"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    elif server_name in session.config.stash:
        session.config.workeroutput["server_name"] = session.config.stash[server_name]


def ran_on(config: pytest.Config, database: str) -> int:
    """How many tests ran on a database, in all worker processes together."""
    stats = config.pluginmanager.get_plugin("terminalreporter").stats
    return sum(database in report.keywords for outcome in ("passed", "failed") for report in stats.get(outcome, ()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    if "server_name" in getattr(node, "workeroutput", {}):
        node.config.stash[server_name] = node.workeroutput["server_name"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many tests ran on which database: a run that left one out must not look like one that did not."""
    on_postgresql, on_sqlite = ran_on(config, "postgresql"), ran_on(config, "sqlite")
    postgresql = config.stash.get(server_name, "PostgreSQL (not started)")
    terminalreporter.write_line(
        f"{postgresql}: {on_postgresql} tests ran, SQLite {sqlite3.sqlite_version}: {on_sqlite} tests ran"
    )
    if config.getoption("--need-postgresql") and not on_postgresql:
        terminalreporter.write_line("No test ran on PostgreSQL: the run counts as failed.")
