"""Untrusted text, made safe to show on a terminal and on a page."""

import html
import re

# Control characters, characters that reverse the direction of text, and surrogates, which cannot be encoded.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_TEXT = re.compile(UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))

_SPECIAL = re.compile(f"[&<>\"'{UNSAFE.pattern[1:]}")


def visible(value: str) -> str:
    """One line of text, its control characters escaped."""
    return UNSAFE.sub(_escape, value)


def visible_text(value: str) -> str:
    """Like `visible`, but keeps line breaks and tabs."""
    return _UNSAFE_IN_TEXT.sub(_escape, value)


def escape(value: str) -> str:
    """One line of text as HTML; characters that could hide or reverse a part of it are shown as escapes."""
    # Most texts have nothing to escape, and a page has thousands.
    return html.escape(visible(value)) if _SPECIAL.search(value) else value


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
