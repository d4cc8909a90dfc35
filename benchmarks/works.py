"""What is measured: each piece of work in terms of the subjects' verbs."""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks import data

Step = Callable[[Any, int, int], Any]
"""Does one operation: the subject's handle, which of the concurrent callers this is, and a number that counts up."""

Group = Literal["single", "concurrent", "grown", "cache"]


@dataclass(frozen=True)
class Work:
    """A piece of work. With several *steps*, each caller does one after the other, and each counts as an operation."""

    name: str
    title: str
    verbs: tuple[str, ...]
    steps: tuple[Step, ...]
    group: Group = "single"
    callers: int = 1
    most: int = 400
    """The most operations of a batch: what grows by them must not become something else."""
    least: int = 2
    prepare: Callable[[Any, int], Any] | None = None
    """What has to be there for the next so many operations; not timed."""


_fresh = itertools.count()


def fresh(prefix: str) -> str:
    """An id that nobody has used, in this process or another."""
    return f"{prefix}-{os.getpid()}-{next(_fresh)}"


def _append(handle: Any, caller: int, number: int) -> Any:
    return handle.append(data.session(number), [data.message(number)])


def _append_own(handle: Any, caller: int, number: int) -> Any:
    return handle.append(data.session(caller), [data.message(number)])


def _append_one(handle: Any, caller: int, number: int) -> Any:
    return handle.append(data.session(0), [data.message(number)])


def _read_own(handle: Any, caller: int, number: int) -> Any:
    return handle.read(data.session(caller), last=20)


def _read_one(handle: Any, caller: int, number: int) -> Any:
    return handle.read(data.session(0), last=20)


def _fork(size: int) -> Work:
    step: Step = lambda s, c, n: s.fork(data.sized(size), fresh("fork"))  # noqa: E731
    return Work(f"fork_{size}", f"fork {size:,}", ("fork",), (step,), most=80)


def _read_fork(depth: int) -> Work:
    title = f"read the last 20 at depth {depth}" if depth else "read the last 20, unforked"
    step: Step = lambda s, c, n: s.read(data.fork_at(depth), last=20)  # noqa: E731
    return Work(f"read_fork_{depth}", title, ("fork", "read"), (step,))


SINGLE = (
    Work("create", "create a session", ("create",), (lambda s, c, n: s.create(fresh("new")),)),
    Work("append_1", "append 1 to a session of 200", ("append",), (_append,), most=200),
    Work("append_10", "append 10", ("append",), (lambda s, c, n: s.append(data.session(n), data.messages(n, 10)),),
         most=20),
    Work("read_20", "read the last 20 of 200", ("read",), (lambda s, c, n: s.read(data.reading(n), last=20),)),
    Work("select_contents_20", "the contents of the last 20 of 200, decoded by the driver or `json`",
         ("select_contents",), (lambda s, c, n: s.select_contents(data.reading(n), last=20),)),
    Work("messages_20", "the contents of the last 20 of 200, decoded by orjson", ("messages",),
         (lambda s, c, n: s.messages(data.reading(n), last=20),)),
    Work("read_20_of_10000", "read the last 20 of 10,000", ("seeded", "read"),
         (lambda s, c, n: s.read(data.sized(data.LONG), last=20),)),
    Work("read_all", "read all 200", ("read",), (lambda s, c, n: s.read(data.reading(n)),)),
    Work("state_get", "state get", ("get",), (lambda s, c, n: s.get(data.reading(n), data.state_key(n)),)),
    Work("state_set", "state set", ("set",),
         (lambda s, c, n: s.set(data.session(n), data.state_key(n), data.state_value(n)),)),
    Work("cache_hit", "cache hit", ("cache_get",), (lambda s, c, n: s.cache_get(data.cache_key(n)),)),
    Work("cache_set", "cache set", ("cache_set",),
         (lambda s, c, n: s.cache_set(data.cache_key(n), data.cache_value(n)),)),
    *(_fork(size) for size in data.FORK_SIZES),
    *(_read_fork(depth) for depth in (0, 1, 8)),
)  # fmt: skip


def _concurrent(callers: int) -> tuple[Work, ...]:
    people = f"{callers} callers" if callers > 1 else "1 caller"
    different = (
        Work(f"mixed_{callers}", f"append + read 20, {people}", ("append", "read"), (_append_own, _read_own),
             "concurrent", callers),
        Work(f"appends_{callers}", f"append, {people}", ("append",), (_append_own,), "concurrent", callers),
    )  # fmt: skip
    if callers == 1:
        return different
    return (
        *different,
        Work(f"mixed_{callers}_on_one", f"append + read 20, {people}, one session", ("append", "read"),
             (_append_one, _read_one), "concurrent", callers),
        Work(f"appends_{callers}_on_one", f"append, {people}, one session", ("append",), (_append_one,),
             "concurrent", callers),
    )  # fmt: skip


CONCURRENT = tuple(work for callers in (1, 8, 32) for work in _concurrent(callers))

# On few rows and on many, in databases of the same shape.
GROWN = (
    Work("grown_append", "append 1", ("append",),
         (lambda s, c, n: s.append(data.spread(n), [data.message(n)]),), "grown", most=200),
    Work("grown_read", "read the last 20", ("read",), (lambda s, c, n: s.read(data.spread(n), last=20),), "grown"),
    Work("grown_get", "state get", ("get",), (lambda s, c, n: s.get(data.spread(n), data.state_key(n)),), "grown"),
    Work("grown_hit", "cache hit", ("cache_get",), (lambda s, c, n: s.cache_get(data.spread_key(n)),), "grown"),
    Work("page", "a user's 50 newest of 1,000 sessions", ("page",), (lambda s, c, n: s.page("user-0"),), "grown"),
)  # fmt: skip


def _fill_tags(subject: Any, count: int) -> Any:
    return subject.cache_fill([fresh("tag") for _ in range(count)], data.TAG_SIZE)


CACHE = (
    Work("invalidate_tag", "invalidate a tag of 1,000 among 100,000 entries", ("cache_invalidate_tag", "cache_fill"),
         (lambda s, c, n: s.cache_invalidate_tag(s.next_tag()),), "cache", most=4, least=4, prepare=_fill_tags),
    Work("sweep", "sweep 10,000 expired entries", ("sweep", "cache_expire"),
         (lambda s, c, n: s.sweep(),), "cache", most=1, least=1,
         prepare=lambda s, count: s.cache_expire(data.SWEEP_SIZE)),
)  # fmt: skip

ALL = SINGLE + CONCURRENT + GROWN + CACHE
BY_NAME = {work.name: work for work in ALL}

QUICK = (
    *("append_1", "read_20", "select_contents_20", "messages_20", "read_all"),
    *("state_get", "state_set", "cache_hit", "cache_set"),
    *("fork_10", "fork_10000", "read_fork_0", "read_fork_8", "mixed_32", "appends_32"),
)
"""What the table of the goals needs, as far as it goes without peers and without a million rows."""
