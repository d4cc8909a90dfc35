"""What a PostgreSQL that is distributed by namespace, with Citus, refuses in a statement.

Its rules are about the functions in a statement, the operators' included, and about where its tables are: hence they
are asked of PostgreSQL's own trees (see `trees`), which say of each operator which function it is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from statestore.schema import distribution, metadata
from tests.statements.trees import Node, children, tree_of, walk

SELECT, UPDATE, INSERT, DELETE = "1", "2", "3", "4"
_RELATION, _SUBQUERY = "0", "1"
_TID, _VOID = "27", "2278"
# What a node runs: the field with the function's oid, by the node's kind.
_RUNS = {
    "FUNCEXPR": "funcid",
    "OPEXPR": "opfuncid",
    "DISTINCTEXPR": "opfuncid",
    "NULLIFEXPR": "opfuncid",
    "SCALARARRAYOPEXPR": "opfuncid",
    "AGGREF": "aggfnoid",
    "WINDOWFUNC": "winfnoid",
}


@dataclass(frozen=True)
class Catalog:
    """What PostgreSQL knows of functions and of our tables, by oid."""

    volatile: frozenset[str]
    stable: frozenset[str]
    distributed: dict[str, str]
    """The tables with a namespace, and that column's number."""
    copied: frozenset[str]
    views: frozenset[str]

    @classmethod
    def of(cls, connection: psycopg.Connection[Any]) -> "Catalog":
        def oids(sql: str, *params: Any) -> frozenset[str]:
            return frozenset(str(oid) for (oid,) in connection.execute(sql, params))

        ours = [table for table in metadata.tables if table not in distribution.COPIED]
        kind = "SELECT oid FROM pg_class WHERE relnamespace = CAST('statestore' AS regnamespace) AND relkind = "
        columns = connection.execute(
            "SELECT attrelid, attnum FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid"
            " WHERE c.relnamespace = CAST('statestore' AS regnamespace) AND attname = 'namespace'"
            " AND relname = ANY (%s)",
            [ours],
        )
        return cls(
            volatile=oids("SELECT oid FROM pg_proc WHERE provolatile = 'v'"),
            stable=oids("SELECT oid FROM pg_proc WHERE provolatile = 's'"),
            distributed={str(table): str(column) for table, column in columns},
            copied=oids(f"{kind} 'r' AND relname = ANY (%s)", list(distribution.COPIED)),
            views=oids(f"{kind} 'v'"),
        )


def refused(connection: psycopg.Connection[Any], catalog: Catalog, rendered: str) -> set[str]:
    """What is refused of a statement, in words; nothing if it can be run."""
    found: set[str] = set()
    for tree in tree_of(connection, rendered):
        queries = [node for node in walk(tree) if node.kind == "QUERY"]
        inserts = any(query["commandType"] == INSERT for query in queries)
        found |= set(_of_place(tree, catalog, None))
        for query in queries:
            found |= set(_of_query(query, catalog))
            if inserts:
                found |= set(_of_steps(query))
        if inserts:
            found |= set(_of_order(tree, catalog))
        if tree["commandType"] == INSERT and tree["onConflict"] and _selects(tree) and not tree["returningList"]:
            found.add("INSERT … SELECT … ON CONFLICT counts what it selects, and not what it inserts")
    return found


def _of_query(query: Node, catalog: Catalog) -> Iterator[str]:
    command = query["commandType"]
    targets = [entry["expr"] for entry in query["targetList"] or [] if not entry.is_set("resjunk")]
    conditions = query["jointree"]["quals"] if query["jointree"] else None
    if command == UPDATE:
        yield from _computed(targets, catalog, "UPDATE")
    if command in (UPDATE, DELETE):
        yield from _computed([conditions], catalog, "the WHERE of a write")
    if command in (UPDATE, INSERT, DELETE):
        if _runs(query["returningList"], catalog.volatile | catalog.stable):
            yield "RETURNING computes what is not immutable"
        if any(var["vartype"] == _TID for var in _inside(conditions) if var.kind == "VAR"):
            yield "ctid is taken for a key"
    if command == INSERT:
        if query.is_set("hasSubLinks"):
            yield "a subquery inside INSERT"
        conflict = query["onConflict"]
        if conflict and _runs(
            [conflict["onConflictSet"], conflict["onConflictWhere"], conflict["arbiterWhere"]],
            catalog.volatile | catalog.stable,
        ):
            yield "ON CONFLICT computes what is not immutable"
    if command == DELETE and any(_is_lateral(entry) for entry in query["rtable"] or []):
        yield "LATERAL in DELETE"


def _computed(expressions: Iterable[Any], catalog: Catalog, where: str) -> Iterator[str]:
    for expression in expressions:
        if _runs(expression, catalog.volatile):
            yield f"a volatile function in {where}"
        for node in _inside(expression):
            if node.kind in ("COALESCEEXPR", "CASE", "CASEEXPR") and _runs(
                list(_inside(node)), catalog.stable, deep=False
            ):
                yield f"CASE or COALESCE of what is not immutable in {where}"
            if _function(node) in catalog.stable and any(below.kind == "VAR" for below in _inside(node)):
                yield f"a stable function of a column in {where}"


def _of_steps(query: Node) -> Iterator[str]:
    """Of a statement that is run in steps, each of whose results is a table for the next."""
    for cte in query["cteList"] or []:
        for entry in cte["ctequery"]["targetList"] or []:
            if _type(entry["expr"]) == _VOID:
                yield "a column of type void in a statement that inserts"
    if query["rowMarks"] and len(query["jointree"]["fromlist"] or []) > 1:
        yield "a row lock beside another source, in a statement that inserts"


def _selects(insert: Node) -> bool:
    return any(entry["rtekind"] == _SUBQUERY for entry in insert["rtable"] or [])


def _of_order(query: Node, catalog: Catalog) -> Iterator[str]:
    """PostgreSQL reads all tables as of a statement's beginning; a step reads what those before it have written.

    A row that is joined as `home` says on which server an INSERT runs. It is the same in both if it was only updated.
    """
    written: set[str] = set()
    replaced: set[str] = set()
    for step in [*(query["cteList"] or []), query]:
        if any(relid in (replaced if alias == "home" else written) for relid, alias in _read(step, catalog)):
            name = step["ctename"] or "the statement itself"
            yield f"{name} reads a table that a step before it has written"
        for one in walk(step):
            if one.kind == "QUERY" and one["commandType"] in (UPDATE, INSERT, DELETE):
                relid = one["rtable"][one.number("resultRelation") - 1]["relid"]
                written.add(relid)
                if one["commandType"] != UPDATE:
                    replaced.add(relid)


def _read(step: Node, catalog: Catalog) -> Iterator[tuple[str, str]]:
    """The tables that a step reads, and their aliases, without those of its own CTEs and the one that it writes to."""
    if step.kind == "QUERY":
        target = step.number("resultRelation") if step["commandType"] in (UPDATE, INSERT, DELETE) else 0
        for number, entry in enumerate(step["rtable"] or [], 1):
            if entry["rtekind"] == _RELATION and entry["relid"] in catalog.distributed and number != target:
                yield entry["relid"], entry["eref"]["aliasname"]
    for below in children(step):
        if below.kind != "COMMONTABLEEXPR":
            yield from _read(below, catalog)


def _of_place(query: Node, catalog: Catalog, recursive: str | None) -> Iterator[str]:
    """Whether it can be told from the parameters alone on which server each of the tables is."""
    entries = query["rtable"] or []
    here = _pinned(query, catalog)
    for number, entry in enumerate(entries, 1):
        if entry["relid"] in catalog.distributed and entry["rtekind"] == _RELATION and entry["relkind"] == "r":
            inserted = query["commandType"] == INSERT and number == query.number("resultRelation")
            if not inserted and str(number) not in here:
                yield f"no namespace is given for {entry['eref']['aliasname']}"
    for below in _below(query):
        yield from _of_place(below, catalog, None)


def _pinned(query: Node, catalog: Catalog) -> set[str]:
    """The entries of a query's tables whose namespace is a parameter, or equal to that of another one."""
    equal: list[tuple[str, str]] = []
    found: set[str] = set()
    entries = query["rtable"] or []

    def place(node: Node) -> str | None:
        while node.kind == "RELABELTYPE":
            node = node["arg"]
        if node.kind in ("PARAM", "CONST"):
            return "given"
        if node.kind != "VAR" or node["varlevelsup"] != "0":
            return None
        entry = entries[node.number("varno") - 1]
        return node["varno"] if catalog.distributed.get(entry["relid"] or "") == node["varattno"] else None

    for condition in _conditions(query["jointree"]):
        if condition.kind == "OPEXPR" and len(condition["args"]) == 2:
            left, right = (place(side) for side in condition["args"])
            if left and right:
                equal.append((left, right))
    found.add("given")
    while more := {side for pair in equal if found & set(pair) for side in pair} - found:
        found |= more
    return found


def _conditions(value: Any) -> Iterator[Node]:
    """What has to be true of each row: conditions of joins and of WHERE, taken apart at AND."""
    if isinstance(value, list):
        for one in value:
            yield from _conditions(one)
    elif isinstance(value, Node):
        if value.kind in ("FROMEXPR", "JOINEXPR"):
            for name in ("fromlist", "larg", "rarg", "quals"):
                yield from _conditions(value[name])
        elif value.kind == "BOOLEXPR" and value["boolop"] == "and":
            yield from _conditions(value["args"])
        else:
            yield value


def _below(query: Node) -> Iterator[Node]:
    """The queries right inside a query."""
    todo = list(children(query))
    while todo:
        node = todo.pop()
        if node.kind == "QUERY":
            yield node
        else:
            todo += children(node)


def _inside(value: Any) -> Iterator[Node]:
    """The nodes of an expression, without those of its subqueries."""
    for node in [value] if isinstance(value, Node) else children(value):
        yield node
        if node.kind != "QUERY":
            yield from (below for child in children(node) for below in _inside(child))


def _function(node: Node) -> str | None:
    return node[_RUNS[node.kind]] if node.kind in _RUNS else None


def _runs(value: Any, functions: frozenset[str], *, deep: bool = True) -> bool:
    """Whether one of *functions* is run somewhere in it, subqueries included if *deep*."""
    nodes = (
        value
        if not deep
        else [node for one in ([value] if isinstance(value, Node) else children(value)) for node in walk(one)]
    )
    return any(_function(node) in functions or node.kind == "SQLVALUEFUNCTION" for node in nodes)


def _is_lateral(entry: Node) -> bool:
    return entry["rtekind"] == _SUBQUERY and entry.is_set("lateral")


def _type(expression: Node) -> str | None:
    names = ("funcresulttype", "vartype", "consttype", "resulttype", "opresulttype", "coalescetype", "casetype")
    return next((expression[name] for name in names if expression[name]), None)
