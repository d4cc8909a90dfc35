"""Transactions that are open while a sweep sums what was used: nothing of theirs is passed over."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from statestore import DatabaseError, NewEntry, ReadOnlyError, StateStore, Usage
from statestore.engine.sql import Link
from statestore.repositories.rollup import sessions
from statestore.schema import metadata
from tests.reports.test_rollup import agree
from tests.support.clock import MovableClock
from tests.support.content import Content

RENAMED = 'a "b" c%I'
OLD = datetime.now(UTC) - timedelta(days=2)


def entry(at: datetime | None = OLD) -> NewEntry:
    return NewEntry("text", usage=Usage(input_tokens=1, output_tokens=1), created_at=at)


def watermark(content: Content) -> object:
    rows = content.query("SELECT rolled_until FROM usage_rollup_state")
    return rows[0]["rolled_until"] if rows else None


@pytest.fixture
def content(postgres_url: str) -> Iterator[Content]:
    with Content(postgres_url) as content:
        yield content


def test_the_watermark_waits_for_a_transaction_that_has_not_seen_the_announcement(
    postgres_url: str, content: Content
) -> None:
    with content, StateStore.open(postgres_url) as store, StateStore.open(postgres_url) as other:
        store.history.append("s", [entry()], create=True)
        other.sessions.create("open")
        with other.transaction() as transaction:
            transaction.history.append("open", [entry()])
            store.sweep()
            assert watermark(content) is None
            assert store.usage.totals().entries == 1
        assert store.usage.totals().entries == 2
        store.sweep()
        assert watermark(content) is not None
        agree(store)
        assert store.usage.totals().entries == 2


def test_the_watermark_waits_for_no_transaction_of_another_database(postgres_url: str, content: Content) -> None:
    elsewhere = make_url(postgres_url).set(database="postgres").render_as_string(hide_password=False)
    with content, StateStore.open(postgres_url) as store, psycopg.connect(elsewhere) as other:
        other.execute("SELECT pg_current_xact_id()")
        store.history.append("s", [entry()], create=True)
        store.sweep()
        assert watermark(content) is not None
        agree(store)


@pytest.mark.parametrize("late", [True, False])
def test_what_an_open_transaction_changes_behind_the_watermark_counts_once_it_commits(
    postgres_url: str, content: Content, late: bool
) -> None:
    with content, StateStore.open(postgres_url) as store, StateStore.open(postgres_url) as other:
        store.history.append("s", [entry() for _ in range(3)], create=True)
        store.sweep()
        assert watermark(content) is not None
        with other.transaction() as transaction:
            if late:
                transaction.history.append("s", [entry()])
            else:
                transaction.history.trim("s", keep_last=1)
                transaction.usage.record(record_id="r", usage=Usage(input_tokens=5), at=OLD)
            store.sweep()
            agree(store)
            assert store.usage.totals().entries == 3
        assert store.usage.totals().input_tokens == (4 if late else 8)
        agree(store)
        store.sweep()
        agree(store)
        assert store.usage.totals().input_tokens == (4 if late else 8)


def test_without_the_triggers_nothing_is_summed(postgres_url: str, content: Content) -> None:
    with content, StateStore.open(postgres_url) as store:
        store.history.append("s", [entry()], create=True)
        store.sweep()
        assert watermark(content) is not None
        content.query("DROP TRIGGER usage_rollup_delete ON statestore.history_entries")
        store.sweep()
        assert watermark(content) is None
        store.sessions.delete("s")
        assert store.usage.totals().entries == 1


def test_an_entry_that_comes_late_between_two_statements_of_a_step_stops_no_sweep(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = MovableClock(OLD)
    with StateStore.open(postgres_url, clock=clock) as store, StateStore.open(postgres_url) as other:
        store.history.append("a", [entry(OLD - timedelta(days=1))], create=True)
        store.sweep()
        store.history.append("b", [entry(OLD + timedelta(hours=2))], create=True)
        ask, late = Link.all, []

        def interrupted(link: Link, statement: Any, /, **params: Any) -> Any:
            rows = ask(link, statement, **params)
            if statement is sessions._USED and not late:
                late.extend(other.history.append("a", [entry(OLD + timedelta(hours=2))]))
            return rows

        monkeypatch.setattr(Link, "all", interrupted)
        clock.advance(hours=5)
        store.sweep()
        assert late
        agree(store)
        store.sweep()
        agree(store)
        assert store.usage.totals().entries == 3


def test_sums_go_on_in_a_database_restored_into_another_server(postgres_url: str, content: Content) -> None:
    clock = MovableClock(OLD)
    with content, StateStore.open(postgres_url, clock=clock) as store:
        store.history.append("a", [entry(OLD - timedelta(days=1))], create=True)
        store.sweep()
        before = watermark(content)
        # Dumped between two steps, where the numbers of transactions were higher.
        content.query(
            "UPDATE usage_rollup_state SET announced_until = announced_until + interval '1 hour', fence = 1e15"
        )
        store.history.append("a", [entry(OLD + timedelta(minutes=1))])
        clock.advance(hours=5)
        store.sweep()
        assert str(watermark(content)) > str(before)
        agree(store)


def test_what_somebody_truncates_is_not_in_the_sums(postgres_url: str, content: Content) -> None:
    with content, StateStore.open(postgres_url) as store:
        store.history.append("s", [entry()], create=True)
        store.sweep()
        assert watermark(content) is not None
        content.query("TRUNCATE statestore.history_entries")
        assert store.usage.totals().entries == 0
        store.sweep()
        agree(store)


def test_late_changes_are_noted_after_the_schema_was_renamed(postgres_url: str) -> None:
    with StateStore.open(postgres_url) as store:
        store.history.append("s", [entry()], create=True)
        store.sweep()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER SCHEMA statestore RENAME TO {}").format(sql.Identifier(RENAMED)))
    with StateStore.open(postgres_url, schema=RENAMED) as store:
        store.history.append("s", [entry()])
        store.sessions.update("s", user_id="ada")
        store.usage.record(record_id="r", usage=Usage(input_tokens=1), at=OLD)
        store.history.trim("s", keep_last=1)
        agree(store)
        store.sweep()
        agree(store)
        assert (store.usage.totals().entries, store.usage.by_user(user_id="ada")[0].entries) == (2, 2)


def test_who_may_not_read_the_sums_is_told_so(postgres_url: str) -> None:
    role = "looking"
    with StateStore.open(postgres_url) as store, psycopg.connect(postgres_url, autocommit=True) as connection:
        store.history.append("s", [entry()], create=True)
        connection.execute("CREATE ROLE looking LOGIN PASSWORD 'x'")
        try:
            connection.execute("GRANT USAGE ON SCHEMA statestore TO looking")
            connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA statestore TO looking")
            connection.execute("REVOKE ALL ON statestore.usage_rollup FROM looking")
            url = make_url(postgres_url).set(username=role, password="x")
            with StateStore.open(url) as other:
                with pytest.raises(
                    DatabaseError, match=r"lacks the right to SELECT on usage_rollup \(42501\); "
                ) as caught:
                    other.usage.totals()
                assert not isinstance(caught.value, ReadOnlyError)
                with pytest.raises(ReadOnlyError, match=r"this write \(42501\): .* lacks a privilege on sessions"):
                    other.sessions.create("t")
        finally:
            connection.execute("DROP OWNED BY looking")
            connection.execute("DROP ROLE looking")


def test_durations_of_centuries_add_up_and_are_taken_away(postgres_url: str, content: Content) -> None:
    clock = MovableClock(OLD)
    others = ", ".join(metadata.tables["usage_records"].columns.keys()[3:])
    with StateStore.open(postgres_url, clock=clock) as store:
        store.usage.record(record_id="0", usage=Usage(), duration=timedelta(days=36_500), session_id="s-0")
        # In all more microseconds than 64 bits hold, of no session alone.
        content.query(
            f"INSERT INTO usage_records (namespace, record_id, session_id, {others})"
            f" SELECT namespace, CAST(n AS text), 's-' || mod(n, 40), {others}"
            " FROM usage_records, generate_series(1, 3999) AS n"
        )
        clock.advance(days=2)
        for days in (4_000 * 36_500, 100 * 36_500):
            store.sweep()
            assert store.usage.totals().duration == timedelta(days=days)
            content.query("DELETE FROM usage_records WHERE session_id <> 's-0'")
