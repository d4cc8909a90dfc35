"""Clients that want the same rows: deadlocks, serialization failures, and histories that have to make sense."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from statestore import CommitUnknownError, StateStoreError
from tests.faults.bench import Bench
from tests.faults.table import Tally, fault
from tests.support.portal import Blocking

KEYS = 3


@contextmanager
def transaction(store: Any, **options: Any) -> Iterator[Any]:
    if not isinstance(store, Blocking):
        with store.transaction(**options) as tx:
            yield tx
        return
    with store._portal.enter(store._target.transaction(**options)) as tx:
        yield Blocking(store._portal, tx)


def run_transaction(store: Any, keys: list[str]) -> None:
    """Add one to each of some numbers, in a transaction that the store repeats as long as it has to."""

    def work(tx: Any) -> None:
        for key in keys:
            tx.state.set("numbers", key, tx.state.get("numbers", key, 0) + 1)

    async def work_async(tx: Any) -> None:
        for key in keys:
            await tx.state.set("numbers", key, await tx.state.get("numbers", key, 0) + 1)

    if isinstance(store, Blocking):
        store._portal.run(store._target.run_transaction(work_async))
    else:
        store.run_transaction(work)


def _add_in_transaction(store: Any, keys: list[str]) -> None:
    with transaction(store) as tx:
        for key in keys:
            tx.state.set("numbers", key, tx.state.get("numbers", key, 0) + 1)


def _add_without(store: Any, keys: list[str]) -> None:
    for key in keys:
        store.state.set("numbers", key, store.state.get("numbers", key, 0) + 1)


@fault("deadlocks and conflicts", short=5, long=400, control="no transaction", control_rounds=15)
def conflicts(bench: Bench) -> Tally:
    """Eight clients add to the same numbers, in any order, by `run_transaction` and by `transaction` in turn.

    A round is so many additions of each client. Read, add, write: an update that is lost shows.
    """
    store = bench.open(bench.url())
    store.sessions.create("numbers")
    counted: dict[str, int] = {f"k{number}": 0 for number in range(KEYS)}
    unknown = dict(counted)
    tally = Tally(rounds=bench.rounds)
    lock = threading.Lock()

    def client(number: int) -> None:
        chance = random.Random(number)
        for count in range(bench.rounds):
            keys = chance.sample(sorted(counted), 2)
            add: Callable[[Any, list[str]], None] = run_transaction if count % 2 else _add_in_transaction
            outcome = _repeat(store, _add_without if bench.unsafe else add, keys, bench, tally, lock)
            with lock:
                for key in keys:
                    counted[key] += outcome == "done"
                    unknown[key] += outcome == "unknown"

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120 + bench.rounds)
        if thread.is_alive():
            tally.is_hung("a client never came back")
    for key, count in counted.items():
        found = store.state.get("numbers", key, 0)
        tally.acknowledged += count
        tally.lost += max(0, count - found)
        tally.doubled += max(0, found - count - unknown[key])
    return tally


def _repeat(
    store: Any, add: Callable[[Any, list[str]], None], keys: list[str], bench: Bench, tally: Tally, lock: Any
) -> str:
    patience = time.monotonic() + 60
    while time.monotonic() < patience:
        try:
            add(store, keys)
            return "done"
        except CommitUnknownError:
            return "unknown"
        except StateStoreError as exc:
            if not exc.retryable:
                with lock:
                    tally.is_wrong(f"{type(exc).__name__}: {exc}")
                return "refused"
        except Exception as exc:
            with lock:
                tally.is_wrong(f"raw {exc!r}")
            return "unknown"
    with lock:
        tally.is_hung("refused for a minute, again and again")
    return "refused"


@dataclass
class _History:
    """Who did what, and when: appends as (list, id, began, ended), reads as (list, ids, began, ended)."""

    appends: list[tuple[str, str, float, float]] = field(default_factory=list)
    reads: list[tuple[str, list[str], float, float]] = field(default_factory=list)
    snapshots: list[tuple[list[str], list[str]]] = field(default_factory=list)


@fault("list-append histories", short=1, long=40, control="lists read and written back", control_rounds=1)
def list_append(bench: Bench) -> Tally:
    """Sixteen clients append to three lists and read them whole, alone and in transactions over two lists."""
    store = bench.open(bench.url())
    tally = Tally(rounds=bench.rounds)
    for number in bench.each_round():
        lists = [f"r{number}-{letter}" for letter in "abc"]
        for name in lists:
            store.sessions.create(name)
        history = _History()
        threads = [
            threading.Thread(target=_clients(store, history, lists, client, bench.unsafe, tally), daemon=True)
            for client in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            if thread.is_alive():
                tally.is_hung("a client never came back")
        final = {name: _read(store, name, bench.unsafe) for name in lists}
        check_history(history, final, tally)
    return tally


def _clients(
    store: Any, history: _History, lists: list[str], client: int, unsafe: bool, tally: Tally
) -> Callable[[], None]:
    chance = random.Random(f"{lists[0]}{client}")

    def run() -> None:
        for count in range(16):
            what, name = chance.random(), chance.choice(lists)
            tag = f"{client}.{count}"
            began = time.monotonic()
            try:
                if what < 0.45:
                    _append(store, name, tag, unsafe)
                    history.appends.append((name, tag, began, time.monotonic()))
                elif what < 0.6 and not unsafe:
                    _append_to_two(store, history, lists[:2], tag, began)
                elif what < 0.8 or unsafe:
                    found = _read(store, name, unsafe)
                    history.reads.append((name, found, began, time.monotonic()))
                else:
                    with transaction(store, read_only=True) as tx:
                        first, second = (_read(tx, one, unsafe) for one in lists[:2])
                    ended = time.monotonic()
                    history.reads += [(lists[0], first, began, ended), (lists[1], second, began, ended)]
                    history.snapshots.append((first, second))
            except StateStoreError as exc:
                if not exc.retryable:
                    tally.is_wrong(f"{type(exc).__name__}: {exc}")
            except Exception as exc:
                tally.is_wrong(f"raw {exc!r}")

    return run


def _append_to_two(store: Any, history: _History, lists: list[str], tag: str, began: float) -> None:
    with transaction(store) as tx:
        for name in lists:
            _append(tx, name, f"both-{tag}", False)
    ended = time.monotonic()
    history.appends += [(name, f"both-{tag}", began, ended) for name in lists]


def _append(store: Any, name: str, tag: str, unsafe: bool) -> None:
    if unsafe:
        store.state.set(name, "list", [*store.state.get(name, "list", []), tag])
    else:
        store.history.append(name, [{"role": "user", "content": tag}])


def _read(store: Any, name: str, unsafe: bool) -> list[str]:
    if unsafe:
        return list(store.state.get(name, "list", []))
    return [entry.content["content"] for entry in store.history.read(name)]


def check_history(history: _History, final: dict[str, list[str]], tally: Tally) -> None:
    """Whether there is one order of everything that explains what all of them saw, and that real time allows."""
    places = {name: {tag: place for place, tag in enumerate(tags)} for name, tags in final.items()}
    tally.acknowledged += len(history.appends)
    by_list: dict[str, list[tuple[str, float, float]]] = {name: [] for name in final}
    for name, tag, began, ended in history.appends:
        if tag not in places[name]:
            tally.lost += 1
            tally.note(f"lost: {tag} of {name}")
        else:
            by_list[name].append((tag, began, ended))
    for tags in final.values():
        tally.doubled += len(tags) - len(set(tags))
    for name, appends in by_list.items():
        # Of two appends of which one ended before the other began, it comes first.
        order = sorted(appends, key=lambda append: places[name][append[0]])
        latest = 0.0
        for tag, began, ended in order:
            if ended < latest:
                tally.is_wrong(f"{tag} of {name} stands behind an append that began after it had ended")
            latest = max(latest, began)
    for name, found, began, ended in history.reads:
        if found != final[name][: len(found)]:
            tally.is_wrong(f"a read of {name} is no beginning of what it became")
        for tag, append_began, append_ended in by_list[name]:
            if append_ended < began and places[name][tag] >= len(found):
                tally.is_wrong(f"a read of {name} missed {tag}, which had been acknowledged")
            if append_began > ended and places[name][tag] < len(found):
                tally.is_wrong(f"a read of {name} saw {tag} before it was written")
    for first, second in history.snapshots:
        if {tag for tag in first if tag.startswith("both")} != {tag for tag in second if tag.startswith("both")}:
            tally.is_wrong("a snapshot saw one half of a transaction")
