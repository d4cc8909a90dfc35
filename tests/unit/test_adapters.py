"""What holds for every adapter: the public API only, an extra, a page, and tests in an environment of its own."""

import ast
import os
import re
import tomllib
from pathlib import Path

import pytest

import statestore
from tests.adapters.comparing import BEGIN, END

PACKAGE = Path(statestore.__file__).parent
ROOT = PACKAGE.parent
# What several adapters have in common, or importers write, too; none of it needs a framework.
LAYOUTS = "statestore.adapters.layouts"
SHARED = ("statestore.adapters.flows", LAYOUTS)
ADAPTERS = sorted(
    path
    for path in (PACKAGE / "adapters").iterdir()
    if path.stem not in ("__init__", "__pycache__") and f"statestore.adapters.{path.stem}" not in SHARED
)
# What people import by the name of a module, beside the package itself.
PUBLIC = {"statestore", "statestore.importers", "statestore.migrate"}
# The extra that brings the framework, where its name is not the module's.
EXTRAS = {"pytest_plugin": None}


def modules(adapter: Path) -> list[Path]:
    return sorted(adapter.rglob("*.py")) if adapter.is_dir() else [adapter]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.stem)
def test_an_adapter_uses_the_public_api_alone(adapter: Path) -> None:
    own = f"statestore.adapters.{adapter.stem}"
    for path in modules(adapter):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                name = str(node.module)
                known = name in PUBLIC or name.startswith((own, *SHARED))
                assert known or not name.startswith("statestore"), f"{path}: {name}"
                if name in PUBLIC:
                    assert not [alias.name for alias in node.names if alias.name.startswith("_")], path
            elif isinstance(node, ast.Import):
                names = {alias.name for alias in node.names if alias.name.startswith("statestore")}
                assert all(name in PUBLIC or name.startswith(own) for name in names), f"{path}: {names}"


def test_nothing_imports_an_adapter() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "adapters" not in path.relative_to(PACKAGE).parts:
            assert "import statestore.adapters" not in path.read_text(), path
            assert "from statestore.adapters" not in path.read_text().replace(f"from {LAYOUTS}", ""), path


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.stem)
def test_an_adapter_can_be_installed_read_about_and_tried(adapter: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extra = EXTRAS.get(adapter.stem, adapter.stem.replace("_", "-"))
    assert extra is None or extra in extras
    page = ROOT / "docs" / "adapters" / f"{adapter.stem}.md"
    assert page.exists()
    assert f"(adapters/{page.name})" in (ROOT / "docs" / "adapters.md").read_text()
    tests = ROOT / "tests" / "adapters" / adapter.stem
    assert list(tests.glob("test_*.py"))
    assert (tests / "requirements.lock").exists()


def test_the_example_of_the_overview_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adapters.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names["store"], statestore.LazyStore)


def test_the_overview_has_the_figures_of_all_pages() -> None:
    """`STATESTORE_UPDATE_SNAPSHOT=1` writes them anew."""
    titles = ("Framework", "Operation", "Database", "statements: ours", "its own", "time, ours / its own")
    rows = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for adapter in ADAPTERS:
        page = (ROOT / "docs" / "adapters" / f"{adapter.stem}.md").read_text()
        table = page.partition(BEGIN)[2].partition(END)[0].splitlines()
        rows += [f"| {adapter.stem} {line}" for line in table[2:]]
    overview = ROOT / "docs" / "adapters.md"
    before, _, rest = overview.read_text().partition(BEGIN)
    wanted = before + BEGIN + "".join(f"{row}\n" for row in rows) + END + rest.partition(END)[2]
    if os.environ.get("STATESTORE_UPDATE_SNAPSHOT"):
        overview.write_text(wanted)
    assert overview.read_text() == wanted


@pytest.mark.parametrize(
    "lock", sorted((ROOT / "tests" / "adapters").glob("*/*.lock")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_what_an_environment_has_is_pinned_by_its_hash(lock: Path) -> None:
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith((" ", "#"))]
    assert lines
    assert all("==" in line and line.endswith("\\") for line in lines)
    assert "://" not in lock.read_text()
