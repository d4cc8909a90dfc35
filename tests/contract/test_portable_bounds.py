"""What an import refuses on every database, and what it leaves alone: records of what was used, and others' turns."""

import io
import json
import os
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry, SessionExistsError, StateStore, Usage
from statestore.checking import json_files
from statestore.checking.namespaces import renaming
from statestore.portable.files import Survey
from tests.support.content import Content, unsound
from tests.support.worlds import export_sessions, import_sessions


@pytest.fixture
def store(database_url: str, connect: Callable[..., Any]) -> Any:
    return connect(database_url)


def exported(store: Any, **which: Any) -> bytes:
    file = io.BytesIO()
    export_sessions(store, file, **which)
    return file.getvalue()


def lines_of(file: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.splitlines()]


def records(file: bytes, kind: str) -> list[dict[str, Any]]:
    return [line for line in lines_of(file) if line["type"] == kind]


def as_file(lines: list[dict[str, Any]]) -> io.BytesIO:
    return io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def one_file(url: str) -> list[dict[str, Any]]:
    """A header, a session, two entries, a state key, a line of the ledger, and the end."""
    with StateStore.open(url, namespace="elsewhere") as source:
        source.sessions.create("a")
        source.history.append("a", [NewEntry("x", usage=Usage(input_tokens=1), cost_usd=1), NewEntry("y", cost_usd=1)])
        source.history.append("a", [NewEntry("gone", cost_usd=1, usage=Usage(output_tokens=3))])
        source.history.pop_last("a")
        source.state.set("a", "k", 1)
        lines = lines_of(exported(source))
    assert [line["type"] for line in lines] == ["header", "session", "entry", "entry", "state", "usage", "end"]
    return lines


def wide(seed: int, length: int) -> str:
    """Characters of four bytes each, which do not compress."""
    return "".join(chr(0x10000 + (seed + 7919 * n * n) % 60_000) for n in range(length))


# What fits beside a short namespace, and not beside a long one.
LONG: dict[str, Callable[[Any], Any]] = {
    "key": lambda store: store.state.set("a", wide(2, 512), 1),
    "name": lambda store: store.lists.append("a", wide(2, 512), [1]),
    "entry_id": lambda store: store.history.append("a", [NewEntry(1, entry_id=wide(2, 512))]),
    # Of the session itself it fits; of its fork, which may come to own it, it does not.
    "entry_id of a fork": lambda store: (
        store.history.append("a", [NewEntry(1), NewEntry(2, entry_id=wide(2, 130))]),
        store.sessions.fork("a", wide(3, 385)),
    ),
}


@pytest.mark.parametrize("case", LONG)
def test_ids_that_are_too_long_beside_the_new_namespace_are_refused(
    case: str, store: Any, database_url: str, connect: Callable[..., Any], content: Content
) -> None:
    long = wide(1, 150)
    source, target = connect(database_url, namespace="source"), connect(database_url, namespace=long)
    source.sessions.create("a")
    LONG[case](source)
    files = exported(source), exported(source, namespaces="source")
    before = content.snapshot()
    # What a fork shares has no id on the fork's line: what is too long there is the fork's own.
    field = "session_id" if case.endswith("of a fork") else case
    for file, importer, which in (files[0], target, {}), (files[1], store, {"rename": {"source": long}}):
        with pytest.raises(InvalidValueError, match=rf"^line \d+: {field}: and the ids beside it take [\d,]+ bytes"):
            import_sessions(importer, io.BytesIO(file), **which)
    with pytest.raises(InvalidValueError, match=r"^rename: gives 'source' a name that takes 604 bytes in an index"):
        import_sessions(store, io.BytesIO(files[1]), rename={"source": wide(1, 151)})
    assert content.snapshot() == before
    import_sessions(store, io.BytesIO(files[1]), rename={"source": "copy"})


# A field of a line, what cannot be in it, and what is said of that.
UNFIT: list[tuple[str, str, Any, str]] = [
    ("session", "session_id", "x" * 513, "must have 1 to 512 characters, has 513"),
    ("session", "user_id", "", "must have 1 to 512 characters, has 0"),
    ("session", "status", "asleep", "must be one of starting, "),
    ("entry", "entry_id", "x" * 600, "must have 1 to 512 characters, has 600"),
    ("entry", "role", "a\0", "contains a NUL character"),
    ("entry", "seq", 0, "must be at least 1"),
    ("state", "key", "k" * 513, "must have 1 to 512 characters, has 513"),
    ("state", "key", 5, "must be a string, not int"),
    ("state", "namespace", "n" * 513, "must have 1 to 512 characters, has 513"),
    ("state", "namespace", wide(1, 151), "takes 604 bytes in an index, of 600"),
]


@pytest.mark.parametrize(("kind", "field", "value", "problem"), UNFIT, ids=lambda value: str(value)[:20])
def test_a_message_names_the_field_of_the_line_and_says_what_is_wrong_with_it(
    kind: str, field: str, value: Any, problem: str, store: Any, database_url: str, connect: Callable[..., Any]
) -> None:
    source = connect(database_url, namespace="source")
    source.sessions.create("a", user_id="ada")
    source.history.append("a", [NewEntry("x", role="user")])
    source.state.set("a", "k", 1)
    lines = lines_of(exported(source, namespaces="source"))
    number = [line["type"] for line in lines].index(kind)
    lines[number][field] = value
    with pytest.raises(InvalidValueError) as caught:
        import_sessions(store, as_file(lines))
    assert caught.value.argument == f"line {number + 1}"
    assert str(caught.value).startswith(f"line {number + 1}: has an invalid value in {field!r}: {problem}")


BEYOND = [
    ("session", "next_seq", 2**63 - 1),
    ("session", "first_seq", 10**12 + 1),
    ("session", "last_turn", 2**62),
    ("session", "revision", 2**63 - 1),
    ("entry", "seq", 2**62),
    ("entry", "turn", 2**62),
    ("entry", "content_bytes", 2**63 - 1),
    ("entry", "input_tokens", 10**9 + 1),
    ("entry", "duration_ms", 1e19),
    ("state", "version", 2**63 - 1),
    *(("usage", name, 2**62) for name in ("entries", "turns", "output_tokens", "content_bytes", "unpriced_calls")),
    ("usage", "line", 0),
    ("usage", "line", 2**31),
    ("usage", "cost_usd", "1e19"),
    ("usage", "duration_ms", 1e19),
]


@pytest.mark.parametrize(("kind", "name", "value"), BEYOND)
def test_a_number_that_a_sum_or_the_next_one_could_not_follow_is_refused(
    sqlite_url: str, kind: str, name: str, value: Any
) -> None:
    lines = one_file(sqlite_url)
    number = [line["type"] for line in lines].index(kind)
    lines[number][name] = value
    with StateStore.open(sqlite_url) as target:
        with pytest.raises(InvalidValueError, match=rf"^line {number + 1}: has an invalid value in '{name}'"):
            import_sessions(target, as_file(lines), replace=True)
        assert target.sessions.count() == 0


def test_sums_of_a_files_ledger_stay_within_64_bits(sqlite_url: str) -> None:
    lines = one_file(sqlite_url)
    usage = {**lines[5], "output_tokens": 10**15}
    lines[5:] = [{**usage, "line": n} for n in range(1, 1002)] + [{"type": "end", "lines": 1005}]
    with StateStore.open(sqlite_url) as target:
        with pytest.raises(InvalidValueError, match=r"^line 1006: makes the sum of 'output_tokens' too large"):
            import_sessions(target, as_file(lines))
        lines[5:] = [*lines[5:1005], {"type": "end", "lines": 1004}]
        import_sessions(target, as_file(lines))
        assert target.usage.totals().output_tokens == 10**18
        target.sessions.delete("a")
        assert target.usage.totals().output_tokens == 10**18


INEXACT = {
    "an integer of too many digits": "1" * 5000,
    "a key twice": '{"k": 1, "k": 2}',
    "NaN": "NaN",
    "an infinity": "1e999",
    "deep": "[" * 500 + "]" * 500,
    "very deep": "[" * 100_000 + "]" * 100_000,
}


@pytest.mark.parametrize("inexact", INEXACT)
@pytest.mark.parametrize("kind", ["session", "entry", "state"])
def test_json_that_would_change_is_refused_and_its_line_named(sqlite_url: str, kind: str, inexact: str) -> None:
    lines = one_file(sqlite_url)
    number = [line["type"] for line in lines].index(kind)
    lines[number][{"session": "metadata", "entry": "content", "state": "value"}[kind]] = {"here": "HERE"}
    file = io.BytesIO(as_file(lines).getvalue().replace(b'"HERE"', INEXACT[inexact].encode()))
    with StateStore.open(sqlite_url) as target:
        with pytest.raises(InvalidValueError, match=rf"^line {number + 1}: "):
            import_sessions(target, file)
        assert target.sessions.count() == 0


def test_a_field_that_stands_twice_is_refused(sqlite_url: str) -> None:
    text = as_file(one_file(sqlite_url)).getvalue().replace(b'"seq": 1,', b'"seq": 1, "seq": 1,')
    with StateStore.open(sqlite_url) as target, pytest.raises(InvalidValueError, match=r"^line 3: .*same key twice"):
        import_sessions(target, io.BytesIO(text))


def test_a_line_that_is_too_long_is_refused_before_it_is_parsed(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = one_file(sqlite_url)
    monkeypatch.setattr(json_files, "MAX_BYTES", 2000)
    lines[2]["content"] = "x" * 5000
    with (
        StateStore.open(sqlite_url) as target,
        pytest.raises(InvalidValueError, match=r"^line 3: is longer than"),
    ):
        import_sessions(target, as_file(lines))


def test_a_line_of_too_many_values_is_refused_before_it_is_parsed(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = one_file(sqlite_url)
    monkeypatch.setattr(json_files, "MAX_VALUES", 100)
    lines[2]["content"] = "[," * 500  # A text is one value, whatever is in it.
    lines[2]["content_bytes"] = 1002
    lines[3]["content"] = [[]] * 200
    with (
        StateStore.open(sqlite_url) as target,
        pytest.raises(InvalidValueError, match=r"^line 4: contains more than 100 v"),
    ):
        import_sessions(target, as_file(lines))


def forked_from(session: dict[str, Any], parent: str) -> dict[str, Any]:
    return {**session, "parent_session_id": parent, "forked_at_seq": 0}


def test_a_cycle_of_forks_is_refused(sqlite_url: str) -> None:
    header, session, *_, end = one_file(sqlite_url)
    session |= {"first_seq": 1, "next_seq": 1, "last_turn": 0}
    for names in ("a",), ("a", "b"), ("a", "b", "c"):
        sessions = [forked_from({**session, "session_id": name}, names[index - 1]) for index, name in enumerate(names)]
        lines = [header, *sessions, {**end, "lines": len(names)}]
        with StateStore.open(sqlite_url) as target:
            with pytest.raises(InvalidValueError, match=r"^line [2-4]: would be its own ancestor"):
                import_sessions(target, as_file(lines))
            assert target.sessions.count() == 0


def test_a_cycle_that_a_session_of_the_store_closes_is_refused(store: Any) -> None:
    store.sessions.create("x")
    store.sessions.fork("x", "y")
    store.sessions.fork("y", "z")
    header, session, end = lines_of(exported(store, session_ids=["x"]))
    store.sessions.delete("x")
    for replace in (False, True):
        with pytest.raises(InvalidValueError, match=r"^line 2: would be its own ancestor"):
            import_sessions(store, as_file([header, forked_from(session, "z"), end]), replace=replace)
    assert not store.sessions.exists("x")
    assert [one.session_id for one in store.sessions.lineage("z").ancestors] == ["y", "x"]
    import_sessions(store, as_file([header, session, end]))


def test_segments_between_families_are_refused(sqlite_url: str) -> None:
    with StateStore.open(sqlite_url, namespace="n") as source:
        source.sessions.create("a")
        source.history.append("a", [NewEntry("x")])
        source.sessions.fork("a", "b")
        lines = lines_of(exported(source))
    lines[2]["root_session_id"] = "b"
    with StateStore.open(sqlite_url) as target, pytest.raises(InvalidValueError, match=r"^line 5: .* another family"):
        import_sessions(target, as_file(lines))


def totals(store: Any) -> tuple[int, int, Decimal | None, int]:
    found = store.usage.totals()
    return found.input_tokens, found.model_calls, found.cost_usd, found.entries


def spend(store: Any, session_id: str, *tokens: int) -> None:
    store.history.append(
        session_id,
        [NewEntry("x", usage=Usage(input_tokens=n), cost_usd=Decimal(n) / 10, response_model="m") for n in tokens],
    )


def test_replacing_takes_nothing_from_what_was_recorded(store: Any) -> None:
    store.sessions.create("a", user_id="ada")
    spend(store, "a", 1, 2)
    backup = exported(store)
    spend(store, "a", 40)
    store.history.pop_last("a", 2)
    spend(store, "a", 500)
    before = totals(store)
    assert before == (543, 4, Decimal("54.3"), 4)
    for _ in range(2):  # Retryable, and nothing is counted twice.
        import_sessions(store, io.BytesIO(backup), replace=True)
        assert totals(store) == before
        assert [entry.usage.input_tokens for entry in store.history.read("a")] == [1, 2]
    store.sessions.update("a", user_id="bob")
    store.sessions.delete("a")
    assert totals(store) == before
    import_sessions(store, io.BytesIO(backup), replace=True)
    assert totals(store) == before


def test_a_single_line_of_the_ledger_wipes_no_others(store: Any) -> None:
    store.sessions.create("a")
    spend(store, "a", 100, 200)
    spend(store, "a", 5)
    store.history.pop_last("a")
    everything = lines_of(exported(store))
    before = totals(store)
    header, end = everything[0], everything[-1]
    [usage] = [line for line in everything if line["type"] == "usage"]
    alone = [header, {**usage, "input_tokens": 1, "cost_usd": "0.1", "model_calls": 1}, {**end, "lines": 1}]
    import_sessions(store, as_file(alone), replace=True)
    assert totals(store) == before
    store.sessions.delete("a")
    import_sessions(store, as_file(alone), replace=True)
    assert totals(store) == before
    more = [header, {**usage, "input_tokens": 10_000}, {**end, "lines": 1}]
    import_sessions(store, as_file(more), replace=True)
    assert totals(store)[0] == 10_000


def fill(store: Any, sessions: int) -> None:
    with store.transaction() as tx:
        for n in range(sessions):
            tx.sessions.create(f"s{n:04}")
            tx.history.append(f"s{n:04}", [NewEntry("x", usage=Usage(input_tokens=1))])
            if n % 10 == 9:
                tx.sessions.fork(f"s{n:04}", f"f{n:04}")
                tx.history.append(f"f{n:04}", [NewEntry("y", usage=Usage(input_tokens=1))])


def test_replacing_many_sessions_takes_several_transactions(
    store: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statestore.portable.files._LINES", 40)
    fill(store, 100)
    file = exported(store)
    survey = Survey(io.BytesIO(file), lambda size: None, store.namespace, renaming(None))
    parts = [list(part.records()) for part in survey.parts()]
    # A part ends with the family that fills it.
    assert all(len(part) <= 45 for part in parts)
    assert len(parts) >= 5
    assert sum(map(len, parts)) == lines_of(file)[-1]["lines"]
    for n in range(100):
        store.history.append(f"s{n:04}", [NewEntry("later")])
    content = Content(database_url)
    seen, read = set(), 0

    def look(size: int) -> None:
        nonlocal read
        read += size
        seen.add(
            content.query("SELECT count(*) AS n FROM history_entries WHERE CAST(content AS text) = '\"later\"'")[0]["n"]
        )

    assert import_sessions(store, io.BytesIO(file), replace=True, progress=look).sessions == 110
    # Others see how it goes on, and no session half replaced.
    assert len(seen) == len(parts)
    # The header and the end are read once, all between them twice.
    first, *_, last = file.splitlines(keepends=True)
    assert read == 2 * len(file) - len(first) - len(last)
    assert unsound(content) == []
    content.close()
    assert records(exported(store), "entry") == records(file, "entry")


def test_an_import_that_replaces_and_is_cut_off_is_completed_by_the_same_again(
    store: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statestore.portable.files._LINES", 40)
    fill(store, 60)
    file = exported(store)
    for n in range(60):
        store.history.append(f"s{n:04}", [NewEntry("later", usage=Usage(input_tokens=100))])
    before = totals(store)
    at = 0

    class Stopped(Exception):
        pass

    def stop(size: int) -> None:
        nonlocal at
        at += size
        if at > len(file) * 1.5:
            raise Stopped

    with pytest.raises(Stopped):
        import_sessions(store, io.BytesIO(file), replace=True, progress=stop)
    lengths = {store.history.count(f"s{n:04}") for n in range(60)}
    assert lengths == {1, 2}
    assert totals(store) == before
    import_sessions(store, io.BytesIO(file), replace=True)
    assert {store.history.count(f"s{n:04}") for n in range(60)} == {1}
    assert totals(store) == before
    content = Content(database_url)
    assert unsound(content) == []
    content.close()


def test_without_replace_it_is_still_all_or_none(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statestore.portable.files._LINES", 40)
    fill(store, 60)
    file = exported(store)
    for n in range(60):
        if n != 30:
            store.sessions.delete(f"s{n:04}")
    left = store.sessions.count()
    with pytest.raises(SessionExistsError):
        import_sessions(store, io.BytesIO(file))
    assert store.sessions.count() == left


def test_a_pipe_can_be_imported(store: Any) -> None:
    fill(store, 30)
    file = exported(store)
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(file)

    feeding = threading.Thread(target=feed)
    feeding.start()
    with os.fdopen(reader, "rb") as pipe:
        import_sessions(store, pipe, replace=True)
    feeding.join()
    assert exported(store) == file
