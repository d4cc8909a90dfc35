"""What can be changed in a source file: in the syntax tree, and in the SQL that stands in its strings."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One change of a source: the characters from *start* to *end* become *text*."""

    start: int
    end: int
    text: str
    what: str

    def of(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}

_SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|WHERE|BEGIN|VALUES|RETURNING|LOCK|ORDER BY|ON CONFLICT|AND) ")
_NEXT = "AND|OR|ORDER|GROUP|RETURNING|FOR|LIMIT|ON|UNION|LEFT|JOIN|WHEN|THEN"
_END = rf"(?=\s+(?:{_NEXT})\b|[)\"]|\s*\$(?:lock|share)\b|\s*$)"
# In the text of a literal as it stands in the source. What leaves a statement that no database takes is noticed at
# once; that costs a run and nothing else.
_IN_SQL: tuple[tuple[str, str, str], ...] = (
    ("a row lock", r"\s*\$(?:lock|share)\b|\s*\bFOR (?:NO KEY )?(?:UPDATE|SHARE)(?: OF \w+)?(?! SKIP)\b", ""),
    ("SKIP LOCKED", r" SKIP LOCKED\b| NOWAIT\b", ""),
    ("IMMEDIATE", r"(?<=BEGIN) IMMEDIATE\b", ""),
    ("a condition", rf"\s\bAND (?!\w+ AND\b)(?:[^()\"$]|\$\w+(?:\([^()]*\)|\b(?!\()))+?{_END}", ""),
    ("<", r"(?<= )<(?= )", "<="),
    ("<=", r"(?<= )<=(?= )", "<"),
    (">", r"(?<= )>(?= )", ">="),
    (">=", r"(?<= )>=(?= )", ">"),
    ("+ 1", r"(?<= )\+ 1\b", "+ 0"),
    ("- 1", r"(?<= )- 1\b", "- 0"),
    ("OR", r"(?<= )OR(?= )", "AND"),
    ("NOT EXISTS", r"\bNOT EXISTS\b", "EXISTS"),
    ("IS NULL", r"\bIS NULL\b", "IS NOT NULL"),
    ("IS NOT NULL", r"\bIS NOT NULL\b", "IS NULL"),
    ("DESC", r" DESC\b", ""),
    ("DISTINCT", r"\bDISTINCT ", ""),
    ("UNION ALL", r"\bUNION ALL\b", "UNION"),
    ("greatest", r"\$?\bgreatest(?=\()", "$least"),
    ("least", r"\$?\bleast(?=\()", "$greatest"),
)
# Arguments of `lru_cache`, `dataclass` and `zip` that say how much is kept, or guard against mistakes of our own.
_GUARDS = {"maxsize", "frozen", "slots", "strict"}
_LOGS = {"debug", "info", "warning", "error", "exception", "log"}


def mutations(source: str) -> list[Mutation]:
    """All changes that are tried on *source*, in the order of the file; see `readable`."""
    tree = ast.parse(source)
    lines = _Lines(source)
    found = {*_in_tree(tree, lines), *_in_sql(source, tree, lines)}
    return sorted(found, key=lambda one: (one.start, one.end, one.text))


def readable(source: str) -> bool:
    """Whether it is Python: a cut through a literal may leave something else."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


class _Lines:
    """Where a node is, in characters: the tree counts bytes of UTF-8."""

    def __init__(self, source: str) -> None:
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def at(self, line: int, byte: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:byte].decode())

    def character(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)


def _in_tree(tree: ast.Module, lines: _Lines) -> Iterator[Mutation]:
    skipped: set[int] = set()
    for node in ast.walk(tree):
        # Positions inside an f-string are not to be had, and annotations and guards do nothing.
        guard = isinstance(node, ast.keyword) and node.arg in _GUARDS
        hidden = [node] if isinstance(node, ast.JoinedStr) or guard else _annotations(node)
        skipped.update(id(inner) for outer in hidden for inner in ast.walk(outer))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.expr):
            for change, what in _of_expression(node):
                yield Mutation(*lines.span(node), f"({ast.unparse(change)})", what)
        elif isinstance(node, ast.Expr | ast.Raise) and (what := _removed(node)):
            yield Mutation(*lines.span(node), "pass", what)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Name) and (other := _OTHER_MODES.get(decorator.id)):
                    yield Mutation(*lines.span(decorator), other, f"{decorator.id} → {other}")


_OTHER_MODES = {
    "reads_snapshot": "reads",
    "writes_once": "writes",
    "writes_once_in_one_statement": "writes_in_one_statement",
}


def _annotations(node: ast.AST) -> list[ast.AST]:
    found = [getattr(node, name, None) for name in ("annotation", "returns")]
    return [one for one in found if isinstance(one, ast.AST)]


def _of_expression(node: ast.expr) -> Iterator[tuple[ast.expr, str]]:
    match node:
        case ast.Compare(left, operators, comparators):
            for place, operator in enumerate(operators):
                other = _COMPARISONS[type(operator)]()
                changed = [*operators[:place], other, *operators[place + 1 :]]
                yield ast.Compare(left, changed, comparators), f"{_word(operator)} → {_word(other)}"
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values), "and ↔ or"
        case ast.UnaryOp(ast.Not(), operand):
            yield operand, "not dropped"
        case ast.BinOp(left, ast.Add() | ast.Sub() as operator, right) if _number(left) or _number(right):
            yield ast.BinOp(left, ast.Sub() if isinstance(operator, ast.Add) else ast.Add(), right), "+ ↔ -"
        case ast.Constant(bool() as value):
            yield ast.Constant(not value), f"{value} → {not value}"
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1), f"{value} → {value + 1}"


def _number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _word(operator: ast.cmpop) -> str:
    compared = ast.unparse(ast.Compare(ast.Name("a"), [operator], [ast.Name("b")]))
    return compared.removeprefix("a ").removesuffix(" b")


def _removed(node: ast.Expr | ast.Raise) -> str:
    """What is missing without a statement; nothing where it may go."""
    if isinstance(node, ast.Raise):
        return "raise dropped"
    called = node.value.value if isinstance(node.value, ast.Await) else node.value
    if not isinstance(called, ast.Call):
        return ""
    name = ast.unparse(called.func).rpartition(".")[2]
    return "" if name in _LOGS else f"call of {name} dropped"


def _in_sql(source: str, tree: ast.Module, lines: _Lines) -> Iterator[Mutation]:
    docstrings = {
        (node.value.lineno, node.value.col_offset)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.JoinedStr)
    }
    literal = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in literal or token.start in docstrings:
            continue
        start, end = lines.character(*token.start), lines.character(*token.end)
        text = source[start:end]
        if not _SQL.search(text):
            continue
        for what, pattern, instead in _IN_SQL:
            for match in re.finditer(pattern, text, re.MULTILINE):
                yield Mutation(start + match.start(), start + match.end(), instead, f"SQL: {what}")
