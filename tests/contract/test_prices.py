"""What entries cost that come without a cost."""

import json
import sys
from copy import copy
from datetime import UTC, date, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot

from statestore import InvalidValueError, ModelPrice, NewEntry, StateStore, Usage
from statestore.checking.exactjson import loads
from statestore.importers import genai_prices as taken
from statestore.shared_prices import prices_through
from statestore.values.price_patterns import compile_clause
from statestore.values.prices import Consumption, PriceBook, Rule, cost
from tests.support.command_line import invoke

USAGE = Usage(input_tokens=1000, output_tokens=100, cache_read_input_tokens=200, cache_write_input_tokens=300)


def of(store: Any, model: str | None = "m", **kwargs: Any) -> Decimal | None:
    """What the store says that a call costs."""
    entry = NewEntry("x", **{"usage": USAGE, "response_model": model, **kwargs})
    found: Decimal | None = store.history.append("s", [entry], create=True)[0].cost_usd
    return found


def price(**kwargs: Any) -> ModelPrice:
    return ModelPrice(provider_name=None, model="m", valid_from=date(1970, 1, 1), **kwargs)


def test_the_cost_is_what_each_kind_of_token_costs() -> None:
    rates = price(
        input_price=Decimal(3),
        output_price=Decimal(15),
        cache_read_price=Decimal("0.3"),
        cache_write_price=Decimal("3.75"),
        cache_write_1h_price=Decimal(6),
    )
    used = Consumption(input=1000, output=100, cache_read=200, cache_write=300, cache_write_1h=50)
    by_hand = (500 * 3 + 200 * Decimal("0.3") + 250 * Decimal("3.75") + 50 * 6 + 100 * 15) / Decimal(10**6)
    assert cost(rates, used) == by_hand


def test_cached_tokens_without_a_price_cost_what_other_input_costs() -> None:
    rates = price(input_price=Decimal(3), output_price=Decimal(15))
    assert cost(rates, Consumption(input=1000, output=0, cache_read=999)) == Decimal("0.003")


@pytest.mark.parametrize(
    ("rates", "used"),
    [
        (price(input_price=Decimal(1)), Consumption(input=1, output=1)),
        (price(output_price=Decimal(1)), Consumption(input=1, output=1)),
        (price(), Consumption(input=1, output=0)),
        (price(input_price=Decimal(1), output_price=Decimal(1)), Consumption(input=1, output=1, cache_read=2)),
    ],
    ids=["no price of output", "no price of input", "no price", "more cached than there is"],
)
def test_a_cost_is_never_guessed(rates: ModelPrice, used: Consumption) -> None:
    assert cost(rates, used) is None


def test_an_entry_gets_the_cost_of_its_model(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        assert of(store) is None
        store.prices.set("M", input_price=2, output_price=10, cache_read_price=0.2, cache_write_price=2.5)
        assert of(store) == Decimal("0.00279")
        assert of(store, cost_usd=Decimal("0.5")) == Decimal("0.5")
        assert of(store, "another") is None
        assert of(store, None, request_model="m") == Decimal("0.00279")
        assert of(store, "another", request_model="m") == Decimal("0.00279")
        assert of(store, usage=Usage(input_tokens=5)) is None
        read = store.history.read("s")
        assert [entry.cost_usd for entry in read] == [None, Decimal("0.00279"), Decimal("0.5"), None,
                                                      Decimal("0.00279"), Decimal("0.00279"), None]  # fmt: skip
        totals = store.usage.totals()
        assert (totals.cost_usd, totals.unpriced_calls) == (Decimal("0.50837"), 3)


def test_all_input_is_plain_unless_some_is_said_to_be_cached(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        store.prices.set("M", input_price=2, output_price=10, cache_read_price=0.2, cache_write_price=2.5)
        used = Usage(input_tokens=1000, output_tokens=100)
        assert of(store, usage=used) == Decimal("0.003")
        store.usage.record(record_id="r", model="M", usage=used)
        assert store.usage.totals().cost_usd == Decimal("0.006")


def test_a_new_price_holds_at_once_for_everybody(database_url: str) -> None:
    with StateStore.open(database_url) as one, StateStore.open(database_url) as other:
        one.prices.set("m", input_price=1, output_price=0)
        assert (of(one), of(other)) == (Decimal("0.001"), Decimal("0.001"))
        other.prices.set("m", input_price=2, output_price=0)
        assert (of(one), of(other)) == (Decimal("0.002"), Decimal("0.002"))
        with one.transaction() as tx:
            assert of(tx) == Decimal("0.002")
        assert one.prices.remove("m") == 1
        assert (of(one), of(other)) == (None, None)


def test_a_message_is_priced_by_what_it_says(database_url: str) -> None:
    message = {
        "role": "assistant",
        "model": "claude",
        "content": "Hi",
        "usage": {
            "input_tokens": 10,
            "output_tokens": 1,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 100,
            "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
        },
    }
    with StateStore.open(database_url) as store:
        rates = ModelPrice(
            provider_name="anthropic",
            model="claude",
            valid_from=date(1970, 1, 1),
            input_price=Decimal(1),
            output_price=Decimal(1),
            cache_write_price=Decimal(2),
            cache_write_1h_price=Decimal(3),
        )
        match = {"model": {"equals": "claude"}, "bare": {"contains": "claude"}}
        prices_through(store).replace([(rates, 1, match)])
        [entry] = store.history.append("s", [message], create=True)
    assert entry.cost_usd == (10 + 1 + 40 * 2 + 60 * 3) / Decimal(10**6)


def test_a_price_begins_on_a_day_and_depends_on_the_size(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        store.prices.set("m", input_price=1, output_price=0)
        store.prices.set("m", input_price=2, output_price=0, above_input_tokens=1000)
        store.prices.set("m", input_price=5, output_price=0, valid_from=date(2026, 2, 1))
        small, large = Usage(input_tokens=1000, output_tokens=0), Usage(input_tokens=1001, output_tokens=0)
        before, after = datetime(2026, 1, 31, 23, 59, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
        assert of(store, usage=small, created_at=before) == Decimal("0.001")
        assert of(store, usage=large, created_at=before) == Decimal("0.002002")
        assert of(store, usage=large, created_at=after) == Decimal("0.005005")
        assert store.prices.find("m", day=date(2026, 1, 1)).input_price == 1


def test_the_namespace_s_own_price_goes_first(database_url: str) -> None:
    shared = ModelPrice(
        provider_name="p", model="m", valid_from=date(1970, 1, 1), input_price=Decimal(9), output_price=Decimal(0)
    )
    with StateStore.open(database_url) as store, StateStore.open(database_url, namespace="other") as other:
        prices_through(store).replace([(shared, 1, {"model": {"equals": "m"}, "bare": {"equals": "m"}})])
        store.prices.set("m", input_price=1, output_price=0)
        assert (of(store), of(other)) == (Decimal("0.001"), Decimal("0.009"))
        assert of(store, provider_name="p") == Decimal("0.001")
        store.prices.set("m", input_price=2, output_price=0, provider_name="p")
        assert (of(store), of(store, provider_name="p")) == (Decimal("0.001"), Decimal("0.002"))
        assert [one.input_price for one in store.prices.all()] == [1, 2, 9]


def test_entries_without_a_cost_can_be_priced_later(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        for number in range(5):
            of(store, "m" if number % 2 else "unknown")
        store.history.trim("s", keep_last=3)
        store.prices.set("m", input_price=1, output_price=0)
        looked, priced, after = 0, 0, ("", 0)
        while after is not None:
            part, done, after = store.prices.apply(2, after)
            looked, priced = looked + part, priced + done
        assert (looked, priced) == (3, 1)
        totals = store.usage.totals()
        assert (totals.cost_usd, totals.unpriced_calls) == (Decimal("0.001"), 4)


def test_prices_that_cannot_be_are_refused(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        for arguments in (
            {"input_price": -1, "output_price": 1},
            {"input_price": float("nan"), "output_price": 1},
            {"input_price": 1, "output_price": 1, "valid_from": datetime(2026, 1, 1)},
            {"input_price": 1, "output_price": 1, "above_input_tokens": -1},
        ):
            with pytest.raises(InvalidValueError):
                store.prices.set("m", **arguments)
        assert store.prices.all() == []


@pytest.mark.parametrize(
    ("clause", "name", "yes"),
    [
        ({"equals": "GPT"}, "gpt", True),
        ({"starts_with": "gpt"}, "gpt-4", True),
        ({"ends_with": "mini"}, "gpt-4", False),
        ({"contains": "4"}, "gpt-4", True),
        ({"regex": "^o[134]"}, "o3", True),
        ({"and": [{"contains": "a"}, {"or": [{"equals": "b"}, {"ends_with": "c"}]}]}, "abc", True),
        (None, "x", False),
    ],
)
def test_clauses_match_as_they_say(clause: Any, name: str, yes: bool) -> None:
    assert compile_clause(clause)(name) is yes


def names() -> list[tuple[str | None, str]]:
    """Providers and models as calls name them: from the package's own exact names, and some that need its rules."""
    found: list[tuple[str | None, str]] = [
        (None, "claude-sonnet-4-5-20250929"),
        ("anthropic", "claude-3-5-haiku-20241022"),
        ("aws.bedrock", "us.anthropic.claude-sonnet-4-20250514-v1:0"),
        ("google", "claude-sonnet-4-5"),
        (None, "gpt-4o-2024-08-06"),
        ("openai", "gpt-5.2-20251211"),
        (None, "gemini-2.5-pro"),
        ("gcp.vertex_ai", "gemini-2.5-flash"),
        ("azure", "gpt-4o"),
        ("nobody", "gpt-4o"),
        (None, "nothing like it"),
    ]
    for provider in get_snapshot().providers:
        found += [(provider.id, model.id) for model in provider.models]
    return found


def test_costs_are_those_of_the_package() -> None:
    """For every model: the package's cost, or none where it says that other things count too."""
    book = PriceBook([Rule.of(one, position, loads_clause(match)) for one, position, match in taken.rows()])
    day = date(2026, 1, 15)
    at = datetime(2026, 1, 15, 12, tzinfo=UTC)
    agreed = unknown = 0
    for provider, model in names():
        for tokens in (1_000, 150_000, 250_000, 1_100_000):
            used = Consumption(input=tokens, output=500, cache_read=tokens // 4, cache_write=tokens // 5)
            found = book.find(model, provider, day, tokens)
            ours = None if found is None else cost(found, used)
            usage = genai_prices.Usage(
                input_tokens=tokens,
                output_tokens=500,
                cache_read_tokens=tokens // 4,
                cache_write_tokens=tokens // 5,
            )
            try:
                theirs = genai_prices.calc_price(
                    usage, model_ref=model, provider_id=provider, genai_request_timestamp=at
                ).total_price
            except LookupError:
                theirs = None
            if ours is None:
                unknown += theirs is not None
                continue
            assert theirs is not None, (provider, model)
            assert abs(ours - theirs) <= Decimal("1e-10"), (provider, model, tokens)
            agreed += 1
    assert agreed > 5000
    # Those whose price has no output, or other parts that no entry tells of.
    assert unknown < agreed * 0.2, "too many models are left out"


def loads_clause(clause: Any) -> Any:
    """Through JSON, as it is stored."""
    return loads(json.dumps(clause))


def test_sync_takes_over_the_prices_of_the_package(database_url: str) -> None:
    def run(*arguments: str) -> str:
        done = invoke("prices", *arguments, "--url", database_url)
        assert done.exit_code == 0, done.output
        return done.stdout

    with StateStore.open(database_url) as store:
        assert of(store, "gpt-4o-mini") is None
        first = json.loads(run("sync", "--apply", "--json"))
        assert first["entries_priced"] == 1
        assert first["prices"] > 1500
        assert first["source"].startswith("genai-prices ")
        assert of(store, "gpt-4o-mini") is not None
        assert json.loads(run("sync", "--json"))["prices"] == len(store.prices.all())
        run("set", "gpt-4o-mini", "--input", "1", "--output", "2")
        assert of(store, "gpt-4o-mini", usage=Usage(input_tokens=1000, output_tokens=0)) == Decimal("0.001")
        assert "set by hand" in run("ls", "--model", "gpt-4o-mini").splitlines()[1]
        assert "removed 1 price" in run("remove", "gpt-4o-mini")


def test_without_the_package_the_command_says_what_to_install(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", None)
    done = invoke("prices", "sync", "--url", sqlite_url)
    assert done.exit_code == 1
    assert "statestore[prices]" in done.stderr


@pytest.mark.parametrize("clause", [SimpleNamespace(regex="(?i)gpt"), SimpleNamespace(sounds_like="gpt")])
def test_a_package_that_cannot_be_read_is_not_taken_over_in_part(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, clause: Any
) -> None:
    snapshot = get_snapshot()
    model = copy(snapshot.providers[-1].models[-1])
    model.match = clause
    provider = copy(snapshot.providers[-1])
    provider.models = [*provider.models[:-1], model]
    changed = SimpleNamespace(providers=[*snapshot.providers[:-1], provider])
    monkeypatch.setattr("genai_prices.data_snapshot.get_snapshot", lambda: changed)
    done = invoke("prices", "sync", "--url", sqlite_url)
    assert done.exit_code == 1
    assert f"a pattern for the model {model.id!r} that this version of statestore does not understand" in done.stderr
    with StateStore.open(sqlite_url) as store:
        assert store.prices.all() == []
