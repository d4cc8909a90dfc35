"""Values from the columns of another framework's database."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from statestore.checking import json_files
from statestore.errors import InvalidValueError


def json_of(text: Any, where: str) -> Any:
    """The value of JSON from a column of text or JSON.

    Raises:
        InvalidValueError: It is not exact JSON; the message begins with *where*.
    """
    if not isinstance(text, str | bytes):
        raise InvalidValueError(where, "is not JSON")
    return json_files.parse(text.encode(errors="surrogatepass") if isinstance(text, str) else text, where)


def time_of(value: Any, where: str) -> datetime | None:
    """A time from a column: a time or its text, which is in UTC if it says nothing else, or seconds since 1970.

    Raises:
        InvalidValueError: It is none of these; the message begins with *where*.
    """
    if value is None:
        return None
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError, OverflowError, OSError):
        raise InvalidValueError(where, "is not a time") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


@contextmanager
def written_by(framework: str, where: str) -> Iterator[None]:
    """Convert what a framework wrote: if it has another form, that is a problem of *where*, not the end of the import.

    Raises:
        InvalidValueError: Something within it is not of the type that *framework* gives it.
    """
    try:
        yield
    except InvalidValueError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidValueError(where, f"does not have the form that {framework} gives it") from error
