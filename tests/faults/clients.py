"""Clients that write and read all the time, hold the store to its word, and note what they were told."""

import random
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as PortalTimeoutError
from datetime import timedelta
from typing import Any

from statestore import CommitUnknownError, StateStoreError
from tests.faults.bench import TIMEOUT
from tests.faults.journal import ACKNOWLEDGED, DENIED, TRIED, UNKNOWN, Journal
from tests.faults.watch import Heartbeat

WORKS = ("append", "append", "append", "append", "batch", "increment", "transaction", "cache", "read")


class Crowd:
    """Threads that share a store and some sessions; with an async store each call is a task.

    A client does what an error says: it repeats a call if the error is `retryable`, and no other. A *blind* one does
    not, and is a control: with `repeat` it repeats after `CommitUnknownError`, too, with `done` it takes every error
    for a success. Errors that are *allowed* are what the fault is about.
    """

    def __init__(
        self,
        store: Any,
        journal: Journal,
        heartbeat: Heartbeat,
        *,
        clients: int = 6,
        sessions: int = 3,
        prefix: str = "c",
        timeout: timedelta = TIMEOUT,
        works: tuple[str, ...] = WORKS,
        blind: str = "",
        most: int | None = None,
        first: int = 0,
        pause: float = 0.0,
        repeats: bool = True,
        allowed: tuple[type[StateStoreError], ...] = (),
    ) -> None:
        self.store = store
        self.journal = journal
        self._heartbeat = heartbeat
        self._timeout = timeout.total_seconds()
        self._prefix = prefix
        self.names = [f"{prefix}-s{number}" for number in range(sessions)]
        self._works = works
        self._blind = blind
        self._most = most
        self._first = first
        self._pause = pause
        self._repeats = repeats
        self._allowed = allowed
        self._stopping = threading.Event()
        self.done = 0
        self.refused = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"client {number}", daemon=True)
            for number in range(clients)
        ]

    def prepare(self) -> None:
        """Make the sessions."""
        for session in self.names:
            self.store.sessions.open(session)

    def start(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Let every call end, and count those that do not."""
        self._stopping.set()
        until = time.monotonic() + self._timeout + 10
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self.journal.is_hung(f"{thread.name} never came back")

    def join(self) -> None:
        """Wait until each has done as much as it was to do."""
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int, seconds: float = 30.0) -> bool:
        """Wait until so many more calls have ended; False if they did not in time."""
        goal, until = self.done + more, time.monotonic() + seconds
        while self.done < goal and time.monotonic() < until:
            time.sleep(0.002)
        return self.done >= goal

    def _run(self, number: int) -> None:
        chance = random.Random(f"{self._prefix}{number}")
        client = _Client(self, number)
        count = 0
        while not self._stopping.is_set() and (self._most is None or count < self._most):
            count += 1
            work = getattr(client, chance.choice(self._works))
            work(chance.choice(self.names), f"{self._prefix}.{number}.{self._first + count}")
            self.done += 1
            if self._pause:
                time.sleep(self._pause)

    def call(self, work: Callable[[], Any], note: Callable[[str], None]) -> Any:
        """Call, and again as long as that is right; None if it came to nothing."""
        note(TRIED)
        patience = time.monotonic() + 3 * self._timeout
        while True:
            began = time.monotonic()
            try:
                answer = work()
            except CommitUnknownError:
                if self._blind != "repeat":
                    note(ACKNOWLEDGED if self._blind else UNKNOWN)
                    return None
            except StateStoreError as exc:
                self.refused += self._blind == "done"
                note(ACKNOWLEDGED if self._blind == "done" else DENIED)
                if self._blind == "done":
                    return None
                if isinstance(exc, self._allowed) and (not exc.retryable or not self._repeats):
                    self.refused += 1
                    return None
                if not exc.retryable:
                    self.journal.is_wrong(f"{type(exc).__name__}: {exc}")
                    return None
            except PortalTimeoutError:
                self.journal.is_hung("a task never came back")
                return None
            except Exception as exc:
                # No error of ours says anything about what was written, so the answer stays `tried`.
                self.journal.is_wrong(f"raw {type(exc).__module__}.{type(exc).__name__}: {exc}")
                return None
            else:
                note(ACKNOWLEDGED)
                return answer
            finally:
                took = time.monotonic() - began
                if took > self._timeout + self._heartbeat.allowed(began):
                    self.journal.is_hung(f"a call took {took:.1f} s")
            if self._stopping.is_set() or not self._repeats:
                return None
            if began > patience:
                self.journal.is_hung(f"a call was refused for {3 * self._timeout:.0f} s, again and again")
                return None
            time.sleep(0.02)


class _Client:
    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd = crowd
        self._store = crowd.store
        self._journal = crowd.journal
        self._number = number
        self._mine = f"{crowd._prefix}-{number}"
        self._cached: set[str | None] = {None}

    def append(self, session: str, tag: str, tags: list[str] | None = None, *, size: int = 50) -> None:
        tags = tags or [tag]
        entries = [{"role": "user", "content": secrets.token_hex(size // 2), "tag": one} for one in tags]
        stored = self._crowd.call(
            lambda: self._store.history.append(session, entries, create=True),
            lambda answer: self._journal.note(answer, session, tags),
        )
        if stored is not None and [(entry.session_id, entry.content["tag"]) for entry in stored] != [
            (session, one) for one in tags
        ]:
            self._journal.is_wrong(f"an append of {tags} returned others' entries")

    def large(self, session: str, tag: str) -> None:
        self.append(session, tag, size=30_000 if self._number else 300_000)

    def batch(self, session: str, tag: str) -> None:
        self.append(session, tag, [f"{tag}/{part}" for part in range(3)])

    def increment(self, session: str, tag: str) -> None:
        self._crowd.call(
            lambda: self._store.state.increment(session, "n"),
            lambda answer: self._journal.note(answer, session, [f"+{tag}"]),
        )

    def transaction(self, session: str, tag: str) -> None:
        def work() -> str:
            with self._store.transaction() as tx:
                tx.history.append(session, [{"role": "user", "content": "in a transaction", "tag": tag}], create=True)
                tx.state.set(session, self._mine, tag)
            return tag

        self._crowd.call(work, lambda answer: self._journal.note(answer, session, [tag]))

    def cache(self, session: str, tag: str) -> None:
        answers: list[str] = []
        self._crowd.call(lambda: self._store.cache.set(self._mine, tag), answers.append)
        if answers[-1] == ACKNOWLEDGED:
            self._cached = {tag}
        elif answers[-1] != DENIED:
            self._cached.add(tag)
        found = self._read(lambda: self._store.cache.get(self._mine))
        if found is not _NOTHING and found not in self._cached:
            self._journal.is_wrong(f"the cache gave {found!r} for {self._cached!r}")

    def read(self, session: str, tag: str) -> None:
        entries = self._read(lambda: self._store.history.read(session, last=10))
        if entries is _NOTHING:
            return
        for entry in entries:
            if entry.session_id != session or self._journal.sessions.get(entry.content["tag"], session) != session:
                self._journal.is_wrong(f"a read of {session} gave {entry.content['tag']}")

    def _read(self, work: Callable[[], Any]) -> Any:
        found: list[Any] = []
        self._crowd.call(lambda: found.append(work()), lambda answer: None)
        return found[0] if found else _NOTHING


_NOTHING: Any = object()
