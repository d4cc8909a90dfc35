"""Functions whose results are kept in the cache, and the keys: what the decorators of both worlds share."""

import hashlib
import inspect
from collections.abc import Callable, Coroutine, Iterable
from functools import update_wrapper
from typing import Any, ParamSpec, Protocol, TypeVar

from statestore.checking import checks, exactjson
from statestore.errors import InvalidValueError
from statestore.repositories.cache.base import tags as checked_tags

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)


class Memoized(Protocol[P, T_co]):
    """A function whose results are kept."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key under which the result for these arguments is kept."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Remove the result for these arguments: 1, or 0 if there was none."""


class AsyncMemoized(Protocol[P, T_co]):
    """As `Memoized`, of a coroutine function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """As `Memoized.key`."""

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """As `Memoized.invalidate`."""


def checked(key: Any, tags: Iterable[str]) -> list[str]:
    """Check the arguments of the decorator. Returns the tags."""
    if key is not None and not callable(key):
        checks.key(key, "key")
    return checked_tags(tags)


def check_function(function: Any, *, is_async: bool) -> None:
    """Refuse what the decorator of this world cannot call."""
    if not callable(function):
        raise InvalidValueError("function", f"must be a function, not {type(function).__name__}")
    found = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    if found and not is_async:
        raise InvalidValueError("function", "is a coroutine function; memoize it with the cache of an AsyncStateStore")
    if is_async and not found:
        raise InvalidValueError("function", "is not a coroutine function; write async def, or use a StateStore")


def key_maker(function: Callable[..., Any], key: Callable[..., str] | str | None) -> Callable[..., str]:
    """What makes the key of a call."""
    if callable(key):
        given = key
        return lambda *args, **kwargs: checks.key(given(*args, **kwargs), "key")
    name = _name(function) if key is None else key
    try:
        parameters = inspect.signature(function)
    except ValueError:
        problem = f"{name} does not say what arguments it takes; pass memoize(key=…) a function that returns the key"
        raise InvalidValueError("function", problem) from None
    several = {name for name, found in parameters.parameters.items() if found.kind is found.VAR_POSITIONAL}

    def make(*args: Any, **kwargs: Any) -> str:
        bound = parameters.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {name: list(value) if name in several else value for name, value in bound.arguments.items()}
        try:
            return make_key(name, given)
        except InvalidValueError as error:
            problem = str(error).partition(": ")[2]
        raise InvalidValueError(
            "arguments",
            f"of {name} cannot form a key: they are not exact JSON ({problem}); "
            "pass memoize(key=…) a function of the arguments that returns the key",
        )

    return make


def dressed(call: Any, function: Callable[..., Any], *, key: Callable[..., str], invalidate: Callable[..., Any]) -> Any:
    """*call* with the metadata of *function*, and with what belongs to it."""
    update_wrapper(call, function)
    call.key, call.invalidate = key, invalidate
    return call


def _name(function: Any) -> str:
    """Under which a function is found in its program; of a partial function, that of the function."""
    while not hasattr(function, "__qualname__") and hasattr(function, "func"):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return checks.key(f"{named.__module__}.{named.__qualname__}", "function")


def make_key(agent_name: str, request: Any, permissions: Any = None, *, limit: int = exactjson.MAX_BYTES) -> str:
    """SHA-256 in hex over a canonical JSON array of the three; see `operations.cache.Cache.make_key`."""
    checks.key(agent_name, "agent_name")
    # Each is checked by itself, so that an error names the one that is wrong.
    given = {"request": request, "permissions": permissions}
    parts = [agent_name, *(exactjson.encode(value, name, max_bytes=limit)[1] for name, value in given.items())]
    return hashlib.sha256(exactjson.canonical(parts)).hexdigest()
