"""Prices for everybody: whose business they are, what is refused, and that a bad one stops nobody."""

import logging
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from statestore import InvalidValueError, ModelPrice, NewEntry, SchemaMissingError, StateStore, Usage, prices_of
from statestore.engine.telemetry import warn_once
from statestore.values.prices import Consumption, cost
from tests.migrations.databases import connected, driver_url, prefix
from tests.support.command_line import invoke
from tests.support.portal import Blocking

Store = Any
Connect = Callable[..., Store]
Caplog = pytest.LogCaptureFixture
USAGE = Usage(input_tokens=1_000_000, output_tokens=0)


def price(model: str = "m", rate: int = 1, **changed: Any) -> ModelPrice:
    rates = {"input_price": Decimal(rate), "output_price": Decimal(0)}
    return ModelPrice(**{"provider_name": "p", "model": model, "valid_from": date(1970, 1, 1), **rates, **changed})


def matching(**clauses: Any) -> dict[str, Any]:
    return {name: {"equals": model} for name, model in clauses.items()}


def of(store: Store, model: str = "m", **given: Any) -> Decimal | None:
    """What a million tokens cost."""
    entry = NewEntry("x", usage=USAGE, response_model=model, **given)
    found: Decimal | None = store.history.append("s", [entry], create=True)[0].cost_usd
    return found


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(driver_url(database_url))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _safe)
    yield engine
    engine.dispose()


def _safe(connection: Any, _: Any) -> None:
    for pragma in ("foreign_keys=ON", "synchronous=FULL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


@pytest.fixture
def shared(engine: Engine, database_url: str, world: str, portal: Any) -> Iterator[Any]:
    """`prices_of(engine)` in the test's world."""
    if world == "sync":
        yield prices_of(engine)
        return
    url = database_url.replace("sqlite:", "sqlite+aiosqlite:", 1)
    theirs = create_async_engine(driver_url(url))
    if theirs.dialect.name == "sqlite":
        event.listen(theirs.sync_engine, "connect", lambda connection, _: [
            connection.execute(f"PRAGMA {pragma}")
            for pragma in ("foreign_keys=ON", "synchronous=FULL", "busy_timeout=30000")
        ])  # fmt: skip

    async def made() -> Any:
        return prices_of(theirs)

    yield Blocking(portal, portal.run(made()))
    portal.run(theirs.dispose())


def test_the_owner_sets_prices_for_everybody_and_a_namespace_its_own_before_them(
    shared: Any, open_store: Callable[..., Store]
) -> None:
    one, other = open_store(namespace="one"), open_store(namespace="other")
    assert shared.replace([(price(rate=1), 1, matching(model="m", bare="m"))]) == 1
    assert (of(one), of(other)) == (1, 1)
    shared.set("m", input_price=2, output_price=0)
    assert (of(one), of(other)) == (2, 2)
    one.prices.set("m", input_price=3, output_price=0)
    assert (of(one), of(other)) == (3, 2)
    assert (one.prices.find("m").input_price, other.prices.find("m").input_price) == (3, 2)
    # What is taken over anew leaves alone what was set, and the other way round.
    shared.set("second", input_price=5, output_price=0, provider_name="q")
    shared.set("m", input_price=4, output_price=0)
    assert shared.replace([(price("n", rate=7), 1, matching(model="n", bare="n"))]) == 1
    assert [(p.model, p.input_price) for p in shared.all()] == [("second", 5), ("m", 4), ("n", 7)]
    assert (of(other), of(other, "n"), of(other, "second"), of(other, "second", provider_name="q")) == (4, 7, None, 5)
    assert one.prices.remove("m") == 1
    assert (one.prices.remove("m"), shared.remove("m"), shared.remove("n")) == (0, 1, 0)
    assert of(one) is None
    assert of(one, "n") == 7


def test_a_store_leads_to_no_prices_but_its_own(store: Store) -> None:
    assert not hasattr(store.prices, "replace_shared")


def test_who_is_no_engine_or_has_no_tables_is_told(empty_database_url: str) -> None:
    for nothing in ("sqlite://", None, 5):
        with pytest.raises(InvalidValueError):
            prices_of(nothing)  # type: ignore[call-overload]
    engine = create_engine(driver_url(empty_database_url))
    event.listen(engine, "connect", lambda c, r: _safe(c, r) if engine.dialect.name == "sqlite" else None)
    with pytest.raises(SchemaMissingError):
        prices_of(engine).all()
    engine.dispose()


BAD_LINES = [
    5,
    "abc",
    (price(), 1),
    ("m", 1, {}),
    (price(), 0, matching(model="m")),
    (price(), 2**63, matching(model="m")),
    (price(), "1", matching(model="m")),
    (price(), 1, {"model": {"regex": "("}}),
    (price(), 1, {"model": {"regex": r"(a)\1"}}),
    (price(), 1, {"model": {"unknown": "x"}}),
    (price(), 1, {"models": {"equals": "x"}}),
    (price(), 1, []),
    (price(model=""), 1, matching(model="m")),
    (price(input_price=Decimal("NaN")), 1, matching(model="m")),
    (price(input_price=Decimal(-1)), 1, matching(model="m")),
    (price(input_price=Decimal(10) ** 10), 1, matching(model="m")),
    (price(valid_from=datetime(2026, 1, 1)), 1, matching(model="m")),
    (price(above_input_tokens=2**63), 1, matching(model="m")),
    (price(source=None), 1, matching(model="m")),
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_price_that_cannot_be_used_is_refused_and_nothing_is_written(shared: Any, line: Any) -> None:
    shared.set("kept", input_price=1, output_price=1)
    with pytest.raises(InvalidValueError):
        shared.replace([(price(), 7, matching(model="m")), line])
    assert [found.model for found in shared.all()] == ["kept"]


def test_other_arguments_that_cannot_be_are_refused(shared: Any, store: Store) -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: shared.replace(5),
        lambda: shared.replace([(price(), 1, matching(model="m"))] * 2),
        lambda: shared.set("", input_price=1, output_price=1),
        lambda: shared.set("m", input_price="1", output_price=1),
        lambda: shared.remove(5),
        lambda: store.prices.set("m", input_price=1, output_price=1, valid_from="2026-01-01"),
        lambda: store.prices.find("m", day=datetime(2026, 1, 1)),
        lambda: store.prices.find("m", day="2026-01-01"),
        lambda: store.prices.find("m", day=0),
        lambda: store.prices.apply(10, 5),
        lambda: store.prices.apply(10, ("s",)),
        lambda: store.prices.apply(10, (5, 5)),
        lambda: store.prices.apply(10, ("s", "1")),
        lambda: store.prices.apply(10, ("s", 2**63)),
        lambda: store.prices.apply(10, ("a\0b", 1)),
        lambda: store.prices.apply(10, None),
        lambda: store.prices.apply(2**63),
        lambda: store.prices.apply(0),
        lambda: store.prices.apply("1"),
    ]
    for call in wrong:
        with pytest.raises(InvalidValueError):
            call()


GOOD_MATCH = '{"model": {"equals": "m"}, "bare": {"equals": "m"}}'
# What somebody may have written without us, by the columns that differ from a good row's.
BAD_ROWS: dict[str, dict[str, str]] = {
    "a pattern that is none": {"match": """'{"model": {"regex": "("}, "bare": {"equals": "m"}}'"""},
    "no clause": {"match": "'5'"},
    "a clause without a name": {"match": """'{"model": [], "bare": {"equals": "m"}}'"""},
    "less than nothing": {"input_price": "-1"},
}
BAD_ON_POSTGRESQL = {
    "not a number": {"input_price": "'NaN'"},
    "never": {"valid_from": "'infinity'"},
    "a day that Python does not know": {"valid_from": "'20000-01-01'"},
}
BAD_ON_SQLITE = {
    "no JSON": {"match": "'{'"},
    "no number": {"input_price": "'cheap'"},
    "endless": {"output_price": "9e999"},
    "no day": {"valid_from": "'soon'"},
    "a number for a day": {"valid_from": "5"},
    "no size": {"above_input_tokens": "'large'"},
    "no position": {"position": "'first'"},
}


def write_row(url: str, **columns: str) -> None:
    """A row of everybody's prices, past all checks."""
    row = {
        "namespace": "''", "position": "1", "provider_name": "'p'", "model": "'m'", "match": f"'{GOOD_MATCH}'",
        "valid_from": "'1970-01-01'", "above_input_tokens": "0", "input_price": "1", "output_price": "0",
        "source": "'somebody'", "updated_at": "'2026-01-31T12:00:00.000000Z'", **columns,
    }  # fmt: skip
    with connected(url) as connection:
        connection.exec_driver_sql(
            f"INSERT INTO {prefix(url)}model_prices ({', '.join(row)}) VALUES ({', '.join(row.values())})"
        )
        connection.exec_driver_sql(
            f"INSERT INTO {prefix(url)}store_settings AS s (namespace, name, value) VALUES ('', 'prices', 1)"
            " ON CONFLICT (namespace, name) DO UPDATE SET value = s.value + 1"
        )


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_stops_nobody(database_url: str, connect: Connect, caplog: Caplog, name: str) -> None:
    nobody_is_stopped(database_url, connect, caplog, BAD_ROWS[name])


@pytest.mark.parametrize("name", BAD_ON_POSTGRESQL)
def test_what_only_postgresql_stores_stops_nobody(
    postgres_url: str, connect: Connect, caplog: Caplog, name: str
) -> None:
    nobody_is_stopped(postgres_url, connect, caplog, BAD_ON_POSTGRESQL[name])


@pytest.mark.parametrize("name", BAD_ON_SQLITE)
def test_what_only_sqlite_stores_stops_nobody(sqlite_url: str, connect: Connect, caplog: Caplog, name: str) -> None:
    nobody_is_stopped(sqlite_url, connect, caplog, BAD_ON_SQLITE[name])


def nobody_is_stopped(url: str, connect: Connect, caplog: Caplog, bad: dict[str, str]) -> None:
    warn_once.cache_clear()
    store = connect(url)
    of(store)  # It has asked for prices before.
    write_row(url, position="2", model="'n'", match="'" + GOOD_MATCH.replace('"m"', '"n"') + "'")
    write_row(url, **bad)
    with caplog.at_level(logging.WARNING, "statestore"):
        assert (of(store), of(store, "n")) == (None, 1)
        with store.transaction() as tx:
            assert of(tx, "n") == 1
        assert store.prices.find("n") is not None
        assert [found.model for found in store.prices.all()] == ["n"]
        assert store.prices.apply(10)[1] == 0
    warnings = [record for record in caplog.records if "is left out" in record.getMessage()]
    assert len(warnings) == 1, "once for each row"
    assert "cheap" not in warnings[0].getMessage()


def test_a_pattern_that_takes_python_for_ever_takes_nobody_s_time(
    database_url: str, open_store: Callable[..., Store]
) -> None:
    slow = '{"model": {"regex": "(a+)+$"}, "bare": {"contains": "a"}}'
    write_row(database_url, match=f"'{slow}'")
    store = open_store()
    assert of(store, "a" * 40 + "!") is None
    assert of(store, "a" * 40) == 1


def test_what_version_0_1_took_over_still_holds(database_url: str, open_store: Callable[..., Store]) -> None:
    regex = '{"model": {"regex": "^claude-sonnet-5-\\\\d{8}$"}, "provider": null, "bare": {"starts_with": "claude"}}'
    write_row(database_url, match=f"'{regex}'", model="'claude-sonnet-5'", provider_name="'anthropic'")
    store = open_store()
    assert of(store, "claude-sonnet-5-20260101") == 1
    assert of(store, "claude-sonnet-5-2026010") is None


def test_a_cost_that_no_column_holds_is_not_known(open_store: Callable[..., Store], shared: Any) -> None:
    store = open_store()
    shared.set("m", input_price=9_999_999_999, output_price=0)
    assert of(store) == 9_999_999_999
    usage = Usage(input_tokens=1_000_000_000, output_tokens=0)
    [entry] = store.history.append("s", [NewEntry("x", usage=usage, response_model="m")])
    assert entry.cost_usd is None
    dear = price(rate=9_999_999_999)
    assert cost(dear, Consumption(input=1_000_001, output=0)) is None


def test_the_command_sets_and_removes_them(database_url: str) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        done = invoke("prices", *arguments, "--url", database_url)
        assert done.exit_code == code, done.output
        return done.output

    run("set", "m", "--input", "1", "--output", "0", "--shared", "--namespace", "one")
    with StateStore.open(database_url, namespace="two") as store:
        assert of(store) == 1
    assert "has no price of its own for 'm'" in run("remove", "m", "--namespace", "one", code=1)
    assert "removed 1 price" in run("remove", "m", "--shared")
    assert "no price for 'm' was set for all namespaces" in run("remove", "m", "--shared", code=1)
