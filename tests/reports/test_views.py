"""The report views say the same on both databases, and the same as the store."""

import itertools
import json
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from statestore import StateStore, Usage, schema
from statestore.reports.catalog import REPORTS, records
from statestore.repositories.usage import report_sql
from statestore.schema import VIEWS
from tests.reports.data import fill
from tests.support.clock import MovableClock
from tests.support.content import Content

# As old as the machine's clock at the moment of the query: compared loosely.
MOVING = {"overdue_seconds"}
# Text on SQLite; psycopg reads it.
JSON = {"content", "metadata", "value"}


def populate(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live entries and deleted ones, forks, states, summaries, a cache, and things that are overdue."""
    numbers = itertools.count()
    monkeypatch.setattr("uuid.uuid4", lambda: f"random-{next(numbers)}")
    clock = MovableClock(datetime(2026, 2, 1, tzinfo=UTC))
    with StateStore.open(url, clock=clock) as store, StateStore.open(url, namespace="other", clock=clock) as other:
        fill(store, days=20, users=7, each_day=5)
        fill(other, days=2, users=2, each_day=2, seed=2)
        for day in range(0, 20, 3):
            store.sessions.delete(f"day-{day}-0")
            store.history.trim(f"day-{day}-1", keep_last=1)
        store.sessions.fork("day-1-2", "fork", metadata={"of": "ä\u0000"})
        store.sessions.update("fork", user_id="user-1")
        store.sessions.fork("fork", "fork of fork", at_seq=1)
        store.history.append("fork", [{"role": "user", "content": "and then"}])
        store.sessions.delete("day-1-2")
        store.sessions.delete_user("user-3")
        store.sessions.create("short", user_id="user-1", ttl=timedelta(minutes=1), title="größer", instructions="Be.")
        store.state.set("short", "key", "wert €")
        store.state.set("fork", "kept", {"a": 1})
        store.usage.record(
            record_id="r", usage=Usage(input_tokens=5), session_id="fork", at=datetime(2026, 1, 3, tzinfo=UTC)
        )
        store.usage.record(
            record_id="t", usage=Usage(), tool_name="search", duration=timedelta(milliseconds=250), cost_usd=0.1
        )
        store.state.set("fork", "key", [1, 2], ttl=timedelta(minutes=2))
        store.history.add_summary("fork", start_seq=1, end_seq=1, content="Zusammenfassung")
        store.set_retention(timedelta(days=1))
        for n in range(5):
            store.cache.set(f"key-{n}", {"n": n}, agent_name="planner" if n % 2 else None, request={"q": n})
            store.cache.get(f"key-{n}")
        store.cache.get("missing")
        store.cache.invalidate("key-0")
        clock.advance(minutes=5)
        store.sessions.touch("fork")


def shown(content: Content, view: str) -> list[dict[str, Any]]:
    found = [{name: comparable(name, value) for name, value in row.items()} for row in content.rows_of(view)]
    return sorted(found, key=repr)


def comparable(name: str, value: Any) -> Any:
    """One value for what the databases write differently: times, dates, and dollars."""
    if name in MOVING:
        return value > 0
    if name == "entry_id":
        return isinstance(value, str)  # Generated.
    if name in JSON and isinstance(value, str):
        return json.loads(value) if value[0] in '"{[' else value
    if isinstance(value, Decimal) or name == "cost_usd":
        return None if value is None else round(Decimal(str(value)), 10)
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value.isoformat() if isinstance(value, date) else value


def without_latencies(row: dict[str, Any]) -> str:
    return repr([value for name, value in row.items() if not name.startswith("latency")])


@pytest.fixture
def both(sqlite_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Content, Content]]:
    for url in (sqlite_url, postgres_url):
        populate(url, monkeypatch)
    with Content(sqlite_url) as sqlite, Content(postgres_url) as postgresql:
        yield sqlite, postgresql


def test_every_view_has_the_same_columns_and_rows_on_both_databases(both: tuple[Content, Content]) -> None:
    for view in VIEWS:
        sqlite, postgresql = (shown(content, view) for content in both)
        assert sqlite, f"{view} is empty, so that nothing was compared"
        assert [list(row) for row in sqlite] == [list(row) for row in postgresql], view
        assert sqlite == postgresql, view


@pytest.mark.parametrize("name", REPORTS)
def test_the_store_reports_what_the_view_says(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    populate(sqlite_url, monkeypatch)
    report = REPORTS[name]
    with StateStore.open(sqlite_url) as store:
        daily = "daily" in report.arguments
        rows = getattr(store.usage, report.method)(**({"daily": True} if daily else {}))
    said = [{key: comparable(key, value) for key, value in row.items()} for row in records(report, rows, daily=daily)]
    with Content(sqlite_url) as content:
        view = [
            {key: value for key, value in row.items() if key in said[0]}
            for row in shown(content, report.view)
            if row["namespace"] == "default"
        ]
    assert said
    seen = [{key: row[key] for key in said[0]} for row in view]
    for ours, theirs in zip(*(sorted(rows, key=without_latencies) for rows in (said, seen)), strict=True):
        assert without_latencies(ours) == without_latencies(theirs)
        for key in ("latency_p50_ms", "latency_p95_ms"):
            # Ours are durations, and so whole microseconds.
            assert ours.get(key) == pytest.approx(theirs.get(key), abs=0.00051)


def test_every_view_is_documented_in_its_file_with_its_columns() -> None:
    versions = Path(__file__).resolve().parents[2] / "migrations" / "versions"
    for database in ("sqlite", "postgresql"):
        text = "".join((versions / f"{file}_views_{database}.sql").read_text() for file in ("0003", "0005"))
        later = (versions / "0007_comments.toml").read_text()
        for view in VIEWS:
            assert f"\n-- {view}: " in text or f"\n[{view}]\ncomment = " in later


def test_a_session_has_in_the_view_what_the_store_reads(database_url: str, content: Content) -> None:
    """Of forks of forks, after the source let go of what they share."""
    with StateStore.open(database_url) as store:
        store.history.append("s", [{"role": "user", "content": f"word {n}"} for n in range(9)], create=True)
        store.sessions.fork("s", "f", at_seq=6)
        store.history.append("f", [{"role": "user", "content": "mine"}])
        store.sessions.fork("f", "g", at_seq=7)
        store.history.append("g", [{"role": "user", "content": "deeper"}])
        for change in (
            lambda: None,
            lambda: store.history.trim("s", keep_last=4),
            lambda: store.history.trim("g", keep_last=5),
            lambda: store.sessions.delete("s"),
            lambda: store.history.pop_last("f"),
            lambda: store.sessions.delete("f"),
        ):
            change()
            seen: dict[str, list[tuple[int, str]]] = {}
            for row in content.query("SELECT * FROM session_history ORDER BY session_id, seq"):
                seen.setdefault(row["session_id"], []).append((row["seq"], row["entry_id"]))
            read = {
                session.session_id: [(entry.seq, entry.entry_id) for entry in store.history.read(session.session_id)]
                for session in store.sessions.page().sessions
            }
            assert seen == read
        store.sessions.update("g", user_id="ada")
        store.history.clear("g")
        assert content.query("SELECT * FROM session_history") == []


def test_the_views_of_sessions_show_the_living_only(database_url: str, content: Content) -> None:
    with StateStore.open(database_url) as store:
        for session_id, ttl in (("lives", None), ("over", timedelta(microseconds=1))):
            store.sessions.create(session_id, user_id="ada", agent_name="planner", ttl=ttl)
        store.history.append("lives", [{"role": "user", "content": "a"}])
        store.state.set_many("lives", {"k": [1], "n": 2})
        store.state.set("lives", "short", 1, ttl=timedelta(microseconds=1))
    with content:
        content.query(
            "INSERT INTO state_entries (namespace, session_id, key, value, updated_at)"
            " SELECT namespace, 'over', key, value, updated_at FROM state_entries"
        )
        assert {row["session_id"] for row in content.query("SELECT * FROM session_history")} == {"lives"}
        rows = content.query("SELECT * FROM session_state ORDER BY key")
        assert [(row["session_id"], row["user_id"], row["key"]) for row in rows] == [
            ("lives", "ada", "k"),
            ("lives", "ada", "n"),
        ]


def test_the_history_of_one_session_is_found_by_the_primary_key(database_url: str, content: Content) -> None:
    with StateStore.open(database_url, durability="normal") as store:
        fill(store, days=60, users=5, each_day=12)
        for day in range(60):
            store.sessions.fork(f"day-{day}-1", f"fork-{day}")
    sql = "SELECT seq, content FROM session_history WHERE namespace = 'default' AND session_id = 'fork-7' ORDER BY seq"
    if content.is_sqlite:
        plan = [row["detail"] for row in content.query(f"EXPLAIN QUERY PLAN {sql}")]
    else:
        content.query("ANALYZE")
        plan = [row["QUERY PLAN"] for row in content.explain(sql, {})]
    assert not [line for line in plan if "Seq Scan on history_entries" in line or line.startswith("SCAN")], plan
    assert len([line for line in plan if "pk_history_entries" in line or "SEARCH h " in line]) == 2, plan


COMMENTED = """
    SELECT c.relname, a.attname FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = 'statestore'
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'v') AND {} IS NULL"""


def test_every_table_view_and_column_has_a_comment(postgres_url: str) -> None:
    r"""`\d+` shows them."""
    with Content(postgres_url) as content:
        assert content.query(COMMENTED.format("obj_description(c.oid, 'pg_class')")) == []
        assert content.query(COMMENTED.format("col_description(c.oid, a.attnum)")) == []


def test_what_a_comment_says_is_also_said_for_sqlite(sqlite_url: str) -> None:
    """SQLite keeps no comments; the file has one for each of its tables, views and columns, too, and none besides."""
    versions = Path(__file__).resolve().parents[2] / "migrations" / "versions"
    said = tomllib.loads("".join((versions / f"{revision}_comments.toml").read_text() for revision in ("0005", "0007")))
    for revision, table in (("0006", "shared_state"), ("0011", "usage_rollup")):
        said[table] |= tomllib.loads((versions / f"{revision}_comments.toml").read_text())[table]
    measures, everywhere = said.pop("measures").split(), said.pop("everywhere")
    with Content(sqlite_url) as content:
        relations = [
            row["name"]
            for row in content.query("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
            if not row["name"].startswith("sqlite_")
        ]
        for relation in relations:
            here = said.pop(relation)
            assert here.pop("comment")
            names = here.pop("columns", "").split()
            listed = [column for name in names for column in (measures if name == "+" else [name])]
            assert set(listed) <= set(everywhere)
            columns = [row["name"] for row in content.query(f"PRAGMA table_info({relation})")]
            if here.pop("latency_", None):
                columns = [name for name in columns if name not in schema.LATENCY_COLUMNS]
            assert sorted([*listed, *here]) == sorted(columns), relation
    assert said == {}


def test_a_report_of_a_period_finds_it_in_the_indexes(database_url: str, content: Content) -> None:
    """The plan is asked for, with enough rows for a planner to care."""
    with StateStore.open(database_url, durability="normal") as store:
        fill(store, days=60, users=5, each_day=12)
        for day in range(30):
            store.sessions.delete(f"day-{day}-0")
        statement = report_sql.measured(("local_day",), (), 0, "local_day", False, False)
        sql = store._database.dialect.render(statement)
        since, until = datetime(2026, 2, 20, tzinfo=UTC), datetime(2026, 2, 21, tzinfo=UTC)
        if content.is_sqlite:
            params = {"namespace": "default", "since": since.isoformat(), "until": until.isoformat(), "offset_0": "+0"}
            plan = "\n".join(row["detail"] for row in content.query(f"EXPLAIN QUERY PLAN {sql}", **params))
        else:
            # A table of a few pages is read as a whole.
            content.query(
                "INSERT INTO usage_ledger SELECT namespace, 'old-' || n, bucket_at - n * interval '1 hour', line,"
                " user_id, agent_name, provider_name, model, tool_name, entries, turns, model_calls, tool_calls,"
                " errors, input_tokens, output_tokens, cache_read_input_tokens, cache_write_input_tokens,"
                " reasoning_output_tokens, cost_usd, unpriced_calls, duration_ms, content_bytes"
                " FROM (SELECT * FROM usage_ledger LIMIT 1) AS one, generate_series(1, 20000) AS n"
            )
            content.query("ANALYZE")
            offset = timedelta(0)
            params = {"namespace": "default", "since": since, "until": until, "offset_0": offset}
            plan = "\n".join(str(row["QUERY PLAN"]) for row in content.explain(sql, params))
    assert "ix_history_entries_namespace_created_at" in plan
    assert "ix_usage_ledger_namespace_bucket_at" in plan
