"""Revision 0005: rows stay, sub-agents that were imported before become parts, and a failed upgrade can be repeated."""

import pytest

from statestore import errors, migrate
from statestore.schema import HEAD_REVISION
from tests.migrations.conftest import ADD_COLUMN, AddMigration
from tests.migrations.databases import (
    CONVERSATION,
    connected,
    insert_conversation,
    prefix,
    row_counts,
    rows,
    structure,
)

NOW = "'2026-01-31T12:00:00.000000Z'"
NEW = ("shared_state", "session_lists", "session_list_items", "usage_records")


def insert_new(url: str) -> None:
    """A row of each table that 0005 adds."""
    t = prefix(url)
    with connected(url) as connection:
        for statement in (
            f"INSERT INTO {t}shared_state (namespace, scope, owner_id, key, value, created_at, updated_at)"
            f" VALUES ('n', 'user', 'u', 'k', '1', {NOW}, {NOW})",
            f"INSERT INTO {t}session_lists (namespace, session_id, name, created_at, updated_at)"
            f" VALUES ('n', 's', 'l', {NOW}, {NOW})",
            f"INSERT INTO {t}session_list_items (namespace, session_id, name, position, value, created_at)"
            f" VALUES ('n', 's', 'l', 1, '1', {NOW})",
            f"INSERT INTO {t}usage_records (namespace, record_id, created_at) VALUES ('n', 'r', {NOW})",
        ):
            connection.exec_driver_sql(statement)


def counts_of_new(url: str) -> list[int]:
    return [rows(url, f"SELECT count(*) FROM {prefix(url)}{table}")[0][0] for table in NEW]


def test_rows_of_new_tables_are_kept_when_a_table_is_rebuilt(database_url: str, add_migration: AddMigration) -> None:
    insert_conversation(database_url)
    insert_new(database_url)
    add_migration(ADD_COLUMN)
    for step in (migrate.upgrade, lambda url: migrate.downgrade(url, "0005"), migrate.upgrade):
        step(database_url)
        assert row_counts(database_url) == CONVERSATION
        assert counts_of_new(database_url) == [1, 1, 1, 1]


def test_rows_from_before_are_kept_up_and_down(empty_database_url: str) -> None:
    url = empty_database_url
    migrate.upgrade(url, "0004")
    before = structure(url)
    insert_conversation(url)
    migrate.upgrade(url)
    assert row_counts(url) == CONVERSATION
    insert_new(url)
    migrate.downgrade(url, "0004")
    assert row_counts(url) == CONVERSATION
    assert structure(url) == before
    migrate.upgrade(url)
    assert counts_of_new(url) == [0, 0, 0, 0]


def sub_agents(url: str) -> None:
    """Of each: id, agent, parent, forked at, whether it has a TTL, and when it ends."""
    sub, t = "claude-code/sub-agent", prefix(url)
    sessions: list[tuple[str, str | None, str | None, int | None, str | None]] = [
        ("top", "claude-code", None, None, None),
        ("part", sub, "top", 0, None),
        ("part with ttl", sub, "top", 0, "2999-01-01T00:00:00.000000Z"),
        ("over", sub, "top", 0, "2020-01-01T00:00:00.000000Z"),
        ("part of part", sub, "part", 0, None),
        ("fork", sub, "top", 3, None),
        ("other agent", "claude-code", "top", 0, None),
        ("orphan", sub, "gone", 0, None),
        ("of orphan", sub, "orphan", 0, None),
        ("circle", sub, "circle too", 0, None),
        ("circle too", sub, "circle", 0, None),
        ("ended", "claude-code", None, None, "2020-01-01T00:00:00.000000Z"),
        ("of ended", sub, "ended", 0, None),
    ]
    ttl = "1" if url.startswith("sqlite") else "interval '1 day'"
    with connected(url) as connection:
        for session_id, agent, parent, at, end in sessions:
            texts = [f"'{text}'" if text is not None else "NULL" for text in (agent, parent, end)]
            connection.exec_driver_sql(
                f"INSERT INTO {t}sessions (namespace, session_id, root_session_id, agent_name, parent_session_id,"
                f" expires_at, forked_at_seq, ttl, created_at, last_activity_at, active_hour) VALUES ('n',"
                f" '{session_id}', 'top', {', '.join(texts)}, {'NULL' if at is None else at},"
                f" {'NULL' if end is None else ttl}, {NOW}, {NOW}, {NOW})"
            )
        connection.exec_driver_sql(
            f"INSERT INTO {t}sessions (namespace, session_id, root_session_id, created_at, last_activity_at,"
            f" active_hour) VALUES ('m', 'gone', 'gone', {NOW}, {NOW}, {NOW})"
        )


def parts(url: str) -> list[tuple[str, str, bool]]:
    found = rows(
        url, f"SELECT session_id, belongs_to, ttl FROM {prefix(url)}sessions WHERE belongs_to IS NOT NULL ORDER BY 1"
    )
    return [(session_id, top, ttl is None) for session_id, top, ttl in found]


@pytest.mark.parametrize("joined", [False, True])
def test_sub_agents_become_parts_of_the_session_that_they_worked_for(empty_database_url: str, joined: bool) -> None:
    url = empty_database_url
    migrate.upgrade(url, "0004")
    sub_agents(url)
    if joined and url.startswith("postgresql"):
        with connected(url) as connection:
            migrate.upgrade(connection)
    else:
        migrate.upgrade(url)
    expected = [("part", "top", True), ("part of part", "top", True), ("part with ttl", "top", True)]
    assert sorted(parts(url)) == expected
    ended = f"SELECT count(*) FROM {prefix(url)}sessions WHERE expires_at IS NOT NULL"
    assert rows(url, ended) == [(2,)]
    forks = f"SELECT count(*) FROM {prefix(url)}sessions WHERE parent_session_id IS NOT NULL"
    before = rows(url, forks)
    migrate.downgrade(url, "0004")
    assert rows(url, forks) == before


def test_an_upgrade_that_failed_at_the_index_can_be_repeated(empty_postgres_url: str) -> None:
    url = empty_postgres_url
    migrate.upgrade(url, "0004")
    sub_agents(url)
    with connected(url) as connection:
        # Something that makes the update fail, after the transaction before it was committed.
        connection.exec_driver_sql(
            "CREATE FUNCTION statestore.fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE division_by_zero; END'"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER fail BEFORE UPDATE ON statestore.sessions FOR EACH ROW EXECUTE FUNCTION statestore.fail()"
        )
    with pytest.raises(errors.StateStoreError):
        migrate.upgrade(url)
    assert migrate.current(url) == "0004"
    with connected(url) as connection:
        connection.exec_driver_sql("DROP FUNCTION statestore.fail() CASCADE")
    migrate.upgrade(url)
    assert migrate.current(url) == HEAD_REVISION
    assert migrate.differences(url) == []
    assert len(parts(url)) == 3
