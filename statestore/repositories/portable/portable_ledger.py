"""What was recorded as used stays recorded when an import takes a session's place.

What the file brings counts for what the ledger had; only what it does not account for is written again beside it. So a
backup can be brought back twice, or over a session that went on, and no total gets smaller or counts anything twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

from statestore.engine.sql import Link, Statement
from statestore.engine.sql_parts import each
from statestore.repositories.usage import ledger

Line: TypeAlias = dict[str, Any]

_MEASURES = (*ledger.COUNTS, "duration_ms", "cost_usd")
_CENT = Decimal("1e-10")

_HELD = Statement(
    f"SELECT {ledger.LINE.select()}, line FROM $usage_ledger"
    " WHERE namespace = :namespace AND session_id $in(:session_ids) ORDER BY session_id, bucket_at, line"
)
_DELETE = Statement("DELETE FROM $usage_ledger WHERE namespace = :namespace AND session_id $in(:session_ids)")
_INSERT = Statement(f"""
    INSERT INTO $usage_ledger (namespace, line, {", ".join(ledger.LINE.names)})
    VALUES (:namespace, :line, {each(":{}", ledger.LINE.names)})""")


def take(link: Link, session_ids: Sequence[str]) -> dict[str, list[Line]]:
    """Remove sessions' lines from the ledger, for `keep` to bring back what is to stay of them."""
    taken: dict[str, list[Line]] = {}
    for line in _held(link, session_ids):
        taken.setdefault(line["session_id"], []).append(line)
    if taken:
        link.run(_DELETE, session_ids=list(taken))
    return taken


def keep(link: Link, session_id: str, taken: Sequence[Line], *, entries: bool) -> None:
    """Write again what the ledger does not have any more of the lines that were *taken*.

    Args:
        link: In the transaction that took them, behind the last row that takes their place.
        session_id: The session.
        taken: What it had.
        entries: The session's entries were replaced, too, and count.
    """
    held = _held(link, [session_id])
    there = [*held, *(_lines(link, ledger.unfolded(link, session_id)) if entries else ())]
    # First what was used at the same time, so that what remains is where it was.
    rest = _without(_without(taken, there, "bucket_at"), there)
    numbers: dict[Any, int] = {}
    for line in held:
        numbers[line["bucket_at"]] = max(line["line"], numbers.get(line["bucket_at"], 0))
    rows = []
    for line in rest:
        if any(line[name] for name in _MEASURES):
            numbers[line["bucket_at"]] = number = numbers.get(line["bucket_at"], 0) + 1
            rows.append({**line, "line": number})
    link.many(_INSERT, rows)


def _held(link: Link, session_ids: Sequence[str]) -> list[Line]:
    rows = link.all(_HELD, session_ids=list(session_ids))
    numbers = (number for (number,) in map(ledger.LINE.behind, rows))
    return [{**line, "line": number} for line, number in zip(_lines(link, rows), numbers, strict=True)]


def _lines(link: Link, rows: Iterable[Sequence[Any]]) -> list[Line]:
    lines = []
    for row in rows:
        line = ledger.LINE.named(link.dialect, row)
        cost = line["cost_usd"]
        line |= {
            "cost_usd": None if cost is None else Decimal(cost).quantize(_CENT),
            "duration_ms": float(line["duration_ms"]),
        }
        lines.append(line)
    return lines


def _without(lines: Sequence[Line], others: Sequence[Line], *same: str) -> list[Line]:
    """The lines less what others of the same model and tool account for. Each of the *others* is used up in place.

    Whose it was does not matter: a session that changed hands was not used twice.
    """
    names = ("provider_name", "model", "tool_name", *same)
    pools: dict[tuple[Any, ...], list[Line]] = {}
    for other in others:
        pools.setdefault(tuple(other[name] for name in names), []).append(other)
    return [_reduced(line, pools.get(tuple(line[name] for name in names), ())) for line in lines]


def _reduced(line: Mapping[str, Any], pool: Iterable[Line]) -> Line:
    rest = dict(line)
    for other in pool:
        for name in _MEASURES:
            if rest[name] and other[name]:
                used = min(rest[name], other[name])
                rest[name], other[name] = rest[name] - used, other[name] - used
    # Sums of floats: what is left of a thousandth of a millisecond is nothing.
    rest["duration_ms"] = round(rest["duration_ms"], 3)
    return rest
