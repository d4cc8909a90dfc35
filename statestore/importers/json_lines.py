"""JSON Lines that another program wrote: each line is read exactly, or refused with a reason."""

import os
from collections.abc import Generator
from typing import Any, BinaryIO, TypeAlias

from statestore.checking import json_files, open_files
from statestore.errors import InvalidValueError

Source: TypeAlias = str | os.PathLike[str] | BinaryIO


class LineError(Exception):
    """Why a line cannot be imported; it never quotes the line."""


def parse_line(line: bytes) -> Any:
    """The value on a line.

    Raises:
        LineError: It is not JSON that can be stored exactly.
    """
    try:
        return json_files.parse(line, "line")
    except InvalidValueError as error:
        raise LineError(str(error).removeprefix("line: ")) from None


def check_source(source: object) -> None:
    """Refuse what is neither a path nor a file open for reading bytes."""
    if isinstance(source, str | os.PathLike):
        open_files.path(source, "source")
    else:
        open_files.to_read(source, "source")


def name_of(source: Source) -> str:
    """What messages call a source."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "the file"))


def lines_of(source: Source) -> Generator[tuple[int, bytes], None, None]:
    """The lines of a file with their ends, numbered from 1. If *source* is a path, the file is closed at the end.

    Raises:
        InvalidValueError: It cannot be opened or read.
    """
    try:
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as file:
                yield from json_files.lines(file)
        else:
            yield from json_files.lines(source)
    except OSError as error:
        raise InvalidValueError(name_of(source), unreadable(error)) from error


def unreadable(error: OSError) -> str:
    """Why a file cannot be read."""
    return error.strerror or "cannot be read"
