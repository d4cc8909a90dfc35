"""What `./run adapters NAME` does in the environment of an adapter: types, our tests, the framework's own suite."""

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]

# The tests of a framework may be a package `tests`, too, and import from it. Ours are then found behind them.
_PYTEST = "import sys, tests; tests.__path__.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main())"


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run adapters NAME", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--compare", action="store_true", help="measure it beside the framework's own SQL store")
    parser.add_argument("--write", action="store_true", help="with --compare: write the table into its page")
    parser.add_argument("--suite", type=Path, help="the unpacked source distribution that has the framework's suite")
    arguments, rest = parser.parse_known_args()
    os.environ["STATESTORE_ADAPTER"] = arguments.name
    if arguments.compare:
        from tests.adapters import comparing

        return comparing.main(arguments.name, write=arguments.write)
    results = {"types": typed(arguments.name)}
    results["our tests"] = run([sys.executable, "-m", "pytest", f"tests/adapters/{arguments.name}", *rest], ROOT)
    suite = suite_of(arguments.name)
    if suite is not None and not rest:
        for database in ("sqlite", "postgresql"):
            results[f"its own suite, {database}"] = run_suite(arguments.name, suite, arguments.suite, database)
    print(f"\n{arguments.name}")
    for what, code in results.items():
        print(f"  {what:28} {'passed' if code == 0 else 'FAILED'}")
    return int(any(results.values()))


def typed(name: str) -> int:
    """The adapter's types, against those of the framework."""
    folder = ROOT / "statestore" / "adapters"
    found = [path for path in (folder / name, folder / f"{name}.py") if path.exists()]
    return run([sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *map(str, found)], ROOT)


def suite_of(name: str) -> ModuleType | None:
    module = f"tests.adapters.{name}.suite"
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


def run_suite(name: str, suite: ModuleType, folder: Path | None, database: str) -> int:
    """The tests that `suite.PATHS` names, in the framework's sources, with our class in place of its own.

    `suite` is loaded as a plugin of pytest; it puts our class there. What it leaves out, `suite.LEFT_OUT`, is named
    with the reason.
    """
    where = ROOT if folder is None else folder
    left_out: dict[str, str] = getattr(suite, "LEFT_OUT", {})
    for test, reason in left_out.items():
        print(f"left out: {test}: {reason}", flush=True)
    command = [sys.executable, "-c", _PYTEST, str(ROOT / "tests")]
    command += ["-p", f"tests.adapters.{name}.suite", "-p", "tests.adapters.no_skips"]
    command += [*getattr(suite, "OPTIONS", ()), *(f"--deselect={test}" for test in left_out), *suite.PATHS]
    paths = os.pathsep.join([str(ROOT), str(where), os.environ.get("PYTHONPATH", "")])
    return run(command, where, STATESTORE_SUITE_DATABASE=database, PYTHONPATH=paths)


def run(command: list[str], where: Path, **environment: str) -> int:
    shown = [word for word in command if not word.startswith("--deselect")]
    print(f"$ {' '.join(shown)}", flush=True)
    return subprocess.run(command, cwd=where, env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
