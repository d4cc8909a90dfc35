"""Several processes on one database."""

from concurrent.futures import ProcessPoolExecutor
from typing import Any

from statestore import NewEntry, StateStore
from tests.support.content import Content, unsound
from tests.support.crowd import apart

PROCESSES, ROUNDS = 4, 25


def work(url: str, worker: int) -> None:
    with StateStore.open(url) as store:
        for n in range(ROUNDS):
            store.history.append("s", [NewEntry([worker, n])])
            store.state.increment("s", "n")
            store.state.set("s", f"key {worker} {n}", n)
            store.sessions.fork("s", f"fork {worker} {n}")
            store.history.pop_last(f"fork {worker} {n}", 3)
            store.sessions.delete(f"fork {worker} {n}")


def test_several_processes_lose_nothing(database_url: str, content: Content) -> None:
    with StateStore.open(database_url) as store:
        store.sessions.create("s")
    with ProcessPoolExecutor(PROCESSES, mp_context=apart()) as pool:
        for result in [pool.submit(work, database_url, worker) for worker in range(PROCESSES)]:
            result.result()
    with StateStore.open(database_url) as store:
        entries = store.history.read("s")
        assert [entry.seq for entry in entries] == list(range(1, PROCESSES * ROUNDS + 1))
        assert sorted(entry.content for entry in entries) == [[w, n] for w in range(PROCESSES) for n in range(ROUNDS)]
        state = store.state.get_all("s")
        assert state.pop("n") == PROCESSES * ROUNDS
        assert len(state) == PROCESSES * ROUNDS
    assert unsound(content) == []
    assert content.sizes()["sessions"] == 1


def test_processes_that_start_at_once_on_a_new_file_all_succeed(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    with ProcessPoolExecutor(PROCESSES, mp_context=apart()) as pool:
        for result in [pool.submit(start, url, worker) for worker in range(PROCESSES)]:
            result.result()
    with StateStore.open(url) as store:
        assert store.sessions.count() == PROCESSES


def start(url: str, worker: int) -> None:
    with StateStore.open(url) as store:
        store.sessions.create(str(worker))
