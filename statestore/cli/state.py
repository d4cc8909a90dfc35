"""`statestore state`: the keys and values that are kept beside a conversation."""

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from statestore.checking import exactjson
from statestore.cli import ids, terminal
from statestore.cli.durations import Duration
from statestore.cli.failures import Failure
from statestore.cli.groups import Group
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import counted, json_text, visible
from statestore.errors import InvalidValueError
from statestore.values.state import StateEntry

if TYPE_CHECKING:
    from statestore.store import StateStore

Kind = Literal["session", "user", "agent"]

_of = click.option(
    "--of",
    "kind",
    type=click.Choice(get_args(Kind)),
    default="session",
    show_default=True,
    help="Whose state it is: OWNER is a session's id, or its beginning, or the id of a user, or the name of an agent.",
)


@click.group(
    cls=Group,
    epilog=examples(
        "statestore state ls user-42",
        "statestore state get user-42 place",
        'statestore state set user-42 place \'{"name": "Konstanz"}\'',
        "statestore state rm ada theme --of user",
    ),
)
def state() -> None:
    """Show and change the state of sessions, of users and of agents."""


def _owner(store: "StateStore", owner: str, kind: Kind, *, say: bool = False) -> tuple[Any, str]:
    """The operations on that kind of state, and whose it is."""
    if kind == "session":
        return store.state, ids.resolve(store, owner, say=say)
    return (store.user_state if kind == "user" else store.app_state), owner


_argument = click.argument("owner", shell_complete=ids.complete)


@state.command(
    "ls", epilog=examples("statestore state ls user-42", "statestore state ls ada --of user --prefix ui. --json")
)
@_argument
@_of
@click.option("--prefix", metavar="TEXT", help="Only keys that begin so.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1_000, show_default=True, help="How many at most.")
@click.option("--after", metavar="KEY", help="Continue after this key.")
@terminal.wide_option
@store_options
@json_option
def list_keys(
    database: Database,
    owner: str,
    kind: Kind,
    prefix: str | None,
    limit: int,
    after: str | None,
    wide: bool,
    as_json: bool,
) -> None:
    """List the keys of OWNER with their values.

    On a narrow terminal values are cut, and then these columns left out, in this order: EXPIRES, VERSION, UPDATED.
    """
    with database.open() as store:
        group, owner = _owner(store, owner, kind)
        found = group.entries(owner, prefix=prefix, after=after, limit=limit)
        more = len(found) == limit and bool(group.keys(owner, prefix=prefix, after=found[-1].key, limit=1))
    if as_json:
        click.echo(json_text({"entries": found, "more": more}))
        return
    if found:
        terminal.print_table(
            ("KEY", "VALUE", "VERSION", "UPDATED", "EXPIRES"),
            [_row(entry) for entry in found],
            drop=("EXPIRES", "VERSION", "UPDATED", "VALUE"),
            ids=("KEY",),
            texts=("VALUE",),
            numbers=("VERSION",),
            wide=wide,
        )
    else:
        click.echo(f"no matching keys in the state of {kind} {visible(owner)}", err=True)
    if more:
        click.echo(f"there are more; to continue, add: --after {visible(found[-1].key)}", err=True)


def _row(entry: StateEntry) -> tuple[str, ...]:
    expires = "-" if entry.expires_at is None else f"{entry.expires_at:%Y-%m-%d %H:%M:%S}Z"
    return entry.key, json_text(entry.value), str(entry.version), terminal.moment_text(entry.updated_at), expires


@state.command(
    "get",
    epilog=examples("statestore state get user-42 place", "statestore state get user-42 place --json | jq .version"),
)
@_argument
@click.argument("key")
@_of
@store_options
@json_option
def get_key(database: Database, owner: str, key: str, kind: Kind, as_json: bool) -> None:
    """Print the value of KEY as JSON; with --json, its version and times, too. The exit code is 1 if there is none."""
    with database.open() as store:
        group, owner = _owner(store, owner, kind)
        entry = group.entry(owner, key)
    click.echo(json_text(entry if as_json else entry.value))


@state.command(
    "set",
    epilog=examples(
        'statestore state set user-42 place \'{"name": "Konstanz"}\'',
        "statestore state set user-42 note --text - --ttl 7d < note.txt",
        "statestore state set ada theme '\"dark\"' --of user",
    ),
)
@_argument
@click.argument("key")
@click.argument("value")
@_of
@click.option("--text", is_flag=True, help="VALUE is text, not JSON.")
@click.option(
    "--ttl", type=Duration(), metavar="DURATION", help="How long to keep it: 10m, 7d.  [default: not limited]"
)
@click.option(
    "--expected-version", type=click.IntRange(0), metavar="N", help="Only if it has this version; 0: none yet."
)
@store_options
@json_option
def set_key(
    database: Database,
    owner: str,
    key: str,
    value: str,
    kind: Kind,
    text: bool,
    ttl: timedelta | None,
    expected_version: int | None,
    as_json: bool,
) -> None:
    """Store VALUE, which is JSON, under KEY; `-` reads it from standard input.

    The session has to exist already.
    """
    data = sys.stdin.buffer.read() if value == "-" else value.encode("utf-8", "surrogateescape")
    parsed = parse_value(data, text)
    with database.open() as store:
        group, owner = _owner(store, owner, kind, say=True)
        entry = group.set(owner, key, parsed, ttl=ttl, expected_version=expected_version)
    click.echo(json_text(entry) if as_json else f"set {visible(key)}, now at version {entry.version}")


@state.command(
    "rm", epilog=examples("statestore state rm user-42 place", "statestore state rm ada theme --of user --json")
)
@_argument
@click.argument("keys", nargs=-1, required=True)
@_of
@store_options
@json_option
def remove_keys(database: Database, owner: str, keys: tuple[str, ...], kind: Kind, as_json: bool) -> None:
    """Remove KEYS. The exit code is 1 if none of them is there."""
    with database.open() as store:
        group, owner = _owner(store, owner, kind, say=True)
        removed = group.delete_many(owner, keys)
    if as_json:
        click.echo(json_text({"removed": removed}))
    if not removed:
        raise Failure(f"the state of {kind} {owner!r} has none of these keys; see: statestore state ls {owner}")
    if not as_json:
        click.echo(f"removed {counted(removed, 'key')}")


def parse_value(data: bytes, text: bool) -> Any:
    """A VALUE of the command line: JSON, or *text* as it is."""
    if text:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise Failure("VALUE is not UTF-8 text") from None
    try:
        return exactjson.read(data, "VALUE")
    except InvalidValueError as error:
        raise Failure(f"{error}; to store text, put quotes around it or add --text") from None
