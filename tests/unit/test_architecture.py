"""The house stands on its floors: imports point down, never up and never in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import statestore

PACKAGE = Path(statestore.__file__).parent
MAX_LINES = 420

# From the ground up; see DESIGN.md, "The house". A name with a dot at its end stands for all modules below it.
FLOORS = (
    {"errors", "values", "session_values", "usage_values", "cache_values"},
    {
        "frozen",
        "ids",
        "known",
        "turnstile",
        "column_types",
        "price_patterns",
        "pricing",
        "forking",
        "deadlines",
        "slots",
    },
    {"connection_errors", "hosts", "pooler", "sqlite_files"},
    {"workers", "bounded", "watchdog"},
    {"checks", "exactjson", "messages", "codec", "schema", "cache_options", "cache_keys", "sql", "driver_errors"},
    {"json_files"},
    {"repositories", "repositories."},
    {"genai_prices", "engines", "transactions", "execution", "waits", "connections", "listening"},
    {"grouping", "thread_groups", "task_groups", "group_calls", "database"},
    {"async_database", "threaded_database", "engine_database", "courses"},
    {"migration_targets", "schema_comparison", "schema_revision"},
    {"migrate"},
    {"opening"},
    {
        "follow",
        "iterating",
        "cache_files",
        "operations",
        "operations.",
        "turn",
        "leases",
        "single_flight",
        "sweeping",
        "erasing",
    },
    {"", "store", "async_store", "sweeper", "context", "portable", "portable_files", "shared_prices", "vacuuming"},
    {"reports", "reports."},
    {"cli", "cli.", "adapters", "adapters.", "__main__"},
)

# One for each family of tables. What two of them need stands in a module of its own, below them.
REPOSITORIES = ("sessions", "history", "state", "cache", "usage", "expiry")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if "_migrations" not in path.parts}


def imports(module: str) -> set[str]:
    """The modules of the package that *module* imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
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
    for number, names in enumerate(FLOORS):
        if module in names or any(name.endswith(".") and module.startswith(name) for name in names):
            return number
    raise AssertionError(f"statestore.{module} stands on no floor: give it one in FLOORS")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    up = {target for target in imports(module) if floor(target) > floor(module)}
    assert not up


def test_imports_do_not_go_in_circles() -> None:
    # The package's own __init__ gives names that it imports at their first use only.
    graph = {module: imports(module) - {""} for module in MODULES if module}
    TopologicalSorter(graph).prepare()


def test_repositories_do_not_know_each_other() -> None:
    def known(module: str) -> set[str]:
        direct = {target for target in imports(module) if target.startswith("repositories.")}
        return direct.union(*map(known, direct))

    repositories = {f"repositories.{name}" for name in REPOSITORIES if f"repositories.{name}" in MODULES}
    assert {"repositories.sessions", "repositories.history", "repositories.state"} <= repositories
    assert {name: others for name in repositories if (others := known(name) & repositories - {name})} == {}


def test_only_the_upper_floors_wait_retry_or_log() -> None:
    tabu = {"logging", "stamina", "asyncio"}
    for module in MODULES:
        if module.startswith("repositories"):
            names = {
                name.partition(".")[0]
                for node in ast.walk(ast.parse(MODULES[module].read_text()))
                if isinstance(node, ast.Import | ast.ImportFrom)
                for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
            }
            assert not names & tabu, f"{module} is a repository: only the transaction's owner waits"
            assert "sleep(" not in MODULES[module].read_text()


@pytest.mark.parametrize("module", MODULES)
def test_a_file_has_a_readable_length(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= MAX_LINES


def test_errors_and_values_bring_no_sqlalchemy() -> None:
    """`statestore --help` and a worker that only unpickles errors do without."""
    import subprocess
    import sys

    code = "import sys, statestore; statestore.Session, statestore.NotFoundError; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
