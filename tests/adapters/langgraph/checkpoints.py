"""Checkpoints to test with."""

from typing import Any

from langgraph.checkpoint.base.id import uuid6

Config = dict[str, Any]


def config(thread_id: str = "t", ns: str = "", **more: Any) -> Config:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, **more}}


def put(saver: Any, after: Config, values: dict[str, Any], versions: dict[str, Any], **more: Any) -> Config:
    """Store a checkpoint that follows another one; *versions* are those of the channels that have changed."""
    before = saver.get_tuple(after) if "checkpoint_id" in after["configurable"] else None
    known = before.checkpoint["channel_versions"] if before else {}
    checkpoint = {
        "v": more.pop("v", 4),
        "id": more.pop("id", None) or str(uuid6(clock_seq=-1)),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": {**known, **versions},
        "versions_seen": {},
        "updated_channels": None,
    }
    metadata = {"source": "loop", "step": 0, "parents": {}, **more}
    found: Config = saver.put(after, checkpoint, metadata, versions)
    return found


def ids(found: Any) -> list[str]:
    return [each.config["configurable"]["checkpoint_id"] for each in found]


def values(saver: Any, at: Config) -> dict[str, Any]:
    found = saver.get_tuple(at)
    assert found is not None
    return dict(found.checkpoint["channel_values"])
