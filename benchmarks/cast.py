"""Who takes part."""

from benchmarks.workers import Role, Style, Subject


def _own(name: str, database: str, style: Style, role: Role, module: str, factory: str) -> Subject:
    return Subject(name, database, style, role, f"benchmarks.subjects.{module}", factory)


OWN = (
    _own("raw psycopg", "postgresql", "sync", "raw", "raw_postgresql", "RawPsycopg"),
    _own("statestore", "postgresql", "sync", "statestore", "own", "Statestore"),
    _own("raw psycopg, async", "postgresql", "async", "raw", "raw_postgresql", "RawAsyncPsycopg"),
    _own("statestore, async", "postgresql", "async", "statestore", "own", "AsyncStatestore"),
    _own("raw sqlite3", "sqlite", "sync", "raw", "raw_sqlite", "RawSqlite"),
    _own("statestore", "sqlite", "sync", "statestore", "own", "Statestore"),
    _own("raw aiosqlite", "sqlite", "async", "raw", "raw_sqlite", "RawAiosqlite"),
    _own("statestore, async", "sqlite", "async", "statestore", "own", "AsyncStatestore"),
)  # fmt: skip

UNCAPPED = (
    _own("statestore", "postgresql", "sync", "statestore", "own", "Uncapped"),
    _own("statestore, async", "postgresql", "async", "statestore", "own", "AsyncUncapped"),
    _own("statestore", "sqlite", "sync", "statestore", "own", "Uncapped"),
    _own("statestore, async", "sqlite", "async", "statestore", "own", "AsyncUncapped"),
)
"""The same with a cache for as many entries as one likes."""

AGAIN = (
    _own("raw psycopg again", "postgresql", "sync", "again", "raw_postgresql", "RawPsycopg"),
    _own("raw sqlite3 again", "sqlite", "sync", "again", "raw_sqlite", "RawSqlite"),
)
"""The same once more: how far from 1 their ratio is tells how far to trust the others."""


def _peer(name: str, package: str, database: str, style: Style, module: str, factory: str) -> Subject:
    return Subject(name, database, style, "peer", f"benchmarks.peers.{module}", factory, package)


PEERS = (
    _peer("openai-agents SQLAlchemySession", "openai-agents", "postgresql", "async", "openai_agents", "OverSQLAlchemy"),
    _peer("google-adk", "google-adk", "postgresql", "async", "google_adk", "Adk"),
    _peer("LangGraph saver", "langgraph-checkpoint-postgres", "postgresql", "sync", "langgraph", "PostgresCheckpoints"),
    _peer("LangGraph store", "langgraph-checkpoint-postgres", "postgresql", "sync", "langgraph", "PostgresValues"),
    _peer("langchain-postgres", "langchain-postgres", "postgresql", "sync", "langchain", "Postgres"),
    _peer("agno", "agno", "postgresql", "sync", "agno_db", "Postgres"),
    _peer("openai-agents SQLAlchemySession", "openai-agents", "sqlite", "async", "openai_agents", "OverSQLAlchemy"),
    _peer("openai-agents SQLiteSession", "openai-agents", "sqlite", "async", "openai_agents", "OverSqlite"),
    _peer("google-adk", "google-adk", "sqlite", "async", "google_adk", "Adk"),
    _peer("LangGraph saver", "langgraph-checkpoint-sqlite", "sqlite", "sync", "langgraph", "SqliteCheckpoints"),
    _peer("LangGraph store", "langgraph-checkpoint-sqlite", "sqlite", "sync", "langgraph", "SqliteValues"),
    _peer("langchain-community", "langchain-community", "sqlite", "sync", "langchain", "Community"),
    _peer("agno", "agno", "sqlite", "sync", "agno_db", "Sqlite"),
    _peer("diskcache", "diskcache", "file", "sync", "caches", "DiskCache"),
    _peer("dogpile.cache on redis", "dogpile.cache", "redis", "sync", "caches", "Dogpile"),
    _peer("redis-py", "redis", "redis", "sync", "caches", "Redis"),
)
