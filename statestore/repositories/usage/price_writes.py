"""Putting prices into the database: a namespace's own, and those that hold for all."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from statestore.checking import checks, exactjson
from statestore.engine.sql import Link, Params, Statement
from statestore.engine.sql_parts import each
from statestore.errors import InvalidValueError
from statestore.schema import PRICE_COLUMNS
from statestore.values.price_patterns import PatternError
from statestore.values.prices import ModelPrice, Rule

SHARED = ""
"""The namespace of prices that hold for all."""

ALWAYS = date(1970, 1, 1)
BY_HAND = "set by hand"

UPSERT = Statement(f"""
    INSERT INTO $model_prices (namespace, position, provider_name, model, match, valid_from, above_input_tokens,
        {", ".join(PRICE_COLUMNS)}, source, updated_at)
    VALUES (:owner, :position, :provider_name, :model, :match, :valid_from, :above_input_tokens,
        {each(":{}", PRICE_COLUMNS)}, :source, $now)
    ON CONFLICT (namespace, position, valid_from, above_input_tokens) DO UPDATE SET
        {each("{0} = excluded.{0}", PRICE_COLUMNS)}, source = excluded.source,
        updated_at = excluded.updated_at""")
# Those for all that are set by hand have positions below zero: what is taken over from elsewhere counts from one.
_POSITION = Statement("""
    SELECT max(CASE WHEN model = :model AND provider_name = :provider_name THEN position END),
        coalesce(max(position), 0) + 1, coalesce(min(position), 0)
    FROM $model_prices WHERE namespace = :owner AND (:owner <> '' OR position < 0)""")
_REMOVE = Statement("""
    DELETE FROM $model_prices WHERE namespace = :owner AND model = :model AND provider_name = :provider_name
        AND (:owner <> '' OR position < 0)""")
_CHANGED = Statement("""
    INSERT INTO $store_settings AS p (namespace, name, value) VALUES (:owner, 'prices', 1)
    ON CONFLICT (namespace, name) DO UPDATE SET value = p.value + 1""")
_HOLD = Statement("""
    INSERT INTO $store_settings AS p (namespace, name, value) VALUES (:namespace, 'prices', 0)
    ON CONFLICT (namespace, name) DO UPDATE SET value = p.value""")


def by_hand(
    model: str, provider_name: str | None, valid_from: date, above_input_tokens: int, **rates: Any
) -> ModelPrice:
    """A price as a caller sets it, checked."""
    return ModelPrice(
        provider_name=checks.optional_key(provider_name, "provider_name"),
        model=checks.key(model, "model"),
        valid_from=day(valid_from, "valid_from"),
        above_input_tokens=checks.count(above_input_tokens, "above_input_tokens"),
        source=BY_HAND,
        **{name: checks.optional_cost(rate, name) for name, rate in rates.items()},
    )


def day(value: Any, argument: str) -> date:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise InvalidValueError(argument, f"must be a date, not {type(value).__name__}")
    return value


def changed(link: Link, owner: str) -> None:
    """Say that prices have changed, to all processes that have read them.

    Before anything else is done: whoever changes prices at the same time waits here.
    """
    link.run(_CHANGED, owner=owner)


def hold(link: Link) -> None:
    """Keep the namespace's own prices, and what is missing among them, as they are, if the link asks for it.

    Those for everybody may change meanwhile: no namespace's transaction makes their owner wait.
    """
    if link.holds_reads:
        link.run(_HOLD)


def put(link: Link, owner: str, price: ModelPrice) -> None:
    """Set a price of *owner*'s by hand."""
    changed(link, owner)
    row = link.one(_POSITION, owner=owner, model=price.model, provider_name=price.provider_name or "")
    assert row is not None
    found, after, lowest = row
    position = found if found is not None else lowest - 1 if owner == SHARED else after
    link.run(UPSERT, owner=owner, **params(link, price, {"model": {"equals": price.model}}, position))


def remove(link: Link, owner: str, model: str, provider_name: str | None) -> int:
    """Remove the prices of a model that *owner* has set by hand, and return how many there were."""
    checks.key(model, "model")
    checks.optional_key(provider_name, "provider_name")
    changed(link, owner)
    return link.run(_REMOVE, owner=owner, model=model, provider_name=provider_name or "")


def params(link: Link, price: ModelPrice, match: Mapping[str, Any], position: int) -> Params:
    """A row, whose values have been checked."""
    sqlite = link.dialect.name == "sqlite"
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


def given(link: Link, line: Any, where: str) -> Params:
    """A row from what a caller gives: a price, its position, and what it matches."""
    if not (isinstance(line, tuple | list) and len(line) == 3 and isinstance(line[0], ModelPrice)):
        raise InvalidValueError(where, "must be a ModelPrice, its position, and what it matches")
    price, position, match = line
    checks.optional_key(price.provider_name, f"{where}.provider_name")
    checks.key(price.model, f"{where}.model")
    checks.text(price.source, f"{where}.source")
    checks.count(price.above_input_tokens, f"{where}.above_input_tokens")
    checks.count(position, f"{where}.position", least=1)
    day(price.valid_from, f"{where}.valid_from")
    for name in PRICE_COLUMNS:
        checks.optional_cost(getattr(price, name), f"{where}.{name}")
    try:
        Rule.of(price, position, match)
    except PatternError as error:
        raise InvalidValueError(f"{where}.match", str(error)) from None
    return params(link, price, match, position)
