"""Prices from the `genai-prices` package, which comes with the extra `prices`, as rows of `model_prices`.

Only the prices of text tokens are used. If a model's price also depends on something that entries do not record, such
as the number of requests or the hour of the day, the model is left out: its cost stays unknown rather than too low.
Charges for other things, such as pictures or searches, are not part of the cost.
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
    from statestore.operations.usage import SharedPrices

_RATES = {
    "input_mtok": "input_price",
    "output_mtok": "output_price",
    "cache_read_mtok": "cache_read_price",
    "cache_write_mtok": "cache_write_price",
    "cache_write_1h_mtok": "cache_write_1h_price",
}
# Prices that also apply to a call with text tokens only, and whose quantities entries do not record.
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
    """The package `genai-prices` is not installed or cannot be used; install `statestore[prices]`."""


@dataclass(frozen=True, slots=True)
class PricesReport:
    """What an import of prices did."""

    prices: int
    """Prices that now apply."""
    source: str
    """The package and its version."""


def model_prices(prices: "SharedPrices") -> PricesReport:
    """Copy the prices of the installed package genai-prices into a database, for all its namespaces.

    They replace the prices of an earlier import, in one transaction. Prices that were set by hand stay and take
    precedence. Entries that are already stored keep their cost, or stay without one: `store.prices` computes what is
    missing.

    Args:
        prices: The prices to replace: `statestore.prices_of(engine)`, with an `Engine` of the database's owner.

    Raises:
        PricesUnavailableError: The package is not installed, or newer than this version can read. Nothing was written.
        InvalidValueError: *prices* is not what `prices_of` returns for an `Engine`. Nothing was written.
        DatabaseError: The database failed. Nothing was written.
    """
    from statestore.operations.usage import SharedPrices

    if not isinstance(prices, SharedPrices):
        raise InvalidValueError(
            "prices", f"must be statestore.prices_of(engine) of an Engine, not {type(prices).__name__}"
        )
    found = rows()
    return PricesReport(prices.replace(found), found[0][0].source)


def rows() -> list[tuple[ModelPrice, int, dict[str, Any]]]:
    """Every price of the installed package, with its position and the names that it matches.

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
        others = getattr(provider, "fallback_model_providers", None) or ()  # Earlier versions do not have it.
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
                # The model cannot be left out: the first matching model of a provider counts, so calls of this one
                # would get another's price.
                raise PricesUnavailableError(
                    f"{source} has a pattern for the model {model.id!r} that this version of statestore does not "
                    f"understand ({error}); upgrade statestore, or install an earlier genai-prices"
                ) from None
            found += [(price, position, match) for price in _prices(provider.id, model, source)]
    return found


def _prices(provider_name: str, model: Any, source: str) -> Iterator[ModelPrice]:
    """The prices of a model: one for each date on which they change, and for each size of input with separate rates."""
    dated = model.prices if isinstance(model.prices, list) else [None]
    for conditional in dated:
        constraint = None if conditional is None else conditional.constraint
        if constraint is not None and not hasattr(constraint, "start_date"):
            return  # The price depends on the hour of the day.
    by_day: dict[date, Any] = {}
    for conditional in dated:
        prices = model.prices if conditional is None else conditional.prices
        constraint = None if conditional is None else conditional.constraint
        by_day[_ALWAYS if constraint is None else constraint.start_date] = prices
    by_day.setdefault(_ALWAYS, by_day[min(by_day)])
    for day, prices in sorted(by_day.items()):
        values = {key: value for key, value in vars(prices).items() if value is not None}
        if values.keys() & _UNKNOWABLE or not values.keys() & _RATES.keys():
            # A price without rates ends the earlier one.
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
