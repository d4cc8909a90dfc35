"""What entries cost that come without it: computed as they are appended, from the prices in the database."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from statestore import exactjson, messages
from statestore.price_patterns import PatternError
from statestore.pricing import MAX_COST, Consumption, ModelPrice, PriceBook, Rule, cost, leave_out
from statestore.repositories.entry_rows import PreparedEntry
from statestore.schema import PRICE_COLUMNS
from statestore.sql import Link, Row, Statement

REVISION = """(SELECT coalesce(sum(p.value), 0) FROM {store_settings} AS p
        WHERE p.name = 'prices' AND p.namespace IN ('', :namespace))"""

# Says, in the statement that appends, that the prices are still those that the costs were computed from.
UNCHANGED = f" AND {REVISION} = :prices_revision"

_REVISION = Statement(f"SELECT {REVISION}")

# The day as text: PostgreSQL holds days that Python does not, and one of them would spoil the whole answer.
_SELECT = """
    SELECT namespace, position, provider_name, model, CAST(match AS text), {day}, above_input_tokens, input_price,
        output_price, cache_read_price, cache_write_price, cache_write_1h_price, source
    FROM {{model_prices}} WHERE namespace IN ('', {own})
    ORDER BY namespace DESC, position, valid_from, above_input_tokens"""
_DAY = {"postgresql": "to_char(valid_from, 'YYYY-MM-DD')", "sqlite": "CAST(valid_from AS text)"}
_PRICES, _SHARED_PRICES = (
    Statement(**{name: _SELECT.format(day=day, own=own) for name, day in _DAY.items()}) for own in (":namespace", "''")
)


def price(link: Link, batch: Sequence[PreparedEntry]) -> tuple[Sequence[PreparedEntry], int | None]:
    """Give the entries of *batch* their cost, where they have used tokens and say nothing of a cost.

    Returns:
        The entries, and the revision of the prices if it still has to be compared: outside a transaction of
        PostgreSQL the prices that are known here are taken, and asked for only if the append finds others.
    """
    if not any(_is_unpriced(entry) for entry in batch):
        return batch, None
    prices = link.settings.prices
    known = link.dialect.name == "postgresql" and not link.in_transaction
    if not known:
        _refresh(link)
    today = (link.now() or datetime.now(UTC)).date()
    # The book first: another thread may replace both.
    revision, book = prices.revision, prices.book
    return [_priced(entry, book, today) for entry in batch], revision if known else None


def load(link: Link) -> PriceBook:
    """All prices, as the namespace sees them."""
    return PriceBook(rules(link))


def rules(link: Link, *, shared_only: bool = False) -> list[Rule]:
    """All prices that the namespace sees, or those for everybody. What cannot be used is left out, with a warning.

    A row that is bad must not stop those who append, and who can do nothing about it.
    """
    found = []
    for row in link.all(_SHARED_PRICES if shared_only else _PRICES):
        try:
            found.append(_rule(link, row))
        except (ValueError, TypeError, ArithmeticError) as error:  # Anything may stand in a column of SQLite.
            leave_out(str(row[0]), row[1], str(error) if isinstance(error, PatternError) else "a value cannot be read")
    return found


def _refresh(link: Link) -> None:
    prices = link.settings.prices
    row = link.one(_REVISION)
    revision = int(row[0]) if row else 0
    if revision != prices.revision:
        book = load(link) if revision else PriceBook()
        prices.revision, prices.book = revision, book


def _is_unpriced(entry: PreparedEntry) -> bool:
    columns = entry.columns
    return (
        columns.get("cost_usd") is None
        and columns.get("input_tokens") is not None
        and columns.get("output_tokens") is not None
        and (columns.get("response_model") or columns.get("request_model")) is not None
    )


def _priced(entry: PreparedEntry, book: PriceBook, today: date) -> PreparedEntry:
    if not _is_unpriced(entry):
        return entry
    found = cost_of(entry.columns, entry.content, book, today)
    return entry if found is None else replace(entry, columns={**entry.columns, "cost_usd": found})


def cost_of(columns: Mapping[str, Any], content: Any, book: PriceBook, today: date) -> Decimal | None:
    """What an entry's columns cost."""
    get = columns.get
    at = get("created_at")
    used = Consumption(
        input=columns["input_tokens"],
        output=columns["output_tokens"],
        cache_read=get("cache_read_input_tokens") or 0,
        cache_write=get("cache_write_input_tokens") or 0,
        cache_write_1h=messages.cache_writes_for_an_hour(content) if isinstance(content, dict) else 0,
    )
    # A response may name the model more exactly than the prices do.
    for model in (get("response_model"), get("request_model")):
        if model is not None:
            price = book.find(model, get("provider_name"), at.date() if at is not None else today, used.input)
            if price is not None:
                return cost(price, used)
    return None


def _rule(link: Link, row: Row) -> Rule:
    namespace, position, provider_name, model, match, day, above, *rates, source = row
    money = link.dialect.money
    numbers = [None if rate is None else _sane(money(rate)) for rate in rates]
    if not (isinstance(position, int) and isinstance(above, int) and above >= 0 and isinstance(model, str)):
        raise ValueError
    price = ModelPrice(
        provider_name=provider_name or None,
        model=model,
        valid_from=date.fromisoformat(day),
        above_input_tokens=above,
        source=source,
        **dict(zip(PRICE_COLUMNS, numbers, strict=True)),
    )
    return Rule.of(price, position, exactjson.loads(match), own=bool(namespace))


def _sane(rate: Any) -> Decimal:
    found = Decimal(rate)
    if not (found.is_finite() and 0 <= found < MAX_COST):
        raise ValueError
    return found
