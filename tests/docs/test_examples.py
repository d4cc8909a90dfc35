"""The examples on each page run, one after the other, twice."""

import os
import re
import shlex
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from statestore import NewEntry, StateStore, Usage, doctor, migrate
from statestore.migrate import engine_for
from statestore.operations.base import Group
from tests.cli.conftest import resolved
from tests.docs.pages import CHECKOUT, PAGES, blocks, name_of
from tests.support.warm import programs

# What a page may take for granted: a store that is open.
BEFORE = """
from datetime import timedelta
from statestore import StateStore
store = StateStore.open("sqlite:///agents.db")
"""
JOINED = "postgresql+psycopg://app@localhost/app"
OPERATIONS = CHECKOUT / "docs" / "operations.md"
GUIDES = CHECKOUT / "docs" / "guides"
START = CHECKOUT / "docs" / "start.md"
# Code that only runs in its place has a test of its own below.
ELSEWHERE = {"docs/guides/alembic.md", "docs/guides/fastapi.md", "docs/replicas.md"}

# What a vendor's SDK returns, as far as an example goes.
VENDORS = {
    "openai": """
class OpenAI:
    def __init__(self):
        self.chat = self.completions = self
    def create(self, model, messages):
        assert messages[-1]["role"] == "user"
        message = {"role": "assistant", "content": "In the afternoon."}
        return {"id": "r", "object": "chat.completion", "created": 1, "model": model,
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}
""",
    "anthropic": """
class Anthropic:
    def __init__(self):
        self.messages = self
    def create(self, model, max_tokens, messages):
        assert messages[-1]["role"] == "user"
        return {"id": "m", "type": "message", "role": "assistant", "model": model, "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "In the afternoon."}],
            "usage": {"input_tokens": 9, "output_tokens": 4}}
""",
}


def run(code: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STATESTORE_")}
    path = os.pathsep.join([str(folder / "vendors"), *sys.path])
    done = subprocess.run(
        [programs() / "python", "-c", code],
        cwd=folder,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vendors").mkdir()
    for name, code in VENDORS.items():
        (tmp_path / "vendors" / f"{name}.py").write_text(code)
    return tmp_path


HERE = [page for page in PAGES if blocks(page, "python") and name_of(page) not in ELSEWHERE]


@pytest.mark.parametrize("page", HERE, ids=name_of)
def test_the_examples_of_a_page_run(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    code = "\n".join([BEFORE, *blocks(page, "python")])
    if JOINED in code:
        url = request.getfixturevalue("postgres_url")
        with engine_for(url).begin() as connection:
            connection.execute(text("CREATE TABLE bookings (session_id text)"))
        code = code.replace(JOINED, url.replace("postgresql://", "postgresql+psycopg://"))
    run(code, folder)
    if JOINED in "\n".join(blocks(page, "python")):
        assert_booked(url)


def shown(name: str) -> bool:
    """Whether the page of operations shows an operation being called."""
    code = "\n".join(blocks(OPERATIONS, "python"))
    return re.search(rf"(?<![.\w])(store|tx|StateStore)\.{re.escape(name)}\(", code) is not None


def test_the_page_of_operations_shows_each_of_them(tmp_path: Path) -> None:
    with StateStore.open(f"sqlite:///{tmp_path}/a.db") as store:
        members = {name: getattr(store, name) for name in dir(store) if not name.startswith("_")}
    groups = {name: member for name, member in members.items() if isinstance(member, Group)}
    operations = {name for name, member in members.items() if callable(member)}
    operations |= {f"{group}.{name}" for group in groups for name in dir(groups[group]) if not name.startswith("_")}
    # In one sentence: users and agents have what sessions have.
    alike = {name for name in operations if re.match(r"(user|app)_state\.", name)}
    assert {re.sub(r"^(user|app)_", "", name) for name in alike} <= operations
    assert sorted(name for name in operations - alike if not shown(name)) == []


def assert_booked(url: str) -> None:
    with engine_for(url).connect() as connection:
        assert connection.execute(text("SELECT session_id FROM bookings")).scalars().all() == ["chat-7"]
    with StateStore.open(url) as store:
        assert store.history.messages("chat-7")[-1] == {"role": "tool", "content": "booked"}


def test_the_example_of_join_in_the_guide_to_alembic_runs(postgres_url: str, folder: Path) -> None:
    *_, joined = blocks(GUIDES / "alembic.md", "python")
    with engine_for(postgres_url).begin() as connection:
        connection.execute(text("CREATE TABLE bookings (session_id text)"))
    run(joined.replace(JOINED, postgres_url.replace("postgresql://", "postgresql+psycopg://")), folder)
    assert_booked(postgres_url)


def follow_twice(page: Path, folder: Path, *, database: str) -> None:
    """Each example by itself, as somebody does who pastes one after the other, and then the commands."""
    commands = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("statestore ")]
    assert len(commands) >= 4
    for _ in range(2):
        for block in blocks(page, "python"):
            run(block, folder)
        for command in commands:
            done = subprocess.run(
                [programs() / "statestore", *shlex.split(command)[1:]],
                cwd=folder,
                env={**os.environ, "STATESTORE_URL": f"sqlite:///{database}"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (command, done.stderr)
            assert "error" not in done.stderr  # What was written is said there, too.


def test_the_readme_can_be_followed_twice(folder: Path) -> None:
    follow_twice(CHECKOUT / "README.md", folder, database="agents.db")


def test_start_in_five_minutes_can_be_followed_twice(folder: Path) -> None:
    follow_twice(START, folder, database="start.db")
    with StateStore.open(f"sqlite:///{folder}/start.db") as store:
        assert store.history.count("user-42") == 4
        assert store.usage.totals(session_id="openai-1").output_tokens == 8
        assert store.usage.totals(session_id="anthropic-1").output_tokens == 8


def test_the_first_example_of_the_readme_prints_what_is_below_it(folder: Path) -> None:
    readme = CHECKOUT / "README.md"
    assert run(blocks(readme, "python")[0], folder) == blocks(readme, "text")[0]
    assert run(blocks(readme, "python")[0], folder) == blocks(readme, "text")[0]


def test_the_fastapi_example_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("fastapi.testclient")
    monkeypatch.setenv("STATESTORE_URL", f"sqlite:///{folder}/web.db")
    [code] = blocks(GUIDES / "fastapi.md", "python")
    names: dict[str, Any] = {"__name__": "application"}
    exec(compile(code, "fastapi.md", "exec"), names)
    with client.TestClient(names["app"]) as web:
        for _ in range(2):
            asked = web.post("/chats/walk", json={"user": "ada", "text": "Is Saturday good?"})
            assert (asked.status_code, asked.text) == (200, "In the morning, yes.")
        said = web.get("/chats/ada/walk").json()
        assert [message["role"] for message in said] == ["user", "assistant"] * 2
        assert web.get("/chats/bob/walk").status_code == 404


def test_the_alembic_examples_work_in_a_host(empty_database_url: str, folder: Path) -> None:
    in_env, in_migration, *_ = blocks(GUIDES / "alembic.md", "python")
    (folder / "versions").mkdir()
    (folder / "env.py").write_text(f"""
from alembic import context
from sqlalchemy import MetaData, NullPool
from statestore.migrate import engine_for
target_metadata = MetaData()
with engine_for(context.config.get_main_option("sqlalchemy.url")).connect() as connection:
{"".join(f"    {line}" + chr(10) for line in in_env.splitlines())}
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
""")
    template = 'revision = "${up_revision}"\ndown_revision = ${repr(down_revision)}\n\n\n'
    (folder / "script.py.mako").write_text(template + 'def upgrade():\n    ${upgrades if upgrades else "pass"}\n')
    (folder / "versions" / "1_first.py").write_text(f'revision = "1"\ndown_revision = None\n{in_migration}')
    url = empty_database_url.replace("%", "%%")
    (folder / "alembic.ini").write_text(f"[alembic]\nscript_location = .\nsqlalchemy.url = {url}\n")

    def alembic(*arguments: str) -> None:
        command = [programs() / "python", "-m", "alembic", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    alembic("upgrade", "head")
    assert migrate.differences(empty_database_url) == []
    alembic("revision", "--autogenerate", "--rev-id", "2", "-m", "second")
    [made] = (folder / "versions").glob("2_*.py")
    assert "drop" not in made.read_text()
    alembic("downgrade", "base")
    assert migrate.current(empty_database_url) is None


def test_the_roles_of_the_guide_suffice_and_are_not_too_many(empty_postgres_url: str) -> None:
    before, after = blocks(GUIDES / "production.md", "sql")
    admin = engine_for(empty_postgres_url)
    roles = re.findall(r"CREATE ROLE (\w+)", before)
    assert len(roles) == 4
    try:
        with admin.begin() as connection:
            connection.exec_driver_sql(before.replace(" LOGIN;", " LOGIN PASSWORD 'secret';"))
        migrator, app, sweeper, reporter = (_as(empty_postgres_url, role) for role in roles)
        migrate.upgrade(migrator)
        with admin.begin() as connection:
            connection.exec_driver_sql(after)
        with StateStore.open(app, default_ttl=None) as store:
            store.history.append("s", [{"role": "user", "content": "Hi"}], create=True)
            store.sessions.create("over", ttl=_moment())
            store.state.set("s", "k", 1)
            store.cache.set("k", 1, ttl=_moment(), tags=["t"])
            store.sessions.fork("s", "fork")
            store.user_state.set("ada", "k", 1)
            with store.sessions.acquire("s", owner="me", ttl=_moment(60)):
                store.usage.record(record_id="r", usage=Usage(input_tokens=1), session_id="s")
            _wait()
        with StateStore.open(sweeper) as store:
            assert store.sweep()["expired_sessions"].rows == 1
        with StateStore.open(reporter) as store:
            assert store.usage.totals().entries == 1
            assert store.history.count("s") == 1
        for role, refused in (
            (app, "UPDATE statestore.statestore_alembic_version SET version_num = 'x'"),
            (app, "CREATE TABLE statestore.t (a int)"),
            (sweeper, "INSERT INTO statestore.sessions (session_id) VALUES ('x')"),
            (reporter, "DELETE FROM statestore.sessions"),
        ):
            with pytest.raises(Exception, match="permission denied"), engine_for(role).begin() as connection:
                connection.exec_driver_sql(refused)
        for role in (app, sweeper, reporter):
            [grants] = doctor.examine(role, only=["grants"]).findings
            assert grants.verdict == "ok", grants.message
    finally:
        with admin.begin() as connection:
            for role in roles:
                connection.exec_driver_sql(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_twenty_questions_in_sql(postgres_url: str) -> None:
    with StateStore.open(postgres_url) as store:
        store.sessions.create("user-42", user_id="ada", agent_name="guide")
        store.sessions.create("empty", user_id="bob")
        call = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look"}}]}
        used = {"usage": Usage(input_tokens=9, output_tokens=3, cache_read_input_tokens=4), "response_model": "small-1"}
        store.history.append(
            "user-42",
            [
                {"role": "user", "content": "Is it nice in Konstanz?"},
                NewEntry(call, **used, cost_usd=0.01),
                NewEntry(
                    {"role": "tool", "tool_call_id": "c", "content": "no"}, error_type="timeout", tool_name="look"
                ),
                NewEntry({"role": "assistant", "content": "Yes."}, **used),
            ],
        )
        store.sessions.fork("user-42", "fork", at_seq=1)
        store.state.set("user-42", "place", {"name": "Konstanz"})
        store.cache.set("k", 1)
        store.cache.get("k")
    questions = blocks(GUIDES / "sql_cookbook.md", "sql")
    assert len(questions) == 20
    with engine_for(postgres_url).connect() as connection:
        for question in questions:
            rows = connection.exec_driver_sql(question.replace("%", "%%")).fetchall()
            assert rows or "expiry_backlog" in question, question


@pytest.mark.parametrize("page", [GUIDES / "moving.md", GUIDES / "privacy.md", GUIDES / "production.md"], ids=name_of)
def test_the_command_lines_of_a_guide_exist(page: Path) -> None:
    found = re.findall(r"`(statestore [^`]*)`", page.read_text())
    found += [
        line.split(" ", 1)[1] if line.startswith("STATESTORE_URL=") else line
        for b in blocks(page, "sh")
        for line in b.splitlines()
    ]
    assert found
    for line in found:
        resolved(shlex.split(line)[1:])


def _as(url: str, role: str) -> str:
    return make_url(url).set(username=role, password="secret").render_as_string(hide_password=False)


def _moment(seconds: float = 0.001) -> Any:
    return timedelta(seconds=seconds)


def _wait() -> None:
    time.sleep(0.05)
