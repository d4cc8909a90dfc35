"""`./run mutants` changes what it says, and knows the tests of all that it changes."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mutants import operators, places, reaching, subjects, trial
from mutants.__main__ import Change, judge
from mutants.trial import Outcome

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", subjects.modules(ROOT), ids=str)
def test_every_module_has_tests_that_are_there(module: Path) -> None:
    tests = subjects.tests_of(module, ROOT)
    assert tests or module.name == "__init__.py"


def test_every_pattern_fits_something() -> None:
    names = [str(path.relative_to(subjects.PACKAGE)) for path in subjects.modules(ROOT)]
    for pattern, tests in subjects.SUBJECTS:
        assert any(subjects._fits(name, pattern) for name in names), pattern
        for test in tests:
            assert list(ROOT.glob(test)), test


def test_other_tests_begin_with_those_that_import_the_module() -> None:
    waits = subjects.PACKAGE / "engine" / "waits.py"
    named, others = subjects.tests_of(waits, ROOT), subjects.other_tests_of(waits, ROOT)
    assert "tests/unit/test_fair_lock.py" in named
    assert not set(named) & set(others)
    assert len(others) > 100
    first = (ROOT / others[0]).read_text()
    assert "statestore.engine.waits" in first or "statestore.engine import waits" in first
    assert "engine.waits" not in (ROOT / others[-1]).read_text()


class Tried:
    """A copy whose tests never notice anything, and what is reached: by one test, in one file and world."""

    def __init__(self, file: str, worlds: str) -> None:
        self.reaches = file, worlds
        self.tried: list[str] = []

    def knows(self, file: str, worlds: str) -> bool:
        return True

    def tests(self, module: Path, line: int, files: Sequence[str], worlds: str) -> list[trial.Test]:
        file, world = self.reaches
        return [trial.Test(f"{file}::test_it", 0.1)] if file in files and world == worlds else []

    def trial(self, module: Path, source: str, changed: str, tests: Sequence[trial.Test]) -> Outcome:
        self.tried += [test.name for test in tests]
        return Outcome(passed=True, seconds=0.0, failed="", said="", ended=True)


@pytest.mark.parametrize("worlds", ["called", "awaited"])
@pytest.mark.parametrize("file", ["tests/unit/test_fair_lock.py", "tests/contract/test_tenants.py"])
def test_what_no_test_named_for_it_reaches_is_tried_on_all_others(file: str, worlds: str) -> None:
    module = subjects.PACKAGE / "engine" / "waits.py"
    source = (ROOT / module).read_text()
    change = Change(module, operators.mutations(source)[0], source)
    tried: Any = Tried(file, worlds)
    assert judge(tried, tried, change, thoroughly=False) is None
    verdict, _ = judge(tried, tried, change, thoroughly=True) or ("", "")
    assert verdict == "SURVIVED"
    assert f"{file}::test_it" in tried.tried


def test_what_a_named_test_reaches_is_tried_on_no_others() -> None:
    module = subjects.PACKAGE / "repositories" / "state" / "lists.py"
    source = (ROOT / module).read_text()
    named = subjects.tests_of(module, ROOT)
    asked: list[str] = []

    class Asked(Tried):
        def tests(self, module: Path, line: int, files: Sequence[str], worlds: str) -> list[trial.Test]:
            asked.extend(files)
            return super().tests(module, line, files, worlds)

    tried: Any = Asked(named[0], "called")
    change = Change(module, operators.mutations(source)[0], source)
    assert judge(tried, tried, change, thoroughly=True) == ("SURVIVED", "1 tests reach it (0 s)")
    assert asked == named


SOURCE = '''"""Docstring: WHERE a AND b > 1."""

FIND = Statement("SELECT n FROM $t WHERE id = :id AND owner = :owner AND n > :n $lock")


@writes_once
def take(self, n: int) -> int:
    """SELECT this > that."""
    checks.count(n, "ä")
    if n < 3 and not self.over:
        raise ValueError(f"{n < 3}")
    return n - 1
'''


def test_each_kind_of_change_is_made_once_at_its_place() -> None:
    made = {one.of(SOURCE) for one in operators.mutations(SOURCE)}
    expected = [
        (" AND owner = :owner", ""),
        (" AND n > :n", ""),
        ("n > :n", "n >= :n"),
        (" $lock", ""),
        ("@writes_once", "@writes"),
        ('checks.count(n, "ä")', "pass"),
        ("if n < 3 and", "if (n <= 3) and"),
        ("n < 3 and not self.over", "(n < 3 or not self.over)"),
        ("not self.over", "(self.over)"),
        ("if n < 3", "if n < (4)"),
        ('raise ValueError(f"{n < 3}")', "pass"),
        ("return n - 1", "return (n + 1)"),
        ("return n - 1", "return n - (2)"),
    ]
    assert made == {SOURCE.replace(before, after, 1) for before, after in expected}
    assert all(map(operators.readable, made))


def test_the_same_place_is_not_changed_twice_in_the_same_way() -> None:
    for module in subjects.modules(ROOT):
        source = (ROOT / module).read_text()
        found = [one.of(source) for one in operators.mutations(source)]
        assert len(found) == len(set(found)), module
        assert source not in found, module


REACHED = '''"""Docstring."""

_SQL = "SELECT 1"
_BOTH = (_SQL, "SELECT 2")
len(_SQL)


@lru_cache(maxsize=2)
def statement(kind):
    """Docstring."""
    return _BOTH[kind]


class Repository:
    @reads
    def find(self, n):
        """Docstring."""
        if n > 1:
            return statement(n)
        raise ValueError("small")
'''
MODULE = Path("statestore/engine/example.py")


@pytest.mark.parametrize(
    ("line", "expected"),
    [(3, {11, 19}), (4, {11, 19}), (5, None), (11, {11, 19}), (15, {18}), (18, {18}), (19, {19}), (20, {20})],
)
def test_a_change_concerns_the_statements_that_run_it(line: int, expected: set[int] | None) -> None:
    found = places.concerned(MODULE, line, {MODULE: REACHED})
    assert found == (None if expected is None else {f"{MODULE}:{place}" for place in expected})


def test_a_change_concerns_who_uses_what_another_module_has_kept_of_it() -> None:
    helper, keeper, other = (Path(f"statestore/engine/{name}.py") for name in ("helper", "keeper", "other"))
    sources = {
        helper: "_PART = 1\n\ndef part():\n    return _PART\n",
        keeper: "from statestore.engine import helper\n\n@cache\ndef made():\n    return helper.part()\n",
        other: "@cache\ndef another():\n    return part()\n\ndef use():\n    another()\n    return made()\n",
    }
    for line in (1, 4):
        assert places.concerned(helper, line, sources) == {f"{helper}:4", f"{other}:7"}


def test_marked_sources_do_the_same_and_say_what_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(reaching, "mark", told.append)
    names: dict[str, Any] = {
        "lru_cache": functools.lru_cache,
        "reads": lambda method: method,
        "print": lambda text: None,
    }
    exec(places.marked(MODULE, REACHED), names)
    assert told == []
    assert names["statement"].__doc__ == "Docstring."
    with pytest.raises(ValueError, match="small"):
        names["Repository"]().find(0)
    assert told == [f"{MODULE}:18", f"{MODULE}:20"]
