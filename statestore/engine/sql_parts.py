"""Parts of statements that repeat by the name of a column or by the number of a row, and their parameters.

Only names of columns and numbers end up in the text; values are parameters, always.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from statestore.checking.checks import MAX_KEY_LENGTH
from statestore.checking.namespaces import Chosen
from statestore.engine.sql import Params

# How many rows a VALUES list may have on SQLite. It finds a parameter by its name in a list of them all: a statement of
# 5,000 rows takes forty times as long.
ROWS_SQLITE = 100

_LAST = 0x10FFFF
# Behind every key.
_BEYOND = chr(_LAST) * (MAX_KEY_LENGTH + 1)


def each(template: str, names: Iterable[str]) -> str:
    """A list of what *template* says of each name, as in `each("{0} = excluded.{0}", names)`."""
    return ", ".join(template.format(name) for name in names)


def value_rows(template: str, count: int) -> str:
    """The rows of a VALUES list. In the template, # is the number of the row."""
    return ", ".join(template.replace("#", str(number)) for number in range(count))


def numbered(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Params:
    """The parameters of `value_rows`: each value under its name and the number of its row, as in `:key_0`."""
    return {f"{name}_{number}": row.get(name) for number, row in enumerate(rows) for name in names}


def unnest(alias: str, kinds: Mapping[str, str], parameter: str = "{}_array", *, ordinal: str = "") -> str:
    """Arrays as the columns of a table, for PostgreSQL: one statement serves any number of rows.

    Args:
        alias: What the statement calls the table.
        kinds: Its columns, with their types.
        parameter: How the parameter of a column is called; one that ends in `_array` travels in binary.
        ordinal: The name of a column with the number of the row, if there is to be one.
    """
    arrays = ", ".join(f"CAST(:{parameter.format(name)} AS {kind}[])" for name, kind in kinds.items())
    counted = " WITH ORDINALITY" if ordinal else ""
    return f"unnest({arrays}){counted} AS {alias} ({', '.join([*kinds, ordinal] if ordinal else kinds)})"


def arrays(rows: Iterable[Mapping[str, Any]], names: Iterable[str], parameter: str = "{}_array") -> Params:
    """The parameters of `unnest`."""
    rows = list(rows)
    return {parameter.format(name): [row.get(name) for row in rows] for name in names}


def prefix_range(prefix: str) -> tuple[str, str]:
    """From where, and until before where, the texts are that begin with *prefix*, in the order of code points.

    A range can be looked up in an index, which LIKE cannot for a parameter.
    """
    code_points = [ord(character) for character in prefix]
    while code_points and code_points[-1] == _LAST:
        code_points.pop()
    if not code_points:
        return prefix, _BEYOND
    code_points[-1] = 0xE000 if code_points[-1] == 0xD7FF else code_points[-1] + 1  # No surrogates.
    return prefix, "".join(map(chr, code_points))


def namespace_range(prefix: str) -> tuple[str, str]:
    """As `prefix_range`, but no longer than a namespace may be, whose type Citus makes of what it is compared with."""
    start, end = prefix_range(prefix)
    return start, end[:MAX_KEY_LENGTH]


def in_namespaces(chosen: Chosen | None, alias: str = "") -> tuple[str, Params]:
    """The condition that a row is in the namespaces that were asked for, and its parameters; by default the store's.

    A range for each prefix, so that all of it is looked up in an index that begins with the namespace.
    """
    column = f"{alias}.namespace" if alias else "namespace"
    if chosen is None:
        return f"{column} = :namespace", {}
    found: list[str] = []
    params: Params = {}
    if chosen.names:
        found.append(f"{column} $in(:namespaces)")
        params["namespaces"] = list(chosen.names)
    for number, prefix in enumerate(chosen.prefixes):
        found.append(f"({column} >= :namespace_from_{number} AND {column} < :namespace_to_{number})")
        params[f"namespace_from_{number}"], params[f"namespace_to_{number}"] = namespace_range(prefix)
    return found[0] if len(found) == 1 else f"({' OR '.join(found)})", params
