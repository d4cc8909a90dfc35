"""Files and paths of a caller's, looked at before anything is read or written."""

import inspect
import io
import os
from pathlib import Path
from typing import Any

from statestore.errors import InvalidValueError


def to_write(file: Any, argument: str = "file") -> None:
    """An open file that takes bytes."""
    _check(file, argument, "write", "writable", "writing", "wb")


def to_read(file: Any, argument: str = "file") -> None:
    """An open file that gives bytes."""
    _check(file, argument, "read", "readable", "reading", "rb")


def _check(file: Any, argument: str, method: str, ability: str, doing: str, mode: str) -> None:
    does = getattr(file, method, None)
    remedy = f"pass what open(path, {mode!r}) returns"
    if not callable(does) or isinstance(file, type):
        raise InvalidValueError(argument, f"must be a file open for {doing} bytes, not {type(file).__name__}; {remedy}")
    if isinstance(file, io.TextIOBase) or isinstance(getattr(file, "encoding", None), str):
        raise InvalidValueError(argument, f"is open for {doing} text, but has to be for bytes; {remedy}")
    if inspect.iscoroutinefunction(does):
        raise InvalidValueError(argument, f"is a file that is awaited; {remedy}")
    if getattr(file, "closed", False) is True:
        raise InvalidValueError(argument, f"is closed; {remedy}")
    able = getattr(file, ability, None)
    if callable(able) and not able():
        raise InvalidValueError(argument, f"is not open for {doing}; {remedy}")


def path(value: Any, argument: str = "path") -> Path:
    """A path that the system can be asked for; there need not be anything at it."""
    found = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(found, str):
        raise InvalidValueError(argument, f"must be a path, as text or a pathlib.Path, not {type(value).__name__}")
    if "\0" in found:
        raise InvalidValueError(argument, "contains a NUL character, which no path has; remove it")
    try:
        os.fsencode(found)
    except UnicodeEncodeError:
        raise InvalidValueError(argument, "contains a lone surrogate, which is not in the name of any file") from None
    return Path(found)
