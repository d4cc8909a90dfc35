"""What all importers have in common: they are a library, and take a store whose operations are called."""

import ast
import asyncio
import io
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

import statestore.importers
from statestore import AsyncStateStore, InvalidValueError, StateStore
from statestore.importers import (
    adk,
    agno,
    cache_entries,
    claude_code,
    conexus,
    langchain,
    langgraph,
    openai_agents,
    openai_jsonl,
    promptkit,
)

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


async def awaited(*args: Any) -> None:
    raise AssertionError(args)


FUNCTIONS: dict[str, Any] = {"int": 5, "text": "print", "True": True, "coroutine function": awaited}
PATHS: dict[str, Any] = {
    "None": None, "int": 5, "list": ["a"], "bytes": b"a", "NUL": "a\0", "surrogate": "a\ud800", "file": io.BytesIO(),
}  # fmt: skip
SOURCES: dict[str, Any] = {
    "None": None, "int": 5, "list": ["a"], "bytes": b"a", "NUL": "a\0", "surrogate": "a\ud800",
    "text": io.StringIO("{}"),
}  # fmt: skip
STORES: dict[str, Any] = {"None": None, "text": "sqlite://", "int": 5, "class": StateStore}
DATABASES = [adk, agno, langchain, langgraph, openai_agents]


@pytest.mark.parametrize("bring", [*IMPORTERS, *DATABASES], ids=lambda bring: bring.__name__)
def test_an_argument_of_the_wrong_kind_is_named_before_anything_is_read(
    bring: Callable[..., Any], sqlite_url: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "store": STORES,
        "path": PATHS,
        "source": SOURCES,
        "url": {"None": None, "int": 5, "list": ["a"]},
        "expect": FUNCTIONS,
        "progress": FUNCTIONS,
        "on_problem": FUNCTIONS,
        "replace": {"text": "no", "int": 1, "None": None},
        "user_id": {"int": 5, "empty": "", "list": ["ada"]},
        "agent_name": {"int": 5, "empty": ""},
        "session_id": {"int": 5, "list": ["{id}"], "no field": "x"},
        "format": {"int": 5, "unknown": "yaml", "None": None},
        "ttl": {"int": 5, "text": "1h", "zero": timedelta(0)},
    }
    parameters = signature(bring).parameters
    assert parameters.keys() <= kinds.keys()
    with StateStore.open(sqlite_url) as store:
        for argument in parameters:
            for kind, value in kinds[argument].items():
                given = {"store": store, list(parameters)[1]: tmp_path / "not there", argument: value}
                with subtests.test(f"{argument}: {kind}"):
                    with pytest.raises(InvalidValueError) as caught:
                        bring(*given.values()) if len(given) == 2 else bring(**given)
                    assert caught.value.argument == argument


@pytest.mark.parametrize("bring", [*IMPORTERS, *DATABASES], ids=lambda bring: bring.__name__)
def test_a_path_that_no_file_can_have_is_not_found(bring: Callable[..., Any], sqlite_url: str, tmp_path: Path) -> None:
    with StateStore.open(sqlite_url) as store, pytest.raises(InvalidValueError):
        bring(store, str(tmp_path / ("x" * 5000)))
