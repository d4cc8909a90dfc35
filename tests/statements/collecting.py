"""The statements of the operations: where each is written, and what is said of it there."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import statestore
from statestore import reports, repositories
from statestore.engine.sql import Statement
from statestore.repositories.history import follows
from tests.statements.shapes import SHAPES

ROOMS = (repositories, reports)
"""The packages that hold operations and their SQL; `tests/unit/test_statements.py` looks for others."""


@dataclass(frozen=True)
class Found:
    """A statement that is written in a module, or a function that builds one."""

    module: str
    name: str
    line: int
    statement: Statement
    says: str
    """The comment above it, or the docstring of what builds it."""
    shape: str = ""
    """What it is shown for, if it is built for a shape."""
    builder: Any = None


def modules() -> list[ModuleType]:
    names = [found.name for room in ROOMS for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]
    return [importlib.import_module(name) for name in sorted(names)]


def is_collected(module: str) -> bool:
    return module.startswith(tuple(f"{room.__name__}." for room in ROOMS))


def place_of(module: ModuleType) -> str:
    """Where a module is: as seen from its repositories, such as `cache.base`, or from the package."""
    return module.__name__.removeprefix(f"{statestore.__name__}.").removeprefix("repositories.")


def is_builder(value: Any) -> TypeGuard[Any]:
    """Whether it is a function that builds statements and keeps them."""
    return hasattr(value, "cache_info") and inspect.signature(value).return_annotation is Statement


def statements_in(value: Any, name: str) -> Iterator[tuple[str, Statement]]:
    """The statements that an object of a module holds, with what to call them."""
    if isinstance(value, Statement):
        yield name, value
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from statements_in(item, f"{name}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from statements_in(item, f"{name}[{key!r}]")
    elif is_collected(type(value).__module__) and hasattr(value, "__dict__"):
        for attribute, item in vars(value).items():
            yield from statements_in(item, f"{name}.{attribute}")


def collect() -> list[Found]:
    """All of them, by module, in the order in which they are written."""
    found = [one for module in modules() for one in _of_module(module)]
    # Those who follow a history have a connection to themselves, which runs plain text.
    for name in ("listen_to", "try_lock", "unlock"):
        text = getattr(follows.LISTENING, name).replace("%s", ":namespace", 1).replace("%s", ":session_id", 1)
        found.append(
            Found(place_of(follows), f"LISTENING.{name}", 0, Statement(postgresql=text), "For `history.follow`.")
        )
    return sorted(found, key=lambda one: (one.module, one.line, one.name))


def _of_module(module: ModuleType) -> Iterator[Found]:
    path = Path(str(module.__file__))
    lines = path.read_text().splitlines()
    place = place_of(module)
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and is_builder(builder := getattr(module, node.name)):
            shape, arguments = SHAPES[builder]
            says = inspect.getdoc(builder) or ""
            yield Found(place, node.name, node.lineno, builder(**arguments), says, shape, builder)
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in (name for one in targets for name in ast.walk(one) if isinstance(name, ast.Name)):
            for name, statement in statements_in(getattr(module, target.id), target.id):
                yield Found(place, name, node.lineno, statement, _said_of(node, module, lines))


def _said_of(node: ast.stmt, module: ModuleType, lines: list[str]) -> str:
    """The comment above a statement; if there is none, the docstring of the function that it calls."""
    first = node.lineno - 1
    while first and lines[first - 1].startswith("#"):
        first -= 1
    if first < node.lineno - 1:
        return "\n".join(line.removeprefix("#").strip() for line in lines[first : node.lineno - 1])
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            function = getattr(module, call.func.id, None)
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                return inspect.getdoc(function) or ""
    return ""
