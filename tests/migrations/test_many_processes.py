"""Several migrators at once. They are processes: threads of one process take turns anyway."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from statestore import migrate
from statestore.schema import HEAD_REVISION, VERSION_TABLE
from tests.migrations import conftest
from tests.migrations.conftest import AddMigration
from tests.migrations.databases import TABLES, connected, rows, structure, tables
from tests.support.warm import programs

PROCESSES = 8

# Says that it is ready, waits for the word, and then does the work, so that all of them start together.
MIGRATOR = """
import pathlib, sys
from statestore import migrate
import alembic.command, sqlalchemy.dialects.postgresql
url, scripts = sys.argv[1:]
migrate.script_location = lambda: pathlib.Path(scripts)
print("ready", flush=True)
sys.stdin.readline()
migrate.upgrade(url, progress=print)
"""


def run_together(url: str, scripts: Path) -> list[str]:
    """Upgrade in several processes at once. The lines that they all printed."""
    command = [programs() / "python", "-W", "error", "-c", MIGRATOR, url, str(scripts)]
    processes = [
        subprocess.Popen(
            command,
            cwd=conftest.CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    lines = []
    with ThreadPoolExecutor(PROCESSES) as pool:
        for process, (output, problems) in zip(
            processes, pool.map(lambda process: process.communicate("go\n", timeout=60), processes), strict=True
        ):
            assert (process.returncode, problems) == (0, "")
            lines += output.splitlines()
    return lines


def applied(lines: list[str]) -> list[str]:
    return [line.partition(":")[0].removeprefix("applied ") for line in lines]


def test_eight_processes_on_an_empty_database_make_one_schema(empty_database_url: str, tmp_path: Path) -> None:
    url = empty_database_url
    lines = run_together(url, conftest.CHECKOUT / "migrations")
    assert applied(lines) == [revision.revision for revision in migrate.history()]
    assert tables(url) == {*TABLES, VERSION_TABLE}
    migrate.check(url)
    assert migrate.differences(url) == []
    if url.startswith("sqlite"):
        assert rows(url, "PRAGMA journal_mode") == [("wal",)]
        assert rows(url, "PRAGMA integrity_check") == [("ok",)]


def test_an_index_is_built_concurrently_while_other_migrators_wait(
    empty_postgres_url: str, scripts: Path, add_migration: AddMigration
) -> None:
    # Waiters in a blocked statement would hold a snapshot, and the index would wait for them, as they for it.
    add_migration(conftest.ADD_INDEX_CONCURRENTLY)
    last = add_migration(conftest.ADD_COLUMN)
    lines = run_together(empty_postgres_url, scripts)
    assert applied(lines) == [revision.revision for revision in migrate.history()]
    assert migrate.current(empty_postgres_url) == last
    [index] = [row for row in structure(empty_postgres_url)["indexes"] if "ix_later" in row[1]]
    assert index[-1] == "True"


def test_two_schemas_of_one_database_do_not_wait_for_each_other(empty_postgres_url: str) -> None:
    # Up to where no index is built concurrently: that waits for every transaction that is open in the database.
    with connected(empty_postgres_url) as other:
        migrate.upgrade(other, "0004", schema="other")
        migrate.upgrade(empty_postgres_url, "0004", wait=timedelta(0))
    migrate.upgrade(empty_postgres_url)
    migrate.upgrade(empty_postgres_url, schema="other")


def test_a_migrator_that_is_killed_leaves_no_lock(
    empty_postgres_url: str, scripts: Path, add_migration: AddMigration
) -> None:
    revision = add_migration(KILL_ITSELF)
    command = [programs() / "python", "-c", MIGRATOR, empty_postgres_url, str(scripts)]
    killed = subprocess.run(command, cwd=conftest.CHECKOUT, input="go\n", capture_output=True, text=True, check=False)
    assert killed.returncode == -9
    assert migrate.current(empty_postgres_url) == HEAD_REVISION
    (scripts / "versions" / f"{revision}_later.py").unlink()
    add_migration(conftest.ADD_COLUMN)
    migrate.upgrade(empty_postgres_url)
    assert migrate.current(empty_postgres_url) == revision


KILL_ITSELF = """
def upgrade():
    import os
    import signal

    op.create_table("halfway", sa.Column("id", sa.Integer()), schema=op.get_context().version_table_schema)
    os.kill(os.getpid(), signal.SIGKILL)


def downgrade():
    pass
"""


def test_alembic_is_imported_only_when_a_migration_runs(sqlite_url: str) -> None:
    code = f"import sys; from statestore import migrate; migrate.check({sqlite_url!r}); print('alembic' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=conftest.CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
