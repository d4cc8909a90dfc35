"""What our backend promises beside dogpile.cache's own suites."""

import hashlib
import multiprocessing
import os
import re
import signal
import threading
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE

from statestore import InvalidValueError, LazyStore, StateStore
from statestore.adapters.dogpile import Mutex, StatestoreBackend
from tests.support.clock import MovableClock
from tests.support.crowd import apart, at_once
from tests.support.wire import Traffic

ROOT = Path(__file__).parents[3]
fork = multiprocessing.get_context("fork")


def region_on(store: Any, **arguments: Any) -> Any:
    return make_region().configure("statestore", expiration_time=60, arguments={"store": store, **arguments})


def test_values_of_any_kind_come_back(lazy: LazyStore) -> None:
    region = region_on(lazy)
    for value in (None, "text", {"a": (1, 2)}, b"\0", 1.5):
        region.set("k", value)
        assert region.get("k") == value
    assert lazy.sync().cache.keys() == ["k"]


def test_one_of_many_processes_makes_a_value(database_url: str, tmp_path: Path) -> None:
    # On SQLite with a file that is not there yet; on PostgreSQL somebody has migrated before.
    url = f"sqlite:///{tmp_path}/new.db" if database_url.startswith("sqlite") else database_url
    log = tmp_path / "made"
    processes = [apart().Process(target=make_value, args=(url, log)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert log.read_text() == "made\n"


def make_value(url: str, log: Path) -> None:
    region = make_region().configure("statestore", arguments={"url": url, "lock_timeout": 5})

    def create() -> str:
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(0.3)
        return "value"

    assert region.get_or_create("k", create) == "value"


def test_one_of_many_threads_makes_a_value_and_only_one_of_them_asks(lazy: LazyStore) -> None:
    made, region = [], region_on(lazy)
    asked: list[str] = []
    lazy.sync().on_operation(lambda operation: asked.append(operation.name))

    def create() -> str:
        made.append(1)
        time.sleep(0.5)
        return "value"

    assert at_once(*[lambda: region.get_or_create("k", create)] * 16) == ["value"] * 16
    assert len(made) == 1
    # A lock on a key for the first time is asked for twice; then once for each of those who have waited for it.
    assert asked.count("sessions.acquire") <= 2 + 16


def test_a_lock_of_a_process_that_was_killed_is_free_after_its_time(database_url: str) -> None:
    StateStore.open(database_url).close()
    here, there = multiprocessing.Pipe()
    process = apart().Process(target=hold_lock, args=(database_url, there))
    process.start()
    assert here.recv() == "held"
    backend = StatestoreBackend({"url": database_url, "lock_timeout": 1})
    mutex = backend.get_mutex("k")
    assert mutex is not None
    assert mutex.locked()
    assert not mutex.acquire(wait=False)
    time.sleep(1.5)
    assert mutex.locked(), "a lock is held for as long as its process lives"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert mutex.acquire()
    mutex.release()
    assert not mutex.locked()
    backend.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_a_thread_makes_a_value_waits_for_the_parent_only(lazy: LazyStore) -> None:
    region = region_on(lazy)
    making, go_on = threading.Event(), threading.Event()

    def create() -> str:
        making.set()
        assert go_on.wait(40)
        return "the parent's"

    def child(forked: Any) -> None:
        mutex = region._mutex("k")
        assert not mutex.acquire(wait=False)
        forked.set()
        assert region.get_or_create("k", lambda: "the child's") == "the parent's"
        assert mutex.acquire()
        mutex.release()

    thread = threading.Thread(target=region.get_or_create, args=("k", create))
    thread.start()
    assert making.wait(20)
    forked = fork.Event()
    process = fork.Process(target=child, args=(forked,))
    process.start()
    assert forked.wait(20)
    go_on.set()
    process.join(20)
    process.kill()
    thread.join()
    assert process.exitcode == 0


def test_a_child_does_not_release_what_the_parent_holds(lazy: LazyStore) -> None:
    mutex, other = (mutex_of(StatestoreBackend({"store": lazy})) for _ in range(2))
    assert mutex.acquire()
    process = fork.Process(target=mutex.release)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert not other.acquire(wait=False)
    mutex.release()
    assert other.acquire(wait=False)
    other.release()


def hold_lock(url: str, pipe: Any) -> None:
    mutex = StatestoreBackend({"url": url, "lock_timeout": 1}).get_mutex("k")
    assert mutex is not None
    mutex.acquire()
    pipe.send("held")
    time.sleep(60)


def test_a_holder_that_was_believed_dead_does_not_release_the_lock_of_another(
    database_url: str, clock: MovableClock
) -> None:
    stores = [LazyStore(database_url, clock=clock) for _ in range(2)]
    stopped, other = (mutex_of(StatestoreBackend({"store": store, "lock_timeout": 600})) for store in stores)
    assert stopped.acquire()
    clock.advance(seconds=601)
    assert other.acquire(wait=False)
    stopped.release()
    assert other.locked()
    third = mutex_of(StatestoreBackend({"store": stores[0]}))
    assert not third.acquire(wait=False)
    other.release()
    assert third.acquire(wait=False)
    third.release()
    for store in stores:
        store.close()


def mutex_of(backend: StatestoreBackend) -> Mutex:
    found = backend.get_mutex("k")
    assert isinstance(found, Mutex)
    return found


def test_locks_are_swept_when_nobody_has_used_them_for_long(lazy: LazyStore, clock: MovableClock) -> None:
    region = region_on(lazy)
    assert region.get_or_create("k", lambda: "value") == "value"
    store = lazy.sync()
    assert store.sessions.count() == 1
    clock.advance(hours=2)
    assert store.sweep().kinds["expired_sessions"].rows == 1
    assert region.get("k", ignore_expiration=True) == "value"


def test_what_has_expired_for_the_region_is_served_while_it_is_made_again(lazy: LazyStore) -> None:
    region = make_region().configure("statestore", expiration_time=0.01, arguments={"store": lazy})
    region.set("k", "old")
    time.sleep(0.02)
    assert region.get("k") is NO_VALUE
    seen = region.get_or_create("k", lambda: region.get_or_create("k", partial(pytest.fail, "a second creator")))
    assert seen == "old"


def test_values_are_removed_after_their_ttl_and_beyond_the_limit(database_url: str) -> None:
    clock = MovableClock()
    lazy = LazyStore(database_url, clock=clock)
    region = region_on(lazy, ttl=30)
    region.set_multi({"a": 1, "b": 2})
    clock.advance(seconds=30)
    assert region.get_multi(["a", "b"]) == [NO_VALUE, NO_VALUE]
    lazy.close()
    small = make_region().configure("statestore", arguments={"url": database_url, "max_entries": 3})
    for number in range(5):
        small.set(str(number), number)
    assert [small.get(str(number)) for number in range(5)] == [NO_VALUE, NO_VALUE, 2, 3, 4]
    small.backend.close()


def test_keys_of_any_length_and_any_characters_are_kept_apart(lazy: LazyStore) -> None:
    region = region_on(lazy)
    keys = ["k" * 600, "k" * 601, "käse", "", "\0", "a\0", "\ud800", "\udfff", "\ud800" * 600]
    for key in keys:
        assert region.get_or_create(key, lambda key=key: key) == key
    assert region.get_multi(keys) == keys
    region.delete_multi(keys)
    assert region.get_multi(keys) == [NO_VALUE] * len(keys)


@pytest.mark.parametrize("key", [None, 5, b"x"])
def test_a_key_that_is_not_text_is_refused(key: Any, lazy: LazyStore) -> None:
    region = region_on(lazy)
    calls: list[Callable[[], Any]] = [
        lambda: region.get(key),
        lambda: region.get_multi([key]),
        lambda: region.set(key, 1),
        lambda: region.set_multi({key: 1}),
        lambda: region.delete(key),
        lambda: region.get_or_create(key, lambda: 1),
    ]
    for call in calls:
        with pytest.raises(InvalidValueError, match=f"^key: must be a string, not {type(key).__name__}$"):
            call()


def test_a_key_that_the_store_takes_is_its_key_and_any_other_has_one_hash() -> None:
    mangled = StatestoreBackend({"url": "sqlite://"}).key_mangler
    for key in ("k", "käse 😀", "k" * 500, "\x01", "\ud7ff\ue000"):
        assert mangled(key) == key
    assert mangled("ä" * 501) == hashlib.sha256(("ä" * 501).encode()).hexdigest()
    assert mangled("") == hashlib.sha256(b"").hexdigest()


def test_regions_of_two_namespaces_do_not_meet(database_url: str) -> None:
    one, other = (
        make_region().configure("statestore", arguments={"url": database_url, "namespace": name}) for name in "ab"
    )
    one.set("k", 1)
    assert other.get("k") is NO_VALUE
    for region in (one, other):
        region.backend.close()


def test_a_region_can_be_configured_from_a_file(database_url: str) -> None:
    settings = {
        "cache.backend": "statestore",
        "cache.arguments.url": database_url,
        "cache.arguments.ttl": "60",
        "cache.arguments.lock_timeout": "5",
        "cache.arguments.distributed_lock": "true",
    }
    region = make_region().configure_from_config(settings, "cache.")
    assert region.get_or_create("k", lambda: 1) == 1
    region.backend.close()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"url": "redis://"}, "url"),
        ({"url": "sqlite://", "ttl": 0}, "ttl"),
        ({"url": "sqlite://", "lock_timeout": 0}, "lock_timeout"),
        ({"url": "sqlite://", "max_entries": 0}, "cache_max_entries"),
        ({"url": "sqlite://", "store": "sqlite://"}, "store"),
        ({"url": ""}, r"url: is empty; is a variable not set\?"),
        (
            {"url": "sqlite://", "lock_timout": 5},
            r"have no 'lock_timout'; did you mean 'lock_timeout'\? There are url, ",
        ),
        ({"url": "sqlite://", "max_entires": 5}, "arguments: have no 'max_entires'; did you mean 'max_entries'"),
        ({"URL": "sqlite://"}, "arguments: have no 'URL'; did you mean 'url'"),
        ({"url": "sqlite://", "distributed_lock": "no"}, "distributed_lock: must be True or False"),
        ({"url": "sqlite://", "distributed_lock": None}, "distributed_lock: must be True or False"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidValueError, match=named):
        StatestoreBackend(arguments)


def test_arguments_of_other_backends_are_ignored_as_by_dogpiles_own() -> None:
    others = ("filename", "host", "port", "db", "socket_timeout", "lock_sleep", "lock_prefix", "thread_local_lock")
    StatestoreBackend({"url": "sqlite://", **dict.fromkeys((*others, "redis_expiration_time", "max_connections"))})


def test_the_cost_of_each_call(
    traffic: Traffic, connect: Callable[..., Any], clock: MovableClock, database_url: str
) -> None:
    region = region_on(connect(traffic.url, namespace="dogpile", cache_max_entries=None, clock=clock))
    region.set_multi({"a": 1, "b": 2})

    def cost(act: Callable[[], Any]) -> int:
        for _ in range(8):
            traffic.clear()
            act()
        return len(traffic.statements)

    numbers = iter(range(100))
    assert cost(lambda: region.get("a")) == 1
    assert cost(lambda: region.get_multi(["a", "b"])) == 1
    assert cost(lambda: region.get_or_create("a", partial(pytest.fail, "there is a value"))) == 1
    if database_url.startswith("postgresql"):
        assert cost(lambda: region.set("a", 1)) == 1
        assert cost(lambda: region.set_multi({"a": 1, "b": 2})) == 1
        assert cost(lambda: region.delete("a")) == 1
        mutex = region.backend.get_mutex("k")
        assert cost(lambda: (mutex.acquire(), mutex.release())) == 3
        # Reads it, makes a lock and takes it, reads again, writes, releases.
        assert cost(lambda: region.get_or_create(f"new {next(numbers)}", lambda: 1)) == 9


def test_the_backend_is_registered_by_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    where = project["entry-points"]["dogpile.cache"]["statestore"]
    assert where == f"{StatestoreBackend.__module__}:{StatestoreBackend.__name__}"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "adapters" / "dogpile.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(example, names)
    names["region"].backend.close()
