"""What a transaction has read of its namespace's own prices nobody changes before it ends."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.support.crowd import at_once

Store = Any
ROUNDS = 10


@pytest.mark.parametrize("there", [True, False], ids=["there", "missing"])
@pytest.mark.parametrize("read", ["find", "all"])
def test_prices_that_are_read_and_written_in_transactions_lose_no_update(
    open_store: Callable[..., Store], there: bool, read: str
) -> None:
    store = open_store()

    def raise_it(model: str) -> None:
        with store.transaction() as tx:
            if read == "find":
                found = tx.prices.find(model)
            else:
                found = next((price for price in tx.prices.all() if price.model == model), None)
            rate = Decimal(0) if found is None else found.input_price
            tx.prices.set(model, input_price=rate + 1, output_price=0)

    for number in range(ROUNDS):
        model = f"m{number}"
        if there:
            store.prices.set(model, input_price=0, output_price=0)
        at_once(*(lambda: raise_it(model) for _ in range(4)))  # noqa: B023
        assert store.prices.find(model).input_price == 4


def test_prices_read_in_a_transaction_hold_up_no_other_namespace_and_no_append(
    postgres_url: str, connect: Callable[..., Store]
) -> None:
    store, other = connect(postgres_url), connect(postgres_url, namespace="other")
    with store.transaction() as tx:
        assert tx.prices.all() == []
        other.prices.set("m", input_price=1, output_price=1)
        assert len(other.prices.all()) == 1
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"role": "assistant", "model": "m", "content": "x", "usage": usage}
        store.history.append("s", [message], create=True)
