"""One turn of an agent: it begins with what the model needs, and ends with one commit."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from statestore.checking import checks, exactjson, messages
from statestore.engine import process_fork
from statestore.engine.calls import Call
from statestore.engine.flows import Block, Enter
from statestore.errors import ConflictError, InvalidValueError, SessionNotFoundError, StoreClosedError
from statestore.repositories.conversations.turns import Begun, TurnWork
from statestore.repositories.history import entry_rows
from statestore.repositories.history.windows import Limits
from statestore.repositories.state import state_rows
from statestore.values.conversations import Unsaved
from statestore.values.history import Entry, EntryLike, NewEntry, Window
from statestore.values.sessions import Lease, NewSession, Session


class TurnState(MutableMapping[str, Any]):
    """The state of the session as a mapping; changes to it, and inside its values, are written when the turn ends.

    Once the turn has ended, to set or delete a key raises `StoreClosedError`: nobody would write it.
    """

    def __init__(self, session_id: str, stored: Mapping[str, tuple[str, int]], limit: int) -> None:
        self._stored = stored
        self._limit = limit
        self._ended = False
        self._values = {key: state_rows.value(session_id, key, text) for key, (text, _) in stored.items()}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.check_open()
        checks.key(key, "key")
        self._text(key, value)
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        self.check_open()
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)

    def check_open(self) -> None:
        if self._ended:
            raise StoreClosedError("the turn has ended, and no longer stores anything; begin another")

    def end(self) -> None:
        self._ended = True

    def written(self) -> dict[str, Any]:
        """The keys whose values differ from what is stored."""
        return {
            key: value
            for key, value in self._values.items()
            if key not in self._stored or self._text(key, value) != self._stored[key][0]
        }

    def _text(self, key: str, value: Any) -> str:
        return exactjson.dumps(value, f"state[{key!r}]", max_bytes=self._limit)

    def deleted(self) -> tuple[str, ...]:
        return tuple(key for key in self._stored if key not in self._values)

    def versions(self) -> dict[str, int]:
        return {key: version for key, (_, version) in self._stored.items()}


class Turn:
    """What one turn works with. Created by `store.turn`.

    Attributes:
        session_id: The session.
        session: The session as it was when the turn began; None if the commit is to create it.
        window: The history to send to the model.
        state: A mapping; changes to it are committed with the rest.
        stored: The entries as they are stored, in the order given; empty until the turn has been committed.
    """

    def __init__(self, session_id: str, begun: Begun) -> None:
        self.session_id = session_id
        self.session: Session | None = begun.session
        self.window: Window = begun.window
        self.state = TurnState(session_id, begun.state, begun.limit)
        self.stored: list[Entry] = []
        self._start = begun.start
        self._limit = begun.limit
        self._entries: list[NewEntry | Mapping[str, Any]] = []
        self._saved = False
        self._generation = process_fork.generation()

    @property
    def messages(self) -> list[Any]:
        """The contents of the window, oldest first: what goes to the model."""
        return [entry.content for entry in self.window]

    @property
    def instructions(self) -> str | None:
        """The agent's standing instructions."""
        return None if self.session is None else self.session.instructions

    def append(self, entries: EntryLike | Sequence[EntryLike]) -> None:
        """Collect an entry, or several, for the commit: whatever `history.append` takes. Checked at once, and copied.

        An entry with an `entry_id` that is stored already, and does not differ from what is stored, is not stored
        again, so a turn whose commit ended with `CommitUnknownError` can be repeated.

        Raises:
            InvalidValueError: An entry can never be stored. Nothing was collected.
            StoreClosedError: The turn has ended. Nothing was collected.
        """
        self.state.check_open()
        listed: Any = [entries] if messages.is_entry(entries) else entries
        if isinstance(listed, str | bytes) or not isinstance(listed, Iterable):
            problem = f"must be an entry, or a sequence of entries, not {type(listed).__name__}"
            raise InvalidValueError("entries", problem)
        given = [messages.as_entry(entry, f"entries[{index}]") for index, entry in enumerate(listed)]
        prepared = entry_rows.prepare(given, max_bytes=self._limit)
        for entry, checked in zip(given, prepared, strict=True):
            if isinstance(entry, NewEntry):
                metadata = checked.metadata if entry.metadata is not None else None
                self._entries.append(replace(entry, content=checked.content, metadata=metadata))
            else:
                self._entries.append(checked.content)

    @property
    def unsaved(self) -> Unsaved:
        """What was collected and is not stored yet: everything until the commit, nothing after it."""
        if self._saved:
            return Unsaved(entries=(), state_set={}, state_deleted=())
        return Unsaved(entries=tuple(self._entries), state_set=self.state.written(), state_deleted=self.state.deleted())

    def _commit(self, *, create: bool | NewSession, lease: Lease | None) -> Call | None:
        """The call that writes everything collected; None if there is nothing to write and no lease to check."""
        if self._generation != process_fork.generation():  # Or the child could come first, and the parent be refused.
            raise StoreClosedError(
                "the turn was begun before this process was forked, and belongs to the parent; begin another"
            )
        unsaved = self.unsaved
        if not (unsaved.entries or unsaved.state_set or unsaved.state_deleted):
            return None if lease is None else Call(TurnWork.check_lease, (lease,))
        options = {
            "start": self._start,
            "state": unsaved.state_set,
            "deleted": unsaved.state_deleted,
            "versions": self.state.versions(),
            "create": create,
            "lease": lease,
        }
        return Call(TurnWork.commit, (self.session_id, unsaved.entries), options)

    def _committed(self, stored: list[Entry] | None) -> None:
        self.stored = stored or []
        self._saved = True


def turn(session_id: str, limits: Limits, *, create: bool | NewSession, lease: Lease | None) -> Block[Turn]:
    """See `StateStore.turn`."""
    begun = yield Call(TurnWork.begin, (session_id, limits), {"create": create, "lease": lease})
    turn = Turn(session_id, begun)
    try:
        yield Enter(turn)
    finally:
        turn.state.end()
    call = turn._commit(create=create, lease=lease)
    if call is not None:
        try:
            turn._committed((yield call))
        except (ConflictError, SessionNotFoundError) as error:
            error.unsaved = turn.unsaved
            raise
