"""The session that `Runner.run(…, session=…)` takes."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from agents import TResponseInputItem
from agents.memory import SessionSettings
from agents.memory.session_settings import coerce_session_settings
from agents.result import RunResultBase

from statestore import (
    AsyncStateStore,
    InvalidValueError,
    LazyStore,
    NewSession,
    SessionNotFoundError,
    StoreLike,
)
from statestore.adapters.openai_agents.compaction import Snapshot, replace_all, snapshot
from statestore.adapters.openai_agents.items import entries_of
from statestore.adapters.openai_agents.run_usage import record

T = TypeVar("T")
Items: TypeAlias = list[TResponseInputItem]
Act: TypeAlias = Callable[[AsyncStateStore, str], Awaitable[T]]


class StatestoreSession:
    """A session for `Runner.run(…, session=…)`, in the history of a store.

    Nothing is connected before the first use. Any number of instances, tasks and processes may use a session at once.
    """

    def __init__(
        self,
        session_id: str,
        store: StoreLike = None,
        *,
        create: NewSession | None = None,
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        """Make a session.

        Args:
            session_id: Its id in the store.
            store: A `LazyStore`, which sessions can share, an open `AsyncStateStore`, or a URL; by default
                STATESTORE_URL.
            create: What the session is to be like if its first items create it, such as its user and its TTL.
            session_settings: As the SDK's sessions take them; `limit` is how many items `get_items` returns by default.
        """
        if not (session_id and isinstance(session_id, str)):
            raise InvalidValueError("session_id", "must be a string of at least one character")
        self.session_id = session_id
        self.session_settings: SessionSettings | None = coerce_session_settings(session_settings or {})
        self._create = NewSession() if create is None else create
        self._lazy = LazyStore.of(store)

    async def get_items(self, limit: int | None = None) -> Items:
        """The newest *limit* items, oldest first; by default as many as the session's settings say, or else all."""
        last = self._limit(limit)
        return await self._on_current(lambda store, place: store.history.messages(place, last=last)) or []

    async def add_items(self, items: Items) -> None:
        """Append *items*, all or none.

        Raises:
            InvalidValueError: One of them is not a dictionary, or not exact JSON. Nothing was written.
        """
        if items:
            await self._on_current(lambda store, place: self._append(store, place, items))

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the newest item and return it; None if there is none."""
        popped = await self._on_current(lambda store, place: store.history.pop_last(place))
        return popped[0].content if popped else None

    async def clear_session(self) -> None:
        """Remove all items. The session itself stays, with its user, its TTL and its state."""
        await self._on_current(lambda store, place: store.history.clear(place))

    async def store_run_usage(self, result: RunResultBase) -> None:
        """Record what a run used, for the newest turn; without items there is no turn, and nothing is recorded.

        The same result again changes nothing. A run that was interrupted and resumed reports all that it has used so
        far: only what is new is recorded then. The reports of `store.usage` count it, whatever becomes of the turn.
        """
        await self._on_current(lambda store, place: record(store, place, result))

    async def aclose(self) -> None:
        """Close what was opened here; a store that was handed in is its owner's. A later use opens it again."""
        await self._lazy.aclose()

    async def _get_compaction_snapshot(
        self, limit: int, *, prune_prefix: Callable[[TResponseInputItem], bool] | None = None
    ) -> Snapshot | None:
        """What the SDK's automatic compaction reads, and replaces if it is still the same. The SDK looks it up."""
        return await self._on_current(lambda store, place: snapshot(store, place, limit, prune_prefix))

    async def _atomic_replace_items(self, items: Items) -> bool:
        """Replace all items, for a compaction by hand. The SDK looks it up."""
        return bool(await self._on_current(lambda store, place: replace_all(store, place, items)))

    async def _on_current(self, act: Act[T]) -> T | None:
        """What *act* returns for the session of the store; None if there is none."""
        try:
            return await act(await self._lazy.here(), self.session_id)
        except SessionNotFoundError:
            return None

    async def _append(self, store: AsyncStateStore, place: str, items: Items) -> None:
        # Only the session itself is made by its first items; a branch that is missing was removed.
        create = self._create if place == self.session_id else False
        await store.history.append(place, entries_of(items), create=create)

    def _limit(self, limit: int | None) -> int | None:
        return self.session_settings.limit if limit is None and self.session_settings is not None else limit

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id!r}>"
