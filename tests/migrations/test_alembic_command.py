"""The `alembic` command in a checkout, the SQL that it writes, and new migrations."""

import ast
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from statestore import migrate
from statestore.schema import HEAD_REVISION
from tests.migrations import conftest
from tests.migrations.databases import driver_url, reads_quotes, structure, tables
from tests.support.warm import programs

SQUAWK = shutil.which("squawk", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

NEXT = f"{int(HEAD_REVISION) + 1:04d}"

# What squawk advises against and the design has decided: the limit of 512 characters is part of the contract, and
# PostgreSQL has raised such limits without touching a row since 9.2; a flag of 0 or 1 fits any integer.
DECIDED = "prefer-text-field,prefer-bigint-over-int"


def alembic(
    *arguments: str, url: str | None = None, checkout: Path = conftest.CHECKOUT, cwd: Path = Path("/")
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "STATESTORE_URL"}
    if url is not None:
        environment["STATESTORE_URL"] = url
    python = programs() / "python" if checkout == conftest.CHECKOUT else sys.executable
    command = [python, "-W", "error", "-m", "alembic", "-c", str(checkout / "alembic.ini"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_goes_up_and_down(empty_database_url: str) -> None:
    url = empty_database_url
    succeeded(alembic("-x", f"url={url}", "upgrade", "head"))
    migrate.check(url)
    assert HEAD_REVISION in succeeded(alembic("current", url=url))
    assert "No new upgrade operations" in succeeded(alembic("check", url=url))
    succeeded(alembic("downgrade", "base", url=url))
    assert tables(url) == set()


def test_the_command_takes_a_schema(empty_postgres_url: str) -> None:
    succeeded(alembic("-x", "schema=two words", "upgrade", "head", url=empty_postgres_url))
    migrate.check(empty_postgres_url, schema="two words")


def test_looking_changes_nothing(empty_database_url: str) -> None:
    url = empty_database_url
    assert succeeded(alembic("current", url=url)) == ""
    assert alembic("check", url=url).returncode != 0
    assert tables(url) == set()
    if url.startswith("postgresql"):
        assert migrate.current(url) is None
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'statestore'").fetchall() == []


def test_without_a_url_the_command_takes_the_default(tmp_path: Path) -> None:
    succeeded(alembic("upgrade", "head", cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["statestore.db"]
    migrate.check(f"sqlite:///{tmp_path / 'statestore.db'}")


def test_the_command_shows_no_password(empty_postgres_url: str) -> None:
    password = driver_url(empty_postgres_url).password
    for arguments in (["upgrade", "head"], ["upgrade", "head", "--sql"], ["upgrade", "0815"], ["current", "-v"]):
        done = alembic(*arguments, url=empty_postgres_url)
        assert password not in done.stdout + done.stderr


def test_the_sql_for_sqlite_makes_the_same_schema(empty_sqlite_url: str, tmp_path: Path) -> None:
    script = succeeded(alembic("upgrade", "head", "--sql", url=empty_sqlite_url))
    path = tmp_path / "by-hand.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(script)
    migrate.upgrade(empty_sqlite_url)
    assert structure(f"sqlite:///{path}") == structure(empty_sqlite_url)
    migrate.check(f"sqlite:///{path}")

    back = succeeded(alembic("downgrade", "head:base", "--sql", url=empty_sqlite_url))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(back)
    assert migrate.current(f"sqlite:///{path}") is None
    assert tables(f"sqlite:///{path}") == set()


@pytest.mark.parametrize("schema", ["statestore", pytest.param('Agent "x" 50%', marks=reads_quotes)])
def test_the_sql_for_postgresql_makes_the_same_schema(empty_postgres_url: str, schema: str) -> None:
    url = empty_postgres_url
    script = succeeded(alembic("-x", f"schema={schema}", "upgrade", "head", "--sql", url="postgresql://nowhere/none"))
    run_sql(url, script)
    migrate.check(url, schema=schema)
    assert migrate.differences(url, schema=schema) == []
    by_hand = structure(url, schema)
    back = ("-x", f"schema={schema}", "downgrade", "head:base", "--sql")
    run_sql(url, succeeded(alembic(*back, url="postgresql://nowhere/none")))
    assert tables(url, schema) == set()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema]).fetchall() == []
    migrate.upgrade(url, schema=schema)
    assert structure(url, schema) == by_hand


def run_sql(url: str, script: str) -> None:
    """One statement after the other, as psql does it: an index cannot be built concurrently in a batch."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in filter(str.strip, script.split(";\n\n")):
            connection.execute(statement)  # type: ignore[call-overload]


def squawk(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    assert SQUAWK is not None, "squawk is a development dependency: pip install squawk-cli"
    return subprocess.run(
        [SQUAWK, f"--exclude={DECIDED}", "--pg-version=15.0", *options],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_sql_for_postgresql_passes_squawk() -> None:
    done = squawk(succeeded(alembic("upgrade", "head", "--sql", url="postgresql://nowhere/none")))
    assert done.returncode == 0, done.stdout + done.stderr


def test_squawk_would_object() -> None:
    done = squawk("CREATE INDEX ix ON sessions (title); ALTER TABLE sessions ADD COLUMN colour text NOT NULL;")
    assert done.returncode != 0
    assert "require-concurrent-index-creation" in done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout to write migrations in."""
    for name in ("migrations", "statestore"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(conftest.CHECKOUT / name, tmp_path / "checkout" / name, ignore=ignore)
    shutil.copy(conftest.CHECKOUT / "alembic.ini", tmp_path / "checkout")
    return tmp_path / "checkout"


def test_a_new_migration_starts_from_the_template(checkout: Path) -> None:
    succeeded(alembic("revision", "--rev-id", NEXT, "-m", "add something", checkout=checkout))
    path = checkout / "migrations" / "versions" / f"{NEXT}_add_something.py"
    module = ast.parse(path.read_text())
    assert (ast.get_docstring(module) or "").startswith("Add something.")
    assert f"\noldest_code = '{NEXT}'\n" in path.read_text()
    assert "CONCURRENTLY" not in path.read_text().partition('"""\n')[2].partition("def ")[2]
    assert "statestore" not in {
        node.module for node in ast.walk(module) if isinstance(node, ast.ImportFrom) and node.module
    }


def test_a_new_migration_is_generated_from_a_difference(database_url: str, checkout: Path) -> None:
    model = checkout / "statestore" / "schema" / "tables.py"
    model.write_text(model.read_text() + '\nsessions.append_column(Column("colour", String(16)))\n')
    arguments = ("revision", "--autogenerate", "--rev-id", NEXT, "-m", "add colour")
    succeeded(alembic(*arguments, url=database_url, checkout=checkout))
    generated = (checkout / "migrations" / "versions" / f"{NEXT}_add_colour.py").read_text()
    assert "add_column" in generated
    assert "colour" in generated
    assert "drop_table" not in generated
    succeeded(alembic("upgrade", "head", url=database_url, checkout=checkout))
    assert migrate.current(database_url) == NEXT


def test_the_migrations_come_from_the_checkout_first_and_from_the_package_otherwise(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "statestore"
    shutil.copytree(conftest.CHECKOUT / "statestore", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(conftest.CHECKOUT / "migrations", package / "_migrations")
    # Somebody else's folder of the same name.
    shutil.copytree(conftest.CHECKOUT / "migrations", package.parent / "migrations")

    def found() -> str:
        code = f"from statestore import migrate; migrate.upgrade('sqlite:///{tmp_path}/a.db')"
        code += "; print(migrate.script_location())"
        done = subprocess.run([sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True)
        return succeeded(done).strip()

    assert found() == str(package / "_migrations")
    (package.parent / "alembic.ini").touch()
    assert found() == str(package.parent / "migrations")
    assert migrate.script_location() == conftest.CHECKOUT / "migrations"
