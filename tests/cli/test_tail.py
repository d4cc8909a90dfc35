import json
import subprocess
import threading

import pytest

from statestore import StateStore
from tests.cli.conftest import CommandLine
from tests.support.warm import programs


def said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_it_prints_the_newest_entries_and_then_each_as_it_comes(cli: CommandLine) -> None:
    with cli.store() as store:
        store.history.append("s", [said(f"old {number}") for number in range(5)], create=True)
        with subprocess.Popen(
            [programs() / "statestore", "tail", "s", "--last", "2", "--json"],
            env=cli.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = [json.loads(process.stdout.readline()) for _ in range(2)]
            store.history.append("s", [said("new 1")])
            store.history.append("s", [said("new 2"), said("new 3")])
            lines += [json.loads(process.stdout.readline()) for _ in range(3)]
            process.kill()
    assert [entry["seq"] for entry in lines] == [4, 5, 6, 7, 8]
    assert [entry["content"]["content"] for entry in lines[2:]] == ["new 1", "new 2", "new 3"]


def test_it_stops_when_nothing_comes_any_more(cli: CommandLine) -> None:
    with cli.store() as store:
        store.history.append("s", [said("first"), said("second")], create=True)
    done = cli("tail", "s", "--timeout", "10ms")
    assert [line for line in done.stdout.splitlines() if line.startswith("    ")] == ["    first", "    second"]
    assert cli("tail", "s", "--last", "0", "--timeout", "10ms").stdout == ""


def test_it_ends_with_an_error_when_the_session_goes(cli: CommandLine) -> None:
    with cli.store() as store:
        store.history.append("s", [said("first")], create=True)

    def delete() -> None:
        with StateStore.open(cli.url) as store:
            store.sessions.delete("s")

    deleting = threading.Timer(0.3, delete)
    deleting.start()
    try:
        done = cli("tail", "s", code=1)
    finally:
        deleting.join()
    assert done.stderr == "error: session 's' has been deleted, or has expired\n"
    assert "'s' does not exist" in cli("tail", "s", code=1).stderr


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_waiting_extends_no_ttl(arguments: tuple[str, ...], cli: CommandLine) -> None:
    from datetime import timedelta

    with cli.store() as store:
        store.sessions.create("s", ttl=timedelta(hours=1))
        before = store.sessions.page().sessions[0].expires_at
        cli("tail", "s", "--timeout", "10ms", *arguments)
        assert store.sessions.page().sessions[0].expires_at == before
