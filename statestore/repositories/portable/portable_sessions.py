"""The rows of a session that another system kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from statestore.checking import checks, exactjson
from statestore.errors import InvalidValueError
from statestore.repositories.history import entry_rows
from statestore.repositories.portable.portable_values import Record
from statestore.values.saved_sessions import SavedSession, SavedState


def records(session: SavedSession) -> list[Record]:
    """The session's row first, then those that belong to it.

    Raises:
        InvalidValueError: The store does not accept a value; the message begins with the place that it came from.
    """
    entries = [*_entries(session)]
    with _naming(session.where):
        columns: dict[str, Any] = {
            "session_id": checks.key(session.session_id, "id"),
            "user_id": checks.optional_key(session.user_id, "user_id"),
            "instructions": checks.optional_text(session.instructions, "instructions"),
            "metadata": checks.metadata(session.metadata),
            "created_at": session.created_at,
            "last_activity_at": session.last_activity_at,
            "root_session_id": session.session_id,
            "first_seq": session.first_seq,
            "next_seq": session.first_seq + len(entries),
            "last_turn": entries[-1].values["turn"] if entries else 0,
        }
    return [
        Record("session", _filled(columns), session.where),
        *entries,
        *_summaries(session),
        *(_state(session, one) for one in session.state),
        *_lists(session),
    ]


def _entries(session: SavedSession) -> Iterator[Record]:
    turn = 0
    for seq, saved in enumerate(session.entries, start=session.first_seq):
        with _naming(saved.where):
            [prepared] = entry_rows.prepare([saved.entry], max_bytes=exactjson.MAX_BYTES)
        turn += prepared.columns["turn"]
        place = {"session_id": session.session_id, "seq": seq, "turn": turn}
        yield Record("entry", {"created_at": session.last_activity_at, **prepared.columns, **place}, saved.where)


def _summaries(session: SavedSession) -> Iterator[Record]:
    for saved in session.summaries:
        columns = {
            "session_id": session.session_id,
            "start_seq": saved.start_seq,
            "end_seq": saved.end_seq,
            "content": saved.content,
            "token_count": saved.token_count,
            "created_at": saved.created_at,
        }
        yield Record("summary", _filled(columns), saved.where)


def _state(session: SavedSession, saved: SavedState) -> Record:
    with _naming(saved.where):
        columns = {
            "session_id": session.session_id,
            "key": checks.key(saved.key, "the key"),
            "value": exactjson.dumps(saved.value, "the value"),
            "version": 1,
            "updated_at": session.last_activity_at,
        }
    return Record("state", columns, saved.where)


def _lists(session: SavedSession) -> Iterator[Record]:
    used_at = session.last_activity_at
    for saved in session.lists:
        with _naming(saved.where):
            place = {"session_id": session.session_id, "name": checks.key(saved.name, "the name of the list")}
        yield Record(
            "list", {**place, "item_count": len(saved.items), "created_at": used_at, "updated_at": used_at}, saved.where
        )
        for position, item in enumerate(saved.items, start=1):
            with _naming(item.where):
                value = exactjson.dumps(item.value, "the item")
            yield Record(
                "list_item", {**place, "position": position, "value": value, "created_at": used_at}, item.where
            )


def _filled(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if value is not None}


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Say where a value came from that the store does not accept."""
    try:
        yield
    except InvalidValueError as error:
        raise InvalidValueError(where, str(error).removeprefix("entries[0].")) from None
