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
from statestore.operations import state as state_groups
from statestore.operations.base import operation
from statestore.repositories.base import Repository
from tests.statements.collecting import is_builder, is_collected, modules, statements_in


def operations() -> Iterator[tuple[type[Repository], FunctionType, str]]:
    """The methods that are declared as operations, or as steps of one: their class, and what callers know them as."""
    for module in modules():
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Repository) and kind.__module__ == module.__name__:
                for method in vars(kind).values():
                    if mode_of(method) is not None:
                        yield kind, method, method.name
                for method in _inherited(kind):
                    yield kind, method, f"{kind.group}.{method.__name__}"


@cache
def _inherited(kind: type[Repository]) -> list[FunctionType]:
    """The methods of others that are operations on tables of *kind*, as `operations.base.owned` declares them."""
    groups = [group for group in vars(state_groups).values() if isinstance(group, type)]
    members = [member for group in groups for member in vars(group).values() if isinstance(member, operation)]
    names = {member.method.__name__ for member in members if getattr(member.method, "repository", None) is kind}
    return [getattr(kind, name) for name in sorted(names - vars(kind).keys()) if mode_of(getattr(kind, name))]


def served() -> dict[int, dict[str, str]]:
    """By the `id` of a statement, or of the function that builds it, the operations that it serves.

    Each is the method that runs it, such as `CacheRepository.get`, with what callers know it as: `cache.get`.
    """
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for kind, method, name in operations():
        for reached in _reached(kind, method):
            found[id(reached)][f"{kind.__name__}.{method.__name__}"] = name
    return found


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
            if is_collected(value.__module__):
                todo += _named(value, kind)
        elif isinstance(value, type):
            # A repository of its own: what it does is its own operations'.
            if is_collected(value.__module__) and not issubclass(value, Repository):
                todo += [part for part in vars(value).values() if isinstance(part, FunctionType)]
        elif isinstance(value, ModuleType):
            pass
        else:
            todo += [statement for _, statement in statements_in(value, "")]
            if is_collected(type(value).__module__):
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
