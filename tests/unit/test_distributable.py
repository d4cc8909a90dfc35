"""Statements that a PostgreSQL distributed by namespace takes, and what it would refuse."""

from collections.abc import Iterator
from itertools import product
from typing import Any, TypeAlias

import psycopg
import pytest

from statestore.engine.sql import Dialect, Statement
from statestore.repositories.cache import counters as cache_counters
from statestore.repositories.cache import statements as cache_statements
from statestore.repositories.history import append_batches, appending
from statestore.repositories.sessions import lifecycle, session_rows
from statestore.repositories.state import statements as state_statements
from statestore.repositories.state.scopes import SESSION, USER
from tests.postgres import PostgresServer
from tests.statements.collecting import collect
from tests.statements.distributable import Catalog, refused

Server: TypeAlias = tuple[psycopg.Connection[Any], Catalog]

# Reads about all namespaces, which ask every server.
EVERYWHERE = {"expiry.namespaces._NAMESPACES"}

# Statements that read a table after a step that has written it, and what that changes.
READ_AFTERWARDS = {
    "append ('part',)": "the session that a part belongs to, which the step does not write",
    "append ('at', 'new', 'same', 'leased', 'priced', 'part')": "likewise",
    "history.append_batches._statement": "likewise; if it is in the batch, its end has moved by then",
    "cache.base._WRITE_PENDING": "keys and versions, and the step writes counts",
    "expiry.erasure._REMOVE_MANY": "sessions that the step has not locked, and so not deleted",
    "history.ranges._TRIM": "used only if no step has written anything",
    "rollup.totals._ADD['postgresql'][0]": "whether a row is there, which the step does not alter",
    "usage.records._AT_ONCE": "what is stored, which is not looked at if the step has added it",
    "usage.records._AT_ONCE_PRICED": "likewise",
}
_AFTERWARDS = {"the statement itself reads a table that a step before it has written"}

_HERE = "namespace = :namespace AND session_id = :session_id"
_SESSION = "UPDATE $sessions AS s SET %s WHERE s.namespace = :namespace AND s.session_id = :session_id{}"
_INSERT = "INSERT INTO $store_settings AS o (namespace, name, value) VALUES (:namespace, 'a', {}) {}"
_CLAIM = """INSERT INTO $cache_claims AS c (namespace, key, token, claimed_until)
    VALUES (:namespace, :key, :token, now()) ON CONFLICT (namespace, key) DO UPDATE SET {}"""
_AT_HOME = """WITH made AS ({} RETURNING s.session_id),
    added AS (INSERT INTO $cache_claims SELECT home.namespace, '', '', now()
    FROM made JOIN $sessions AS home ON home.namespace = :namespace AND home.session_id = :session_id) SELECT 1"""
_DOUBLE = "WITH {}, added AS (INSERT INTO $cache_claims SELECT :namespace, '', '', now()) SELECT 1 FROM {}"


@pytest.fixture(scope="module")
def server(postgres: PostgresServer, template_database: str) -> Iterator[Server]:
    with (
        postgres.database(template=template_database) as name,
        psycopg.connect(postgres.url(name), autocommit=True) as connection,
    ):
        yield connection, Catalog.of(connection)


def variants() -> Iterator[tuple[str, Statement]]:
    """The shapes of statements that have forms of their own beside the one that docs/sql shows."""
    for values, only_if, limited_by in product(
        ("one", "several", "varied"), (None, "missing", "present", "version"), (None, "entries", "bytes")
    ):
        if only_if is None or values == "one":
            one = cache_statements.set_postgresql(values=values, only_if=only_if, limited_by=limited_by)
            yield f"cache set of {values}, if {only_if}, limited by {limited_by}", one
    for tagged, described in product((False, True), repeat=2):
        yield "cache set", cache_statements.set_one_postgresql(tagged=tagged, described=described)
        yield "cache replace", cache_statements.replace_one_postgresql(tagged=tagged, described=described)
    flags = ("at", "new", "same", "leased", "priced", "part")
    for chosen in ((), *((flag,) for flag in flags), flags):
        one = appending._postgresql(2, ("created_at",), **{flag: flag in chosen for flag in flags})
        yield f"append {chosen}", one
    for checked in (False, True):
        yield "session update", session_rows.update_statement(("title", "ttl"), checked)
    for ends in (False, True):
        yield "count", cache_counters._count(ends=ends)
        yield "set number", cache_counters._set_number(ends=ends)
    for scope, alone, missing in product((SESSION, USER), (False, True), (False, True)):
        yield f"set many of {scope.name}", state_statements.set_many(scope, 2, alone, missing)
    for to, leased, repeated in product(("ready", "busy", "dead"), (False, True), (False, True)):
        yield "set status", lifecycle._set_status(to, leased, repeated)


def looked_at(name: str, problems: set[str]) -> bool:
    return name in READ_AFTERWARDS and problems == _AFTERWARDS


def test_no_shape_of_a_statement_is_refused(server: Server) -> None:
    dialect = Dialect("postgresql", distributed=True)
    problems = {name: problem for name, one in variants() if (problem := refused(*server, one.render(dialect)))}
    assert {name: problem for name, problem in problems.items() if not looked_at(name, problem)} == {}


def test_every_statement_can_be_distributed(server: Server) -> None:
    dialect = Dialect("postgresql", distributed=True)
    found = {f"{one.module}.{one.name}": one.statement.render(dialect) for one in collect()}
    problems = {
        name: problem
        for name, sql in found.items()
        if sql and (problem := refused(*server, sql)) and not looked_at(name, problem)
    }
    assert problems.keys() == EVERYWHERE, problems
    assert {each for name in EVERYWHERE for each in problems[name]} == {
        f"no namespace is given for {alias}" for alias in ("c", "s")
    }


# Each form that Citus refuses, and beside it what is written instead.
@pytest.mark.parametrize(
    ("problem", "refuses", "takes"),
    [
        (
            "a stable function of a column in UPDATE",
            _SESSION.format("") % "expires_at = now() + s.ttl",
            _SESSION.format("") % "expires_at = (now() AT TIME ZONE 'UTC' + s.ttl) AT TIME ZONE 'UTC'",
        ),
        (
            "a stable function of a column in the WHERE of a write",
            _SESSION.format(" AND s.created_at + s.ttl < now()") % "title = NULL",
            _SESSION.format(" AND (s.created_at AT TIME ZONE 'UTC' + s.ttl) AT TIME ZONE 'UTC' < now()")
            % "title = NULL",
        ),
        (
            "a volatile function in UPDATE",
            _SESSION.format("") % "created_at = clock_timestamp()",
            _SESSION.format("") % "created_at = statement_timestamp()",
        ),
        (
            "a volatile function in the WHERE of a write",
            _SESSION.format(" AND random() < 0.5") % "title = NULL",
            _SESSION.format(" AND CAST(:dice AS float) < 0.5") % "title = NULL",
        ),
        (
            "CASE or COALESCE of what is not immutable in UPDATE",
            _SESSION.format("") % "created_at = coalesce(CAST(:at AS timestamptz), now())",
            "UPDATE $sessions AS s SET created_at = n.at FROM (SELECT coalesce(CAST(:at AS timestamptz), now()) AS at)"
            " AS n WHERE s.namespace = :namespace",
        ),
        (
            "CASE or COALESCE of what is not immutable in the WHERE of a write",
            _SESSION.format(" AND coalesce(s.expires_at > now(), true)") % "title = NULL",
            _SESSION.format(" AND (s.expires_at > now()) IS NOT FALSE") % "title = NULL",
        ),
        (
            "RETURNING computes what is not immutable",
            f"DELETE FROM $sessions WHERE {_HERE} RETURNING expires_at > now()",
            f"WITH gone AS (DELETE FROM $sessions WHERE {_HERE} RETURNING expires_at)"
            " SELECT expires_at > now() FROM gone",
        ),
        (
            "RETURNING computes what is not immutable",
            _SESSION.format(" RETURNING CAST(pg_notify('a', '') AS text)") % "title = NULL",
            f"WITH changed AS ({_SESSION.format(' RETURNING s.session_id') % 'title = NULL'})"
            " SELECT pg_notify('a', '') FROM changed",
        ),
        ("a subquery inside INSERT", _INSERT.format("(SELECT 1)", ""), _INSERT.format("1", "")),
        (
            "a subquery inside INSERT",
            f"WITH x AS (SELECT 1 AS y) {_INSERT.format('1', 'RETURNING (SELECT y FROM x)')}",
            f"WITH x AS (SELECT 1 AS y), o AS ({_INSERT.format('1', 'RETURNING 1')}) SELECT x.y FROM x, o",
        ),
        (
            "ON CONFLICT computes what is not immutable",
            _CLAIM.format("token = '' WHERE c.claimed_until < now()"),
            _CLAIM.format("token = '' WHERE c.claimed_until < excluded.claimed_until"),
        ),
        (
            "ON CONFLICT computes what is not immutable",
            _CLAIM.format("claimed_until = now()"),
            _CLAIM.format("claimed_until = excluded.claimed_until"),
        ),
        (
            "no namespace is given for s",
            "SELECT 1 FROM $sessions AS s WHERE s.namespace = (SELECT CAST(:namespace AS text)) FOR UPDATE",
            "SELECT 1 FROM $sessions AS s WHERE s.namespace = :namespace FOR UPDATE",
        ),
        (
            "no namespace is given for x",
            "SELECT (SELECT count(*) FROM $summaries AS x WHERE x.namespace = s.namespace) FROM $sessions AS s"
            " WHERE s.namespace = :namespace",
            "SELECT (SELECT count(*) FROM $summaries AS x WHERE x.namespace = :namespace) FROM $sessions AS s"
            " JOIN $summaries AS m ON m.namespace = s.namespace WHERE s.namespace = :namespace",
        ),
        (
            "no namespace is given for p",
            """WITH RECURSIVE up (id) AS (SELECT s.session_id FROM $sessions AS s WHERE s.namespace = :namespace
                UNION SELECT p.parent_session_id FROM up
                JOIN $sessions AS p ON p.session_id = up.id) SELECT * FROM up""",
            """WITH RECURSIVE up (id) AS (SELECT s.session_id FROM $sessions AS s WHERE s.namespace = :namespace
                UNION SELECT p.parent_session_id FROM up
                JOIN $sessions AS p ON p.namespace = :namespace AND p.session_id = up.id) SELECT * FROM up""",
        ),
        (
            "LATERAL in DELETE",
            """DELETE FROM $cache_tags AS t USING (SELECT 1 AS a) AS k, LATERAL (SELECT k.a OFFSET 0) AS x
                WHERE t.namespace = :namespace AND t.version = x.a""",
            """DELETE FROM $cache_tags AS t WHERE t.namespace = :namespace AND t.version IN (SELECT 1 OFFSET 0)""",
        ),
        (
            "ctid is taken for a key",
            "DELETE FROM $cache_tags AS t WHERE t.namespace = :namespace AND t.ctid = ANY (array("
            "SELECT x.ctid FROM $cache_tags AS x WHERE x.namespace = :namespace))",
            "DELETE FROM $cache_tags AS t WHERE t.namespace = :namespace AND t.version = ANY (array("
            "SELECT x.version FROM $cache_tags AS x WHERE x.namespace = :namespace))",
        ),
        (
            "a column of type void in a statement that inserts",
            _DOUBLE.format("locked AS MATERIALIZED (SELECT pg_advisory_xact_lock(1))", "locked"),
            _DOUBLE.format("locked AS MATERIALIZED (SELECT CAST(pg_advisory_xact_lock(1) AS text))", "locked"),
        ),
        (
            "INSERT … SELECT … ON CONFLICT counts what it selects, and not what it inserts",
            _INSERT.format("1", "ON CONFLICT DO NOTHING").replace("VALUES (:namespace, 'a', 1)", "SELECT '', 'a', 1"),
            _INSERT.format("1", "ON CONFLICT DO NOTHING RETURNING 1").replace(
                "VALUES (:namespace, 'a', 1)", "SELECT '', 'a', 1"
            ),
        ),
        (
            "the statement itself reads a table that a step before it has written",
            _DOUBLE.format(
                f"gone AS (DELETE FROM $sessions WHERE {_HERE} RETURNING session_id)",
                "$sessions AS s WHERE s.namespace = :namespace",
            ),
            _DOUBLE.format(f"gone AS (DELETE FROM $sessions WHERE {_HERE} RETURNING session_id)", "gone"),
        ),
        (
            "again reads a table that a step before it has written",
            _DOUBLE.format(
                f"gone AS (DELETE FROM $sessions WHERE {_HERE} RETURNING session_id),"
                f" again AS (SELECT session_id FROM $sessions WHERE {_HERE})",
                "again",
            ),
            _DOUBLE.format(
                f"again AS (SELECT session_id FROM $sessions WHERE {_HERE}),"
                f" gone AS (DELETE FROM $sessions WHERE {_HERE} RETURNING session_id)",
                "again",
            ),
        ),
        (
            "added reads a table that a step before it has written",
            _AT_HOME.format("INSERT INTO $sessions AS s (namespace, session_id) VALUES (:namespace, :session_id)"),
            _AT_HOME.format(f"UPDATE $sessions AS s SET title = NULL WHERE {_HERE}"),
        ),
        (
            "a row lock beside another source, in a statement that inserts",
            _DOUBLE.format(
                "held AS (SELECT s.session_id FROM $sessions AS s, unnest(CAST(:ids AS text[])) AS w (id)"
                " WHERE s.namespace = :namespace AND s.session_id = w.id FOR UPDATE OF s)",
                "held",
            ),
            _DOUBLE.format(
                "held AS (SELECT s.session_id FROM $sessions AS s"
                " WHERE s.namespace = :namespace AND s.session_id = ANY (CAST(:ids AS text[])) FOR UPDATE OF s)",
                "held",
            ),
        ),
    ],
)
def test_each_refused_form_is_seen(server: Server, problem: str, refuses: str, takes: str) -> None:
    dialect = Dialect("postgresql", distributed=True)
    assert problem in refused(*server, Statement(refuses).render(dialect))
    assert refused(*server, Statement(takes).render(dialect)) == set()


def test_the_namespace_is_named_where_a_server_is_found_by_it() -> None:
    """Elsewhere it is kept from the statistics: an unknown one would be taken to be empty."""
    statement = Statement("SELECT 1 FROM $cache_tags AS t WHERE t.namespace = $namespace$pin(t)")
    dialect = Dialect("postgresql")
    assert statement.render(dialect).endswith("t.namespace = (SELECT CAST(%(namespace)s AS text))")
    dialect.distribute()
    assert statement.render(dialect).endswith("t.namespace = %(namespace)s AND t.namespace = %(namespace)s")
    assert statement.render(Dialect("sqlite")).endswith("t.namespace = :namespace")


@pytest.mark.parametrize(
    "statement",
    [
        appending._postgresql(2, (), at=False, new=False, same=False, leased=False, priced=False, part=False),
        append_batches._statement((), priced=False),
        state_statements.set_many(SESSION, 2, alone=False),
        state_statements.SESSION_STATEMENTS.set[False],
        cache_statements.replace_one_postgresql(tagged=True, described=False),
    ],
    ids=["append", "batch", "set many", "set", "cache"],
)
def test_an_insert_runs_where_its_session_is(statement: Statement) -> None:
    """What a CTE has found would be sent to all servers, and committed on all of them in two phases."""
    assert "SELECT home.namespace" in statement.render(Dialect("postgresql", distributed=True))
    assert "home" not in statement.render(Dialect("postgresql"))
