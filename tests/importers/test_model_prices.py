"""`importers.model_prices`: every price of the package once, and those that were set by hand stay."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from statestore import AsyncStateStore, InvalidValueError, ModelPrice, StateStore, prices_of
from statestore.importers import PricesReport, PricesUnavailableError, genai_prices, model_prices
from statestore.operations.usage import SharedPrices
from tests.support.engines import async_engine, sync_engine


@pytest.fixture
def prices(database_url: str) -> Iterator[SharedPrices]:
    engine = sync_engine(database_url)
    yield prices_of(engine)
    engine.dispose()


def listed(prices: Iterable[ModelPrice]) -> list[tuple[Any, ...]]:
    """What the prices say, to the tenth digit, which is what the tables keep."""
    rates = ("input_price", "output_price", "cache_read_price", "cache_write_price", "cache_write_1h_price")
    found: list[tuple[Any, ...]] = []
    for price in prices:
        said = ("" if (rate := getattr(price, name)) is None else f"{rate:.10f}" for name in rates)
        found.append((str(price.provider_name), price.model, price.valid_from, price.above_input_tokens, *said))
    return sorted(found)


def test_every_price_is_taken_over_once_however_often(prices: SharedPrices) -> None:
    prices.set("mine", input_price=1, output_price=2)
    wanted = [price for price, _, _ in genai_prices.rows()]
    source = wanted[0].source
    for _ in range(2):
        assert model_prices(prices) == PricesReport(len(wanted), source)
        found = prices.all()
        assert listed(price for price in found if price.source == source) == listed(wanted)
        assert [price.model for price in found if price.source != source] == ["mine"]


def test_without_the_package_nothing_is_written(prices: SharedPrices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", None)
    with pytest.raises(PricesUnavailableError, match="pip install"):
        model_prices(prices)
    assert prices.all() == []


def test_only_the_owners_prices_are_taken_from(sqlite_url: str) -> None:
    with StateStore.open(sqlite_url) as store:
        wrong: list[Any] = [store, store.prices, prices_of(async_engine(sqlite_url)), AsyncStateStore]
        for one in wrong:
            with pytest.raises(InvalidValueError, match="prices_of"):
                model_prices(one)
