"""What grows with the number of rows, up to millions: `./run bench --big`, which writes docs/big.md.

Two databases of one shape are filled by SQL, a small and a large one. Every operation that a request makes is timed in
both, and beside it what the driver alone takes for the same rows, in turns: the ratio of the two growths says what of
it is ours. The plans of all statements are looked at, in the large one.
"""

import os
import platform
import random
import re
import resource
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import psycopg
from sqlalchemy import event

from benchmarks import big_work, data, grown
from benchmarks.subjects.raw_postgresql import RawPsycopg
from benchmarks.subjects.raw_sqlite import RawSqlite
from benchmarks.workers import ROOT
from statestore import StateStore, __version__
from tests.postgres import start_server

SMALL = 50_000
GOAL = 1.2
PAGE = ROOT / "docs" / "big.md"
RESULTS = ROOT / "benchmarks" / "results" / "big.json"

_USERS_PAGE = """SELECT * FROM {sessions} WHERE namespace = %s AND user_id = %s
    ORDER BY active_hour DESC, session_id DESC LIMIT 50"""
_ALL_PAGE = """SELECT * FROM {sessions} WHERE {h}namespace = %s ORDER BY active_hour DESC, session_id DESC LIMIT 50"""
_SESSION = "SELECT * FROM {sessions} WHERE namespace = %s AND session_id = %s"
_ENTRY = "SELECT * FROM {entries} WHERE namespace = %s AND session_id = %s AND seq = %s"
_BY_ID = """SELECT h.session_id, h.seq, s.expires_at FROM {entries} AS h
    JOIN {sessions} AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
    WHERE {h}h.namespace = %s AND h.entry_id = %s"""
_STATE = "SELECT key, value FROM {state} WHERE namespace = %s AND session_id = %s"


class Raw:
    """What the driver alone takes for the same rows."""

    def __init__(self, url: str) -> None:
        self._sqlite = url.startswith("sqlite")
        self.subject: Any = RawSqlite() if self._sqlite else RawPsycopg()
        self.subject.open(url)

    def rows(self, sql: str, *values: Any) -> Any:
        prefix = "" if self._sqlite else "statestore."
        tables = {"sessions": "sessions", "entries": "history_entries", "state": "state_entries"}
        # SQLite would rather read all of the namespace.
        sql = sql.format(h="+" if self._sqlite else "", **{name: prefix + table for name, table in tables.items()})
        if self._sqlite:
            return self.subject.connection.execute(sql.replace("%s", "?"), ("default", *values)).fetchall()
        return self.subject.connection.execute(sql, ("default", *values), prepare=True).fetchall()


Do = Callable[[str, int], Any]


def works(store: StateStore, raw: Raw, users: int) -> dict[str, tuple[Do, Do]]:
    """By its name, an operation on a session, and what the driver alone does for it. The number is that of the turn."""
    one, driver, made = store, raw.subject, f"{random.getrandbits(40):x}"

    def load(session_id: str, number: int) -> None:
        raw.rows(_SESSION, session_id)
        driver.read(session_id)
        raw.rows(_STATE, session_id)

    def turn(session_id: str, number: int) -> None:
        with one.turn(session_id, max_entries=20) as turn:
            turn.append(data.message(number))

    def raw_turn(session_id: str, number: int) -> None:
        raw.rows(_SESSION, session_id)
        driver.read(session_id, 20)
        raw.rows(_STATE, session_id)
        driver.append(session_id, [data.message(number)])

    user = f"user-{users // 2}"
    return {
        "history.append": (
            lambda s, n: one.history.append(s, [data.message(n)]),
            lambda s, n: driver.append(s, [data.message(n)]),
        ),
        "history.read, last 20": (lambda s, n: one.history.read(s, last=20), lambda s, n: driver.read(s, 20)),
        "history.messages": (lambda s, n: one.history.messages(s, last=20), lambda s, n: driver.read(s, 20)),
        "history.get": (lambda s, n: one.history.get(s, 5), lambda s, n: raw.rows(_ENTRY, s, 5)),
        "history.locate": (
            lambda s, n: one.history.locate(_entry_id(raw, s)),
            lambda s, n: raw.rows(_BY_ID, _entry_id(raw, s)),
        ),
        "history.window": (lambda s, n: one.history.window(s, max_entries=20), lambda s, n: driver.read(s, 20)),
        "sessions.create": (
            lambda s, n: one.sessions.create(f"new-{made}-{n}"),
            lambda s, n: driver.create(f"raw-{made}-{n}"),
        ),
        "sessions.get": (lambda s, n: one.sessions.get(s), lambda s, n: raw.rows(_SESSION, s)),
        "sessions.page, of a user": (
            lambda s, n: one.sessions.page(user_id=user, limit=50),
            lambda s, n: raw.rows(_USERS_PAGE, user),
        ),
        "sessions.page": (lambda s, n: one.sessions.page(limit=50), lambda s, n: raw.rows(_ALL_PAGE)),
        "sessions.fork": (
            lambda s, n: one.sessions.fork(s, f"fork-{made}-{n}"),
            lambda s, n: (raw.rows(_SESSION, s), raw.rows(_STATE, s), driver.create(f"raw-fork-{made}-{n}")),
        ),
        "sessions.load": (lambda s, n: one.sessions.load(s), load),
        "state.get": (lambda s, n: one.state.get(s, "key-3"), lambda s, n: driver.get(s, "key-3")),
        "state.set": (
            lambda s, n: one.state.set(s, "key-3", data.STATE_VALUES[n % 256]),
            lambda s, n: driver.set(s, "key-3", data.STATE_VALUES[n % 256]),
        ),
        "cache.get": (lambda s, n: one.cache.get(_cached(s)), lambda s, n: driver.cache_get(_cached(s))),
        "cache.set": (
            lambda s, n: one.cache.set(_cached(s), data.CACHE_VALUES[n % 256]),
            lambda s, n: driver.cache_set(_cached(s), data.CACHE_VALUES[n % 256]),
        ),
        "turn": (turn, raw_turn),
    }


def _cached(session_id: str) -> str:
    return session_id.replace("grown-", "cached-")


def _entry_id(raw: Raw, session_id: str) -> str:
    number = session_id.removeprefix("grown-")
    return f"entry-{int(number) * grown.ENTRIES_EACH + 4}" if raw._sqlite else f"entry-{number}-5"


class Side:
    """One of the two databases, with a store and a driver on it."""

    def __init__(self, url: str, entries: int) -> None:
        self.url, self.entries = url, entries
        self.figures = grown.sizes(entries)
        begun = time.monotonic()
        grown.grow(url, entries, cached=max(entries // 10, self.figures["talking"]))
        self.filled = time.monotonic() - begun
        self.store = StateStore.open(url, cache_max_entries=None, durability="full", timeout=300)
        self.raw = Raw(url)
        self.works = works(self.store, self.raw, self.figures["users"])

    def close(self) -> None:
        self.raw.subject.close()
        self.store.close()

    def session(self, chosen: random.Random) -> str:
        return f"grown-{chosen.randrange(self.figures['talking'])}"


@contextmanager
def statements(store: StateStore) -> Iterator[list[tuple[str, Any]]]:
    """The statements that a store executes meanwhile, with their parameters."""
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        # Of one that is run for several rows, the first will do.
        seen.append((statement, parameters[0] if isinstance(parameters, list) else parameters))

    event.listen(store._database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(store._database.engine, "before_cursor_execute", note)


_SCANNED = re.compile(r"Seq Scan on (?:\w+\.)?(\w+)")
# Also by an index of which only the namespace is known.
_SCANNED_SQLITE = re.compile(r"^(?:SCAN (\w+)(?! USING)|SEARCH (\w+) USING .*\(namespace=\?\)$)")
TABLES = frozenset(
    {
        *("sessions", "session_segments", "history_entries", "summaries", "state_entries", "session_lists"),
        *("session_list_items", "cache_entries", "cache_tags", "usage_ledger"),
    }
)


def scans(url: str, seen: list[tuple[str, Any]], *, generic: bool = False) -> list[str]:
    """The tables that statements read from end to end."""
    found = []
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            for sql, parameters in seen:
                with suppress(sqlite3.OperationalError):
                    plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters or {}).fetchall()
                    aliases = {alias: table for table, alias in re.findall(r"\b(\w+) AS (\w+)", sql)}
                    for *_, line in plan:
                        name = _SCANNED_SQLITE.match(line)
                        alias = name and (name[1] or name[2])
                        table = aliases.get(alias, alias)
                        if table in TABLES:
                            found.append(table)
        return found
    with psycopg.connect(url, autocommit=True) as connection:
        if generic:
            connection.execute("SET plan_cache_mode = force_generic_plan")
        for sql, parameters in seen:
            if not re.match(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b", sql):
                continue
            plan = connection.execute(f"EXPLAIN {sql}".encode(), parameters or None, prepare=True).fetchall()
            found += [name for (line,) in plan for name in _SCANNED.findall(line) if name in TABLES]
    return found


def _timed(do: Do, session_id: str, number: int) -> float:
    begun = time.perf_counter()
    do(session_id, number)
    return time.perf_counter() - begun


def measure(small: Side, large: Side, rounds: int) -> dict[str, Any]:
    """Each operation in both databases, in turns with the driver alone."""
    table = {}
    chosen = random.Random(7)
    for name in small.works:
        times: dict[tuple[str, str], list[float]] = {}
        for number in range(-20, rounds):
            for side, size in ((small, "small"), (large, "large")):
                session_id = side.session(chosen)
                # Each is the first half of the time: the other finds its pages in memory.
                order = ("own", "raw") if number % 2 else ("raw", "own")
                for who in order:
                    session_id = side.session(chosen)
                    took = _timed(side.works[name][who == "raw"], session_id, number + 100)
                    if number >= 0:
                        times.setdefault((who, size), []).append(took)
        with statements(large.store) as seen:
            large.works[name][0](large.session(chosen), rounds + 1000)
        median = {f"{who} {size}": statistics.median(found) * 1000 for (who, size), found in times.items()}
        own = median["own large"] / median["own small"]
        driver = median["raw large"] / median["raw small"]
        table[name] = {
            **{key: round(value, 4) for key, value in median.items()},
            "own growth": round(own, 2),
            "raw growth": round(driver, 2),
            "of the driver's": round(own / driver, 2),
            "scans": sorted(set(scans(large.url, seen))),
        }
        print(f"  {name}: {table[name]}", flush=True)
    return table


def sizes_of(side: Side) -> dict[str, Any]:
    """Bytes per entry, and what an append writes to the log."""
    appends = 1000
    chosen = random.Random(3)
    if side.url.startswith("sqlite"):
        path = Path(side.url.removeprefix("sqlite:///"))
        return {"bytes per entry with all else": round(path.stat().st_size / side.entries)}
    with psycopg.connect(side.url, autocommit=True) as connection:

        def ask(sql: str) -> Any:
            (found,) = connection.execute(sql.encode()).fetchone() or (None,)
            return found

        table = ask("SELECT pg_table_size('statestore.history_entries')") / side.entries
        indexes = ask("SELECT pg_indexes_size('statestore.history_entries')") / side.entries
        connection.execute("CHECKPOINT")
        for number in range(100):
            side.store.history.append("grown-1", [data.message(number)])
        before = ask("SELECT pg_current_wal_insert_lsn()")
        for number in range(appends):
            side.store.history.append("grown-1", [data.message(number)])
        warm = float(ask(f"SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{before}')")) / appends
        connection.execute("CHECKPOINT")
        before = ask("SELECT pg_current_wal_insert_lsn()")
        for number in range(appends):
            side.store.history.append(side.session(chosen), [data.message(number)])
        cold = float(ask(f"SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{before}')")) / appends
    return {
        "bytes per entry, table": round(table),
        "bytes per entry, indexes": round(indexes),
        "WAL per append to one session, bytes": round(warm),
        "WAL per append to any session after a checkpoint, bytes": round(cold),
    }


def run(database: str, entries: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Everything on one database."""
    if database == "sqlite":
        urls = [f"sqlite:///{folder / 'small.db'}", f"sqlite:///{folder / 'large.db'}"]
        return _sides(urls, entries, rounds, f"SQLite {sqlite3.sqlite_version}")
    settings = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
    with (
        start_server(settings=settings, directory=folder) as server,
        server.database() as small,
        server.database() as large,
        psycopg.connect(server.url(small)) as connection,
    ):
        (version,) = connection.execute("SHOW server_version").fetchone() or ("",)
        return _sides([server.url(small), server.url(large)], entries, rounds, f"PostgreSQL {version}")


def _sides(urls: list[str], entries: int, rounds: int, version: str) -> dict[str, Any]:
    small, large = Side(urls[0], min(SMALL, entries)), Side(urls[1], entries)
    print(f"{version}: filled in {small.filled:.0f} and {large.filled:.0f} s", flush=True)
    try:
        operations = measure(small, large, rounds)
        sizes = sizes_of(large)
        small.close()
        large.close()
        return {
            "version": version,
            "operations": operations,
            "sizes": sizes,
            "works": list(big_work.measure(large.url, entries)),
            "filled": round(large.filled),
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
    finally:
        small.close()
        large.close()


def page(results: dict[str, Any]) -> str:
    """docs/big.md."""
    lines = [
        "# Millions of entries",
        "",
        "Written by `./run bench --big`; do not edit. What each operation of a request takes in a database of",
        f"{SMALL:,} history entries, and in one of the number given: entries of 1 KB, 20 to a session; as many",
        "sessions again without any; eight state keys to a session; a cached entry for every ten history entries.",
        "Medians in milliseconds, on sessions picked at random. Beside it is the driver alone, with a prepared",
        "statement or two for the same rows, measured in turns. The last ratio is that of the two growths; the goal",
        f"is at most {GOAL}. Operations that write wait for the disk, by which their ratios vary. A table that has no",
        "rows here is read from end to end, since that takes nothing; `tests/contract/test_plans.py` fills them all.",
        "",
        f"{results['date']} · {results['machine']} · Python {results['python']} · statestore {results['statestore']}",
    ]
    for found in results["databases"]:
        lines += [
            "",
            f"## {found['version']}, {found['entries']:,} entries",
            "",
            "| Operation | few | many | growth | driver, few | driver, many | growth | ratio | read from end to end |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, row in found["operations"].items():
            scanned = ", ".join(row["scans"]) or "nothing"
            figures = [f"{row[key]:.3f}" for key in ("own small", "own large")]
            driver = [f"{row[key]:.3f}" for key in ("raw small", "raw large")]
            lines.append(
                f"| `{name}` | {' | '.join(figures)} | {row['own growth']:.2f} | {' | '.join(driver)}"
                f" | {row['raw growth']:.2f} | {row[_OF_DRIVER]:.2f} | {scanned} |"
            )
        within = sum(row[_OF_DRIVER] <= GOAL for row in found["operations"].values())
        lines += ["", f"{within} of {len(found['operations'])} are within the goal. {_facts(found)}"]
        if found.get("works"):
            lines += ["", *big_work.table(found["works"])]
        if found.get("note"):
            lines += ["", found["note"]]
    return "\n".join(lines) + "\n"


_OF_DRIVER = "of the driver's"


def _facts(found: dict[str, Any]) -> str:
    sizes = "; ".join(f"{name}: {value:,}" for name, value in found["sizes"].items())
    return f"{sizes}; memory of the process at its most: {found['memory']} MB; filled in {found['filled']} s."


def main(entries: int, rounds: int, databases: list[str], *, write: bool) -> None:
    results: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        "statestore": __version__,
        "databases": [],
    }
    kept = orjson.loads(RESULTS.read_bytes())["databases"] if RESULTS.exists() else []
    RESULTS.parent.mkdir(exist_ok=True)
    for database in databases:
        with TemporaryDirectory(prefix="big-", dir=os.environ.get("STATESTORE_BENCH_DIRECTORY")) as folder:
            os.chmod(folder, 0o755)  # The server runs as another user where we are root.
            found = run(database, entries, rounds, Path(folder))
        kept = [one for one in kept if one["database"] != database]
        kept.append({"database": database, "entries": entries, **found})
        results["databases"] = sorted(kept, key=lambda one: str(one["database"]))
        # Now: whoever ends this during the next one keeps what was measured.
        RESULTS.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))
    text = page(results)
    print(text)
    if write:
        PAGE.write_text(text)
