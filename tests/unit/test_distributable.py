"""Statements that a PostgreSQL distributed by namespace takes, and what it would refuse."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from statestore.engine.sql import Dialect, Statement
from tests.statements.collecting import collect
from tests.statements.distributable import Catalog, refused

# About all namespaces: they ask every server, and write nothing.
EVERYWHERE = {
    "expiry.namespaces._NAMESPACES",
    "expiry.namespaces._FIRST_NAME",
    "expiry.namespaces._NEXT_NAME",
}


@pytest.fixture(scope="module")
def server(postgres: Any, template_database: str) -> Iterator[tuple[psycopg.Connection[Any], Catalog]]:
    with (
        postgres.database(template=template_database) as name,
        psycopg.connect(postgres.url(name), autocommit=True) as connection,
    ):
        yield connection, Catalog.of(connection)


def test_every_statement_can_be_distributed(server: Any) -> None:
    dialect = Dialect("postgresql", distributed=True)
    found = {}
    for one in collect():
        if sql := one.statement.render(dialect):
            found[f"{one.module}.{one.name}"] = sorted(refused(*server, sql))
    problems = {name: problem for name, problem in found.items() if problem}
    print(len(found))
    for name, problem in problems.items():
        print(name, problem)
    assert not problems
