"""The prices in the database, as a namespace sees them, and what a call costs by them."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from statestore.checking import exactjson, messages
from statestore.engine.sql import Link, Row, Statement
from statestore.engine.telemetry import warn_once
from statestore.schema import PRICE_COLUMNS
from statestore.values.price_patterns import PatternError
from statestore.values.prices import MAX_COST, Consumption, ModelPrice, PriceBook, Prices, Rule, cost

REVISION = """(SELECT coalesce(sum(p.value), 0) FROM $store_settings AS p
        WHERE p.name = 'prices' AND p.namespace IN ('', :namespace))"""

_REVISION = Statement(f"SELECT {REVISION}")

# Says, in the statement that writes, that the prices are still those that the costs were computed from.
UNCHANGED = f" AND {REVISION} = :prices_revision"


# The day as text: PostgreSQL holds days that Python does not, and one of them would spoil the whole answer.
def _select(day: str, own: str) -> str:
    return f"""
    SELECT namespace, position, provider_name, model, CAST(match AS text), {day}, above_input_tokens,
        {", ".join(PRICE_COLUMNS)}, source
    FROM $model_prices WHERE namespace IN ('', {own})
    ORDER BY namespace DESC, position, valid_from, above_input_tokens"""


_PRICES, _SHARED_PRICES = (
    Statement(
        postgresql=_select("to_char(valid_from, 'YYYY-MM-DD')", own), sqlite=_select("CAST(valid_from AS text)", own)
    )
    for own in (":namespace", "''")
)


_LEFT_OUT = "price %r of %s cannot be used and is left out: %s; set or sync the prices again"


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
        except (ValueError, TypeError, ArithmeticError) as error:  # Anything may be in a column of SQLite.
            namespace, position, *_ = row
            why = str(error) if isinstance(error, PatternError) else "a value cannot be read"
            whose = f"namespace {str(namespace)!r}" if namespace else "all namespaces"
            warn_once(_LEFT_OUT, position, whose, why)
    return found


def refresh(link: Link) -> None:
    """Read the prices that the store works with anew, if they have changed."""
    prices = link.settings.of(Prices)
    (revision,) = link.only(_REVISION)
    revision = int(revision)
    if revision != prices.revision:
        prices.book = load(link) if revision else PriceBook()
        prices.revision = revision


def current(link: Link) -> tuple[PriceBook, int | None]:
    """The prices to compute costs from.

    Returns:
        With them, their revision if it still has to be compared: outside a transaction of PostgreSQL the prices that
        are known here are taken, and asked for only if the statement that writes finds others.
    """
    prices = link.settings.of(Prices)
    known = link.dialect.name == "postgresql" and not link.in_transaction
    if not known:
        refresh(link)
    # The revision first, which is replaced last: prices that are newer than it are found out, older ones would not be.
    revision, book = prices.revision, prices.book
    return book, revision if known else None


def is_unpriced(columns: Mapping[str, Any]) -> bool:
    """Whether a call comes without its cost, and says enough to compute it."""
    return (
        columns.get("cost_usd") is None
        and columns.get("input_tokens") is not None
        and columns.get("output_tokens") is not None
        and (columns.get("response_model") or columns.get("request_model")) is not None
    )


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
