"""docs/doctor.md and docs/observability.md: examples run, names exist, and none is left out."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from statestore import doctor, otel, prometheus  # noqa: F401  (both are installed)
from tests.cli.conftest import resolved
from tests.observing.test_dashboard import BATCHES, exposed

DOCS = Path(__file__).parents[2] / "docs"
DOCTOR, OBSERVABILITY = (DOCS / "doctor.md").read_text(), (DOCS / "observability.md").read_text()


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("example", [*blocks(DOCTOR), *blocks(OBSERVABILITY)])
def test_each_example_runs_by_itself(example: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_check_is_on_the_page_in_its_order() -> None:
    shown = re.findall(r"^\| `([a-z-]+)` \| (?:both|PostgreSQL|SQLite) \|", DOCTOR, re.MULTILINE)
    assert sorted(shown) == sorted(doctor.names())


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(statestore [^`$]*)`", DOCTOR))))
def test_every_command_on_the_page_exists(command: str) -> None:
    words = shlex.split(command.partition(" && ")[0])[1:]
    resolved(["indexes" if word == "NAME" else word for word in words])


def test_every_metric_is_on_the_page() -> None:
    for name in {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in {**BATCHES, **exposed()}}:
        plain = re.sub(r"(?<!statestore_operations)_total$", "", name) if "_created" in name else name
        assert f"`{plain}" in OBSERVABILITY or f"`{plain.removesuffix('_total')}`" in OBSERVABILITY, name


def test_what_the_page_says_of_opentelemetry_is_what_there_is() -> None:
    from statestore.otel import _OBSERVED

    for name, _, attributes in _OBSERVED.values():
        short = "." + name.rpartition(".")[2]
        assert f"`{name}`" in OBSERVABILITY or f"`{short}`" in OBSERVABILITY, name
        for attribute in attributes.values():
            assert attribute.startswith("db.client") or attribute in OBSERVABILITY or "kind" in attribute
