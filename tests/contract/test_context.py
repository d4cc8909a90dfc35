"""The current session of an agent process."""

import logging
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from statestore import AsyncSessionContext, InvalidValueError, SessionContext, SessionNotFoundError, StateStore
from tests.support.crowd import at_once
from tests.support.portal import Blocking
from tests.support.worlds import session_context

Store = Any


@pytest.fixture
def context(store: Store) -> Any:
    return session_context(store, project_root="/project", cwd="/project/src")


def test_it_makes_a_session(store: Store, context: Any) -> None:
    session = store.sessions.get(context.session_id)
    assert (session.project_root, session.cwd) == ("/project", "/project/src")
    assert (context.project_root, context.cwd) == ("/project", "/project/src")
    assert context.session.resumed is False


def test_it_makes_a_session_with_an_id_of_the_caller_s(store: Store) -> None:
    assert session_context(store, "mine", project_root=Path("/project")).session_id == "mine"
    assert store.sessions.get("mine").cwd == "/project"


@pytest.mark.parametrize("path", [None, b"/p", 5], ids=str)
def test_a_path_is_text(store: Store, context: Any, path: Any) -> None:
    with pytest.raises(InvalidValueError):
        session_context(store, project_root=path)
    with pytest.raises(InvalidValueError):
        context.set_cwd(path)
    if path is not None:
        with pytest.raises(InvalidValueError):
            context.switch(context.session_id, path)


def test_the_directory_wanders_and_the_project_root_stays(store: Store, context: Any) -> None:
    context.set_cwd(Path("/elsewhere"))
    assert (context.project_root, context.cwd) == ("/project", "/elsewhere")
    session = store.sessions.get(context.session_id)
    assert (session.project_root, session.cwd) == ("/project", "/elsewhere")


def test_the_directory_can_be_assigned(sqlite_url: str) -> None:
    with StateStore.open(sqlite_url) as store:
        context = SessionContext(store, project_root="/project")
        context.cwd = "/elsewhere"
        assert (context.cwd, store.sessions.get(context.session_id).cwd) == ("/elsewhere", "/elsewhere")
        with pytest.raises(AttributeError):
            context.project_root = "/other"  # type: ignore[misc]


def test_a_resume_from_another_directory_finds_the_session(store: Store, context: Any) -> None:
    store.history.append(context.session_id, [{"role": "user", "content": "x"}])
    again = session_context(store, context.session_id, project_root="/checkout 2", cwd="/checkout 2/lib")
    assert again.session.resumed
    assert (again.session_id, again.project_root, again.cwd) == (context.session_id, "/project", "/checkout 2/lib")
    assert store.sessions.get(context.session_id).cwd == "/checkout 2/lib"
    assert store.history.count(again.session_id) == 1


def test_a_resume_without_a_directory_goes_back_to_the_old_one(store: Store, context: Any) -> None:
    assert session_context(store, context.session_id, project_root="/x").cwd == "/project/src"


def test_a_session_without_a_project_root_gets_one(store: Store) -> None:
    store.sessions.create("s")
    assert session_context(store, "s", project_root="/project").project_root == "/project"
    assert store.sessions.get("s").project_root == "/project"


def test_a_dead_session_is_resumed(store: Store, context: Any) -> None:
    store.sessions.terminate(context.session_id)
    assert session_context(store, context.session_id, project_root="/x").session.status == "ready"


def test_regenerate_goes_on_in_a_new_session(store: Store, context: Any) -> None:
    old = context.session_id
    store.sessions.update(old, user_id="ada", instructions="be kind", title="t", metadata={"m": 1})
    context = session_context(store, old, project_root="/x")
    store.history.append(old, [{"role": "user", "content": "x"}])
    store.state.set(old, "k", 1)
    new = context.regenerate()
    assert new == context.session_id != old
    session = store.sessions.get(new)
    assert (session.user_id, session.instructions, session.project_root, session.cwd) == (
        "ada", "be kind", "/project", "/project/src",
    )  # fmt: skip
    assert (session.title, session.metadata, session.parent_session_id) == (None, {}, None)
    assert (store.history.count(new), store.state.get_all(new)) == (0, {})
    assert store.history.count(old) == 1


def test_regenerate_as_a_child_records_the_parent(store: Store, context: Any) -> None:
    old = context.session_id
    store.history.append(old, [{"role": "user", "content": "x"}])
    store.state.set(old, "k", 1)
    new = context.regenerate(as_child=True)
    session = store.sessions.get(new)
    assert (session.parent_session_id, session.root_session_id) == (old, old)
    assert store.sessions.lineage(old).forks == (new,)
    assert (store.history.count(new), store.state.get_all(new)) == (0, {})
    assert store.history.append(new, [{"role": "user", "content": "x"}])[0].seq == 1


def test_switch_changes_id_and_project_root_together(store: Store, context: Any) -> None:
    store.sessions.create("other", project_root="/other", cwd="/other/x")
    seen = []
    context.on_switch(lambda new: seen.append((new, context.current.session_id, context.current.project_root)))
    assert context.switch("other").session_id == "other"
    assert (context.session_id, context.project_root, context.cwd) == ("other", "/other", "/other/x")
    assert seen == [("other", "other", "/other")]


def test_switch_with_a_project_root_stores_it(store: Store, context: Any) -> None:
    store.sessions.create("other", project_root="/other")
    context.switch("other", Path("/moved"))
    assert (context.project_root, store.sessions.get("other").project_root) == ("/moved", "/moved")


def test_switch_to_a_session_without_a_project_root_keeps_the_one_there_is(store: Store, context: Any) -> None:
    store.sessions.create("other")
    context.switch("other")
    assert context.project_root == "/project"


def test_switching_to_nothing_changes_nothing_and_tells_nobody(store: Store, context: Any) -> None:
    before, seen = context.current, []
    context.on_switch(seen.append)
    with pytest.raises(SessionNotFoundError):
        context.switch("missing")
    assert context.current is before
    assert seen == []


def test_each_listener_is_called_once_with_the_new_id(store: Store, context: Any) -> None:
    first: list[str] = []
    second: list[str] = []
    context.on_switch(first.append)
    context.on_switch(second.append)
    store.sessions.create("other")
    context.switch("other")
    new = context.regenerate()
    assert first == second == ["other", new]


def test_an_unsubscribed_listener_is_not_called(context: Any) -> None:
    seen: list[str] = []
    unsubscribe = context.on_switch(seen.append)
    context.on_switch(lambda new: None)
    unsubscribe()
    unsubscribe()
    context.regenerate()
    assert seen == []


def test_a_listener_that_fails_stops_neither_the_others_nor_the_switch(
    store: Store, context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(new: str) -> None:
        raise ValueError("broken")

    seen: list[str] = []
    context.on_switch(fail)
    context.on_switch(seen.append)
    with caplog.at_level(logging.ERROR, logger="statestore"):
        new = context.regenerate()
    assert seen == [new] == [context.session_id]
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_a_listener_may_switch(store: Store, context: Any) -> None:
    seen: list[str] = []
    if not isinstance(context, Blocking):

        def listener(new: str) -> None:
            seen.append(new)
            if new != "final":
                context.switch("final")

        other: Callable[[str], Any] = listener
    else:

        async def coroutine(new: str) -> None:
            seen.append(new)
            if new != "final":
                await context._target.switch("final")

        other = coroutine
    store.sessions.create("final")
    later: list[str] = []
    context.on_switch(other)
    context.on_switch(later.append)
    first = context.regenerate()
    assert seen == later == [first, "final"]
    assert context.session_id == "final"


def test_what_was_cached_for_the_old_session_is_dropped(store: Store, context: Any) -> None:
    context.session_cache["slug"] = "happy-otter"
    context.set_cwd("/elsewhere")
    assert context.session_cache == {"slug": "happy-otter"}
    old = context.session_id
    context.regenerate()
    assert context.session_cache == {}
    context.switch(old)
    assert context.session_cache == {}


def test_switching_to_the_current_session_tells_nobody(context: Any) -> None:
    seen: list[str] = []
    context.on_switch(seen.append)
    context.session_cache["k"] = 1
    context.switch(context.session_id)
    assert (seen, context.session_cache) == ([], {"k": 1})


def test_id_and_project_root_never_come_apart(store: Store, context: Any) -> None:
    for n in range(4):
        store.sessions.create(f"s{n}", project_root=f"/s{n}")
    context.switch("s0")
    torn: list[Any] = []
    told: list[str] = []
    context.on_switch(told.append)
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            current = context.current
            if current.project_root != f"/{current.session_id}":
                torn.append(current)

    def switch(number: int) -> None:
        for n in range(20):
            context.switch(f"s{(number + n) % 4}")

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    at_once(*[lambda number=number: switch(number) for number in range(4)])
    done.set()
    for watcher in watchers:
        watcher.join()
    assert torn == []
    assert told[-1] == context.session_id
    assert all(before != after for before, after in pairwise(told))


def test_one_name_serves_both_stores(store: Store, context: Any) -> None:
    kind = AsyncSessionContext if isinstance(store, Blocking) else SessionContext
    assert isinstance(getattr(context, "_target", context), kind)
