"""Revision 0004: the report views show nobody what the tables do not, and keep what stands on them."""

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from statestore import StateStore, migrate
from statestore.schema import VIEWS
from tests.migrations.databases import connected, insert_conversation, prefix, row_counts, rows, structure


@pytest.fixture
def tenant(postgres_url: str) -> str:
    """The URL of a role that row-level security shows the namespace `mine` alone."""
    name = "tenant_" + str(make_url(postgres_url).database).rpartition("_")[2]
    with connected(postgres_url) as connection:
        for statement in (
            f"CREATE ROLE {name} LOGIN PASSWORD 'secret'",
            f"GRANT USAGE ON SCHEMA statestore TO {name}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA statestore TO {name}",
        ):
            connection.exec_driver_sql(statement)
        tables = connection.exec_driver_sql(
            "SELECT table_name FROM information_schema.columns JOIN information_schema.tables USING (table_schema,"
            " table_name) WHERE table_schema = 'statestore' AND column_name = 'namespace' AND table_type = 'BASE TABLE'"
        ).scalars()
        for table in tables.all():
            connection.exec_driver_sql(f"ALTER TABLE statestore.{table} ENABLE ROW LEVEL SECURITY")
            connection.exec_driver_sql(f"CREATE POLICY mine ON statestore.{table} USING (namespace = 'mine')")
    yield make_url(postgres_url).set(username=name, password="secret").render_as_string(hide_password=False)
    with connected(postgres_url) as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {name}")
        connection.exec_driver_sql(f"DROP ROLE {name}")


def fill(url: str) -> None:
    for namespace in ("mine", "theirs"):
        with StateStore.open(url, namespace=namespace) as store:
            store.history.append("s", [{"role": "user", "content": "x"}], create=True)
            store.history.append("s", [{"role": "tool", "tool_call_id": "c", "content": "y"}])
            store.sessions.fork("s", "f")
            store.cache.set("k", 1)
            store.state.set("s", "k", 1)
            store.state.set("s", "over", 1)
    with connected(url) as connection:
        connection.exec_driver_sql("UPDATE statestore.state_entries SET expires_at = now() WHERE key = 'over'")
        connection.exec_driver_sql("UPDATE statestore.cache_entries SET expires_at = now(), keep_until = now()")


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_a_role_only_what_row_level_security_lets_it_see(
    postgres_url: str, tenant: str, view: str
) -> None:
    fill(postgres_url)
    query = f"SELECT DISTINCT namespace FROM statestore.{view} ORDER BY 1"
    assert rows(postgres_url, query) == [("mine",), ("theirs",)]
    assert rows(tenant, query) == [("mine",)]


def test_what_stands_on_the_views_stays(empty_database_url: str) -> None:
    """An analyst's own view and grants live through the migration, both ways."""
    url = empty_database_url
    migrate.upgrade(url, "0003")
    with connected(url) as connection:
        connection.exec_driver_sql(f"CREATE VIEW days AS SELECT day FROM {prefix(url)}usage_by_day")
        if url.startswith("postgresql"):
            connection.exec_driver_sql("CREATE VIEW depths AS SELECT depth FROM statestore.session_lineage")
            connection.exec_driver_sql("GRANT SELECT ON statestore.session_lineage TO PUBLIC")
    before = structure(url)
    insert_conversation(url)
    counts = row_counts(url)
    migrate.upgrade(url)
    assert row_counts(url) == counts
    assert rows(url, f"SELECT session_id, depth FROM {prefix(url)}session_lineage ORDER BY 1") == [("f", 1), ("s", 0)]
    migrate.downgrade(url, "0003")
    assert structure(url) == before
    assert row_counts(url) == counts
    migrate.upgrade(url)
    rows(url, "SELECT day FROM days")
    if url.startswith("postgresql"):
        assert len(rows(url, "SELECT depth FROM depths")) == 2
        grants = "SELECT relacl::text LIKE '%=r/%' FROM pg_class WHERE relname = 'session_lineage'"
        assert rows(url, grants) == [(True,)]


def test_only_our_tables_note_changes_for_the_sums(postgres_url: str, tenant: str) -> None:
    """The functions of the triggers have their owner's rights: nobody may call them from a table of their own."""
    name = make_url(tenant).username
    with connected(postgres_url) as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA own_{name} AUTHORIZATION {name}")
    with connected(tenant) as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE own_{name}.t (namespace text, session_id text, created_at timestamptz)"
        )
    calling = f"CREATE TRIGGER t AFTER INSERT ON own_{name}.t FOR EACH ROW EXECUTE FUNCTION"
    for function in ("late", "sessions", "truncated", "history_entries"):
        with pytest.raises(DBAPIError, match="permission denied for function"), connected(tenant) as connection:
            connection.exec_driver_sql(f"{calling} statestore.usage_rollup_note_{function}()")
