"""What a model call costs, from prices per million tokens. A price that is not known is never guessed.

Prices follow the `genai-prices` project and its terms: a provider is found by its name, or by the model's name if none
is given; a model by the first of its provider's rules that matches; a rate may begin on a date, and may depend on how
much input the call has, in which case it applies to all of its tokens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Self

from statestore.values.price_patterns import Matcher, PatternError, compile_clause

MAX_COST = Decimal(10) ** 10
"""Prices, and the cost of a call, are less than this: the columns cannot store more."""
_MILLION = Decimal(1_000_000)
_STEP = Decimal("1e-10")
_COMPACT_DATE = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """US dollars per million tokens of a model.

    Args:
        provider_name: Whose price it is; None for any provider.
        model: The model.
        valid_from: The first UTC day on which the price applies, until a later price of the model.
        above_input_tokens: For calls with more input than this; 0 for all calls that no higher tier covers.
        input_price: Input that is not cached.
        output_price: Output, including reasoning.
        cache_read_price: Input that the provider had cached; None for the price of other input.
        cache_write_price: Input that the provider wrote to its cache; None for the price of other input.
        cache_write_1h_price: The same for one hour, if the entry's content says so; None for `cache_write_price`.
        source: Where the price comes from.
    """

    provider_name: str | None
    model: str
    valid_from: date
    above_input_tokens: int = 0
    input_price: Decimal | None = None
    output_price: Decimal | None = None
    cache_read_price: Decimal | None = None
    cache_write_price: Decimal | None = None
    cache_write_1h_price: Decimal | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumption:
    """What a call used, as far as prices go. `cache_write_1h` is part of `cache_write`."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0


def cost(price: ModelPrice, used: Consumption) -> Decimal | None:
    """What the call costs; None if a price that it needs is missing, or its figures contradict each other."""
    plain = used.input - used.cache_read - used.cache_write
    if plain < 0 or used.cache_write_1h > used.cache_write:
        return None
    read_price = _either(price.cache_read_price, price.input_price)
    write_price = _either(price.cache_write_price, price.input_price)
    total = Decimal(0)
    for tokens, rate in (
        (plain, price.input_price),
        (used.cache_read, read_price),
        (used.cache_write - used.cache_write_1h, write_price),
        (used.cache_write_1h, _either(price.cache_write_1h_price, write_price)),
        (used.output, price.output_price),
    ):
        if tokens and rate is None:
            return None
        total += tokens * (rate or 0)
    total /= _MILLION
    return total.quantize(_STEP) if total < MAX_COST else None


def _either(price: Decimal | None, other: Decimal | None) -> Decimal | None:
    return other if price is None else price


@dataclass(frozen=True, slots=True)
class Rule:
    """A price, and the names that it is for: of the provider, of the model, and of the model without a provider.

    Rules with one *position* are the prices of one model, at different times and for different sizes. `own` means that
    the price is the namespace's own, which takes precedence. Those that were set by hand for everybody have negative
    positions.
    """

    price: ModelPrice
    position: int
    own: bool
    model: Matcher
    provider: Matcher
    bare: Matcher

    @classmethod
    def of(cls, price: ModelPrice, position: int, match: Any, *, own: bool = False) -> Self:
        """The rule of a price, and what it matches as it is stored: a clause each for `model`, `provider`, `bare`.

        Raises:
            PatternError: What it matches cannot be used.
        """
        if not isinstance(match, Mapping) or match.keys() - {"model", "provider", "bare"}:
            raise PatternError("what it matches must be a mapping of model, provider and bare to clauses")
        clauses = (compile_clause(match.get(name)) for name in ("model", "provider", "bare"))
        return cls(price, position, own, *clauses)

    @property
    def by_hand(self) -> bool:
        return self.own or self.position < 0


class PriceBook:
    """All prices of a database, as one namespace sees them."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        """Take rules in the order in which to try them."""
        self._own = [rule for rule in rules if rule.own]
        self._by_hand = [rule for rule in rules if rule.by_hand and not rule.own]
        self._providers: dict[str, list[Rule]] = {}
        for rule in rules:
            if not rule.by_hand:
                self._providers.setdefault(rule.price.provider_name or "", []).append(rule)
        self._found: dict[tuple[str | None, str], list[ModelPrice]] = {}

    def find(self, model: str, provider_name: str | None, day: date, input_tokens: int) -> ModelPrice | None:
        """The price of a call on a day."""
        key = (provider_name, model)
        if key not in self._found:
            if len(self._found) > 10_000:  # Names come from outside, without a limit.
                self._found.clear()
            self._found[key] = self._prices(model.lower(), provider_name)
        begun = [price for price in self._found[key] if price.valid_from <= day]
        if not begun:
            return None
        latest = max(price.valid_from for price in begun)
        tiers = [
            p
            for p in begun
            if p.valid_from == latest and (input_tokens > p.above_input_tokens or not p.above_input_tokens)
        ]
        return max(tiers, key=lambda price: price.above_input_tokens, default=None)

    def _prices(self, model: str, provider_name: str | None) -> list[ModelPrice]:
        for by_hand in (self._own, self._by_hand):
            meant = [r.price for r in by_hand if r.price.provider_name in (None, provider_name) and r.model(model)]
            if meant:
                return [price for price in meant if price.provider_name is not None] or meant
        rules = self._rules_of(model, provider_name)
        for name in dict.fromkeys((model, _COMPACT_DATE.sub(r"-\1-\2-\3", model))):
            found = next((rule for rule in rules if rule.model(name)), None)
            if found is not None:
                return [rule.price for rule in rules if rule.position == found.position]
        return []

    def _rules_of(self, model: str, provider_name: str | None) -> list[Rule]:
        if provider_name is not None:
            name = provider_name.lower().strip()
            if name in self._providers:
                return self._providers[name]
        for rules in self._providers.values():
            if rules[0].bare(model) if provider_name is None else rules[0].provider(name):
                return rules
        return []


@dataclass(slots=True)
class Prices:
    """The prices that a process works with, and their revision in the database; 0 if there are none."""

    revision: int = 0
    book: PriceBook = field(default_factory=PriceBook)
