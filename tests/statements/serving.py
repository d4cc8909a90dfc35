"""Which operations a statement serves: those from whose code one comes to it."""

import ast
import builtins
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

from statestore.engine.calls import mode_of
from statestore.engine.sql import Statement
from statestore.repositories.base import Repository
from tests.statements.collecting import PREFIX, is_builder, modules, statements_in


def operations() -> Iterator[tuple[type[Repository], FunctionType]]:
    """The methods that are declared as operations, or as steps of one, with their classes."""
    for module in modules():
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Repository) and kind.__module__ == module.__name__:
                own = [method for method in vars(kind).values() if mode_of(method) is not None]
                # One that has none runs those that it inherits, on tables of its own.
                for method in own or [method for _, method in inspect.getmembers(kind, mode_of)]:
                    yield kind, method


def served() -> dict[int, list[str]]:
    """By the `id` of a statement, or of the function that builds it, the operations that it serves."""
    found: dict[int, set[str]] = defaultdict(set)
    for kind, method in operations():
        for reached in _reached(kind, method):
            found[id(reached)].add(f"{kind.__name__}.{method.__name__}")
    return {key: sorted(names) for key, names in found.items()}


def _reached(kind: type[Repository], method: FunctionType) -> list[Any]:
    """The statements and the builders that the code of *method* comes to, if `self` is a *kind*."""
    reached: list[Any] = []
    seen: set[int] = set()
    todo: list[Any] = [method]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Statement) or is_builder(value):
            reached.append(value)
        elif isinstance(value, FunctionType):
            if value.__module__.startswith(PREFIX):
                todo += _named(value, kind)
        elif isinstance(value, type):
            # A repository of its own: what it does is its own operations'.
            if value.__module__.startswith(PREFIX) and not issubclass(value, Repository):
                todo += [part for part in vars(value).values() if isinstance(part, FunctionType)]
        elif isinstance(value, ModuleType):
            pass
        else:
            todo += [statement for _, statement in statements_in(value, "")]
            if type(value).__module__.startswith(PREFIX):
                todo.append(type(value))
    return reached


def _named(function: FunctionType, kind: type[Repository]) -> list[Any]:
    """The objects that the code of a function names: globals, what modules hold, and what `self` inherits."""
    known = function.__globals__
    found = []
    for chain in _chains(function):
        first, *rest = chain
        if first == "self":
            value: Any = kind
        elif first in known and not hasattr(builtins, first):
            value = known[first]
        else:
            continue
        for name in rest[:1] if first == "self" else rest:
            value = getattr(value, name, None)
            if not isinstance(value, ModuleType):
                break
        found.append(value)
    return found


@cache
def _chains(function: FunctionType) -> list[tuple[str, ...]]:
    """The dotted names in the code of a function, its decorators included."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:  # What a dataclass generates has no source, and runs no statement.
        return []
    chains = []
    for node in ast.walk(tree):
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            chains.append((node.id, *reversed(names)))
    return chains
