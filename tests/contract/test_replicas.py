"""Reports, exports and reading transactions on a standby, as far as it is recent enough; all else on the primary."""

import io
import logging
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from statestore import InvalidValueError, NewEntry, ReadOnlyError, StateStore, UnavailableError, Usage, migrate
from statestore.engine import replicas
from tests.postgres import LocalServer, start_server
from tests.support.crowd import at_once
from tests.support.portal import Blocking
from tests.support.standby import Standby
from tests.support.wire import Proxy
from tests.support.worlds import entering, export_sessions

Store = Any
Pair = tuple[LocalServer, Standby]

pytestmark = pytest.mark.parametrize("world", ["sync", "async"], indirect=True)

REPORTS: dict[str, Callable[[Store], Any]] = {
    "stats": lambda store: store.stats(),
    "totals": lambda store: store.usage.totals(),
    "by_day": lambda store: store.usage.by_day(),
    "by_session": lambda store: store.usage.by_session(),
    "by_user": lambda store: store.usage.by_user(),
    "by_agent": lambda store: store.usage.by_agent(),
    "by_model": lambda store: store.usage.by_model(),
    "by_tool": lambda store: store.usage.by_tool(),
    "by_hour": lambda store: store.usage.by_hour(tz="Europe/Berlin"),
    "cache_by_day": lambda store: store.usage.cache_by_day(),
    "storage": lambda store: store.usage.storage(),
    "expiry_backlog": lambda store: store.usage.expiry_backlog(),
    "lineage": lambda store: store.usage.lineage(),
}

WRITES: dict[str, Callable[[Store], Any]] = {
    "a session": lambda store: store.sessions.create("new"),
    "a transaction": lambda store: in_transaction(store),
    "a run transaction": lambda store: (
        store.run_transaction(lambda tx: tx.sessions.create("new"))
        if isinstance(store, StateStore)
        else in_transaction(store)
    ),
    "several statements": lambda store: store.sessions.fork("s", "new"),
    "a batch": lambda store: at_once(
        lambda: store.history.append("new", [NewEntry("a")], create=True),
        *[lambda: store.history.append("s", [NewEntry("a")])] * 3,
    ),
}


def in_transaction(store: Store) -> None:
    with store.transaction() as tx:
        tx.sessions.create("new")


def is_measuring(statement: str) -> bool:
    return "pg_control_system" in statement or "pg_backend_pid" in statement


class Standing:
    """A database, its copy on a standby, and what a store sends to that."""

    def __init__(self, pair: Pair, name: str) -> None:
        self.server, self.standby = pair
        self.name = name
        self.url = self.server.url(name)
        self.proxy = Proxy(self.standby.url(name))
        self.reporting_url = self.proxy.url

    def asked(self) -> list[str]:
        """What the standby was asked, since the last time; that is not how far it is."""
        found = [one for one in self.proxy.traffic.statements if not is_measuring(one)]
        self.proxy.traffic.clear()
        return [one for one in found if not one.startswith(("BEGIN", "COMMIT", "ROLLBACK"))]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    # What is acknowledged has to be on its way to the standby at once.
    with start_server(settings={"synchronous_commit": "on", "wal_keep_size": "1GB"}) as server:
        assert isinstance(server, LocalServer)
        server.create_database("template")
        migrate.upgrade(server.url("template"))
        with Standby(server) as standby:
            yield server, standby


@pytest.fixture
def standing(pair: Pair, postgres: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standing]:
    """A standby that has everything, and that is asked again at once after trouble."""
    server, standby = pair
    monkeypatch.setattr(replicas, "_PAUSES", dict.fromkeys(replicas._PAUSES, 0.0))
    monkeypatch.setattr(replicas, "_CATCHING_UP", 5.0)  # On a busy machine it may take long.
    with server.database("template") as name:
        if not standby.is_up:
            standby.start()
        standby.catch_up()
        standing = Standing(pair, name)
        yield standing
        standing.proxy.close()
        if standby.is_up:
            standby.resume()


@pytest.fixture
def impatient(standing: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not on the standby is not waited for."""
    monkeypatch.setattr(replicas, "_CATCHING_UP", 0.0)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "statestore"):
        yield caplog


def said(log: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was said of the replica, and how urgently."""
    found = [(one.levelname, one.getMessage()) for one in log.records if "the replica" in one.getMessage()]
    log.clear()
    return found


@pytest.fixture
def store(standing: Standing, connect: Callable[..., Store]) -> Store:
    store = connect(standing.url, reporting_url=standing.reporting_url)
    store.sessions.create("s")
    store.history.append("s", [NewEntry("a", role="assistant", request_model="m", usage=Usage(input_tokens=5))])
    standing.asked()
    return store


@pytest.fixture
def other(standing: Standing, connect: Callable[..., Store]) -> Store:
    """Somebody else's store on the same database."""
    return connect(standing.url)


def sessions(store: Store) -> int:
    return int(sum(store.stats().sessions.values()))


@pytest.mark.parametrize("report", REPORTS)
def test_a_report_comes_from_the_standby(store: Store, other: Store, standing: Standing, report: str) -> None:
    expected = REPORTS[report](other)
    assert standing.asked() == []
    assert REPORTS[report](store) == expected
    assert standing.asked()


def test_what_is_recorded_as_usage_is_written_to_the_primary(store: Store, standing: Standing) -> None:
    store.usage.record(record_id="r", model="m", usage=Usage(input_tokens=7))
    assert standing.asked() == []
    assert store.usage.totals().input_tokens == 12
    assert standing.asked()


def test_an_export_comes_from_the_standby(store: Store, other: Store, standing: Standing) -> None:
    files = [io.BytesIO(), io.BytesIO()]
    for one, file in zip((store, other), files, strict=True):
        export_sessions(one, file)
        assert bool(standing.asked()) == (one is store)
    assert files[0].getvalue() == files[1].getvalue()


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.usefixtures("warm_python")
def test_an_export_by_several_processes_comes_from_one_server(
    store: Store, other: Store, standing: Standing, connect: Callable[..., Store], up: bool
) -> None:
    direct = connect(standing.url, reporting_url=standing.standby.url(standing.name))
    if not up:
        standing.standby.kill()
    files = [io.BytesIO(), io.BytesIO()]
    export_sessions(direct, files[0], jobs=2)
    export_sessions(other, files[1])
    assert files[0].getvalue() == files[1].getvalue()


def test_a_transaction_that_only_reads_is_on_the_standby(store: Store, standing: Standing) -> None:
    with store.transaction(read_only=True) as tx:
        assert tx.sessions.get("s").next_seq == 2
        assert tx.history.read("s")[0].content == "a"
        assert tx.state.get("s", "k", None) is None
        assert tx.cache.get("c") is None
        with pytest.raises(ReadOnlyError):
            tx.state.set("s", "k", 1)
    assert len(standing.asked()) >= 4


def test_all_other_reads_and_all_writes_are_on_the_primary(store: Store, standing: Standing) -> None:
    store.ping(writes=True)
    store.sessions.get("s")
    store.history.read("s")
    at_once(*[lambda: store.history.read("s")] * 4)
    store.history.window("s", max_tokens=5)
    store.state.get("s", "k", None)
    store.sessions.page()
    store.sessions.stats("s")
    store.cache.get("c")
    with store.transaction() as tx:
        tx.usage.totals()
        tx.stats()
    with entering(store, store.turn("s")) as turn:
        turn.append({"role": "user", "content": "b"})
    store.sweep()
    assert standing.asked() == []


@pytest.mark.parametrize("write", WRITES)
def test_what_this_store_wrote_is_seen(store: Store, standing: Standing, write: str) -> None:
    WRITES[write](store)
    assert sessions(store) == 2
    assert standing.asked()
    with store.transaction(read_only=True) as tx:
        assert tx.sessions.exists("new")
    assert standing.asked()


@pytest.mark.parametrize("write", WRITES)
def test_what_this_store_wrote_is_read_on_the_primary_until_it_is_on_the_standby(
    store: Store, standing: Standing, impatient: None, log: pytest.LogCaptureFixture, write: str
) -> None:
    standing.standby.pause()
    WRITES[write](store)
    for _ in range(3):
        assert sessions(store) == 2
    with store.transaction(read_only=True) as tx:
        assert tx.sessions.exists("new")
    export_sessions(store, file := io.BytesIO())
    assert b'"new"' in file.getvalue()
    assert standing.asked() == []
    [(level, message)] = said(log)
    assert (level, message.partition(": ")[2]) == ("INFO", "the replica has not applied this store's latest write")
    standing.standby.resume()
    standing.standby.catch_up()
    assert sessions(store) == 2
    assert standing.asked()


def test_what_others_wrote_may_be_missing_for_as_long_as_max_lag(
    store: Store, other: Store, standing: Standing, impatient: None, log: pytest.LogCaptureFixture
) -> None:
    assert sessions(store) == 1
    standing.standby.pause()
    other.sessions.create("new")
    assert sessions(store) == 1
    with store.transaction(read_only=True) as tx:
        assert not tx.sessions.exists("new")
    assert standing.asked()
    assert store.sessions.exists("new")
    assert said(log) == []


def test_beyond_max_lag_the_primary_is_asked(
    standing: Standing, connect: Callable[..., Store], other: Store, impatient: None, log: pytest.LogCaptureFixture
) -> None:
    store = connect(standing.url, reporting_url=standing.reporting_url, max_lag=timedelta(milliseconds=20))
    sessions(store)
    standing.standby.pause()
    other.sessions.create("new")
    while sessions(store) == 0:
        assert standing.asked()
    standing.asked()
    for _ in range(20):
        assert sessions(store) == 1
    with store.transaction(read_only=True) as tx:
        assert tx.sessions.exists("new")
    assert standing.asked() == []
    [(level, message)] = said(log)
    assert level == "WARNING"
    assert message.endswith(" seconds behind, and max_lag is 0.02")
    standing.standby.resume()
    standing.standby.catch_up()
    assert sessions(store) == 1
    assert standing.asked()
    assert said(log) == [("INFO", "reports are read from the replica again")]


def test_without_lag_everything_is_seen(
    standing: Standing, connect: Callable[..., Store], other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = connect(standing.url, reporting_url=standing.reporting_url, max_lag=0)
    for number in range(1, 6):
        other.sessions.create(f"new {number}")
        assert sessions(store) == number
        assert standing.asked()
    monkeypatch.setattr(replicas, "_CATCHING_UP", 0.0)
    standing.standby.pause()
    other.sessions.create("last")
    assert sessions(store) == 6
    assert standing.asked() == []


def test_a_primary_where_nothing_happens_has_a_standby_without_lag(
    store: Store, standing: Standing, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    sessions(store)
    standing.standby.catch_up()
    time, hours = replicas.time, 0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600 * hours, sleep=time.sleep)
    monkeypatch.setattr(replicas, "time", clock)
    # The latest commit is of an hour ago, by the standby's clock, too.
    monkeypatch.setattr(replicas, "_REPLAYED", replicas._REPLAYED.replace("extract(epoch", "3600 + extract(epoch"))
    for _ in range(3):
        hours += 1
        standing.asked()
        assert sessions(store) == 1
        assert standing.asked()
    assert said(log) == []


def test_what_is_known_to_be_recent_enough_is_not_asked_again(
    store: Store, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions(store)
    standing.proxy.traffic.clear()
    for _ in range(3):
        sessions(store)
    assert standing.proxy.traffic.round_trips == 3
    assert not any(is_measuring(one) for one in standing.proxy.traffic.statements)


def test_a_standby_that_dies_is_done_without(store: Store, standing: Standing, log: pytest.LogCaptureFixture) -> None:
    assert sessions(store) == 1
    standing.standby.kill()
    standing.proxy.cut()
    for report in REPORTS.values():
        report(store)
    with store.transaction(read_only=True) as tx:
        assert tx.sessions.exists("s")
    export_sessions(store, io.BytesIO())
    [(level, message)] = said(log)
    assert level == "WARNING"
    assert message.startswith("reports are read from the primary for now: the replica ")
    assert "postgres:" not in message
    standing.standby.start()
    standing.standby.catch_up()
    standing.asked()
    assert sessions(store) == 1
    assert standing.asked()
    assert said(log) == [("INFO", "reports are read from the replica again")]


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_a_report_whose_connection_is_lost_is_made_all_the_same(store: Store, standing: Standing, lost: Any) -> None:
    assert sessions(store) == 1
    standing.proxy.lose(lost, "usage", times=5)
    assert store.usage.totals().input_tokens == 5
    assert sessions(store) == 1


def test_a_transaction_whose_connection_is_lost_may_be_repeated(store: Store, standing: Standing) -> None:
    def work() -> Any:
        with store.transaction(read_only=True) as tx:
            return tx.history.read("s")[0].content

    standing.proxy.lose("request", "history_entries")
    with pytest.raises(UnavailableError) as caught:
        work()
    assert caught.value.retryable
    assert work() == "a"


def test_a_standby_that_says_nothing_is_not_waited_for(
    store: Store, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "ANSWER_WITHIN", 0.1)
    monkeypatch.setitem(replicas._PAUSES, "away", 60.0)
    store.sessions.create("new")
    standing.proxy.swallow()
    try:
        for _ in range(3):
            assert sessions(store) == 2
    finally:
        standing.proxy.recover()


def test_a_table_that_is_locked_on_the_standby_is_read_on_the_primary(
    standing: Standing, connect: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "LOCKED_FOR", timedelta(milliseconds=50))
    store = connect(standing.url, reporting_url=standing.reporting_url)
    with psycopg.connect(standing.url) as locking, psycopg.connect(standing.url, autocommit=True) as other:
        locking.execute("LOCK TABLE statestore.sessions IN ACCESS EXCLUSIVE MODE")
        other.execute("SELECT pg_logical_emit_message(true, 'tests', '')")  # Its commit sends the lock along.
        standing.standby.catch_up()
        standing.standby.pause()
        locking.rollback()
        assert sessions(store) == 0
        with store.transaction(read_only=True) as tx, pytest.raises(UnavailableError) as caught:
            tx.sessions.exists("s")
        assert caught.value.retryable


def test_a_standby_need_not_be_there_when_a_store_is_opened(
    standing: Standing, connect: Callable[..., Store], log: pytest.LogCaptureFixture
) -> None:
    standing.standby.kill()
    store = connect(standing.url, reporting_url=standing.standby.url(standing.name))
    [(level, _)] = said(log)
    assert level == "WARNING"
    assert sessions(store) == 0
    standing.standby.start()
    standing.standby.catch_up()
    assert sessions(store) == 0
    assert said(log) == [("INFO", "reports are read from the replica again")]


def test_a_standby_that_is_promoted_is_not_asked_any_more(
    pair: Pair, standing: Standing, connect: Callable[..., Store], log: pytest.LogCaptureFixture
) -> None:
    with Standby(pair[0]) as second:
        second.catch_up()
        store = connect(standing.url, reporting_url=second.url(standing.name))
        store.sessions.create("s")
        assert sessions(store) == 1
        second.promote()
        store.sessions.create("t")
        with StateStore.open(second.url(standing.name)) as promoted:
            promoted.sessions.create("other")
            promoted.sessions.create("another")
        for _ in range(3):
            assert sessions(store) == 2
        [(level, _)] = [one for one in said(log) if "primary of its own" in one[1]]
        assert level == "WARNING"
        # Once it is the only primary, it may be named twice: there is nothing to be behind.
        both = connect(second.url(standing.name), reporting_url=second.url(standing.name))
        assert sessions(both) == 3
        assert said(log) == []


def test_the_server_itself_may_be_named(
    standing: Standing, connect: Callable[..., Store], log: pytest.LogCaptureFixture
) -> None:
    proxy = Proxy(standing.url)
    store = connect(standing.url, reporting_url=proxy.url, max_lag=0)
    store.sessions.create("s")
    assert sessions(store) == 1
    assert [one for one in proxy.traffic.statements if "history_entries" in one]
    assert said(log) == []
    store.close()
    proxy.close()


def test_a_user_who_may_only_read_is_enough(
    pair: Pair, standing: Standing, connect: Callable[..., Store], log: pytest.LogCaptureFixture
) -> None:
    role = f"reader_{uuid.uuid4().hex[:12]}"
    name = sql.Identifier(role)
    with psycopg.connect(standing.url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'reader'").format(name))
        admin.execute(sql.SQL("GRANT USAGE ON SCHEMA statestore TO {}").format(name))
        admin.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA statestore TO {}").format(name))
        standing.standby.catch_up()
        reader = make_url(standing.reporting_url).set(username=role, password="reader")
        store = connect(standing.url, reporting_url=reader)
        store.sessions.create("s")
        assert [bool(report(store) is None) for report in REPORTS.values()] == [False] * len(REPORTS)
        assert standing.asked()
        assert said(log) == []
        store.close()
        admin.execute(sql.SQL("DROP OWNED BY {}").format(name))
        admin.execute(sql.SQL("DROP ROLE {}").format(name))


def test_a_schema_that_has_not_arrived_yet_is_waited_for(
    pair: Pair, standing: Standing, connect: Callable[..., Store], log: pytest.LogCaptureFixture
) -> None:
    with pair[0].database() as name:
        standing.standby.catch_up()
        standing.standby.pause()
        migrate.upgrade(pair[0].url(name))
        store = connect(pair[0].url(name), reporting_url=standing.standby.url(name))
        assert sessions(store) == 0
        [(level, _)] = said(log)
        assert level == "WARNING"
        standing.standby.resume()
        standing.standby.catch_up()
        assert sessions(store) == 0
        assert said(log) == [("INFO", "reports are read from the replica again")]
        store.close()


def test_another_database_is_refused(
    pair: Pair, standing: Standing, postgres_url: str, sqlite_url: str, connect: Callable[..., Store]
) -> None:
    with pair[0].database("template") as name:
        standing.standby.catch_up()
        for other in (standing.standby.url(name), pair[0].url(name), postgres_url, sqlite_url):
            with pytest.raises(InvalidValueError) as caught:
                connect(standing.url, reporting_url=other)
            assert caught.value.argument == "reporting_url"
            assert str(make_url(standing.url).password) not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://host/db", "postgresql://host/db?no_such_option=1", 5, "sqlite://"]
)
def test_a_url_that_cannot_be_used_is_refused(connect: Callable[..., Store], postgres_url: str, url: Any) -> None:
    with pytest.raises(InvalidValueError) as caught:
        connect(postgres_url, reporting_url=url)
    assert caught.value.argument == "reporting_url"


@pytest.mark.parametrize("lag", [-1, "1", True, float("nan"), float("inf"), timedelta(seconds=-1), None])
def test_a_lag_is_a_duration(connect: Callable[..., Store], sqlite_url: str, lag: Any) -> None:
    with pytest.raises(InvalidValueError) as caught:
        connect(sqlite_url, reporting_url=sqlite_url, max_lag=lag)
    assert caught.value.argument == "max_lag"


def test_a_file_is_its_own_replica(connect: Callable[..., Store], sqlite_url: str) -> None:
    path = make_url(sqlite_url).database
    store = connect(sqlite_url, reporting_url=f"sqlite:///file:{path}?mode=ro&uri=true")
    store.sessions.create("s")
    assert sessions(store) == 1
    with store.transaction() as writing:
        writing.sessions.create("t")
        if not isinstance(store, Blocking):  # One thread does all the work of an event loop.
            assert sessions(store) == 1
    with store.transaction(read_only=True) as tx:
        assert tx.sessions.exists("t")
        with pytest.raises(ReadOnlyError):
            tx.sessions.create("u")
    export_sessions(store, file := io.BytesIO())
    assert b'"t"' in file.getvalue()


def test_another_file_is_refused(connect: Callable[..., Store], sqlite_url: str, tmp_path: Any) -> None:
    for other in (f"sqlite:///{tmp_path / 'other.db'}", "sqlite://", "postgresql://h/db"):
        with pytest.raises(InvalidValueError) as caught:
            connect(sqlite_url, reporting_url=other)
        assert caught.value.argument == "reporting_url"
    assert not (tmp_path / "other.db").exists()
    with pytest.raises(InvalidValueError):
        connect("sqlite://", reporting_url="sqlite://")
