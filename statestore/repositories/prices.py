"""Prices of models: looked up, set by hand, and taken over from elsewhere."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeAlias

from statestore import checks, exactjson
from statestore.errors import InvalidValueError
from statestore.pricing import ModelPrice
from statestore.repositories import price_rows
from statestore.repositories.base import Repository, reads, writes
from statestore.schema import PRICE_COLUMNS
from statestore.sql import Params, Statement

Match: TypeAlias = Mapping[str, Any]

SHARED = ""
"""The namespace of prices that hold for all."""

_ALL = Statement(f"""
    SELECT {price_rows.COLUMNS} FROM {{model_prices}} WHERE namespace IN ('', :namespace)
    ORDER BY namespace DESC, position, valid_from, above_input_tokens""")
_NEXT_POSITION = Statement("""
    SELECT coalesce(max(position), 0) + 1,
        max(CASE WHEN model = :model AND provider_name = :provider_name THEN position END)
    FROM {model_prices} WHERE namespace = :namespace""")
_UPSERT = Statement(f"""
    INSERT INTO {{model_prices}} (namespace, position, provider_name, model, match, valid_from, above_input_tokens,
        {", ".join(PRICE_COLUMNS)}, source, updated_at)
    VALUES (:owner, :position, :provider_name, :model, :match, :valid_from, :above_input_tokens,
        {", ".join(f":{name}" for name in PRICE_COLUMNS)}, :source, {{now}})
    ON CONFLICT (namespace, position, valid_from, above_input_tokens) DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in PRICE_COLUMNS)}, source = excluded.source,
        updated_at = excluded.updated_at""")
_REMOVE = Statement("""
    DELETE FROM {model_prices} WHERE namespace = :namespace AND model = :model AND provider_name = :provider_name""")
_CLEAR_SHARED = Statement("DELETE FROM {model_prices} WHERE namespace = ''")
_CHANGED = Statement("""
    INSERT INTO {store_settings} AS p (namespace, name, value) VALUES (:owner, 'prices', 1)
    ON CONFLICT (namespace, name) DO UPDATE SET value = p.value + 1""")

_UNPRICED = Statement("""
    SELECT h.session_id, h.seq, CAST(h.content AS text), h.created_at, h.provider_name, h.request_model,
        h.response_model, h.input_tokens, h.output_tokens, h.cache_read_input_tokens, h.cache_write_input_tokens
    FROM {history_entries} AS h
    WHERE h.namespace = :namespace AND (h.session_id, h.seq) > (:after_id, :after_seq) AND h.usage_folded = 0
        AND h.cost_usd IS NULL AND h.input_tokens IS NOT NULL AND h.output_tokens IS NOT NULL
        AND (h.response_model IS NOT NULL OR h.request_model IS NOT NULL)
    ORDER BY h.session_id, h.seq LIMIT :limit""")
# Not one that was folded meanwhile: the ledger has it as unpriced.
_SET_COST = Statement("""
    UPDATE {history_entries} SET cost_usd = :cost_usd
    WHERE namespace = :namespace AND session_id = :session_id AND seq = :seq AND usage_folded = 0
        AND cost_usd IS NULL""")
_UNPRICED_COLUMNS = (
    "created_at",
    "provider_name",
    "request_model",
    "response_model",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
)


class PricesRepository(Repository):
    """What models cost. The namespace's own prices go before those that hold for all."""

    @reads
    def find(
        self, model: str, *, provider_name: str | None = None, day: date | None = None, input_tokens: int = 0
    ) -> ModelPrice | None:
        """The price of a call of a model; None where it is not known.

        Args:
            model: As an entry names it.
            provider_name: As an entry names it.
            day: When the call is made, in UTC; today if not given.
            input_tokens: How much input it has, for prices that depend on it.
        """
        checks.key(model, "model")
        checks.optional_key(provider_name, "provider_name")
        checks.count(input_tokens, "input_tokens")
        day = (self._link.now() or datetime.now(UTC)).date() if day is None else day
        return price_rows.load(self._link).find(model, provider_name, day, input_tokens)

    @reads
    def all(self) -> list[ModelPrice]:
        """All prices, the namespace's own first."""
        return [price_rows.from_row(self._link, row) for row in self._link.all(_ALL)]

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
        valid_from: date = date(1970, 1, 1),
        above_input_tokens: int = 0,
    ) -> ModelPrice:
        """Set a price of the namespace's own, such as one that was negotiated. Entries appended later cost this.

        Args:
            model: The name, as entries have it; upper and lower case are one.
            input_price: US dollars for a million tokens, as all prices.
            output_price: Reasoning included.
            cache_read_price: None for the price of other input.
            cache_write_price: None for the price of other input.
            provider_name: Only for calls that name this provider.
            valid_from: The UTC day from which it holds, until a later one of the same model.
            above_input_tokens: Only for calls with more input than this.
        """
        checks.key(model, "model")
        checks.optional_key(provider_name, "provider_name")
        checks.count(above_input_tokens, "above_input_tokens")
        if isinstance(valid_from, datetime):
            raise InvalidValueError("valid_from", "must be a date")
        price = ModelPrice(
            provider_name=provider_name,
            model=model,
            valid_from=valid_from,
            above_input_tokens=above_input_tokens,
            input_price=checks.optional_cost(input_price, "input_price"),
            output_price=checks.optional_cost(output_price, "output_price"),
            cache_read_price=checks.optional_cost(cache_read_price, "cache_read_price"),
            cache_write_price=checks.optional_cost(cache_write_price, "cache_write_price"),
            source="set by hand",
        )
        # First: whoever sets a price at the same time waits here.
        self._changed(self._link.settings.namespace)
        row = self._link.one(_NEXT_POSITION, model=model, provider_name=provider_name or "")
        assert row is not None
        position = row[0] if row[1] is None else row[1]
        params = self._params(price, {"model": {"equals": model}}, position)
        self._link.run(_UPSERT, owner=self._link.settings.namespace, **params)
        return price

    @writes
    def remove(self, model: str, *, provider_name: str | None = None) -> int:
        """Remove the namespace's own prices of a model.

        Returns:
            How many there were.
        """
        checks.key(model, "model")
        checks.optional_key(provider_name, "provider_name")
        self._changed(self._link.settings.namespace)
        return self._link.run(_REMOVE, model=model, provider_name=provider_name or "")

    @writes
    def replace_shared(self, prices: Iterable[tuple[ModelPrice, int, Match]]) -> int:
        """Put *prices*, with their position and what they match, in place of those that hold for all namespaces.

        Returns:
            How many there are now.
        """
        rows = self._once("rows", lambda: [self._params(price, match, place) for price, place, match in prices])
        self._changed(SHARED)
        self._link.run(_CLEAR_SHARED)
        self._link.many(_UPSERT, rows, owner=SHARED)
        return len(rows)

    @writes
    def apply(self, limit: int, after: tuple[str, int] = ("", 0)) -> tuple[int, int, tuple[str, int] | None]:
        """Compute the cost of up to *limit* live entries that have none.

        Returns:
            How many were looked at, how many of them got a cost, and where to go on; None at the end.
        """
        rows = self._link.all(_UNPRICED, limit=limit, after_id=after[0], after_seq=after[1])
        book = price_rows.load(self._link)
        priced = []
        for row in rows:
            columns = dict(zip(_UNPRICED_COLUMNS, row[3:], strict=True))
            columns["created_at"] = self._link.dialect.time(columns["created_at"])
            found = price_rows.cost_of(columns, exactjson.loads(row[2]), book, columns["created_at"].date())
            if found is not None:
                priced.append({"session_id": row[0], "seq": row[1], "cost_usd": found})
        self._link.many(_SET_COST, priced)
        return len(rows), len(priced), (rows[-1][0], rows[-1][1]) if len(rows) == limit else None

    def _changed(self, owner: str) -> None:
        """Say that prices have changed, to all processes that have read them."""
        self._link.run(_CHANGED, owner=owner)

    def _params(self, price: ModelPrice, match: Match, position: int) -> Params:
        sqlite = self._link.dialect.name == "sqlite"
        return {
            "position": position,
            "provider_name": price.provider_name or "",
            "model": price.model,
            "match": exactjson.dumps(dict(match), "match"),
            "valid_from": price.valid_from.isoformat() if sqlite else price.valid_from,
            "above_input_tokens": price.above_input_tokens,
            **{name: getattr(price, name) for name in PRICE_COLUMNS},
            "source": price.source,
        }
