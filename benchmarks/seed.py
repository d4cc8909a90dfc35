"""The data that is there before anything is measured. One seeded database is made, and each subject gets a copy."""

from datetime import timedelta
from pathlib import Path

from benchmarks import data
from statestore import StateStore, migrate


def seed(url: str) -> None:
    """Fill an empty database, through the public API."""
    if not url.startswith("sqlite"):
        migrate.upgrade(url)
    with StateStore.open(url, durability="normal") as store:
        for number in range(data.SESSIONS):
            _conversation(store, data.session(number), 200)
        for number in range(data.READING):
            _conversation(store, data.reading(number), 200)
        for size in data.FORK_SIZES:
            _conversation(store, data.sized(size), size)
        _forks(store)
        for number in range(data.SESSIONS):
            for key in range(data.STATE_KEYS):
                store.state.set(data.session(number), data.state_key(key), data.state_value(key))
        for number in range(data.READING):
            for key in range(data.STATE_KEYS):
                store.state.set(data.reading(number), data.state_key(key), data.state_value(key))
        if hasattr(store, "cache"):
            for number in range(1_000):
                store.cache.set(data.cache_key(number), data.cache_value(number), ttl=timedelta(days=1))


def _conversation(store: StateStore, session_id: str, entries: int) -> None:
    store.sessions.create(session_id, user_id="user")
    for start in range(0, entries, 500):
        count = min(500, entries - start)
        store.history.append(session_id, [data.message(start + index) for index in range(count)])


def _forks(store: StateStore) -> None:
    """Sessions of 208 entries at depth 0, 1 and 8: at each fork on the way one more entry was added."""
    _conversation(store, data.fork_at(0), 208)
    _conversation(store, "fork-root", 200)
    source = "fork-root"
    for depth in range(1, 9):
        fork_id = f"fork-step-{depth}" if depth not in (1, 8) else data.fork_at(depth)
        store.sessions.fork(source, fork_id)
        store.history.append(fork_id, [data.message(depth)])
        source = fork_id
    store.history.append(data.fork_at(1), data.messages(0, 7))


def copy_sqlite(template: Path, copy: Path) -> str:
    copy.write_bytes(template.read_bytes())
    return f"sqlite:///{copy}"
