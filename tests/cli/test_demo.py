import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from statestore import StateStore
from tests.cli.conftest import CHECKOUT, CommandLine
from tests.support.trajectories import count_messages
from tests.support.warm import programs


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The demonstration as it was told once, with settings around that are none of its business."""
    path = tmp_path_factory.mktemp("story") / "it's a demo.db"
    elsewhere = {"STATESTORE_URL": "postgresql://nobody@127.0.0.1:1/none", "STATESTORE_PROFILE": "none"}
    done = subprocess.run(
        [programs() / "statestore", "demo", "--path", path],
        env={**os.environ, **elsewhere},
        capture_output=True,
        text=True,
        check=False,
    )
    return path, done


def test_the_story_says_what_the_database_holds(story: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    path, done = story
    assert (done.returncode, done.stderr) == (0, "")
    with StateStore.open(path) as store:
        source, fork = store.history.read("lake-trip"), store.history.read("lake-trip-by-train")
        chat, run = store.history.read("team-chat"), store.history.read("night-run")
        counted = store.state.get("team-chat", "messages")
    assert [entry.content for entry in fork[:4]] == [entry.content for entry in source[:4]]
    assert fork[-1].content["content"] in done.stdout
    # Four processes have written at once, and nothing of it is lost.
    assert len(chat) == counted == 160
    assert f"{len(chat)} entries in " in done.stdout
    assert [entry.seq for entry in chat] == list(range(1, 161))
    # One was killed in the middle, and another went on where it was.
    assert [entry.tool_call_id for entry in run if entry.role == "tool"] == [f"call_{n}" for n in range(1, 13)]
    [kept] = re.findall(r"exit code -9; (\d+) steps are in the store", done.stdout)
    assert 5 <= int(kept) < 12
    assert f"the second process began with step {int(kept) + 1}\n" in done.stdout
    assert "NO" not in done.stdout.split()
    assert done.stdout.count(": yes\n") == 6
    assert 'store.sessions.fork("lake-trip", "lake-trip-by-train", at_seq=4)' in done.stdout


def test_the_story_ends_with_what_it_cost_and_a_page(story: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    path, done = story
    with StateStore.open(path) as store:
        costs = {row.user_id: row.cost_usd for row in store.usage.by_user()}
    for user in ("ada", "bob"):
        assert re.search(rf"^     {user} .* {costs[user]:.4f}$", done.stdout, re.MULTILINE)
    assert "search_web" in done.stdout
    page = path.with_suffix(".html")
    assert f"   → {page}\n" in done.stdout
    assert "night-run" in page.read_text()


def test_the_story_has_no_colour_in_a_pipe(story: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    assert "\x1b" not in story[1].stdout


def test_the_hints_work(
    story: tuple[Path, subprocess.CompletedProcess[str]], sqlite_cli: CommandLine, tmp_path: Path
) -> None:
    path, done = story
    hints = [hint.strip() for hint in done.stdout.partition("Look around:\n")[2].splitlines()]
    assert [hint.split()[0] for hint in hints] == ["export", "statestore", "statestore", "statestore", "cd"]
    copy = tmp_path / "copy"
    shutil.copytree(path.parent, copy)
    script = "\n".join(["set -e", *(hint.replace(str(path.parent), str(copy)) for hint in hints)])
    environment = {**sqlite_cli.environment, "PATH": f"{programs()}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "└─ lake-trip-by-train  * at 4, then 2 entries · ada" in ran.stdout
    assert not list(copy.glob("*demo*"))


def test_real_runs_are_replayed_and_compared(sqlite_cli: CommandLine, trajectories: Path, tmp_path: Path) -> None:
    path = tmp_path / "demo.db"
    done = sqlite_cli.process("demo", trajectories, "--path", path)
    assert (done.returncode, done.stderr) == (0, "")
    total = f"{count_messages(trajectories):,}"
    assert f"200 sessions with {total} entries in the store" in done.stdout
    assert "0 entries added; 200 sessions in the store" in done.stdout
    assert f"{total} of {total} messages are equal" in done.stdout
    with StateStore.open(f"sqlite:///{path}") as store:
        assert store.sessions.count() == 201


def test_a_message_that_comes_back_different_is_noticed(
    sqlite_cli: CommandLine, trajectories: Path, tmp_path: Path
) -> None:
    # As a store that keeps the wrong order of keys would: only the demonstration's own reading is disturbed.
    code = """
import sys
from statestore.cli import demo_file, main
texts = demo_file._texts
calls = 0
def disturbed(entries):
    global calls
    calls += 1
    found = texts(entries)
    return found[::-1] if calls == 5 else found
demo_file._texts = disturbed
main(["demo", *sys.argv[1:]])
"""
    done = sqlite_cli.python(code, trajectories, "--path", tmp_path / "demo.db")
    assert done.returncode == 1
    assert "came back different" in done.stderr


def test_a_file_without_a_conversation_is_an_error(sqlite_cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_text("\n")
    assert "contains no conversation" in sqlite_cli("demo", str(file), "--path", str(tmp_path / "d.db"), code=1).stderr


def test_a_short_file_with_a_bad_line_is_replayed(sqlite_cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "short.jsonl"
    file.write_text("oops\n" + json.dumps({"messages": [{"role": "user", "content": "Hi"}]}) + "\n")
    done = sqlite_cli("demo", str(file), "--path", str(tmp_path / "d.db"))
    assert "1 of 1 messages are equal" in done.stdout
    assert f"{file}:1: is not JSON" in done.stderr


def test_an_existing_file_is_not_touched(sqlite_cli: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "precious.db"
    path.write_text("precious")
    assert "already exists" in sqlite_cli("demo", "--path", str(path), code=1).stderr
    assert path.read_text() == "precious"


def test_run_demo_reads_a_file_from_the_callers_directory(trajectories: Path, tmp_path: Path) -> None:
    lines = trajectories.read_bytes().splitlines(keepends=True)[:3]
    (tmp_path / "some.jsonl").write_bytes(b"".join(lines))
    if not (CHECKOUT / ".venv" / "stamp").exists():
        pytest.skip("./run has not set up this checkout")
    done = subprocess.run(
        [CHECKOUT / "run", "demo", "some.jsonl", "--path", "some.db"], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 sessions" in done.stdout
