"""What a process knows of a cache beside what is in the database: counts not yet written, and how full it is at most.

A hit is to cost one read, whatever others hold. So hits, misses and sets are noted here and written later, many in one
statement, in an operation of their own that waits for nobody: never in the caller's transaction, which would keep
others from the rows for as long as it lasts. Code that reports or uses counts adds those that are only noted.

A set is not to count the cache, so here is an upper bound of what is in it: it starts with one count, each set adds to
it, and when it reaches the limit the cache is counted again, and made smaller by more than one. It is also counted
again when a fiftieth of the limit was added since, so that several processes do not fill it to several times its limit.

One `CacheState` serves a store, another one, its branch, a transaction: what is noted in a transaction counts once that
has committed.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from statestore.checking import exactjson
from statestore.engine import process_fork
from statestore.repositories.cache.lifetimes import stamps
from statestore.repositories.cache.options import CacheOptions

MAX_PENDING: Final = 1000
"""How many different entries may have unwritten hits; in a small cache it is as many as that holds, at least 100."""
MAX_KEPT: Final = 10 * MAX_PENDING
"""How many are kept while they cannot be written. Beyond that the oldest half is forgotten."""
MAX_AGE: Final = timedelta(seconds=10)
"""How long a count may stay unwritten while the store is in use."""


UNTAGGED: Final = 2**62
"""Versions from here on are of entries that have no tags; those below say nothing."""


def new_version(*, tagged: bool) -> int:
    """A number for a write, unlike any other; as many as a statement can have rows may follow it."""
    return random.SystemRandom().getrandbits(61) + (0 if tagged else UNTAGGED)


@dataclass(slots=True)
class Pending:
    """Counts that are to be written.

    `hits` is by key and version: a number, the latest time and its stamp. `counters` is by day and agent.
    """

    hits: dict[tuple[str, int], tuple[int, datetime, int]] = field(default_factory=dict)
    counters: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.counters or self.hits)

    def hit(self, key: str, version: int, at: datetime, agent_name: str | None) -> None:
        found = self.hits.get((key, version))
        self.hits[key, version] = (found[0] + 1 if found else 1, at, stamps.take())
        self.count(at, agent_name, "hits")

    def count(self, at: datetime, agent_name: str | None, counter: str, by: int = 1) -> None:
        if by:
            counters = self.counters.setdefault((at.date().isoformat(), agent_name or ""), {})
            counters[counter] = counters.get(counter, 0) + by

    def totals(self) -> Counter[str]:
        """Over all days and agents."""
        return sum(map(Counter, self.counters.values()), Counter())

    def forget_oldest(self) -> None:
        """Of the hits keep the latest half; the counters stay."""
        latest = sorted(self.hits.items(), key=lambda item: item[1][2])[-len(self.hits) // 2 :]
        self.hits = dict(latest)

    def add(self, other: "Pending") -> None:
        for entry, (number, at, stamp) in other.hits.items():
            found = self.hits.get(entry)
            if found is not None:
                number, at, stamp = found[0] + number, max(found[1], at), max(found[2], stamp)
            self.hits[entry] = (number, at, stamp)
        for place, counters in other.counters.items():
            mine = self.counters.setdefault(place, {})
            for counter, by in counters.items():
                mine[counter] = mine.get(counter, 0) + by


_NOTHING: Final = (0, 0)


class Notes:
    """What one call has found and done: it counts once the call has succeeded.

    Attributes:
        pending: What is to be written of it.
        taken: What the call itself writes of what was noted, to be given back if it fails.
        skipped: Of that, what it could not write, since somebody else held the entries.
        booked: How many entries and bytes the call may add, which are in the bound already.
        unused: How many of the booked entries were not added after all.
        removed: How many entries and bytes the call has removed, replaced ones included.
        epoch: How often the cache had been counted when the call began.
    """

    __slots__ = ("booked", "epoch", "pending", "removed", "skipped", "taken", "unused")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.pending = Pending()
        self.taken = Pending()
        self.skipped: Pending | None = None
        self.booked = (0, 0)
        self.removed = (0, 0)
        self.unused = 0

    def remove(self, entries: int, size: int) -> None:
        self.removed = (self.removed[0] + entries, self.removed[1] + size)


@dataclass(slots=True)
class Room:
    """Whether the bound leaves room, and how much others may be about to add."""

    enough: bool
    others_entries: int
    others_bytes: int


class CacheState:
    """The counts and the bound that the operations of a store, or of one transaction, share. Safe between threads."""

    def __init__(
        self,
        options: CacheOptions,
        *,
        max_value_bytes: int = exactjson.MAX_BYTES,
        timer: Callable[[], float] = time.monotonic,
        parent: "CacheState | None" = None,
    ) -> None:
        self.options = options
        self.max_value_bytes = max_value_bytes
        self.in_transaction = parent is not None
        self._parent = parent
        self._timer = timer
        self._own_lock = threading.RLock()
        self._pending = Pending()
        # What was taken to be written, of all that was ever counted here.
        self._taken: Counter[str] = Counter()
        self._since: float | None = None
        self._not_before = 0.0
        self._most_pending = min(MAX_PENDING, max(100, options.max_entries or MAX_PENDING))
        self.has_warned = False
        # Only the store's own state has a bound; None until the cache has been counted.
        self._entries: int | None = None
        self._bytes = 0
        # How much more may be added before it is counted again, since others add, too.
        self._trust = (0, 0)
        self._epoch = 0
        # What calls under way may add, and what has ever been booked: an entry that is added while the cache is being
        # counted may be in the count or not.
        self._under_way = (0, 0)
        self._ever = (0, 0)
        # Of a transaction: to be undone with it, or to take effect with it.
        self._booked = (0, 0)
        self._removed = (0, 0)
        self._began_at = self._root._epoch
        if parent is None:
            process_fork.renew_in_child(self)

    def renew_after_fork(self) -> None:
        """In a forked child: the parent writes what was counted, and the bound has to be counted again."""
        self._own_lock = threading.RLock()
        self._pending, self._since = Pending(), None
        self._entries, self._bytes, self._trust = None, 0, (0, 0)
        self._under_way = (0, 0)

    @property
    def _root(self) -> "CacheState":
        return self._parent or self

    @property
    def _lock(self) -> threading.RLock:
        return self._root._own_lock

    # Counts

    def notes(self) -> Notes:
        return Notes(self._root._epoch)

    def is_due(self) -> bool:
        """Whether the counts should be written now."""
        since = self._since
        if since is None or self._parent is not None:
            return False
        now = self._timer()
        if now < self._not_before:
            return False
        return len(self._pending.hits) >= self._most_pending or now - since >= MAX_AGE.total_seconds()

    def may_write(self) -> bool:
        """Whether to write what is noted before it is reported: not in a transaction, nor soon after that failed."""
        return self._parent is None and bool(self._pending) and self._timer() >= self._not_before

    def put_off(self) -> None:
        """The counts could not be written: not again before some time has passed."""
        with self._lock:
            self._not_before = self._timer() + MAX_AGE.total_seconds()

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    def noted(self) -> Pending:
        """A copy of all that is noted here and, in a transaction, in its store."""
        noted = Pending()
        with self._lock:
            for state in (self._parent, self):
                if state is not None and state._pending:
                    noted.add(state._pending)
        return noted

    def hits_of(self, key: str, version: int) -> tuple[int, datetime, int] | None:
        """The hits of an entry that are only noted: a number, the latest time and its stamp."""
        noted = Pending()
        with self._lock:
            for state in (self._parent, self):
                found = None if state is None else state._pending.hits.get((key, version))
                if found is not None:
                    noted.add(Pending({(key, version): found}))
        return noted.hits.get((key, version))

    def take(self) -> Pending:
        """The unwritten counts, which the caller writes, or gives back."""
        with self._lock:
            taken, self._pending, self._since = self._pending, Pending(), None
            self._taken.update(taken.totals())
            return taken

    def totals(self) -> Counter[str]:
        """What has happened in this cache through this process since it was opened: hits, misses, sets and so on."""
        with self._lock:
            return self._taken + self._pending.totals()

    def give_back(self, taken: Pending) -> None:
        if not taken:
            return
        with self._lock:
            self._taken.subtract(taken.totals())
            taken.add(self._pending)
            self._pending = taken
            self._was_noted()

    def _was_noted(self) -> None:
        if len(self._pending.hits) > MAX_KEPT:
            self._pending.forget_oldest()
        if self._since is None:
            self._since = self._timer()

    # The bound

    def book(self, entries: int, size: int, notes: Notes) -> Room:
        """Announce that so much is to be added, and learn whether the bound says that there is room."""
        root = self._root
        with self._lock:
            room = Room(
                root._has_room(entries, size),
                root._under_way[0] - self._booked[0],
                root._under_way[1] - self._booked[1],
            )
            root._ever = _plus(root._ever, (entries, size))
            root._under_way = _plus(root._under_way, (entries, size))
            root._trust = _minus(root._trust, (entries, size))
            if root._entries is not None:
                root._entries += entries
                root._bytes += size
            notes.booked = _plus(notes.booked, (entries, size))
            return room

    def unbook(self, notes: Notes) -> None:
        """The call did nothing, and tries again otherwise."""
        root = self._root
        with self._lock:
            entries, size = notes.booked
            root._trust = _plus(root._trust, notes.booked)
            if root._entries is not None:
                root._entries -= entries
                root._bytes -= size
            self._finish(notes)

    def start_count(self) -> tuple[int, int]:
        """Begin a count of the cache; what this returns goes to `end_count`."""
        root = self._root
        with self._lock:
            root._epoch += 1
            return _minus(root._ever, root._under_way)

    def end_count(self, token: tuple[int, int], entries: int, size: int, *, own: Notes) -> None:
        """Take the count for the bound, and add what may have come since it began."""
        root = self._root
        with self._lock:
            root._epoch += 1
            own.epoch = root._epoch
            since = _minus(root._ever, token)
            if self._parent is None:
                own.removed = (0, 0)  # Before the count, so it is not to be taken off again.
            else:
                # What the transaction has removed is back if it is rolled back.
                since = _plus(since, _plus(self._removed, own.removed))
            root._entries = entries + since[0]
            root._bytes = size + since[1]
            root._trust = (self.options.spare_entries, self.options.spare_bytes)

    def settle(self, notes: Notes) -> None:
        """The call has succeeded."""
        with self._lock:
            if notes.booked != _NOTHING or notes.removed != _NOTHING:
                self._settle_bound(notes)
            if notes.pending:
                self._pending.add(notes.pending)
                self._was_noted()
            if notes.skipped:
                self.give_back(notes.skipped)

    def _settle_bound(self, notes: Notes) -> None:
        root = self._root
        if root._entries is not None:
            root._entries -= notes.unused
        spare = (self.options.spare_entries, self.options.spare_bytes)
        less = (notes.unused + notes.removed[0], notes.removed[1])
        root._trust = _least(_plus(root._trust, less), spare)
        if self._parent is None:
            self._lower(notes.removed, notes.epoch)
            self._finish(notes)
        else:
            self._removed = _plus(self._removed, notes.removed)
            root._under_way = _minus(root._under_way, (notes.unused, 0))
            self._booked = _plus(self._booked, _minus(notes.booked, (notes.unused, 0)))
            notes.booked = _NOTHING

    def fail(self, notes: Notes) -> None:
        """The call has failed, perhaps after it did its work: the bound stays."""
        with self._lock:
            self._finish(notes)
            self.give_back(notes.taken)
            notes.taken = Pending()

    # Transactions

    def branch(self) -> "CacheState":
        """The state of a transaction that begins now."""
        return CacheState(self.options, max_value_bytes=self.max_value_bytes, timer=self._timer, parent=self._root)

    def commit(self) -> None:
        """The transaction has committed."""
        assert self._parent is not None
        with self._lock:
            self._parent._lower(self._removed, self._began_at)
            self._parent._taken.update(self._pending.totals())  # It was not taken from there.
            self._parent.give_back(self._pending)
            self._release()

    def roll_back(self) -> None:
        """The transaction has not committed, or nobody knows."""
        assert self._parent is not None
        with self._lock:
            self._release()

    def _release(self) -> None:
        root = self._root
        root._under_way = _minus(root._under_way, self._booked)
        self._booked, self._pending = (0, 0), Pending()

    def _finish(self, notes: Notes) -> None:
        root = self._root
        root._under_way = _minus(root._under_way, notes.booked)
        notes.booked = (0, 0)

    def _lower(self, removed: tuple[int, int], epoch: int) -> None:
        # Counted since: what was removed may be missing in the count already.
        if self._entries is not None and epoch == self._epoch:
            self._entries -= removed[0]
            self._bytes -= removed[1]

    def _has_room(self, entries: int, size: int) -> bool:
        options = self.options
        if options.max_entries is None and options.max_bytes is None:
            return True
        if self._entries is None:
            return False
        return (
            options.max_entries is None
            or (entries <= self._trust[0] and self._entries + entries <= options.max_entries)
        ) and (options.max_bytes is None or (size <= self._trust[1] and self._bytes + size <= options.max_bytes))


def _plus(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]


def _least(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return min(a[0], b[0]), min(a[1], b[1])


def _minus(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] - b[0], a[1] - b[1]
