"""Export and import: nothing changes on the way from one database to the other and back."""

import asyncio
import io
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import StaticPool

from statestore import (
    AsyncStateStore,
    InvalidValueError,
    NewEntry,
    SessionExistsError,
    SessionNotFoundError,
    StateStore,
    Usage,
    migrate,
)
from statestore.portable import export_sessions_async, import_sessions_async
from tests.support.content import Content, unsound
from tests.support.engines import async_engine
from tests.support.trajectories import runs
from tests.support.wire import Proxy
from tests.support.worlds import export_sessions, import_sessions


@pytest.fixture
def source(database_url: str, connect: Callable[..., Any]) -> Any:
    return connect(database_url)


@pytest.fixture
def target(database_url: str, connect: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    """A store on the other database."""
    other = "postgres_url" if database_url.startswith("sqlite") else "sqlite_url"
    return connect(request.getfixturevalue(other))


def exported(store: Any, **which: Any) -> bytes:
    file = io.BytesIO()
    export_sessions(store, file, **which)
    return file.getvalue()


def records(file: bytes, kind: str) -> list[dict[str, Any]]:
    return [record for record in map(json.loads, file.splitlines()) if record["type"] == kind]


def say(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


def fill(store: Any) -> None:
    """Sessions with all that a session can have."""
    store.sessions.create(
        "s 🙂%_'\"", user_id="ada", agent_name="a", title="t", instructions="be\nkind", metadata={"z": 1, "a": [None]},
        project_root="/p", cwd="/p/x", ttl=timedelta(days=2, microseconds=7), status="busy",
    )  # fmt: skip
    entry = NewEntry(
        {"role": "assistant", "content": "\x00é", "n": 1e16, "i": 2**63}, agent_name="a", provider_name="openai",
        request_model="m", response_model="m-1", cost_usd=Decimal("0.1234567891"), finish_reason="stop",
        usage=Usage(input_tokens=3, output_tokens=10**9, cache_read_input_tokens=1), metadata={"b": 1, "a": 2},
        duration=timedelta(milliseconds=1.5), error_type="timeout", tool_name="look", tool_call_id="c1",
    )  # fmt: skip
    store.history.append("s 🙂%_'\"", [*say("a", "b"), entry, NewEntry(None), NewEntry([1, {"x": 0.1}])])
    store.history.trim("s 🙂%_'\"", keep_last=4)
    store.history.add_summary("s 🙂%_'\"", "an \x01 a", start_seq=1, end_seq=1, token_count=3)
    store.history.add_summary("s 🙂%_'\"", "more", start_seq=2, end_seq=3)
    store.state.set("s 🙂%_'\"", "k", {"y": 1, "x": None})
    store.state.set("s 🙂%_'\"", "k", {"y": 2, "x": None})
    store.state.set("s 🙂%_'\"", "short", 1, ttl=timedelta(days=1))
    store.sessions.fork("s 🙂%_'\"", "fork")
    store.history.append("fork", say("own"))
    store.sessions.fork("fork", "fork of fork", at_seq=4)
    store.sessions.create("gone")
    store.history.append("gone", [NewEntry("x", usage=Usage(input_tokens=5), cost_usd=1)])
    store.sessions.delete("gone")


def test_a_file_is_the_same_after_a_trip_through_the_other_database(source: Any, target: Any) -> None:
    fill(source)
    first = exported(source)
    import_sessions(target, io.BytesIO(first))
    assert exported(target) == first
    assert {record["type"] for record in map(json.loads, first.splitlines())} == {
        "header", "session", "segment", "entry", "state", "summary", "usage", "end",
    }  # fmt: skip


def test_what_was_imported_is_equal_to_what_was_exported(source: Any, target: Any) -> None:
    fill(source)
    import_sessions(target, io.BytesIO(exported(source)))
    for name in ("s 🙂%_'\"", "fork", "fork of fork"):
        assert target.sessions.get(name) == source.sessions.get(name)
        assert target.history.read(name) == source.history.read(name)
        assert target.history.summaries(name) == source.history.summaries(name)
        assert target.state.entry(name, "k") == source.state.entry(name, "k")
        assert target.sessions.lineage(name) == source.sessions.lineage(name)
        before, after = source.sessions.stats(name), target.sessions.stats(name)
        assert (after.usage, after.cost_usd, after.stored_bytes) == (before.usage, before.cost_usd, before.stored_bytes)
    assert target.history.append("fork", say("goes on"))[0].seq == 7


def test_the_real_runs_with_forks_and_state_come_back_byte_for_byte(source: Any, target: Any) -> None:
    for run in runs():
        name = f"{run['task_id']}-{run['trial']}"
        if run["trial"] == 0 or not source.sessions.exists(f"{run['task_id']}-0"):
            source.sessions.create(name, user_id=f"user-{run['task_id'] % 7}", metadata={"reward": run["reward"]})
            source.history.append(name, run["messages"])
        else:
            source.sessions.fork(f"{run['task_id']}-0", name, at_seq=1)
            source.history.append(name, run["messages"][1:])
        source.state.set_many(name, {"reward": run["reward"], "notes": run["messages"][-1]})
    source.sessions.delete("0-0")
    first = exported(source)
    totals = import_sessions(target, io.BytesIO(first))
    assert totals.sessions == 199
    assert exported(target) == first


def test_a_shared_entry_stands_in_the_file_once(source: Any) -> None:
    source.sessions.create("a")
    source.history.append("a", say("x", "y"))
    source.sessions.fork("a", "b")
    file = exported(source)
    assert [(entry["session_id"], entry["seq"]) for entry in records(file, "entry")] == [("a", 1), ("a", 2)]
    assert [(segment["session_id"], segment["owner_session_id"]) for segment in records(file, "segment")] == [
        ("b", "a")
    ]


def test_a_fork_alone_takes_along_what_it_shares_and_bills_nobody_for_it(source: Any, target: Any) -> None:
    source.sessions.create("a")
    source.history.append("a", [NewEntry("x", usage=Usage(input_tokens=5))])
    source.sessions.fork("a", "b")
    source.history.append("b", [NewEntry("y", usage=Usage(input_tokens=7))])
    file = exported(source, session_ids=["b"])
    assert [entry.get("usage_folded") for entry in records(file, "entry")] == [1, 0]
    import_sessions(target, io.BytesIO(file))
    assert [entry.content for entry in target.history.read("b")] == ["x", "y"]
    assert [ancestor.session_id for ancestor in target.sessions.lineage("b").ancestors] == ["a"]
    assert exported(target, session_ids=["b"]) == file


def test_one_may_export_the_sessions_of_a_user(source: Any) -> None:
    source.sessions.create("a", user_id="ada")
    source.sessions.create("b", user_id="bob")
    assert [session["session_id"] for session in records(exported(source, user_id="ada"), "session")] == ["a"]


def test_a_missing_session_cannot_be_exported(source: Any) -> None:
    source.sessions.create("a")
    with pytest.raises(SessionNotFoundError) as caught:
        exported(source, session_ids=["a", "missing"])
    assert caught.value.session_id == "missing"


def test_more_sessions_and_entries_than_fit_one_step(source: Any, target: Any) -> None:
    with source.transaction() as tx:
        for n in range(1201):
            tx.sessions.create(f"s{n}")
        tx.history.append("s7", say(*map(str, range(1501))))
    first = exported(source)
    assert len(records(first, "session")) == 1201
    import_sessions(target, io.BytesIO(first))
    assert exported(target) == first


def test_an_existing_session_is_not_overwritten(source: Any, database_url: str) -> None:
    fill(source)
    file = exported(source)
    source.history.append("fork", say("later"))
    with Content(database_url) as content:
        before = content.snapshot()
        with pytest.raises(SessionExistsError):
            import_sessions(source, io.BytesIO(file))
        assert content.snapshot() == before


def test_replace_overwrites_and_leaves_the_forks_of_others_alone(source: Any, database_url: str) -> None:
    fill(source)
    file = exported(source)
    source.history.append("fork", say("later"))
    source.sessions.fork("fork", "another")
    seen = source.history.read("another")
    import_sessions(source, io.BytesIO(file), replace=True)
    assert [entry.content for entry in source.history.read("another")] == [entry.content for entry in seen]
    source.sessions.delete("another")
    with Content(database_url) as content:
        assert unsound(content) == []
    assert records(exported(source), "entry") == records(file, "entry")


def test_sessions_are_replaced_under_one_lock_for_all_families(connect: Callable[..., Any], proxy: Proxy) -> None:
    """One for each of them would fill PostgreSQL's lock table."""
    store = connect(proxy.url)
    for n in range(5):
        store.sessions.create(f"s{n}")
    file = exported(store)
    proxy.traffic.clear()
    import_sessions(store, io.BytesIO(file), replace=True)
    assert sum("pg_advisory_xact_lock" in sql for sql in proxy.traffic.statements) == 1


DAMAGED: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "cut off": (lambda lines: lines[:-1], "ends too early"),
    "a line lost": (lambda lines: lines[:-3] + lines[-2:], "some are missing"),
    "header lost": (lambda lines: lines[1:], "not the header"),
    "newer": (lambda lines: [lines[0].replace(b'"version":2', b'"version":4'), *lines[1:]], "version 4"),
    "no JSON": (lambda lines: [*lines[:2], b"{", *lines[2:]], "not JSON"),
    "unknown type": (lambda lines: [*lines[:2], b'{"type":"secret"}', *lines[2:]], "unknown type"),
    "wrong value": (
        lambda lines: [*lines[:2], b'{"type":"state","session_id":5}', *lines[2:]],
        "has an invalid value",
    ),
    "empty": (lambda lines: [], "ends too early"),
}


def test_a_damaged_file_is_refused_and_nothing_written(source: Any, target: Any, subtests: pytest.Subtests) -> None:
    fill(source)
    lines = exported(source).splitlines()
    for damage, (spoil, problem) in DAMAGED.items():
        with subtests.test(damage):
            with pytest.raises(InvalidValueError, match=problem):
                import_sessions(target, io.BytesIO(b"\n".join(spoil(list(lines)))))
            assert target.sessions.count() == 0


def changed(kind: str, **values: Any) -> Any:
    """The file with other values in the last line of a kind; None leaves a value out."""

    def spoil(lines: list[bytes]) -> list[bytes]:
        number, record = [(n, r) for n, r in enumerate(map(json.loads, lines)) if r["type"] == kind][-1]
        record |= values
        lines[number] = json.dumps({name: value for name, value in record.items() if value is not None}).encode()
        return lines

    return spoil


def without(kind: str) -> Any:
    """The file without the last line of a kind, which its end does not count either."""

    def spoil(lines: list[bytes]) -> list[bytes]:
        number = [n for n, record in enumerate(map(json.loads, lines)) if record["type"] == kind][-1]
        return [*lines[:number], *lines[number + 1 : -1], lines[-1].replace(b"9", b"8")]

    return spoil


def twice(kind: str) -> Any:
    def spoil(lines: list[bytes]) -> list[bytes]:
        number = [n for n, record in enumerate(map(json.loads, lines)) if record["type"] == kind][-1]
        return [*lines[:number], *lines[number:-1][:1], *lines[number:-1], lines[-1].replace(b"9", b"10")]

    return spoil


# header · sessions a and b · of a two entries, state and a summary · of b a segment and an entry · usage · end
DAMAGES = {
    "next_seq too low": (changed("session", next_seq=1), "line 3: is a session with"),
    "next_seq too high": (changed("session", next_seq=9), "line 3: is a session with"),
    "first_seq too high": (changed("session", first_seq=2), "line 3: is a session with"),
    "first_seq zero": (changed("session", first_seq=0), "line 3: has an invalid value in 'first_seq'"),
    "no such status": (changed("session", status="asleep"), "line 3: has an invalid value in 'status'"),
    "expires without a ttl": (changed("session", expires_at="2999-01-01T00:00:00.000000Z"), "line 3: has values that"),
    "a parent without a position": (changed("session", forked_at_seq=None), "line 3: has values that"),
    "an entry lost": (without("entry"), "line 3: is a session with"),
    "a segment lost": (without("segment"), "line 3: is a session with"),
    "a segment of what is not there": (changed("segment", to_seq=3), "line 8: names entries that are missing"),
    "a segment of nobody": (changed("segment", owner_session_id="x"), "line 8: names entries of a session that"),
    "a segment the wrong way round": (changed("segment", to_seq=0), "line 8: has"),
    "an entry of nobody": (changed("entry", session_id="x"), "line 9: belongs to a session that"),
    "an entry elsewhere": (changed("entry", seq=7), "line 3: is a session with"),
    "an entry at zero": (changed("entry", seq=0), "line 9: has an invalid value in 'seq'"),
    "cost NaN": (changed("entry", cost_usd="NaN"), "line 9: has an invalid value in 'cost_usd'"),
    "cost infinite": (changed("entry", cost_usd="Infinity"), "line 9: has an invalid value in 'cost_usd'"),
    "cost beyond all": (changed("entry", cost_usd="1e300"), "line 9: has an invalid value in 'cost_usd'"),
    "cost below zero": (changed("entry", cost_usd="-1"), "line 9: has an invalid value in 'cost_usd'"),
    "tokens beyond all": (changed("entry", input_tokens=2**62), "line 9: has an invalid value in 'input_tokens'"),
    "a duration below zero": (changed("entry", duration_ms=-1.0), "line 9: has an invalid value in 'duration_ms'"),
    "usage folded twice": (changed("entry", usage_folded=3), "line 9: has an invalid value in 'usage_folded'"),
    "a summary the wrong way round": (changed("summary", end_seq=0), "line 7: has an invalid value in 'end_seq'"),
    "a sum that is none": (changed("usage", cost_usd="NaN"), "line 10: has an invalid value in 'cost_usd'"),
    "a session twice": (twice("session"), "line 4: is a session that the file already has"),
    "an entry twice": (twice("entry"), "line 3: is a session with"),
    "a state key twice": (twice("state"), "line 6 to line 7: was refused by the database"),
}


@pytest.mark.parametrize("replace", [False, True], ids=["new", "replace"])
def test_lines_that_do_not_fit_together_are_refused_and_named(
    source: Any, target: Any, subtests: pytest.Subtests, replace: bool
) -> None:
    source.sessions.create("a")
    source.history.append("a", say("x", "y"))
    source.sessions.fork("a", "b")
    source.history.add_summary("a", "x", start_seq=1, end_seq=1)
    source.state.set("a", "k", 1)
    source.history.append("b", [NewEntry("z", cost_usd=1, usage=Usage(input_tokens=1), duration=timedelta(seconds=1))])
    source.history.append("b", [NewEntry("gone", cost_usd=1)])
    source.history.pop_last("b")
    lines = exported(source).splitlines()
    assert [json.loads(line)["type"] for line in lines] == [
        "header", "session", "session", "entry", "entry", "state", "summary", "segment", "entry", "usage", "end",
    ]  # fmt: skip
    for damage, (spoil, problem) in DAMAGES.items():
        with subtests.test(damage):
            with pytest.raises(InvalidValueError) as caught:
                import_sessions(target, io.BytesIO(b"\n".join(spoil(list(lines)))), replace=replace)
            assert str(caught.value).startswith(problem)
            assert target.sessions.count() == 0


def test_sessions_go_into_the_namespace_of_the_store(
    source: Any, database_url: str, connect: Callable[..., Any]
) -> None:
    fill(source)
    file = exported(source)
    copy = connect(database_url, namespace="copy")
    import_sessions(copy, io.BytesIO(file))
    assert exported(copy) == file


class Watched(io.BytesIO):
    """A file that does something when the first entry is written to it."""

    def __init__(self, at_first_entry: Callable[[], Any]) -> None:
        super().__init__()
        self._at_first_entry = at_first_entry
        self._seen = False

    def write(self, line: Any) -> int:
        if not self._seen and b'"type":"entry"' in line:
            self._seen = True
            self._at_first_entry()
        return super().write(line)


def test_an_export_is_of_one_moment(source: Any, database_url: str) -> None:
    fill(source)
    before = exported(source)
    with StateStore.open(database_url) as other:
        file = Watched(lambda: other.history.append("fork of fork", say("during it")))
        export_sessions(source, file)
    assert file.getvalue() == before
    assert source.history.read("fork of fork", last=1)[0].content == say("during it")[0]


async def test_the_event_loop_goes_on_while_a_file_is_written(database_url: str) -> None:
    async with await AsyncStateStore.open(database_url) as store:
        await store.sessions.create("a")
        await store.history.append("a", say("x"))
        meanwhile = threading.Event()
        asyncio.get_running_loop().call_later(0.01, meanwhile.set)
        await export_sessions_async(store, Watched(lambda: meanwhile.wait(20)))
        assert meanwhile.is_set()


async def test_a_cancelled_export_gives_its_connection_back(database_url: str) -> None:
    async with await AsyncStateStore.open(database_url, pool_size=1, pool_timeout=timedelta(seconds=5)) as store:
        await store.sessions.create("a")
        await store.history.append("a", say("x"))
        reached, go_on = threading.Event(), threading.Event()

        def stop_here() -> None:
            reached.set()
            assert go_on.wait(20)

        task = asyncio.create_task(export_sessions_async(store, Watched(stop_here)))
        assert await asyncio.to_thread(reached.wait, 20)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.history.count("a") == 1


async def test_a_cancelled_import_writes_nothing(database_url: str, sqlite_url: str) -> None:
    with StateStore.open(sqlite_url, namespace="source") as source:
        fill(source)
        file = exported(source)
    async with await AsyncStateStore.open(database_url) as store:
        reached, go_on = threading.Event(), threading.Event()

        def stop_here(size: int) -> None:
            reached.set()
            assert go_on.wait(20)

        task = asyncio.create_task(import_sessions_async(store, io.BytesIO(file), progress=stop_here))
        assert await asyncio.to_thread(reached.wait, 20)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.sessions.count() == 0
        await store.sessions.create("a")


async def test_an_export_from_a_single_connection_of_the_callers_is_disturbed_by_nobody() -> None:
    engine = async_engine("sqlite://", poolclass=StaticPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate.upgrade)
    store = AsyncStateStore(engine)
    for n in range(20):
        await store.sessions.create(f"s{n}")
        await store.history.append(f"s{n}", say("x"))
    file = io.BytesIO()
    totals, *stored = await asyncio.gather(
        export_sessions_async(store, file), *(store.history.append(f"s{n}", say("y")) for n in range(20))
    )
    assert totals.sessions == 20
    assert [entries[0].seq for entries in stored] == [2] * 20
    await engine.dispose()
