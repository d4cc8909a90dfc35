"""`importers.promptkit`: what a conversation of PromptKit's file store becomes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from statestore import StateStore
from statestore.importers import promptkit


def message(n: int, *, timed: bool = True) -> dict[str, Any]:
    return {"role": "user", "content": str(n)} | ({"timestamp": f"2026-01-31T10:{n:02}:00Z"} if timed else {})


def summary(start: int, end: int, made_after: int) -> dict[str, Any]:
    made_at = f"2026-01-31T10:{made_after:02}:30Z"
    return {"StartTurn": start, "EndTurn": end, "Content": f"{start} to {end}", "TokenCount": 5, "CreatedAt": made_at}


def bring(
    store: StateStore,
    folder: Path,
    messages: Sequence[dict[str, Any]],
    summaries: Sequence[dict[str, Any]] = (),
    **state: Any,
) -> None:
    conversation = folder / "conv-c"
    conversation.mkdir(exist_ok=True)
    last_used = {"id": "c", "last_accessed_at": "2026-01-31T12:00:00Z"}
    (conversation / "state.json").write_text(json.dumps(last_used | state))
    for name, lines in {"messages": messages, "summaries": summaries}.items():
        (conversation / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    promptkit(store, folder)


def placed(store: StateStore) -> list[tuple[int, str]]:
    return [(entry.seq, entry.content["content"]) for entry in store.history.read("c")]


def test_a_conversation_that_was_not_trimmed_begins_at_one(store: StateStore, tmp_path: Path) -> None:
    bring(store, tmp_path, [message(n) for n in range(50)], [summary(0, 20, 30), summary(20, 40, 49)])
    assert placed(store) == [(n + 1, str(n)) for n in range(50)]
    assert [(one.start_seq, one.end_seq) for one in store.history.summaries("c")] == [(1, 20), (21, 40)]


@pytest.mark.parametrize(
    ("first", "summaries"),
    [(50, [summary(0, 30, 49)]), (40, [summary(0, 10, 19)]), (40, [summary(0, 10, 12), summary(10, 20, 29)])],
    ids=["behind the last message", "older than what it would cover", "two"],
)
@pytest.mark.parametrize("tokens", [None, 123])
def test_a_trimmed_conversation_keeps_its_summaries_before_its_messages(
    store: StateStore, tmp_path: Path, first: int, summaries: list[dict[str, Any]], tokens: int | None
) -> None:
    counted = {} if tokens is None else {"token_count": tokens}
    bring(store, tmp_path, [message(n) for n in range(first, 60)], summaries, **counted)
    end = summaries[-1]["EndTurn"]
    assert placed(store) == [(end + 1 + n, str(first + n)) for n in range(60 - first)]
    found = [(one.start_seq, one.end_seq, one.content, one.token_count) for one in store.history.summaries("c")]
    assert found == [(one["StartTurn"] + 1, one["EndTurn"], one["Content"], 5) for one in summaries]
    window = store.history.window("c", include_summaries=True)
    assert ([one.content for one in window.summaries], len(window)) == (
        [one["Content"] for one in summaries],
        60 - first,
    )
    assert store.state.get("c", "promptkit.token_count", None) == tokens
    store.history.append("c", [message(60)])
    assert store.history.read("c", last=1)[0].seq == end + 1 + 60 - first


def test_named_lists_become_lists_that_go_on(store: StateStore, tmp_path: Path) -> None:
    lists = tmp_path / "conv-c" / "lists"
    (lists / "workflow").mkdir(parents=True)
    transitions = [{"z": n, "a": None} for n in range(2000)]
    (lists / "workflow" / "history.jsonl").write_text("".join(json.dumps(one) + "\n" for one in transitions))
    (lists / "plain.jsonl").write_text('{"a": 1}\nnot JSON\n')
    (lists / "empty.jsonl").write_text("")
    bring(store, tmp_path, [])
    assert store.lists.names("c") == ["plain", "workflow/history"]
    assert json.dumps(store.lists.read("c", "workflow/history")) == json.dumps(transitions)
    assert store.lists.read("c", "plain") == ['{"a": 1}', "not JSON"]
    assert store.lists.append("c", "workflow/history", [{"z": 2000}]) == 2001


def test_without_times_a_summary_is_taken_at_its_word(store: StateStore, tmp_path: Path) -> None:
    bring(store, tmp_path, [message(n, timed=False) for n in range(40, 60)], [summary(0, 10, 19)])
    assert placed(store)[0] == (1, "40")
