"""What entries cost that come without it: computed as they are appended, from the prices in the database."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from statestore.engine.sql import Link
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.repositories.usage import price_rows
from statestore.values.prices import PriceBook, Prices

# Says, in the statement that appends, that the prices are still those that the costs were computed from.
UNCHANGED = price_rows.UNCHANGED


def price(link: Link, batch: Sequence[PreparedEntry]) -> tuple[Sequence[PreparedEntry], int | None]:
    """Give the entries of *batch* their cost, where they have used tokens and say nothing of a cost.

    Returns:
        The entries, and the revision of the prices if it still has to be compared: outside a transaction of
        PostgreSQL the prices that are known here are taken, and asked for only if the append finds others.
    """
    if not any(price_rows.is_unpriced(entry.columns) for entry in batch):
        return batch, None
    book, revision = price_rows.current(link)
    today = (link.now() or datetime.now(UTC)).date()
    return [_priced(entry, book, today) for entry in batch], revision


def known_revision(link: Link) -> int:
    """The revision of the prices that are known here; 0 if there are none."""
    return link.settings.of(Prices).revision


def cost_of(link: Link, columns: Mapping[str, Any], content: Any) -> tuple[Decimal | None, int | None]:
    """What an entry that is stored costs with these columns, by the prices of now.

    Returns:
        With it, the revision of the prices if it still has to be compared, as by `price`.
    """
    if not price_rows.is_unpriced({**columns, "cost_usd": None}):
        return None, None
    book, revision = price_rows.current(link)
    today = (link.now() or datetime.now(UTC)).date()
    return price_rows.cost_of(columns, content, book, today), revision


def _priced(entry: PreparedEntry, book: PriceBook, today: date) -> PreparedEntry:
    if not price_rows.is_unpriced(entry.columns):
        return entry
    found = price_rows.cost_of(entry.columns, entry.content, book, today)
    return entry if found is None else replace(entry, columns={**entry.columns, "cost_usd": found})
