"""An adapter beside the framework's own SQL store: statements and time of each operation, in turns, in one run.

A module `tests.adapters.NAME.compare` has two asynchronous context managers, `ours(url)` and `theirs(url)`. Each gives
the operations by name, as functions without arguments that may be coroutine functions; a name that both have is a row.
"""

import asyncio
import importlib
import importlib.util
import inspect
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

from statestore.migrate import upgrade
from tests.adapters.counting import counted
from tests.postgres import start_server
from tests.support.wire import Proxy

WARM_UP = 8
ROUNDS = 60

Operations = Mapping[str, Callable[[], Any]]


PAGES = Path(__file__).parents[2] / "docs" / "adapters"
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->\n"


def main(name: str, *, write: bool = False) -> int:
    """Print the table; with *write* put it into the page of the adapter, too."""
    if importlib.util.find_spec(f"tests.adapters.{name}.compare") is None:
        print(f"{name} has no SQL store of its own to compare with")
        return 0
    module = importlib.import_module(f"tests.adapters.{name}.compare")
    table: list[str] = []
    say(table, f"| {name} | database | statements: ours | its own | time, ours / its own |")
    say(table, "|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        template = Path(folder, "template.db")
        upgrade(f"sqlite:///{template}")
        ours = shutil.copyfile(template, Path(folder, "ours.db"))
        table += compare("SQLite", module, f"sqlite:///{ours}", f"sqlite:///{folder}/theirs.db")
        server = stack.enter_context(start_server())
        urls = [server.url(stack.enter_context(server.database())) for _ in range(2)]
        upgrade(urls[0])
        table += compare("PostgreSQL", module, *urls)
    if write:
        page = PAGES / f"{name}.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(before + BEGIN + "".join(f"{line}\n" for line in table) + END + rest.partition(END)[2])
    return 0


def say(table: list[str], line: str) -> None:
    print(line, flush=True)
    table.append(line)


def compare(database: str, module: Any, ours: str, theirs: str) -> list[str]:
    table: list[str] = []
    figures = asyncio.run(_measure(module, ours, theirs))
    statements = [_count(getattr(module, side), url) for side, url in (("ours", ours), ("theirs", theirs))]
    for operation, ratio in figures.items():
        counts = [found.get(operation, "?") for found in statements]
        say(table, f"| {operation} | {database} | {counts[0]} | {counts[1]} | {ratio:.2f} |")
    return table


def _count(side: Any, url: str) -> dict[str, int]:
    """How many statements each operation sends; those of transactions included, pragmas not."""

    async def count(statements: list[str], seen: str) -> dict[str, int]:
        found = {}
        async with side(seen) as operations:
            for name, act in operations.items():
                for _ in range(WARM_UP):
                    statements.clear()
                    await _call(act)
                found[name] = len(statements)
        return found

    if url.startswith("postgresql"):
        proxy = Proxy(url)
        try:
            return asyncio.run(count(proxy.traffic.statements, proxy.url))
        finally:
            proxy.close()
    with counted() as statements:
        return asyncio.run(count(statements, url))


async def _measure(module: Any, ours: str, theirs: str) -> dict[str, float]:
    """The median of the ratios of rounds in turns, on connections that nobody watches."""
    async with AsyncExitStack() as stack:
        mine: Operations = await stack.enter_async_context(module.ours(ours))
        other: Operations = await stack.enter_async_context(module.theirs(theirs))
        return {name: await _ratio(mine[name], other[name]) for name in mine if name in other}


async def _ratio(ours: Callable[[], Any], theirs: Callable[[], Any]) -> float:
    for _ in range(WARM_UP):
        await _call(ours)
        await _call(theirs)
    return statistics.median([await _time(ours) / await _time(theirs) for _ in range(ROUNDS)])


async def _time(act: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    await _call(act)
    return time.perf_counter() - begin


async def _call(act: Callable[[], Any]) -> None:
    result = act()
    if inspect.isawaitable(result):
        await result
