"""A process that does everything with a store open, and tells what of it opened the database beside SQLite.

An audit hook cannot be removed, so it has a process of its own. Prints a JSON object: for each step the files opened.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from sqlalchemy import create_engine

from statestore import AsyncStateStore, NewEntry, StateStore, migrate
from statestore.cli import main as command_line
from tests.support.engines import sync_engine

# What a command needs in order to get to its database. One that is missing here is run without arguments.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "cache export": ("out.cache", "--replace"),
    "cache import": ("out.cache",),
    "cache get": ("key",),
    "cache set": ("key", "1"),
    "cache invalidate": ("key",),
    "cache clear": ("--yes",),
    "delete": ("copy", "--yes"),
    "demo": ("--path", "demo.db"),
    "export": ("out.jsonl", "--replace", "--all"),
    "fork": ("chat",),
    "import claude-code": ("nothing",),
    "import conexus": ("nothing",),
    "import openai-jsonl": ("lines.jsonl",),
    "import promptkit": ("nothing",),
    "import statestore": ("out.jsonl", "--replace"),
    "migrate down": ("9999", "--yes"),
    "prices remove": ("model",),
    "prices set": ("model", "--input", "1", "--output", "1"),
    "show": ("chat",),
}


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from commands(inner, *path, name)
    else:
        yield path


def steps(url: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    def use(store: StateStore) -> None:
        with store:
            store.sessions.open("chat")
            store.history.append("chat", [NewEntry("x")])
            store.sweep()

    async def use_async() -> None:
        store = await AsyncStateStore.open(url)
        await store.history.append("chat", [NewEntry("x")])
        await store.close()

    def join(engine: Any) -> None:
        with engine.connect() as connection, connection.begin():
            StateStore.join(connection).history.append("chat", [NewEntry("x")])
        engine.dispose()

    yield "open", lambda: use(StateStore.open(url))
    yield "open by a file URI", lambda: use(StateStore.open(url.replace("sqlite:///", "sqlite:///file:") + "?uri=true"))
    yield "open async", lambda: asyncio.run(use_async())
    yield "engine", lambda: use(StateStore(sync_engine(url)))
    yield "join", lambda: join(create_engine(url))
    yield "migrate.upgrade", lambda: migrate.upgrade(url)
    yield "migrate.upgrade an engine", lambda: migrate.upgrade(sync_engine(url))
    yield "migrate.check", lambda: migrate.check(url)
    yield "migrate.differences", lambda: migrate.differences(url)
    for path in commands(command_line):
        arguments = [*path, *ARGUMENTS.get(" ".join(path), ())]
        yield "$ " + " ".join(path), partial(CliRunner().invoke, command_line, arguments, env={"STATESTORE_URL": url})


def main(path: Path) -> None:
    os.chdir(path.parent)
    Path("lines.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    Path("nothing").mkdir()
    files = {f"{os.path.realpath(path)}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")}
    seen: list[str] = []

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | bytes) and os.path.realpath(os.fsdecode(args[0])) in files:
            seen.append(os.fsdecode(args[0]))

    sys.addaudithook(watch)
    url = f"sqlite:///{path}"
    found: dict[str, list[str]] = {}
    with StateStore.open(url) as store:
        store.sessions.create("chat")
        path.open("rb").close()
        found["open(), which is to be seen"] = seen.copy()
        for name, step in steps(url):
            seen.clear()
            result = step()
            if isinstance(getattr(result, "exception", None), Exception) and not isinstance(
                result.exception, SystemExit
            ):
                raise result.exception
            found[name] = seen.copy()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
