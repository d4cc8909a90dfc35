"""No operation that a request makes reads a table from end to end: in small tables with statistics, and without any."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from benchmarks import big, grown
from statestore import StateStore

ENTRIES = 20_000


@pytest.fixture(params=["analyzed", "never analyzed"])
def url(request: pytest.FixtureRequest, database_url: str) -> str:
    """A small database, filled by SQL, in which each table has rows."""
    analyzed = request.param == "analyzed"
    if not database_url.startswith("sqlite"):
        with psycopg.connect(database_url, autocommit=True) as connection:
            for table in big.TABLES:
                connection.execute(f"ALTER TABLE statestore.{table} SET (autovacuum_enabled = false)".encode())
    grown.grow(database_url, ENTRIES, analyze=analyzed, cached=5_000)
    others = (
        "INSERT INTO {0}summaries (namespace, session_id, start_seq, end_seq, content, created_at)"
        " SELECT namespace, session_id, 1, 1, 'x', created_at FROM {0}sessions",
        "INSERT INTO {0}session_lists (namespace, session_id, name, created_at, updated_at)"
        " SELECT namespace, session_id, 'l', created_at, created_at FROM {0}sessions",
        "INSERT INTO {0}session_list_items (namespace, session_id, name, position, value, created_at)"
        " SELECT namespace, session_id, 'l', 1, '1', created_at FROM {0}sessions",
        "INSERT INTO {0}session_segments (namespace, session_id, from_seq, to_seq, owner_session_id)"
        " SELECT namespace, session_id, 1, 1, 'grown-0' FROM {0}sessions WHERE session_id > 'grown-3'",
        "INSERT INTO {0}cache_tags (namespace, tag, version, key)"
        " SELECT namespace, 'tag', version, key FROM {0}cache_entries",
    )
    if database_url.startswith("sqlite"):
        with closing(sqlite3.connect(Path(database_url.removeprefix("sqlite:///")))) as connection:
            for other in others:
                connection.execute(other.format(""))
            if analyzed:
                connection.execute("ANALYZE")
            connection.commit()
    else:
        with psycopg.connect(database_url, autocommit=True) as connection:
            for other in others:
                connection.execute(other.format("statestore.").encode())
            if analyzed:
                connection.execute("ANALYZE")
    return database_url


def test_no_operation_of_a_request_reads_a_table_from_end_to_end(url: str) -> None:
    with StateStore.open(url, cache_max_entries=None) as store:
        raw = big.Raw(url)
        try:
            found = {}
            for name, (operation, _) in big.works(store, raw, 1).items():
                for number in range(8):  # psycopg prepares it then.
                    with big.statements(store) as seen:
                        operation(f"grown-{number + 1}", number)
                    if number not in (0, 7):
                        continue
                    scanned = big.scans(url, seen) + big.scans(url, seen, generic=True)
                    if scanned:
                        found[name] = sorted(set(scanned))
            assert found == {}
        finally:
            raw.subject.close()
