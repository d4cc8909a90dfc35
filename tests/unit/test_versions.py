"""Which version this is, and which others it works with: said in several places, and the same in all of them."""

import re
import tomllib
from datetime import date
from pathlib import Path

import statestore

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOW = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
RUN = (ROOT / "run").read_text()


def listed(name: str) -> list[str]:
    """A list of the workflow's matrix."""
    return re.findall(r'"([\d.]+)"', re.search(rf"^ +{name}: \[(.*)\]$", WORKFLOW, re.MULTILINE)[1])  # type: ignore[index]


def test_the_changelog_is_cut_for_this_version() -> None:
    sections = re.findall("^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == "Unreleased"
    released = [re.fullmatch(r"(\d+\.\d+\.\d+) \((.*)\)", section) for section in sections[1:]]
    assert released[0][1] == statestore.__version__  # type: ignore[index]
    days = [date.fromisoformat(one[2]) for one in released]  # type: ignore[index]
    assert days == sorted(days, reverse=True)


def test_the_version_is_written_once() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "statestore/__init__.py"


def test_pythons() -> None:
    versions = re.search("^versions='(.*)'$", RUN, re.MULTILINE)[1].split()  # type: ignore[index]
    classifiers = re.findall(r"Python :: (\d\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert listed("python") == versions
    # A version is tried first and promised later.
    assert classifiers[::-1] == versions[-len(classifiers) :]
    assert PROJECT["project"]["requires-python"] == f">={versions[-1]}"
    for tool in (PROJECT["tool"]["mypy"]["python_version"], PROJECT["tool"]["pyright"]["pythonVersion"]):
        assert tool == versions[-1]


def test_postgresqls() -> None:
    versions = re.search("for version in (15 .*); do", RUN)[1].split()  # type: ignore[index]
    assert listed("postgresql") == versions[::-1]
    assert f"PostgreSQL, {versions[0]} to {versions[-1]}," in (ROOT / "README.md").read_text()


def test_the_lowest_versions_are_tried_on_the_same_pythons() -> None:
    left_out = re.findall(r'python: "([\d.]+)", dependencies: lowest', WORKFLOW)
    [tried] = re.findall(r"^ +(3[\d. |]+)\) echo \"\$version \$postgresql lowest\"", RUN, re.MULTILINE)
    assert sorted([*left_out, *tried.split(" | ")]) == sorted(listed("python"))
