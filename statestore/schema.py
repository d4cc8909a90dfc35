"""The tables as the code sees them. Migrations make them; a test holds both against each other.

Every table's key begins with (namespace, session_id): an analyst reads the tables as they are, no lookup stands
before a write, and the tables can be partitioned or distributed by session. Other indexes begin with another column
where they can: while a table is small and not analyzed yet, PostgreSQL may take any index that begins with the same
columns for the primary key's, and keep that plan while the table grows.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    Interval,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.types import TypeDecorator, TypeEngine

DEFAULT_SCHEMA = "statestore"
"""Where the tables live on PostgreSQL. SQLite has no schemas; there they live in the file itself."""

VERSION_TABLE = "statestore_alembic_version"
HEAD_REVISION = "0001"
"""The revision that this version of the package works with; a test holds it against migrations/versions."""

KEY_LENGTH = 512


class _PerDatabase(TypeDecorator[Any]):
    """A column type that each database spells in its own way. The values are converted where rows are read."""

    impl = Text
    cache_ok = True
    postgresql: TypeEngine[Any]
    sqlite: TypeEngine[Any]

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(self.sqlite if dialect.name == "sqlite" else self.postgresql)


class ExactJson(_PerDatabase):
    """`json` keeps the text, with key order and escaped NULs; `jsonb` does not, and costs twice as much to insert."""

    postgresql = JSON()
    sqlite = Text()


class UtcTime(_PerDatabase):
    """`timestamptz`, or fixed-width ISO text in UTC (2026-01-31T12:00:00.000000Z), which sorts as time does."""

    postgresql = DateTime(timezone=True)
    sqlite = String(27)


class Duration(_PerDatabase):
    """`interval`, or microseconds."""

    postgresql = Interval()
    sqlite = BigInteger()


class Money(_PerDatabase):
    """US dollars with ten decimals; on SQLite, which has no decimals, a float that reports round to ten."""

    postgresql = Numeric(20, 10)
    sqlite = Float()


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


# Compared byte by byte on both databases: ids are opaque, and a locale would make their order differ and cost time.
Key = String(KEY_LENGTH).with_variant(String(KEY_LENGTH, collation="C"), "postgresql")


def _key(name: str) -> Column[Any]:
    return Column(name, Key, nullable=False)


sessions = Table(
    "sessions",
    metadata,
    _key("namespace"),
    _key("session_id"),
    Column("user_id", Key),
    Column("agent_name", Key),
    Column("title", Text),
    Column("status", String(16), nullable=False, server_default="ready"),
    Column("instructions", Text),
    Column("metadata", ExactJson, nullable=False, server_default="{}"),
    Column("project_root", Text),
    Column("cwd", Text),
    Column("parent_session_id", Key),
    _key("root_session_id"),
    Column("forked_at_seq", BigInteger),
    Column("first_seq", BigInteger, nullable=False, server_default="1"),
    Column("next_seq", BigInteger, nullable=False, server_default="1"),
    # The turn of the newest entry. It could be read from that entry, but for a fork that is another session's row,
    # and an append is to stay one statement.
    Column("last_turn", BigInteger, nullable=False, server_default="0"),
    Column("revision", BigInteger, nullable=False, server_default="1"),
    Column("ttl", Duration),
    Column("expires_at", UtcTime),
    Column("created_at", UtcTime, nullable=False),
    Column("last_activity_at", UtcTime, nullable=False),
    # last_activity_at cut to the hour, and indexed in its place: an index on a column that every append changes
    # would cost PostgreSQL its heap-only updates, this one changes once an hour.
    Column("active_hour", UtcTime, nullable=False),
    Column("lease_owner", String(KEY_LENGTH)),
    Column("lease_token", BigInteger, nullable=False, server_default="0"),
    Column("lease_until", UtcTime),
    PrimaryKeyConstraint("namespace", "session_id"),
    CheckConstraint("status IN ('starting', 'ready', 'busy', 'dead')", name="status"),
    CheckConstraint("first_seq >= 1 AND next_seq >= first_seq", name="seq"),
    CheckConstraint("(parent_session_id IS NULL) = (forked_at_seq IS NULL)", name="fork"),
    CheckConstraint("(ttl IS NULL) = (expires_at IS NULL)", name="ttl"),
    # sessions.page(user_id=…): a user's newest sessions, and delete_user.
    Index(None, "user_id", "namespace", "active_hour"),
    # sessions.page() without a user, and the sessions idle for longer than the retention policy.
    Index(None, "active_hour", "namespace"),
    # sessions.page(order_by="created_at").
    Index(None, "created_at", "namespace"),
    # sessions.lineage: the forks of a session.
    Index(
        None,
        "parent_session_id",
        "namespace",
        postgresql_where=text("parent_session_id IS NOT NULL"),
        sqlite_where=text("parent_session_id IS NOT NULL"),
    ),
    # The sweep: what has expired. Sessions without a TTL are not in it.
    Index(
        None,
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL"),
        sqlite_where=text("expires_at IS NOT NULL"),
    ),
    # Room on each page for heap-only updates, which every append makes.
    postgresql_with={"fillfactor": "70"},
)

session_segments = Table(
    "session_segments",
    metadata,
    _key("namespace"),
    _key("session_id"),
    Column("from_seq", BigInteger, nullable=False),
    Column("to_seq", BigInteger, nullable=False),
    _key("owner_session_id"),
    PrimaryKeyConstraint("namespace", "session_id", "from_seq"),
    ForeignKeyConstraint(
        ["namespace", "session_id"], ["sessions.namespace", "sessions.session_id"], ondelete="CASCADE"
    ),
    # No cascade: an owner of rows that a fork sees cannot be deleted before it has handed them over.
    ForeignKeyConstraint(["namespace", "owner_session_id"], ["sessions.namespace", "sessions.session_id"]),
    CheckConstraint("from_seq >= 1 AND to_seq >= from_seq", name="seq"),
    CheckConstraint("owner_session_id <> session_id", name="owner"),
    # Releasing rows: which forks see them.
    Index(None, "owner_session_id", "namespace", "from_seq"),
)

history_entries = Table(
    "history_entries",
    metadata,
    _key("namespace"),
    _key("session_id"),
    Column("seq", BigInteger, nullable=False),
    _key("entry_id"),
    Column("turn", BigInteger, nullable=False),
    Column("role", String(KEY_LENGTH)),
    Column("agent_name", Key),
    Column("content", ExactJson, nullable=False),
    Column("metadata", ExactJson),
    Column("provider_name", String(KEY_LENGTH)),
    Column("request_model", String(KEY_LENGTH)),
    Column("response_model", String(KEY_LENGTH)),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("cache_read_input_tokens", BigInteger),
    Column("cache_write_input_tokens", BigInteger),
    Column("reasoning_output_tokens", BigInteger),
    Column("cost_usd", Money),
    Column("tool_name", String(KEY_LENGTH)),
    Column("tool_call_id", String(KEY_LENGTH)),
    Column("duration_ms", Float),
    Column("finish_reason", String(KEY_LENGTH)),
    Column("error_type", String(KEY_LENGTH)),
    Column("content_bytes", BigInteger, nullable=False),
    # Whether the entry's usage is in the usage ledger already, so that no report counts it twice.
    Column("usage_folded", Integer, nullable=False, server_default="0"),
    Column("created_at", UtcTime, nullable=False),
    # Reading a session in order, and its newest entries.
    PrimaryKeyConstraint("namespace", "session_id", "seq"),
    ForeignKeyConstraint(["namespace", "session_id"], ["sessions.namespace", "sessions.session_id"]),
    CheckConstraint("seq >= 1", name="seq"),
    # Idempotent append: the same entry is never stored twice. The id comes first: ids of ours grow with time, so that
    # all sessions insert at one end of the index, and no plan takes it for an index of a session's entries.
    Index("uq_history_entries_entry_id", "entry_id", "session_id", "namespace", unique=True),
)

summaries = Table(
    "summaries",
    metadata,
    _key("namespace"),
    _key("session_id"),
    Column("start_seq", BigInteger, nullable=False),
    Column("end_seq", BigInteger, nullable=False),
    Column("content", Text, nullable=False),
    Column("token_count", BigInteger),
    Column("created_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("namespace", "session_id", "start_seq"),
    ForeignKeyConstraint(
        ["namespace", "session_id"], ["sessions.namespace", "sessions.session_id"], ondelete="CASCADE"
    ),
    CheckConstraint("start_seq >= 1 AND end_seq >= start_seq", name="seq"),
)

state_entries = Table(
    "state_entries",
    metadata,
    _key("namespace"),
    _key("session_id"),
    _key("key"),
    Column("value", ExactJson, nullable=False),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("updated_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    PrimaryKeyConstraint("namespace", "session_id", "key"),
    ForeignKeyConstraint(
        ["namespace", "session_id"], ["sessions.namespace", "sessions.session_id"], ondelete="CASCADE"
    ),
    # The sweep: which keys have expired.
    Index(
        None,
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL"),
        sqlite_where=text("expires_at IS NOT NULL"),
    ),
)
