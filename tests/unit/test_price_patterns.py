"""Patterns of prices: they find what Python's `re` finds, and take no longer for some than for others."""

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statestore.importers import genai_prices
from statestore.values import price_patterns
from statestore.values.price_patterns import PatternError, compile_clause, compile_pattern

NAMES = [
    "claude-sonnet-5-20260101", "openai/gpt-6-luna-20260101", "gpt-5.4-mini-2026-01-31", "grok-4.5[fast=true]",
    "o3-mini", "typesafe/jev-1.13", "jev-1.14-20260101", "mistral-large", "labs-devstral", "x/mistral", "gpt-4o-tts",
    "gpt-tts-1", "", "gemini-3.5-flash-1", "composer-2.5[fast=false]", "claude-opus-5@20260101", "magistral", "\n", "ä",
]  # fmt: skip


def patterns(clause: Any) -> Iterator[str]:
    for kind, value in (clause or {}).items():
        if kind in ("or", "and"):
            for part in value:
                yield from patterns(part)
        elif kind == "regex":
            yield value


PACKAGE = sorted(
    {pattern for _, _, match in genai_prices.rows() for clause in match.values() for pattern in patterns(clause)}
)


@pytest.mark.parametrize("pattern", PACKAGE)
def test_the_patterns_of_the_package_find_what_they_found(pattern: str) -> None:
    found = compile_pattern(pattern)
    # Names made from the pattern itself are near to what it means.
    near = re.sub(r"\(\?[!=:]?|[\^$()?]", "", pattern).replace(r"\d", "7")
    near = re.sub(r"(.)\{(\d)\}", lambda match: match[1] * int(match[2]), near).replace("\\", "")
    for name in [*NAMES, near, near + "0", "x" + near, near[:-1], near.partition("|")[0]]:
        assert found(name) is (re.search(pattern, name) is not None), name


def test_there_are_such_patterns() -> None:
    assert len(PACKAGE) > 20


ATOMS = st.sampled_from(
    ["a", "b", ".", r"\d", r"\w", r"\W", "[ab]", "[^a]", "[a-c0-]", "[]a]", r"[\]\d-]", "-", r"\.", "$", "^"]
)


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeat = st.sampled_from(["?", "*", "+", "{2}", "{0,2}", "{1,}", "*?", "{0}"])
    return (
        st.lists(inner, max_size=3).map("".join).map(lambda text: f"({text})")
        | st.lists(inner, max_size=3).map("|".join).map(lambda text: f"(?:{text})")
        | st.tuples(inner.map(lambda text: f"(?:{text})"), repeat).map("".join)
    )


PATTERN = st.lists(st.recursive(ATOMS, grown, max_leaves=6), max_size=4).map("".join)
LOOK = st.tuples(st.sampled_from(["^", "^(?!a)", "^(?=.b)(?!a|b.)", ""]), PATTERN).map("".join)


@given(LOOK, st.text("ab0-._", max_size=8))
def test_they_find_what_python_finds(pattern: str, text: str) -> None:
    found = compile_pattern(pattern)
    assert found(text) is (re.search(pattern, text) is not None)


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "a)", "[", "[a", "*", "a**", "a{2", "a{3,2}", "a{1000}", "(a{20}){20}{20}", "(?i)a", "(?P<x>a)",
     r"(a)\1", r"\b", "a(?!b)", "(?!b)a|c", "^(?!b)a|c", "(?<=a)b", "\\", "[z-a]", "(" * 100 + ")" * 100, "a" * 513,
     r"[\1]", "a{,}", "a{", "x*+", "(?", "^(?!a"],
)  # fmt: skip
def test_what_is_not_understood_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compile_pattern(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(a*)*b", "(.*a){12}", "^(?!(a+)+$)b", "(x+x+)+y", "(|a)+$"])
def test_no_pattern_takes_more_than_a_name_is_long(pattern: str) -> None:
    """Counted, not timed: the steps of Python that a name of 500 characters takes are those of 50, ten times."""

    def steps(text: str) -> int:
        count = 0

        def tracer(frame: Any, event: str, argument: Any) -> Any:
            nonlocal count
            count += event == "line"
            return tracer

        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            found(text)
        finally:
            sys.settrace(before)
        return count

    found = compile_pattern(pattern)
    short, long = steps("a" * 50 + "!"), steps("a" * 500 + "!")
    assert long < short * 11


@pytest.mark.parametrize(
    "clause",
    [[], 5, "x", {"equals": 1}, {"regex": "("}, {"regex": None}, {"or": {}}, {"or": [1]}, {"nor": []},
     {"equals": "x" * 513}, {"equals": "a", "contains": "b"}, {1: 2}],
)  # fmt: skip
def test_a_clause_that_is_none_is_refused(clause: Any) -> None:
    with pytest.raises(PatternError):
        compile_clause(clause)


def test_a_clause_that_is_too_large_is_refused() -> None:
    deep: Any = {"equals": "a"}
    for _ in range(price_patterns.MAX_DEPTH - 1):
        deep = {"or": [deep]}
    assert compile_clause(deep)("a")
    with pytest.raises(PatternError):
        compile_clause({"and": [deep]})
    wide = [{"equals": "a"}] * price_patterns.MAX_CLAUSES
    with pytest.raises(PatternError):
        compile_clause({"or": wide})


def test_no_clause_matches_nothing() -> None:
    assert not compile_clause(None)("")
    assert not compile_clause({})("x")
