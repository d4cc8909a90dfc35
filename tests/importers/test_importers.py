"""What all importers have in common: they are a library, and take a store whose operations are called."""

import ast
import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import statestore.importers
from statestore import AsyncStateStore, InvalidValueError, StateStore
from statestore.importers import cache_entries, claude_code, conexus, openai_jsonl, promptkit

MODULES = sorted(Path(statestore.importers.__file__).parent.glob("*.py"))
IMPORTERS: list[Callable[..., Any]] = [cache_entries, claude_code, conexus, openai_jsonl, promptkit]


# What opens the databases of others knows URLs and SQLite's files as the engine does.
ENGINE = {"databases"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_they_use_what_any_caller_can_and_neither_print_nor_exit(module: Path) -> None:
    tree = ast.parse(module.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            not_for_them = ("click", "statestore.cli", "statestore.repositories")
            if module.stem not in ENGINE:
                not_for_them += ("statestore.engine",)
            for name in names:
                assert not name.startswith(not_for_them)
        assert not isinstance(node, ast.Name) or node.id not in ("print", "exit")
        assert not isinstance(node, ast.Attribute) or ast.unparse(node) not in ("sys.exit", "sys.stderr", "sys.stdout")


def test_to_import_them_is_cheap() -> None:
    code = "import sys, statestore.importers; sys.exit(bool({'click', 'sqlalchemy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_they_export_has_a_docstring() -> None:
    for name in statestore.importers.__all__:
        assert (getattr(statestore.importers, name).__doc__ or "").strip(), name


@pytest.mark.parametrize("bring", IMPORTERS, ids=lambda bring: bring.__name__)
def test_a_store_that_is_awaited_is_refused_and_the_message_says_what_to_do(
    bring: Callable[..., Any], sqlite_url: str, tmp_path: Path
) -> None:
    async def refused() -> None:
        async with await AsyncStateStore.open(sqlite_url) as store:
            with pytest.raises(InvalidValueError, match=r"^store: must be a StateStore, not Async.*to_thread"):
                bring(store, tmp_path)
            async with store.transaction() as tx:
                with pytest.raises(InvalidValueError, match=r"^store: "):
                    bring(tx, tmp_path)

    asyncio.run(refused())
    with (
        StateStore.open(sqlite_url) as store,
        store.transaction() as tx,
        pytest.raises(InvalidValueError, match=r"^store: must be a StateStore, not Transaction"),
    ):
        bring(tx, tmp_path)


def test_a_coroutine_imports_in_a_thread(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')

    async def both() -> int:
        with StateStore.open(database_url) as store:
            return (await asyncio.to_thread(openai_jsonl, store, file)).entries_added

    assert asyncio.run(both()) == 1
