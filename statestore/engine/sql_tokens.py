"""Tokens of statements, and what those that enclose something become; see `Statement`."""

import re
from collections.abc import Callable, Mapping

_TOKEN = re.compile(r"\$([a-z]\w*)")


def replaced(sql: str, tokens: Mapping[str, str], functions: Mapping[str, Callable[[str], str]]) -> str:
    """The SQL with its tokens replaced, those within what another one encloses first."""
    rendered: list[str] = []
    position = 0
    while token := _TOKEN.search(sql, position):
        rendered.append(sql[position : token.start()])
        name, position = token[1], token.end()
        if name in tokens:
            rendered.append(tokens[name])
        elif name in functions and sql[position : position + 1] == "(":
            end = _closing(sql, position)
            rendered.append(functions[name](replaced(sql[position + 1 : end], tokens, functions)))
            position = end + 1
        else:
            raise ValueError(f"no token ${name} in statements: {sql.strip()}")
    return "".join(rendered) + sql[position:]


def _closing(sql: str, opening: int) -> int:
    """Where the parenthesis closes that opens at a place."""
    depth = 0
    for place in range(opening, len(sql)):
        depth += {"(": 1, ")": -1}.get(sql[place], 0)
        if not depth:
            return place
    raise ValueError(f"a parenthesis of a token is not closed: {sql[opening:].strip()}")


# SQLite has no arithmetic on times with microseconds, so it is done on integers: :now_us is :now since 1970.
def later_sqlite(duration: str) -> str:
    total = f"(:now_us + ({duration}))"
    return f"(strftime('%Y-%m-%dT%H:%M:%S', {total} / 1000000, 'unixepoch') || printf('.%06dZ', {total} % 1000000))"


def size_postgresql(value: str) -> str:
    return f"coalesce(octet_length(CAST({value} AS text)), 0)"


# SQLite has octet_length from 3.43 on.
def size_sqlite(value: str) -> str:
    return f"coalesce(length(CAST({value} AS blob)), 0)"


def time_postgresql(parameter: str) -> str:
    return f"CAST({parameter} AS timestamptz)"


def pinned(alias: str) -> str:
    return f" AND {alias}.namespace = :namespace"


def unpinned(alias: str) -> str:
    return ""


def member_postgresql(parameter: str) -> str:
    return f"= ANY ({parameter})"


def member_sqlite(parameter: str) -> str:
    return f"IN (SELECT value FROM json_each({parameter}))"
