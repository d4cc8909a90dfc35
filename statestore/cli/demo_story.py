"""The demonstration on conversations of its own: writers at once, one that is killed, a fork, and what it cost."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from statestore import migrate
from statestore.cli import demo_worker, terminal
from statestore.cli.demo_worker import CHAT, MESSAGES, RUN, STEPS
from statestore.cli.failures import Failure
from statestore.cli.narration import Narrator
from statestore.cli.output import counted, json_text, visible
from statestore.store import StateStore
from statestore.values.history import Entry, NewEntry, Usage

NAMES = ("ada", "bob", "eve", "kim")
KILLED_AFTER = 5
QUESTION: list[dict[str, Any]] = [
    {"role": "system", "content": "You plan day trips. Ask the tools."},
    {"role": "user", "content": "Is Saturday good for a walk by the lake?"},
]
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"day": "Saturday"}'}}
    ],
}
RESULT: dict[str, Any] = {
    "role": "tool",
    "tool_call_id": "call_1",
    "name": "get_weather",
    "content": '{"morning": "19 °C", "afternoon": "storms"}',
}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "In the morning, yes. Be back by noon."}
TRAIN: list[dict[str, Any]] = [
    {"role": "assistant", "content": "Take the lakeside train: dry, same view."},
    {"role": "user", "content": "Good idea. Which one?"},
]


def tell(path: Path) -> str:
    """Tell the story on a new database at *path*; returns a session to look at."""
    narrator = Narrator()
    url = f"sqlite:///{path}"
    click.echo("statestore keeps what AI agents must not forget, in a SQL database.")
    click.echo(f"This one is a new SQLite file: {visible(str(path))}")
    page = path.with_suffix(".html")
    with open_store(url) as store:
        _write_at_once(narrator, store, url)
        _kill_and_resume(narrator, store, url)
        _converse_and_fork(narrator, store)
        _tell_costs(narrator, store)
    _write_page(narrator, url, page)
    return "lake-trip-by-train"


def open_store(url: str) -> StateStore:
    migrate.upgrade(url)
    return StateStore.open(url)


def _write_at_once(narrator: Narrator, store: StateStore, url: str) -> None:
    narrator.title("Four processes write into one conversation at the same time")
    store.sessions.create(CHAT, user_id="team")
    narrator.show_code(demo_worker.write)
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(url, "write", name)) for name in NAMES]
        for worker in workers:
            _wait_for(worker)
        start = perf_counter()
        for worker in workers:
            _begin(worker)
        codes = [worker.wait() for worker in workers]
        seconds = perf_counter() - start
    entries = store.history.read(CHAT)
    total = len(NAMES) * MESSAGES
    writers = [entry.content["name"] for entry in entries]
    turns = 1 + sum(before != after for before, after in pairwise(writers))
    narrator.found(f"{counted(len(entries), 'entry')} in {seconds:.1f} s; the writers took turns {turns} times")
    narrator.expect(codes == [0] * len(NAMES) and len(entries) == total, "nothing is lost")
    narrator.expect([entry.seq for entry in entries] == list(range(1, total + 1)), "positions have no gap")
    narrator.expect(all(_in_order(entries, name) for name in NAMES), "each writer's entries are in its order")
    narrator.expect(store.state.get(CHAT, "messages") == total, f"the counter in the state says {total}")


def _in_order(entries: Sequence[Entry], name: str) -> bool:
    own = [entry.content["content"] for entry in entries if entry.content["name"] == name]
    return own == [f"message {number}" for number in range(1, MESSAGES + 1)]


def _kill_and_resume(narrator: Narrator, store: StateStore, url: str) -> None:
    narrator.title(f"kill -9 in the middle of a run of {STEPS} steps, and another process goes on")
    store.sessions.create(RUN, user_id="bob", agent_name="researcher")
    narrator.show_code(demo_worker.work)
    with _worker(url, "work", "first") as worker:
        _wait_for(worker)
        _begin(worker)
        while _wait_for(worker) != str(KILLED_AFTER):
            pass
        worker.kill()
        code = worker.wait()
    kept = store.history.count(RUN) // 2
    narrator.found(f"killed after step {KILLED_AFTER}: exit code {code}; {kept} steps are in the store")
    with _worker(url, "work", "second") as worker:
        output, _ = worker.communicate("go\n")
    [_, first] = output.split()[:2]
    calls = [entry.tool_call_id for entry in store.history.read(RUN) if entry.role == "tool"]
    narrator.found(f"the second process began with step {first}")
    expected = [f"call_{number}" for number in range(1, STEPS + 1)]
    narrator.expect(calls == expected, f"all {STEPS} steps are there, in order, none twice")


def _converse_and_fork(narrator: Narrator, store: StateStore) -> None:
    narrator.title("Keep a conversation, and try another way from its fourth entry on")
    narrator.run(converse, store)
    narrator.run(fork, store)
    before = store.history.read("lake-trip")
    branch = store.history.read("lake-trip-by-train")
    for entry in branch[1:]:
        line = terminal.cut(f"#{entry.seq} {_line(entry)}", 72)
        click.echo(f"       {visible(line)}")
        if entry.seq == 4:
            click.echo("       ── here the fork begins ──")
    same = [entry.content for entry in before[:4]] == [entry.content for entry in branch[:4]]
    narrator.expect(same and len(before) == 5, "the fork shares four entries, none was copied")
    for name in ("lake-trip", "lake-trip-by-train"):
        narrator.found(f"state of {name}: {json_text(store.state.get_all(name))}")


def converse(store: StateStore) -> None:
    store.sessions.create("lake-trip", user_id="ada", agent_name="day-trips")
    used, model = Usage(input_tokens=182, output_tokens=24), "small-1"
    call = NewEntry(CALL, usage=used, response_model=model, cost_usd=0.0002)
    store.history.append("lake-trip", [*QUESTION, call, RESULT, ANSWER])
    store.state.set("lake-trip", "place", "Konstanz")


def fork(store: StateStore) -> None:
    store.sessions.fork("lake-trip", "lake-trip-by-train", at_seq=4)
    store.history.append("lake-trip-by-train", TRAIN)
    store.state.set("lake-trip-by-train", "transport", "train")


def _line(entry: Entry) -> str:
    text = entry.content["content"]
    if text is None:
        function = entry.content["tool_calls"][0]["function"]
        text = f"→ {function['name']}({function['arguments']})"
    return f"{entry.role:<10}{text}"


def _tell_costs(narrator: Narrator, store: StateStore) -> None:
    narrator.title("What did it cost? By user, and by tool")
    narrator.show("$ statestore report usage-by-user")
    users = [
        (
            row.user_id or "-",
            f"{row.sessions:,}",
            f"{row.input_tokens:,}",
            f"{row.output_tokens:,}",
            _cost(row.cost_usd),
        )
        for row in store.usage.by_user()
    ]
    _print(("USER", "SESSIONS", "INPUT", "OUTPUT", "COST USD"), users)
    narrator.show("$ statestore report usage-by-tool")
    tools = [
        (row.tool_name, f"{row.tool_calls:,}", f"{row.errors:,}", _milliseconds(row.latency_p50))
        for row in store.usage.by_tool()
        if row.tool_name is not None
    ]
    _print(("TOOL", "CALLS", "ERRORS", "MEDIAN MS"), tools)


def _print(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines, _ = terminal.fitted(head, rows, width=72, drop=(), numbers=head[1:])
    click.echo("\n".join(f"     {line}" for line in lines))


def _cost(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}"


def _milliseconds(value: Any) -> str:
    return "-" if value is None else f"{value.total_seconds() * 1000:,.0f}"


def _write_page(narrator: Narrator, url: str, page: Path) -> None:
    narrator.title("And the same as a page, for those who prefer pictures")
    narrator.show(f"$ statestore report --html {page.name}")
    command = [sys.executable, "-m", "statestore", "report", "--html", str(page), "--url", url]
    # The settings of whoever looks at the demonstration are for other databases.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STATESTORE_")}
    done = subprocess.run(
        [*command, "--namespace", "default"],
        cwd=page.parent,
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(f"the page could not be written: {done.stderr.strip()}")
    narrator.found(str(page))


@contextmanager
def _worker(url: str, job: str, name: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that has opened the store and waits for `_begin`; it does not outlive the block."""
    command = [sys.executable, "-m", "statestore.cli.demo_worker", url, job, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait_for(worker: "subprocess.Popen[str]") -> str:
    """The next line that it says."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise Failure(f"a process of the demonstration ended with exit code {worker.wait()}; see above")
    return line.strip()


def _begin(worker: "subprocess.Popen[str]") -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()
