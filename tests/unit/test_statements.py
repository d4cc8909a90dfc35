"""Statements: what their tokens become, and docs/sql, which shows all of them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import statestore
from statestore.engine import calls
from statestore.engine.sql import Dialect, DialectName, Statement
from statestore.engine.sql_parts import arrays, each, numbered, unnest, value_rows
from tests.statements.collecting import collect, is_builder, modules
from tests.statements.pages import DATABASES, pages, readable
from tests.statements.serving import served
from tests.statements.shapes import SHAPES

PACKAGE = Path(statestore.__file__).parent
# The decorators that make a method an operation.
DECLARING = {name for name in vars(calls) if name.startswith(("reads", "writes"))}


def rendered(sql: str, dialect: DialectName) -> str:
    return Statement(sql).render(Dialect(dialect))


@pytest.mark.parametrize(
    ("sql", "postgresql", "sqlite"),
    [
        ("FROM $sessions AS s", 'FROM "statestore".sessions AS s', "FROM sessions AS s"),
        ("x > $now", "x > statement_timestamp()", "x > :now"),
        (
            "$bytes(coalesce(x, $now))",
            "coalesce(octet_length(CAST(coalesce(x, statement_timestamp()) AS text)), 0)",
            "coalesce(length(CAST(coalesce(x, :now) AS blob)), 0)",
        ),
        ("id $in(:ids)", "id = ANY (%(ids)s)", "id IN (SELECT value FROM json_each(:ids))"),
        ("at > $time(:at)", "at > CAST(%(at)s AS timestamptz)", "at > :at"),
        ("$least($greatest(1, 2), 3)", "least(greatest(1, 2), 3)", "min(max(1, 2), 3)"),
        ("'$[0]' || '$' || $1", "'$[0]' || '$' || $1", "'$[0]' || '$' || $1"),
        ("a % :b_array", "a %% %(b_array)b", "a % :b_array"),
    ],
)
def test_tokens_become_what_each_database_takes(sql: str, postgresql: str, sqlite: str) -> None:
    assert (rendered(sql, "postgresql"), rendered(sql, "sqlite")) == (postgresql, sqlite)


@pytest.mark.parametrize("sql", ["SELECT $nwo", "FROM $sessionss", "$later", "$in :ids", "$bytes(x", "$now_us"])
@pytest.mark.parametrize("dialect", DATABASES)
def test_an_unknown_token_fails_when_the_statement_is_rendered(sql: str, dialect: DialectName) -> None:
    with pytest.raises(ValueError, match="token"):
        rendered(sql, dialect)


def test_no_limited_list_may_be_looked_for_again_for_each_row() -> None:
    """PostgreSQL runs what is IN (SELECT … LIMIT …) once or for each row, by what it knows of the table."""
    dialect = Dialect("postgresql")
    again = re.compile(r"\bIN\s*\(\s*SELECT\b(?:[^()]|\([^()]*\))*\bLIMIT\b")
    assert again.search("DELETE FROM t WHERE k IN (SELECT f(k) FROM t ORDER BY k LIMIT %(n)s)")
    shown = {f"{found.module}.{found.name}": found.statement.render(dialect) for found in collect()}
    writing = {name: sql for name, sql in shown.items() if re.search(r"\b(DELETE FROM|UPDATE)\b", sql or "")}
    assert writing
    assert [name for name, sql in writing.items() if again.search(sql)] == []


def test_the_files_hold_the_statements_of_the_code() -> None:
    """Which renders all of them."""
    for path, text in pages().items():
        assert path.exists(), f"there is no {path.name}: write it with ./run sql"
        assert path.read_text() == text, f"docs/sql/{path.name} is out of date: write it anew with ./run sql"


def test_no_statement_is_missing() -> None:
    """In a process of its own: other tests make statements too."""
    code = """if True:
        import gc
        from statestore.engine.sql import Statement
        from tests.statements.collecting import collect
        found = {id(one.statement) for one in collect()}
        missing = [one for one in gc.get_objects() if isinstance(one, Statement) and id(one) not in found]
        print(len(missing), len(found))
    """
    missing, found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert (missing, int(found) > 200) == ("0", True)


def test_no_module_with_operations_or_statements_is_left_out() -> None:
    """Wherever in the package it is: `ROOMS` in tests/statements/collecting.py names the packages."""
    collected = {str(module.__file__) for module in modules()}
    assert {str(path) for path in PACKAGE.rglob("*.py") if runs_sql(path)} <= collected
    assert runs_sql(PACKAGE / "reports" / "queries.py")


def runs_sql(path: Path) -> bool:
    """Whether a module makes a `Statement`, or declares an operation with a decorator of `engine/calls.py`."""
    source = path.read_text()
    if "Statement" not in source and "engine.calls" not in source:
        return False
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _last_name(node.func) == "Statement":
            return True
        if isinstance(node, ast.FunctionDef) and DECLARING & set(map(_last_name, node.decorator_list)):
            return True
    return False


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def test_each_builder_of_statements_is_shown_for_a_shape() -> None:
    builders = {value for module in modules() for value in vars(module).values() if is_builder(value)}
    assert builders == set(SHAPES), "tests/statements/shapes.py names them"


def test_each_statement_serves_an_operation() -> None:
    operations = served()
    found = [one for one in collect() if not one.name.startswith("LISTENING.")]
    assert not [(one.module, one.name) for one in found if id(one.builder or one.statement) not in operations]


def test_operations_are_found_however_they_come_to_a_statement() -> None:
    operations = served()
    of = {f"{one.module}.{one.name}": operations.get(id(one.builder or one.statement), {}) for one in collect()}
    assert "HistoryRepository.append" in of["history.append_batches._statement"]  # by its batches
    assert "CacheRepository.set" in of["cache.eviction._EXPIRED.within"]  # by methods that it inherits
    assert "LeasesRepository.renew" in of["sessions.session_rows._LEASE"]  # by a function of another module
    assert "PageRepository.labels" in of["reports.queries._LABELS"]  # above the repositories
    assert "UserStateRepository.get" in of["state.statements.USER_STATEMENTS.get"]  # on tables of another owner's
    assert list(of["expiry.dry_run._CACHE"]) == ["DryRunRepository.due"]


def test_operations_are_named_as_their_callers_know_them() -> None:
    names = {method: name for methods in served().values() for method, name in methods.items()}
    assert names["CacheRepository.get"] == "cache.get"
    assert names["UserStateRepository.get"] == "user_state.get"
    assert names["AppStateRepository.keys"] == "app_state.keys"
    assert names["CacheClaims.claim"] == "cache.get_or_compute"


def test_a_statement_is_shown_as_it_is_sent_but_for_white_space() -> None:
    for one in collect():
        for dialect in DATABASES:
            sql = one.statement.render(Dialect(dialect))
            assert readable(sql).split() == sql.split()
            assert readable(sql).split("'")[1::2] == sql.split("'")[1::2]


def test_parts_repeat_by_name_and_by_number() -> None:
    rows = [{"key": "a", "value": 1}, {"key": "b"}]
    assert each("{0} = excluded.{0}", ("key", "value")) == "key = excluded.key, value = excluded.value"
    assert value_rows("(#, :key_#)", 2) == "(0, :key_0), (1, :key_1)"
    assert numbered(rows, ("key", "value")) == {"key_0": "a", "value_0": 1, "key_1": "b", "value_1": None}
    assert unnest("n", {"key": "text"}) == "unnest(CAST(:key_array AS text[])) AS n (key)"
    assert unnest("n", {"key": "text", "value": "json"}, "new_{}", ordinal="place") == (
        "unnest(CAST(:new_key AS text[]), CAST(:new_value AS json[])) WITH ORDINALITY AS n (key, value, place)"
    )
    assert arrays(rows, ("key", "value"), "new_{}") == {"new_key": ["a", "b"], "new_value": [1, None]}
