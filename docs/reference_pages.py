"""The pages that are written from the code: public names, commands, tables and views, errors."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import click

import statestore
from statestore import errors, schema
from statestore.cli import main

# What is on which page, in the order in which somebody meets it. A test sees to it that no public name is missing.
API = {
    "Stores": [
        "StateStore",
        "AsyncStateStore",
        "Transaction",
        "AsyncTransaction",
        "LazyStore",
        "StoreLike",
        "deadline",
    ],
    "Sessions": [
        *("Sessions", "AsyncSessions", "NewSession", "Session", "SessionPage", "SessionStats", "StoreStats", "Lineage"),
        *("Ancestor", "ErasureReceipt", "SessionContext", "AsyncSessionContext", "NEVER"),
    ],
    "History": [
        *("History", "AsyncHistory", "NewEntry", "EntryLike", "Entry", "EntryPlace", "Usage", "Summary", "Window"),
        *("Turn", "Unsaved", "ConversationState", "SaveReport"),
    ],
    "State and lists": [
        *(
            "State",
            "AsyncState",
            "UserState",
            "AsyncUserState",
            "AppState",
            "AsyncAppState",
            "StateEntry",
            "StateScopes",
        ),
        *("Lists", "AsyncLists", "MISSING"),
    ],
    "Leases": ["Lease", "HeldLease", "AsyncHeldLease"],
    "Cache": ["Cache", "AsyncCache", "CacheItem", "CacheEntry", "CacheStats"],
    "Usage and prices": [
        *("UsageReports", "AsyncUsageReports", "UsageTotals", "DayUsage", "HourUsage", "SessionUsage", "UserUsage"),
        *("AgentUsage", "ModelUsage", "ToolUsage", "CacheDayUsage", "StorageUsage", "ExpiryBacklog", "SessionDescent"),
        *("Prices", "AsyncPrices", "SharedPrices", "AsyncSharedPrices", "ModelPrice", "prices_of"),
    ],
    "Sweeps and namespaces": ["Sweeper", "SweepReport", "Swept", "NamespaceInfo", "NamespaceReceipt", "spread"],
    "Hooks": ["Operation", "ModelCall"],
}


def write(folder: Path) -> None:
    """Write all pages into *folder*, where they are not kept."""
    folder.mkdir(exist_ok=True)
    pages = {"api": _api(), "commands": _commands(), "schema": _schema(), "errors": _errors()}
    for name, lines in pages.items():
        text = "\n".join(lines) + "\n"
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _api() -> Iterator[str]:
    yield from ("# Python", "")
    yield from (
        "What `from statestore import …` gives. Operations are shown once: those of the `Async` classes are the same, "
        "awaited, and in a transaction they are on `tx`.",
        "",
    )
    for title, names in API.items():
        yield from (f"## {title}", "")
        for name in names:
            found = getattr(statestore, name)
            if name.startswith("Async") and name[5:] in names:
                yield from (f"(api-{name})=", f"`{name}`: as `{name[5:]}`, awaited.", "")
            elif isinstance(found, type):
                yield from ("```{eval-rst}", f".. autoclass:: statestore.{name}", "```", "")
            elif callable(found):
                yield from ("```{eval-rst}", f".. autofunction:: statestore.{name}", "```", "")
            else:
                yield from ("```{eval-rst}", f".. autodata:: statestore.{name}", "   :no-value:", "```", "")
    for module in ("statestore.migrate", "statestore.portable", "statestore.importers"):
        yield from (f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}", "```", "")


def _commands() -> Iterator[str]:
    yield from ("# Commands", "", "What each command says with `--help`.", "")
    for words, command in _each(main, []):
        with click.Context(command, info_name=" ".join(words), max_content_width=100, terminal_width=100) as context:
            yield from (f"## {' '.join(words)}", "", "```text", command.get_help(context), "```", "")


def _each(command: click.Command, before: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    words = [*before, command.name if before else "statestore"]
    yield words, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _each(command.commands[name], words)


def _schema() -> Iterator[str]:
    yield from ("# Tables and views", "")
    yield from (
        "Names, columns and meaning of the views are public, and the same on both databases; tables may change with a "
        "migration. PostgreSQL shows these comments with `\\d+`.",
        "",
    )
    comments: dict[str, dict[str, str]] = {}
    measures = ""
    everywhere: dict[str, str] = {}
    for path in sorted((Path(__file__).parent.parent / "migrations" / "versions").glob("*_comments.toml")):
        said = tomllib.loads(path.read_text())
        # What an earlier revision says of columns everywhere holds for the later ones, too.
        measures, everywhere = said.pop("measures", measures), everywhere | said.pop("everywhere", {})
        for name, of in said.items():
            columns = of.pop("columns", "").replace("+", measures).split()
            comments.setdefault(name, {}).update({column: everywhere[column] for column in columns} | of)
    tables = {table.name for table in schema.metadata.sorted_tables}
    for title, names in (
        ("Tables", sorted(tables & set(comments))),
        ("Views", sorted(set(comments) - tables)),
    ):
        yield from (f"## {title}", "")
        for name in names:
            of = dict(comments[name])
            yield from (f"### {name}", "", of.pop("comment", "").rstrip(".") + ".", "")
            types = (
                {column.name: column.type for column in schema.metadata.tables[name].columns} if name in tables else {}
            )
            yield from ("| Column | What it is |", "|---|---|")
            for column in types or of:
                # Numbered columns have one text together.
                yield f"| `{column}` | {of.get(column) or of.get(column.rstrip('0123456789'), '')} |"
            yield ""


def _errors() -> Iterator[str]:
    yield from ("# Errors", "")
    yield from (
        "Every error is a `StateStoreError`. Its message says what was wrong and what to do, and never contains "
        "content or a password; `retryable` says whether the same call may succeed later. Unless it is "
        "`CommitUnknownError`, the operation that raised it wrote nothing.",
        "",
    )
    for name in sorted(vars(errors)):
        found = getattr(errors, name)
        if isinstance(found, type) and issubclass(found, errors.StateStoreError):
            yield from (
                "```{eval-rst}",
                f".. autoexception:: statestore.{name}",
                "   :no-inherited-members:",
                "```",
                "",
            )
