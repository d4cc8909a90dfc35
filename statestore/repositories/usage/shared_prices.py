"""Prices that hold for all namespaces, which the owner of the database sets."""

from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from statestore.engine.calls import reads, writes
from statestore.engine.sql import Statement
from statestore.errors import InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.usage import price_rows, price_writes
from statestore.repositories.usage.price_writes import SHARED
from statestore.values.prices import ModelPrice

_CLEAR = Statement("DELETE FROM $model_prices WHERE namespace = '' AND position > 0")


class SharedPricesRepository(Repository, group="shared_prices"):
    """What models cost in every namespace that has not set its own price."""

    @reads
    def all(self) -> list[ModelPrice]:
        """All prices that hold for everybody, those set by hand first."""
        return [rule.price for rule in price_rows.rules(self._link, shared_only=True)]

    @writes
    def set(
        self,
        model: str,
        *,
        input_price: Decimal | float,
        output_price: Decimal | float,
        cache_read_price: Decimal | float | None = None,
        cache_write_price: Decimal | float | None = None,
        provider_name: str | None = None,
        valid_from: date = price_writes.ALWAYS,
        above_input_tokens: int = 0,
    ) -> ModelPrice:
        """Set a price for everybody. It takes precedence over prices imported with `replace`, and outlasts them.

        Arguments are as for `store.prices.set`, which sets a namespace's own price; that takes precedence over this.
        """
        price = price_writes.by_hand(
            model,
            provider_name,
            valid_from,
            above_input_tokens,
            input_price=input_price,
            output_price=output_price,
            cache_read_price=cache_read_price,
            cache_write_price=cache_write_price,
        )
        price_writes.put(self._link, SHARED, price)
        return price

    @writes
    def remove(self, model: str, *, provider_name: str | None = None) -> int:
        """Remove the prices of a model that `set` has set for everybody.

        Returns:
            How many there were.
        """
        return price_writes.remove(self._link, SHARED, model, provider_name)

    @writes
    def replace(self, prices: Iterable[tuple[ModelPrice, int, Mapping[str, Any]]]) -> int:
        """Replace the prices of the previous `replace` with *prices*, all or none; those set by hand stay.

        Args:
            prices: Each with its position, from 1, and what it matches: clauses of `genai-prices` for `model`, for
                `provider`, and for a model if no provider is named (`bare`). Of a provider's models that match a call,
                the first one counts; prices with the same position belong to one model.

        Returns:
            How many there are now.

        Raises:
            InvalidValueError: A price or a pattern cannot be used; see `statestore.values.price_patterns`. Nothing was
                written.
        """
        lines: Any = prices
        if not isinstance(lines, Iterable):
            raise InvalidValueError("prices", f"must be an iterable of prices, not {type(lines).__name__}")
        rows = self._once(
            "rows",
            lambda: [price_writes.given(self._link, line, f"prices[{index}]") for index, line in enumerate(lines)],
        )
        keys = {(row["position"], row["valid_from"], row["above_input_tokens"]) for row in rows}
        if len(keys) < len(rows):
            raise InvalidValueError("prices", "has two prices with the same position, day and size")
        price_writes.changed(self._link, SHARED)
        self._link.run(_CLEAR)
        self._link.many(price_writes.UPSERT, rows, owner=SHARED)
        return len(rows)
