"""The page of `statestore report --html`: what it holds, and that a browser shows it without a complaint.

The browser is part of the long run: `STATESTORE_HYPOTHESIS_PROFILE=long`.
"""

import os
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from statestore import NewEntry, StateStore, Usage
from statestore.cli import main
from statestore.reports import figures
from statestore.reports.page import collect, render
from tests.support import chromium
from tests.usage.data import fill

LONG = os.environ.get("STATESTORE_HYPOTHESIS_PROFILE") == "long"
NASTY = "<script>alert(1)</script>&\"'"


@pytest.fixture
def used(sqlite_url: str) -> Iterator[StateStore]:
    """A store with a month of usage, and names that would be markup."""
    with StateStore.open(sqlite_url, durability="normal") as store:
        start = datetime.now(UTC).replace(hour=0, minute=0) - timedelta(days=30)
        fill(store, days=30, users=20, each_day=8, start=start)
        store.sessions.create(NASTY, user_id=NASTY, agent_name=NASTY)
        usage = Usage(input_tokens=10**9, output_tokens=1)
        store.history.append(
            NASTY, [NewEntry(1, usage=usage, response_model=NASTY, tool_name=NASTY, duration=timedelta(seconds=90))]
        )
        store.cache.set("k", 1)
        store.cache.get("k")
        store.cache.get("missing")
        store.cache.flush()
        yield store


class Markup(HTMLParser):
    """Every tag of the page, whether they are closed, and what is named in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.problems: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "link"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(tag)


def test_the_page_is_well_formed_and_needs_nothing_else(used: StateStore) -> None:
    text = render(collect(used, since=date.today() - timedelta(days=14)))
    markup = Markup(text)
    assert markup.problems == []
    assert "script" not in markup.tags
    assert NASTY not in text
    addresses = [value for name, value in markup.attributes if name in ("href", "src", "srcset", "action")]
    assert addresses == ["data:,"]
    assert not re.search(r"https?://|@import|url\(", text)
    for view in ("usage_by_day", "usage_by_model", "usage_by_user", "usage_by_session", "usage_by_agent",
                 "usage_by_tool", "cache_usage_by_day", "usage_lines", "storage_usage", "expiry_backlog"):  # fmt: skip
        assert re.search(rf"<code>[^<]*{view}", text), view
    assert text.count("<svg") == 10  # Five charts, each for two widths.
    assert "prefers-color-scheme: dark" in text


def test_every_chart_has_a_name_axes_units_and_tooltips(used: StateStore) -> None:
    text = render(collect(used, since=date.today() - timedelta(days=14)))
    for chart in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert re.search(r'role="img" aria-label="[a-zA-Z ]+"', chart)
        assert "<title>" in chart
        assert chart.count("<text") >= 7
    for unit in ("tokens", "US dollars", "percent", "seconds"):
        assert text.count(f'class="unit">{unit}<') == 2


def test_key_figures_come_with_the_change_against_the_time_before(sqlite_url: str) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with StateStore.open(sqlite_url) as store:
        store.sessions.create("s")
        for days, count in ((1, 3), (8, 2)):
            at = today - timedelta(days=days) + timedelta(hours=1)
            store.history.append("s", [NewEntry(n, role="user", created_at=at) for n in range(count)])
        text = render(collect(store, since=today.date() - timedelta(days=6)))
    assert "<span>turns</span><b>3</b><small>+50 %, before 2</small>" in text


@pytest.mark.parametrize("period", [{}, {"since": date(2020, 1, 1)}, {"since": date.today(), "tz": "Asia/Kolkata"}])
def test_a_page_of_nothing_and_of_any_period_can_be_made(sqlite_url: str, period: Any) -> None:
    with StateStore.open(sqlite_url) as store:
        assert "nothing in this period" in render(collect(store, **period))
        fill(store, days=3, users=2, each_day=2)
        Markup(render(collect(store, **period)))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (1234, "1.23k"), (999_960, "1M"), (45_600_000, "45.6M"), (0.25, "0.25")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert figures.short(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "\u2013"), (0, "$0.00"), (0.0000123, "$0.000012"), (0.5, "$0.50"), (1234.567, "$1,234.57")],
)
def test_money_keeps_its_first_digits(value: Any, text: str) -> None:
    assert figures.money(value) == text


@pytest.mark.parametrize("highest", [0, 0.0003, 1, 7, 99, 101, 2_500_001])
def test_an_axis_reaches_what_it_has_to_show(highest: float) -> None:
    ticks = figures.ticks(highest)
    assert ticks[0] == 0
    assert ticks[-1] >= highest
    assert 2 <= len(ticks) <= 7


@pytest.mark.skipif(not LONG, reason="the browser is part of the long run")
@pytest.mark.parametrize("empty", [False, True], ids=["used", "empty"])
def test_a_browser_shows_the_page_without_a_complaint(
    request: pytest.FixtureRequest, tmp_path: Path, empty: bool
) -> None:
    executable = chromium.find()
    assert executable is not None, "install chromium"
    request.getfixturevalue("sqlite_url" if empty else "used")
    url = request.getfixturevalue("sqlite_url")
    file = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["report", "--html", str(file), "--since", "14d", "--url", url])
    assert done.exit_code == 0, done.output
    with chromium.browser(executable, tmp_path / "profile") as page:
        page.open(f"file://{file}")
        for width in (1280, 390):
            for dark in (False, True):
                page.look(width=width, dark=dark)
                page.screenshot(tmp_path / f"{width}-{'dark' if dark else 'light'}.png")
                assert page.ask("document.documentElement.scrollWidth") <= width
                shown = page.ask(
                    "[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width).length"
                )
                assert shown == (0 if empty else 5)
                # Nothing is drawn smaller than it was made, so that text keeps its size.
                assert page.ask(
                    "[...document.querySelectorAll('svg')].every(s => {const w = s.getBoundingClientRect().width;"
                    " return !w || w > s.viewBox.baseVal.width * 0.9})"
                )
                ground = page.ask("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) is dark
        assert page.problems == []
        assert page.requests == []
