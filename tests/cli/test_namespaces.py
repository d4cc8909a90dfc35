import json
from typing import Any

from statestore import NewEntry, Usage
from tests.cli.conftest import CommandLine


def fill(cli: CommandLine) -> None:
    for namespace, sessions in (("one", 1), ("two", 2)):
        with cli.store(namespace=namespace) as store:
            for n in range(sessions):
                store.history.append(f"s{n}", [{"role": "user", "content": "x"}], create=True)


def test_namespaces_are_listed(cli: CommandLine) -> None:
    fill(cli)
    lines = cli("namespaces").stdout.splitlines()
    assert [line.split("  ")[:3] for line in lines] == [
        ["one", "1 session", "1 entry"],
        ["two", "2 sessions", "2 entries"],
    ]
    found = [json.loads(line) for line in cli("namespaces", "--json").stdout.splitlines()]
    assert [(one["name"], one["sessions"], one["entries"]) for one in found] == [("one", 1, 1), ("two", 2, 2)]


def test_a_namespace_is_dropped_once_it_is_confirmed(cli: CommandLine) -> None:
    fill(cli)
    cli("namespaces", "drop", "two", code=1, input="n\n")
    assert len(cli("namespaces").stdout.splitlines()) == 2
    receipt = json.loads(cli("namespaces", "drop", "two", "--yes", "--json").stdout)
    assert (receipt["name"], receipt["rows"]["sessions"]) == ("two", 2)
    assert "history_entries" in cli("namespaces", "drop", "one", "--yes").stdout
    assert cli("namespaces").stdout == ""


def test_all_namespaces_are_swept(cli: CommandLine) -> None:
    from datetime import timedelta

    for namespace in ("one", "two"):
        with cli.store(namespace=namespace) as store:
            store.sessions.create("s", ttl=timedelta(microseconds=1))
    assert "2 expired sessions" in cli("sweep", "--all-namespaces", "--dry-run").stdout
    assert "2 expired sessions" in cli("sweep", "--all-namespaces").stdout


def test_several_namespaces_are_dropped_once_it_is_confirmed(cli: CommandLine) -> None:
    fill(cli)
    for number in range(12):
        with cli.store(namespace=f"acme/{number:02}") as store:
            store.history.append("s", [{"role": "user", "content": "x"}], create=True)
    asked = cli("namespaces", "drop", "--namespaces", "acme/*", code=1, input="n\n").stderr
    assert "Delete 12 namespaces (acme/00, acme/01," in asked
    assert "acme/09, …) with 12 sessions" in asked
    assert len(cli("namespaces").stdout.splitlines()) == 14
    receipt = json.loads(cli("namespaces", "drop", "--namespaces", "acme/0*", "--yes", "--json").stdout)
    assert (receipt["name"], len(receipt["names"]), receipt["rows"]["sessions"]) == ("acme/0*", 10, 10)
    both = cli("namespaces", "drop", "--namespaces", "acme/*", "--namespaces", "two", "--yes").stdout
    assert both.startswith("deleted all of 3 namespaces (acme/10, acme/11, two)\n")
    assert [line.split("  ")[0] for line in cli("namespaces").stdout.splitlines()] == ["one"]


def test_what_to_drop_is_said_in_one_way(cli: CommandLine) -> None:
    assert "Give either NAME or --namespaces." in cli("namespaces", "drop", code=2).stderr
    assert "Give either" in cli("namespaces", "drop", "one", "--namespaces", "two", code=2).stderr
    assert "all of the database" in cli("namespaces", "drop", "--namespaces", "*", "--yes", code=1).stderr


def test_some_namespaces_are_swept(cli: CommandLine) -> None:
    from datetime import timedelta

    for namespace in ("acme/1", "acme/2", "other"):
        with cli.store(namespace=namespace) as store:
            store.sessions.create("s", ttl=timedelta(microseconds=1))
    assert "2 expired sessions" in cli("sweep", "--namespaces", "acme/*", "--dry-run").stdout
    assert "2 expired sessions" in cli("sweep", "--namespaces", "acme/1", "--namespaces", "acme/2").stdout
    assert "cannot be combined" in cli("sweep", "--namespaces", "acme/*", "--all-namespaces", code=2).stderr


def test_a_report_is_of_several_namespaces(cli: CommandLine) -> None:
    for namespace in ("acme/0", "acme/1", "acme0"):
        with cli.store(namespace=namespace) as store:
            store.history.append("s", [NewEntry("x", usage=Usage(input_tokens=7))], create=True)
            store.cache.set("k", 1)

    def records(name: str, *arguments: str) -> list[dict[str, Any]]:
        return list(json.loads(cli("report", name, "--json", *arguments).stdout))

    both = ("--namespaces", "acme/*")
    assert [row["input_tokens"] for row in records("usage-by-day", *both)] == [14]
    assert [row["input_tokens"] for row in records("usage-by-user", *both, "--namespaces", "acme0")] == [21]
    found = records("usage-by-session", *both, "--session", "s")
    assert sorted((row["namespace"], row["input_tokens"]) for row in found) == [("acme/0", 7), ("acme/1", 7)]
    assert "namespace" not in records("usage-by-session", "--namespace", "acme/0")[0]
    assert cli("report", "usage-by-session", *both).stdout.startswith("NAMESPACE  SESSION")
    assert cli("report", "usage-by-session", *both, "--csv").stdout.startswith("namespace,session_id,")
    assert sum(row["sets"] for row in records("cache-usage-by-day", *both)) == 2
    stored = {row["table_name"]: row["row_count"] for row in records("storage-usage", *both)}
    assert (stored["sessions"], stored["cache_entries"]) == (2, 2)
    assert (
        "nothing to report in the namespaces b/*, c"
        in cli(*("report", "usage-by-day", "--namespaces", "b/*", "--namespaces", "c")).stderr
    )
    assert records("expiry-backlog", *both) == []
    assert "session-lineage does not take --namespaces" in cli("report", "session-lineage", *both, code=2).stderr
    assert "--html takes" in cli("report", "--html", "-", *both, code=2).stderr
