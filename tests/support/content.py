"""What really stands in a database, read beside the store."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import make_url

from statestore.schema import metadata
from tests.support import prefix

Rows = list[dict[str, Any]]

# What a session consists of. What it cost stays when it goes, in other tables.
SESSION_TABLES = ("sessions", "session_segments", "history_entries", "summaries", "state_entries")


class Content:
    """The tables of a database, over a connection of their own that commits each statement. It has to be closed."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._connection: Any
        if self.is_sqlite:
            self._connection = sqlite3.connect(str(parsed.database), isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
        else:
            self._connection = psycopg.connect(
                url, autocommit=True, row_factory=dict_row, options="-c search_path=statestore"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def query(self, sql: str, **params: Any) -> Rows:
        """Run *sql* with `:named` parameters."""
        if not self.is_sqlite:
            for name in params:
                sql = sql.replace(f":{name}", f"%({name})s")
        cursor = self._connection.execute(prefix.named(sql) if self.is_sqlite else sql, params)
        return [dict(row) for row in cursor.fetchall()] if cursor.description else []

    def rows(self, table: str, **where: Any) -> Rows:
        condition = " AND ".join(f"{column} = :{column}" for column in where) or "1 = 1"
        key = ", ".join(column.name for column in metadata.tables[table].primary_key)
        return self.query(f"SELECT * FROM {table} WHERE {condition} ORDER BY {key}", **where)

    def rows_of(self, view: str) -> Rows:
        """All rows of a view, in no order."""
        return self.query(f"SELECT * FROM {view}")

    def fill_up(self, table: str, event: str = "INSERT") -> None:
        """From now on writes to a table fail as they do when the disk is full."""
        if self.is_sqlite:
            self.query(f"CREATE TRIGGER filled BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, 'full'); END")
        else:
            self.query(
                "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END $$"
            )
            self.query(f"CREATE TRIGGER filled BEFORE {event} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fill()")

    def explain(self, sql: str, params: Mapping[str, Any]) -> Rows:
        """PostgreSQL's plan for a statement of the store, with its parameters as psycopg spells them."""
        return [dict(row) for row in self._connection.execute(f"EXPLAIN {sql}", params).fetchall()]

    def somebody_waits(self) -> bool:
        """Whether anybody who uses this database of PostgreSQL waits for a lock, on whichever server."""
        whose = "datname = current_database() AND wait_event_type = 'Lock'"
        waiting = f"SELECT count(*) AS n FROM pg_stat_activity WHERE {whose}"
        everywhere = "run_command_on_all_nodes"
        if self.query(f"SELECT 1 FROM pg_proc WHERE proname = '{everywhere}'"):
            return bool(self.query(f"SELECT 1 FROM {everywhere}($$ {waiting} $$) WHERE result <> '0'"))
        return bool(self.query(waiting)[0]["n"])

    def snapshot(self) -> dict[str, Rows]:
        """Every row of every table."""
        return {table: self.rows(table) for table in metadata.tables}

    def sizes(self) -> dict[str, int]:
        """How many rows the tables have that sessions consist of."""
        return {table: int(self.query(f"SELECT count(*) AS n FROM {table}")[0]["n"]) for table in SESSION_TABLES}

    def close(self) -> None:
        self._connection.close()


def unsound(content: Content, namespace: str = "default") -> list[str]:
    """What is wrong with how the histories of a namespace are stored; nothing, it is to be hoped.

    Each position that a session has stands in one row: its own, or one that a segment finds at a session that owns it.
    Nothing else is stored: a row that its owner does not see would be content that nobody can read or delete. Segments
    of one owner that continue each other are one segment. What was hidden to be deleted is nobody's any more.
    """
    sessions = {
        row["session_id"]: row for row in content.rows("sessions", namespace=namespace) if not _is_hidden(row["ttl"])
    }
    owned: Counter[tuple[str, int]] = Counter()
    for row in content.query(
        "SELECT session_id, seq FROM history_entries WHERE namespace = :namespace", namespace=namespace
    ):
        owned[row["session_id"], row["seq"]] += 1
    seen: Counter[tuple[str, int]] = Counter(owned)
    problems = []
    before: Mapping[str, Any] = {"session_id": None, "to_seq": 0, "owner_session_id": None}
    for segment in content.rows("session_segments", namespace=namespace):
        if segment["session_id"] not in sessions:
            continue
        follows = segment["from_seq"] == before["to_seq"] + 1
        if follows and all(segment[name] == before[name] for name in ("session_id", "owner_session_id")):
            problems.append(f"{segment['session_id']} has a segment that ends at {before['to_seq']} and goes on")
        before = segment
        for seq in range(segment["from_seq"], segment["to_seq"] + 1):
            seen[segment["session_id"], seq] += 1
            if not owned[segment["owner_session_id"], seq]:
                problems.append(
                    f"{segment['session_id']} looks for {seq} at {segment['owner_session_id']}: no such row"
                )
    expected = Counter({(key, seq): 1 for key, row in sessions.items() for seq in _range(row)})
    seen = Counter({place: n for place, n in seen.items() if place[0] in sessions})
    problems += [f"{key} has no entry {seq}" for key, seq in expected - seen]
    problems += [f"{key} has entry {seq} {n} times too often" for (key, seq), n in (seen - expected).items()]
    return problems


def _is_hidden(ttl: Any) -> bool:
    """Whether a session has a TTL that no caller can give."""
    return ttl is not None and (ttl <= 0 if isinstance(ttl, int) else ttl <= timedelta(0))


def _range(session: Mapping[str, Any]) -> range:
    return range(session["first_seq"], session["next_seq"])
