"""The checks of arguments that every operation makes before any SQL, in one place, so that both databases agree."""

import inspect
import math
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from statestore.checking import exactjson, inexact
from statestore.errors import InvalidValueError

MAX_KEY_LENGTH = 512
MAX_SCHEMA_BYTES = 63
# What PostgreSQL's indexes take in a row is 2,704 bytes, of texts of which it has compressed the long ones. So many are
# left for the names of an index, and so many of them for the namespace, for the indexes of it and one other name.
MAX_NAMES_BYTES = 2_640
MAX_NAMESPACE_BYTES = 600
MAX_INTEGER = 2**63 - 1
# Of a history: far beyond any real one, and small enough that no position computed from it exceeds 64 bits.
MAX_POSITION = 10**12
# Far beyond any use, and short enough that now + ttl never passes the year 9999.
MAX_TTL = timedelta(days=36_500)
# A day inside datetime's range: drivers read times in the server's zone before they become UTC again.
_EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
_LATEST = datetime(9999, 12, 30, tzinfo=UTC)
_MAX_COST = Decimal(10) ** 10
_COST_STEP = Decimal("1e-10")
_DIGITS = f"{inexact.MAX_DIGITS:,} digits"

T = TypeVar("T")


def key(value: Any, argument: str) -> str:
    """A text key: an id, a name, a state key. Any text of 1 to 512 characters without NUL, stored as it is."""
    if not isinstance(value, str):
        raise InvalidValueError(argument, f"must be a string, not {type(value).__name__}")
    if not 0 < len(value) <= MAX_KEY_LENGTH:
        raise InvalidValueError(argument, f"must have 1 to {MAX_KEY_LENGTH} characters, has {len(value)}")
    _storable(value, argument)
    return value


def keys(values: Any, argument: str) -> list[str]:
    """A list of text keys, each once, in the order given."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidValueError(argument, "must be a list of strings; put a single one into a list")
    return list(dict.fromkeys(key(value, f"{argument}[{index}]") for index, value in enumerate(values)))


def optional_key(value: Any, argument: str) -> str | None:
    return None if value is None else key(value, argument)


def together(argument: str, *names: str, most: int = MAX_NAMES_BYTES) -> None:
    """Names that one row of an index holds; the same verdict on SQLite, which would take any.

    Args:
        argument: What is named if they are too long.
        names: Checked already, each by itself.
        most: How many bytes there is room for.
    """
    if 4 * sum(map(len, names)) <= most:
        return
    size = sum(map(indexed_bytes, names))
    if size > most:
        what = f"takes {size:,} bytes in an index" if len(names) == 1 else f"and the ids beside it take {size:,} bytes"
        raise InvalidValueError(argument, f"{what}, of {most:,} that PostgreSQL has room for; use a shorter one")


def namespace(value: Any, argument: str) -> str:
    """The name of a namespace that is written to: it leaves room for the ids beside it."""
    together(argument, key(value, argument), most=MAX_NAMESPACE_BYTES)
    name: str = value
    return name


def indexed_bytes(text: str) -> int:
    """About what a name takes: PostgreSQL compresses names of more than 500 bytes, though less than zlib does."""
    name = text.encode()
    return len(name) if len(name) <= 500 else min(len(name), 3 * len(zlib.compress(name, 1)))


def schema_name(value: Any, argument: str = "schema") -> str:
    """The name of a PostgreSQL schema. PostgreSQL truncates longer names, so two of them could become one schema."""
    key(value, argument)
    if len(value.encode()) > MAX_SCHEMA_BYTES:
        problem = f"must have at most {MAX_SCHEMA_BYTES} bytes in UTF-8, has {len(value.encode())}"
        raise InvalidValueError(argument, f"{problem}; PostgreSQL truncates longer names")
    if value.startswith("pg_"):
        raise InvalidValueError(argument, "must not begin with pg_, which PostgreSQL reserves for itself")
    if "$statestore$" in value:
        raise InvalidValueError(argument, "must not contain $statestore$, which migrations use as a quotation mark")
    return str(value)


def optional_text(value: Any, argument: str, *, max_bytes: int = exactjson.MAX_BYTES) -> str | None:
    """Free text up to the size limit. It must not contain NUL, which PostgreSQL cannot store."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidValueError(argument, f"must be a string or None, not {type(value).__name__}")
    _storable(value, argument)
    if len(value.encode()) > max_bytes:
        raise InvalidValueError(argument, f"is longer than the limit of {max_bytes:,} bytes")
    return value


def text(value: Any, argument: str, *, max_bytes: int = exactjson.MAX_BYTES) -> str:
    found = optional_text(value, argument, max_bytes=max_bytes)
    if found is None:
        raise InvalidValueError(argument, "must be a string, not None")
    return found


def _storable(value: str, argument: str) -> None:
    if "\0" in value:
        raise InvalidValueError(argument, "contains a NUL character, which PostgreSQL cannot store; remove it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidValueError(argument, "contains a lone surrogate; it is not valid Unicode") from None


def count(value: Any, argument: str, *, least: int = 0, most: int = MAX_INTEGER) -> int:
    """A count or a position: a whole number from *least* to *most*."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValueError(argument, f"must be a whole number, not {type(value).__name__}")
    if not least <= value <= most:
        limit = "fit 64 bits" if most == MAX_INTEGER else f"at most {most:,}"
        raise InvalidValueError(argument, f"must be at least {least} and {limit}")
    return value


def optional_count(value: Any, argument: str, *, least: int = 0) -> int | None:
    return None if value is None else count(value, argument, least=least)


def number(value: Any, argument: str) -> int | float:
    """A number that JSON can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValueError(argument, f"must be a number, not {type(value).__name__}")
    if not _is_json(value):
        raise InvalidValueError(argument, f"must be a finite float, or a whole number of at most {_DIGITS}")
    return value


def added(held: int | float, amount: int | float, argument: str) -> int | float:
    """The sum of two numbers, checked also where a lenient store would make null of it."""
    try:
        total = held + amount
    except OverflowError:
        total = math.inf
    if not _is_json(total):
        raise InvalidValueError(argument, f"cannot be added: the sum does not fit a float, or {_DIGITS}")
    return total


def _is_json(value: int | float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else -inexact.TOO_LARGE < value < inexact.TOO_LARGE


def ttl(value: Any, argument: str = "ttl", *, hint: str = "use None for no expiry") -> timedelta | None:
    """A time to live; None for no expiry, unless *hint* says otherwise."""
    if value is None:
        return None
    if not isinstance(value, timedelta):
        raise InvalidValueError(argument, f"must be a timedelta or None, not {type(value).__name__}")
    if value <= timedelta(0):
        raise InvalidValueError(argument, f"must be longer than zero; {hint}")
    if value > MAX_TTL:
        raise InvalidValueError(argument, f"must be at most {MAX_TTL.days:,} days; {hint}")
    return value


def duration(value: Any, argument: str) -> timedelta:
    """How long something takes or lasts."""
    if not isinstance(value, timedelta) or not timedelta(0) < value <= MAX_TTL:
        raise InvalidValueError(argument, f"must be a timedelta longer than zero, and at most {MAX_TTL.days:,} days")
    return value


def patience(value: Any, argument: str) -> timedelta:
    """How long to wait: zero for not at all."""
    found = optional_duration(value, argument)
    if found is None:
        raise InvalidValueError(argument, "must be a timedelta, not None; timedelta(0) does not wait at all")
    return found


def optional_duration(value: Any, argument: str) -> timedelta | None:
    if value is None:
        return None
    if not isinstance(value, timedelta) or not timedelta(0) <= value <= MAX_TTL:
        raise InvalidValueError(argument, f"must be a timedelta of zero to {MAX_TTL.days:,} days")
    return value


def optional_time(value: Any, argument: str) -> datetime | None:
    """An aware datetime, in UTC."""
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidValueError(
            argument, "must be an aware datetime; add tzinfo, for example datetime.now(timezone.utc)"
        )
    if not _EARLIEST <= value <= _LATEST:
        raise InvalidValueError(argument, "is outside the years 1 to 9999 in some time zone")
    return value.astimezone(UTC)


def optional_cost(value: Any, argument: str = "cost_usd") -> Decimal | None:
    """US dollars with ten decimals. A float is taken as it prints: 0.1 is 0.1."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Decimal | int | float):
        raise InvalidValueError(argument, f"must be a Decimal, int or float, not {type(value).__name__}")
    try:
        cost = Decimal(str(value))
        if not 0 <= cost < _MAX_COST:
            raise InvalidValueError(argument, "must be zero or more, and less than ten billion dollars")
        return cost.quantize(_COST_STEP)
    except (InvalidOperation, ValueError) as exc:
        if isinstance(exc, InvalidValueError):
            raise
        raise InvalidValueError(argument, "is not a finite number of a reasonable size") from None


def metadata(value: Any, argument: str = "metadata", *, max_bytes: int = exactjson.MAX_BYTES) -> str | None:
    """The JSON text of a mapping with string keys."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidValueError(argument, f"must be a mapping, not {type(value).__name__}")
    return exactjson.dumps(value if isinstance(value, dict) else dict(value), argument, max_bytes=max_bytes)


def flag(value: Any, argument: str) -> bool:
    """Yes or no. Nothing else: the text "no" would be a yes."""
    if not isinstance(value, bool):
        raise InvalidValueError(argument, f"must be True or False, not {type(value).__name__}")
    return value


def flags(**values: Any) -> None:
    """Several, by their names."""
    for name, value in values.items():
        flag(value, name)


def function(value: Any, argument: str) -> None:
    """A function of the caller's that is called, and never awaited."""
    if not callable(value):
        raise InvalidValueError(argument, f"must be a function, not {type(value).__name__}")
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__):
        raise InvalidValueError(argument, "is a coroutine function, which is not awaited; pass a plain one")


def optional_function(value: Any, argument: str) -> None:
    if value is not None:
        function(value, argument)


def one_of(value: T, allowed: tuple[T, ...], argument: str) -> T:
    if value not in allowed:
        raise InvalidValueError(argument, f"must be one of {', '.join(map(str, allowed))}")
    return value
