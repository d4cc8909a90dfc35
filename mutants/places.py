"""Where statements are: sources that say when a statement is reached, and the places that a change concerns.

A place is a statement inside a function, as `module:line`.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

_MARK = "__reached__"
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def marked(module: Path, source: str) -> str:
    """*source* with a call before each statement inside a function; see `mutants.reaching`."""
    tree = ast.parse(source)
    for function in [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]:
        for holder, field, statements in list(_blocks(function)):
            if getattr(holder, "marked_" + field, False):
                continue
            setattr(holder, "marked_" + field, True)
            block: list[ast.stmt] = []
            for statement in statements:
                if not _is_docstring(statement):
                    place = ast.Constant(f"{module}:{statement.lineno}")
                    block.append(ast.Expr(ast.Call(ast.Name(_MARK), [place], [])))
                block.append(statement)
            setattr(holder, field, block)
    ahead = [node for node in tree.body if _is_docstring(node) or getattr(node, "module", "") == "__future__"]
    tree.body.insert(len(ahead), ast.ImportFrom("mutants.reaching", [ast.alias("mark", _MARK)], 0))
    return ast.unparse(ast.fix_missing_locations(tree))


def _blocks(function: ast.AST) -> Iterator[tuple[ast.AST, str, list[ast.stmt]]]:
    for node in ast.walk(function):
        if isinstance(node, ast.ClassDef):
            continue
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list) and statements:
                yield node, field, statements


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def concerned(module: Path, line: int, sources: Mapping[Path, str]) -> set[str] | None:
    """The places at which a change of *line* can be noticed. None: at any, such as where it is done on import."""
    inside, statement = _innermost(_parsed(sources[module]), line)
    if inside is not None:
        users = [(module, inside, (statement or _first(inside)).lineno)]
    elif names := _assigned(statement):
        users = _users(names, sources)
    else:
        return None
    users += _users(_keepers({(where, function) for where, function, _ in users}, sources), sources)
    return {f"{where}:{place}" for where, _, place in users}


def _keepers(functions: set[tuple[Path, Function]], sources: Mapping[Path, str]) -> set[str]:
    """Functions whose results are kept, and for which *functions* work: only the first of many tests runs them."""
    trees = {module: _parsed(source) for module, source in sources.items()}
    plain = [(module, node) for module, tree in trees.items() for node in tree.body if isinstance(node, _FUNCTIONS)]
    working = {one for one in functions if one in plain or _is_kept(one[1])}
    before: set[tuple[Path, Function]] = set()
    while working != before:
        before = working
        names: dict[Path, set[str]] = {}
        for module, function in working:
            names.setdefault(module, set()).add(function.name)
        working = working | {
            (module, node)
            for module, node in plain
            if any(
                _mentioned(node) & found
                for where, found in names.items()
                if where == module or where.stem in _imported(trees[module])
            )
        }
    return {function.name for _, function in working if _is_kept(function)}


@cache
def _imported(tree: ast.Module) -> set[str]:
    """The modules that something is imported from, by the last part of their names."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").rpartition(".")[2], *(one.name for one in node.names)}
    return found


def _is_kept(function: Function) -> bool:
    return any(_mentioned(one) & {"lru_cache", "cache"} for one in function.decorator_list)


def _innermost(tree: ast.Module, line: int) -> tuple[Function | None, ast.stmt | None]:
    """The function around *line*, and the statement in it; the function alone where the line is of its head."""
    function: Function | None = None
    found: ast.stmt | None = None
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or not _begin(node) <= line <= (node.end_lineno or 0):
            continue
        # The walk comes to outer nodes first.
        if isinstance(node, _FUNCTIONS):
            function, found = node, None
        elif not isinstance(node, ast.ClassDef):
            found = node
    return function, found


def _begin(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])


def _first(function: Function) -> ast.stmt:
    body = function.body
    return body[1] if _is_docstring(body[0]) and len(body) > 1 else body[0]


def _assigned(statement: ast.stmt | None) -> set[str]:
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return set()
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


@cache
def _mentioned(node: ast.AST) -> set[str]:
    found = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return found | {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}


@cache
def _mentioned_itself(statement: ast.stmt) -> set[str]:
    """Without the statements inside it."""
    inside = [getattr(statement, field, []) for field in ("body", "orelse", "finalbody", "handlers", "cases")]
    nodes = [node for node in ast.iter_child_nodes(statement) if not any(node in block for block in inside)]
    return set[str]().union(*map(_mentioned, nodes))


def _users(names: set[str], sources: Mapping[Path, str]) -> list[tuple[Path, Function, int]]:
    """Statements inside functions that mention *names*, or what was made of them on import."""
    trees = {module: _parsed(source) for module, source in sources.items()}
    outside = [
        (_assigned(node), _mentioned(node))
        for tree in trees.values()
        for holder in ast.walk(tree)
        if isinstance(holder, ast.Module | ast.ClassDef)
        for node in holder.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
    ]
    known: set[str] = set()
    while known != names:
        known = names
        names = known.union(*(made for made, of in outside if of & known))
    found: list[tuple[Path, Function, int]] = []
    for module, tree in trees.items():
        for function in [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]:
            heads = [*function.decorator_list, function.args]
            if any(_mentioned(head) & names for head in heads):
                found.append((module, function, _first(function).lineno))
            for _, _, statements in _blocks(function):
                found += [(module, function, one.lineno) for one in statements if _mentioned_itself(one) & names]
    return found
