"""Exports of several namespaces in one file, and their imports."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry, SessionExistsError, SessionNotFoundError, Usage
from tests.support.content import Content, unsound
from tests.support.worlds import export_sessions, import_sessions

Store = Any

SHARDS = ("acme/0", "acme/1")
OTHERS = ("acme", "default")


@pytest.fixture
def store(database_url: str, connect: Callable[..., Any]) -> Store:
    """Of a namespace with nothing in it; each of the others has sessions of the same ids, one with a fork."""
    for name in (*SHARDS, *OTHERS):
        one = connect(database_url, namespace=name)
        with one.transaction() as tx:
            for session_id, user_id in ("a", "ada"), ("b", "bob"), ("gone", "ada"):
                tx.sessions.create(session_id, user_id=user_id)
                tx.history.append(session_id, [NewEntry(f"in {name}: {session_id}", usage=Usage(input_tokens=3))])
            tx.sessions.fork("a", "fork")
            tx.sessions.create("part", belongs_to="a")
            tx.history.append("fork", [NewEntry("own")])
            tx.state.set("b", "k", f"in {name}")
            tx.sessions.delete("gone")
    return connect(database_url, namespace="elsewhere")


def exported(store: Store, **which: Any) -> bytes:
    file = io.BytesIO()
    export_sessions(store, file, **which)
    return file.getvalue()


def lines_of(file: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.splitlines()]


def without_namespaces(lines: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key != "namespace"}
        for line in lines
        if line.get("namespace") == name
    ]


def test_each_line_says_its_namespace_and_is_else_as_in_a_file_of_one(
    store: Store, database_url: str, connect: Callable[..., Any]
) -> None:
    header, *lines, end = lines_of(exported(store, namespaces="acme/*"))
    assert header == {"type": "header", "format": "statestore", "version": 3}
    assert end == {"type": "end", "lines": len(lines)}
    assert list(dict.fromkeys(line["namespace"] for line in lines)) == list(SHARDS)
    for name in SHARDS:
        of_one = lines_of(exported(connect(database_url, namespace=name)))
        assert of_one[0]["version"] == 2
        assert without_namespaces(lines, name) == of_one[1:-1]


@pytest.mark.parametrize(
    ("which", "found"),
    [
        ({"namespaces": "acme/1"}, {("acme/1", one) for one in ("a", "b", "fork", "part")}),
        ({"namespaces": ["acme/0", "acme"], "user_id": "bob"}, {("acme/0", "b"), ("acme", "b")}),
        ({"namespaces": "acme/*", "session_ids": ["b"]}, {(name, "b") for name in SHARDS}),
        ({"namespaces": "nowhere/*"}, set()),
    ],
)
def test_which_are_exported(store: Store, which: dict[str, Any], found: set[tuple[str, str]]) -> None:
    lines = lines_of(exported(store, **which))
    assert {(line["namespace"], line["session_id"]) for line in lines if line["type"] == "session"} == found


def test_an_id_has_to_be_in_one_of_them(store: Store, database_url: str, connect: Callable[..., Any]) -> None:
    connect(database_url, namespace="acme/1").sessions.create("only here")
    assert lines_of(exported(store, namespaces="acme/*", session_ids=["only here"]))[-1]["lines"] == 1
    with pytest.raises(SessionNotFoundError, match=r"'nobody' does not exist in namespace 'acme/\*'"):
        exported(store, namespaces="acme/*", session_ids=["a", "nobody"])
    with pytest.raises(InvalidValueError, match=r"^namespaces"):
        exported(store, namespaces=[])


@pytest.mark.usefixtures("warm_python")
@pytest.mark.parametrize("how", [{}, {"replace": True}, {"resume": True}, {"jobs": 2}], ids=str)
def test_all_come_back_to_where_they_were(store: Store, database_url: str, how: dict[str, Any]) -> None:
    file = exported(store, namespaces="acme/*")
    store.drop_namespace(namespaces="acme/*" if how.get("replace") is None else "acme/0")
    totals = import_sessions(store, io.BytesIO(file), **how)
    assert (totals.sessions, totals.lines) == (8, len(file.splitlines()) - 2)
    assert store.sessions.count() == 0
    assert exported(store, namespaces="acme/*") == file
    with Content(database_url) as content:
        assert content.rows("store_settings") == []
        for name in SHARDS:
            assert unsound(content, name) == []


@pytest.mark.usefixtures("warm_python")
def test_several_processes_write_the_same_file(store: Store) -> None:
    assert exported(store, namespaces=["acme/*", "default"], jobs=2) == exported(
        store, namespaces=["acme/*", "default"]
    )


def test_namespaces_come_into_others(store: Store, database_url: str, connect: Callable[..., Any]) -> None:
    file = exported(store, namespaces=["acme/*", "default"])
    import_sessions(store, io.BytesIO(file), rename={"acme/*": "copy/*", "acme/1": "one", "default": "copy"})
    for name, before in ("copy/0", "acme/0"), ("one", "acme/1"), ("copy", "default"):
        copied = without_namespaces(lines_of(exported(store, namespaces=name)), name)
        assert copied == without_namespaces(lines_of(file), before)
    with pytest.raises(SessionExistsError) as caught:
        import_sessions(store, io.BytesIO(file), rename={"acme/*": "copy/*", "default": "unused"}, resume=True)
    assert caught.value.namespace == "copy/0"
    assert store.sessions.count(namespaces="unused") == 0


def test_all_come_into_one_namespace_unless_ids_meet(
    store: Store, database_url: str, connect: Callable[..., Any]
) -> None:
    with pytest.raises(InvalidValueError, match=r"^rename: would bring session 'a' of 'acme/0' and of 'acme/1' into"):
        import_sessions(store, io.BytesIO(exported(store, namespaces="acme/*")), rename={"*": "elsewhere"})
    store.sessions.create("x")
    connect(database_url, namespace="single").sessions.create("y")
    file = exported(store, namespaces=["elsewhere", "single"])
    import_sessions(store, io.BytesIO(file), rename={"*": "all"})
    page = store.sessions.page(namespaces="all")
    assert {session.session_id for session in page.sessions} == {"x", "y"}


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ("acme/*", "^rename: must map"),
        ({"acme/*": 3}, r"^rename\['acme/\*'\]"),
        ({"": "x"}, "^rename"),
        ({"acme": "copy/*"}, r"^rename\['acme'\]: must be a name"),
        ({"acme*": f"{'x' * 511}*"}, "^rename: gives 'acme/0' a name that must have"),
    ],
)
def test_what_renames_nothing_is_refused(store: Store, rename: Any, message: str) -> None:
    file = exported(store, namespaces="acme/*")
    with pytest.raises(InvalidValueError, match=message):
        import_sessions(store, io.BytesIO(file), rename=rename)
    assert store.sessions.count() == 0


def test_a_file_of_one_namespace_has_none_to_rename(
    store: Store, database_url: str, connect: Callable[..., Any]
) -> None:
    file = exported(connect(database_url, namespace="acme"))
    with pytest.raises(InvalidValueError, match=r"^rename: needs a file of several namespaces"):
        import_sessions(store, io.BytesIO(file), rename={"*": "elsewhere"})


@pytest.mark.parametrize("spoil", [{"namespace": None}, {"namespace": ""}, {"namespace": 3}])
def test_a_line_without_its_namespace_is_damaged(store: Store, spoil: dict[str, Any]) -> None:
    lines = lines_of(exported(store, namespaces="acme/0"))
    lines[3] |= spoil
    with pytest.raises(InvalidValueError, match=r"^line 4: does not say its namespace"):
        import_sessions(store, io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))
    lines[3]["namespace"] = "acme/7"
    with pytest.raises(InvalidValueError, match="damaged"):
        import_sessions(store, io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))


def test_an_import_that_was_cut_off_goes_on_in_all_namespaces(
    store: Store, database_url: str, connect: Callable[..., Any]
) -> None:
    file = exported(store, namespaces="acme/*")
    rename = {"acme/*": "copy/*"}
    read = 0

    def stop(size: int) -> None:
        nonlocal read
        read += size
        if read > 1.5 * len(file):
            raise TimeoutError

    with pytest.raises(TimeoutError):
        import_sessions(store, io.BytesIO(file), resume=True, rename=rename, progress=stop)
    done = [name for name in ("copy/0", "copy/1") if store.sessions.count(namespaces=name)]
    assert done == ["copy/0"]
    # Another store, of another namespace, goes on.
    another = connect(database_url, namespace="another")
    assert import_sessions(another, io.BytesIO(file), resume=True, rename=rename).sessions == 4
    assert exported(store, namespaces="copy/*") == file.replace(b'"acme/', b'"copy/')
    assert import_sessions(another, io.BytesIO(file), resume=True, rename=rename).lines == 0
