"""Prices from the `genai-prices` package, which comes with the extra `prices`, as rows of `model_prices`.

Taken is what prices the tokens of a text. A model whose price also has a part that no entry tells of, by the request,
by the hour of the day, is left out: its cost stays unknown rather than too low. What models charge for other things,
such as pictures or searches, is not in the cost.
"""

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from statestore.errors import InvalidValueError, StateStoreError
from statestore.values.price_patterns import PatternError, compile_clause
from statestore.values.prices import ModelPrice

if TYPE_CHECKING:
    from statestore.operations.prices import SharedPrices

_RATES = {
    "input_mtok": "input_price",
    "output_mtok": "output_price",
    "cache_read_mtok": "cache_read_price",
    "cache_write_mtok": "cache_write_price",
    "cache_write_1h_mtok": "cache_write_1h_price",
}
# Of a call that is tokens of text in and out, these cost something too, and how much is not known.
_UNKNOWABLE = frozenset(
    {
        "requests_kcount",
        "input_mchars",
        "output_mchars",
        "input_text_messages_kcount",
        "output_reasoning_mtok",
        "output_citation_mtok",
    }
)
_ALWAYS = date(1970, 1, 1)
_CLAUSES = ("equals", "starts_with", "ends_with", "contains", "regex")


class PricesUnavailableError(StateStoreError):
    """The package `genai-prices` is not installed, or cannot be used; install `statestore[prices]`."""


@dataclass(frozen=True, slots=True)
class PricesReport:
    """What an import of prices has done."""

    prices: int
    """Prices that hold now."""
    source: str
    """The package and its version."""


def model_prices(prices: "SharedPrices") -> PricesReport:
    """Take over the prices of the installed package genai-prices, for all namespaces of a database.

    They replace those of an earlier import, in one transaction. Prices that were set by hand stay, and are asked first.
    Entries that are stored already keep their cost, or stay without one: `store.prices` computes what is missing.

    Args:
        prices: Where to: `statestore.prices_of(engine)`, with the `Engine` of the database's owner.

    Raises:
        PricesUnavailableError: The package is not installed, or newer than this version can read. Nothing was written.
        InvalidValueError: *prices* is not what `prices_of` gives for an `Engine`. Nothing was written.
        DatabaseError: The database failed. Nothing was written.
    """
    from statestore.operations.prices import SharedPrices

    if not isinstance(prices, SharedPrices):
        raise InvalidValueError(
            "prices", f"must be statestore.prices_of(engine) of an Engine, not {type(prices).__name__}"
        )
    found = rows()
    return PricesReport(prices.replace(found), found[0][0].source)


def rows() -> list[tuple[ModelPrice, int, dict[str, Any]]]:
    """Every price of the installed package, with its position and what it matches.

    Raises:
        PricesUnavailableError: The package is not installed, or newer than this version can read.
    """
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        raise PricesUnavailableError(
            "the package genai-prices is not installed; install it with: pip install 'statestore[prices]'"
        ) from None
    source = f"genai-prices {importlib.metadata.version('genai-prices')}"
    providers: list[Any] = get_snapshot().providers
    found: list[tuple[ModelPrice, int, dict[str, Any]]] = []
    position = 0
    for provider in providers:
        others = getattr(provider, "fallback_model_providers", None) or ()  # Earlier versions have none.
        lenders = [p for name in others for p in providers if p.id == name]
        for model in [model for one in (provider, *lenders) for model in one.models]:
            position += 1
            try:
                match = {
                    "model": _clause(model.match),
                    "provider": _clause(provider.provider_match),
                    "bare": _clause(provider.model_match),
                }
                for clause in match.values():
                    compile_clause(clause)
            except PatternError as error:
                # Not left out: of the models of a provider the first that matches counts, so that calls of this one
                # would get the price of another.
                raise PricesUnavailableError(
                    f"{source} says which names mean {model.id!r} in a way that this version of statestore does not "
                    f"know ({error}); upgrade statestore, or install an earlier genai-prices"
                ) from None
            found += [(price, position, match) for price in _prices(provider.id, model, source)]
    return found


def _prices(provider_name: str, model: Any, source: str) -> Iterator[ModelPrice]:
    """The prices of a model: for each date from which others hold, and for each size of input with rates of its own."""
    dated = model.prices if isinstance(model.prices, list) else [None]
    for conditional in dated:
        constraint = None if conditional is None else conditional.constraint
        if constraint is not None and not hasattr(constraint, "start_date"):
            return  # By the hour of the day.
    by_day: dict[date, Any] = {}
    for conditional in dated:
        prices = model.prices if conditional is None else conditional.prices
        constraint = None if conditional is None else conditional.constraint
        by_day[_ALWAYS if constraint is None else constraint.start_date] = prices
    by_day.setdefault(_ALWAYS, by_day[min(by_day)])
    for day, prices in sorted(by_day.items()):
        values = {key: value for key, value in vars(prices).items() if value is not None}
        if values.keys() & _UNKNOWABLE or not values.keys() & _RATES.keys():
            # Without rates, so that an earlier price does not go on.
            yield ModelPrice(provider_name=provider_name, model=model.id, valid_from=day, source=source)
            continue
        rates = {_RATES[key]: value for key, value in values.items() if key in _RATES}
        starts = {0} | {tier.start for value in rates.values() if hasattr(value, "tiers") for tier in value.tiers}
        for start in sorted(starts):
            yield ModelPrice(
                provider_name=provider_name,
                model=model.id,
                valid_from=day,
                above_input_tokens=start,
                source=source,
                **{name: _rate(value, start) for name, value in rates.items()},
            )


def _rate(value: Any, start: int) -> Decimal:
    """The rate for calls with more input than *start*."""
    if not hasattr(value, "tiers"):
        return Decimal(value)
    return Decimal(
        max(((t.start, t.price) for t in value.tiers if t.start <= start and start), default=(0, value.base))[1]
    )


def _clause(clause: Any) -> dict[str, Any] | None:
    """A clause of the package as JSON."""
    if clause is None:
        return None
    for kind in ("or", "and"):
        if hasattr(clause, f"{kind}_"):
            return {kind: [_clause(part) for part in getattr(clause, f"{kind}_")]}
    for kind in _CLAUSES:
        if hasattr(clause, kind):
            return {kind: getattr(clause, kind)}
    raise PatternError(f"a clause {type(clause).__name__}")
