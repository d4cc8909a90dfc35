"""The filters of a search: fields that have a value, or meet a comparison."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from statestore import InvalidValueError

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": lambda value, limit: _compare(value, limit, operator.gt),
    "$gte": lambda value, limit: _compare(value, limit, operator.ge),
    "$lt": lambda value, limit: _compare(value, limit, operator.lt),
    "$lte": lambda value, limit: _compare(value, limit, operator.le),
}


def matches(value: Any, wanted: Any) -> bool:
    """Whether a value is the one wanted, has the fields wanted, or meets all comparisons wanted."""
    if not isinstance(wanted, Mapping):
        if isinstance(wanted, list | tuple):
            return isinstance(value, list) and len(value) == len(wanted) and all(map(matches, value, wanted))
        return bool(value == wanted)
    if any(name.startswith("$") for name in wanted):
        return all(_comparison(name)(value, limit) for name, limit in wanted.items())
    return isinstance(value, Mapping) and all(matches(value.get(name), each) for name, each in wanted.items())


def _comparison(name: str) -> Callable[[Any, Any], bool]:
    if name not in _COMPARISONS:
        raise InvalidValueError("filter", f"has no operator {name!r}; there are {', '.join(_COMPARISONS)}")
    return _COMPARISONS[name]


def _compare(value: Any, limit: Any, compare: Callable[[Any, Any], bool]) -> bool:
    """Numbers as numbers, texts as texts; nothing else is larger or smaller."""
    if isinstance(value, str) and isinstance(limit, str):
        return compare(value, limit)
    try:
        return compare(float(value), float(limit))
    except (TypeError, ValueError):
        return False
