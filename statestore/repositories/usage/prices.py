"""Prices of models, as a namespace sees them: looked up, set by hand, and applied to what is there."""

from datetime import date
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
from statestore.values.prices import ModelPrice, PriceBook

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
_RECORD = Columns(
    schema.usage_records,
    *("record_id", "created_at", "provider_name", "model"),
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens"),
)
_UNPRICED_RECORDS = Statement(f"""
    SELECT {_RECORD.select("r")} FROM $usage_records AS r
    WHERE r.namespace = :namespace AND r.record_id > :after_id AND r.cost_usd IS NULL AND r.model IS NOT NULL
        AND r.input_tokens IS NOT NULL AND r.output_tokens IS NOT NULL
    ORDER BY r.record_id LIMIT :limit""")
_SET_COST_OF_RECORD = Statement("""
    UPDATE $usage_records SET cost_usd = :cost_usd
    WHERE namespace = :namespace AND record_id = :record_id AND cost_usd IS NULL""")
# In the place of a position, where `apply` has come to the records.
_RECORDS = -1

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
            day = self._link.now_here().date()
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
        """Compute the cost of up to *limit* live entries and recorded calls of the namespace that have none.

        Entries first, then what `usage.record` has recorded; each at the price of the day of its `created_at`.

        Args:
            limit: At least 1.
            after: Where to continue, as the previous call returned it.

        Returns:
            How many were looked at, how many of them got a cost, and where to continue; None at the end.
        """
        checks.count(limit, "limit", least=1)
        place: Any = after
        if not (isinstance(place, tuple) and len(place) == 2):
            raise InvalidValueError("after", "must be what the previous call returned: a session id and a position")
        checks.text(place[0], "after")
        if place[1] != _RECORDS:
            checks.count(place[1], "after")
        book = price_rows.load(self._link)
        looked = priced = 0
        if place[1] != _RECORDS:
            looked, priced, place = self._apply_to_entries(book, limit, *place)
        if looked < limit:
            seen, found, place = self._apply_to_records(book, limit - looked, "" if place is None else place[0])
            looked, priced = looked + seen, priced + found
        return looked, priced, place

    def _apply_to_entries(
        self, book: PriceBook, limit: int, after_id: str, after_seq: int
    ) -> tuple[int, int, tuple[str, int] | None]:
        rows = self._link.all(_UNPRICED, limit=limit, after_id=after_id, after_seq=after_seq)
        calls = [_CALL.named(self._link.dialect, row) for row in rows]
        priced = [
            {"session_id": call["session_id"], "seq": call["seq"], "cost_usd": cost}
            for call in calls
            if (cost := _cost_on_its_day(call, book)) is not None
        ]
        self._link.many(_SET_COST, priced)
        more = (calls[-1]["session_id"], calls[-1]["seq"]) if len(calls) == limit else None
        return len(calls), len(priced), more

    def _apply_to_records(self, book: PriceBook, limit: int, after_id: str) -> tuple[int, int, tuple[str, int] | None]:
        rows = self._link.all(_UNPRICED_RECORDS, limit=limit, after_id=after_id)
        calls = [_RECORD.named(self._link.dialect, row) for row in rows]
        priced = [
            {"record_id": call["record_id"], "cost_usd": cost}
            for call in calls
            if (cost := _cost_on_its_day(call | {"response_model": call["model"]}, book)) is not None
        ]
        self._link.many(_SET_COST_OF_RECORD, priced)
        return len(calls), len(priced), (calls[-1]["record_id"], _RECORDS) if len(calls) == limit else None


def _cost_on_its_day(call: dict[str, Any], book: PriceBook) -> Decimal | None:
    return price_rows.cost_of(call, call.get("content"), book, call["created_at"].date())
