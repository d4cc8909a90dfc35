"""The page of `statestore report --html FILE.html`: what it holds. `test_browser` looks at it."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from html.parser import HTMLParser
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from statestore import NewEntry, StateStore, Usage
from statestore.reports import figures
from statestore.reports.page import collect, render
from tests.reports.data import fill

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
    assert len(charts(text)) == 10  # Five charts, each for two widths.
    assert "prefers-color-scheme: dark" in text


def charts(page: str) -> list[str]:
    return re.findall(r'<svg [^>]*role="img".*?</svg>', page, re.DOTALL)


def test_every_chart_has_a_name_axes_units_and_tooltips(used: StateStore) -> None:
    text = render(collect(used, since=date.today() - timedelta(days=14)))
    for chart in charts(text):
        title, description = re.findall(r'aria-labelledby="(\S+) (\S+)"', chart)[0]
        assert re.search(rf'<title id="{title}">[^<]+</title><desc id="{description}">[^<]+</desc>', chart)
        assert "<title>" in chart
        assert chart.count("<text") >= 7
        name = re.findall(r"<title id=[^>]*>([^<]+)", chart)[0]
        assert f"<summary>{name} as a table</summary>" in text
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
    assert "<dt>turns</dt><dd>3<small>+50\u00a0%, before 2</small>" in text


@pytest.mark.parametrize(
    ("days", "until", "before"),
    [
        (0, None, 1),
        (7, None, 1),
        (7, 0, 2),
        (7, 1, 1),
    ],
)
def test_the_time_before_is_as_long_as_the_period_has_lasted(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, days: int, until: int | None, before: int
) -> None:
    """It is six in the morning; an entry stands three hours before what came before should begin, and one three after.

    Where the period is over, both are in its first day.
    """
    today = date(2026, 3, 20)
    begin = today - timedelta(days=days)

    monkeypatch.setattr("statestore.reports.report_data.time_now", lambda: datetime(2026, 3, 20, 6, tzinfo=UTC))
    with StateStore.open(sqlite_url) as store:
        store.sessions.create("s")
        first = datetime.combine(begin, datetime.min.time(), UTC)
        first -= timedelta(days=days) if until == 0 else timedelta(days=days + 1)
        times = [first + timedelta(hours=hour) for hour in ((3, 9) if until == 0 else (15, 21))]
        store.history.append("s", [NewEntry(0, role="user", created_at=at) for at in times])
        found = collect(store, since=begin, until=None if until is None else today + timedelta(days=until))
    assert found.before is not None
    assert found.before.turns == before


def test_little_changes_are_none_and_shares_move_in_points(sqlite_url: str) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with StateStore.open(sqlite_url) as store:
        store.sessions.create("s")
        for days, cached in ((1, 45), (8, 40)):
            at = today - timedelta(days=days) + timedelta(hours=1)
            usage = Usage(input_tokens=100, output_tokens=1, cache_read_input_tokens=cached)
            store.history.append("s", [NewEntry(0, role="user", usage=usage, created_at=at)])
        text = render(collect(store, since=today.date() - timedelta(days=6)))
    assert "<dt>turns</dt><dd>1<small>unchanged</small>" in text
    assert "<dt>cached input</dt><dd>45.0 %<small>+5.0 points, before 40.0\u00a0%</small>" in text


@pytest.mark.parametrize(
    ("now", "before", "text"),
    [(1001, 1000, "unchanged"), (999, 1000, "unchanged"), (5, 0, ""), (None, 1, ""), (99, 100, "\u22121 %"),
     (30, 1, "30 times")],
)  # fmt: skip
def test_a_change_is_said_in_words(now: Any, before: Any, text: str) -> None:
    assert figures.change(now, before) == text


@pytest.mark.parametrize(("now", "before", "text"), [(0.5, 0.5003, "unchanged"), (0.1, 0.0, "+10.0 points")])
def test_a_change_of_a_share_is_said_in_points(now: float, before: float, text: str) -> None:
    assert figures.points(now, before) == text


def axis_texts(page: str, chart: str) -> list[tuple[float, str]]:
    """What stands at the left of a chart, with the place of its end."""
    svg = next(one for one in charts(page) if f">{chart}</title>" in one)
    found = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="end">([^<]*)<', svg)
    return [(float(x), text) for x, text in found]


@pytest.mark.parametrize("milliseconds", [0.02, 3, 700, 20_000])
def test_the_axis_of_latencies_tells_its_values_apart(sqlite_url: str, milliseconds: float) -> None:
    with StateStore.open(sqlite_url) as store:
        store.history.append("s", [NewEntry(0, duration=timedelta(milliseconds=milliseconds))], create=True)
        page = render(collect(store))
    texts = [text for _, text in axis_texts(page, "latency by hour")]
    assert len(set(texts)) == len(texts) >= 3
    assert texts[0] == "0"
    assert f'class="unit">{"milliseconds" if milliseconds < 1000 else "seconds"}<' in page
    if milliseconds == 3:
        assert texts == ["0", "1", "2", "3"]


@pytest.mark.parametrize("cost", [0.0000013, 0.0007, 12_345_678])
def test_no_label_of_an_axis_begins_before_the_chart(sqlite_url: str, cost: float) -> None:
    with StateStore.open(sqlite_url) as store:
        usage = Usage(input_tokens=1, output_tokens=1)
        store.history.append("s", [NewEntry(0, usage=usage, response_model="m", cost_usd=cost)], create=True)
        page = render(collect(store))
    texts = axis_texts(page, "US dollars by hour and model")
    assert len({text for _, text in texts}) == len(texts)
    assert all(x >= 6.5 * len(text) for x, text in texts)


def test_dates_of_more_than_a_year_are_told_apart(sqlite_url: str) -> None:
    with StateStore.open(sqlite_url) as store:
        for at in (datetime(2023, 3, 1, tzinfo=UTC), datetime(2025, 3, 1, tzinfo=UTC)):
            usage = Usage(input_tokens=1, output_tokens=1)
            entry = NewEntry(0, usage=usage, response_model="m", created_at=at)
            store.history.append("s", [entry], create=True)
        short = render(collect(store, since=date(2023, 2, 1), until=date(2023, 4, 1)))
        long = render(collect(store, until=date(2025, 4, 1)))
    assert re.search(r">Mar \d\d</text>", short)
    assert re.search(r">[A-Z][a-z]{2} 2023</text>.*>[A-Z][a-z]{2} 2025</text>|>[A-Z][a-z]{2} 2025</text>", long)
    assert not re.search(r">[A-Z][a-z]{2} \d{1,2}</text>", long)


def test_what_is_overdue_says_by_how_much(sqlite_url: str) -> None:
    with StateStore.open(sqlite_url) as store:
        store.sessions.create("s", ttl=timedelta(microseconds=1))
        page = render(collect(store))
    assert '<th scope="col">oldest overdue by</th>' in page
    assert page.count('<div class="figure">') == 12
    assert "<dt>median tool latency</dt>" in page


@pytest.mark.parametrize(
    "period",
    [{}, {"since": date(2020, 1, 1)}, {"since": date.today(), "tz": "Asia/Kolkata"},
     {"since": date.min}, {"until": date.min}, {"since": date.min, "until": date.max},
     {"since": date.max}, {"since": date.min, "until": date.min, "tz": "America/New_York"},
     {"since": datetime.min.replace(tzinfo=UTC), "until": datetime.max.replace(tzinfo=UTC), "tz": "Asia/Tokyo"},
     {"until": datetime.min.replace(tzinfo=UTC), "tz": "America/New_York"}],
)  # fmt: skip
def test_a_page_of_nothing_and_of_any_period_can_be_made(sqlite_url: str, period: Any) -> None:
    with StateStore.open(sqlite_url) as store:
        empty = render(collect(store, **period))
        assert "nothing in this period" in empty
        assert len(empty) < 50_000
        fill(store, days=3, users=2, each_day=2)
        text = render(collect(store, **period))
    Markup(text)
    assert len(text) < 400_000


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


def used_at(store: StateStore, *times: datetime) -> None:
    usage = Usage(input_tokens=1000, output_tokens=10, cache_read_input_tokens=900)
    for at in times:
        entry = NewEntry(0, usage=usage, response_model="m", cost_usd=1, created_at=at, duration=timedelta(seconds=1))
        store.history.append("s", [entry], create=True)


def test_the_default_period_is_the_one_that_holds_the_data(database_url: str) -> None:
    long_ago = datetime(2024, 2, 1, 13, 20, tzinfo=UTC)
    with StateStore.open(database_url) as store:
        used_at(store, long_ago, long_ago + timedelta(days=2))
        found = collect(store)
        assert (found.first, found.last) == (date(2024, 2, 1), date(2024, 2, 3))
        assert (found.bins.unit, found.bins.count) == ("hour", 72)
        assert [row.bar for row in sorted(found.spent, key=lambda row: row.bar)] == [13, 61]
        assert sorted(found.latencies) == [(13, "model"), (61, "model")]
        assert found.latencies[13, "model"].median == 1000
        page = render(found)
    assert "2024-02-01 to 2024-02-03" in page
    assert "Tokens by hour" in page
    assert ">cached input</li>" in page
    assert ">other input</li>" in page


@pytest.mark.parametrize(
    ("days", "unit"), [(1, "hour"), (4, "hour"), (5, "day"), (92, "day"), (93, "week"), (742, "week"), (743, "month")]
)
def test_bars_are_hours_days_weeks_or_months_by_the_length_of_the_period(
    database_url: str, days: int, unit: str
) -> None:
    start = datetime(2024, 2, 1, 12, tzinfo=UTC)
    times = [start, start + timedelta(days=days // 2), start + timedelta(days=days - 1)]
    with StateStore.open(database_url) as store:
        used_at(store, *times)
        found = collect(store)
    assert found.bins.unit == unit
    assert found.bins.count <= 120
    assert sum(row.cost_usd or 0 for row in found.spent) == 3
    bars = {sum(start <= at for start in found.bins.starts) - 1 for at in times}
    assert {row.bar for row in found.spent} == {bar for bar, _ in found.latencies} == bars


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 5, 1), 24)])
def test_a_day_on_which_the_clocks_change_has_as_many_bars_as_hours(database_url: str, day: date, hours: int) -> None:
    zone = ZoneInfo("Europe/Berlin")
    last = datetime.combine(day, time(23, 50), zone)
    with StateStore.open(database_url) as store:
        used_at(store, datetime.combine(day, time(0, 10), zone), last)
        found = collect(store, tz="Europe/Berlin")
    assert (found.first, found.last, found.bins.count) == (day, day, hours)
    assert sorted(row.bar for row in found.spent) == [0, hours - 1]
    assert found.bins.label(hours - 1) == "23:00"


def test_latencies_of_models_and_of_tools_are_told_apart(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        store.history.append(
            "s",
            [
                NewEntry({"role": "user", "content": "Hi"}),
                # What a model takes to call a tool is not the tool's own time.
                *(
                    NewEntry(0, role="assistant", usage=Usage(input_tokens=1, output_tokens=1), response_model="m",
                             tool_name="search", duration=timedelta(seconds=seconds))
                    for seconds in (10, 20, 30)
                ),
                *(NewEntry(0, role="tool", tool_name="search", tool_call_id="c", duration=timedelta(milliseconds=took),
                           error_type="boom" if took > 150 else None)
                  for took in (100, 200)),
            ],
            create=True,
        )  # fmt: skip
        found = collect(store)
        page = render(found)
    assert found.all_latencies["model"].median == 20_000
    assert found.all_latencies["tool"].median == 100
    assert found.tool_latencies["search"].count == 2
    assert found.tool_latencies["search"].high == 200
    assert "<dt>median model latency</dt><dd>20 s" in page
    assert "<dt>median tool latency</dt><dd>100 ms" in page


def test_usage_without_a_price_is_said_with_its_models(sqlite_url: str) -> None:
    with StateStore.open(sqlite_url) as store:
        usage = Usage(input_tokens=1, output_tokens=1)
        store.history.append("s", [NewEntry(0, usage=usage, response_model=NASTY)], create=True)
        page = render(collect(store))
    assert "1 of 1 model calls has no price" in page
    assert "&lt;script&gt;alert(1)" in page


def test_sessions_are_named_by_title_prompt_and_project(database_url: str) -> None:
    prompt = {"role": "user", "content": [{"type": "text", "text": "Why is  the\nbuild red?"}]}
    with StateStore.open(database_url) as store:
        store.sessions.create("0b0d7e2c-titled", title="Red build", project_root="/home/ada/src/shop")
        store.sessions.create("0b0d7e2c-prompted")
        store.sessions.create("0b0d7e2c-gone")
        for name in ("0b0d7e2c-titled", "0b0d7e2c-prompted", "0b0d7e2c-gone"):
            usage = Usage(input_tokens=1, output_tokens=1)
            store.history.append(name, [prompt, NewEntry(0, usage=usage, cost_usd=1)])
        store.sessions.delete("0b0d7e2c-gone")
        page = render(collect(store))
    assert '>Red build<span class="sub">“Why is the build red?”</span><span class="sub">src/shop' in page
    assert '>Why is the build red?<span class="sub">0b0d7e2c-prompted</span>' in page
    assert '0b0d7e2c-gone <span class="tag plain">no longer there</span>' in page
