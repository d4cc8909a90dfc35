"""The tables as the code sees them. Migrations make them; a test holds both against each other.

Every table's key begins with (namespace, session_id): an analyst reads the tables as they are, no lookup comes
before a write, and the tables can be partitioned or distributed by session. Other indexes begin with another column
where they can: while a table is small and not analyzed yet, PostgreSQL may take any index that begins with the same
columns for the primary key's, and keep that plan while the table grows.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)

from statestore.schema.column_types import KEY_LENGTH, Day, Duration, ExactJson, Key, Money, UtcTime, key
from statestore.schema.naming import metadata

DEFAULT_SCHEMA = "statestore"
"""Where the tables live on PostgreSQL. SQLite has no schemas; there they live in the file itself."""

VERSION_TABLE = "statestore_alembic_version"
HEAD_REVISION = "0011"
"""The revision that this version of the package works with; a test holds it against migrations/versions."""

sessions = Table(
    "sessions",
    metadata,
    key("namespace"),
    key("session_id"),
    Column("user_id", Key),
    Column("agent_name", Key),
    Column("title", Text),
    Column("status", String(16), nullable=False, server_default="ready"),
    Column("instructions", Text),
    Column("metadata", ExactJson, nullable=False, server_default="{}"),
    Column("project_root", Text),
    Column("cwd", Text),
    Column("parent_session_id", Key),
    key("root_session_id"),
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
    # The session that this one is a part of, such as a sub-agent's: it is hidden, expires and goes with it. That one is
    # never itself a part, so that one lookup finds whether a part lives.
    Column("belongs_to", Key),
    PrimaryKeyConstraint("namespace", "session_id"),
    CheckConstraint("status IN ('starting', 'ready', 'busy', 'dead')", name="status"),
    CheckConstraint("first_seq >= 1 AND next_seq >= first_seq", name="seq"),
    CheckConstraint("(parent_session_id IS NULL) = (forked_at_seq IS NULL)", name="fork"),
    CheckConstraint("(ttl IS NULL) = (expires_at IS NULL)", name="ttl"),
    # sessions.page(user_id=…): a user's newest sessions, and delete_user.
    Index(None, "user_id", "namespace", "active_hour"),
    # sessions.page() without a user, and the sessions idle for longer than the retention policy.
    Index(None, "namespace", "active_hour"),
    # sessions.page(order_by="created_at").
    Index(None, "namespace", "created_at"),
    # sessions.lineage: the forks of a session.
    Index(
        None,
        "parent_session_id",
        "namespace",
        postgresql_where=text("parent_session_id IS NOT NULL"),
        sqlite_where=text("parent_session_id IS NOT NULL"),
    ),
    # The forks of a session at any depth: who may have a row of the same entry.
    Index(
        None,
        "root_session_id",
        "namespace",
        postgresql_where=text("root_session_id <> session_id"),
        sqlite_where=text("root_session_id <> session_id"),
    ),
    # The parts of a session: sessions.page(belongs_to=…), and what goes with it.
    Index(
        None,
        "belongs_to",
        "namespace",
        postgresql_where=text("belongs_to IS NOT NULL"),
        sqlite_where=text("belongs_to IS NOT NULL"),
    ),
    # The sweep: what has expired. Sessions without a TTL are not in it.
    Index(
        None,
        "namespace",
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL"),
        sqlite_where=text("expires_at IS NOT NULL"),
    ),
)

session_segments = Table(
    "session_segments",
    metadata,
    key("namespace"),
    key("session_id"),
    Column("from_seq", BigInteger, nullable=False),
    Column("to_seq", BigInteger, nullable=False),
    key("owner_session_id"),
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
    key("namespace"),
    key("session_id"),
    Column("seq", BigInteger, nullable=False),
    key("entry_id"),
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
    # Usage over a period.
    Index(None, "namespace", "created_at"),
)

summaries = Table(
    "summaries",
    metadata,
    key("namespace"),
    key("session_id"),
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
    key("namespace"),
    key("session_id"),
    key("key"),
    Column("value", ExactJson, nullable=False),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("updated_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    # NULL in rows made before revision 0005, until they are written again after they expired.
    Column("created_at", UtcTime),
    PrimaryKeyConstraint("namespace", "session_id", "key"),
    ForeignKeyConstraint(
        ["namespace", "session_id"], ["sessions.namespace", "sessions.session_id"], ondelete="CASCADE"
    ),
    # The sweep: which keys have expired.
    Index(
        None,
        "namespace",
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL"),
        sqlite_where=text("expires_at IS NOT NULL"),
    ),
)

# State that belongs to no session: a user's, or an agent's. Shared by all their sessions, so it has no row to lock but
# its own.
shared_state = Table(
    "shared_state",
    metadata,
    key("namespace"),
    Column("scope", String(16), nullable=False),
    key("owner_id"),
    key("key"),
    Column("value", ExactJson, nullable=False),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("user_id", Key),
    PrimaryKeyConstraint("namespace", "scope", "owner_id", "key"),
    CheckConstraint("scope IN ('user', 'app')", name="scope"),
    # The erasure of a user: which keys of agents were written for them.
    Index(
        None,
        "user_id",
        "namespace",
        postgresql_where=text("user_id IS NOT NULL"),
        sqlite_where=text("user_id IS NOT NULL"),
    ),
    # The sweep: which keys have expired.
    Index(
        None,
        "namespace",
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL"),
        sqlite_where=text("expires_at IS NOT NULL"),
    ),
)

# One row for each named list of a session: its lock orders those who append, and its number is the list's length.
session_lists = Table(
    "session_lists",
    metadata,
    key("namespace"),
    key("session_id"),
    key("name"),
    Column("item_count", BigInteger, nullable=False, server_default="0"),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("namespace", "session_id", "name"),
    ForeignKeyConstraint(
        ["namespace", "session_id"], ["sessions.namespace", "sessions.session_id"], ondelete="CASCADE"
    ),
)

session_list_items = Table(
    "session_list_items",
    metadata,
    key("namespace"),
    key("session_id"),
    key("name"),
    Column("position", BigInteger, nullable=False),
    Column("value", ExactJson, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("namespace", "session_id", "name", "position"),
    ForeignKeyConstraint(
        ["namespace", "session_id", "name"],
        ["session_lists.namespace", "session_lists.session_id", "session_lists.name"],
        ondelete="CASCADE",
    ),
    CheckConstraint("position >= 1", name="position"),
)

cache_entries = Table(
    "cache_entries",
    metadata,
    key("namespace"),
    key("key"),
    Column("value", LargeBinary, nullable=False),
    Column("codec", String(16), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("agent_name", Key),
    Column("request", ExactJson),
    Column("content_hash", Key),
    Column("metadata", ExactJson),
    # A number that no two writes share: a tag or a hit noted of an earlier write does not count for this one.
    Column("version", BigInteger, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    # When the row may go. Later than expires_at if an expired value may still be served while it is computed again.
    Column("keep_until", UtcTime),
    Column("last_accessed_at", UtcTime, nullable=False),
    # Orders accesses at the same time: several in one statement, or a clock that stands still.
    Column("access_seq", BigInteger, nullable=False),
    Column("access_count", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("namespace", "key"),
    CheckConstraint("(expires_at IS NULL) = (keep_until IS NULL)", name="keep_until"),
    # Eviction: the least recently used.
    Index(None, "namespace", "last_accessed_at", "access_seq"),
    # Eviction and the sweep: what has expired.
    Index(
        None,
        "namespace",
        "keep_until",
        postgresql_where=text("keep_until IS NOT NULL"),
        sqlite_where=text("keep_until IS NOT NULL"),
    ),
    # cache.invalidate_agent.
    Index(
        None,
        "namespace",
        "agent_name",
        postgresql_where=text("agent_name IS NOT NULL"),
        sqlite_where=text("agent_name IS NOT NULL"),
    ),
    # cache.invalidate_content_hash.
    Index(
        None,
        "namespace",
        "content_hash",
        postgresql_where=text("content_hash IS NOT NULL"),
        sqlite_where=text("content_hash IS NOT NULL"),
    ),
)

cache_tags = Table(
    "cache_tags",
    metadata,
    key("namespace"),
    key("tag"),
    Column("version", BigInteger, nullable=False),
    key("key"),
    # cache.invalidate_tag. By the write's number, not by its key: tag and key of 512 characters each, four bytes to the
    # character, would not fit into an index entry of PostgreSQL.
    PrimaryKeyConstraint("namespace", "tag", "version"),
    ForeignKeyConstraint(["namespace", "key"], ["cache_entries.namespace", "cache_entries.key"], ondelete="CASCADE"),
    # The tags of an entry, and their deletion with it.
    Index(None, "key", "namespace"),
)

CACHE_COUNTERS = (
    "hits",
    "misses",
    "sets",
    "evictions",
    "expirations",
    "invalidations_key",
    "invalidations_tag",
    "invalidations_agent",
    "invalidations_content_hash",
    "invalidations_clear",
)

cache_ledger = Table(
    "cache_ledger",
    metadata,
    key("namespace"),
    Column("day", Day, nullable=False),
    # Empty for no agent: a key has no NULLs.
    Column("agent_name", Key, nullable=False, server_default=""),
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in CACHE_COUNTERS),
    PrimaryKeyConstraint("namespace", "day", "agent_name"),
)

cache_claims = Table(
    "cache_claims",
    metadata,
    key("namespace"),
    key("key"),
    Column("token", String(36), nullable=False),
    Column("claimed_until", UtcTime, nullable=False),
    PrimaryKeyConstraint("namespace", "key"),
)

VIEWS = (
    "usage_lines",
    "usage_unsummed_lines",
    "usage_by_day",
    "usage_by_session",
    "usage_by_user",
    "usage_by_agent",
    "usage_by_model",
    "usage_by_tool",
    "cache_usage_by_day",
    "storage_usage",
    "expiry_backlog",
    "session_lineage",
    "session_history",
    "session_state",
)
"""The views, made by the migrations alone. All are public but `usage_unsummed_lines`, which the sums of usage read."""
