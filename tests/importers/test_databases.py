"""The source of an import is another database: opened read-only, read in pages, and compared with what is stored."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from statestore import DatabaseError, InvalidValueError, NewEntry, NewSession, ReadOnlyError, StateStore
from statestore.adapters.layouts.agno import DATA, KINDS
from statestore.engine.migration_targets import engine_for
from statestore.importers import Problem, agno, openai_agents
from statestore.importers.databases import Import, importing, opened
from statestore.importers.source_values import time_of
from tests.cli.conftest import CommandLine
from tests.conftest import POSTGRESQL, SQLITE
from tests.postgres import PostgresServer

TABLES = [
    "CREATE TABLE agent_sessions (session_id varchar PRIMARY KEY, created_at timestamp, updated_at timestamp)",
    "CREATE TABLE agent_messages (id integer PRIMARY KEY, session_id varchar, message_data text, created_at timestamp)",
]
Execute = Callable[..., None]


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def source_url(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A database with the tables of the OpenAI Agents SDK, beside the store's."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'their agents?.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.database() as name:
        yield server.url(name)


@pytest.fixture
def execute(source_url: str) -> Execute:
    def run(*statements: str, rows: Sequence[dict[str, Any]] = ()) -> None:
        engine = engine_for(source_url)
        with engine.connect() as connection, connection.begin():
            for statement in statements:
                connection.execute(text(statement), list(rows) or None)

    run(*TABLES)
    return run


@pytest.fixture
def store(sqlite_url: str) -> Iterator[StateStore]:
    """On SQLite only: where it is stored makes no difference to what is read."""
    with StateStore.open(sqlite_url) as store:
        yield store


def begin(execute: Execute, session_id: str) -> None:
    execute(f"INSERT INTO agent_sessions VALUES ('{session_id}', '2025-01-02 03:04:05', '2025-01-02 03:04:05')")


def write(execute: Execute, session_id: str, *contents: Any, first: int = 1) -> None:
    rows = [{"id": first + n, "session": session_id, "data": json.dumps(content)} for n, content in enumerate(contents)]
    execute("INSERT INTO agent_messages VALUES (:id, :session, :data, '2025-01-02 03:04:06')", rows=rows)


def test_a_source_cannot_be_written(source_url: str, execute: Execute) -> None:
    with opened(source_url) as source, pytest.raises(ReadOnlyError), source._reading():
        source._connection.execute(text("INSERT INTO agent_sessions (session_id) VALUES ('x')"))


def test_pages_follow_the_whole_key(source_url: str, execute: Execute) -> None:
    execute("CREATE TABLE steps (run varchar, number integer, what varchar, PRIMARY KEY (run, number))")
    rows = [{"run": run, "number": number} for run in "abc" for number in (1, 2, 10)]
    execute("INSERT INTO steps VALUES (:run, :number, 'x')", rows=rows)
    with opened(source_url) as source:
        for page in (1, 2, 4, 9, 20):
            found = source.rows("steps", "what", key=("run", "number"), page=page)
            assert [(row["run"], row["number"], row["what"]) for row in found] == [
                (row["run"], row["number"], "x") for row in rows
            ]
        assert [row["number"] for row in source.rows("steps", key=("number",), where={"run": "b"})] == [1, 2, 10]
        assert source.columns("steps") == {"run", "number", "what"}
        assert "steps" in source.tables()


def test_json_columns_are_text_on_both_databases(source_url: str, execute: Execute) -> None:
    execute("CREATE TABLE kept (id integer, value json)", "INSERT INTO kept VALUES (1, '{\"n\": 1.0}')")
    with opened(source_url) as source:
        assert [row["value"] for row in source.rows("kept", "value", key=("id",))] == ['{"n": 1.0}']


def test_the_drivers_of_a_url_do_not_matter(source_url: str, execute: Execute) -> None:
    other = source_url.replace("postgresql://", "postgresql+asyncpg://").replace("sqlite://", "sqlite+aiosqlite://")
    with opened(other) as source:
        assert "agent_sessions" in source.tables()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite:///missing.db", "no SQLite file 'missing.db'"),
        ("missing.db", "no SQLite file 'missing.db'"),
        ("sqlite://", "no SQLite file ''"),
        ("mysql://host/agents", "mysql is not supported"),
        ("postgresql://a@b,c:x/d", "cannot be read"),
        ("", "is empty; is a variable not set"),
    ],
)
def test_what_is_no_source(url: str, problem: str) -> None:
    with pytest.raises(InvalidValueError, match=problem), opened(url):
        pass


def test_a_file_that_is_no_database(tmp_path: Path, store: StateStore) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Remember the milk. " * 100)
    with pytest.raises(DatabaseError, match=r"notes\.txt"):
        openai_agents(store, path)


def test_an_empty_file_is_a_database_of_something_else(tmp_path: Path, store: StateStore) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(InvalidValueError, match=r"has no table 'agent_messages'.*; is it a database of"):
        openai_agents(store, path)
    assert path.stat().st_size == 0


@pytest.mark.parametrize("table", ["agent_sessions", "agent_messages"])
def test_a_missing_column_is_named_with_its_table(
    table: str, source_url: str, store: StateStore, execute: Execute
) -> None:
    begin(execute, "a")
    missing = "created_at" if table == "agent_sessions" else "message_data"
    execute(f"ALTER TABLE {table} DROP COLUMN {missing}")
    with pytest.raises(DatabaseError, match=f"has no column '{missing}' in its table '{table}'; which version wrote"):
        openai_agents(store, source_url)


def test_a_missing_table_is_named(source_url: str, store: StateStore, execute: Execute) -> None:
    execute("DROP TABLE agent_sessions")
    with pytest.raises(InvalidValueError, match="has no table 'agent_sessions'; which version wrote"):
        openai_agents(store, source_url)


def test_of_two_databases_an_error_says_which_failed(source_url: str, sqlite_url: str, execute: Execute) -> None:
    begin(execute, "a")
    with opened(source_url) as source, source.snapshot(), pytest.raises(DatabaseError) as caught:
        source.rows_without("agent_sessions", "no such column")
    assert vars(caught.value)["source"] == source.name
    with engine_for(sqlite_url).connect() as connection:
        connection.execute(text("DROP TABLE sessions"))
    broken = StateStore.open(sqlite_url)
    with broken, pytest.raises(DatabaseError) as caught, opened(source_url) as source, source.snapshot():
        broken.sessions.exists("a")
    assert "source" not in vars(caught.value)


def test_a_database_of_something_else(source_url: str, store: StateStore, execute: Execute) -> None:
    execute("DROP TABLE agent_messages")
    with pytest.raises(InvalidValueError, match="no table 'agent_messages'"):
        openai_agents(store, source_url)


def test_times_are_utc_unless_they_say_otherwise() -> None:
    [one, two, three] = [time_of(t, "x") for t in ("2025-01-02 03:04:05", "2025-01-02T04:04:05+01:00", 1735787045)]
    assert one == two == three
    assert time_of(None, "x") is None
    for bad in ("yesterday", 1e30, b"1"):
        with pytest.raises(InvalidValueError, match="x"):
            time_of(bad, "x")


def test_an_import_adds_what_is_new_and_nothing_twice(source_url: str, store: StateStore, execute: Execute) -> None:
    begin(execute, "a")
    begin(execute, "b")
    write(execute, "a", *({"role": "user", "content": f"{n} \ud83d"} for n in range(1100)))
    counted: list[int] = []
    report = openai_agents(store, source_url, progress=counted.append)
    assert (report.sessions, report.entries, report.added, report.unchanged) == (2, 1100, 1100, 0)
    assert report.complete
    assert sum(counted) == 1100
    again = openai_agents(store, source_url)
    assert (again.added, again.unchanged, again.complete) == (0, 2, True)
    write(execute, "a", {"role": "user", "content": "more"}, first=2000)
    store.history.append("b", [{"role": "user", "content": "ours"}])
    more = openai_agents(store, source_url)
    assert (more.added, more.unchanged, more.complete) == (1, 1, True)
    [first] = store.history.read("a", limit=1)
    assert f"{first.created_at} {store.sessions.get('a').created_at}" == (
        "2025-01-02 03:04:06+00:00 2025-01-02 03:04:05+00:00"
    )


def test_a_branch_that_was_just_made_is_not_unchanged(source_url: str, store: StateStore, execute: Execute) -> None:
    begin(execute, "a")
    write(execute, "a", {"role": "user", "content": "x"}, {"role": "user", "content": "y"})
    columns = "id integer, session_id varchar, message_id integer, branch_id varchar, sequence_number integer"
    execute(
        f"CREATE TABLE message_structure ({columns})",
        "INSERT INTO message_structure VALUES (1, 'a', 1, 'main', 1), (2, 'a', 2, 'main', 2), (3, 'a', 1, 'other', 1)",
    )
    first, again = (openai_agents(store, source_url) for _ in range(2))
    assert (first.sessions, first.entries, first.unchanged, first.complete) == (2, 3, 0, True)
    assert (again.sessions, again.entries, again.unchanged, again.complete) == (2, 3, 2, True)


def test_an_import_that_was_cut_off_is_completed(source_url: str, store: StateStore, execute: Execute) -> None:
    begin(execute, "a")
    write(execute, "a", *({"role": "user", "content": str(n)} for n in range(1200)))

    class Cut(Exception):
        pass

    def cut(entries: int) -> None:
        raise Cut

    with pytest.raises(Cut):
        openai_agents(store, source_url, progress=cut)
    assert store.history.count("a") == 500
    assert openai_agents(store, source_url).added == 700
    assert [entry.content["content"] for entry in store.history.iterate("a")] == [str(n) for n in range(1200)]


@pytest.mark.parametrize("change", ["popped", "edited", "appended", "edited there"])
def test_a_session_that_was_changed_on_one_side_is_named(
    change: str, source_url: str, store: StateStore, execute: Execute
) -> None:
    for session_id, first in (("a", 1), ("b", 10)):
        begin(execute, session_id)
        write(execute, session_id, *({"role": "user", "content": str(n)} for n in range(3)), first=first)
    openai_agents(store, source_url)
    match change:
        case "popped":
            execute("DELETE FROM agent_messages WHERE id = 2")
        case "edited":
            store.history.replace("a", 2, {"role": "user", "content": "else"})
        case "appended":
            store.history.append("a", [{"role": "user", "content": "ours"}])
            write(execute, "a", {"role": "user", "content": "theirs"}, first=20)
        case "edited there":
            execute("""UPDATE agent_messages SET message_data = '{"role": "user"}' WHERE id = 1""")
    report = openai_agents(store, source_url)
    assert report.differing == ("a",)
    assert not report.complete


def test_a_session_that_cannot_be_stored_is_reported(
    source_url: str, store: StateStore, execute: Execute, problems: list[Problem]
) -> None:
    for session_id, first in (("a", 1), ("b", 10)):
        begin(execute, session_id)
        write(execute, session_id, {"role": "user", "content": "x"}, first=first)
    execute("INSERT INTO agent_messages VALUES (5, 'a', 'not JSON', NULL)")
    report = openai_agents(store, source_url, on_problem=problems.append)
    assert (report.sessions, report.failed, report.complete) == (1, 1, False)
    [problem] = problems
    assert "session 'a'" in problem.source
    assert "item 5" in problem.reason
    with pytest.raises(InvalidValueError, match="session 'a': item 5: is not JSON"):
        openai_agents(store, source_url)


def test_a_time_that_is_none_keeps_its_session_out_and_no_other(
    sqlite_url: str, tmp_path: Path, problems: list[Problem]
) -> None:
    """On SQLite, whose columns may hold anything."""
    url = f"sqlite:///{tmp_path / 'theirs.db'}"
    with engine_for(url).connect() as connection:
        for statement in (*TABLES, "INSERT INTO agent_sessions VALUES ('a', 'soon', NULL), ('b', NULL, NULL)"):
            connection.execute(text(statement))
    with StateStore.open(sqlite_url) as store:
        report = openai_agents(store, url, on_problem=problems.append)
    assert (report.sessions, report.failed) == (1, 1)
    assert [str(problem.error) for problem in problems] == [f"{url}: session 'a': created_at: is not a time"]


def test_a_session_of_agno_is_named_once(source_url: str, store: StateStore, execute: Execute) -> None:
    columns = ("session_type", "user_id", "created_at", "updated_at", *(f"{kind}_id" for kind in KINDS), *DATA)
    execute(f"CREATE TABLE agno_sessions (session_id varchar PRIMARY KEY, {' text, '.join(columns)} text)")
    execute("INSERT INTO agno_sessions (session_id, session_data) VALUES ('s3', 'not JSON')")
    with pytest.raises(InvalidValueError) as caught:
        agno(store, source_url)
    assert ": session 's3': session_data: is not JSON" in str(caught.value)
    assert str(caught.value).count("s3") == 1


def test_a_session_of_another_user_is_left_as_it_is(source_url: str, store: StateStore, execute: Execute) -> None:
    store.sessions.create("s", user_id="bob")
    store.sessions.create("nobody's")
    problems: list[Problem] = []
    with opened(source_url) as source:
        bringing = Import(store, source, None, problems.append)
        for session_id in ("s", "nobody's"):
            entry = NewEntry({"from": "ada"}, entry_id="1", created_at=datetime.now(UTC))
            bringing.bring(session_id, NewSession(user_id="ada"), [entry])
    assert "another namespace" in problems[0].reason
    assert (bringing.report().sessions, bringing.report().failed) == (1, 1)
    assert [store.history.messages(one) for one in ("s", "nobody's")] == [[], [{"from": "ada"}]]


def test_an_import_needs_a_store(sqlite_url: str) -> None:
    with pytest.raises(InvalidValueError, match="store"), importing(object(), sqlite_url, None, None):  # type: ignore[arg-type]
        raise AssertionError("nothing is opened")


def test_the_command_says_what_it_did_and_fails_where_something_differs(
    source_url: str, sqlite_url: str, execute: Execute
) -> None:
    cli = CommandLine(sqlite_url)
    begin(execute, "a")
    write(execute, "a", {"role": "user", "content": "x"}, {"role": "user", "content": "y"})
    assert cli("import", "openai-agents", source_url).stdout == (
        "1 session with 2 entries: 2 entries added, 0 sessions unchanged\n"
    )
    assert json.loads(cli("import", "openai-agents", source_url, "--json").stdout) == {
        "sessions": 1, "entries": 2, "added": 0, "unchanged": 1, "failed": 0, "differing": [],
    }  # fmt: skip
    execute("DELETE FROM agent_messages WHERE id = 1", "INSERT INTO agent_sessions VALUES ('b', NULL, NULL)")
    execute("INSERT INTO agent_messages VALUES (5, 'b', 'not JSON', NULL)")
    failed = cli("import", "openai-agents", source_url, code=1)
    assert failed.stdout == "1 session with 1 entry: 0 entries added, 1 session unchanged\n"
    assert "session 'a' differs from the source" in failed.stderr
    assert "session 'b': item 5: is not JSON" in failed.stderr
    assert "error: 1 session could not be imported and 1 session not as in the source; see above" in failed.stderr
