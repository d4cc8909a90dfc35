"""docs/performance.md quotes tables that are written by programs, and none that is out of date."""

import subprocess
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.__main__ import LATEST


def test_the_page_quotes_the_costs_that_the_contract_asserts() -> None:
    text = page.PAGE.read_text()

    assert page.filled(text, "costs", page.costs()) == text, "write it anew with: python -m benchmarks --page"


def test_the_page_has_a_place_for_every_table_of_a_run() -> None:
    text = page.PAGE.read_text()

    for name in page.BLOCKS:
        assert text.count(f"<!-- begin: {name} -->") == text.count(f"<!-- end: {name} -->") == 1


def test_without_a_run_only_the_costs_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = page.PAGE.read_text()
    copy = tmp_path / "performance.md"
    copy.write_text(page.filled(before, "costs", "out of date"))
    monkeypatch.setattr(page, "PAGE", copy)
    monkeypatch.setattr(page, "CHART", tmp_path / "performance.svg")

    page.write(tmp_path / "latest.json")

    assert copy.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["performance.md"]


def test_results_of_a_run_are_not_kept_in_the_repository() -> None:
    found = subprocess.run(["git", "check-ignore", "--quiet", LATEST], cwd=LATEST.parents[2], check=False)
    if found.returncode == 128:
        pytest.skip("this is not a git checkout")
    assert found.returncode == 0
