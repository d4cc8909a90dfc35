"""The examples of docs/replicas.md run, and docs/scaling.md calculates correctly."""

import ast
import operator
import re
from pathlib import Path
from typing import Any

import pytest

from statestore import StateStore
from tests.docs.pages import CHECKOUT, blocks

REPLICAS = CHECKOUT / "docs" / "replicas.md"
SCALING = CHECKOUT / "docs" / "scaling.md"
SERVERS = ("postgresql://app@db/agents", "postgresql://app@db-standby/agents")

_OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
SUMS = [
    (left.strip(), right)
    for block in blocks(SCALING, "text")
    for left, right in re.findall(
        r"^([\d.,()+\u00d7/\- ]+) = ([\d.,]+)", re.sub(r"^[^:\n]*: ", "", block, flags=re.M), re.M
    )
]


def value(text: str) -> float:
    def of(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp):
            return float(_OPERATORS[type(node.op)](of(node.left), of(node.right)))
        assert isinstance(node, ast.Constant)
        return float(node.value)

    return of(ast.parse(text.replace(",", "").replace("\u00d7", "*").strip(), mode="eval").body)


def test_the_examples_of_the_page_on_replicas_run(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    examples = blocks(REPLICAS, "python")
    assert sum(example.count(server) for example in examples for server in SERVERS) == 2
    for example in examples:
        for server in SERVERS:  # The server itself will do.
            example = example.replace(server, postgres_url)
        StateStore.open("sqlite:///agents.db").close()
        names: dict[str, Any] = {}
        exec(example, names)
        with names["store"] as store:
            store.sessions.create("s")
            assert store.stats().sessions["ready"] == 1


@pytest.mark.parametrize(("left", "right"), sorted(set(SUMS)))
def test_the_page_on_scaling_calculates_correctly(left: str, right: str) -> None:
    """Results are rounded to two or three digits."""
    assert value(right) == pytest.approx(value(left), rel=0.03)


def test_there_is_something_to_check() -> None:
    assert len(SUMS) > 15
