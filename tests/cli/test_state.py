import json

import pytest

from tests.cli.conftest import CommandLine


@pytest.fixture
def filled(cli: CommandLine) -> CommandLine:
    with cli.store() as store:
        store.sessions.create("trip", user_id="ada")
    return cli


@pytest.mark.parametrize("owner", [("trip",), ("ada", "--of", "user"), ("guide", "--of", "agent")])
def test_state_is_set_read_listed_and_removed(owner: tuple[str, ...], filled: CommandLine) -> None:
    name, *of = owner
    assert filled("state", "set", name, "place", '{"name": "Konstanz"}', *of).stdout == "set place, now at version 1\n"
    assert filled("state", "get", name, "place", *of).stdout == '{"name":"Konstanz"}\n'
    entry = json.loads(filled("state", "get", name, "place", "--json", *of).stdout)
    assert (entry["key"], entry["version"], entry["value"]) == ("place", 1, {"name": "Konstanz"})
    head, row = filled("state", "ls", name, *of).stdout.splitlines()
    assert head.split() == ["KEY", "VALUE", "VERSION", "UPDATED", "EXPIRES"]
    assert row.startswith('place  {"name":"Konstanz"}        1  2')
    assert json.loads(filled("state", "rm", name, "place", "other", "--json", *of).stdout) == {"removed": 1}
    assert "no matching keys" in filled("state", "ls", name, *of).stderr
    with filled.store() as store:
        assert store.state.count("trip") == 0


def test_text_a_ttl_and_standard_input(filled: CommandLine) -> None:
    filled("state", "set", "trip", "note", "-", "--text", "--ttl", "7d", input="two\nlines")
    entry = json.loads(filled("state", "get", "trip", "note", "--json").stdout)
    assert entry["value"] == "two\nlines"
    assert entry["expires_at"] is not None
    refused = filled("state", "set", "trip", "note", "plain", code=1).stderr
    assert "to store text, put quotes around it or add --text" in refused


def test_a_version_is_compared(filled: CommandLine) -> None:
    filled("state", "set", "trip", "k", "1", "--expected-version", "0")
    assert "version" in filled("state", "set", "trip", "k", "2", "--expected-version", "0", code=1).stderr
    filled("state", "set", "trip", "k", "2", "--expected-version", "1")
    assert filled("state", "get", "trip", "k").stdout == "2\n"


def test_keys_are_listed_by_prefix_and_page_by_page(filled: CommandLine) -> None:
    for key in ("a.1", "a.2", "a.3", "b"):
        filled("state", "set", "trip", key, "null")
    first = filled("state", "ls", "trip", "--prefix", "a.", "--limit", "2")
    assert [line.split()[0] for line in first.stdout.splitlines()[1:]] == ["a.1", "a.2"]
    assert first.stderr == "there are more; to continue, add: --after a.2\n"
    rest = json.loads(filled("state", "ls", "trip", "--prefix", "a.", "--after", "a.2", "--json").stdout)
    assert ([entry["key"] for entry in rest["entries"]], rest["more"]) == (["a.3"], False)


def test_what_is_not_there_is_said_with_the_command_that_lists_it(filled: CommandLine) -> None:
    missing = filled("state", "get", "trip", "nope", code=1).stderr
    assert missing == (
        "error: session 'trip' has no state key 'nope'; its keys are listed by: statestore state ls trip\n"
    )
    of_user = filled("state", "get", "ada", "nope", "--of", "user", code=1).stderr
    assert of_user.endswith("listed by: statestore state ls ada --of user\n")
    assert "none of these keys" in filled("state", "rm", "trip", "nope", code=1).stderr
    assert "'nobody' does not exist" in filled("state", "set", "nobody", "k", "1", code=1).stderr
