"""Prices of models, as a namespace sees them: looked up, set by hand, and applied to what is there."""

from datetime import UTC, date, datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any

from statestore import schema
from statestore.checking import checks
from statestore.engine.calls import reads, reported_as, writes
from statestore.engine.columns import Columns
from statestore.engine.sql import Statement
from statestore.errors import InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.usage import price_rows, price_writes
from statestore.values.prices import ModelPrice

_CALL = Columns(
    schema.history_entries,
    *("session_id", "seq", "content", "created_at", "provider_name", "request_model", "response_model"),
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens"),
)
_UNPRICED = Statement(f"""
    SELECT {_CALL.select("h")} FROM $history_entries AS h
    WHERE h.namespace = :namespace AND (h.session_id, h.seq) > (:after_id, :after_seq) AND h.usage_folded = 0
        AND h.cost_usd IS NULL AND h.input_tokens IS NOT NULL AND h.output_tokens IS NOT NULL
        AND (h.response_model IS NOT NULL OR h.request_model IS NOT NULL)
    ORDER BY h.session_id, h.seq LIMIT :limit""")
# Not one that was folded meanwhile: the ledger has it as unpriced.
_SET_COST = Statement("""
    UPDATE $history_entries SET cost_usd = :cost_usd
    WHERE namespace = :namespace AND session_id = :session_id AND seq = :seq AND usage_folded = 0
        AND cost_usd IS NULL""")


class PricesRepository(Repository, group="prices"):
    """What models cost. The namespace's own prices take precedence over those for all namespaces."""

    @reads
    def find(
        self, model: str, *, provider_name: str | None = None, day: date | None = None, input_tokens: int = 0
    ) -> ModelPrice | None:
        """The price of a call to a model; None if it is not known.

        Args:
            model: As an entry names it.
            provider_name: As an entry names it.
            day: When the call is made, in UTC; today if not given.
            input_tokens: How much input it has, for prices that depend on it.
        """
        checks.key(model, "model")
        checks.optional_key(provider_name, "provider_name")
        checks.count(input_tokens, "input_tokens")
        if day is not None:
            price_writes.day(day, "day")
        else:
            day = (self._link.now() or datetime.now(UTC)).date()
        price_writes.hold(self._link)
        return price_rows.load(self._link).find(model, provider_name, day, input_tokens)

    @reads
    def all(self) -> list[ModelPrice]:
        """All prices, the namespace's own first."""
        price_writes.hold(self._link)
        return [rule.price for rule in price_rows.rules(self._link)]

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
        """Set the namespace's own price, such as a negotiated one. It applies to entries appended later.

        Args:
            model: The name, as in entries; case does not matter.
            input_price: US dollars per million tokens, like all prices.
            output_price: Including reasoning.
            cache_read_price: None for the price of other input.
            cache_write_price: None for the price of other input.
            provider_name: Only for calls that name this provider.
            valid_from: The first UTC day on which it applies, until a later price of the same model.
            above_input_tokens: Only for calls with more input than this.
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
        price_writes.put(self._link, self._link.settings.namespace, price)
        return price

    @writes
    def remove(self, model: str, *, provider_name: str | None = None) -> int:
        """Remove the namespace's own prices of a model.

        Returns:
            How many there were.
        """
        return price_writes.remove(self._link, self._link.settings.namespace, model, provider_name)

    @reported_as(rows=itemgetter(1))
    @writes
    def apply(self, limit: int, after: tuple[str, int] = ("", 0)) -> tuple[int, int, tuple[str, int] | None]:
        """Compute the cost of up to *limit* live entries of the namespace that have none.

        Args:
            limit: At least 1.
            after: Where to continue, as returned by the previous call.

        Returns:
            How many were looked at, how many of them got a cost, and where to continue; None at the end.
        """
        checks.count(limit, "limit", least=1)
        place: Any = after
        if not (isinstance(place, tuple) and len(place) == 2):
            raise InvalidValueError("after", "must be what the previous call returned: a session id and a position")
        checks.text(place[0], "after")
        checks.count(place[1], "after")
        rows = self._link.all(_UNPRICED, limit=limit, after_id=after[0], after_seq=after[1])
        book = price_rows.load(self._link)
        priced = []
        last: tuple[str, int] | None = None
        for row in rows:
            call = _CALL.named(self._link.dialect, row)
            last = call["session_id"], call["seq"]
            found = price_rows.cost_of(call, call["content"], book, call["created_at"].date())
            if found is not None:
                priced.append({"session_id": call["session_id"], "seq": call["seq"], "cost_usd": found})
        self._link.many(_SET_COST, priced)
        return len(rows), len(priced), last if len(rows) == limit else None
