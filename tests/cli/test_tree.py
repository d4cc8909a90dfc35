import json

import pytest

from tests.cli.conftest import CommandLine


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


@pytest.fixture
def family(cli: CommandLine) -> CommandLine:
    """Two forks of `root`, and two of one of them."""
    with cli.store() as store:
        store.sessions.create("root", user_id="ada", title="A trip")
        store.history.append("root", said("a", "b", "c"))
        store.sessions.fork("root", "late", at_seq=3)
        store.sessions.fork("root", "early", at_seq=1)
        store.history.append("early", said("d", "e"))
        store.sessions.fork("early", "early-1", at_seq=2)
        store.sessions.fork("early", "early-2")
        store.sessions.create("other")
    return cli


@pytest.mark.parametrize("asked", ["root", "early-2"])
def test_the_whole_family_is_drawn_from_wherever_it_is_asked(asked: str, family: CommandLine) -> None:
    drawn = family("tree", asked).stdout.replace("* ", "")
    assert drawn == (
        "root           3 entries · ada · A trip\n"
        "├─ early       at 1, then 2 entries · ada · A trip\n"
        "│  ├─ early-1  at 2, then 0 entries · ada · A trip\n"
        "│  └─ early-2  at 3, then 0 entries · ada · A trip\n"
        "└─ late        at 3, then 0 entries · ada · A trip\n"
    )
    [marked] = [line for line in family("tree", asked).stdout.splitlines() if "*" in line]
    assert asked in marked


def test_in_json_each_session_is_a_line(family: CommandLine) -> None:
    found = [json.loads(line) for line in family("tree", "late", "--json").stdout.splitlines()]
    assert {one["session_id"]: one["parent_session_id"] for one in found} == {
        "root": None, "early": "root", "late": "root", "early-1": "early", "early-2": "early",
    }  # fmt: skip
    assert {one["title"] for one in found} == {"A trip"}
    assert [one["forked_at_seq"] for one in found if one["session_id"] == "early-1"] == [2]


def test_a_deleted_root_is_named(family: CommandLine) -> None:
    family("delete", "root", "--yes")
    drawn = family("tree", "early-1").stdout
    assert drawn.startswith("root           deleted\n└─ ")
    for living in ("early", "early-1", "early-2", "late"):
        assert living in drawn


def test_forks_of_forks_may_be_many(cli: CommandLine) -> None:
    with cli.store() as store:
        store.history.append("s0", said("a"), create=True)
        for number in range(60):
            store.sessions.fork(f"s{number}", f"s{number + 1}")
    assert len(cli("tree", "s30").stdout.splitlines()) == 61


def test_no_ttl_is_extended(cli: CommandLine) -> None:
    from datetime import UTC, datetime, timedelta

    with cli.store(clock=lambda: datetime.now(UTC) - timedelta(minutes=30)) as store:
        store.sessions.create("s", ttl=timedelta(hours=1))
        before = store.sessions.page().sessions[0].expires_at
    cli("tree", "s")
    with cli.store() as store:
        assert store.sessions.page().sessions[0].expires_at == before


def test_show_marks_where_forks_begin(family: CommandLine) -> None:
    shown = family("show", "root").stdout
    first, _, third = shown.rstrip().split("\n\n")[1:]
    assert first.endswith("    ├─ fork early, 2 entries of its own")
    assert third.endswith("    ├─ fork late, 0 entries of its own")
    assert "├─" not in family("show", "root", "--last", "0").stdout


def test_a_session_that_does_not_exist_is_named(cli: CommandLine) -> None:
    assert "session 'nobody' does not exist" in cli("tree", "nobody", code=1).stderr
