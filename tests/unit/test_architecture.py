"""The house stands on its floors: imports point down, never up and never in a circle."""

import ast
import os
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import statestore

PACKAGE = Path(statestore.__file__).parent
ROOT = PACKAGE.parent
MAX_LINES = 420

# From the ground up: the only list of floors there is, which CONTRIBUTING.md prints. A floor is a folder, or the files
# that are named; a family of tables imports the families below it only.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("values",),
    ("checking",),
    ("schema",),
    ("engine",),
    ("repositories.base",),
    ("repositories.usage",),
    ("repositories.sessions",),
    ("repositories.history",),
    ("repositories.state",),
    ("repositories.conversations",),
    ("repositories.cache",),
    ("repositories.expiry",),
    ("repositories.rollup",),
    ("repositories.portable",),
    ("operations",),
    ("migrate",),
    ("partitioning",),
    ("options",),
    (
        "store",
        "async_store",
        "lazy",
        "context",
        "portable",
        "sweeper",
        "shared_prices",
        "vacuuming",
        "measures",
    ),
    ("doctor", "otel", "prometheus"),
    ("adapters",),
    ("importers",),
    ("reports",),
    ("cli", "__main__"),
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if "_migrations" not in path.parts}


# Only the process that runs these tests reads the package: each of several collects them.
@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str) -> set[str]:
    """The modules of the package that *module* imports, wherever in it."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {target if inside(target) in MODULES else str(node.module) for target in targets}
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{module} imports relatively: {ast.unparse(node)}")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {inside(target) for target in found if target.partition(".")[0] == "statestore"} - {module}


def inside(target: str) -> str:
    return target.removeprefix("statestore").removeprefix(".")


def floor(module: str) -> int:
    if not module:  # The package itself: only names.
        return -1
    for number, names in enumerate(FLOORS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return number
    assert module == "repositories", f"statestore.{module} is on no floor: give it one in FLOORS"
    return 0


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_imports_point_down(module: str) -> None:
    up = {target for target in imports(module) if floor(target) > floor(module)}
    assert not up


def test_imports_do_not_go_in_circles() -> None:
    # The package's own __init__ gives names that it imports at their first use only. What is imported for types alone
    # is no circle.
    graph = {module: imports(module) - {""} - for_types(module) for module in MODULES if module}
    TopologicalSorter(graph).prepare()


def for_types(module: str) -> set[str]:
    """What *module* imports under TYPE_CHECKING only."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found |= {inside(str(part.module)) for part in ast.walk(node) if isinstance(part, ast.ImportFrom)}
    return found


def test_the_engine_knows_no_table() -> None:
    from statestore.schema import metadata

    tables = {f"${name}" for name in metadata.tables}
    for module in MODULES:
        if module.startswith("engine."):
            text = MODULES[module].read_text()
            assert not {table for table in tables if table in text}, module


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_no_private_name_of_another_floor_is_used(module: str) -> None:
    used = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
    # Those that nobody here defines are another library's.
    private = private_names()
    strangers = used & set().union(*private.values()) - private[floor(module)]
    assert not strangers


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defined(module: str) -> set[str]:
    """The private names that a module defines, in classes too."""
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return {name for name in found if is_private(name)}


@cache
def private_names() -> dict[int, set[str]]:
    """Those that may be used on each floor: its own, and those of classes that are made to be inherited from."""
    inherited = defined("repositories.base") | defined("operations.base")
    return {
        number: set().union(*(defined(module) for module in MODULES if floor(module) == number)) | inherited
        for number in range(-1, len(FLOORS))
    }


@pytest.mark.parametrize("folder", sorted(path.parent for path in PACKAGE.rglob("__init__.py")), ids=str)
def test_every_room_says_what_it_knows(folder: Path) -> None:
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_repositories_and_the_floors_below_the_engine_neither_wait_nor_log() -> None:
    """Nor does an asyncio task begin there. Only the owner of the transaction knows what may be waited for."""
    engine = FLOORS.index(("engine",))
    for module in MODULES:
        if module and (floor(module) < engine or module.startswith("repositories")):
            names = {
                name.partition(".")[0]
                for node in ast.walk(tree(module))
                if isinstance(node, ast.Import | ast.ImportFrom)
                for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
            }
            assert not names & {"logging", "asyncio"}, module
            assert "sleep(" not in MODULES[module].read_text(), module


@pytest.mark.parametrize("module", MODULES)
def test_a_file_has_a_readable_length(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= MAX_LINES


def test_errors_and_values_bring_no_sqlalchemy() -> None:
    """`statestore --help` and a worker that only unpickles errors do without."""
    code = "import sys, statestore; statestore.Session, statestore.NotFoundError; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_store_brings_nothing_that_it_may_not_need() -> None:
    """Each would cost every start of a process. What SQLAlchemy imports, such as asyncio, cannot be helped."""
    code = "import sys, statestore; statestore.StateStore; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    unwanted = {"sqlalchemy.orm", "sqlalchemy.ext.asyncio", "alembic", "psycopg", "tenacity", "statestore.async_store"}
    assert not unwanted & set(done.stdout.split())


def test_contributing_prints_the_floors() -> None:
    """From this list and from what each room says of itself; `STATESTORE_UPDATE_SNAPSHOT=1` writes it anew."""
    rows = ["| Floor | Room | What it knows |", "|---|---|---|"]
    for number, names in enumerate(FLOORS):
        for name in names:
            path = MODULES[name].relative_to(ROOT)
            room = f"{path.parent}/" if path.name == "__init__.py" else str(path)
            summary = str(ast.get_docstring(tree(name))).partition("\n\n")[0].replace("\n", " ")
            rows.append(f"| {number} | `{room}` | {summary} |")
    page = ROOT / "CONTRIBUTING.md"
    text = page.read_text()
    before, _, rest = text.partition("<!-- floors -->\n")
    after = rest.partition("<!-- /floors -->\n")[2]
    assert after, "CONTRIBUTING.md has lost its list of floors"
    wanted = f"{before}<!-- floors -->\n" + "".join(f"{row}\n" for row in rows) + f"<!-- /floors -->\n{after}"
    if os.environ.get("STATESTORE_UPDATE_SNAPSHOT"):
        page.write_text(wanted)
    assert page.read_text() == wanted
