"""The suite notices what it is there to notice."""

import time
from pathlib import Path

import pytest

from statestore import StateStore
from tests.faults.conflicts import _History, check_history
from tests.faults.journal import ACKNOWLEDGED, DENIED, TRIED, UNKNOWN, Journal
from tests.faults.page import BEGIN, END, HEADINGS, markdown, write_page
from tests.faults.running import ROOT
from tests.faults.table import Outcome, Tally
from tests.faults.watch import ALLOWED, Heartbeat
from tests.support.content import Content


def counted(tally: Tally) -> tuple[int, int, int, int]:
    return tally.acknowledged, tally.lost, tally.doubled, tally.wrong


@pytest.mark.parametrize(
    ("answer", "stored", "expected"),
    [
        (ACKNOWLEDGED, 1, (1, 0, 0, 0)),
        (ACKNOWLEDGED, 0, (1, 1, 0, 0)),
        (ACKNOWLEDGED, 2, (1, 0, 1, 0)),
        (DENIED, 0, (0, 0, 0, 0)),
        (DENIED, 1, (0, 0, 0, 1)),
        (UNKNOWN, 0, (0, 0, 0, 0)),
        (UNKNOWN, 1, (0, 0, 0, 0)),
        (UNKNOWN, 2, (0, 0, 1, 0)),
        (TRIED, 1, (0, 0, 0, 0)),
    ],
)
def test_an_answer_is_compared_with_what_is_stored(
    sqlite_url: str, answer: str, stored: int, expected: tuple[int, int, int, int]
) -> None:
    journal = Journal()
    with StateStore.open(sqlite_url) as store:
        store.sessions.create("s")
        for _ in range(stored):
            store.history.append("s", [{"role": "user", "tag": "one"}])
        journal.note(answer, "s", ["one"])
        assert counted(journal.settle(store, url=sqlite_url)) == expected


def test_half_of_an_append_is_wrong(sqlite_url: str) -> None:
    journal = Journal()
    with StateStore.open(sqlite_url) as store:
        store.history.append("s", [{"role": "user", "tag": "one"}], create=True)
        journal.note(UNKNOWN, "s", ["one", "two"])
        assert counted(journal.settle(store)) == (0, 0, 0, 1)


def test_increments_are_counted(sqlite_url: str) -> None:
    with StateStore.open(sqlite_url) as store:
        store.sessions.create("s")
        for times, expected in ((1, (2, 1, 0, 0)), (1, (2, 0, 0, 0)), (1, (2, 0, 0, 0)), (1, (2, 0, 1, 0))):
            for _ in range(times):
                store.state.increment("s", "n")
            journal = Journal()
            for number, answer in enumerate((ACKNOWLEDGED, ACKNOWLEDGED, UNKNOWN, DENIED)):
                journal.note(answer, "s", [f"+{number}"])
            assert counted(journal.settle(store)) == expected


def test_another_sessions_entry_is_wrong_and_so_is_a_gap(sqlite_url: str) -> None:
    journal = Journal()
    with StateStore.open(sqlite_url) as store:
        for session in ("s", "t"):
            store.history.append(session, [{"role": "user", "tag": f"{session}{n}"} for n in range(3)], create=True)
            journal.note(ACKNOWLEDGED, session, [f"{session}{n}" for n in range(3)])
        assert counted(journal.settle(store, url=sqlite_url)) == (6, 0, 0, 0)
        content = Content(sqlite_url)
        content.query("DELETE FROM history_entries WHERE session_id = 's' AND seq = 2")
        content.close()
        journal.sessions["t0"] = "s"
        found = journal.settle(store, url=sqlite_url)
        assert found.lost == 1
        assert any("t0" in note for note in found.notes)
        assert any("positions" in note for note in found.notes)


def history(*, appends: str = "abc", read: tuple[str, float, float] = ("abc", 10, 11)) -> _History:
    """Appends one after the other, a second each, and one read."""
    found = _History()
    found.appends = [("x", tag, float(number), number + 0.5) for number, tag in enumerate(appends)]
    found.reads = [("x", list(read[0]), read[1], read[2])]
    return found


@pytest.mark.parametrize(
    ("found", "final", "problem"),
    [
        (history(), "abc", None),
        (history(), "ab", "lost: c"),
        (history(), "acb", "stands behind"),
        (history(read=("ac", 10, 11)), "abc", "no beginning"),
        (history(read=("ab", 10, 11)), "abc", "missed c"),
        (history(read=("ab", 1.2, 1.9)), "abc", None),
        (history(read=("abc", 1.2, 1.9)), "abc", "before it was written"),
    ],
)
def test_a_history_that_makes_no_sense_is_wrong(found: _History, final: str, problem: str | None) -> None:
    tally = Tally()
    check_history(found, {"x": list(final)}, tally)
    assert bool(tally.violations) is (problem is not None), tally
    assert problem is None or any(problem in note for note in tally.notes)


def test_half_of_a_transaction_in_a_snapshot_is_wrong() -> None:
    tally = Tally()
    found = _History(snapshots=[(["both-1", "a"], ["both-1"]), (["both-1"], [])])
    check_history(found, {"x": [], "y": []}, tally)
    assert tally.wrong == 1


def test_a_row_needs_a_control_that_loses() -> None:
    tally = Tally(rounds=1, acknowledged=1)
    assert Outcome("f", "sqlite", "sync", tally, "unsafe", 3).verdict == "held"
    assert Outcome("f", "sqlite", "sync", tally, "unsafe", 0).verdict == "void"
    assert Outcome("f", "sqlite", "sync", Tally(rounds=1), "unsafe", 3).verdict.startswith("void")
    assert Outcome("f", "sqlite", "sync", Tally(acknowledged=1, hung=1), "unsafe", 3).verdict == "FAILED"
    assert Outcome("f", "sqlite", "sync", Tally(), "unsafe", None, missing="it").verdict == "missing: it"


def test_a_machine_that_stands_still_is_no_hanging_call() -> None:
    heartbeat = Heartbeat()
    try:
        heartbeat._late.clear()
        began = time.monotonic()
        heartbeat._late.append((began + 1, 2.0))
        assert heartbeat.allowed(began) >= ALLOWED + 2
        assert heartbeat.allowed(began + 10) == ALLOWED
    finally:
        heartbeat.close()


def test_the_table_goes_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    table = markdown("today", [Outcome("f", "sqlite", "sync", Tally(rounds=1, acknowledged=1234), "unsafe", 3)])
    write_page(page, table)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\ntoday\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| f | sqlite | sync | 1 | 1,234 | 0 | 0 | 0 | 0 | held | 3 (unsafe) |" in text
    write_page(page, table)
    assert page.read_text() == text


def test_the_page_about_reliability_has_the_table() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    table = text.partition(BEGIN)[2].partition(END)[0]
    assert "| fault | database | world |" in table or not table.strip()
    assert len(HEADINGS) == 11
