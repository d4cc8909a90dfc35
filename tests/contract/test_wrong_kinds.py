"""Arguments of the wrong kind are refused by name before anything is read or written, not by an error of Python's.

What is compared with limits, and belongs to one operation, is in `test_invalid`. This is about exports and imports,
functions and flags of the caller's, and what else is not a value to be stored.
"""

import asyncio
import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry, StateStore, Sweeper, prices_of
from statestore.portable import export_sessions as export_called
from statestore.portable import export_sessions_async, import_sessions_async, insert_session
from statestore.portable import import_sessions as import_called
from tests.support.content import Content
from tests.support.worlds import entering, export_sessions, import_sessions, iterating

Store = Any
Call = Callable[[Store, Any], Any]
Kinds = dict[str, Any]


class Untouchable(io.BytesIO):
    """A file that says whether somebody has used it."""

    used = False

    def read(self, *args: Any) -> bytes:
        self.used = True
        return super().read(*args)

    def write(self, data: Any) -> int:
        self.used = True
        return super().write(data)


class Unreadable(io.BytesIO):
    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False


class Awaited:
    """A file of a library for asyncio."""

    async def read(self, size: int = -1) -> bytes:
        raise AssertionError(size)

    async def write(self, data: bytes) -> int:
        raise AssertionError(data)


def closed() -> io.BytesIO:
    file = io.BytesIO()
    file.close()
    return file


async def awaited(*args: Any) -> None:
    raise AssertionError(args)


FILES: Kinds = {
    "None": None, "text": "sessions.jsonl", "path": Path("sessions.jsonl"), "bytes": b"{}", "int": 5,
    "text file": io.StringIO("x"), "text file with an encoding": io.TextIOWrapper(io.BytesIO()), "closed": closed(),
    "a class": io.BytesIO, "awaited": Awaited(), "neither for reading nor for writing": Unreadable(),
}  # fmt: skip
FLAGS: Kinds = {"text": "no", "int": 0, "None": None, "list": [], "float": 1.0}
FUNCTIONS: Kinds = {"int": 5, "text": "print", "True": True, "list": [print], "coroutine function": awaited}
REQUIRED_FUNCTIONS: Kinds = FUNCTIONS | {"None": None}
IDS: Kinds = {"int": 5, "text": "s", "bytes": b"s", "an int in a list": [5], "empty in a list": [""],
              "lone surrogate in a list": ["\ud800"], "NUL in a list": ["a\0"], "too long": ["x" * 513]}  # fmt: skip
USERS: Kinds = {"int": 5, "list": ["ada"], "bytes": b"ada", "True": True, "empty": "", "lone surrogate": "\ud800",
                "NUL": "a\0", "long": "x" * 513, "timedelta": timedelta.max}  # fmt: skip
NAMESPACES: Kinds = {"int": 5, "bytes": b"a", "none": [], "an int in a list": [5], "empty": "", "long": "x" * 513}
JOBS: Kinds = {"zero": 0, "65": 65, "text": "2", "None": None, "True": True, "float": 1.0, "negative": -1}
RENAMES: Kinds = {"text": "a=b", "int": 5, "list": ["a"], "pairs": [("a", "b")], "an int as a name": {5: "b"},
                  "None as a name": {"a": None}, "a list as a name": {"a": ["b"]}, "an empty name": {"a": ""},
                  "a name that becomes a prefix": {"a": "b*"}}  # fmt: skip
TIMES: Kinds = {"int": 5, "text": "1h", "zero": timedelta(0), "negative": timedelta(-1), "True": True,
                "longer than the calendar": timedelta.max}  # fmt: skip
COUNTS: Kinds = {"text": "1", "negative": -1, "float": 1.0, "True": True, "list": [1]}


def into(store: Store, **how: Any) -> None:
    """An import whose file is not touched."""
    file = Untouchable(b"not an export")
    try:
        import_sessions(store, file, **how)
    finally:
        assert not file.used


def out_of(store: Store, **which: Any) -> None:
    """An export that writes nothing."""
    file = Untouchable()
    try:
        export_sessions(store, file, **which)
    finally:
        assert not file.used


def window(store: Store, **options: Any) -> None:
    store.history.window("s", **options)


def turn(store: Store, **options: Any) -> None:
    with entering(store, store.turn("s", **options)):
        raise AssertionError("nobody comes so far")


def transaction(store: Store, read_only: Any) -> None:
    with store.transaction(read_only=read_only):
        raise AssertionError("nobody comes so far")


def followed(store: Store, **options: Any) -> None:
    next(iterating(store, store.history.follow("s", **{"timeout": timedelta(seconds=1), **options})))


# By the argument that is named: how to call with it, and what it cannot be.
TABLE: list[tuple[str, str, Call, Kinds]] = [
    ("file", "export_sessions", export_sessions, FILES),
    ("session_ids", "export_sessions", lambda store, v: out_of(store, session_ids=v), IDS),
    ("user_id", "export_sessions", lambda store, v: out_of(store, user_id=v), USERS),
    ("namespaces", "export_sessions", lambda store, v: out_of(store, namespaces=v), NAMESPACES),
    ("jobs", "export_sessions", lambda store, v: out_of(store, jobs=v), JOBS),
    ("expect", "export_sessions", lambda store, v: out_of(store, expect=v), REQUIRED_FUNCTIONS),
    ("progress", "export_sessions", lambda store, v: out_of(store, progress=v), REQUIRED_FUNCTIONS),
    ("file", "import_sessions", import_sessions, FILES),
    ("replace", "import_sessions", lambda store, v: into(store, replace=v), FLAGS),
    ("resume", "import_sessions", lambda store, v: into(store, resume=v), FLAGS),
    ("jobs", "import_sessions", lambda store, v: into(store, jobs=v), JOBS),
    ("rename", "import_sessions", lambda store, v: into(store, rename=v), RENAMES),
    ("progress", "import_sessions", lambda store, v: into(store, progress=v), REQUIRED_FUNCTIONS),
    ("with_state", "fork", lambda store, v: store.sessions.fork("s", "n", with_state=v), FLAGS),
    ("as_part", "fork", lambda store, v: store.sessions.fork("s", "n", as_part=v), FLAGS),
    ("create", "save", lambda store, v: store.sessions.save(store.sessions.load("s"), create=v), FLAGS),
    ("progress", "delete_user", lambda store, v: store.sessions.delete_user("ada", progress=v), FUNCTIONS),
    ("include_parts", "page", lambda store, v: store.sessions.page(include_parts=v), FLAGS),
    ("descending", "page", lambda store, v: store.sessions.page(descending=v), FLAGS),
    ("with_total", "page", lambda store, v: store.sessions.page(with_total=v), FLAGS),
    ("include_parts", "count", lambda store, v: store.sessions.count(include_parts=v), FLAGS),
    ("descending", "state.keys", lambda store, v: store.state.keys("s", descending=v), FLAGS),
    ("descending", "state.entries", lambda store, v: store.state.entries("s", descending=v), FLAGS),
    ("values", "cache.entries", lambda store, v: store.cache.entries(values=v), FLAGS),
    ("include_expired", "locate_many", lambda store, v: store.history.locate_many(["x"], include_expired=v), FLAGS),
    ("keep_system", "window", lambda store, v: window(store, keep_system=v), FLAGS),
    ("keep_newest", "window", lambda store, v: window(store, keep_newest=v), FLAGS),
    ("include_summaries", "window", lambda store, v: window(store, include_summaries=v), FLAGS),
    ("keep_system", "turn", lambda store, v: turn(store, keep_system=v), FLAGS),
    ("tokenizer", "turn", lambda store, v: turn(store, tokenizer=v), {"int": 5, "text": "len"}),
    ("create", "turn", lambda store, v: turn(store, create=v), FLAGS),
    ("after", "follow", lambda store, v: followed(store, after=v), COUNTS),
    ("timeout", "follow", lambda store, v: followed(store, timeout=v), TIMES),
    ("read_only", "transaction", transaction, FLAGS),
    ("work", "run_transaction", lambda store, v: store.run_transaction(v), {"int": 5, "None": None, "text": "x"}),
    ("writes", "ping", lambda store, v: store.ping(writes=v), FLAGS),
    ("batch_size", "sweep", lambda store, v: store.sweep(batch_size=v), COUNTS | {"zero": 0, "None": None}),
    ("time_budget", "sweep", lambda store, v: store.sweep(time_budget=v), TIMES),
    ("dry_run", "sweep", lambda store, v: store.sweep(dry_run=v), FLAGS),
    ("progress", "sweep", lambda store, v: store.sweep(progress=v), FUNCTIONS),
    ("all_namespaces", "sweep", lambda store, v: store.sweep(all_namespaces=v), FLAGS),
    ("namespaces", "sweep", lambda store, v: store.sweep(namespaces=v), NAMESPACES),
    ("max_clock_gap", "sweep", lambda store, v: store.sweep(max_clock_gap=v), TIMES),
    ("max_inactivity", "cleanup_inactive", lambda store, v: store.cleanup_inactive(v), TIMES | {"None": None}),
    ("max_idle", "set_retention", lambda store, v: store.set_retention(v), TIMES),
    ("progress", "drop_namespace", lambda store, v: store.drop_namespace("x", progress=v), FUNCTIONS),
    ("include_parts", "usage.totals", lambda store, v: store.usage.totals(include_parts=v), FLAGS),
    ("daily", "usage.by_user", lambda store, v: store.usage.by_user(daily=v), FLAGS),
]  # fmt: skip


@pytest.fixture
def full(store: Store) -> Store:
    """A store with something in it that nobody may touch."""
    store.sessions.create("s", user_id="ada")
    store.history.append("s", [NewEntry("a"), NewEntry("b")])
    store.state.set("s", "k", 1)
    return store


def test_an_argument_of_the_wrong_kind_is_named_and_nothing_is_written(
    full: Store, content: Content, subtests: pytest.Subtests
) -> None:
    before = content.snapshot()
    for argument, name, call, kinds in TABLE:
        for kind, value in kinds.items():
            with subtests.test(f"{name} {argument}: {kind}"):
                with pytest.raises(InvalidValueError) as caught:
                    call(full, value)
                assert caught.value.argument.split("[")[0] == argument
                assert kinds is not TIMES or "expiry" not in str(caught.value)
    assert content.snapshot() == before


NO_STORES: Kinds = {"None": None, "text": "sqlite://", "int": 5, "a class": StateStore}


def test_what_is_not_a_store_is_refused_and_the_message_says_which_function_takes_it(
    sqlite_url: str, subtests: pytest.Subtests
) -> None:
    def asynchronous(function: Callable[..., Any]) -> Call:
        return lambda store, file: asyncio.run(function(store, file))

    calls: dict[str, Call] = {
        "export_sessions": export_called,
        "import_sessions": import_called,
        "export_sessions_async": asynchronous(export_sessions_async),
        "import_sessions_async": asynchronous(import_sessions_async),
    }
    with StateStore.open(sqlite_url) as store:
        for name, call in calls.items():
            others = NO_STORES | ({"the other world's": store} if name.endswith("_async") else {})
            for kind, value in others.items():
                file = Untouchable(b"{}")
                with subtests.test(f"{name}: {kind}"):
                    with pytest.raises(InvalidValueError) as caught:
                        call(value, file)
                    assert caught.value.argument == "store"
                    assert not file.used
        with pytest.raises(
            InvalidValueError, match=r"^store: must be an AsyncStateStore, .*; export_sessions takes one$"
        ):
            asyncio.run(export_sessions_async(store, io.BytesIO()))  # type: ignore[arg-type]


def test_a_file_for_text_is_refused_with_the_mode_to_open_it_in(full: Store, tmp_path: Path) -> None:
    with (
        (tmp_path / "sessions.jsonl").open("w", encoding="utf-8") as file,
        pytest.raises(InvalidValueError, match=r"^file: is open for writing text, .* open\(path, 'wb'\)"),
    ):
        export_sessions(full, file)  # type: ignore[arg-type]
    assert (tmp_path / "sessions.jsonl").read_bytes() == b""
    with (
        (tmp_path / "sessions.jsonl").open("rb") as file,
        pytest.raises(InvalidValueError, match=r"^file: is not open for writing"),
    ):
        export_sessions(full, file)


def test_ids_may_come_from_any_iterable_and_more_than_once(full: Store) -> None:
    full.sessions.create("t")
    full.sessions.create("u")
    file = io.BytesIO()
    assert export_sessions(full, file, session_ids=(name for name in ("t", "s", "t"))).sessions == 2


def test_a_saved_session_is_told_from_other_things(sqlite_url: str, subtests: pytest.Subtests) -> None:
    with StateStore.open(sqlite_url) as store:
        for argument, values in {
            "store": NO_STORES,
            "session": {
                "None": None,
                "dict": {"session_id": "s"},
                "text": "s",
                "a session": store.sessions.create("x"),
            },
            "replace": FLAGS,
        }.items():
            for kind, value in values.items():
                given: dict[str, Any] = {"store": store, "session": None, argument: value}
                with subtests.test(f"{argument}: {kind}"):
                    with pytest.raises(InvalidValueError) as caught:
                        insert_session(given.pop("store"), given.pop("session"), **given)
                    assert caught.value.argument.split("[")[0] == argument


def test_a_sweeper_refuses_what_it_could_not_call(sqlite_url: str, subtests: pytest.Subtests) -> None:
    every = timedelta(minutes=1)
    table: dict[str, Kinds] = {
        "store": NO_STORES,
        "every": TIMES | {"None": None},
        "jitter": TIMES,
        "batch_size": COUNTS | {"zero": 0, "None": None},
        "time_budget": TIMES,
        "on_sweep": FUNCTIONS,
        "on_error": FUNCTIONS,
        "all_namespaces": FLAGS,
        "namespaces": NAMESPACES,
        "max_clock_gap": TIMES,
    }
    del table["jitter"]["zero"]
    with StateStore.open(sqlite_url) as store:
        for argument, kinds in table.items():
            for kind, value in kinds.items():
                with subtests.test(f"{argument}: {kind}"):
                    with pytest.raises(InvalidValueError) as caught:
                        Sweeper(**{"store": store, "every": every, argument: value})
                    assert caught.value.argument.split("[")[0] == argument
                    assert "expiry" not in str(caught.value)


def test_prices_of_refuses_what_is_not_an_engine(sqlite_url: str) -> None:
    for value in (None, sqlite_url, 5, StateStore):
        with pytest.raises(InvalidValueError, match=r"^engine: "):
            prices_of(value)  # type: ignore[call-overload]
