"""Sessions that belong to others, exported with them and imported."""

import io
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry
from tests.support.content import Content, unsound
from tests.support.worlds import export_sessions, import_sessions

Store = Any


@pytest.fixture
def whole(store: Store) -> Store:
    store.sessions.create("whole", user_id="ada", ttl=timedelta(hours=1))
    store.sessions.create("a part", belongs_to="whole", user_id="bob")
    store.sessions.create("part", belongs_to="whole")
    store.sessions.create("another", user_id="bob")
    for session_id in ("whole", "a part", "part", "another"):
        store.history.append(session_id, [NewEntry(session_id)])
    return store


@pytest.fixture
def target(open_store: Callable[..., Store], clock: Any) -> Store:
    return open_store(namespace="target", clock=clock)


def exported(store: Store, **which: Any) -> bytes:
    file = io.BytesIO()
    export_sessions(store, file, **which)
    return file.getvalue()


def in_the_file(file: bytes) -> list[str]:
    return [line["session_id"] for line in map(json.loads, file.splitlines()) if line["type"] == "session"]


@pytest.mark.parametrize(
    ("which", "ids"),
    [
        ({}, ["a part", "another", "part", "whole"]),
        ({"session_ids": ["whole"]}, ["a part", "part", "whole"]),
        ({"session_ids": ["part"]}, ["part"]),
        ({"user_id": "ada"}, ["a part", "part", "whole"]),
        ({"user_id": "bob"}, ["a part", "another"]),
    ],
)
def test_parts_are_exported_with_the_whole(whole: Store, which: dict[str, Any], ids: list[str]) -> None:
    assert in_the_file(exported(whole, **which)) == ids


def test_parts_of_an_expired_session_are_not_exported(whole: Store, clock: Any) -> None:
    clock.advance(hours=2)
    assert in_the_file(exported(whole)) == ["another"]


@pytest.mark.parametrize("replace", [False, True])
def test_an_import_keeps_what_a_part_belongs_to(whole: Store, target: Store, content: Content, replace: bool) -> None:
    if replace:
        target.sessions.create("whole")
        target.sessions.create("old part", belongs_to="whole")
    import_sessions(target, io.BytesIO(exported(whole)), replace=replace)
    parts = target.sessions.page(belongs_to="whole").sessions
    assert {part.session_id for part in parts} == {"a part", "part"}
    assert [entry.content for entry in target.history.read("part")] == ["part"]
    assert target.sessions.count() == 2
    target.sessions.delete("whole")
    target.sweep()
    assert [row["session_id"] for row in content.rows("sessions", namespace="target")] == ["another"]
    assert unsound(content, "target") == []


def test_a_part_is_not_lost_with_a_session_that_has_expired(whole: Store, target: Store, clock: Any) -> None:
    target.sessions.create("whole", ttl=timedelta(minutes=1))
    clock.advance(minutes=2)
    import_sessions(target, io.BytesIO(exported(whole, session_ids=["part"])))
    assert target.sessions.get("part").belongs_to is None
    target.sweep()
    assert [entry.content for entry in target.history.read("part")] == ["part"]


def test_parts_of_a_session_that_expires_before_the_import_go_with_it(whole: Store, target: Store, clock: Any) -> None:
    file = exported(whole)
    clock.advance(hours=2)
    import_sessions(target, io.BytesIO(file))
    assert [session.session_id for session in target.sessions.page(include_parts=True).sessions] == ["another"]


def test_a_part_that_is_imported_alone_is_a_session_of_its_own(whole: Store, target: Store) -> None:
    file = exported(whole, session_ids=["part"])
    import_sessions(target, io.BytesIO(file))
    assert target.sessions.get("part").belongs_to is None
    target.sessions.create("whole")
    import_sessions(target, io.BytesIO(file), replace=True)
    assert target.sessions.get("part").belongs_to == "whole"


@pytest.mark.parametrize(
    "spoil", [{"belongs_to": "a part"}, {"belongs_to": "part"}, {"ttl": 5, "expires_at": "2030-01-01T00:00:00.000000Z"}]
)
def test_a_file_with_parts_of_parts_is_damaged(whole: Store, target: Store, spoil: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in exported(whole).splitlines()]
    for line in lines:
        if line["type"] == "session" and line["session_id"] == "part":
            line |= spoil
    file = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    with pytest.raises(InvalidValueError, match="part of"):
        import_sessions(target, io.BytesIO(file))
    assert target.sessions.count(include_parts=True) == 0
