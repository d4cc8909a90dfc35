"""A session with branches, which are forks, and with what its turns said, called and used."""

import re
import time
from functools import partial
from itertools import chain, count
from typing import Any, Final, TypeVar

from statestore import AsyncStateStore, AsyncTransaction, Entry, Session, SessionNotFoundError
from statestore.adapters.flows import all_sessions, arun
from statestore.adapters.layouts.openai_agents import MAIN, NAMES, branch_session_id, name_key
from statestore.adapters.openai_agents import items, run_usage
from statestore.adapters.openai_agents.session import Act, Items, StatestoreSession

T = TypeVar("T")

_PREVIEW: Final = 100


class AdvancedStatestoreSession(StatestoreSession):
    """A session with branches and analytics, as the SDK's AdvancedSQLiteSession, on any number of hosts.

    A branch is a fork of the session that belongs to it: no item is copied, it is hidden from lists of sessions, and it
    expires and is deleted with the session. Each instance has a current branch, at first `main`.
    """

    def __init__(self, session_id: str, *args: Any, **kwargs: Any) -> None:
        """Make a session. See `StatestoreSession`."""
        super().__init__(session_id, *args, **kwargs)
        self._branch_id = MAIN

    @property
    def current_branch(self) -> str:
        """The branch that items are read from and added to."""
        return self._branch_id

    def branch_session_id(self, branch_id: str) -> str:
        """The id that a branch has among the sessions of the store."""
        return branch_session_id(self.session_id, branch_id)

    async def _on_current(self, act: Act[T]) -> T | None:
        branch_id = self._branch_id
        if branch_id == MAIN:
            return await super()._on_current(act)
        try:
            return await act(await self._lazy.here(), self.branch_session_id(branch_id))
        except SessionNotFoundError:
            await self._leave(branch_id)
            return await super()._on_current(act)

    async def _on(self, branch_id: str | None, act: Act[T]) -> T | None:
        """What *act* returns for a branch, by default the current one; None if there is none."""
        if branch_id is None:
            return await self._on_current(act)
        try:
            return await act(await self._lazy.here(), self.branch_session_id(branch_id))
        except SessionNotFoundError:
            return None

    async def _leave(self, branch_id: str) -> None:
        """Go back to the main branch if the session was cleared meanwhile. A branch that was deleted is an error."""
        store = await self._lazy.here()
        place = self.branch_session_id(branch_id)
        try:
            deleted = await store.state.get(self.session_id, name_key(place), default=None) == "deleted"
        except SessionNotFoundError:
            deleted = False
        if deleted:
            raise _no_branch(branch_id)
        if self._branch_id == branch_id:
            self._branch_id = MAIN

    # Items

    async def get_items(self, limit: int | None = None, branch_id: str | None = None) -> Items:
        """The newest *limit* items of a branch, by default the current one, oldest first."""
        last = self._limit(limit)
        return await self._on(branch_id, lambda store, place: store.history.messages(place, last=last)) or []

    async def clear_session(self) -> None:
        """Remove all items of all branches, and the branches. Their names stay used."""

        async def clear(tx: AsyncTransaction) -> None:
            await tx.history.clear(self.session_id)
            await tx.sessions.delete_many([session.session_id for session in (await self._branches(tx)).values()])

        store = await self._lazy.here()
        self._branch_id = MAIN
        try:
            await store.run_transaction(clear)
        except SessionNotFoundError:
            return

    # Branches

    async def create_branch_from_turn(self, turn_number: int, branch_name: str | None = None) -> str:
        """Make a branch with all items before a turn of the current branch, and switch to it.

        Args:
            turn_number: The turn, counted from 1, that is to be said in another way.
            branch_name: A name that no branch of this session has ever had; by default one is made.

        Returns:
            The name.

        Raises:
            ValueError: There is no such turn, or the name is blank or was used. Nothing was written.
        """
        if branch_name is not None and not branch_name.strip():
            raise ValueError("Branch name cannot be empty")
        source_branch = self._branch_id

        async def create(store: AsyncStateStore, source: str) -> str:
            return await store.run_transaction(partial(self._fork, source, turn_number, branch_name))

        name = await self._on_current(create)
        if name is None:
            raise ValueError(f"Turn {turn_number} does not contain a user message in branch {source_branch!r}")
        self._branch_id = name
        return name

    async def _fork(self, source: str, turn_number: int, branch_name: str | None, tx: AsyncTransaction) -> str:
        # Of two who make branches of one name at once, one is told here that it was used: this holds the session.
        begins = await tx.history.read(source, turn=turn_number, role="user", limit=1) if turn_number > 0 else []
        if not begins:
            raise ValueError(f"Turn {turn_number} does not contain a user message in branch {self._name_of(source)!r}")
        name = branch_name if branch_name is not None else await self._unused_name(tx, turn_number)
        place = self.branch_session_id(name)
        if name == MAIN or await tx.state.set(self.session_id, name_key(place), "used", only_if="missing") is None:
            raise ValueError(f"Branch ID {name!r} has already been used. Choose a new branch ID.")
        await tx.sessions.fork(source, place, at_seq=begins[0].seq - 1, with_state=False, as_part=True)
        return name

    async def _unused_name(self, tx: AsyncTransaction, turn_number: int) -> str:
        base = f"branch_from_turn_{turn_number}_{int(time.time())}"
        used = set(await tx.state.keys(self.session_id, prefix=NAMES))
        names = chain([base], (f"{base}_{number}" for number in count(2)))
        return next(name for name in names if name_key(self.branch_session_id(name)) not in used)

    async def create_branch_from_content(self, search_term: str, branch_name: str | None = None) -> str:
        """As `create_branch_from_turn`, from the first turn whose message contains a text.

        Raises:
            ValueError: There is none. Nothing was written.
        """
        found = await self.find_turns_by_content(search_term)
        if not found:
            raise ValueError(f"No user turns found containing {search_term!r}")
        return await self.create_branch_from_turn(found[0]["turn"], branch_name)

    async def switch_to_branch(self, branch_id: str) -> None:
        """Make a branch the current one of this instance.

        Raises:
            ValueError: There is no such branch.
        """
        store = await self._lazy.here()
        if not await store.sessions.exists(self.branch_session_id(branch_id)):
            raise _no_branch(branch_id)
        self._branch_id = branch_id

    async def delete_branch(self, branch_id: str, force: bool = False) -> None:
        """Delete a branch. Its name stays used, and what it used stays in the reports.

        Args:
            branch_id: The branch.
            force: Delete it even if it is the current one, which `main` is afterwards.

        Raises:
            ValueError: There is no such branch, or it is `main`, or the current one without *force*.
        """
        if not branch_id.strip():
            raise ValueError("Branch ID cannot be empty")
        if branch_id == MAIN:
            raise ValueError("Cannot delete the 'main' branch")
        if branch_id == self._branch_id and not force:
            raise ValueError(f"Cannot delete current branch {branch_id!r}. Use force=True or switch branches first")
        place = self.branch_session_id(branch_id)

        async def delete(tx: AsyncTransaction) -> bool:
            deleted = await tx.sessions.delete(place)
            if deleted:
                await tx.state.set(self.session_id, name_key(place), "deleted")
            return deleted

        store = await self._lazy.here()
        if not await store.run_transaction(delete):
            raise _no_branch(branch_id)
        if self._branch_id == branch_id:
            self._branch_id = MAIN

    async def list_branches(self) -> list[dict[str, Any]]:
        """The branches, oldest first: `branch_id`, `message_count`, `user_turns`, `is_current` and `created_at`."""
        store = await self._lazy.here()
        main = await store.sessions.find(self.session_id)
        if main is None:
            return []
        sessions = {MAIN: main, **await self._branches(store)}
        if self._branch_id not in sessions:
            await self._leave(self._branch_id)
        newest = await store.history.last_many([session.session_id for session in sessions.values()], 1)
        return [
            {
                "branch_id": name,
                "message_count": session.entry_count,
                "user_turns": newest[session.session_id][0].turn if newest.get(session.session_id) else 0,
                "is_current": name == self._branch_id,
                "created_at": items.time_text(session.created_at),
            }
            for name, session in sessions.items()
        ]

    async def _branches(self, store: AsyncTransaction) -> dict[str, Session]:
        """The sessions of all branches but `main`, by name, oldest first."""
        prefix = self.branch_session_id("")
        parts = all_sessions(belongs_to=self.session_id, id_prefix=prefix, order_by="created_at", descending=False)
        found = await arun(store, parts)
        return {session.session_id.removeprefix(prefix): session for session in found}

    def _name_of(self, place: str) -> str:
        return MAIN if place == self.session_id else place.removeprefix(self.branch_session_id(""))

    # Turns

    async def get_conversation_turns(self, branch_id: str | None = None) -> list[dict[str, Any]]:
        """The messages of the user: `turn`, `content` (its beginning), `full_content`, `timestamp`, `can_branch`."""
        return [items.turn_of(entry, longest=_PREVIEW) for entry in await self._entries(branch_id, role="user")]

    async def find_turns_by_content(self, search_term: str, branch_id: str | None = None) -> list[dict[str, Any]]:
        """The messages of the user that contain a text, in upper or lower case; `content` is all of it."""
        pattern = re.compile(re.escape(search_term), re.IGNORECASE | re.ASCII)
        return [
            items.turn_of(entry)
            for entry in await self._entries(branch_id, role="user")
            if any(pattern.search(text) for text in items.texts_of(entry))
        ]

    async def get_conversation_by_turns(self, branch_id: str | None = None) -> dict[int, list[dict[str, str | None]]]:
        """By turn, the `type` and the `tool_name` of each item."""
        turns: dict[int, list[dict[str, str | None]]] = {}
        for entry in await self._entries(branch_id):
            item = {"type": items.type_of(entry.content), "tool_name": items.tool_of(entry.content)}
            turns.setdefault(entry.turn, []).append(item)
        return turns

    async def get_tool_usage(self, branch_id: str | None = None) -> list[tuple[str, int, int]]:
        """How often each turn called each tool: the tool, how often, and the turn."""
        return items.calls_of(await self._entries(branch_id))

    # Usage

    async def get_session_usage(self, branch_id: str | None = None) -> dict[str, int] | None:
        """What the turns of a branch used, or those of all branches: the sums, and `total_turns`. None if nothing."""
        store = await self._lazy.here()
        names = [MAIN, *await self._branches(store)] if branch_id is None else [branch_id]
        turns = [used for name in names for used in (await self._usage_by_turn(name)).values()]
        if not turns:
            return None
        return {name: sum(turn[name] for turn in turns) for name in run_usage.FIGURES} | {"total_turns": len(turns)}

    async def get_turn_usage(
        self, user_turn_number: int | None = None, branch_id: str | None = None
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """What a turn used, or a list of what each turn used; empty if that is not known."""
        if user_turn_number is not None:
            begins = await self._entries(branch_id, turn=user_turn_number, limit=1) if user_turn_number >= 0 else []
            return next((run_usage.of_turn(entry) or {} for entry in begins), {})
        return [{"user_turn_number": turn, **used} for turn, used in (await self._usage_by_turn(branch_id)).items()]

    async def _usage_by_turn(self, branch_id: str | None) -> dict[int, dict[str, Any]]:
        entries = await self._entries(branch_id, role="user")
        if not entries or entries[0].seq > 1:
            # Items before the first message of the user are a turn, too.
            entries = [*await self._entries(branch_id, turn=0, limit=1), *entries]
        found = {entry.turn: run_usage.of_turn(entry) for entry in entries}
        return {turn: used for turn, used in found.items() if used is not None}

    async def _entries(self, branch_id: str | None, **which: Any) -> list[Entry]:
        return await self._on(branch_id, lambda store, place: store.history.read(place, **which)) or []


def _no_branch(branch_id: str) -> ValueError:
    return ValueError(f"Branch {branch_id!r} does not exist")
