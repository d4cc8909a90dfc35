"""The pages in a real browser, on a desk and on a phone, light and dark: nothing is fetched, all can be read.

Skipped where there is no Chromium.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from statestore import NewEntry, StateStore
from statestore.reports.browse import write_folder
from statestore.reports.page import collect, render
from tests.reports import conversations
from tests.reports.data import fill
from tests.reports.test_page import NASTY
from tests.support import chromium

EXECUTABLE = chromium.find()
pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="there is no chromium: apt-get install chromium")

PAGES = {
    "overview": "index.html",
    "list": "sessions.html",
    "conversation": f"conversations/0194f700-5b1c-7c3a-9d0e-3f{0:010x}.html",
    "fork": "conversations/fork-of-the-import.html",
    "long words": "conversations/long-words.html",
    "page": "../page.html",
    "empty": "../empty/index.html",
}

# The texts that are shown, with less contrast than WCAG's level AA asks for: 4.5, or 3 for large ones.
PALE = """
(() => {
  const numbers = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = numbers(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const pale = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility() || ["title", "desc"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(numbers(colour)), light(ground(element))].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.7 && style.fontWeight >= 700);
    if ((a + 0.05) / (b + 0.05) < (large ? 3 : 4.5)) pale.push(`${element.tagName}.${element.className}: ${node.data}`);
  }
  return pale;
})()
"""
# What is wider than the page. What is folded shows a line of its content, which is cut by design.
WIDE = """
[...document.querySelectorAll('main *')].filter((e) => e.checkVisibility() && !e.closest('svg, .scroll, summary')
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map((e) => e.outerHTML.slice(0, 80))
"""
# Elements that screen readers need a name for, and tables without headings.
NAMELESS = """
[...document.querySelectorAll('svg[role=img]')].filter((e) =>
    !e.getAttribute('aria-labelledby').split(' ').every((id) => document.getElementById(id)?.textContent))
  .concat([...document.querySelectorAll('table')].filter((e) => !e.querySelector('thead th[scope=col]')
    || [...e.querySelectorAll('tbody tr')].some((row) => !row.querySelector('th[scope=row]'))))
  .concat([...document.querySelectorAll('a, summary')].filter((e) => !e.textContent.trim()))
  .concat([...document.querySelectorAll('nav')].filter((e) => !e.getAttribute('aria-label')))
  .map((e) => e.outerHTML.slice(0, 80))
"""
TWICE = """
(() => { const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
  return ids.filter((id, index) => ids.indexOf(id) !== index); })()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pages, one page by itself, and a folder of a store that has nothing."""
    home = tmp_path_factory.mktemp("pages")
    with StateStore.open(f"sqlite:///{home / 'store.db'}", durability="normal") as store:
        conversations.fill(store)
        long = "w" * 400
        store.sessions.create("long-words", title=long, user_id=long, agent_name=long, project_root=f"/{long}/{long}")
        store.history.append(
            "long-words",
            [
                {"role": "user", "content": f"{long} {NASTY}"},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "c", "name": long, "input": {long: long}}],
                },
                NewEntry({"role": "tool", "tool_call_id": "c", "content": long}, error_type=long),
                NewEntry([1, {long: long}], role=long, request_model=long),
            ],
        )
        store.cache.set("k", 1)
        store.cache.get("k")
        store.cache.flush()
        write_folder(store, home / "report")
        fill(store, days=30, users=20, each_day=8, start=datetime.now(UTC) - timedelta(days=30))
        (home / "page.html").write_text(render(collect(store, since=datetime.now(UTC).date() - timedelta(days=14))))
    with StateStore.open(f"sqlite:///{home / 'empty.db'}") as store:
        write_folder(store, home / "empty")
    return home / "report"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    assert EXECUTABLE is not None
    with chromium.browser(EXECUTABLE, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_at_any_width_light_and_dark(window: Any, folder: Path, name: str) -> None:
    window.open(f"file://{(folder / PAGES[name]).resolve()}")
    for width in (1280, 390):
        for dark in (False, True):
            window.look(width=width, dark=dark)
            for opened in (False, True):
                window.ask(
                    f"document.querySelectorAll('details').forEach((e) => {{ e.open = {str(opened).lower()}; }})"
                )
                said = f"{name} at {width}, {'dark' if dark else 'light'}"
                assert window.ask("document.documentElement.scrollWidth") <= width, said
                assert window.ask(WIDE) == [], said
                assert window.ask(PALE) == [], said
            ground = window.ask("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, ground[4:-1].split(", "))) < 200) is dark
            # Charts are drawn for their width, so that their text keeps its size.
            assert window.ask(
                "[...document.querySelectorAll('svg[role=img]')].every((e) => {"
                " const w = e.getBoundingClientRect().width; return !w || w > e.viewBox.baseVal.width * 0.9})"
            )
    assert window.ask(NAMELESS) == []
    assert window.ask(TWICE) == []
    for landmark in ("main", "footer", "h1"):
        assert window.ask(f"document.querySelectorAll('{landmark}').length") == 1
    assert window.problems == []
    assert window.requests == []


def test_what_is_folded_opens_by_the_keyboard_and_shows_where_the_focus_is(window: Any, folder: Path) -> None:
    window.open(f"file://{folder / PAGES['conversation']}")
    window.look(width=1280, dark=False)
    window.key("Tab")
    assert window.ask("document.activeElement.textContent") == "Skip to the content"
    for _ in range(40):
        if window.ask("document.activeElement.tagName") == "SUMMARY":
            break
        window.key("Tab")
    assert window.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert not window.ask("document.activeElement.parentElement.open")
    window.key("Enter")
    assert window.ask("document.activeElement.parentElement.open")


def test_one_can_click_through_the_folder(window: Any, folder: Path) -> None:
    window.open(f"file://{folder / 'index.html'}")
    for selector, title in (
        ("nav a[href='sessions.html']", "Sessions"),
        (f"a[href$='3f{0:010x}.html']", "The nightly import fails"),
        ("a[href^='fork-of-the-import']", "Try it without the lock"),
        (".facts a", "The nightly import fails"),
    ):
        window.click(selector)
        assert window.ask("document.querySelector('h1').textContent").startswith(title)
    # The fork leads to the entry after which it branched off, a result that is folded into its call.
    assert window.ask("location.hash") == "#e7"
    assert window.ask("document.querySelector(':target').checkVisibility()")
    assert window.problems == []
