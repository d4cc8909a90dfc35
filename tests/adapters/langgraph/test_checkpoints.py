"""What a saver promises beyond the conformance suite."""

import inspect
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import ERROR, TASKS
from langgraph.types import Send
from pydantic import BaseModel

from statestore import InvalidValueError, SessionExistsError, SessionNotFoundError, StateStore
from statestore.adapters.flows import run
from statestore.adapters.langgraph import StatestoreSaver, reading
from tests.adapters.langgraph.checkpoints import config, ids, put, values
from tests.support.clock import MovableClock
from tests.support.wire import Traffic


def test_a_value_is_stored_once_however_many_checkpoints_have_it(saver: Any, store: StateStore) -> None:
    documents, messages = ["x" * 1000] * 100, []
    at = put(saver, config(), {"documents": documents, "n": 0}, {"documents": "1", "n": "1"})
    for step in range(2, 202):
        messages = [*messages, f"message {step} " * 10]
        at = put(saver, at, {"documents": documents, "messages": messages, "n": step}, {"messages": str(step)})
    sizes = {entry.key: entry.size_bytes for entry in store.state.entries("t")}
    assert [key for key in sizes if "/documents/" in key] == ["langgraph/b//documents/1"]
    assert sum(size for key, size in sizes.items() if "/documents/" in key) < 1.05 * 100 * 1000
    growing = [size for key, size in sizes.items() if "/messages/" in key]
    assert len(growing) == 200
    assert sum(growing) < 1.05 * sum(n * 130 for n in range(1, 201))
    checkpoints = [size for key, size in sizes.items() if key.startswith("langgraph/c/")]
    assert len(checkpoints) == 201
    assert max(checkpoints) < 600
    assert len(sizes) == 201 + 200 + 1
    assert values(saver, at) == {"documents": documents, "messages": messages, "n": 201}


def test_branches_that_follow_one_checkpoint_have_values_of_their_own(saver: Any) -> None:
    first = put(saver, config(), {"list": ["first"]}, {"list": saver.get_next_version(None, None)})
    version = saver.get_tuple(first).checkpoint["channel_versions"]["list"]
    branches = [put(saver, first, {"list": [n]}, {"list": saver.get_next_version(version, None)}) for n in range(2)]
    assert [values(saver, branch) for branch in branches] == [{"list": [0]}, {"list": [1]}]
    assert values(saver, first) == {"list": ["first"]}
    assert ids([saver.get_tuple(config())]) == ids([saver.get_tuple(branches[-1])])


@pytest.mark.parametrize(
    "places",
    [
        [("a", "b"), ("a/b", ""), ("a", "b/c"), ("a", "b/"), ("a", "/b"), ("a", "b%2Fc"), ("a%", ""), ("a", "B")],
        [("t", "node:" + "x" * 300), ("t", "node:" + "x" * 300 + "y"), ("t", ""), ("t", "ä|ö:1"), ("t", "\ud800")],
    ],
)
def test_threads_and_namespaces_do_not_mix(saver: Any, places: list[tuple[str, str]]) -> None:
    stored = {}
    for number, (thread_id, ns) in enumerate(places):
        stored[thread_id, ns] = put(saver, config(thread_id, ns), {"v": [number]}, {"v": 1})
        saver.put_writes(stored[thread_id, ns], [("w", number)], "task")
    for number, place in enumerate(places):
        found = list(saver.list(config(*place)))
        assert [(each.config, each.checkpoint["channel_values"]) for each in found] == [
            (stored[place], {"v": [number]})
        ]
        assert found[0].pending_writes == [("task", "w", number)]
        assert found[0].config["configurable"]["checkpoint_ns"] == place[1]


def test_names_of_channels_and_tasks_may_be_anything(saver: Any) -> None:
    names = ["a/b", "a", "a%2Fb", "x" * 600, "ä\N{SNOWMAN}", "#", ""]
    at = put(saver, config(), {name: [name] for name in names}, dict.fromkeys(names, 1))
    for name in names:
        saver.put_writes(at, [(name, [name])], name)
    found = saver.get_tuple(at)
    assert found.checkpoint["channel_values"] == {name: [name] for name in names}
    assert found.pending_writes == [(name, name, [name]) for name in sorted(names)]


def test_what_a_task_has_written_stays_and_an_error_replaces_the_one_before(saver: Any) -> None:
    at = put(saver, config(), {}, {})
    saver.put_writes(at, [("a", 1), ("b", [1])], "task", "path")
    saver.put_writes(at, [("a", 2), ("b", [2]), ("c", 2)], "task", "path")
    saver.put_writes(at, [(ERROR, "first")], "task", "path")
    saver.put_writes(at, [(ERROR, "second")], "task", "path")
    assert saver.get_tuple(at).pending_writes == [
        ("task", ERROR, "second"), ("task", "a", 1), ("task", "b", [1]), ("task", "c", 2),
    ]  # fmt: skip


def test_writes_come_in_the_order_in_which_they_are_applied(saver: Any) -> None:
    at = put(saver, config(), {}, {})
    for task, path in (("z", "~0"), ("a", "~1"), ("m", "")):
        saver.put_writes(at, [(f"c{n}", n) for n in range(11)], task, path)
    found = saver.get_tuple(at).pending_writes
    assert found == [(task, f"c{n}", n) for task in ("m", "z", "a") for n in range(11)]
    assert next(iter(saver.list(config()))).pending_writes == found


def test_tasks_that_write_at_once_lose_nothing(database_url: str) -> None:
    with ExitStack() as stack:
        savers = [StatestoreSaver(database_url) for _ in range(3)]
        for each in savers:
            stack.callback(each.close)
        at = put(savers[0], config(), {}, {})
        with ThreadPoolExecutor(9) as pool:
            calls = [
                pool.submit(savers[n % 3].put_writes, at, [("c", n), ("d", [n])], f"task-{n:02}") for n in range(45)
            ] + [pool.submit(put, savers[n % 3], at, {"n": [n]}, {"n": f"{n}"}) for n in range(15)]
        places = [call.result() for call in calls]
        found = savers[0].get_tuple(at)
        assert found is not None
        assert found.pending_writes == [
            (f"task-{n:02}", channel, value) for n in range(45) for channel, value in (("c", n), ("d", [n]))
        ]
        assert [values(savers[0], place) for place in places[45:]] == [{"n": [n]} for n in range(15)]


def test_what_was_sent_before_version_4_is_read_from_the_parent(saver: Any) -> None:
    parent = put(saver, config(), {"a": 1}, {"a": "1"}, v=3)
    saver.put_writes(parent, [(TASKS, Send("node", {"n": 1})), ("a", 2), (TASKS, Send("node", {"n": 2}))], "task")
    child = put(saver, parent, {"a": 2}, {"a": "2"}, v=3)
    for found in (saver.get_tuple(child), next(iter(saver.list(config())))):
        assert found.checkpoint["channel_values"] == {"a": 2, TASKS: [Send("node", {"n": 1}), Send("node", {"n": 2})]}
        assert found.checkpoint["channel_versions"] == {"a": "2", TASKS: "2"}
    saver.prune(["t"])
    assert ids(saver.list(config())) == [each["configurable"]["checkpoint_id"] for each in (child, parent)]
    assert TASKS in values(saver, child)


def test_lists_are_filtered_paged_and_span_namespaces_and_threads(saver: Any) -> None:
    stored = []
    for n in range(6):
        at = config(f"t{n % 2}", "" if n < 4 else "child")
        stored.append(put(saver, at, {}, {}, step=n, score={"n": n % 3}))
        saver.put_writes(stored[-1], [("c", n)], f"task-{n}")
    names = ids([saver.get_tuple(each) for each in stored])
    assert ids(saver.list(config("t0"))) == [names[2], names[0]]
    everywhere = list(saver.list({"configurable": {"thread_id": "t0"}}))
    assert ids(everywhere) == [names[4], names[2], names[0]]
    assert [found.pending_writes for found in everywhere] == [[(f"task-{n}", "c", n)] for n in (4, 2, 0)]
    assert ids(saver.list({"configurable": {"thread_id": "t0"}}, limit=1)) == [names[4]]
    assert ids(saver.list({"configurable": {"thread_id": "t0"}}, before=stored[2])) == [names[0]]
    assert ids(saver.list(config("t0"), before=stored[2], limit=5)) == [names[0]]
    assert ids(saver.list(config("t0"), filter={"step": 0, "score": {"n": 0}})) == [names[0]]
    assert ids(saver.list(config("t0", checkpoint_id=names[2]))) == [names[2]]
    assert ids(saver.list({"configurable": {"thread_id": "t0", "checkpoint_id": names[4]}})) == [names[4]]
    assert list(saver.list(config("t0", checkpoint_id=names[1]))) == []
    assert sorted(ids(saver.list(None))) == sorted(names)
    assert len(ids(saver.list(None, limit=4))) == 4
    assert ids(saver.list(None, filter={"step": 5})) == [names[5]]
    assert list(saver.list(config("t0"), limit=0)) == list(saver.list(config("none"))) == []


def test_a_long_list_is_read_in_pages(saver: Any) -> None:
    at = config()
    stored = []
    for n in range(230):
        at = put(saver, at, {"n": [n]}, {"n": f"{n:03}"}, step=n)
        stored.append(at)
    found = list(saver.list(config()))
    assert [each.config for each in found] == stored[::-1]
    assert [each.checkpoint["channel_values"]["n"] for each in found] == [[n] for n in range(230)][::-1]
    assert [each.parent_config for each in found] == [*stored[-2::-1], None]
    assert [each.metadata["step"] for each in saver.list(config(), filter={"source": "loop"}, limit=150)][-1] == 80


def test_a_thread_is_a_session(saver: Any, store: StateStore, clock: MovableClock) -> None:
    at = put(saver, config(user_id="ada"), {"v": [1]}, {"v": 1})
    assert store.sessions.get("t").user_id == "ada"
    store.sessions.fork("t", "t-2")
    assert values(saver, config("t-2")) == {"v": [1]}
    saver.copy_thread("t", "t-3")
    assert [ancestor.session_id for ancestor in store.sessions.lineage("t-3").ancestors] == ["t"]
    with pytest.raises(SessionExistsError):
        saver.copy_thread("t", "t-3")
    with pytest.raises(SessionNotFoundError):
        saver.copy_thread("none", "t-4")
    put(saver, config("t-3", checkpoint_id=at["configurable"]["checkpoint_id"]), {"v": [3]}, {"v": 3})
    assert (values(saver, config("t")), values(saver, config("t-3"))) == ({"v": [1]}, {"v": [3]})
    saver.delete_thread("t")
    saver.delete_thread("t")
    assert (saver.get_tuple(config("t")), store.sessions.exists("t")) == (None, False)
    store.sessions.delete_user("ada")
    assert (saver.get_tuple(config("t-3")), list(saver.list(None))) == (None, [])


def test_the_user_may_be_in_the_metadata_and_under_another_name(database_url: str, store: StateStore) -> None:
    saver = StatestoreSaver(database_url, user_key="owner", agent_name="planner")
    put(saver, {**config("t"), "metadata": {"owner": "ada"}}, {}, {})
    session = store.sessions.get("t")
    assert (session.user_id, session.agent_name) == ("ada", "planner")
    saver.close()


def test_a_thread_expires_after_its_last_use(
    database_url: str, lazy_at: Any, store: StateStore, clock: MovableClock
) -> None:
    lazy, blocking = lazy_at(database_url)
    saver = blocking(StatestoreSaver(lazy, ttl=timedelta(hours=1)))
    put(saver, config(), {"v": [1]}, {"v": 1})
    clock.advance(minutes=50)
    assert saver.get_tuple(config()) is not None
    clock.advance(minutes=50)
    assert saver.get_tuple(config()) is not None
    clock.advance(minutes=60)
    assert saver.get_tuple(config()) is None
    assert list(saver.list(config())) == []
    assert store.sweep().kinds["expired_sessions"].rows == 1
    put(saver, config(), {}, {})
    assert len(store.state.keys("t")) == 1


def test_pruning_keeps_what_the_newest_checkpoints_need(saver: Any, store: StateStore) -> None:
    for ns in ("", "child"):
        at = config(ns=ns)
        for n in range(4):
            at = put(saver, at, {"new": [n], "old": ["old"]}, {"new": f"{n}"} | ({"old": "0"} if n == 0 else {}))
            saver.put_writes(at, [("new", n)], f"task-{n}")
    saver.prune(["t", "none"])
    for ns in ("", "child"):
        assert [each.checkpoint["channel_values"] for each in saver.list(config(ns=ns))] == [
            {"new": [3], "old": ["old"]}
        ]
    assert len(store.state.keys("t")) == 2 * (1 + 2 + 1)
    assert store.state.count("t", prefix="langgraph/w/") == 2
    saver.prune(["t"], strategy="delete")
    assert not store.sessions.exists("t")
    saver.prune([])
    for wrong, name in (
        (lambda: saver.prune("t"), "thread_ids"),
        (lambda: saver.prune(["t"], strategy="x"), "strategy"),
    ):
        with pytest.raises(InvalidValueError, match=name):
            wrong()


@pytest.mark.parametrize("read", ["newest", "one"])
def test_what_is_pruned_while_it_is_read_is_not_read_without_its_values(
    saver: Any, database_url: str, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    at = put(saver, config(), {"log": ["old"]}, {"log": "0"})
    found = getattr(reading, read)
    other = StatestoreSaver(database_url)
    pruned: list[Any] = []

    def find_and_prune(*args: Any, **kwargs: Any) -> Any:
        result = yield from found(*args, **kwargs)
        if not pruned:
            pruned.append(put(other, config(), {"log": ["new"]}, {"log": "1"}))
            other.prune(["t"])
        return result

    monkeypatch.setattr(reading, read, find_and_prune)
    if read == "newest":
        assert values(saver, config()) == {"log": ["new"]}
        pruned.clear()
        assert [each.config for each in saver.list(config(), limit=1)] == []
    else:
        assert saver.get_tuple(at) is None
    other.close()


def test_pruning_keeps_what_a_delta_channel_is_rebuilt_from(saver: Any) -> None:
    at = config()
    stored = []
    for n in range(6):
        snapshot = {"log": ["snapshot", n]} if n in (0, 2) else {}
        counters = {} if snapshot else {"counters_since_delta_snapshot": {"log": (n, n)}}
        at = put(saver, at, {"n": n, **snapshot}, {"log": f"{n}", "n": f"{n}"}, **counters)
        saver.put_writes(at, [("log", n), ("other", n)], f"task-{n}")
        stored.append(at)
    expected = {"log": {"writes": [(f"task-{n}", "log", n) for n in (2, 3, 4)], "seed": ["snapshot", 2]}}
    assert saver.get_delta_channel_history(config=at, channels=["log"]) == expected
    saver.prune(["t"])
    assert ids(saver.list(config())) == [each["configurable"]["checkpoint_id"] for each in stored[:1:-1]]
    assert saver.get_delta_channel_history(config=at, channels=["log"]) == expected
    assert saver.get_delta_channel_history(config=config(), channels=["log"]) == expected
    history = saver.get_delta_channel_history(config=at, channels=["n", "none"])
    assert history["n"] == {"writes": [], "seed": 4}
    assert history["none"] == {"writes": []}
    assert saver.get_delta_channel_history(config=config("none"), channels=["log"]) == {"log": {"writes": []}}
    assert saver.get_delta_channel_history(config=at, channels=[]) == {}


def test_checkpoints_of_runs_go_with_their_values(saver: Any, store: StateStore) -> None:
    first = put(saver, config(), {"v": [1]}, {"v": "1"}, run_id="r1")
    saver.put_writes(first, [("v", 2)], "task")
    second = put(saver, first, {"v": [2]}, {"v": "2"}, run_id="r2")
    put(saver, config("other"), {}, {}, run_id="r1")
    store.sessions.create("no thread")
    saver.delete_for_runs(["r1", "r3"])
    assert ids(saver.list(None)) == [second["configurable"]["checkpoint_id"]]
    assert len(store.state.keys("t")) == 2
    assert values(saver, second) == {"v": [2]}


def test_tokens_of_a_message_count_once(saver: Any, store: StateStore) -> None:
    answer = AIMessage(
        content="Yes.",
        id="run-1",
        usage_metadata={"input_tokens": 40, "output_tokens": 2, "total_tokens": 42},
        response_metadata={"model_name": "small-1", "model_provider": "acme"},
    )
    at = put(saver, config(user_id="ada"), {}, {})
    inner = put(saver, config(ns="agent:1", user_id="ada"), {}, {})
    inner["configurable"]["user_id"] = at["configurable"]["user_id"] = "ada"
    saver.put_writes(inner, [("messages", [answer])], "inner")
    saver.put_writes(at, [("messages", [answer, AIMessage(content="No.")]), ("other", None)], "outer")
    saver.put_writes(at, [("messages", [answer.model_copy(update={"content": "Maybe."})])], "again")
    totals = store.usage.totals(session_id="t")
    assert (totals.input_tokens, totals.output_tokens, totals.model_calls) == (40, 2, 1)
    (row,) = store.usage.by_model()
    assert (row.model, row.provider_name) == ("small-1", "acme")
    assert store.usage.by_user()[0].user_id == "ada"


@pytest.mark.parametrize("figure", [-1, 10**9 + 1])
@pytest.mark.parametrize("name", ["m" * 513, "nul\0", ["x"]])
def test_of_an_odd_message_the_rest_is_counted(saver: Any, store: StateStore, figure: int, name: Any) -> None:
    answer = AIMessage(
        content="Yes.",
        id="run-1",
        usage_metadata={"input_tokens": figure, "output_tokens": 2, "total_tokens": 42},
        response_metadata={"model_name": name, "model_provider": name},
    )
    saver.put_writes(put(saver, config(), {}, {}), [("messages", [answer])], "task")
    assert store.usage.totals(session_id="t").output_tokens == 2


def test_nothing_is_unpickled(saver: Any, store: StateStore) -> None:
    class Local:
        pass

    with pytest.raises(TypeError):
        put(saver, config(), {"v": Local()}, {"v": 1})
    at = put(saver, config(), {"v": [1]}, {"v": 1})
    store.state.set("t", "langgraph/b//v/1", ["pickle", "gASVBQAAAAAAAAB9lC4=", "base64"])
    with pytest.raises(NotImplementedError, match="pickle"):
        saver.get_tuple(at)


def test_the_allow_list_of_the_serialiser_applies(database_url: str) -> None:
    strict = StatestoreSaver(database_url, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    at = put(strict, config(), {"v": [Unlisted(n=1)]}, {"v": 1})
    assert values(strict, at)["v"] != [Unlisted(n=1)]
    open_to = strict.with_allowlist([(Unlisted.__module__, "Unlisted")])
    assert values(open_to, at)["v"] == [Unlisted(n=1)]
    strict.close()


def test_bytes_of_all_kinds_come_back(saver: Any) -> None:
    kinds = {"text": ["ä" * 1000, '\0\n"\\' * 100], "bytes": bytes(range(256)) * 10, "empty": b"", "list": [b"\xff"]}
    at = put(saver, config(), kinds, dict.fromkeys(kinds, 1))
    assert values(saver, at) == kinds
    inline = {"none": None, "true": True, "int": 2**53 - 1, "more": 2**60, "float": 0.5, "long": "x" * 1000, "": ""}
    assert values(saver, put(saver, config("u"), inline, dict.fromkeys(inline, 1))) == inline


def test_what_cannot_be_stored_says_so(saver: Any) -> None:
    def wrong(act: Callable[[], Any], match: str) -> None:
        with pytest.raises(InvalidValueError, match=match):
            act()

    checkpoint = {"id": "1", "v": 4, "channel_values": {}, "channel_versions": {}}
    wrong(lambda: saver.get_tuple({"configurable": {}}), "thread_id")
    wrong(lambda: saver.put(config(), checkpoint, {"x": object()}, {}), "metadata")
    wrong(lambda: saver.put(config(), checkpoint, {"x": float("nan")}, {}), "metadata")
    wrong(lambda: saver.put_writes(config(), [("c", 1)], "task"), "checkpoint_id")
    wrong(lambda: put(saver, config(), {"v": b"x" * 17 * 2**20}, {"v": 1}), "16777216|16 MiB|large")
    assert list(saver.list(config())) == []


def test_the_cost_of_a_saver(traffic: Traffic, lazy_at: Any) -> None:
    lazy, blocking = lazy_at(traffic.url)
    saver = blocking(StatestoreSaver(lazy))
    on_postgresql = traffic.url.startswith("postgresql")
    at = config()
    for n in range(10):
        at = put(saver, at, {"v": [n], "w": [n]}, {"v": f"{n}", "w": f"{n}"})
        saver.put_writes(at, [("v", n), ("w", n)], "task")

    def cost(act: Callable[[], Any]) -> int:
        for _ in range(8):
            traffic.clear()
            act()
        return len(traffic.statements)

    made = {**saver.get_tuple(at).checkpoint, "id": "x"}
    assert cost(lambda: saver.put(at, made, {}, {"v": "9", "w": "9"})) == 1 or not on_postgresql
    assert cost(lambda: saver.put_writes(at, [("v", 1), ("w", 2)], "task")) == 1 or not on_postgresql
    assert cost(lambda: saver.get_tuple(at)) == 2
    assert cost(lambda: saver.get_tuple(config())) == 2
    assert cost(lambda: list(saver.list(config(), limit=9))) == 3
    assert cost(lambda: saver.get_delta_channel_history(config=at, channels=["none"])) <= 3


WRITER = """
import sys
from statestore.adapters.langgraph import StatestoreSaver
from tests.adapters.langgraph.checkpoints import config, put
saver = StatestoreSaver(sys.argv[1])
at = put(saver, config(sys.argv[2]), {"v": [sys.argv[2]]}, {"v": 1})
saver.put_writes(at, [("c", 1)], "task")
saver.close()
"""


@pytest.mark.parametrize("fixture", ["empty_sqlite_url", "postgres_url"])
def test_eight_processes_may_begin_at_once(request: pytest.FixtureRequest, fixture: str) -> None:
    url = request.getfixturevalue(fixture)
    with ExitStack() as stack:
        command = [sys.executable, "-c", WRITER, url]
        writers = [stack.enter_context(subprocess.Popen([*command, f"t{n}"])) for n in range(8)]
        assert [writer.wait(100) for writer in writers] == [0] * 8
    saver = StatestoreSaver(url)
    found = list(saver.list(None))
    assert sorted(each.checkpoint["channel_values"]["v"][0] for each in found) == [f"t{n}" for n in range(8)]
    assert all(each.pending_writes == [("task", "c", 1)] for each in found)
    saver.close()


class Unlisted(BaseModel):
    """Of a module that is on no allow-list."""

    n: int


def test_threads_are_looked_through_without_holding_their_sessions() -> None:
    class Found:
        session_id = "s"

    made: list[weakref.ref[Found]] = []
    held = []

    def page(**asked: object) -> SimpleNamespace:
        sessions = [Found() for _ in range(3)]
        made.extend(map(weakref.ref, sessions))
        return SimpleNamespace(sessions=sessions, next_cursor=None if asked["cursor"] else "second")

    def count(*asked: object, **more: object) -> int:
        held.append(sum(ref() is not None for ref in made))
        return 1

    opened = SimpleNamespace(sessions=SimpleNamespace(page=page), state=SimpleNamespace(count=count))
    assert run(opened, reading.threads()) == ["s"] * 6
    assert held == [0] * 6


@pytest.mark.parametrize("name", ["put", "aput"])
def test_methods_have_names_and_results_of_their_own(name: str) -> None:
    method = getattr(StatestoreSaver, name)
    assert (method.__name__, method.__qualname__) == (name, f"StatestoreSaver.{name}")
    assert get_type_hints(method)["return"] is inspect.signature(method).return_annotation is RunnableConfig
