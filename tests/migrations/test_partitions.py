"""Partitioning the tables of a PostgreSQL database that is in use."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, create_engine

from statestore import (
    InvalidValueError,
    NewEntry,
    SchemaError,
    SchemaMissingError,
    StateStore,
    UnavailableError,
    Usage,
    migrate,
)
from statestore.partitioning import TablePartitions, cancel, copies, look, partition
from tests.migrations.databases import connected, driver_url, rows
from tests.postgres import PostgresServer
from tests.reports.test_rollup import agree
from tests.support.content import Content

TABLES = ("history_entries", "cache_entries")
SHORT = timedelta(milliseconds=100)
LONG = "x" * 900  # Some eight entries to a block.


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "BLOCKS", 2)
    monkeypatch.setattr(copies, "KEYS", 20)
    monkeypatch.setattr(copies, "SECONDS", 0.0)


@pytest.fixture
def url(postgres: PostgresServer, empty_postgres_url: str) -> str:
    """A database without partitions, whatever STATESTORE_TEST_PARTITIONED says."""
    migrate.upgrade(empty_postgres_url)
    return empty_postgres_url


def fill(url: str) -> None:
    with StateStore.open(url) as store:
        for number in range(6):
            entries = [NewEntry([i, LONG], usage=Usage(input_tokens=i)) for i in range(12)]
            store.history.append(f"s{number}", entries, create=True)
        store.sessions.fork("s0", "fork")
        store.history.append("fork", [NewEntry("100 %")])
        store.sessions.delete("s1")
        store.cache.set_many({f"k{number}": [number, LONG] for number in range(30)}, tags=["t"])


def states(found: list[TablePartitions]) -> list[str]:
    return [one.state for one in found]


def test_what_was_there_is_there(url: str) -> None:
    fill(url)
    with Content(url) as content, StateStore.open(url) as store:
        before, totals = content.snapshot(), store.usage.totals()
        lines: list[str] = []
        assert states(look(url, partitions=4)) == ["plain", "plain"]
        done = partition(url, partitions=4, progress=lines.append)
        assert [(one.table, one.by, one.partitions, one.state) for one in done] == [
            ("history_entries", "session_id", 4, "partitioned"),
            ("cache_entries", "key", 4, "partitioned"),
        ]
        assert (done[0].rows, done[1].rows) == (61, 30)
        assert content.snapshot() == before
        assert store.usage.totals() == totals
        assert migrate.differences(url) == []
        assert migrate.partitions(url) == {"history_entries": 4, "cache_entries": 4}
        assert lines[0] == "making 4 partitions of history_entries"
        assert "history_entries: copied 100 %, 61 rows" in lines
        # Nothing is left of the way.
        left = rows(url, "SELECT relname FROM pg_class WHERE relname ~ 'entries_(copy|notes|replaced)|statestore_part'")
        assert left == []
        assert rows(url, "SELECT proname FROM pg_proc WHERE proname ~ 'statestore_note'") == []
        # The open store goes on, and so do forks, cascades and invalidation.
        store.sessions.delete("s0")
        assert [entry.seq for entry in store.history.read("fork")] == list(range(1, 14))
        assert store.cache.invalidate_tag("t") == 30
        assert content.rows("cache_tags") == content.rows("cache_entries") == []
        lines.clear()
        assert states(partition(url, partitions=4, progress=lines.append)) == ["partitioned", "partitioned"]
        assert lines == ["history_entries is partitioned already", "cache_entries is partitioned already"]


def test_rows_are_in_the_partition_of_their_hash(url: str) -> None:
    fill(url)
    partition(url, partitions=3, tables=["history_entries"])
    assert migrate.partitions(url) == {"history_entries": 3}
    found = rows(url, "SELECT tableoid::regclass::text, session_id FROM statestore.history_entries GROUP BY 1, 2")
    assert len({place for place, _ in found}) > 1
    assert len(found) == len({session_id for _, session_id in found})
    # And no other partition is looked into.
    with psycopg.connect(url) as connection:
        plan = connection.execute(
            "EXPLAIN SELECT * FROM statestore.history_entries WHERE namespace = 'default' AND session_id = 's3'"
        ).fetchall()
    assert sum("statestore.history_entries_p" in line or " history_entries_p" in line for (line,) in plan) == 1


class Writer(threading.Thread):
    """Writes to sessions and cached values of its own, and remembers what has to be there."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__()
        self._random = random.Random(name)
        self._url, self._mine = url, name
        self._stopped = threading.Event()
        self.sessions: dict[str, list[Any]] = {}
        self.cached: dict[str, Any] = {}
        self.writes = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with StateStore.open(self._url, retry_for=30, timeout=60) as store:
                while not self._stopped.is_set():
                    self._write(store)
                    self.writes += 1
                    self._stopped.wait(0.01)
        except BaseException as failure:
            self.failure = failure

    def _write(self, store: StateStore) -> None:
        number = self._random.randrange(6)
        session_id, kind = f"{self._mine}-{number}", self._random.randrange(10)
        entries = self.sessions.setdefault(session_id, [])
        if kind < 4:
            new = [[self.writes, i, LONG] for i in range(self._random.randrange(1, 4))]
            store.history.append(session_id, [NewEntry(content) for content in new], create=True)
            entries += new
        elif kind < 5 and entries:
            store.history.pop_last(session_id)
            entries.pop()
        elif kind < 6 and entries:
            entries[-1] = ["edited", self.writes]
            last = store.history.read(session_id, last=1)[0]
            store.history.replace(session_id, last.seq, NewEntry(entries[-1]))
        elif kind < 7:
            store.sessions.delete(session_id)
            self.sessions.pop(session_id)
        elif kind < 8 and entries and f"{session_id}-fork" not in self.sessions:
            # Rows change their owner, and so their partition.
            store.sessions.fork(session_id, f"{session_id}-fork")
            store.sessions.delete(session_id)
            self.sessions[f"{session_id}-fork"] = self.sessions.pop(session_id)
        elif kind < 9:
            self.cached[f"{session_id}-k"] = [self.writes]
            store.cache.set(f"{session_id}-k", [self.writes], tags=[session_id])
        else:
            store.cache.invalidate_tag(session_id)
            self.cached.pop(f"{session_id}-k", None)

    def stop(self) -> None:
        self._stopped.set()
        self.join(60)
        if self.failure is not None:
            raise self.failure

    def check(self, url: str) -> None:
        """All of what was acknowledged is there, once."""
        with StateStore.open(url) as store:
            for session_id, expected in self.sessions.items():
                if expected or store.sessions.exists(session_id):
                    assert [entry.content for entry in store.history.read(session_id)] == expected, session_id
            keys = [f"{self._mine}-{number}-k" for number in range(6)]
            assert store.cache.get_many(keys) == self.cached


@pytest.fixture
def writers(url: str) -> Iterator[list[Writer]]:
    fill(url)
    writers = [Writer(url, name) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    yield writers
    for writer in writers:
        writer.stop()


def settle(url: str, writers: list[Writer]) -> None:
    """Let the writers go on for a moment, then compare."""
    before = [writer.writes for writer in writers]
    deadline = time.monotonic() + 60
    while any(writer.is_alive() and writer.writes < now + 10 for writer, now in zip(writers, before, strict=True)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for writer in writers:
        writer.stop()
    for writer in writers:
        writer.check(url)
    assert migrate.differences(url) == []
    assert rows(url, "SELECT count(*) FROM statestore.history_entries WHERE session_id LIKE 's%'") == [(60,)]


def test_writers_go_on_meanwhile(url: str, writers: list[Writer]) -> None:
    while any(writer.is_alive() and writer.writes < 30 for writer in writers):
        time.sleep(0.02)
    partition(url, partitions=4)
    settle(url, writers)


def test_an_interruption_at_any_statement_loses_nothing(
    url: str, writers: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt is broken off a statement later than the one before it, in whatever it has come to."""
    run, here = Connection.exec_driver_sql, threading.current_thread()
    attempts = allowed = 0

    def interrupted(self: Connection, statement: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal allowed
        if threading.current_thread() is here:
            allowed -= 1
            if allowed < 0:
                raise ZeroDivisionError
        return run(self, statement, *args, **kwargs)

    found: list[TablePartitions] = []
    with monkeypatch.context() as patched:
        patched.setattr(Connection, "exec_driver_sql", interrupted)
        while not found:
            attempts += 1
            allowed = 3 * attempts
            with suppress(ZeroDivisionError):
                found = partition(url, partitions=2)
    assert states(found) == ["partitioned", "partitioned"]
    assert attempts > 10
    settle(url, writers)


KILLED = """
import sys
from statestore.partitioning import copies
from statestore.partitioning import partition
copies.BLOCKS, copies.KEYS, copies.SECONDS = 2, 20, 0.0
partition(sys.argv[1], partitions=4, progress=lambda line: print(line, flush=True))
"""


# In the order in which they are reached; after each kill the next process goes on, up to the next one.
KILLS = (
    *(
        "making 4 partitions of history",
        "history_entries: copied",
        "history_entries: copied",
        "history_entries: swapping",
    ),
    *("making 4 partitions of cache", "cache_entries: comparing", "cache_entries: swapping"),
)


def test_a_kill_loses_nothing(url: str, writers: list[Writer]) -> None:
    choice = random.Random(7)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    killed = 0
    for text in (*KILLS, None):
        with subprocess.Popen([sys.executable, "-c", KILLED, url], env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if text is not None and line.decode().startswith(text):
                    time.sleep(choice.uniform(0, 0.02))
                    process.send_signal(signal.SIGKILL)
                    break
        killed += process.returncode == -signal.SIGKILL
        with StateStore.open(url) as store:  # Whatever state it is in.
            store.history.append("between", [NewEntry(text)], create=True)
    assert killed >= 4
    with StateStore.open(url) as store:
        assert [entry.content for entry in store.history.read("between")] == [*KILLS, None]
    assert states(look(url)) == ["partitioned", "partitioned"]
    settle(url, writers)


def test_sums_of_usage_are_kept_over_a_partitioning(url: str) -> None:
    fill(url)
    triggers = """
        SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger
        WHERE tgrelid = 'statestore.history_entries'::regclass AND NOT tgisinternal ORDER BY 1"""
    state = "SELECT announced_until, rolled_until, days_until FROM statestore.usage_rollup_state"
    with psycopg.connect(url, autocommit=True) as connection, StateStore.open(url) as store:
        connection.execute("UPDATE statestore.history_entries SET created_at = created_at - interval '3 days'")
        store.sweep()
        before, summed = rows(url, triggers), rows(url, state)
        events = ("delete", "insert", "truncate", "update")
        assert [name for name, _ in before] == [f"usage_rollup_{event}" for event in events]
        assert summed[0][1] is not None
        assert rows(url, "SELECT count(*) FROM statestore.usage_rollup") != [(0,)]
        partition(url, partitions=3)
        assert rows(url, triggers) == before
        agree(store)
        # Sums that are not current now: of rows that are changed, that move to the partition of a fork, and that go.
        store.history.replace("s2", 1, NewEntry("edited", usage=Usage(input_tokens=1000)))
        store.sessions.delete("s0")
        store.history.pop_last("s3")
        connection.execute("DELETE FROM statestore.history_entries WHERE session_id = 's5' AND seq = 3")
        connection.execute(
            "UPDATE statestore.history_entries SET created_at = created_at - interval '3 days' WHERE session_id = 's4'"
        )
        late = rows(url, "SELECT DISTINCT part FROM statestore.usage_rollup_changes WHERE kind = 'session' ORDER BY 1")
        assert {name for (name,) in late} == {"fork", "s0", "s2", "s3", "s4", "s5"}
        agree(store)
        store.sweep()
        agree(store)
        assert rows(url, state)[0][0] >= summed[0][0]
        assert rows(url, "SELECT count(*) FROM statestore.usage_rollup_changes") == [(0,)]


def stop_at(text: str) -> Callable[[str], None]:
    def stop(line: str) -> None:
        if text in line:
            raise ZeroDivisionError

    return stop


def begin(url: str, **arguments: Any) -> None:
    """Begin to partition, and stop after some rows."""
    with pytest.raises(ZeroDivisionError):
        partition(url, progress=stop_at("comparing"), **arguments)


def test_a_table_that_was_rewritten_is_copied_from_its_start(url: str) -> None:
    fill(url)
    begin(url, partitions=2)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM FULL statestore.history_entries")
    with Content(url) as content:
        before = content.snapshot()
        lines: list[str] = []
        partition(url, partitions=2, progress=lines.append)
        assert content.snapshot() == before
    assert any(line.startswith("history_entries: copied") and "100 %" not in line for line in lines)


def test_a_table_that_was_altered_is_copied_anew(url: str) -> None:
    fill(url)
    begin(url, partitions=2)
    with connected(url) as connection:
        connection.exec_driver_sql("ALTER TABLE statestore.history_entries ADD COLUMN colour text DEFAULT 'blue'")
        connection.exec_driver_sql("CREATE INDEX mine ON statestore.history_entries (role, session_id)")
    partition(url, partitions=3)
    assert rows(url, "SELECT DISTINCT colour FROM statestore.history_entries") == [("blue",)]
    assert rows(url, "SELECT relkind::text FROM pg_class WHERE relname = 'mine'") == [("I",)]
    assert migrate.partitions(url)["history_entries"] == 3
    assert sorted(migrate.differences(url)) == [
        "column history_entries.colour: not expected",
        "index history_entries.mine: not expected",
    ]


def test_what_was_begun_can_be_given_up(url: str) -> None:
    fill(url)
    with Content(url) as content:
        before = content.snapshot()
        begin(url, partitions=2)
        assert states(look(url)) == ["copying", "plain"]
        assert look(url)[0].partitions == 2
        assert cancel(url) == ["history_entries"]
        assert content.snapshot() == before
    assert states(look(url)) == ["plain", "plain"]
    assert cancel(url) == []
    assert migrate.differences(url) == []
    assert rows(url, "SELECT relname FROM pg_class WHERE relname ~ 'entries_(copy|notes|p[0-9])|statestore_part'") == []


def test_a_copy_that_differs_does_not_become_the_table(url: str) -> None:
    fill(url)
    begin(url, partitions=2)
    with connected(url) as connection:
        connection.exec_driver_sql("DELETE FROM statestore.history_entries_copy WHERE seq = 5")
    with pytest.raises(SchemaError, match="61 rows, of which the copy has 56"):
        partition(url, partitions=2)
    assert migrate.partitions(url) == {}
    cancel(url)
    assert states(partition(url, partitions=2)) == ["partitioned", "partitioned"]


def test_others_locks_are_waited_for_in_turns(url: str) -> None:
    fill(url)
    with psycopg.connect(url) as reader:
        reader.execute("SELECT count(*) FROM statestore.usage_lines")
        with pytest.raises(UnavailableError, match="others hold locks on history_entries"):
            partition(url, partitions=2, lock_timeout=SHORT, wait=timedelta(seconds=1))
        with StateStore.open(url) as store:
            store.history.append("s2", [NewEntry("meanwhile")])
    partition(url, partitions=2, lock_timeout=SHORT)
    with StateStore.open(url) as store:
        assert store.history.read("s2", last=1)[0].content == "meanwhile"


def test_only_one_works_at_it(url: str) -> None:
    fill(url)
    found: list[str] = []

    def second(line: str) -> None:
        if line.startswith("making"):
            with pytest.raises(UnavailableError, match="another process is migrating"):
                partition(url, partitions=2, wait=SHORT)
            with pytest.raises(UnavailableError, match="another process is migrating"):
                migrate.upgrade(url, wait=SHORT)
            found.append(line)

    partition(url, partitions=2, progress=second)
    assert len(found) == 2


def test_grants_views_comments_and_options_stay(url: str) -> None:
    fill(url)
    facts = """
        SELECT c.relname, c.relacl::text, c.reloptions::text, obj_description(c.oid), pg_get_userbyid(c.relowner)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'statestore' AND c.relkind IN ('r', 'p', 'v') AND c.relname !~ '_p[0-9]+$' ORDER BY 1"""
    columns = """
        SELECT c.relname, a.attname, a.attacl::text, a.attstorage::text, a.attcompression::text, a.attnotnull,
            a.atttypid::regtype::text, a.attcollation::regcollation::text, col_description(c.oid, a.attnum),
            pg_get_expr(d.adbin, d.adrelid)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_attribute AS a ON a.attrelid = c.oid
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE n.nspname = 'statestore' AND c.relkind IN ('r', 'p', 'v') AND c.relname !~ '_p[0-9]+$'
            AND a.attnum > 0 ORDER BY 1, 2"""
    with connected(url) as connection:
        for statement in (
            "CREATE ROLE analyst_of_partitions",
            "GRANT SELECT, INSERT ON statestore.history_entries TO analyst_of_partitions WITH GRANT OPTION",
            "GRANT UPDATE (title) ON statestore.sessions TO analyst_of_partitions",
            "GRANT UPDATE (content) ON statestore.history_entries TO analyst_of_partitions",
            "GRANT SELECT ON statestore.cache_entries TO PUBLIC",
            "CREATE VIEW statestore.mine WITH (security_barrier) AS SELECT h.*, '100 %' AS x"
            " FROM statestore.history_entries AS h WHERE h.role LIKE '%s'",
            "GRANT SELECT ON statestore.mine TO analyst_of_partitions",
            "CREATE VIEW statestore.on_mine AS SELECT count(*) AS n FROM statestore.mine",
            "ALTER TABLE statestore.cache_entries SET (autovacuum_vacuum_scale_factor = 0.05)",
        ):
            connection.exec_driver_sql(statement.replace("%", "%%"))
    try:
        before = (rows(url, facts), rows(url, columns))
        views = "SELECT viewname, definition FROM pg_views WHERE schemaname = 'statestore' ORDER BY 1"
        definitions = rows(url, views)
        partition(url, partitions=2)
        assert rows(url, columns) == before[1]
        # A partitioned table has no storage options: its partitions have them.
        assert [row[:2] + row[3:] for row in rows(url, facts)] == [row[:2] + row[3:] for row in before[0]]
        options = {row[0]: row[2] for row in before[0]}
        found = {row[0]: row[2] for row in rows(url, facts)}
        for table in TABLES:
            of_partition = f"SELECT reloptions::text FROM pg_class WHERE relname = '{table}_p0'"
            found[table] = rows(url, of_partition)[0][0]
        assert found == options
        assert rows(url, views) == definitions
    finally:
        with connected(url) as connection:
            connection.exec_driver_sql("DROP OWNED BY analyst_of_partitions")
            connection.exec_driver_sql("DROP ROLE analyst_of_partitions")


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "CREATE MATERIALIZED VIEW statestore.kept AS SELECT * FROM statestore.history_entries",
            "materialized view statestore.kept reads it",
        ),
        ("CREATE PUBLICATION p FOR TABLE statestore.history_entries", "publication p names it"),
        ("ALTER TABLE statestore.history_entries ENABLE ROW LEVEL SECURITY", "row-level security"),
        (
            "CREATE TABLE statestore.mine (n text, s text, q bigint, FOREIGN KEY (n, s, q)"
            " REFERENCES statestore.history_entries (namespace, session_id, seq))",
            "foreign key mine_n_s_q_fkey of table statestore.mine refers to it",
        ),
        ("CREATE UNIQUE INDEX mine ON statestore.history_entries (entry_id)", "index mine is unique"),
        (
            "CREATE FUNCTION statestore.f(statestore.history_entries) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "function statestore.f",
        ),
        ("CREATE TABLE statestore.history_entries_p1 (n int)", "there is a table history_entries_p1 already"),
        ("CREATE TABLE statestore.history_entries_copy (n int)", "there is a table history_entries_copy already"),
    ],
)
def test_what_would_get_lost_is_named_before_anything_is_changed(url: str, statement: str, problem: str) -> None:
    fill(url)
    with connected(url) as connection:
        connection.exec_driver_sql(statement)
    [found, other] = look(url, partitions=2)
    assert len(found.problems) == 1
    assert problem in found.problems[0]
    assert other.problems == ()
    with pytest.raises(SchemaError, match="history_entries cannot be partitioned: "):
        partition(url, partitions=2)
    assert states(look(url)) == ["plain", "plain"]


def test_migrations_go_on_from_there(url: str) -> None:
    fill(url)
    with Content(url) as content:
        before = content.rows("history_entries")
        partition(url, partitions=3)
        migrate.downgrade(url, "0004")
        migrate.upgrade(url)
        assert content.rows("history_entries") == before
    assert migrate.partitions(url) == {"history_entries": 3, "cache_entries": 3}
    assert migrate.differences(url) == []
    migrate.downgrade(url, "base")
    assert rows(url, "SELECT relname FROM pg_class WHERE relname LIKE 'history_entries%'") == []


def test_a_missing_partition_is_a_difference(url: str) -> None:
    partition(url, partitions=3)
    with connected(url) as connection:
        connection.exec_driver_sql("DROP TABLE statestore.history_entries_p1")
    assert migrate.differences(url) == ["table history_entries: no partition for remainder 1 of 3"]


def test_a_schema_of_any_name_is_partitioned(empty_postgres_url: str) -> None:
    schema = 'a "b" $c'
    migrate.upgrade(empty_postgres_url, schema=schema)
    with StateStore.open(empty_postgres_url, schema=schema) as store:
        store.history.append("s", [NewEntry("x")], create=True)
        store.cache.set("k", 1, tags=["t"])
        partition(empty_postgres_url, partitions=2, schema=schema)
        assert len(store.history.read("s")) == store.cache.get("k") == 1
        assert store.cache.invalidate_tag("t") == 1
    assert migrate.partitions(empty_postgres_url, schema=schema) == {"history_entries": 2, "cache_entries": 2}


def test_an_engine_serves_too(url: str) -> None:
    engine = create_engine(driver_url(url))
    assert states(partition(engine, partitions=2)) == ["partitioned", "partitioned"]
    engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"by": "range"}, "by"),
        ({"partitions": 1}, "partitions"),
        ({"partitions": 1025}, "partitions"),
        ({"partitions": "8"}, "partitions"),
        ({"tables": []}, "tables"),
        ({"tables": ["sessions"]}, "tables"),
        ({"tables": "history_entries"}, "tables"),
        ({"schema": ""}, "schema"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], argument: str) -> None:
    for function in (partition, look):
        with pytest.raises(InvalidValueError) as caught:
            function("postgresql://nowhere.invalid/x", **arguments)
        assert caught.value.argument.startswith(argument)


def test_only_postgresql_has_partitions(sqlite_url: str, url: str, empty_postgres_url: str) -> None:
    for function in (partition, look, cancel):
        with pytest.raises(InvalidValueError, match="SQLite has no partitions"):
            function(sqlite_url)
    assert migrate.partitions(sqlite_url) == {}
    with connected(url) as connection, pytest.raises(InvalidValueError, match="URL or an engine"):
        partition(connection)
    with connected(url) as connection:
        connection.exec_driver_sql("DROP SCHEMA statestore CASCADE")
    with pytest.raises(SchemaMissingError):
        partition(empty_postgres_url)
