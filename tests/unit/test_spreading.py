"""Namespaces that are asked for, and those over which a tenant spreads."""

from collections import Counter
from typing import Any

import pytest

from statestore import InvalidValueError, spread
from statestore.checking.namespaces import MAX_NAMES, MAX_PREFIXES, Chosen, chosen
from statestore.engine.sql_parts import in_namespaces


@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        ("ada", (0, 2, 30, 398)),
        ("user-42", (0, 1, 9, 129)),
        ("größer", (0, 1, 61, 349)),
        ("日本", (0, 3, 11, 331)),
        ("x" * 512, (0, 0, 56, 256)),
    ],
)
def test_a_key_stays_in_its_namespace_for_ever(key: str, numbers: tuple[int, ...]) -> None:
    found = [spread("acme", key, shards=shards) for shards in (1, 4, 64, 1000)]
    assert found == [f"acme/{number}" for number in numbers]


def test_keys_spread_evenly() -> None:
    found = Counter(spread("acme", f"user-{number}", shards=4) for number in range(4000))
    assert set(found) == {f"acme/{number}" for number in range(4)}
    assert max(found.values()) < 1.2 * min(found.values())


@pytest.mark.parametrize(
    ("arguments", "argument", "problem"),
    [
        (("acme/eu", "ada", 4), "tenant", "slash"),
        (("", "ada", 4), "tenant", "1 to 512 characters"),
        ((7, "ada", 4), "tenant", "string"),
        (("acme", "", 4), "key", "1 to 512 characters"),
        (("acme", "a\0", 4), "key", "NUL"),
        (("acme", "\ud800", 4), "key", "surrogate"),
        (("acme", None, 4), "key", "string"),
        (("acme", "ada", 0), "shards", "at least 1"),
        (("acme", "ada", 1_000_001), "shards", "1,000,000"),
        (("acme", "ada", 4.0), "shards", "whole number"),
        (("acme", "ada", True), "shards", "whole number"),
        (("a" * 511, "ada", 1), "tenant", "1 to 512 characters"),
    ],
)
def test_a_bad_argument_is_named(arguments: tuple[Any, Any, Any], argument: str, problem: str) -> None:
    tenant, key, shards = arguments
    with pytest.raises(InvalidValueError, match=problem) as raised:
        spread(tenant, key, shards=shards)
    assert raised.value.argument == argument


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("acme", Chosen(names=("acme",))),
        ("acme/*", Chosen(prefixes=("acme/",))),
        ("*", Chosen(prefixes=("",))),
        (["b", "a", "b"], Chosen(names=("b", "a"))),
        (("acme/*", "globex"), Chosen(names=("globex",), prefixes=("acme/",))),
        # Only a * at the end stands for anything, and only without a backslash in front.
        ("a*b", Chosen(names=("a*b",))),
        ("100%_", Chosen(names=("100%_",))),
        ("acme\\*", Chosen(names=("acme*",))),
        ("acme\\\\*", Chosen(names=("acme\\*",))),
        ("acme**", Chosen(prefixes=("acme*",))),
    ],
)
def test_namespaces_are_named_or_begin_so(value: Any, expected: Chosen | None) -> None:
    assert chosen(value) == expected


@pytest.mark.parametrize(
    ("value", "argument", "problem"),
    [
        ("", "namespaces", "1 to 512 characters"),
        ([], "namespaces", "is empty; name at least one"),
        ([""], "namespaces[0]", "1 to 512 characters"),
        (["a", 7], "namespaces[1]", "string"),
        (["a", "b\0"], "namespaces[1]", "NUL"),
        (7, "namespaces", "or a list of these, not int"),
        (b"acme", "namespaces", "or a list of these, not bytes"),
        ([f"n{n}" for n in range(MAX_NAMES + 1)], "namespaces", "at most 10,000 names and 16 prefixes"),
        ([f"n{n}/*" for n in range(MAX_PREFIXES + 1)], "namespaces", "at most 10,000 names and 16 prefixes"),
    ],
)
def test_what_names_no_namespaces_is_refused(value: Any, argument: str, problem: str) -> None:
    with pytest.raises(InvalidValueError, match=problem) as raised:
        chosen(value)
    assert raised.value.argument == argument


def test_membership_is_that_of_the_condition() -> None:
    some = Chosen(names=("globex",), prefixes=("acme/", "x"))
    assert [some.has(name) for name in ("globex", "globex2", "acme/1", "acme", "x", "y")] == [
        *(True, False, True, False, True, False)
    ]
    condition, params = in_namespaces(some, "s")
    assert condition == (
        "(s.namespace $in(:namespaces)"
        " OR (s.namespace >= :namespace_from_0 AND s.namespace < :namespace_to_0)"
        " OR (s.namespace >= :namespace_from_1 AND s.namespace < :namespace_to_1))"
    )
    assert params == {
        "namespaces": ["globex"],
        **{"namespace_from_0": "acme/", "namespace_to_0": "acme0", "namespace_from_1": "x", "namespace_to_1": "y"},
    }
    assert in_namespaces(None) == ("namespace = :namespace", {})
