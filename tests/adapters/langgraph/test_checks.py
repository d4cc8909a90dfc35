"""Arguments of the wrong kind are refused before anything is written, and none is taken for something else."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from statestore import NEVER, InvalidValueError, StateStore
from statestore.adapters.langgraph import StatestoreSaver
from tests.adapters.langgraph.checkpoints import config, ids, put, values

RUN = UUID(int=7)


def refused(match: str, act: Callable[[], Any]) -> None:
    with pytest.raises(InvalidValueError, match=match):
        act()


@pytest.mark.parametrize("runs", ["run-12", None, 5, b"run-1", {"run-1": 1}, ["run-1", None], [["run-1"]]])
def test_one_run_is_no_sequence_of_runs(saver: Any, runs: Any) -> None:
    stored = [put(saver, config(f"t{n}"), {}, {}, run_id=f"run-{n}") for n in (1, 2)]
    stored.append(put(saver, config("none"), {}, {}))
    refused("run_ids", lambda: saver.delete_for_runs(runs))
    assert sorted(ids(saver.list(None))) == sorted(each["configurable"]["checkpoint_id"] for each in stored)


def test_checkpoints_of_no_run_stay_and_a_run_may_be_a_uuid(saver: Any) -> None:
    kept = [put(saver, config(), {}, {}), put(saver, config(), {}, {}, run_id="run-1")]
    put(saver, config(), {}, {}, run_id=str(RUN))
    saver.delete_for_runs(["run-12", "None", RUN])
    assert ids(saver.list(config())) == [each["configurable"]["checkpoint_id"] for each in kept[::-1]]
    saver.delete_for_runs([])
    assert len(ids(saver.list(config()))) == 2


def test_sequences_of_a_saver_are_no_single_members(saver: Any) -> None:
    at = put(saver, config("N"), {}, {})
    put(saver, config("None"), {}, {})
    for strategy in ("keep_latest", "delete"):
        for threads in ("None", None, 5, [None], [["N"]]):
            refused("thread_ids", lambda threads=threads, how=strategy: saver.prune(threads, strategy=how))
    for writes in (None, 5, "ab", ("a", 1), [("a",)], ["ab"], [(5, 1)], [None], {"a": 1}):
        refused("writes", lambda writes=writes: saver.put_writes(at, writes, "task"))
    refused("channels", lambda: saver.get_delta_channel_history(config=at, channels="log"))
    refused("channels", lambda: saver.get_delta_channel_history(config=at, channels=None))
    assert len(ids(saver.list(None))) == 2
    assert saver.get_tuple(at).pending_writes == []


@pytest.mark.parametrize("name", [None, ["x"], object(), True, 2.5], ids=["none", "list", "object", "true", "float"])
def test_what_is_no_id_does_not_become_one(saver: Any, store: StateStore, name: Any) -> None:
    at = put(saver, config(str(name)), {}, {})
    for act in (
        lambda: saver.delete_thread(name),
        lambda: saver.copy_thread(name, "t"),
        lambda: saver.copy_thread(str(name), name),
        lambda: saver.get_tuple(config(name)),
        lambda: list(saver.list(config(name))),
        lambda: put(saver, config(name), {}, {}),
    ):
        refused("thread_id", act)
    refused("task_id", lambda: saver.put_writes(at, [("a", 1)], name))
    refused("task_path", lambda: saver.put_writes(at, [("a", 1)], "task", name))
    if name is not None:
        refused("checkpoint_ns", lambda: saver.get_tuple(config("t", name)))
        refused("checkpoint_id", lambda: saver.get_tuple(config("t", checkpoint_id=name)))
        refused(r"configurable\.user_id", lambda: put(saver, config("new", user_id=name), {}, {}))
        refused(r"metadata\.user_id", lambda: put(saver, {**config("new"), "metadata": {"user_id": name}}, {}, {}))
    assert [session.session_id for session in store.sessions.page().sessions] == [str(name)]


def test_numbers_and_uuids_are_ids_and_an_empty_user_is_none(saver: Any, store: StateStore) -> None:
    for thread_id in (7, RUN):
        put(saver, config(thread_id, user_id=thread_id), {"v": 1}, {"v": 1})  # type: ignore[arg-type]
        assert values(saver, config(str(thread_id))) == {"v": 1}
        assert store.sessions.get(str(thread_id)).user_id == str(thread_id)
        saver.delete_thread(thread_id)
        assert not store.sessions.exists(str(thread_id))
    put(saver, config("visitor", user_id=""), {}, {})
    put(saver, {**config("ada", user_id=""), "metadata": {"user_id": "ada"}}, {}, {})
    assert (store.sessions.get("visitor").user_id, store.sessions.get("ada").user_id) == (None, "ada")


def test_what_a_saver_cannot_take_says_so(saver: Any, store: StateStore) -> None:
    checkpoint = {"id": "1", "v": 4, "channel_values": {}, "channel_versions": {}}
    for wrong in (None, 5, "t", {"configurable": 5}, {"configurable": "t"}):
        refused("config", lambda wrong=wrong: saver.get_tuple(wrong))
        refused("config", lambda wrong=wrong: saver.put(wrong, checkpoint, {}, {}))
        refused("config", lambda wrong=wrong: saver.put_writes(wrong, [], "task"))
        refused("config", lambda wrong=wrong: saver.get_delta_channel_history(config=wrong, channels=["a"]))
    refused(r"config\.metadata", lambda: saver.put({**config(), "metadata": 5}, checkpoint, {}, {}))
    for field in checkpoint:
        without = {name: value for name, value in checkpoint.items() if name != field}
        refused(rf"checkpoint\.{field}", lambda without=without: saver.put(config(), without, {}, {}))
    refused("checkpoint", lambda: saver.put(config(), None, {}, {}))
    refused("metadata", lambda: saver.put(config(), checkpoint, None, {}))
    refused("new_versions", lambda: saver.put(config(), checkpoint, {}, None))
    for limit in ("x", 2.5, -1, True):
        refused("limit", lambda limit=limit: list(saver.list(config(), limit=limit)))
    for wrong in (5, "x", {"configurable": {"checkpoint_id": 2.5}}):
        refused("before", lambda wrong=wrong: list(saver.list(config(), before=wrong)))
    for wrong in (5, "x", [("a", 1)]):
        refused("filter", lambda wrong=wrong: list(saver.list(config(), filter=wrong)))
    refused("config", lambda: list(saver.list(5)))
    assert store.sessions.page().sessions == []


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": -1}, {"ttl": "x"}, {"ttl": timedelta(0)}, {"ttl": timedelta.max}, {"agent_name": 5},
        {"agent_name": ""}, {"agent_name": "a\0"}, {"agent_name": "\ud800"}, {"serde": 5}, {"user_key": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_saver_is_not_made_of_what_its_first_write_would_refuse(options: dict[str, Any]) -> None:
    refused(next(iter(options)), lambda: StatestoreSaver("sqlite:///:memory:", **options))


def test_a_thread_may_never_expire(database_url: str, store: StateStore) -> None:
    saver = StatestoreSaver(database_url, ttl=NEVER)  # type: ignore[arg-type]
    put(saver, config(), {}, {})
    assert store.sessions.get("t").expires_at is None
    saver.close()
