"""What an import leaves out: reported to a function of the caller, or raised."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from statestore.checking import checks
from statestore.errors import InvalidValueError, StateStoreError


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be imported: where it is, and why. It never quotes the content."""

    source: str
    """The file, or the folder of a conversation, as it was named."""
    line: int | None
    """Which line of the file; None for the source as a whole."""
    reason: str
    error: StateStoreError
    """The error that an import without *on_problem* raises; its message also says where."""


OnProblem: TypeAlias = Callable[[Problem], object]


class Problems:
    """Counts what an import leaves out, and reports it to *on_problem*. If that is None, the first problem raises."""

    def __init__(self, on_problem: OnProblem | None) -> None:
        self._on_problem = on_problem
        self.count = 0

    def report(self, source: str, cause: StateStoreError | str, *, line: int | None = None) -> None:
        """Report why *source*, or a line of it, is left out.

        Raises:
            StateStoreError: There is no *on_problem*. This is *cause*, with the place in front of its message.
        """
        where = source if line is None else f"{source}:{line}"
        error = InvalidValueError(where, cause) if isinstance(cause, str) else _placed(cause, source, where)
        self.count += 1
        if self._on_problem is None:
            raise error
        self._on_problem(Problem(source, line, str(cause), error))


def _placed(error: StateStoreError, source: str, where: str) -> StateStoreError:
    """The same error with the place in front of its message, unless the message already begins with it."""
    if str(error).startswith(source):
        return error
    placed = copy.copy(error)
    placed.args = (f"{where}: {error}",)
    return placed


def check_store(store: object) -> None:
    """Refuse anything but a `StateStore`."""
    from statestore.store import StateStore

    if not isinstance(store, StateStore):
        raise InvalidValueError(
            "store",
            f"must be a StateStore, not {type(store).__name__}; in a coroutine, open a StateStore on the same database "
            "and call the import with asyncio.to_thread",
        )


def check_functions(**functions: object) -> None:
    """Refuse what cannot be called: a number of an import's callbacks by their names, each of which may be None."""
    for name, function in functions.items():
        checks.optional_function(function, name)


__all__ = ["OnProblem", "Problem", "Problems", "check_functions", "check_store"]
