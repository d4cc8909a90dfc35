"""Statements as PostgreSQL itself understands them: its own trees of nodes, with the function behind every operator.

A parser of our own, or a library's, would see `a + b`; whether that is an immutable function depends on the types of
both, which only the database knows. It writes down the tree of a statement that is the body of a function.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg

Value: TypeAlias = "Node | list[Any] | str | None"

_PARAMETER = re.compile(r"%\((\w+)\)[sb]")
_LEXEME = re.compile(r'"(?:\\.|[^"\\])*"|[{}()]|\[[^\]]*\]|(?:\\.|[^\s{}()\\])+')


@dataclass(frozen=True, eq=False)
class Node:
    """A node, such as `OPEXPR`, with its fields by name."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.fields.get(name)

    def number(self, name: str) -> int:
        return int(self.fields.get(name) or 0)

    def is_set(self, name: str) -> bool:
        return bool(self.fields.get(name) == "true")


def tree_of(connection: psycopg.Connection[Any], rendered: str) -> list[Node]:
    """What a statement, as psycopg takes it, means to the server."""
    names: list[str] = []

    def numbered(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    text = _PARAMETER.sub(numbered, rendered).replace("%%", "%")
    connection.execute(f"PREPARE looked_at AS {text}".encode())
    row = connection.execute(
        "SELECT CAST(parameter_types AS text[]) FROM pg_prepared_statements WHERE name = 'looked_at'"
    ).fetchone()
    connection.execute("DEALLOCATE looked_at")
    assert row is not None
    name = "pg_temp.looked_at"
    connection.execute(
        f"CREATE FUNCTION {name}({', '.join(row[0])}) RETURNS void LANGUAGE SQL BEGIN ATOMIC {text}; END".encode()
    )
    body = connection.execute("SELECT prosqlbody FROM pg_proc WHERE proname = 'looked_at'").fetchone()
    connection.execute(f"DROP FUNCTION {name}".encode())
    assert body is not None
    return [node for node in walk(parse(body[0])) if node.kind == "QUERY"][:1]


def parse(text: str) -> Value:
    """A `pg_node_tree`."""
    lexemes = [match[0] for match in _LEXEME.finditer(text)]
    value, end = _value(lexemes, 0)
    assert end == len(lexemes)
    return value


def _value(lexemes: list[str], at: int) -> tuple[Value, int]:
    """The value that begins there, and where the next one begins."""
    lexeme = lexemes[at]
    if lexeme == "(":
        items = []
        at += 1
        while lexemes[at] != ")":
            item, at = _value(lexemes, at)
            items.append(item)
        return items, at + 1
    if lexeme != "{":
        return (None if lexeme == "<>" else lexeme), at + 1
    node = Node(lexemes[at + 1])
    at += 2
    while lexemes[at] != "}":
        name = lexemes[at].removeprefix(":")
        values = []
        at += 1
        while lexemes[at] != "}" and not lexemes[at].startswith(":"):
            value, at = _value(lexemes, at)
            values.append(value)
        node.fields[name] = values[0] if len(values) == 1 else values
    return node, at + 1


def children(value: Value) -> Iterator[Node]:
    """The nodes right below."""
    for one in value.fields.values() if isinstance(value, Node) else value if isinstance(value, list) else ():
        if isinstance(one, Node):
            yield one
        elif isinstance(one, list):
            yield from children(one)


def walk(value: Value) -> Iterator[Node]:
    """A node and all below it, subqueries included."""
    if isinstance(value, Node):
        yield value
    for child in children(value):
        yield from walk(child)
