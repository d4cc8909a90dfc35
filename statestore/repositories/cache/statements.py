"""The statements that write entries of the cache.

On PostgreSQL one statement does all, tags included. A write carries a number, its *version*, and so do its tags. Two
sets of one key that run at once may each miss the other's tags; the tags that lost then have another version than the
entry, and do not count for it.
"""

from functools import lru_cache

from statestore.engine.sql import Statement
from statestore.engine.sql_parts import ROWS_SQLITE, each, unnest, value_rows
from statestore.repositories.cache.base import KEYS, NAMESPACE
from statestore.repositories.cache.holding import HELD
from statestore.repositories.cache.lifetimes import (
    EXPIRES_POSTGRESQL,
    EXPIRES_SQLITE,
    EXPIRES_VARIED,
    FROM_END,
    KEPT_POSTGRESQL,
    KEPT_SQLITE,
    KEPT_VARIED,
)

_NAMES = (
    *("namespace", "key", "value", "codec", "size_bytes", "agent_name", "request", "content_hash", "metadata"),
    *("version", "created_at", "expires_at", "keep_until", "last_accessed_at", "access_seq", "access_count"),
)
_COLUMNS = ", ".join(_NAMES)

_REPLACED = each("{0} = excluded.{0}", _NAMES[2:])
_OVERWRITE = f"ON CONFLICT (namespace, key) DO UPDATE SET {_REPLACED}"
_ONLY_EXPIRED = f"{_OVERWRITE} WHERE e.expires_at <= excluded.created_at"

_COMMON = """CAST(:agent_name AS text), CAST(:request AS json), CAST(:content_hash AS text), CAST(:metadata AS json)"""
_NOTHING = "NULL, NULL, NULL, NULL"
_TIMES_POSTGRESQL = f"$now, {EXPIRES_POSTGRESQL}, {KEPT_POSTGRESQL}, $now"
_TIMES_VARIED = f"$now, {EXPIRES_VARIED}, {KEPT_VARIED}, $now"
_TIMES_SQLITE = f"$now, {EXPIRES_SQLITE}, {KEPT_SQLITE}, $now"

# Which rows there were. Read in the statement's own snapshot, so a concurrent set may make it wrong by one; the bound
# is then too high, never too low.
_OLD = "SELECT e.key, e.size_bytes, e.version, coalesce(e.expires_at > $now, true) AS live FROM $cache_entries AS e"

# The keys as an array: as long as the planner has no statistics of a cache that has just been filled, it would rather
# compare each key with all tags. A version is that of one write, so no key has another's.
_UNTAGGED = f"""
    DELETE FROM $cache_tags AS t
    WHERE t.key = ANY (array(SELECT up.key FROM up)) AND t.namespace = {NAMESPACE}
        AND t.version NOT IN (SELECT up.version FROM up)"""
_TAGGED = """
    INSERT INTO $cache_tags (namespace, tag, version, key)
    SELECT :namespace, n.tag, up.version, up.key FROM up, unnest(CAST(:tags AS text[])) AS n (tag)
    ON CONFLICT DO NOTHING"""
# The same where each has tags of its own, which are given by the number of its row.
_TAGGED_VARIED = """
    INSERT INTO $cache_tags (namespace, tag, version, key)
    SELECT :namespace, n.tag, up.version, up.key
    FROM unnest(CAST(:tag_places AS bigint[]), CAST(:tags AS text[])) AS n (place, tag)
    JOIN up ON up.version = CAST(:version AS bigint) + n.place - 1
    ON CONFLICT DO NOTHING"""


# Whether what is new fits beside what is there. Asked only where the bound does not know: while a subquery that nobody
# asks is not run, one that is asked reads the whole namespace.
_HELD = {
    "entries": """SELECT count(*) AS n, 0 AS size FROM $cache_entries WHERE namespace = :namespace""",
    "bytes": """SELECT count(*) AS n, coalesce(sum(size_bytes), 0) AS size FROM $cache_entries
        WHERE namespace = :namespace""",
}
_FITS = {
    "entries": """
        WHERE NOT EXISTS (SELECT 1 FROM new LEFT JOIN old ON old.key = new.key WHERE old.key IS NULL)
            OR (SELECT n FROM held) + (SELECT count(*) FROM new) - (SELECT count(*) FROM old) <= :room_entries""",
    "bytes": """
        WHERE (SELECT n FROM held) + (SELECT count(*) FROM new) - (SELECT count(*) FROM old) <= :room_entries
            AND (SELECT size FROM held) + (SELECT sum(size_bytes) FROM new)
                - (SELECT coalesce(sum(size_bytes), 0) FROM old) <= :room_bytes""",
}
_ONE = """
    SELECT CAST(:key AS text) AS key, CAST(:value AS bytea) AS value, CAST(:codec AS text) AS codec,
        CAST(:size AS bigint) AS size_bytes, CAST(1 AS bigint) AS place"""
SEVERAL = {"key": "text", "value": "bytea", "codec": "text", "size_bytes": "bigint"}
VARIED = SEVERAL | {"ttl": "interval", "keep": "interval", "until": "timestamptz"}
_NEW = {
    "one": _ONE,
    "several": f"""
    SELECT * FROM {unnest("n", SEVERAL, "new_{}", ordinal="place")}""",
    "varied": f"""
    SELECT * FROM {unnest("n", VARIED, "new_{}", ordinal="place")}""",
}

# An entry that is to stay is locked: nobody may remove it between the look at it and the write.
_IF_THERE = {
    "present": "JOIN old ON old.key = new.key AND old.live",
    "version": "JOIN old ON old.key = new.key AND old.live AND old.version = :expected_version",
}


@lru_cache(maxsize=32)
def set_postgresql(*, values: str = "one", only_if: str | None = None, limited_by: str | None = None) -> Statement:
    """One statement sets everything, including tags. With *limited_by* it does nothing if there is no room.

    Several are written in the order of their keys, so that two such statements do not wait for each other in a circle.

    Args:
        values: `one`, `several`, or `varied`: several that have times and tags of their own.
        only_if: For one: `missing`, `present`, or `version` for a certain version.
        limited_by: `entries` or `bytes`.
    """
    held = f"held AS ({_HELD[limited_by]})," if limited_by else ""
    count = "(SELECT n FROM held), (SELECT size FROM held)" if limited_by else "NULL, NULL"
    if limited_by == "entries":
        # Not if it only overwrites, which takes no room.
        count = ", ".join(
            f"CASE WHEN EXISTS (SELECT 1 FROM up) AND old.key IS NULL THEN (SELECT {column} FROM held) END"
            for column in ("n", "size")
        )
    there = _IF_THERE.get(only_if or "", "")
    old = f"""SELECT e.* FROM new CROSS JOIN LATERAL (
        {_OLD} WHERE e.key = new.key AND e.namespace = {NAMESPACE} OFFSET 0) AS e"""
    if there:
        old = f"{_OLD} WHERE e.namespace = :namespace AND e.key = :key {HELD}"
    varied = values == "varied"
    return Statement(
        postgresql=f"""
    WITH new AS ({_NEW[values]}),
    old AS ({old}),
    {held}
    up AS (
        INSERT INTO $cache_entries AS e ({_COLUMNS})
        SELECT :namespace, new.key, new.value, new.codec, new.size_bytes, {_COMMON},
            CAST(:version AS bigint) + new.place - 1, {_TIMES_VARIED if varied else _TIMES_POSTGRESQL},
            CAST(:stamp AS bigint) + new.place - 1, 0
        FROM new {there} {_FITS[limited_by] if limited_by else ""}
        {"" if values == "one" else 'ORDER BY new.key COLLATE "C"'}
        {_ONLY_EXPIRED if only_if == "missing" else _OVERWRITE}
        RETURNING e.key, e.version),
    untagged AS ({_UNTAGGED}),
    tagged AS ({_TAGGED_VARIED if varied else _TAGGED})
    SELECT new.key, up.key IS NOT NULL, old.size_bytes, old.version, old.live, {count}
    FROM new LEFT JOIN up ON up.key = new.key LEFT JOIN old ON old.key = new.key"""
    )


_UNTAGGED_ONE = """
        DELETE FROM $cache_tags AS t WHERE t.namespace = :namespace AND t.key = :key AND t.version <> :version"""


@lru_cache(maxsize=4)
def set_one_postgresql(*, tagged: bool, described: bool) -> Statement:
    """The most frequent write: one entry, whatever stood there. Half the price of the statement for every case."""
    tags = """, tagged AS (
        INSERT INTO $cache_tags (namespace, tag, version, key)
        SELECT :namespace, n.tag, up.version, up.key FROM up, unnest(CAST(:tags AS text[])) AS n (tag)
        ON CONFLICT DO NOTHING)"""
    return Statement(
        postgresql=f"""
    WITH old AS MATERIALIZED ({_OLD} WHERE e.namespace = :namespace AND e.key = :key),
    untagged AS ({_UNTAGGED_ONE}),
    up AS (
        INSERT INTO $cache_entries AS e ({_COLUMNS})
        VALUES (:namespace, :key, :value, :codec, :size, {_COMMON if described else _NOTHING}, :version,
            {_TIMES_POSTGRESQL}, :stamp, 0)
        {_OVERWRITE}
        RETURNING e.version, e.key)
    {tags if tagged else ""}
    SELECT old.size_bytes, old.version, old.live FROM up LEFT JOIN old ON true"""
    )


@lru_cache(maxsize=4)
def replace_one_postgresql(*, tagged: bool, described: bool) -> Statement:
    """One entry if there is one already, which takes no room: what most sets in a full cache are."""
    description = _COMMON if described else _NOTHING
    times = "$now, new_end.expires_at, new_end.keep_until, $now"
    values = f":value, :codec, :size, {description}, :version, {times}, :stamp, 0"
    tags = """, tagged AS (
        INSERT INTO $cache_tags AS t (namespace, tag, version, key)
        SELECT $home, n.tag, :version, :key
        FROM up$at_home(cache_entries, key = :key), unnest(CAST(:tags AS text[])) AS n (tag)
        ON CONFLICT DO NOTHING)"""
    return Statement(
        postgresql=f"""
    WITH old AS MATERIALIZED ({_OLD} WHERE e.namespace = :namespace AND e.key = :key),
    untagged AS ({_UNTAGGED_ONE}),
    up AS (
        UPDATE $cache_entries AS e SET ({", ".join(_NAMES[2:])}) = ROW ({values}) FROM old, {FROM_END}
        WHERE e.namespace = :namespace AND e.key = :key
        RETURNING old.size_bytes, old.version, old.live)
    {tags if tagged else ""}
    SELECT size_bytes, version, live FROM up"""
    )


FIND_OLD_SQLITE = Statement(
    sqlite=f"""
    SELECT key, size_bytes, version, coalesce(expires_at > $now, 1) FROM $cache_entries
    WHERE namespace = :namespace AND key {KEYS}"""
)

FIND_OLD_ONE_SQLITE = Statement(
    sqlite="""
    SELECT e.size_bytes, e.version, coalesce(e.expires_at > $now, 1),
        EXISTS (SELECT 1 FROM $cache_tags AS t WHERE t.namespace = :namespace AND t.key = e.key)
    FROM $cache_entries AS e WHERE e.namespace = :namespace AND e.key = :key"""
)
SET_ONE_SQLITE = Statement(
    sqlite=f"""
    INSERT INTO $cache_entries AS e ({_COLUMNS})
    VALUES (:namespace, :key, :value, :codec, :size, :agent_name, :request, :content_hash, :metadata, :version,
        {_TIMES_SQLITE}, :stamp, 0) {_OVERWRITE}"""
)

UNTAG_ONE_SQLITE = Statement(sqlite="DELETE FROM $cache_tags WHERE namespace = :namespace AND key = :key")
UNTAG_SQLITE = Statement(sqlite=f"DELETE FROM $cache_tags WHERE namespace = :namespace AND key {KEYS}")
TAG_SQLITE = Statement(
    sqlite="""
    INSERT INTO $cache_tags (namespace, tag, version, key)
    SELECT :namespace, t.value, :version + k.key, k.value FROM json_each(:keys) AS k, json_each(:tags) AS t"""
)
TAG_VARIED_SQLITE = Statement(
    sqlite="""
    INSERT INTO $cache_tags (namespace, tag, version, key)
    SELECT :namespace, json_extract(t.value, '$[2]'), :version + json_extract(t.value, '$[0]'),
        json_extract(t.value, '$[1]')
    FROM json_each(:tags) AS t"""
)

NUMBERED_SQLITE = ("key", "value", "codec", "size", "version", "stamp")
NUMBERED_VARIED_SQLITE = (*NUMBERED_SQLITE, "ttl", "keep")


@lru_cache(maxsize=2 * ROWS_SQLITE)
def set_sqlite(rows: int, *, varied: bool = False) -> Statement:
    times = "$now, $later(:ttl_#), $later(:keep_#), $now" if varied else _TIMES_SQLITE
    values = value_rows(
        "(:namespace, :key_#, :value_#, :codec_#, :size_#, :agent_name, :request, :content_hash, :metadata, :version_#,"
        f" {times}, :stamp_#, 0)",
        rows,
    )
    return Statement(
        sqlite=f"""
        INSERT INTO $cache_entries AS e ({_COLUMNS}) VALUES {values} {_OVERWRITE}"""
    )
