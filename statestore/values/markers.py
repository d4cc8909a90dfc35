"""Markers for what None cannot express."""

from enum import Enum
from typing import Final, Literal, TypeAlias


class _Missing(Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MissingType: TypeAlias = Literal[_Missing.MISSING]


MISSING: Final = _Missing.MISSING
"""Marks absence where None is a valid value: a default that was not given, an attribute to leave as it is."""


class _Never(Enum):
    NEVER = "NEVER"

    def __repr__(self) -> str:
        return "NEVER"


NeverType: TypeAlias = Literal[_Never.NEVER]


NEVER: Final = _Never.NEVER
"""A time to live without an end, where None already means the default."""
