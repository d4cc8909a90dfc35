"""Statements: what their tokens become, and that each that is written somewhere can be rendered."""

import gc
import importlib
import pkgutil

import pytest

from statestore import repositories
from statestore.engine.sql import Dialect, DialectName, Statement

DIALECTS: tuple[DialectName, ...] = ("postgresql", "sqlite")


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
        ("$least($greatest(1, 2), 3)", "least(greatest(1, 2), 3)", "min(max(1, 2), 3)"),
        ("'$[0]' || '$' || $1", "'$[0]' || '$' || $1", "'$[0]' || '$' || $1"),
        ("a % :b_array", "a %% %(b_array)b", "a % :b_array"),
    ],
)
def test_tokens_become_what_each_database_takes(sql: str, postgresql: str, sqlite: str) -> None:
    assert (rendered(sql, "postgresql"), rendered(sql, "sqlite")) == (postgresql, sqlite)


@pytest.mark.parametrize("sql", ["SELECT $nwo", "FROM $sessionss", "$later", "$in :ids", "$bytes(x", "$now_us"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_unknown_token_fails_when_the_statement_is_rendered(sql: str, dialect: DialectName) -> None:
    with pytest.raises(ValueError, match="token"):
        rendered(sql, dialect)


def test_every_statement_can_be_rendered() -> None:
    for module in pkgutil.walk_packages(repositories.__path__, "statestore.repositories."):
        importlib.import_module(module.name)
    found = [one for one in gc.get_objects() if isinstance(one, Statement)]
    assert len(found) > 200
    for statement in found:
        for dialect in DIALECTS:
            statement.render(Dialect(dialect))
