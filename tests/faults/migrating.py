"""Migrations that are killed in the middle."""

import multiprocessing
import random
import time
from pathlib import Path

from sqlalchemy import make_url, text

from statestore import StateStore, StateStoreError, migrate, schema
from tests.faults.bench import Bench
from tests.faults.processes import die_with_parent
from tests.faults.table import Tally, fault
from tests.migrations.databases import connected, structure


@fault("migration killed", worlds=("sync",), short=2, long=40, control="steps without a transaction", control_rounds=1)
def migration_killed(bench: Bench) -> Tally:
    """A process makes the tables, or brings them up to date, and is killed; the next one finds its way from there."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["statestore.migrate", "psycopg", "alembic.command"])
    tally = Tally(rounds=bench.rounds)
    expected = structure(bench.url())
    revisions = [revision.revision for revision in migrate.history()]
    for number in bench.each_round():
        url = _empty(bench)
        start = random.choice([None, *revisions[:-1]]) if number % 2 else None
        if start is not None:
            migrate.upgrade(url, start)
        if bench.unsafe:
            _without_transaction(url)
        else:
            process = forks.Process(target=_upgrade, args=(url,), daemon=True)
            process.start()
            time.sleep(random.random() * 0.6)
            process.kill()
            process.join()
            process.close()
        try:
            migrate.upgrade(url)
            if structure(url) != expected:
                tally.is_wrong("the tables differ from those that were made at once")
            with StateStore.open(url) as store:
                store.history.append("s", [{"role": "user", "content": str(number)}], create=True)
                tally.acknowledged += 1
            with StateStore.open(url) as store:
                tally.lost += store.history.count("s") != 1
        except StateStoreError as exc:
            tally.is_wrong(f"after a killed migration: {type(exc).__name__}: {exc}")
        except Exception as exc:
            tally.is_wrong(f"after a killed migration: raw {type(exc).__name__}: {str(exc)[:200]}")
    return tally


def _upgrade(url: str) -> None:
    die_with_parent()
    migrate.upgrade(url)


def _empty(bench: Bench) -> str:
    url = bench.url()
    if bench.database == "sqlite":
        path = Path(str(make_url(url).database))
        path.unlink()
        return url
    _execute(url, "DROP SCHEMA statestore CASCADE")
    return url


def _execute(url: str, statement: str) -> None:
    with connected(url) as connection:
        connection.execute(text(statement))


def _without_transaction(url: str) -> None:
    """What is left where each step stands alone: the tables are there, and that they are was not noted any more."""
    migrate.upgrade(url)
    prefix = "" if url.startswith("sqlite") else "statestore."
    _execute(url, f"DELETE FROM {prefix}{schema.VERSION_TABLE}")
