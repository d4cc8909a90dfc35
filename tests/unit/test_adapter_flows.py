"""Methods that run flows look as if they were written by hand; lists of sessions are read page by page."""

import inspect
import weakref
from collections.abc import AsyncIterator, Iterator
from functools import wraps
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from statestore.adapters.flows import Flow, OnStore, Stream, all_ids, async_iterated, awaited, called, iterated, run


class Box(OnStore):
    def _load(self, key: str, *, last: int | None = None) -> Flow[list[str]]:
        """What is in it."""
        yield
        return [key]

    load_sync, load = called(_load), awaited(_load)

    def _size(self) -> Flow[int]:
        yield
        return 0

    size: Any = property(called(_size))

    def _drop(self) -> Flow[None]:
        yield

    drop, adrop = called(_drop), awaited(_drop)

    def _bare(self):  # type: ignore[no-untyped-def]
        yield

    bare = called(_bare)

    def _each(self) -> Stream:
        yield []

    each, aeach = iterated(_each), async_iterated(_each)


@pytest.mark.parametrize("name", ["load_sync", "load", "drop", "adrop", "bare", "each", "aeach"])
def test_a_method_has_the_name_that_it_is_called_by(name: str) -> None:
    method = getattr(Box, name)
    assert (method.__name__, method.__qualname__) == (name, f"Box.{name}")


def test_a_property_and_a_flow_have_their_names() -> None:
    assert (Box.size.fget.__name__, Box.size.fget.__qualname__) == ("size", "Box.size")
    assert (Box._load.__name__, Box._load.__qualname__) == ("_load", "Box._load")


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("load_sync", list[str]),
        ("load", list[str]),
        ("drop", None),
        ("adrop", None),
        ("each", Iterator[Any]),
        ("aeach", AsyncIterator[Any]),
    ],
)
def test_a_method_has_the_result_of_its_flow(name: str, result: Any) -> None:
    method = getattr(Box, name)
    assert get_type_hints(method)["return"] == (type(None) if result is None else result)
    assert method.__annotations__["return"] == inspect.signature(method).return_annotation == result


def test_the_parameters_and_the_docstring_are_those_of_the_flow() -> None:
    for method in (Box.load_sync, Box.load):
        assert str(inspect.signature(method)) == "(self, key: str, *, last: int | None = None) -> list[str]"
        assert method.__doc__ == "What is in it."
    assert str(inspect.signature(Box().load)) == "(key: str, *, last: int | None = None) -> list[str]"
    assert inspect.iscoroutinefunction(Box.load)
    assert inspect.isgeneratorfunction(Box.each)
    assert inspect.isasyncgenfunction(Box.aeach)


def test_a_flow_keeps_its_own_result_and_one_without_types_stays_so() -> None:
    assert get_type_hints(Box._load)["return"] == Flow[list[str]]
    assert (Box.bare.__annotations__, str(inspect.signature(Box.bare))) == ({}, "(self)")


def test_a_subclass_renames_nothing_of_what_it_takes_over() -> None:
    def logged(self: Any) -> None:
        """Not a flow's."""

    class Sub(Box):
        other = Box.load
        decorated = wraps(Box.drop)(logged)

    assert (Sub.other.__qualname__, Sub.decorated.__qualname__, Sub.drop.__qualname__) == (
        "Box.load",
        "Box.drop",
        "Box.drop",
    )


class Found:
    def __init__(self, session_id: str) -> None:
        self.session_id = session_id


class Sessions:
    """Sessions in pages of two."""

    def __init__(self, pages: int) -> None:
        self.made: list[weakref.ref[Found]] = []
        self.most = 0
        self._pages = pages

    def page(self, *, limit: int, cursor: int | None, agent_name: str) -> SimpleNamespace:
        assert agent_name == "one"
        self.most = max(self.most, sum(ref() is not None for ref in self.made))
        number = cursor or 0
        sessions = [Found(f"s{number}{which}") for which in "ab"]
        self.made += map(weakref.ref, sessions)
        return SimpleNamespace(sessions=sessions, next_cursor=number + 1 if number + 1 < self._pages else None)


def test_ids_are_found_without_holding_more_than_a_page_of_sessions() -> None:
    sessions = Sessions(pages=4)
    found = run(SimpleNamespace(sessions=sessions), all_ids(agent_name="one"))
    assert found == ["s0a", "s0b", "s1a", "s1b", "s2a", "s2b", "s3a", "s3b"]
    assert sessions.most == 0  # When the next page is read.
    assert not [ref for ref in sessions.made if ref() is not None]
