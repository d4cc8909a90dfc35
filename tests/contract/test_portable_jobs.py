"""Exports and imports by several processes, of files that are compressed, and of imports that were cut off."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from statestore import InvalidValueError, NewEntry, SessionExistsError, StateStore, Usage, portable
from statestore.checking.codec import zstd
from statestore.portable import files, imports, jobs
from tests.conftest import SQLITE
from tests.support.content import Content, unsound
from tests.support.crowd import apart
from tests.support.worlds import export_sessions, import_sessions

pytestmark = pytest.mark.usefixtures("warm_python")

Store = Any

SESSIONS = 240
# One of ten has a fork, and one is deleted.
EXPORTED = SESSIONS + SESSIONS // 10 - 1
# Of a part of a file, which is a task, too: two dozen parts.
LINES = 40
# Where the subject is the processes, or what comes before them: an awaited call only waits for the same function.
CALLED = pytest.mark.parametrize("world", ["sync"], indirect=True)


@pytest.fixture
def source(database_url: str, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Store:
    """Three pages of sessions, each of which is a task for a process."""
    monkeypatch.setattr("statestore.portable.exports.PAGE", 100)
    store = connect(database_url, namespace="source")
    fill(store, SESSIONS)
    return store


def fill(store: Store, sessions: int) -> None:
    with store.transaction() as tx:
        for n in range(sessions):
            tx.sessions.create(f"s{n:04}")
            tx.history.append(f"s{n:04}", [NewEntry("x", usage=Usage(input_tokens=1))] * (1 + n % 3))
            if n % 10 == 9:
                tx.state.set(f"s{n:04}", "k", n)
                tx.sessions.fork(f"s{n:04}", f"f{n:04}")
                tx.history.append(f"f{n:04}", [NewEntry("y")])
        tx.sessions.delete("s0001")


def exported(store: Store, **which: Any) -> bytes:
    file = io.BytesIO()
    export_sessions(store, file, **which)
    return file.getvalue()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statestore.portable.files._LINES", LINES)


def test_several_processes_write_the_same_file(source: Store) -> None:
    lines: list[int] = []
    assert exported(source, jobs=2, progress=lines.append) == (whole := exported(source))
    assert sum(lines) == len(whole.splitlines()) - 2


@CALLED
@pytest.mark.parametrize("database_url", [SQLITE], indirect=True)
def test_processes_import_nothing_from_the_current_directory(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in "tempfile", "orjson", "statestore":
        (tmp_path / f"{module}.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(jobs, "sys", sys)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert exported(source, jobs=2, session_ids=["s0009"]) == exported(source, session_ids=["s0009"])


@CALLED
def test_all_processes_export_one_moment(source: Store, database_url: str) -> None:
    before = exported(source)
    with StateStore.open(database_url, namespace="source") as other:

        def change(lines: int) -> None:
            for n in 20, 140, 220:
                other.history.append(f"s{n:04}", [NewEntry("during it")])

        assert exported(source, jobs=2, expect=change) == before


@pytest.mark.parametrize("how", [{}, {"replace": True}, {"resume": True}], ids=str)
def test_several_processes_import_what_one_does(
    source: Store, database_url: str, connect: Callable[..., Any], small_parts: None, how: dict[str, bool]
) -> None:
    file = exported(source)
    target = connect(database_url, namespace="target")
    if how.get("replace"):
        target.sessions.create("s0003")
    read: list[int] = []
    totals = import_sessions(target, io.BytesIO(file), jobs=2, progress=read.append, **how)
    assert totals.sessions == EXPORTED
    assert sum(read) > 1.9 * len(file)
    assert exported(target) == file
    with Content(database_url) as content:
        assert content.rows("store_settings") == []
        assert unsound(content, "target") == []


@CALLED
def test_a_session_that_exists_is_found_before_anything_is_written(
    source: Store, database_url: str, connect: Callable[..., Any], small_parts: None
) -> None:
    file = exported(source)
    target = connect(database_url, namespace="target")
    target.sessions.create("s0177")
    for how in {"jobs": 2}, {"resume": True}:
        with pytest.raises(SessionExistsError) as caught:
            import_sessions(target, io.BytesIO(file), **how)
        assert caught.value.session_id == "s0177"
        assert target.sessions.count() == 1


@CALLED
def test_what_a_process_finds_wrong_comes_out(source: Store, database_url: str, connect: Callable[..., Any]) -> None:
    lines = exported(source).splitlines(keepends=True)
    state = next(n for n, line in enumerate(lines) if b'"type":"state"' in line)
    lines.insert(state, lines[state])
    end = json.loads(lines[-1])
    file = b"".join(lines[:-1]) + json.dumps({**end, "lines": end["lines"] + 1}).encode()
    target = connect(database_url, namespace="target")
    with pytest.raises(InvalidValueError, match=r"^line \d+ to line \d+: was refused by the database"):
        import_sessions(target, io.BytesIO(file), jobs=2)


def test_processes_wait_and_check_as_their_store_does(tmp_path: Path) -> None:
    url, shortly = f"sqlite:///{tmp_path / 'x.db'}", timedelta(seconds=0.25)
    options: dict[str, Any] = {
        **dict.fromkeys(("pool_timeout", "lock_timeout", "statement_timeout", "retry_for"), shortly),
        **{"timeout": 7, "slow_call": timedelta(seconds=2), "durability": "normal"},
        **{"max_value_bytes": 5000, "json": "lenient", "namespace": "x", "clock": lambda: datetime.now(UTC)},
    }
    with StateStore.open(url, **options) as store:
        told = json.loads(json.dumps(jobs.begin(store._database, {})))
        worker = jobs._Worker(told)
        assert worker._store._database.waits == store._database.waits
        ours, theirs = store._database.settings, worker._store._database.settings
        assert (theirs.max_value_bytes, theirs.passed_on) == (ours.max_value_bytes, ours.passed_on)
        assert theirs.max_value_bytes.lenient
        worker._stack.close()


def test_a_process_whose_first_one_was_killed_says_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", jobs._MAIN]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with (
        StateStore.open(f"sqlite:///{tmp_path / 'x.db'}") as store,
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, **pipes) as worker,
    ):
        worker.stdout.close()
        worker.stdin.write(json.dumps(jobs.begin(store._database, {})).encode() + b"\n")
        worker.stdin.close()
        assert worker.stderr.read() == b""
        assert worker.wait() == 0


def test_where_no_other_process_can_come_jobs_are_refused(tmp_path: Path) -> None:
    with StateStore.open("sqlite://") as store:
        with pytest.raises(InvalidValueError, match=r"^jobs: needs a store"):
            export_sessions(store, io.BytesIO(), jobs=2)
        with pytest.raises(InvalidValueError, match=r"^jobs: must be"):
            import_sessions(store, io.BytesIO(), jobs=0)
    url = f"sqlite:///{tmp_path / 'x.db'}"
    StateStore.open(url).close()
    engine = create_engine(url)
    with pytest.raises(InvalidValueError, match=r"^jobs: needs a store"):
        export_sessions(StateStore(engine), io.BytesIO(), jobs=2)
    engine.dispose()


def import_until_killed(url: str, path: Path, jobs: int, at: float) -> None:
    """Begin an import, or go on with it, and be killed when so much of the file has been read. It is read twice."""
    files._LINES = LINES
    size = 0

    def progress(read: int) -> None:
        nonlocal size
        size += read
        if size > at * path.stat().st_size:
            os.kill(os.getpid(), signal.SIGKILL)

    with StateStore.open(url, namespace="target") as store, path.open("rb") as file:
        portable.import_sessions(store, file, jobs=jobs, resume=True, progress=progress)


# Whoever is killed is a process of its own, of no world; what goes on does so in both.
@pytest.mark.parametrize(("world", "jobs"), [("sync", 1), ("async", 1), ("sync", 2)], indirect=["world"])
def test_an_import_whose_process_was_killed_goes_on(
    source: Store, database_url: str, connect: Callable[..., Any], tmp_path: Path, small_parts: None, jobs: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(exported(source))
    target = connect(database_url, namespace="target")
    seen = 0
    for at in 1.3, 1.6:
        killed = apart().Process(target=import_until_killed, args=(database_url, path, jobs, at))
        killed.start()
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
        assert seen < target.sessions.count(include_parts=True) <= EXPORTED
        seen = target.sessions.count(include_parts=True)
    marked = target.sessions.page(limit=1, order_by="created_at").sessions[0].session_id
    target.state.set(marked, "since", 1)
    with path.open("rb") as file:
        totals = import_sessions(target, file, resume=True, jobs=jobs)
    assert 0 < totals.sessions <= EXPORTED - seen + 1
    assert target.state.get(marked, "since") == 1
    target.state.delete(marked, "since")
    lines, before = exported(target).splitlines(), path.read_bytes().splitlines()
    assert [line for line in lines if b'"type":"session"' not in line] == [
        line for line in before if b'"type":"session"' not in line
    ]
    assert target.usage.totals() == source.usage.totals()
    with Content(database_url) as content:
        assert content.rows("store_settings") == []


@pytest.mark.parametrize(("world", "jobs"), [("sync", 1), ("async", 1), ("sync", 2)], indirect=["world"])
@pytest.mark.parametrize("when", ["before it looks", "after"])
def test_a_part_that_a_process_of_a_killed_import_brings_meanwhile_is_left_alone(
    source: Store,
    database_url: str,
    connect: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    small_parts: None,
    jobs: int,
    when: str,
) -> None:
    target, file = connect(database_url, namespace="target"), io.BytesIO(exported(source))
    whole = portable.parts_left

    def parts_left(survey: Any, *given: Any) -> Any:
        flow, answer = whole(survey, *given), None
        for step in count():
            try:
                asked = flow.send(answer)
            except StopIteration as end:
                left = end.value
                break
            if step == 1 and when == "before it looks":  # It has read what is marked.
                bring(next(iter(survey.parts())), imports.Mark(survey.namespace, survey.digest, 0))
            answer = yield asked
        if when == "after":
            bring(*left[0])
        return left

    def bring(part: Any, mark: Any) -> None:
        with StateStore.open(database_url, namespace="target") as dying:
            imports.bring_part(dying, part, replace=False, mark=mark)

    monkeypatch.setattr(portable, "parts_left", parts_left)
    totals = import_sessions(target, file, resume=True, jobs=jobs)
    assert 0 < totals.sessions < EXPORTED
    assert target.sessions.count(include_parts=True) == EXPORTED
    assert target.usage.totals() == source.usage.totals()


@CALLED
@pytest.mark.parametrize(("through", "jobs"), [("file", 2), ("pipe", 1), ("pipe", 2)])
def test_a_compressed_file_is_imported(
    source: Store, database_url: str, connect: Callable[..., Any], jobs: int, through: str
) -> None:
    file = exported(source)
    packed = zstd.compress(file)
    target = connect(database_url, namespace="target")
    if through == "file":
        import_sessions(target, io.BytesIO(packed), jobs=jobs)
    else:
        reader, writer = os.pipe()

        def feed() -> None:
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(packed)

        feeding = threading.Thread(target=feed)
        feeding.start()
        with os.fdopen(reader, "rb") as pipe:
            import_sessions(target, pipe, jobs=jobs)
        feeding.join()
    assert exported(target) == file


@CALLED
def test_a_compressed_file_that_was_cut_off_is_refused(source: Store) -> None:
    packed = zstd.compress(exported(source))
    with pytest.raises(InvalidValueError, match=r"^file: is not a whole file of zstd"):
        import_sessions(source, io.BytesIO(packed[:-10]), replace=True)
