"""Building many frozen dataclasses quickly."""

from collections.abc import Callable
from dataclasses import fields, make_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def builder(cls: type[T]) -> Callable[..., T]:
    """A constructor of a frozen dataclass with slots that takes all its fields, in order, and checks nothing.

    A frozen dataclass sets each field through `object.__setattr__`, since its own is closed. That is most of what
    reading an entry costs in Python: 1.8 µs of 2.8. A twin with the same slots, which is not frozen, is filled in a
    fifth of the time, and becomes an instance of the class by changing its type, which equal slots allow.
    """
    twin: Any = make_dataclass(
        f"_{cls.__name__}Twin",
        [(field.name, Any) for field in fields(cls)],  # type: ignore[arg-type]
        slots=True,
    )

    def build(*values: Any) -> T:
        instance: T = twin(*values)
        instance.__class__ = cls
        return instance

    return build
