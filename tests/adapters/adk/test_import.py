"""From the database of ADK's own DatabaseSessionService, on which the framework has written."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions.base_session_service import BaseSessionService
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.adk.sessions.session import Session
from google.genai import types
from sqlalchemy import text

from statestore import InvalidValueError, NewEntry, StateStore
from statestore.adapters.adk import StatestoreSessionService, statestore_id
from statestore.engine.migration_targets import engine_for
from statestore.importers import Problem, adk
from tests.conftest import POSTGRESQL, SQLITE
from tests.postgres import PostgresServer

NAMES = [("travel", "ada", "s:1"), ("travel", "bob", "s:1"), ("books", "ada", "empty")]
THERE = statestore_id(*NAMES[0])


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def source_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'adk.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.database() as name:
        yield server.url(name)


@pytest.fixture
async def theirs(source_url: str) -> AsyncIterator[DatabaseSessionService]:
    driver = "postgresql+asyncpg" if source_url.startswith("postgresql") else "sqlite+aiosqlite"
    async with DatabaseSessionService(f"{driver}:{source_url.split(':', 1)[1]}") as service:
        yield service


@pytest.fixture
def store(sqlite_url: str) -> Iterator[StateStore]:
    """On SQLite only: where it is stored makes no difference to what is read."""
    with StateStore.open(sqlite_url) as store:
        yield store


async def write(service: BaseSessionService) -> None:
    for app, user, session_id in NAMES:
        state = {"own": session_id, "app:a": app, "user:u": user}
        session = await service.create_session(app_name=app, user_id=user, session_id=session_id, state=state)
        if session_id != "empty":
            for n in range(5):
                await service.append_event(session, event(n))


def event(n: int, at: float = 1_700_000_000.25) -> Event:
    """Two at a time have the same time: then their ids decide."""
    parts = [types.Part(text=f"No. {n}"), types.Part.from_bytes(data=b"\x00\xff", mime_type="image/png")]
    used = types.GenerateContentResponseUsageMetadata(prompt_token_count=10, candidates_token_count=1)
    return Event(
        id=f"e{n}",
        invocation_id="i",
        author="planner" if n % 2 else "user",
        timestamp=at + n // 2,
        content=types.Content(role="model", parts=parts),
        usage_metadata=used if n % 2 else None,
        actions=EventActions(state_delta={"n": n, "user:n": n, "none": None}),
    )


async def read(service: BaseSessionService) -> list[dict[str, Any]]:
    found: list[Session | None] = [
        await service.get_session(app_name=app, user_id=user, session_id=session_id) for app, user, session_id in NAMES
    ]
    return [one.model_dump() for one in found if one is not None]


async def imported(store: StateStore, url: str, **options: Any) -> Any:
    return await asyncio.to_thread(adk, store, url, **options)


async def test_what_adk_has_written_is_read_through_the_adapter(
    theirs: DatabaseSessionService, source_url: str, store: StateStore, sqlite_url: str
) -> None:
    await write(theirs)
    read_so_far: list[int] = []
    report = await imported(store, source_url, progress=read_so_far.append)
    assert (report.sessions, report.entries, report.added, report.failed) == (3, 10, 10, 0)
    assert report.complete
    assert sum(read_so_far) == 10
    async with StatestoreSessionService(sqlite_url) as ours:
        assert await read(ours) == await read(theirs)
        listed = [
            [
                (one.id, one.state, one.last_update_time)
                for one in (await service.list_sessions(app_name="travel")).sessions
            ]
            for service in (ours, theirs)
        ]
        assert listed[0] == listed[1]
        assert await ours.get_user_state(app_name="travel", user_id="ada") == {"u": "ada", "n": 4}
    entries = store.history.read(THERE)
    assert [one.created_at for one in entries] == [
        datetime.fromtimestamp(1_700_000_000.25 + n // 2, UTC) for n in range(5)
    ]
    assert (store.usage.totals().model_calls, store.usage.totals().input_tokens) == (4, 40)
    assert store.sessions.delete_user("ada").sessions == 2


async def test_a_second_import_adds_what_is_new_and_keeps_what_was_written_here(
    theirs: DatabaseSessionService, source_url: str, store: StateStore, sqlite_url: str
) -> None:
    await write(theirs)
    await imported(store, source_url)
    again = await imported(store, source_url)
    assert (again.sessions, again.unchanged, again.added, again.complete) == (3, 3, 0, True)
    assert store.usage.totals().input_tokens == 40

    app, user, session_id = NAMES[0]
    session = await theirs.get_session(app_name=app, user_id=user, session_id=session_id)
    assert session is not None
    later = datetime.now(UTC).timestamp() + 100
    await theirs.append_event(session, event(7, at=later))
    store.state.set(statestore_id(*NAMES[1]), "own", "changed here")
    third = await imported(store, source_url)
    assert (third.added, third.unchanged, third.complete) == (1, 2, True)
    assert store.state.get(THERE, "n") == 7
    assert store.state.get(statestore_id(*NAMES[1]), "own") == "changed here"
    async with StatestoreSessionService(sqlite_url) as ours:
        session = await ours.get_session(app_name=app, user_id=user, session_id=session_id)
        assert session is not None
        await ours.append_event(session, event(9, at=later))
    assert (await imported(store, source_url)).complete


async def test_state_of_users_and_apps_that_was_written_last_stays(
    theirs: DatabaseSessionService, source_url: str, store: StateStore
) -> None:
    """ADK has their times from the server, in its time zone: here half past five ahead."""
    await write(theirs)
    await imported(store, source_url)
    store.user_state.set("ada", "travel:u", "here")
    store.app_state.set("travel", "a", "here")
    await imported(store, source_url)
    assert (store.user_state.get("ada", "travel:u"), store.app_state.get("travel", "a")) == ("here", "here")
    if source_url.startswith("postgresql"):
        with engine_for(source_url).begin() as connection:
            name = source_url.rpartition("/")[2]
            connection.execute(text(f"ALTER DATABASE {name} SET timezone = 'America/Los_Angeles'"))
        change = "UPDATE user_states SET state = :state, update_time = now() WHERE user_id = 'ada'"
        with engine_for(source_url).begin() as connection:
            connection.execute(text(change), {"state": '{"u": "there"}'})
        await imported(store, source_url)
        assert store.user_state.get("ada", "travel:u") == "there"


async def test_sessions_that_differ_are_named(
    theirs: DatabaseSessionService, source_url: str, store: StateStore
) -> None:
    await write(theirs)
    await imported(store, source_url)
    store.history.replace(THERE, 2, NewEntry({"author": "user", "changed": True}))
    report = await imported(store, source_url)
    assert report.differing == (THERE,)
    assert not report.complete


async def test_what_cannot_be_stored_is_reported_and_the_rest_comes(
    theirs: DatabaseSessionService, source_url: str, store: StateStore
) -> None:
    await write(theirs)
    await theirs.create_session(app_name="books", user_id="ada", session_id="empty key", state={"": 1})
    problems: list[Problem] = []
    report = await imported(store, source_url, on_problem=problems.append)
    assert (report.sessions, report.failed, report.complete) == (4, 1, False)
    assert "1 to 512" in problems[0].reason
    with pytest.raises(InvalidValueError, match="1 to 512"):
        await imported(store, source_url)


@pytest.mark.parametrize(
    "content",
    [
        {"timestamp": "now"},
        {"content": "hello"},
        {"content": {"parts": [None]}},
        {"content": {"parts": [{"function_call": "look_up"}]}},
        {"usage_metadata": "many"},
    ],
)
async def test_an_event_of_another_form_keeps_its_session_out_and_no_other(
    theirs: DatabaseSessionService, source_url: str, store: StateStore, content: dict[str, Any]
) -> None:
    await write(theirs)
    data = json.dumps({"id": "e2", "author": "user", "timestamp": 1_700_000_000, "actions": {}, **content})
    async with theirs.db_engine.begin() as connection:
        await connection.execute(
            text("UPDATE events SET event_data = :data WHERE id = 'e2' AND user_id = 'ada'"), {"data": data}
        )
    problems: list[Problem] = []
    report = await imported(store, source_url, on_problem=problems.append)
    assert (report.sessions, report.failed) == (2, 1)
    assert problems[0].reason == "event 'e2': does not have the form that ADK gives it"


def test_pickled_events_are_refused_and_not_looked_at(store: StateStore, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE sessions (app_name, user_id, id, state, create_time, update_time)")
    connection.execute("CREATE TABLE events (id, app_name, user_id, session_id, timestamp, actions BLOB)")
    connection.close()
    with pytest.raises(InvalidValueError, match="pickled; run its `adk migrate session` first"):
        adk(store, path)


@pytest.mark.parametrize("version", [None, "2"])
def test_other_versions_are_refused(store: StateStore, tmp_path: Path, version: str | None) -> None:
    path = tmp_path / "new.db"
    connection = sqlite3.connect(path)
    for table in ("sessions", "user_states", "app_states", "events"):
        connection.execute(f"CREATE TABLE {table} (id, event_data)")
    connection.execute("CREATE TABLE adk_internal_metadata (key, value)")
    if version is not None:
        connection.execute("INSERT INTO adk_internal_metadata VALUES ('schema_version', ?)", [version])
    connection.commit()
    connection.close()
    with pytest.raises(InvalidValueError, match="only version 1 can be read"):
        adk(store, path)


def test_a_database_of_something_else_is_refused(store: StateStore, sqlite_url: str) -> None:
    with pytest.raises(InvalidValueError, match="is it a database of Google's ADK"):
        adk(store, sqlite_url)
