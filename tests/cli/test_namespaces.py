import json

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
