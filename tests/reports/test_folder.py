"""`statestore report --html DIR`: pages to browse, what they say, and how the folder comes into its place."""

import os
import re
import signal
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from statestore import InvalidValueError, NewEntry, NewSession, StateStore, Usage
from statestore.reports import browse, names, staging
from statestore.reports.browse import write_folder
from statestore.reports.queries import PageQueries
from tests.reports import conversations
from tests.reports.test_page import NASTY, Markup
from tests.support.command_line import invoke
from tests.support.warm import programs

FIRST = f"0194f700-5b1c-7c3a-9d0e-3f{0:010x}"
IDS = ["../../etc/passwd", "..", "CON", "a/b\\c", "Ärger", "ärger", "x" * 512, "UPPER-case-id", "upper-case-id",
       "a.b.c", "index", "-rf", "%2e%2e%2f", "two\nlines", NASTY, "\u202eevil", "0194f700.2", "'\"><img src=x>", "~",
       "a b", "javascript:alert(1)"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "report"


def pages(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*.html"))}


def links(name: str, text: str) -> Iterator[tuple[str, str]]:
    """The files and the places in them that a page leads to."""
    for address in re.findall(r'<a [^>]*href="([^"]*)"', text):
        file, _, anchor = unescape(address).partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(name), unquote(file))) if file else name
        yield target, anchor


def check_links(found: dict[str, str]) -> set[str]:
    """Every link leads to a page of the folder, and to a place that it has. Gives what the overview leads to."""
    for name, text in found.items():
        for target, anchor in links(name, text):
            assert target in found, f"{name} leads to {target}"
            assert not anchor or f'id="{anchor}"' in found[target], f"{name} leads to {target}#{anchor}"
    seen, new = set(), {"index.html"}
    while new:
        seen |= new
        new = {target for name in new for target, _ in links(name, found[name])} - seen
    return seen


def test_a_folder_has_an_overview_lists_and_a_page_for_each_session(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        conversations.fill(store)
        written = write_folder(store, folder)
    found = pages(folder)
    assert written.sessions == 14
    assert written.pages == len(found) == 16
    assert check_links(found) == set(found)
    for name, text in found.items():
        assert Markup(text).problems == [], name
        assert text.count("<h1>") == text.count("<main") == 1
        assert "<script" not in text
        assert not re.search(r"https?://|@import|url\(|\sstyle=|\son\w+=", text)
        assert "default-src 'none'" in text
    assert "Incidents for Monday" in found["sessions.html"]
    assert "sub-agent" not in found["sessions.html"]  # It is on the page of what it belongs to.


def test_only_their_owner_can_read_the_pages(sqlite_url: str, folder: Path) -> None:
    with StateStore.open(sqlite_url) as store:
        conversations.fill(store, sessions=1)
        write_folder(store, folder)
    for path in (folder, *folder.rglob("*")):
        if path.name != staging.MARK:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_forks_and_parts_lead_to_where_they_came_from_and_back(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        conversations.fill(store)
        write_folder(store, folder)
    home = folder / "conversations"
    fork, part = names.file_name("fork-of-the-import"), names.file_name("sub-agent-of-the-import")
    source = (home / f"{FIRST}.html").read_text()
    # Where it branches off: behind the seventh entry, a tool's result, and before the eighth.
    assert source.index('id="e7"') < source.index(f'Forked here: <a href="{fork}"') < source.index('id="e8"')
    assert f'href="{part}"' in source
    text = (home / fork).read_text()
    assert f'href="{FIRST}.html#e7"' in text
    assert "after entry 7" in text
    assert "7 entries shared with “The nightly import" in text
    assert text.index('<details class="shared"') < text.index('id="e1"') < text.index('id="e8"')
    assert "Try it without the lock" in text
    assert f'href="{FIRST}.html"' in (home / part).read_text()


def test_turns_say_what_they_used_and_tools_are_folded(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        conversations.fill(store, sessions=1)
        write_folder(store, folder)
    text = (folder / "conversations" / f"{FIRST}.html").read_text()
    turns = re.findall(r'<section class="turn"><h2>(.*?)</h2>', text)
    assert turns[0] == ("Turn 1<span>9.3k in (4.7k cached), 600 out</span><span>$0.042</span><span>7.8 s</span>")
    assert turns[2].endswith("<span>2 unpriced</span><span>8.0 s</span>")
    calls = re.findall(r'<details class="tool" id="e(\d+)">.*?</details>', text, re.DOTALL)
    assert calls == ["3", "7", "11"]  # With their results, which are not shown once more.
    assert text.count("def nightly(): …") == 2
    assert '<b>run_tests</b> <span class="tag bad">failed</span>' in text
    assert "<details open" not in text
    for what in ("Instructions", "Summary of 1 to 4", "Thinking", "/home/ada/src/shop/importer"):
        assert what in text


def test_hostile_names_stay_text_and_every_page_stays_in_the_folder(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        for name in IDS:
            store.sessions.create(
                name, title=NASTY, user_id=NASTY, agent_name=NASTY, project_root=NASTY, instructions=NASTY,
                metadata={NASTY: NASTY},
            )  # fmt: skip
            store.history.append(
                name,
                [
                    NewEntry({"role": "user", "content": f"{NASTY}\u202e\x1b[31m"}),
                    NewEntry({"role": "assistant", "content": None, "tool_calls": [
                        {"id": NASTY, "function": {"name": NASTY, "arguments": NASTY}}]}, request_model=NASTY),
                    NewEntry({"role": "tool", "tool_call_id": NASTY, "content": NASTY}, error_type=NASTY),
                    NewEntry({"role": NASTY, "content": [{"type": NASTY, NASTY: NASTY}]}),
                    NewEntry({"role": "assistant", "content": [{"type": "thinking", "thinking": NASTY}]}),
                ],
            )  # fmt: skip
            store.sessions.fork(name, f"{name[:500]} fork")
            store.history.append(f"{name[:400]} part", [{"role": "user", "content": NASTY}],
                                 create=NewSession(belongs_to=name, agent_name=NASTY))  # fmt: skip
            store.history.add_summary(name, NASTY, start_seq=1, end_seq=1)
        written = write_folder(store, folder)
    found = pages(folder)
    assert written.sessions == 3 * len(IDS)
    assert len(found) == 3 * len(IDS) + 2
    assert len({name.lower() for name in found}) == len(found)
    assert check_links(found) == set(found)
    for name, text in found.items():
        assert re.fullmatch(r"[a-z0-9_~./-]{1,120}", name)
        assert NASTY not in text
        assert Markup(text).problems == []
        assert not {"script", "img", "iframe", "object"} & set(Markup(text).tags)
        assert not re.search("[\u202e\x1b]", text)
    assert sorted(path.name for path in folder.parent.iterdir() if path.name.startswith((".", "report"))) == ["report"]


def test_a_hundred_sessions_take_as_many_statements_as_one(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        calls: list[Counter[str]] = []
        for count in (1, 99):
            for number in range(count):
                store.history.append(f"{count}-{number}", [{"role": "user", "content": "Hi"}], create=True)
            names_of: Counter[str] = Counter()
            stop = store.on_operation(lambda done, seen=names_of: seen.update([done.name]))  # type: ignore[misc]
            write_folder(store, folder, replace=True)
            stop()
            calls.append(names_of)
        assert calls[0] == calls[1]
        assert calls[0]["reports.entries"] == 1


def test_lists_have_a_hundred_sessions_each_and_lead_to_one_another(
    sqlite_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "SESSIONS_AT_ONCE", 5)
    with StateStore.open(sqlite_url) as store:
        for number in range(10):
            store.sessions.create(f"session-{number:03}")
            store.sessions.create(f"part-of-{number:03}", belongs_to=f"session-{number:03}")
        seen: list[int] = []
        write_folder(store, folder, expect=seen.append, progress=seen.append)
    assert seen == [20, 5, 5, 5, 5]
    found = pages(folder)
    assert check_links(found) == set(found)
    lists = [found["sessions.html"], found["sessions-2.html"]]
    assert "sessions-3.html" not in found
    listed = [re.findall(r'href="conversations/(session-\d+)', text) for text in lists]
    assert [name for names_of in listed for name in names_of] == [f"session-{9 - number:03}" for number in range(10)]


def test_a_long_conversation_has_several_pages_and_links_lead_to_the_right_one(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        entries = [NewEntry({"role": "user", "content": f"entry {number}"}) for number in range(1, 701)]
        store.history.append("long-conversation", entries, create=True)
        store.history.trim("long-conversation", keep_last=650)
        store.sessions.fork("long-conversation", "fork-of-the-long", at_seq=400)
        store.history.append("fork-of-the-long", [{"role": "user", "content": "on"}])
        write_folder(store, folder)
    found = pages(folder)
    assert check_links(found) == set(found)
    home = "conversations/long-conversation"
    for page, (first, last) in {"": (51, 350), ".2": (351, 650), ".3": (651, 700)}.items():
        shown = [int(seq) for seq in re.findall(r'id="e(\d+)"', found[f"{home}{page}.html"])]
        assert shown == list(range(first, last + 1))
    assert 'href="long-conversation.2.html#e400"' in found["conversations/fork-of-the-long.html"]
    # What the fork has of its own comes behind what it shares, on the page where that ends.
    assert [int(seq) for seq in re.findall(r'id="e(\d+)"', found["conversations/fork-of-the-long.2.html"])] == [
        *range(351, 402)
    ]


def test_large_contents_are_cut(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        store.history.append(
            "large-contents",
            [
                {"role": "user", "content": "Ü" * 3_000_000},
                {"role": "assistant", "content": "short of the limit " * 2000},
                {"role": "tool", "tool_call_id": "c", "content": "x" * 200_000},
            ],
            create=True,
        )
        write_folder(store, folder)
    text = (folder / "conversations" / "large-contents.html").read_text()
    assert len(text) < 120_000
    assert "ÜÜÜ" in text
    assert "Too large to be shown in full" in text
    assert "… and 18,000 more characters" in text
    assert "Result of a tool" in text


def test_a_report_extends_no_ttl_and_writes_nothing(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        store.history.append("short", [{"role": "user", "content": "Hi"}], create=NewSession(ttl=timedelta(hours=1)))
        later = datetime.now(UTC) + timedelta(minutes=50)
    with StateStore.open(database_url, clock=lambda: later) as store:
        before = store.sessions.page().sessions
        write_folder(store, folder)
        assert store.sessions.page().sessions == before
        assert (folder / "conversations").is_dir()


def test_a_period_leaves_out_sessions_and_links_to_them(database_url: str, folder: Path) -> None:
    now = datetime.now(UTC)
    with StateStore.open(database_url, clock=lambda: now - timedelta(days=9)) as store:
        store.history.append("source-of-long-ago", [{"role": "user", "content": "Then"}], create=True)
        store.history.append("another-of-long-ago", [{"role": "user", "content": "Then"}], create=True)
    with StateStore.open(database_url) as store:
        store.sessions.fork("source-of-long-ago", "fork-of-today")
        store.history.append("fork-of-today", [{"role": "user", "content": "Now"}])
        write_folder(store, folder, since=now - timedelta(days=2))
        found = pages(folder)
        assert check_links(found) == set(found)
        assert sorted(found) == ["conversations/fork-of-today.html", "index.html", "sessions.html"]
        assert "Then, outside this period" in found["conversations/fork-of-today.html"]
        write_folder(store, folder, until=now - timedelta(days=2), replace=True)
    found = pages(folder)
    assert check_links(found) == set(found)
    assert len(found) == 4
    assert "Now, outside this period" in found["conversations/source-of-long-ago.html"]


def test_the_state_of_a_session_is_on_its_page_folded_and_bounded(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        store.sessions.create("s")
        store.sessions.create("without")
        store.state.set("s", NASTY, {"said": NASTY})
        store.state.set("s", "a large one", "x" * 100_000)
        store.state.set("s", "big number", 2**70)
        store.state.set("s", "long gone", "no longer here", ttl=timedelta(microseconds=1))
        store.state.set_many("s", {f"key {number:03}": number for number in range(70)})
        write_folder(store, folder)
    found = pages(folder)
    text = found[f"conversations/{names.file_name('s')}"]
    assert Markup(text).problems == []
    assert '<details class="tool"><summary><b>State, 73 keys</b></summary>' in text
    assert "and 23 more keys" in text
    assert len(text) < 60_000
    assert "long gone" not in text
    assert str(2**70) in text
    assert "a large one" in text
    assert text.count("x" * 1_900) == 1
    assert "Too large to be shown in full." in text
    assert "State" not in found[f"conversations/{names.file_name('without')}"].partition("<main")[2]
    assert check_links(found) == set(found)


def test_a_report_of_a_user_has_that_user_alone(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        conversations.fill(store)
        source = store.sessions.get(FIRST)
        assert source.user_id == "ada"
        store.sessions.create("of-grace", user_id="grace", title="The secret of Grace")
        store.history.append("of-grace", [{"role": "user", "content": "mine alone"}])
        store.sessions.fork("of-grace", "taken-over", at_seq=1)
        store.sessions.update("taken-over", user_id="ada", title="Taken over")
        ada = store.usage.totals(user_id="ada")
        mine = {s.session_id for s in store.sessions.page(user_id="ada", include_parts=True, limit=100).sessions}
        written = write_folder(store, folder, user_id="ada")
    found = pages(folder)
    assert written.sessions == len(mine)
    assert {names.file_name(one) for one in mine} == {name.split("/")[1] for name in found if "/" in name}
    assert check_links(found) == set(found)
    overview = found["index.html"]
    assert "<h1>Usage of default, user ada</h1>" in overview
    assert f"<dt>model calls</dt><dd>{ada.model_calls}<" in overview
    for panel in ("What is stored now", "What is due to be deleted", "Result cache"):
        assert panel not in overview
    assert "The secret of Grace" not in "".join(found.values())
    assert "of-grace, not of this user" in found[f"conversations/{names.file_name('taken-over')}"]
    for name in ("grace", "linus"):
        assert f">{name}<" not in overview


@pytest.mark.parametrize("html", ["folder", "page.html"])
def test_the_command_writes_the_report_of_a_user(html: str, sqlite_url: str, tmp_path: Path) -> None:
    with StateStore.open(sqlite_url) as store:
        conversations.fill(store)
    target = tmp_path / html
    done = invoke("report", "--html", str(target), "--user", "ada", env={"STATESTORE_URL": sqlite_url})
    assert done.exit_code == 0, done.output
    page = target / "index.html" if html == "folder" else target
    assert "<h1>Usage of default, user ada</h1>" in page.read_text()
    done = invoke("report", "--html", str(target), "--user", "", "--replace", env={"STATESTORE_URL": sqlite_url})
    assert done.exit_code == 1
    assert "--user: " in done.stderr
    done = invoke("report", "--html", str(target), "--agent", "coder", env={"STATESTORE_URL": sqlite_url})
    assert "--html takes --since, --until, --tz and --user only." in done.stderr


def test_an_empty_store_has_a_folder_too(database_url: str, folder: Path) -> None:
    with StateStore.open(database_url) as store:
        write_folder(store, folder, tz="Europe/Berlin")
    found = pages(folder)
    assert check_links(found) == {"index.html", "sessions.html"}
    assert "no sessions in this period" in found["sessions.html"]


# The folder itself.


def test_the_command_writes_a_folder_and_refuses_what_is_not_its_own(sqlite_url: str, tmp_path: Path) -> None:
    with StateStore.open(sqlite_url) as store:
        conversations.fill(store, sessions=2)

    def report(path: Path, *options: str) -> Any:
        return invoke("report", "--html", str(path), *options, "--url", sqlite_url)

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("mine")
    done = report(mine, "--replace")
    assert done.exit_code == 1
    assert "has files that are not a report of statestore" in done.stderr
    assert [file.name for file in mine.iterdir()] == ["index.html"]
    assert (mine / "index.html").read_text() == "mine"

    empty = tmp_path / "empty"
    empty.mkdir()
    assert report(empty).exit_code == 0
    assert (empty / "index.html").exists()
    again = report(empty)
    assert again.exit_code == 1
    assert "overwrite it with --replace" in again.stderr
    assert report(empty, "--replace").exit_code == 0

    link = tmp_path / "link"
    link.symlink_to(empty)
    assert "is a link" in report(link, "--replace").stderr
    assert "is not a folder; make it first" in report(tmp_path / "no" / "such").stderr
    assert "--since, --until, --tz and --user only" in report(tmp_path / "x", "--agent", "ada").stderr
    wrote = report(tmp_path / "new")
    assert wrote.stderr == f"wrote {tmp_path}/new/index.html: 4 sessions, 6 pages\n"
    assert wrote.stdout == ""
    hidden = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert hidden == []


def test_a_name_that_ends_in_html_is_one_page(sqlite_url: str, tmp_path: Path) -> None:
    for name in ("page.html", "PAGE.HTM"):
        assert invoke("report", "--html", str(tmp_path / name), "--url", sqlite_url).exit_code == 0
        assert (tmp_path / name).read_text().startswith("<!doctype html>")
    (tmp_path / "folder.html").mkdir()
    done = invoke("report", "--html", str(tmp_path / "folder.html"), "--url", sqlite_url)
    assert done.exit_code == 1
    assert "is a folder" in done.stderr


def test_a_run_that_fails_leaves_the_old_report(sqlite_url: str, folder: Path) -> None:
    with StateStore.open(sqlite_url) as store:
        conversations.fill(store, sessions=2)
        write_folder(store, folder)
        before = pages(folder)

        def fail(sessions: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_folder(store, folder, replace=True, progress=fail)
    assert pages(folder) == before
    assert list(folder.parent.glob(".report*")) == []


def test_two_cannot_write_the_same_report_at_once(sqlite_url: str, folder: Path) -> None:
    with StateStore.open(sqlite_url) as store:
        conversations.fill(store, sessions=1)

        def again(sessions: int) -> None:
            with pytest.raises(InvalidValueError, match="another process is writing"):
                write_folder(store, folder)

        write_folder(store, folder, progress=again)
    assert (folder / "index.html").exists()


KILLED = """
import os, signal, sys
from statestore import StateStore
from statestore.reports import browse, staging
if sys.argv[3] == "writing":
    def stop(sessions): os.kill(os.getpid(), signal.SIGKILL)
else:
    stop = lambda sessions: None
    rename = os.rename
    def moved(source, target):
        rename(source, target)
        os.kill(os.getpid(), signal.SIGKILL)
    os.rename = moved
with StateStore.open(sys.argv[1]) as store:
    browse.write_folder(store, sys.argv[2], replace=True, progress=stop)
"""


@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_a_run_that_was_killed_is_made_good_by_the_next(database_url: str, folder: Path, when: str) -> None:
    with StateStore.open(database_url) as store:
        conversations.fill(store, sessions=3)
        write_folder(store, folder)
        before = pages(folder)
        killed = subprocess.run([programs() / "python", "-c", KILLED, database_url, str(folder), when], check=False)
        assert killed.returncode == -signal.SIGKILL
        if when == "writing":
            assert pages(folder) == before
            assert (folder.parent / ".report.part").is_dir()
        else:
            assert not folder.exists()
            # The old one is there still, and comes back even if the next run fails.
            with pytest.raises(ZeroDivisionError):
                write_folder(store, folder, replace=True, expect=lambda sessions: 1 // 0 and None)
            assert pages(folder) == before
        store.sessions.create("one-more-session")
        write_folder(store, folder, replace=True)
    assert "conversations/one-more-session.html" in pages(folder)
    assert sorted(path.name for path in folder.parent.glob(".report*")) == []


def test_what_is_in_the_way_and_not_ours_is_left_alone(sqlite_url: str, folder: Path) -> None:
    for name in (".report.part", ".report.replaced"):
        other = folder.with_name(name)
        other.mkdir()
        (other / "precious").write_text("mine")
        with StateStore.open(sqlite_url) as store, pytest.raises(InvalidValueError, match="was not made by statestore"):
            write_folder(store, folder)
        assert (other / "precious").exists()
        assert not folder.exists()
        (other / "precious").unlink()
        other.rmdir()


def test_names_of_files_differ_in_more_than_the_case_of_letters() -> None:
    found = [names.file_name(name) for name in [*IDS, "0194f700-5b1c", "0194F700-5b1c"]]
    assert len({name.lower() for name in found}) == len(found)
    assert names.file_name("0194f700-5b1c", 2) == "0194f700-5b1c.2.html"


def test_what_a_session_was_billed_is_what_the_report_by_session_says(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        conversations.fill(store)
        store.history.trim(FIRST, keep_last=5)
        store.sessions.fork(FIRST, "another-fork")
        store.history.clear(FIRST)
        usage = Usage(input_tokens=5, output_tokens=1)
        store.usage.record(record_id="r", usage=usage, session_id=FIRST, user_id="ada", tool_name="t")
        store.history.append(FIRST, [NewEntry(1, tool_name="x"), NewEntry(1, role="tool", tool_name="x")])
        rows = {row.session_id: row for row in store.usage.by_session()}
        with store.transaction(read_only=True) as tx:
            billed = PageQueries.of(tx).billed([*rows, "another-fork"])
        assert billed.keys() == rows.keys()
        for name, found in billed.items():
            for field in fields(found):
                expected = getattr(rows[name], field.name)
                if field.name == "cost_usd":
                    assert found.cost_usd == (None if expected is None else pytest.approx(float(expected)))
                else:
                    assert getattr(found, field.name) == expected, field.name
