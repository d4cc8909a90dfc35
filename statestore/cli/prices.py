"""`statestore prices`: what models cost."""

from typing import Any

import click

from statestore.cli import terminal
from statestore.cli.failures import Failure
from statestore.cli.groups import Group
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import counted, json_text, visible

_BATCH = 500
_RATES = ("input_price", "output_price", "cache_read_price", "cache_write_price", "cache_write_1h_price")


@click.group(
    cls=Group, epilog=examples("statestore prices sync", "statestore prices set my-model --input 3 --output 15")
)
def prices() -> None:
    """Show and set what models cost.

    An entry without a cost gets one when it is appended, if the price of its model is known. Prices are in US dollars
    per million tokens.
    """


@prices.command(epilog=examples("statestore prices sync", "statestore prices sync --apply"))
@click.option("--apply", "apply_too", is_flag=True, help="Then compute the cost of entries without one.")
@store_options
@json_option
def sync(database: Database, apply_too: bool, as_json: bool) -> None:
    """Copy the prices of the package genai-prices into the database, for all namespaces.

    They replace the prices of an earlier sync. Prices that were set by hand stay and take precedence. To get newer
    prices, upgrade the package; install it with: pip install 'statestore[prices]'
    """
    from statestore.importers import genai_prices
    from statestore.shared_prices import prices_through

    rows = genai_prices.rows()
    with database.open() as store:
        taken = prices_through(store).replace(rows)
        priced = _apply(store) if apply_too else None
    if as_json:
        click.echo(json_text({"prices": taken, "source": rows[0][0].source, "entries_priced": priced}))
        return
    click.echo(f"copied {counted(taken, 'price')} from {rows[0][0].source}")
    if priced is not None:
        click.echo(f"computed the cost of {counted(priced, 'entry')}")


@prices.command(epilog=examples("statestore prices apply", "statestore prices apply --namespace tenant-1 --json"))
@store_options
@json_option
def apply(database: Database, as_json: bool) -> None:
    """Compute the cost of entries and recorded calls without one, at today's prices.

    Usage of entries that are already deleted stays unpriced in the reports.
    """
    with database.open() as store:
        priced = _apply(store)
    click.echo(json_text({"entries_priced": priced}) if as_json else f"computed the cost of {counted(priced, 'entry')}")


def _apply(store: Any) -> int:
    after: Any = ("", 0)
    priced = 0
    while after is not None:
        _, done, after = store.prices.apply(_BATCH, after)
        priced += done
    return priced


@prices.command("ls", epilog=examples("statestore prices ls", "statestore prices ls --model my-model --json"))
@click.option("--model", metavar="TEXT", default="", help="Only models with this in their name.")
@terminal.wide_option
@store_options
@json_option
def list_(database: Database, model: str, wide: bool, as_json: bool) -> None:
    """List the known prices, the namespace's own first.

    On a narrow terminal these columns are left out, in this order: SOURCE, CACHE 1H, CACHE WRITE, FROM, ABOVE, CACHE
    READ, PROVIDER.
    """
    with database.open() as store:
        found = [price for price in store.prices.all() if model.lower() in price.model.lower()]
    if as_json:
        names = ("provider_name", "model", "valid_from", "above_input_tokens", *_RATES, "source")
        click.echo(json_text([{name: getattr(price, name) for name in names} for price in found]))
        return
    head = ["PROVIDER", "MODEL", "FROM", "ABOVE", "INPUT", "OUTPUT", "CACHE READ", "CACHE WRITE", "CACHE 1H", "SOURCE"]
    rows = [
        [
            price.provider_name or "any",
            price.model,
            price.valid_from.isoformat() if price.valid_from.year > 1970 else "-",
            f"{price.above_input_tokens:,}" if price.above_input_tokens else "-",
            *("-" if (rate := getattr(price, name)) is None else format(rate.normalize(), "f") for name in _RATES),
            price.source,
        ]
        for price in found
    ]
    if not found:
        of_it = f" of a model with {visible(model)!r} in its name" if model else ""
        click.echo(
            f"no prices{of_it}; fetch the usual ones: {database.command('prices sync', namespace=True)}", err=True
        )
        return
    terminal.print_table(
        head,
        rows,
        drop=("SOURCE", "CACHE 1H", "CACHE WRITE", "FROM", "ABOVE", "CACHE READ", "PROVIDER"),
        texts=("PROVIDER", "MODEL", "SOURCE"),
        numbers=("ABOVE", *head[4:9]),
        wide=wide,
    )


@prices.command(
    "set",
    epilog=examples(
        "statestore prices set my-model --input 3 --output 15",
        "statestore prices set my-model --input 2.5 --output 10 --cache-read 0.25 --provider my-provider",
    ),
)
@click.argument("model")
@click.option("--input", "input_price", type=float, required=True, metavar="USD", help="Input that is not cached.")
@click.option("--output", "output_price", type=float, required=True, metavar="USD", help="Output, with reasoning.")
@click.option("--cache-read", "cache_read_price", type=float, metavar="USD", help="[default: as --input]")
@click.option("--cache-write", "cache_write_price", type=float, metavar="USD", help="[default: as --input]")
@click.option("--provider", "provider_name", metavar="NAME", help="Only for calls that name this provider.")
@click.option("--shared", is_flag=True, help="For all namespaces of the database, not for one.")
@store_options
@json_option
def set_(database: Database, model: str, shared: bool, as_json: bool, **arguments: Any) -> None:
    """Set the price of MODEL for the namespace, for example a negotiated one, or for all with --shared."""
    with database.open() as store:
        _prices(store, shared).set(model, **arguments)
    click.echo(json_text({"model": model, **arguments}) if as_json else f"set the price of {visible(model)}")


@prices.command(epilog=examples("statestore prices remove my-model", "statestore prices remove my-model --json"))
@click.argument("model")
@click.option("--provider", "provider_name", metavar="NAME", help="The price for calls that name this provider.")
@click.option("--shared", is_flag=True, help="For all namespaces of the database, not for one.")
@store_options
@json_option
def remove(database: Database, model: str, provider_name: str | None, shared: bool, as_json: bool) -> None:
    """Remove the namespace's prices of MODEL, or with --shared those for all. The exit code is 1 if there are none."""
    with database.open() as store:
        removed = _prices(store, shared).remove(model, provider_name=provider_name)
    if not removed:
        named = "" if provider_name is None else f" for calls that name provider {provider_name!r}"
        problem = f"namespace {database.namespace!r} has no price of its own for {model!r}{named}"
        if shared:
            problem = f"no price for {model!r}{named} was set for all namespaces"
        raise Failure(f"{problem}; see: statestore prices ls")
    click.echo(json_text({"removed": removed}) if as_json else f"removed {counted(removed, 'price')}")


def _prices(store: Any, shared: bool) -> Any:
    from statestore.shared_prices import prices_through

    return prices_through(store) if shared else store.prices
