"""`statestore report`, against what Python's own modules make of the same data."""

import csv
import io
import json
import os
import pty
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from statestore import Entry, InvalidValueError, NewEntry, StateStore, Usage
from tests.reports.data import sessions
from tests.reports.ledger_model import total, used
from tests.support.command_line import Ran, invoke

DATA: dict[str, Any] = {"days": 100, "users": 50, "each_day": 6}


def report(url: str, *arguments: str) -> Ran:
    return invoke("report", *arguments, "--url", url)


def table(url: str, *arguments: str) -> list[dict[str, str]]:
    done = report(url, *arguments, "--csv")
    assert done.exit_code == 0, done.output
    return list(csv.DictReader(io.StringIO(done.stdout)))


def appended(store: StateStore) -> list[tuple[str, Entry]]:
    """Everything that is put into the store, as it was returned."""
    found = []
    for session_id, attributes, entries in sessions(**DATA):
        store.sessions.create(session_id, **attributes)
        found += [(session_id, entry) for entry in store.history.append(session_id, entries)]
    return found


def expected(entries: list[tuple[str, Entry]], zone: Any) -> dict[str, dict[str, Any]]:
    days: dict[str, list[tuple[str, Entry]]] = defaultdict(list)
    for session_id, entry in entries:
        days[entry.created_at.astimezone(zone).date().isoformat()].append((session_id, entry))
    return {
        day: total(used(entry) for _, entry in found)
        | {
            "sessions": len({session_id for session_id, _ in found}),
            "timings": sorted(entry.duration / timedelta(milliseconds=1) for _, entry in found if entry.duration),
        }
        for day, found in days.items()
    }


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_usage_by_day_is_what_csv_and_statistics_make_of_it(database_url: str, zone: str) -> None:
    with StateStore.open(database_url, durability="normal") as store:
        entries = appended(store)
    days = expected(entries, ZoneInfo(zone))
    rows = table(database_url, "usage-by-day", "--tz", zone)
    assert [row["day"] for row in rows] == sorted(days)
    assert len(rows) >= 100
    for row in rows:
        day = days[row["day"]]
        for name in ("sessions", "entries", "turns", "model_calls", "tool_calls", "errors", "unpriced_calls",
                     "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens",
                     "reasoning_output_tokens", "content_bytes"):  # fmt: skip
            assert int(row[name]) == day[name], name
        assert Decimal(row["cost_usd"] or 0) == day["cost_usd"]
        assert round(float(row["duration_ms"]) * 1000) == day["microseconds"]
        assert int(row["timed_entries"]) == len(day["timings"])
        assert float(row["latency_p50_ms"]) == pytest.approx(statistics.median(day["timings"]), abs=0.001)
        twentieths = statistics.quantiles(day["timings"], n=20, method="inclusive")
        assert float(row["latency_p95_ms"]) == pytest.approx(twentieths[18], abs=0.001)


def test_the_same_report_comes_out_when_everything_has_been_deleted(database_url: str) -> None:
    with StateStore.open(database_url, durability="normal") as store:
        for session_id, attributes, entries in sessions(days=40, users=9, each_day=3):
            store.sessions.create(session_id, **attributes)
            store.history.append(session_id, entries)
        names = ["usage-by-day", "usage-by-session", "usage-by-user", "usage-by-agent", "usage-by-model"]
        asked = [[name, "--tz", "Asia/Kolkata"] for name in names]
        before = [kept(table(database_url, *arguments)) for arguments in asked]
        for session_id, _, _ in sessions(days=40, users=9, each_day=3):
            store.sessions.delete(session_id)
        after = [kept(table(database_url, *arguments)) for arguments in asked]
        for one, other in zip(before, after, strict=True):
            assert other == one


def kept(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without what needs the entries themselves."""
    assert rows
    return [{name: value for name, value in row.items() if not name.startswith(("latency", "timed"))} for row in rows]


@pytest.mark.parametrize(
    ("zone", "at", "day"),
    [
        ("Asia/Kolkata", datetime(2026, 3, 1, 18, 29, 59, 999_999), "2026-03-01"),
        ("Asia/Kolkata", datetime(2026, 3, 1, 18, 30), "2026-03-02"),
        # Until March 8, 2026, 7:00 UTC New York is five hours behind, then four; from November 1, 6:00, five again.
        ("America/New_York", datetime(2026, 3, 8, 4, 59, 59, 999_999), "2026-03-07"),
        ("America/New_York", datetime(2026, 3, 8, 5, 0), "2026-03-08"),
        ("America/New_York", datetime(2026, 3, 9, 3, 59, 59, 999_999), "2026-03-08"),
        ("America/New_York", datetime(2026, 3, 9, 4, 0), "2026-03-09"),
        ("America/New_York", datetime(2026, 11, 1, 3, 59, 59), "2026-10-31"),
        ("America/New_York", datetime(2026, 11, 2, 4, 59, 59), "2026-11-01"),
        ("America/New_York", datetime(2026, 11, 2, 5, 0), "2026-11-02"),
        ("UTC", datetime(2026, 3, 1, 23, 59, 59, 999_999), "2026-03-01"),
    ],
)
@pytest.mark.parametrize("deleted", [False, True], ids=["live", "deleted"])
def test_days_begin_at_midnight_of_the_time_zone(
    database_url: str, zone: str, at: datetime, day: str, deleted: bool
) -> None:
    with StateStore.open(database_url) as store:
        # Others far away, so that the change of the clocks lies within what there is.
        times = [datetime(2026, 1, 1, 12), at, datetime(2026, 12, 31, 12)]
        store.sessions.create("s")
        store.history.append("s", [NewEntry(0, created_at=moment.replace(tzinfo=UTC)) for moment in times])
        if deleted:
            store.sessions.delete("s")
        found = [row.day.isoformat() for row in store.usage.by_day(tz=zone)]
        assert found == ["2026-01-01", day, "2026-12-31"]
        begin = date.fromisoformat(day)
        only = store.usage.by_day(tz=zone, since=begin, until=begin + timedelta(days=1))
        assert [(row.day, row.entries) for row in only] == [(begin, 1)]


def test_a_store_without_usage_reports_nothing_in_any_time_zone(database_url: str) -> None:
    with StateStore.open(database_url, timeout=5) as store:
        for method in ("by_day", "by_hour", "by_session"):
            assert getattr(store.usage, method)(tz="Europe/Berlin") == []
        assert store.usage.by_user(tz="America/New_York", daily=True) == []


class Asked(tzinfo):
    """A time zone that counts how often somebody asks how far it is from UTC."""

    asked = 0

    def utcoffset(self, at: datetime | None) -> timedelta:
        self.asked += 1
        return timedelta(hours=1)

    def dst(self, at: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, at: datetime | None) -> str:
        return "asked"


def test_reports_that_do_not_cut_days_look_for_no_changes_of_the_clocks(sqlite_url: str) -> None:
    zone = Asked()
    with StateStore.open(sqlite_url) as store:
        store.history.append("s", [NewEntry(0, usage=Usage(input_tokens=1))], create=True)
        assert store.usage.totals(tz=zone).entries == 1
        for method in ("by_user", "by_agent", "by_model", "by_tool"):
            getattr(store.usage, method)(tz=zone)
    assert zone.asked < 100


def test_since_and_until_are_cut_to_a_quarter_so_that_deleting_changes_nothing(database_url: str) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    with StateStore.open(database_url) as store:
        store.sessions.create("s")
        store.history.append("s", [NewEntry(n, created_at=noon + timedelta(minutes=n)) for n in range(60)])
        period = {"since": noon + timedelta(minutes=20), "until": noon + timedelta(minutes=50)}
        before = store.usage.totals(**period)
        assert before.entries == 30  # From 12:15 up to 12:45.
        store.history.trim("s", keep_last=33)
        assert store.usage.totals(**period).entries == 30


def test_the_formats_say_the_same(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        store.sessions.create("s", user_id="=cmd|' /C calc'!A1", agent_name="a\x1b[31m")
        usage = Usage(input_tokens=1200, output_tokens=3)
        store.history.append("s", [NewEntry(0, usage=usage, response_model="m", duration=timedelta(seconds=2))])
    shown = report(database_url, "usage-by-user").stdout
    assert "1,200" in shown.splitlines()[1]
    assert shown.splitlines()[0].split()[:2] == ["USER", "SESSIONS"]
    [record] = json.loads(report(database_url, "usage-by-user", "--json").stdout)
    assert (record["user_id"], record["cost_usd"], record["latency_p50_ms"]) == ("=cmd|' /C calc'!A1", None, 2000.0)
    [row] = table(database_url, "usage-by-user")
    assert list(row) == list(record)
    assert row["user_id"].startswith("'="), "a spreadsheet would run it"
    assert "\x1b" not in report(database_url, "usage-by-agent").stdout


def test_a_report_of_nothing_still_has_its_columns(database_url: str) -> None:
    done = report(database_url, "usage-by-day", "--csv")
    assert done.stdout.startswith("day,sessions,entries,")
    assert json.loads(report(database_url, "usage-by-day", "--json").stdout) == []
    empty = report(database_url, "usage-by-day")
    assert (empty.stdout, empty.exit_code) == ("", 0)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["usage-by-day", "--since", "soon"], "neither a date"),
        (["usage-by-day", "--tz", "Mars/Olympus"], "not a time zone"),
        (["usage-by-day", "--limit", "3"], "does not take --limit"),
        (["storage-usage", "--user", "ada"], "does not take --user"),
        (["nonsense"], "there is no report"),
        ([], "Name a report, or with --html"),
        (["usage-by-day", "--csv", "--json"], "cannot be combined"),
        (["usage-by-day", "--since", "99999999d"], "99999999d ago is before the year 1"),
        (["usage-by-day", "--until", "800000d"], "800000d ago is before the year 1"),
        (["usage-by-day", "--until", "19200000h"], "19200000h ago is before the year 1"),
        (["--html", "-", "--since", "999999w"], "999999w ago is before the year 1"),
        *(
            (["usage-by-user", option, ""], f"{option}: must have 1 to 512 characters")
            for option in ("--user", "--agent", "--provider", "--model", "--tool", "--session")
        ),
        (["--html", "-", "--session", ""], "--session: must have"),
        (["--html", "-", "--agent", "ada"], "takes --since, --until, --tz and --user only"),
    ],
)
def test_what_makes_no_sense_is_refused(sqlite_url: str, arguments: list[str], problem: str) -> None:
    done = report(sqlite_url, *arguments)
    assert done.exit_code in (1, 2)
    assert problem in done.stderr
    assert done.stdout == ""


def test_reports_refuse_what_they_cannot_use(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        for argument, value in {"since": datetime(2026, 1, 1), "until": "yesterday", "tz": "Nowhere/At all"}.items():
            with pytest.raises(InvalidValueError) as caught:
                store.usage.by_day(**{argument: value})
            assert caught.value.argument == argument
        with pytest.raises(InvalidValueError):
            store.usage.by_user(limit=-1)


def test_a_page_can_go_to_standard_output(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with StateStore.open(sqlite_url, namespace="größe") as store:
        store.sessions.create("s")
    before = set(tmp_path.iterdir())
    done = report(sqlite_url, "--html", "-", "--namespace", "größe", "--since", "0001-01-01")
    assert (done.exit_code, done.stderr) == (0, "")
    text = done.stdout_bytes.decode()
    assert text.startswith("<!doctype html>")
    assert text.endswith("</html>\n")
    assert "größe" in text
    assert set(tmp_path.iterdir()) == before


def test_a_name_that_is_given_narrows_whatever_it_is(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        for user in ("0", "ada"):
            store.history.append(user, [NewEntry(1)], create=True)
            store.sessions.update(user, user_id=user)
    assert [row["user_id"] for row in table(database_url, "usage-by-user", "--user", "0")] == ["0"]


HOSTILE = "a\x1b]0;title\x07b\u202egnp.exe\u2066\x9b31m"


def hostile(url: str) -> None:
    with StateStore.open(url) as store:
        store.sessions.create("s", user_id=HOSTILE, agent_name=HOSTILE)
        usage = Usage(input_tokens=1)
        store.history.append("s", [NewEntry("x", usage=usage, response_model=HOSTILE, tool_name=HOSTILE)])
        store.cache.set("text", HOSTILE)
        store.cache.set("bytes", HOSTILE.encode())


def on_a_terminal(*arguments: str) -> str:
    """What a command prints on a terminal."""
    reader, terminal = pty.openpty()
    command = [sys.executable, "-c", "from statestore.cli import main; main()", *arguments]
    done = subprocess.Popen(command, stdout=terminal, stdin=subprocess.DEVNULL)
    os.close(terminal)
    printed = b""
    with suppress(OSError):  # The end of a terminal.
        while data := os.read(reader, 65536):
            printed += data
    os.close(reader)
    assert done.wait() == 0
    return printed.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "usage-by-user", "--csv"),
        ("report", "usage-by-user", "--wide"),
        ("cache", "get", "text"),
        ("cache", "get", "bytes"),
    ],
)
def test_nothing_of_others_steers_a_terminal(sqlite_url: str, arguments: tuple[str, ...]) -> None:
    hostile(sqlite_url)
    printed = on_a_terminal(*arguments, "--url", sqlite_url)
    assert not set("\x1b\x07\u202e\u2066\x9b") & set(printed)
    assert r"a\x1b]0;title\x07b\u202e" in printed


def test_csv_that_goes_elsewhere_has_the_data_as_they_are(sqlite_url: str) -> None:
    hostile(sqlite_url)
    assert [row["user_id"] for row in table(sqlite_url, "usage-by-user")] == [HOSTILE]


def test_the_page_shows_what_would_hide_a_part_of_it(sqlite_url: str) -> None:
    hostile(sqlite_url)
    page = report(sqlite_url, "--html", "-").stdout
    assert not set("\x1b\x07\u202e\u2066\x9b") & set(page)
    assert r"a\x1b]0;title\x07b\u202egnp.exe\u2066\x9b31m" in page


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_a_page_is_its_owners_alone_and_overwrites_nothing_unasked(sqlite_url: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    report(sqlite_url, "--html", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("mine")
    file.chmod(0o644)
    refused = report(sqlite_url, "--html", str(file))
    assert (refused.exit_code, file.read_text()) == (1, "mine")
    assert "--replace" in refused.output
    assert report(sqlite_url, "--html", str(file), "--replace").exit_code == 0
    assert file.read_text().startswith("<!doctype html>")
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.glob("*report*")) == [file]


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
@pytest.mark.parametrize("replace", [(), ("--replace",)])
def test_a_page_does_not_follow_links(sqlite_url: str, tmp_path: Path, there: bool, replace: tuple[str, ...]) -> None:
    other, file = tmp_path / "other", tmp_path / "report.html"
    if there:
        other.write_text("somebody's")
    file.symlink_to(other)
    refused = report(sqlite_url, "--html", str(file), *replace)
    assert refused.exit_code == 1
    assert "is a link" in refused.output
    assert file.is_symlink()
    assert other.read_text() == "somebody's" if there else not other.exists()
