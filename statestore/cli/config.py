"""`statestore config`: which database the commands go to here, and why."""

import os

import click

from statestore.cli import settings, terminal
from statestore.cli.failures import Failure
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import json_text
from statestore.errors import StateStoreError


@click.command("config", epilog=examples("statestore config", "statestore config --profile prod --json"))
@store_options
@json_option
@click.pass_context
def config(context: click.Context, database: Database, as_json: bool) -> None:
    """Show which database, schema and namespace a command takes here, and which option, variable or file says so.

    Nothing is connected, and no password is shown.
    """
    top = context.find_root().params
    file = settings.read(top.get("config"))
    given = {
        "url": _given(context, "url"),
        "schema": _given(context, "schema"),
        "table_prefix": _given(context, "table_prefix"),
        "namespace": _given(context, "namespace"),
    }
    found = {name: settings.resolve(name, given[name], database.profile, file) for name in settings.SETTINGS}
    values = {name: "" if one is None else one.value for name, one in found.items()}
    values["url"] = _shown(database)
    sources = {name: "default" if one is None else one.source for name, one in found.items()}
    if as_json:
        record = {name: {"value": values[name], "source": sources[name]} for name in found}
        path = None if file.path is None else str(file.path)
        click.echo(json_text({**record, "file": path, "profiles": sorted(file.profiles)}))
        return
    # What there is only for SQLite is shown if it is there.
    rows = [(name, values[name], sources[name]) for name in found if values[name] or name != "table_prefix"]
    if (variable := database.password_env) is not None:
        rows.insert(1, ("password", "set" if os.environ.get(variable) else "not set", variable))
    terminal.print_table(("SETTING", "VALUE", "FROM"), rows, drop=(), texts=("VALUE", "FROM"))
    click.echo(f"\nfile      {file.shown or 'none'}")
    click.echo(f"profiles  {', '.join(sorted(file.profiles)) or 'none'}")


def _given(context: click.Context, name: str) -> str | None:
    value: str | None = context.params.get(name)
    return value


def _shown(database: Database) -> str:
    from statestore.engine import hosts

    try:
        return hosts.shown(database.url_without_password())
    except (StateStoreError, Failure) as error:
        return str(error)
