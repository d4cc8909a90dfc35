"""Names that a model or a provider has made up."""

from typing import Any


def label(name: Any, *, longest: int = 512) -> str | None:
    """A name or an id for the columns of an entry; None for one that does not fit, so that the entry is not refused.

    It stays in the content as it is.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= longest:
        return None
    return None if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in name) else name
