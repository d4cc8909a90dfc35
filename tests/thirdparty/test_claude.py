"""The semantics of the Claude Agent SDK's session store on our API, in the model of `claude_model`."""

from collections.abc import Callable
from typing import Any

import pytest

from statestore import Usage
from tests.support.clock import MovableClock
from tests.thirdparty.claude_model import ClaudeTranscripts

Store = Any

EXPLORER = "subagents/agent-explore"


def line(uuid: str | None, text: str = "x") -> dict[str, Any]:
    own = {} if uuid is None else {"uuid": uuid}
    return {"type": "user", **own, "message": {"role": "user", "content": text}}


@pytest.fixture
def transcripts(store: Store) -> ClaudeTranscripts:
    return ClaudeTranscripts(store, "/work/app")


def test_lines_come_back_in_order_and_once_however_often_they_are_sent(transcripts: ClaudeTranscripts) -> None:
    first, second = (
        [line("1"), line(None, "no id")],
        [line("1"), line("2"), {"type": "custom-title", "customTitle": "T"}],
    )
    transcripts.append("s", first)
    transcripts.append("s", second)
    assert transcripts.load("s") == [*first, *second[1:]]
    assert transcripts.load("missing") is None


def test_sub_agents_have_transcripts_of_their_own_and_are_not_in_the_list(transcripts: ClaudeTranscripts) -> None:
    transcripts.append("s", [line("1")])
    transcripts.append("s", [line("1", "of the explorer")], subpath=EXPLORER)
    assert transcripts.load("s") == [line("1")]
    assert transcripts.load("s", subpath=EXPLORER) == [line("1", "of the explorer")]
    assert transcripts.subkeys("s") == [EXPLORER]
    assert [one["session_id"] for one in transcripts.summaries()] == ["s"]


def test_a_sub_agent_s_lines_may_come_before_those_of_its_session(transcripts: ClaudeTranscripts) -> None:
    transcripts.append("s", [line("1")], subpath=EXPLORER)
    assert (transcripts.load("s"), transcripts.subkeys("s")) == ([], [EXPLORER])


def test_deleting_a_session_deletes_its_sub_agents_and_a_sub_agent_only_itself(
    transcripts: ClaudeTranscripts, store: Store
) -> None:
    for session_id in ("s", "other"):
        transcripts.append(session_id, [line("1")])
        for part in (EXPLORER, "subagents/agent-plan"):
            transcripts.append(session_id, [line("1")], subpath=part)
    transcripts.delete("s", subpath=EXPLORER)
    assert transcripts.subkeys("s") == ["subagents/agent-plan"]
    transcripts.delete("s")
    transcripts.delete("s")
    assert transcripts.load("s", subpath="subagents/agent-plan") is None
    assert len(transcripts.subkeys("other")) == 2
    assert store.sessions.count(include_parts=True) == 3


def test_what_sub_agents_used_is_kept_when_the_session_goes(transcripts: ClaudeTranscripts, store: Store) -> None:
    answer = {"type": "assistant", "message": {"role": "assistant", "content": "y"}}
    transcripts.append("s", [line("1")])
    transcripts.append("s", [{**answer, "uuid": "2"}], subpath=EXPLORER)
    store.history.set_usage(f"s/{EXPLORER}", 1, Usage(input_tokens=7, output_tokens=2))
    transcripts.delete("s")
    assert store.usage.totals().input_tokens == 7


def test_a_summary_shows_the_newest_title(transcripts: ClaudeTranscripts, clock: MovableClock) -> None:
    for title in ("first", "second"):
        transcripts.append("s", [{"type": "custom-title", "customTitle": title}])
        clock.advance(minutes=1)
    transcripts.append("later", [line("1")])
    assert [(one["session_id"], one["data"].get("custom_title")) for one in transcripts.summaries()] == [
        ("later", None),
        ("s", "second"),
    ]


def test_summaries_of_twenty_one_sessions_take_one_statement(
    counted_store: Store, statements: Callable[[Callable[[], Any]], int]
) -> None:
    transcripts = ClaudeTranscripts(counted_store, "/work/app")
    for n in range(21):
        transcripts.append(f"s{n}", [line("1"), {"type": "custom-title", "customTitle": f"T{n}"}])
        transcripts.append(f"s{n}", [line("1")], subpath=EXPLORER)
    assert len(transcripts.summaries()) == 21
    assert statements(transcripts.summaries) == 1
    assert statements(lambda: transcripts.subkeys("s0")) == 1
