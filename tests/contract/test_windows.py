"""The window on a history: whole turns, calls with their results, within a budget, read from the end."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry, SessionNotFoundError
from tests.support.clock import MovableClock
from tests.support.trajectories import runs
from tests.support.worlds import entering

Store = Any


def user(text: str = "u") -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str = "a") -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def called(*ids: str) -> dict[str, Any]:
    calls = [{"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(of: str, text: str = "r") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": of, "content": text}


SYSTEM = {"role": "system", "content": "s"}
# 1 system · 2 to 5 a turn with a call · 6 and 7 a turn
ALL = [1, 2, 3, 4, 5, 6, 7]
TURNS = [SYSTEM, user(), called("c1"), result("c1"), said(), user(), said()]


@pytest.fixture
def fill(store: Store) -> Callable[..., None]:
    def fill(*entries: Any) -> None:
        store.sessions.create("s")
        store.history.append("s", list(entries))

    return fill


def seqs(store: Store, **limits: Any) -> list[int]:
    return [entry.seq for entry in store.history.window("s", **limits)]


def test_without_a_limit_it_is_all_of_the_history(store: Store, fill: Any) -> None:
    fill(*TURNS)
    assert store.history.window("s") == store.history.read("s")


@pytest.mark.parametrize(
    ("max_entries", "expected"),
    [(0, []), (1, [7]), (2, [6, 7]), (3, [6, 7]), (5, [6, 7]), (6, [2, 3, 4, 5, 6, 7]), (7, ALL), (99, ALL)],
)
def test_the_newest_whole_turns_that_fit(store: Store, fill: Any, max_entries: int, expected: list[int]) -> None:
    fill(*TURNS)
    assert seqs(store, max_entries=max_entries) == expected


@pytest.mark.parametrize(("max_entries", "expected"), [(1, [5]), (2, [4, 5][1:]), (3, [3, 4, 5]), (4, [2, 3, 4, 5])])
def test_of_a_turn_that_does_not_fit_as_much_of_its_end_as_can_be_cut_off(
    store: Store, fill: Any, max_entries: int, expected: list[int]
) -> None:
    fill(*TURNS[:5])
    assert seqs(store, max_entries=max_entries) == expected


def test_nothing_where_not_even_the_last_step_fits(store: Store, fill: Any) -> None:
    fill(user(), called("a", "b"), result("a"), result("b"))
    assert seqs(store, max_entries=2) == []
    assert seqs(store, max_entries=3) == [2, 3, 4]


def test_a_result_that_comes_after_the_next_turn_began_stays_with_its_call(store: Store, fill: Any) -> None:
    fill(user(), called("slow"), user("meanwhile"), said(), result("slow"), said("done"))
    assert seqs(store, max_entries=4) == [6]
    assert seqs(store, max_entries=5) == [2, 3, 4, 5, 6]
    assert seqs(store, max_entries=6) == [1, 2, 3, 4, 5, 6]


def test_a_call_whose_result_is_still_to_come_is_there(store: Store, fill: Any) -> None:
    fill(user(), said(), user(), called("pending"))
    assert seqs(store, max_entries=3) == [3, 4]


def test_a_result_whose_call_was_trimmed_is_left_out(store: Store, fill: Any) -> None:
    fill(*TURNS)
    store.history.trim("s", keep_last=4)
    assert seqs(store) == [5, 6, 7]


def test_call_ids_that_are_used_again_do_not_confuse(store: Store, fill: Any) -> None:
    step = [user(), called("call_0"), result("call_0"), said()]
    fill(*step, *step)
    assert seqs(store, max_entries=4) == [5, 6, 7, 8]
    assert seqs(store, max_entries=6) == [5, 6, 7, 8]


def test_anthropic_messages_are_kept_together_too(store: Store, fill: Any) -> None:
    fill(
        user(),
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "r"}]},
        said(),
    )
    assert seqs(store, max_entries=2) == [4]
    assert seqs(store, max_entries=3) == [2, 3, 4]


def test_calls_that_are_known_by_their_columns_alone(store: Store, fill: Any) -> None:
    fill(
        NewEntry("go", role="user"),
        NewEntry("look", role="assistant", tool_call_id="x"),
        NewEntry("seen", role="tool", tool_call_id="x"),
        NewEntry("done", role="assistant"),
    )
    assert seqs(store, max_entries=2) == [4]
    assert seqs(store, max_entries=3) == [2, 3, 4]


def gemini(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "parts": [*parts]}


OLLAMA: list[Any] = [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]
# By shape, the entries of one turn, each of which could be torn if calls and results were not known for what they are.
SHAPES: dict[str, list[Any]] = {
    "ollama": [user(), *OLLAMA, {"role": "tool", "tool_name": "f", "content": "r"}, said()],
    "ollama without names": [user(), *OLLAMA, {"role": "tool", "content": "r"}, said()],
    "ollama, two calls": [
        user(),
        {**OLLAMA[0], "tool_calls": [{"function": {"name": "f"}}, {"function": {"name": "g"}}]},
        {"role": "tool", "name": "f", "content": "r"},
        {"role": "tool", "name": "g", "content": "r"},
        said(),
    ],
    "openai's functions": [
        user(),
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "r"},
        said(),
    ],
    "openai's responses": [
        user(),
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "r"},
        {"type": "function_call_output", "call_id": "c2", "output": "r"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
    ],
    "gemini": [
        gemini("user", {"text": "u"}),
        gemini("model", {"functionCall": {"name": "f", "args": {}}}, {"functionCall": {"name": "g", "args": {}}}),
        gemini("user", {"functionResponse": {"name": "f", "response": {}}}),
        gemini("user", {"functionResponse": {"name": "g", "response": {}}}),
        gemini("model", {"text": "a"}),
    ],
    "gemini with ids": [
        gemini("user", {"text": "u"}),
        gemini("model", {"function_call": {"id": "1", "name": "f", "args": {}}}),
        gemini("user", {"function_response": {"id": "1", "name": "f", "response": {}}}),
        gemini("model", {"text": "a"}),
    ],
    "columns without ids": [
        NewEntry("go", role="user"),
        NewEntry("look", role="assistant", tool_name="f"),
        NewEntry("seen", role="tool", tool_name="f"),
        NewEntry("done", role="assistant"),
    ],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_calls_and_results_are_kept_together_in_every_shape(store: Store, fill: Any, shape: str) -> None:
    one, n = SHAPES[shape], len(SHAPES[shape])
    fill(SYSTEM, *one, *one)
    assert [entry.turn for entry in store.history.read("s")] == [0, *[1] * n, *[2] * n]
    for budget in range(2 * n + 2):
        window = seqs(store, max_entries=budget)
        # Within the turn a cut may stand before its last message and before its calls, but not between them.
        sizes = [0, 1, n - 1] if budget < n else [n, 2 * n, 2 * n + 1]
        assert len(window) == max(size for size in sizes if size <= budget), budget


def test_a_call_that_was_never_answered_does_not_answer_for_another(store: Store, fill: Any) -> None:
    fill(user(), *OLLAMA, user(), *OLLAMA, {"role": "tool", "content": "r"})
    assert seqs(store, max_entries=1) == []
    assert seqs(store, max_entries=2) == [4, 5]
    assert seqs(store, max_entries=4) == [3, 4, 5]


def test_a_result_goes_with_the_call_that_it_names(store: Store, fill: Any) -> None:
    other = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "g"}}]}
    fill(user(), *OLLAMA, other, {"role": "tool", "tool_name": "f", "content": "r"})
    assert seqs(store, max_entries=2) == []
    assert seqs(store, max_entries=3) == [2, 3, 4]


def test_results_of_calls_in_an_unknown_shape_stay_in_their_turn(store: Store, fill: Any) -> None:
    turn = [user(), said("look!"), {"role": "tool", "content": "r"}, said()]
    fill(*turn, *turn)
    assert seqs(store, max_entries=7) == [5, 6, 7, 8]
    assert seqs(store, max_entries=3) == [8]


def test_calls_without_ids_are_counted_once(store: Store, fill: Any) -> None:
    fill(*SHAPES["ollama"], *SHAPES["openai's functions"], *SHAPES["openai's responses"], *SHAPES["gemini with ids"])
    assert store.sessions.stats("s").tool_invocations == {"f": 5}


def test_parts_and_functions_count_as_tokens(store: Store, fill: Any) -> None:
    fill(gemini("user", {"text": "x" * 40}))
    assert store.history.window("s", max_tokens=1000).tokens == 10
    store.history.append("s", [SHAPES["openai's functions"][1], {"role": "tool", "output": "x" * 40}])
    assert store.history.window("s", max_tokens=1000).tokens > 30


@pytest.mark.parametrize("wrong", [None, "3", 1.5, -1, 10**30], ids=str)
def test_a_tokenizer_returns_a_number(store: Store, fill: Any, wrong: Any) -> None:
    fill(user())
    number = isinstance(wrong, int)
    message = "must return a number of at least 0 that fits 64 bits" if number else "must return a whole number"
    with pytest.raises(InvalidValueError, match=f"tokenizer: {message}") as caught:
        store.history.window("s", max_tokens=10, tokenizer=lambda text: wrong)
    assert caught.value.argument == "tokenizer"


def test_four_characters_are_taken_for_a_token(store: Store, fill: Any) -> None:
    fill(user("x" * 400), said("y" * 401), user("é" * 40), said(""))
    window = store.history.window("s", max_tokens=10)
    assert ([entry.seq for entry in window], window.tokens) == ([3, 4], 10)
    assert seqs(store, max_tokens=210) == [3, 4]
    assert store.history.window("s", max_tokens=211).tokens == 211


def test_tool_calls_count_as_tokens(store: Store, fill: Any) -> None:
    fill(called("c"))
    assert store.history.window("s", max_tokens=1000).tokens > 10


def test_the_callers_tokenizer_counts(store: Store, fill: Any) -> None:
    fill(user("one two three"), said("four"), user("five six"), said("seven"))
    assert seqs(store, max_tokens=3, tokenizer=lambda text: len(text.split())) == [3, 4]
    assert seqs(store, max_tokens=7, tokenizer=lambda text: len(text.split())) == [1, 2, 3, 4]


def test_content_that_is_no_message_counts_as_json(store: Store, fill: Any) -> None:
    fill(NewEntry({"key": "v"}, role="user"), NewEntry("text", role="user"))
    assert store.history.window("s", max_tokens=99, tokenizer=len).tokens == len('{"key":"v"}') + len("text")


def test_both_limits_hold(store: Store, fill: Any) -> None:
    fill(*[user("x" * 40)] * 10)
    assert seqs(store, max_entries=5, max_tokens=30) == [8, 9, 10]
    assert seqs(store, max_entries=2, max_tokens=30) == [9, 10]


@pytest.mark.parametrize(
    ("max_entries", "expected"), [(0, []), (1, [1]), (2, [1, 7]), (3, [1, 6, 7]), (6, [1, 6, 7]), (7, ALL)]
)
def test_the_leading_system_message_is_kept_on_request(
    store: Store, fill: Any, max_entries: int, expected: list[int]
) -> None:
    fill(*TURNS)
    assert seqs(store, max_entries=max_entries, keep_system=True) == expected


def test_the_system_message_counts_against_the_tokens(store: Store, fill: Any) -> None:
    fill({"role": "system", "content": "s" * 40}, user("x" * 40), user("y" * 40))
    assert seqs(store, max_tokens=20, keep_system=True) == [1, 3]
    assert seqs(store, max_tokens=10, keep_system=True) == [1, 3]
    assert seqs(store, max_tokens=9, keep_system=True) == [3]
    assert seqs(store, max_tokens=10, keep_system=True, keep_newest=False) == [1]
    assert seqs(store, max_tokens=9, keep_system=True, keep_newest=False) == []
    assert seqs(store, max_tokens=30, keep_system=True) == [1, 2, 3]


def test_a_first_entry_that_is_no_system_message_is_not_kept(store: Store, fill: Any) -> None:
    fill(user(), said(), user(), said())
    assert seqs(store, max_entries=2, keep_system=True) == [3, 4]


def test_summaries_stand_for_what_is_left_out(store: Store, fill: Any) -> None:
    fill(*[user(), said()] * 5)
    for start in (1, 3, 5, 7, 9):
        store.history.add_summary("s", f"from {start}", start_seq=start, end_seq=start + 1)
    window = store.history.window("s", max_entries=5, include_summaries=True)
    assert [entry.seq for entry in window] == [7, 8, 9, 10]
    assert [summary.start_seq for summary in window.summaries] == [1, 3, 5]
    assert store.history.window("s", max_entries=5).summaries == ()
    assert store.history.window("s", include_summaries=True).summaries == ()


def test_summaries_count_against_the_tokens(store: Store, fill: Any) -> None:
    fill(*[user("x" * 40)] * 10)
    store.history.add_summary("s", "z" * 80, start_seq=1, end_seq=5)
    window = store.history.window("s", max_tokens=50, include_summaries=True)
    assert ([entry.seq for entry in window], len(window.summaries), window.tokens) == ([8, 9, 10], 1, 50)
    window = store.history.window("s", max_tokens=100, include_summaries=True)
    assert (window[0].seq, window.summaries) == (1, ())


def test_a_summary_says_itself_how_many_tokens_it_has(store: Store, fill: Any) -> None:
    fill(*[user("x" * 40)] * 10)
    store.history.add_summary("s", "z" * 80, start_seq=1, end_seq=5, token_count=1)
    assert store.history.window("s", max_tokens=51, include_summaries=True).tokens == 51


def test_where_not_all_summaries_fit_the_oldest_are_left_out(store: Store, fill: Any) -> None:
    fill(*[user("x" * 40)] * 4)
    for start in (1, 2, 3):
        store.history.add_summary("s", "z" * 40, start_seq=start, end_seq=start)
    window = store.history.window("s", max_tokens=30, include_summaries=True)
    assert ([entry.seq for entry in window], [s.start_seq for s in window.summaries]) == ([4], [2, 3])


LONG = "x" * 4000
# What is last, and the least of it that can be sent.
NEWEST: dict[str, tuple[list[Any], list[int]]] = {
    "a message": ([user(LONG)], [3]),
    "an answer": ([user(), said(LONG)], [4]),
    "a call": ([user(), called("c"), result("c"), called("d")], [6]),
    "a result": ([user(), called("c"), result("c", LONG)], [4, 5]),
    "a result of two": ([user(), called("c", "d"), result("c", LONG), result("d")], [4, 5, 6]),
    "a small result": ([user(LONG), called("c"), result("c")], [4, 5]),
    "a result that came late": ([user(), called("c"), user(LONG), said(), result("c")], [4, 5, 6, 7]),
    "an answer behind a result": ([user(), called("c"), result("c", LONG), said(LONG)], [6]),
}


@pytest.mark.parametrize("max_tokens", [0, 1, 4])
@pytest.mark.parametrize("newest", NEWEST)
def test_the_newest_is_there_even_if_it_is_too_large(store: Store, fill: Any, newest: str, max_tokens: int) -> None:
    entries, expected = NEWEST[newest]
    fill(user(), said(), *entries)
    window = store.history.window("s", max_tokens=max_tokens)
    assert [entry.seq for entry in window] == expected
    assert (window.tokens or 0) > max_tokens
    assert whole(window, store.history.read("s"))
    assert store.history.window("s", max_tokens=max_tokens, keep_newest=False) == []
    with entering(store, store.turn("s", max_tokens=max_tokens)) as turn:
        assert turn.window == window
    with entering(store, store.turn("s", max_tokens=max_tokens, keep_newest=False)) as turn:
        assert turn.window == []


def test_a_limit_of_entries_holds_whatever_the_newest_is(store: Store, fill: Any) -> None:
    fill(user(), called("c"), result("c", LONG))
    assert seqs(store, max_entries=1, max_tokens=1) == []
    assert seqs(store, max_entries=0, max_tokens=1) == []
    assert seqs(store, max_entries=2, max_tokens=1) == [2, 3]


def test_a_result_without_a_call_makes_no_window(store: Store, fill: Any) -> None:
    fill(user(), called("c"), result("c", LONG))
    store.history.trim("s", keep_last=1)
    assert seqs(store, max_tokens=1) == []


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 200_000}}


@pytest.mark.parametrize("forked", [False, True])
def test_of_large_entries_no_more_are_read_than_are_needed(
    open_store: Any, monkeypatch: pytest.MonkeyPatch, forked: bool
) -> None:
    from statestore.repositories.history import entry_rows

    store = open_store()
    store.sessions.create("s")
    store.history.append("s", [{"role": "user", "content": [IMAGE]} for _ in range(15)])
    store.history.append("s", [user("new")])
    if forked:
        store.sessions.fork("s", "fork")
    name = "fork" if forked else "s"
    stored = store.history.read(name)
    contents: list[str] = []
    build = entry_rows.from_rows

    def count(link: Any, session_id: str, rows: Any) -> Any:
        contents.extend(row[6] for row in rows)
        return build(link, session_id, rows)

    monkeypatch.setattr(entry_rows, "from_rows", count)
    for max_tokens, size, large in ((10, 1, 1), (50_100, 2, 2), (100_200, 3, 3), (10**7, 16, 15)):
        contents.clear()
        assert store.history.window(name, max_tokens=max_tokens) == stored[16 - size :]
        assert sum(len(text) > 100_000 for text in contents) == large
    contents.clear()
    assert store.history.window(name, max_entries=3, max_tokens=10**7) == stored[13:]
    assert sum(len(text) > 100_000 for text in contents) == 2


def test_a_fork_has_a_window_on_what_it_sees(store: Store, fill: Any) -> None:
    fill(*TURNS)
    store.sessions.fork("s", "f", at_seq=5)
    store.history.append("f", [user(), said()])
    window = store.history.window("f", max_entries=6)
    assert [entry.seq for entry in window] == [2, 3, 4, 5, 6, 7]


def test_a_window_keeps_the_session_alive(store: Store, clock: MovableClock) -> None:
    from datetime import timedelta

    store.sessions.create("s", ttl=timedelta(hours=1))
    clock.advance(minutes=59)
    store.history.window("s", max_entries=1)
    clock.advance(minutes=59)
    assert store.sessions.exists("s")


def test_a_missing_session_has_no_window(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        store.history.window("missing")


@pytest.mark.parametrize(
    "limits", [{"max_entries": -1}, {"max_tokens": -1}, {"max_tokens": 1.5}, {"tokenizer": 4}], ids=str
)
def test_limits_that_cannot_be(store: Store, fill: Any, limits: Any) -> None:
    fill()
    with pytest.raises(InvalidValueError):
        store.history.window("s", **limits)


@pytest.mark.parametrize(
    ("limits", "expected", "most"),
    [
        ({"max_entries": 20}, 20, 21),
        ({"max_tokens": 20 * 10}, 20, 64),
        ({"max_tokens": 500 * 10}, 500, 64 + 128 + 256 + 512),
        ({"max_entries": 20, "max_tokens": 10**6}, 20, 21),
        ({"max_entries": 20, "keep_system": True}, 19, 22),
    ],
    ids=str,
)
def test_a_window_on_ten_thousand_entries_reads_few(
    open_store: Any, monkeypatch: pytest.MonkeyPatch, limits: Any, expected: int, most: int
) -> None:
    from statestore.repositories.history import entry_rows

    store = open_store()
    store.sessions.create("s")
    # One turn each: the window ends exactly where the budget does.
    store.history.append("s", [SYSTEM, *[user("x" * 40)] * 9_999])
    read = []
    build = entry_rows.from_rows
    monkeypatch.setattr(entry_rows, "from_rows", lambda link, name, rows: read.extend(rows) or build(link, name, rows))
    window = store.history.window("s", **limits)
    assert [entry.seq for entry in window][-expected:] == [*range(10_001 - expected, 10_001)]
    assert len(read) <= most


def whole(window: list[Any], history: list[Any]) -> bool:
    """Whether the window tears nothing apart: what it has of calls and results, it has all of."""

    def calls(entries: list[Any]) -> set[str]:
        return {call["id"] for e in entries for call in e.content.get("tool_calls") or []}

    def results(entries: list[Any]) -> set[str]:
        return {e.content["tool_call_id"] for e in entries if e.content["role"] == "tool"}

    return results(window) <= calls(window) and calls(window) & results(history) <= results(window)


# All 200 in the long run.
RUNS = runs() if os.environ.get("STATESTORE_HYPOTHESIS_PROFILE") == "long" else runs()[::20]


def test_no_budget_tears_a_call_from_its_result_in_the_real_runs(open_store: Any) -> None:
    store = open_store()
    for number, run in enumerate(RUNS):
        name = f"run {number}"
        store.sessions.create(name)
        history = store.history.append(name, run["messages"])
        for budget in range(1, len(history) + 1):
            window = store.history.window(name, max_entries=budget)
            assert len(window) <= budget
            assert whole(window, history), (number, budget)
            assert window == history[len(history) - len(window) :]
        total = store.history.window(name, max_tokens=10**9).tokens or 0
        for budget in range(1, total + 2, max(1, total // 40)):
            window = store.history.window(name, max_tokens=budget, keep_newest=False)
            assert (window.tokens or 0) <= budget
            if not window:
                window = store.history.window(name, max_tokens=budget)
                assert window[-1] == history[-1]
            assert whole(window, history), (number, budget)
        assert len(store.history.window(name, max_tokens=total)) == len(history)
