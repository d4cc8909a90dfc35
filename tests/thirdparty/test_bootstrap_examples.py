"""What the state of an agent's process does from its start to its end: each use of it is one test.

The system has no published documentation of this; the list is section "What it is" of our design. All details are in
tests/contract/test_context.py.
"""

from typing import Any

import pytest

from tests.support.worlds import session_context

Store = Any


@pytest.fixture
def context(store: Store) -> Any:
    return session_context(store, project_root="/work/app")


def test_a_process_starts_with_a_session_of_its_project(store: Store, context: Any) -> None:
    session = store.sessions.get(context.session_id)
    assert (session.project_root, session.cwd, session.status) == ("/work/app", "/work/app", "ready")


def test_the_agent_changes_its_directory_and_the_project_stays(store: Store, context: Any) -> None:
    for path in ("/work/app/src", "/tmp"):
        context.set_cwd(path)
        assert (context.cwd, context.project_root) == (path, "/work/app")
    assert store.sessions.get(context.session_id).cwd == "/tmp"


def test_clearing_the_conversation_goes_on_under_a_new_id_that_names_the_old(store: Store, context: Any) -> None:
    old = context.session_id
    store.history.append(old, [{"role": "user", "content": "x"}])
    new = context.regenerate(as_child=True)
    assert context.session_id == new != old
    assert store.sessions.get(new).parent_session_id == old
    assert (store.history.count(old), store.history.count(new)) == (1, 0)


def test_resuming_takes_over_a_session_with_its_project_at_once(store: Store, context: Any) -> None:
    store.sessions.create("earlier", project_root="/work/other", cwd="/work/other/docs")
    context.switch("earlier")
    now = context.current
    assert (now.session_id, now.project_root, now.cwd) == ("earlier", "/work/other", "/work/other/docs")
    context.switch("earlier", "/moved")
    assert (context.project_root, store.sessions.get("earlier").project_root) == ("/moved", "/moved")


def test_listeners_learn_of_each_switch_after_it_has_happened(store: Store, context: Any) -> None:
    store.sessions.create("other", project_root="/work/other")
    told: list[tuple[str, str, str]] = []
    unsubscribe = context.on_switch(lambda new: told.append((new, context.session_id, context.project_root)))
    context.switch("other")
    third = context.regenerate()
    unsubscribe()
    context.regenerate()
    assert told == [("other", "other", "/work/other"), (third, third, "/work/other")]


def test_sessions_of_a_project_are_offered_for_resuming(store: Store, context: Any) -> None:
    store.sessions.create("elsewhere", project_root="/work/other")
    found = store.sessions.page(project_root="/work/app").sessions
    assert [session.session_id for session in found] == [context.session_id]


def test_what_is_kept_for_the_session_is_dropped_with_it(context: Any) -> None:
    context.session_cache["plan"] = ["a"]
    context.regenerate()
    assert context.session_cache == {}
