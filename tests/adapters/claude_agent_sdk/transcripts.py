"""Lines and keys for the tests."""

from typing import Any

KEY: Any = {"project_key": "-work-app", "session_id": "s"}
EXPLORER: Any = {**KEY, "subpath": "subagents/agent-explore"}


def line(uuid: str | None, text: str = "x", **more: Any) -> Any:
    own = {} if uuid is None else {"uuid": uuid}
    return {"type": "user", **own, "message": {"role": "user", "content": text}, **more}


def answer(uuid: str, response: str, tokens: tuple[int, int], **more: Any) -> Any:
    """One of the lines of a response, each of which repeats what it used so far."""
    used = {"input_tokens": tokens[0], "output_tokens": tokens[1]}
    said = {
        "role": "assistant",
        "id": response,
        "model": "claude-x",
        "usage": used,
        "stop_reason": "end_turn",
        "content": [{"type": "text", "text": uuid}],
    }
    return {"type": "assistant", "uuid": uuid, "message": said, **more}
