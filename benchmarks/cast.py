"""Who takes part."""

from benchmarks.workers import Style, Subject

OWN = (
    Subject("raw psycopg", "postgresql", "sync", "raw", "benchmarks.subjects.raw_postgresql", "RawPsycopg"),
    Subject("statestore", "postgresql", "sync", "statestore", "benchmarks.subjects.own", "Statestore"),
    Subject("raw psycopg, async", "postgresql", "async", "raw", "benchmarks.subjects.raw_postgresql", "RawAsyncPsycopg"),
    Subject("statestore, async", "postgresql", "async", "statestore", "benchmarks.subjects.own", "AsyncStatestore"),
    Subject("raw sqlite3", "sqlite", "sync", "raw", "benchmarks.subjects.raw_sqlite", "RawSqlite"),
    Subject("statestore", "sqlite", "sync", "statestore", "benchmarks.subjects.own", "Statestore"),
    Subject("raw aiosqlite", "sqlite", "async", "raw", "benchmarks.subjects.raw_sqlite", "RawAiosqlite"),
    Subject("statestore, async", "sqlite", "async", "statestore", "benchmarks.subjects.own", "AsyncStatestore"),
)  # fmt: skip

UNCAPPED = (
    Subject("statestore", "postgresql", "sync", "statestore", "benchmarks.subjects.own", "Uncapped"),
    Subject("statestore, async", "postgresql", "async", "statestore", "benchmarks.subjects.own", "AsyncUncapped"),
    Subject("statestore", "sqlite", "sync", "statestore", "benchmarks.subjects.own", "Uncapped"),
    Subject("statestore, async", "sqlite", "async", "statestore", "benchmarks.subjects.own", "AsyncUncapped"),
)
"""The same with a cache for as many entries as one likes."""

AGAIN = (
    Subject("raw psycopg again", "postgresql", "sync", "again", "benchmarks.subjects.raw_postgresql", "RawPsycopg"),
    Subject("raw sqlite3 again", "sqlite", "sync", "again", "benchmarks.subjects.raw_sqlite", "RawSqlite"),
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
