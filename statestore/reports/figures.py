"""Numbers in a form that people read easily."""

import math
from datetime import timedelta
from decimal import Decimal

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_MINUTE = 60.0
NONE = "\u2013"
UNCHANGED = "unchanged"


def whole(value: int) -> str:
    return f"{value:,}"


def counted(number: int, noun: str) -> str:
    """`1 session`, `1,200 sessions`, `3 entries`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeiou" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def short(value: float) -> str:
    """Three digits or so: `1.25M`, `870`, `0.4`."""
    for scale, letter in _SCALES:
        if abs(value) >= scale * 0.9995:
            return f"{_digits(value / scale)}{letter}"
    return _digits(value)


def _digits(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    # Two places, or more if these would not show the first two digits.
    places = 1 if abs(value) >= 10 else max(2, 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def money(value: Decimal | float | None) -> str:
    """Dollars to the cent; amounts below a dollar to their first two digits."""
    if value is None:
        return NONE
    number = float(value)
    if number == 0 or number >= 0.995:
        return f"${number:,.2f}"
    places = min(10, 1 - math.floor(math.log10(number)))
    return f"${number:.{max(places, 2)}f}"


def short_money(value: float) -> str:
    return f"${short(value)}" if value == 0 or value >= 0.01 else money(value)


def size(value: float) -> str:
    return f"{short(value)}B" if value >= 1000 else f"{value:.0f} bytes"


def percent(value: float | None) -> str:
    return NONE if value is None else f"{value * 100:.1f} %"


def duration(value: timedelta | None) -> str:
    if value is None:
        return NONE
    seconds = value.total_seconds()
    if seconds < 1:
        return f"{_digits(seconds * 1000)} ms"
    if seconds < _MINUTE:
        return f"{_digits(seconds)} s"
    if seconds < 60 * _MINUTE:
        return f"{_digits(seconds / 60)} min"
    return f"{_digits(seconds / 3600)} h" if seconds < 172_800 else f"{_digits(seconds / 86_400)} days"


def change(now: float | None, before: float | None) -> str:
    """How much a figure has changed: `+12 %`."""
    if now is None or not before:
        return ""
    moved = (now - before) / before
    if abs(moved) >= 10:
        return f"{_digits(now / before)} times"
    return _signed(f"{moved * 100:+,.0f}", "%")


def points(now: float | None, before: float | None) -> str:
    """How much a share has changed, in percentage points: `+1.5 points`."""
    return "" if now is None or before is None else _signed(f"{(now - before) * 100:+.1f}", "points")


def _signed(number: str, unit: str) -> str:
    return f"{number} {unit}".replace("-", "\u2212") if float(number.replace(",", "")) else UNCHANGED


def ticks(highest: float, wanted: int = 4) -> list[float]:
    """Round numbers from 0 up to the first that reaches *highest*."""
    if highest <= 0:
        return [0.0, 1.0]
    raw = highest / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.9999)
    return [index * step for index in range(math.ceil(highest / step - 1e-9) + 1)]
