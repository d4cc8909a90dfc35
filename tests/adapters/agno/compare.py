"""Beside agno's own SqliteDb and PostgresDb."""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from agno.session import AgentSession

from statestore.adapters.agno import AsyncStatestoreDb, StatestoreDb
from tests.adapters.agno.fake import made_run


def _session(session_id: str, user_id: str = "ada") -> AgentSession:
    data = {"session_name": f"Walks of {session_id}", "session_state": {"changed": str(uuid.uuid4())}}
    return AgentSession(
        session_id=session_id, agent_id="guide", user_id=user_id, session_data=data, created_at=int(time.time())
    )


def _operations(db: Any, async_db: Any) -> Mapping[str, Callable[[], Any]]:
    for number in range(40):
        db.upsert_session(_session(f"listed {number}"))
    for one in ("long", "growing", "turned"):
        db.upsert_session(_session(one, "bob"))
    for number in range(20):
        db.upsert_run(made_run(f"long {number}"), "long", user_id="bob", run_index=number)

    def turn() -> None:
        session = db.get_session("turned", user_id="bob", runs_limit=3)
        db.upsert_run(made_run(str(uuid.uuid4())), "turned", user_id="bob")
        db.upsert_session(session)

    def delete() -> None:
        db.upsert_session(_session("deleted"))
        db.delete_session("deleted")

    return {
        "get_session (20 runs)": lambda: db.get_session("long", user_id="bob"),
        "get_session (its last 3 runs)": lambda: db.get_session("long", user_id="bob", runs_limit=3),
        "get_session, awaited (20 runs)": lambda: async_db.get_session("long", user_id="bob"),
        "upsert_session": lambda: db.upsert_session(_session("long", "bob")),
        "upsert_run, a new one": lambda: db.upsert_run(made_run(str(uuid.uuid4())), "growing", user_id="bob"),
        "upsert_run, one that goes on": lambda: db.upsert_run(made_run("long 0", str(uuid.uuid4())), "long"),
        "a turn: get, upsert_run, upsert": turn,
        "get_sessions (20 of 40, total)": lambda: db.get_sessions(
            user_id="ada", limit=20, page=2, sort_by="created_at", deserialize=False, include_runs=False
        ),
        "get_sessions, with runs": lambda: db.get_sessions(user_id="bob", limit=20),
        "rename_session": lambda: db.rename_session("listed 1", None, str(uuid.uuid4())),
        "upsert_session, delete_session": delete,
    }


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Mapping[str, Callable[[], Any]]]:
    db, async_db = StatestoreDb(url), AsyncStatestoreDb(url)
    yield _operations(db, async_db)
    db.close()
    await async_db.close()


@asynccontextmanager
async def theirs(url: str) -> AsyncIterator[Mapping[str, Callable[[], Any]]]:
    db: Any
    async_db: Any
    if url.startswith("sqlite"):
        from agno.db.sqlite import AsyncSqliteDb, SqliteDb

        db, async_db = SqliteDb(db_url=url), AsyncSqliteDb(db_url=url.replace("sqlite:", "sqlite+aiosqlite:"))
    else:
        from agno.db.postgres import AsyncPostgresDb, PostgresDb

        own_driver = url.replace("postgresql:", "postgresql+psycopg:")
        db, async_db = PostgresDb(db_url=own_driver), AsyncPostgresDb(db_url=own_driver)
    yield _operations(db, async_db)
    db.close()
    await async_db.close()
