"""`statestore cache`: look into the result cache, and change it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click

from statestore.cli import terminal
from statestore.cli.durations import Duration
from statestore.cli.exporting import read_file, written_file
from statestore.cli.failures import Failure
from statestore.cli.groups import Group
from statestore.cli.options import Database, examples, json_option, store_options, yes_option
from statestore.cli.output import counted, json_text, time_text, visible, visible_text
from statestore.cli.state import parse_value
from statestore.errors import InvalidValueError
from statestore.values.cache import CacheEntry, CacheStats
from statestore.values.markers import MISSING, NEVER, NeverType

if TYPE_CHECKING:
    from statestore.importers.cache_files import CacheFormat
    from statestore.store import StateStore

_AT_ONCE = 100


class _Ttl(Duration):
    """A duration, or `never`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("never", NEVER):
            return NEVER
        return super().convert(value, param, ctx)


_replace = click.option("--replace", is_flag=True, help="Overwrite a FILE that exists.")
_agent = click.option("--agent", metavar="AGENT", help="Only this agent's entries.")


@click.group(cls=Group)
def cache() -> None:
    """Look into the result cache of agents, and change it.

    Reads here do not count as hits. Only `evict` removes entries to keep a limit.
    """


@cache.command(epilog=examples("statestore cache stats", "statestore cache stats --json | jq .hit_rate"))
@terminal.wide_option
@store_options
@json_option
def stats(database: Database, wide: bool, as_json: bool) -> None:
    """Show what is in the cache, and how it was used, by agent and in total.

    On a narrow terminal these columns are left out, in this order: INVALIDATED, EXPIRED, EVICTED, SETS, BYTES, MISSES,
    HITS.
    """
    with _opened(database) as store:
        found = store.cache.stats()
    if as_json:
        record = _stats_record(found)
        record["by_agent"] = [{"agent_name": agent, **_stats_record(one)} for agent, one in found.by_agent.items()]
        click.echo(json_text(record))
        return
    head = ("AGENT", "ENTRIES", "BYTES", "HITS", "MISSES", "HIT RATE", "SETS", "EVICTED", "EXPIRED", "INVALIDATED")
    rows = [_stats_row(agent or "-", one) for agent, one in found.by_agent.items()]
    terminal.print_table(
        head,
        [*rows, _stats_row("total", found)],
        drop=("INVALIDATED", "EXPIRED", "EVICTED", "SETS", "BYTES", "MISSES", "HITS"),
        texts=("AGENT",),
        numbers=head[1:],
        wide=wide,
    )


@cache.command(
    "ls",
    epilog=examples("statestore cache ls --agent summarizer", "statestore cache ls --tag docs --json"),
)
@_agent
@click.option("--tag", metavar="TAG", help="Only entries with this tag.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many at most.")
@click.option("--after", metavar="KEY", help="Continue after this key.")
@terminal.wide_option
@store_options
@json_option
def list_entries(
    database: Database, agent: str | None, tag: str | None, limit: int, after: str | None, wide: bool, as_json: bool
) -> None:
    """List entries by key, without their values.

    On a narrow terminal these columns are left out, in this order: CREATED, TAGS, AGENT, HITS, EXPIRES, BYTES.
    """
    with _opened(database) as store:
        shown = store.cache.entries(agent_name=agent, tag=tag, after=after, limit=limit, values=False)
        # Not read with limit + 1, which a call would refuse for the largest limit.
        last = shown[-1].key if len(shown) == limit else None
        more = last is not None and bool(
            store.cache.entries(agent_name=agent, tag=tag, after=last, limit=1, values=False)
        )
    if as_json:
        click.echo(json_text({"entries": [_record(entry) for entry in shown], "more": more}))
        return
    if shown:
        terminal.print_table(
            ("KEY", "AGENT", "BYTES", "HITS", "CREATED", "EXPIRES", "TAGS"),
            [_row(entry) for entry in shown],
            drop=("CREATED", "TAGS", "AGENT", "HITS", "EXPIRES", "BYTES"),
            ids=("KEY",),
            texts=("AGENT", "TAGS"),
            numbers=("BYTES", "HITS"),
            wide=wide,
        )
    else:
        click.echo(f"no matching cache entries in namespace {visible(database.namespace)!r}", err=True)
    if more:
        click.echo(f"there are more; to continue, add: --after {visible(shown[-1].key)}", err=True)


@cache.command("get", epilog=examples("statestore cache get answer-1", "statestore cache get answer-1 --json"))
@click.argument("key")
@store_options
@json_option
def get_entry(database: Database, key: str, as_json: bool) -> None:
    """Print the value of KEY: JSON as JSON, text and bytes as they are. With --json, print the whole entry.

    On a terminal control characters are escaped. The exit code is 1 if there is no such entry.
    """
    with _opened(database) as store:
        entry = store.cache.entry(key)
    if entry is None:
        raise Failure(f"there is no cache entry {key!r} in namespace {database.namespace!r}, or it has expired")
    if as_json:
        click.echo(json_text(_record(entry)))
    elif isinstance(entry.value, bytes) and sys.stdout.isatty():
        click.echo(visible_text(entry.value.decode(errors="backslashreplace")))
    elif isinstance(entry.value, bytes):
        sys.stdout.buffer.write(entry.value)
    elif isinstance(entry.value, str):
        # A lone surrogate cannot be written as UTF-8.
        text = visible_text(entry.value) if sys.stdout.isatty() else entry.value
        click.echo(text.encode(errors="backslashreplace"))
    else:
        click.echo(json_text(entry.value))


@cache.command(
    "set",
    epilog=examples(
        'statestore cache set answer-1 \'{"text": "Hi"}\' --ttl 10m --tag docs',
        "statestore cache set page --text - < page.html",
    ),
)
@click.argument("key")
@click.argument("value")
@click.option("--text", is_flag=True, help="VALUE is text, not JSON.")
@click.option("--ttl", type=_Ttl(), metavar="DURATION", help="How long to keep it: 10m, 7d, never.  [default: 1h]")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="A tag; may be repeated.")
@click.option("--agent", metavar="AGENT", help="The agent that computed it.")
@click.option("--content-hash", metavar="HASH", help="The hash of the content it was computed from.")
@store_options
@json_option
def set_entry(
    database: Database,
    key: str,
    value: str,
    text: bool,
    ttl: timedelta | NeverType | None,
    tags: tuple[str, ...],
    agent: str | None,
    content_hash: str | None,
    as_json: bool,
) -> None:
    """Store VALUE under KEY, replacing what is there; `-` reads it from standard input."""
    data = sys.stdin.buffer.read() if value == "-" else value.encode("utf-8", "surrogateescape")
    with _opened(database, create=True) as store:
        store.cache.set(key, parse_value(data, text), ttl=ttl, tags=tags, agent_name=agent, content_hash=content_hash)
    click.echo(json_text({"key": key}) if as_json else f"set {visible(key)}")


@cache.command(
    epilog=examples(
        "statestore cache invalidate answer-1 answer-2",
        "statestore cache invalidate --tag docs --tag v1 --all-tags",
        "statestore cache invalidate --agent summarizer",
    )
)
@click.argument("keys", nargs=-1)
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Entries with this tag; may be repeated.")
@click.option("--all-tags", is_flag=True, help="Only entries that have all of the tags.")
@click.option("--agent", metavar="AGENT", help="Entries of this agent.")
@click.option("--content-hash", metavar="HASH", help="Entries computed from this content.")
@store_options
@json_option
def invalidate(
    database: Database,
    keys: tuple[str, ...],
    tags: tuple[str, ...],
    all_tags: bool,
    agent: str | None,
    content_hash: str | None,
    as_json: bool,
) -> None:
    """Remove entries by KEYS, by tag, by agent or by content hash."""
    if sum((bool(keys), bool(tags), agent is not None, content_hash is not None)) != 1:
        raise click.UsageError("name KEYS, or one of --tag, --agent and --content-hash")
    if all_tags and not tags:
        raise click.UsageError("--all-tags needs --tag")
    with _opened(database) as store:
        if keys:
            removed = sum(store.cache.invalidate(key) for key in keys)
        elif tags:
            removed = store.cache.invalidate_tags(tags, match="all" if all_tags else "any")
        elif agent is not None:
            removed = store.cache.invalidate_agent(agent)
        else:
            removed = store.cache.invalidate_content_hash(str(content_hash))
    _print_removed(removed, "invalidated", as_json)


@cache.command(epilog=examples("statestore cache clear", "statestore cache clear --namespace tenant-1 --yes --json"))
@yes_option
@store_options
@json_option
def clear(database: Database, yes: bool, as_json: bool) -> None:
    """Remove all entries. The statistics stay."""
    with _opened(database) as store:
        if not yes:
            entries = counted(store.cache.stats().entries, "entry")
            click.confirm(f"Remove {entries} from the cache of {visible(database.namespace)}?", abort=True, err=True)
        removed = store.cache.clear()
    _print_removed(removed, "removed", as_json)


@cache.command(epilog=examples("statestore cache evict", "statestore cache evict --max-entries 500"))
@click.option("--max-entries", type=click.IntRange(1), metavar="N", help="Leave at most N entries.")
@click.option("--max-bytes", type=click.IntRange(1), metavar="N", help="Leave at most N bytes of values.")
@store_options
@json_option
def evict(database: Database, max_entries: int | None, max_bytes: int | None, as_json: bool) -> None:
    """Remove what has expired; with a limit, also the least recently used entries above it."""
    with database.open(cache_max_entries=max_entries, cache_max_bytes=max_bytes) as store:
        removed = store.cache.evict()
    _print_removed(removed, "evicted", as_json)


@cache.command("export", epilog=examples("statestore cache export cache.jsonl"))
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@_agent
@_replace
@store_options
@json_option
def export_entries(database: Database, file: str, agent: str | None, replace: bool, as_json: bool) -> None:
    """Write all entries to FILE, one JSON object per line; `-` is standard output."""
    from statestore.importers import cache_files

    written = 0
    with _opened(database) as store, written_file(file, replace) as target:
        for entry in _all(store, agent):
            target.write(cache_files.dump(entry))
            written += 1
    done = json_text({"file": file, "entries": written})
    click.echo(done if as_json else f"exported {counted(written, 'entry')} to {visible(file)}", err=file == "-")


@cache.command(
    "import",
    epilog=examples("statestore cache import cache.jsonl", "statestore cache import state/cache.json --ttl never"),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["auto", "statestore", "conexus"]),
    default="auto",
    show_default=True,
    help="What wrote the FILE.",
)
@click.option(
    "--ttl",
    type=_Ttl(),
    metavar="DURATION",
    help="How long entries of Conexus live; its files do not say.  [default: 1h]",
)
@store_options
@json_option
def import_entries(
    database: Database, file: str, kind: CacheFormat, ttl: timedelta | NeverType | None, as_json: bool
) -> None:
    """Import the entries of a FILE that `statestore cache export` wrote, or of Conexus' cache.json.

    They keep their times and replace older entries of the same keys. Expired entries are left out, and so are entries
    whose keys have been set again since. Either all of the others are imported or none.
    """
    from statestore.importers import cache_files

    try:
        with read_file(file) as source:
            entries = cache_files.read(source, kind, ttl)
            first = list(islice(entries, 1))  # Read first, so that a wrong file does not leave an empty database.
            with _opened(database, create=True) as store:
                done = cache_files.restore(store, chain(first, entries))
    except InvalidValueError as error:
        raise Failure(f"{file}: {error}") from None
    if as_json:
        click.echo(json_text({"file": file, "imported": done.restored, "expired": done.expired, "newer": done.newer}))
        return
    left = f"; left out {counted(done.expired, 'entry')} that had expired" if done.expired else ""
    left += f"; left out {counted(done.newer, 'entry')} set again since" if done.newer else ""
    click.echo(f"imported {counted(done.restored, 'entry')} from {visible(file)}{left}")


def _opened(database: Database, *, create: bool = False) -> StateStore:
    """The store, without cache limits: the ones that the application has set are unknown here."""
    return database.open(create=create, cache_max_entries=None)


def _all(store: StateStore, agent: str | None) -> Iterator[CacheEntry]:
    after = None
    while page := store.cache.entries(agent_name=agent, after=after, limit=_AT_ONCE):
        yield from page
        after = page[-1].key


def _print_removed(removed: int, done: str, as_json: bool) -> None:
    click.echo(json_text({"removed": removed}) if as_json else f"{done} {counted(removed, 'entry')}")


def _record(entry: CacheEntry) -> dict[str, Any]:
    record: dict[str, Any] = {field.name: getattr(entry, field.name) for field in fields(entry)}
    record["tags"] = list(entry.tags)
    if entry.value is MISSING:
        del record["value"]
    elif isinstance(entry.value, bytes):
        import base64

        record["value"] = {"base64": base64.b64encode(entry.value).decode()}
    return record


def _row(entry: CacheEntry) -> tuple[str, ...]:
    return (
        entry.key,
        entry.agent_name or "-",
        f"{entry.size_bytes:,}",
        f"{entry.access_count:,}",
        time_text(entry.created_at),
        "never" if entry.expires_at is None else time_text(entry.expires_at),
        " ".join(entry.tags),
    )


def _stats_record(stats: CacheStats) -> dict[str, Any]:
    record = {field.name: getattr(stats, field.name) for field in fields(stats) if field.name != "by_agent"}
    return record | {"hit_rate": stats.hit_rate}


def _stats_row(name: str, stats: CacheStats) -> tuple[str, ...]:
    numbers = (stats.hits, stats.misses)
    later = (stats.sets, stats.evictions, stats.expirations, sum(stats.invalidations.values()))
    return (
        name,
        f"{stats.entries:,}",
        f"{stats.size_bytes:,}",
        *(f"{number:,}" for number in numbers),
        f"{stats.hit_rate:.1%}",
        *(f"{number:,}" for number in later),
    )
