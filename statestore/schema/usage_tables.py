"""The tables of what was used: what it cost by which prices, and settings, which are numbers too."""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    Numeric,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)

from statestore.schema.column_types import KEY_LENGTH, Day, ExactJson, Key, Money, MoneySum, UtcTime, key
from statestore.schema.naming import metadata

TOKEN_COLUMNS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "reasoning_output_tokens",
)

# What entries used that are no longer there, or no longer with the session that they were billed to. It is kept by the
# quarter of an hour, since days begin at a quarter in every time zone. Lines have numbers and not their names for a
# key: six names of 512 characters do not fit into an index entry of PostgreSQL.
usage_ledger = Table(
    "usage_ledger",
    metadata,
    key("namespace"),
    key("session_id"),
    Column("bucket_at", UtcTime, nullable=False),
    Column("line", Integer, nullable=False),
    Column("user_id", Key),
    Column("agent_name", Key),
    Column("provider_name", String(KEY_LENGTH)),
    Column("model", String(KEY_LENGTH)),
    Column("tool_name", String(KEY_LENGTH)),
    Column("entries", BigInteger, nullable=False),
    Column("turns", BigInteger, nullable=False),
    Column("model_calls", BigInteger, nullable=False),
    Column("tool_calls", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in TOKEN_COLUMNS),
    Column("cost_usd", MoneySum),
    Column("unpriced_calls", BigInteger, nullable=False),
    Column("duration_ms", Float, nullable=False),
    Column("content_bytes", BigInteger, nullable=False),
    # Folding into the lines that a session has already.
    PrimaryKeyConstraint("namespace", "session_id", "bucket_at", "line"),
    # Reports over a period.
    Index(None, "namespace", "bucket_at"),
    # Erasing a user.
    Index(None, "namespace", "user_id"),
)

# Calls of models and tools that are not entries of a history: what a run used as a whole, an embedding, a moderation.
usage_records = Table(
    "usage_records",
    metadata,
    key("namespace"),
    key("record_id"),
    Column("session_id", Key),
    Column("user_id", Key),
    Column("agent_name", Key),
    Column("provider_name", String(KEY_LENGTH)),
    Column("model", String(KEY_LENGTH)),
    Column("tool_name", String(KEY_LENGTH)),
    *(Column(name, BigInteger) for name in TOKEN_COLUMNS),
    Column("cost_usd", Money),
    Column("duration_ms", Float),
    Column("error_type", String(KEY_LENGTH)),
    Column("created_at", UtcTime, nullable=False),
    # Recording the same call again does nothing.
    PrimaryKeyConstraint("namespace", "record_id"),
    # Reports over a period.
    Index(None, "namespace", "created_at"),
    # Erasing what tells of a session.
    Index(
        None,
        "session_id",
        "namespace",
        postgresql_where=text("session_id IS NOT NULL"),
        sqlite_where=text("session_id IS NOT NULL"),
    ),
    # Erasing a user.
    Index(
        None,
        "user_id",
        "namespace",
        postgresql_where=text("user_id IS NOT NULL"),
        sqlite_where=text("user_id IS NOT NULL"),
    ),
)

# What was used, summed up by the sweep so that reports need not read all entries: of whole sessions (`part` is the
# session), in all (`session`) and by model and tool (`use`); of these together, by what reports are by most often
# (`of_...`); and of whole days by what the views of days are by (`part` is the day). What has changed since is in
# usage_rollup_changes, written by triggers of migration 0007, and is read from the entries.
USAGE_COUNTS = (
    "entries",
    "turns",
    "model_calls",
    "tool_calls",
    "errors",
    *TOKEN_COLUMNS,
    "unpriced_calls",
    "content_bytes",
)
LATENCY_COLUMNS = tuple(f"latency_{number:02}" for number in range(48))

usage_rollup = Table(
    "usage_rollup",
    metadata,
    key("namespace"),
    Column("kind", String(8), nullable=False),
    key("part"),
    Column("line", Integer, nullable=False),
    Column("user_id", Key),
    Column("agent_name", Key),
    Column("provider_name", String(KEY_LENGTH)),
    Column("model", String(KEY_LENGTH)),
    Column("tool_name", String(KEY_LENGTH)),
    Column("first_day", Day, nullable=False),
    Column("last_day", Day, nullable=False),
    Column("sessions", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in USAGE_COUNTS),
    # SQLite has no decimals: there whole dollars and ten-billionths of one are summed apart, and so exactly.
    Column("cost_usd", MoneySum),
    Column("cost_fraction", BigInteger),
    Column("duration_us", BigInteger, nullable=False),
    Column("timed_entries", BigInteger, nullable=False),
    # Of days, exact; of sessions, how many durations are within which bounds.
    Column("latency_p50_ms", Float),
    Column("latency_p95_ms", Float),
    *(Column(name, BigInteger) for name in LATENCY_COLUMNS),
    # Of sums of all sessions: how many of what they sum have a cost; and durations, which add up to more than 64 bits.
    Column("priced", BigInteger),
    Column("total_duration_us", Numeric(30, 0).with_variant(BigInteger(), "sqlite")),
    # Making the sums of a session or a day anew.
    PrimaryKeyConstraint("namespace", "kind", "part", "line"),
    # A user's report.
    Index(None, "user_id", "namespace", "kind"),
)

usage_rollup_changes = Table(
    "usage_rollup_changes",
    metadata,
    key("namespace"),
    Column("kind", String(8), nullable=False),
    key("part"),
    # The transaction that changed it: each has a row of its own, and waits for nobody else's.
    Column("change_id", BigInteger, nullable=False),
    PrimaryKeyConstraint("namespace", "kind", "part", "change_id"),
)

usage_rollup_state = Table(
    "usage_rollup_state",
    metadata,
    key("namespace"),
    Column("announced_until", UtcTime, nullable=False),
    Column("fence", BigInteger),
    Column("filled_to", Key, nullable=False, server_default=""),
    Column("rolled_until", UtcTime),
    Column("days_until", Day),
    PrimaryKeyConstraint("namespace"),
)

PRICE_COLUMNS = ("input_price", "output_price", "cache_read_price", "cache_write_price", "cache_write_1h_price")

model_prices = Table(
    "model_prices",
    metadata,
    # Empty: for every namespace that has no price of its own.
    key("namespace"),
    Column("position", BigInteger, nullable=False),
    Column("provider_name", String(KEY_LENGTH), nullable=False),
    Column("model", String(KEY_LENGTH), nullable=False),
    Column("match", ExactJson, nullable=False),
    Column("valid_from", Day, nullable=False),
    Column("above_input_tokens", BigInteger, nullable=False),
    *(Column(name, Money) for name in PRICE_COLUMNS),
    Column("source", Text, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("namespace", "position", "valid_from", "above_input_tokens"),
)

store_settings = Table(
    "store_settings",
    metadata,
    # Empty: for all.
    key("namespace"),
    Column("name", String(64), nullable=False),
    Column("value", BigInteger, nullable=False),
    PrimaryKeyConstraint("namespace", "name"),
)
