"""The SDK's protocol `SessionStore`, and how it reads and writes."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from functools import update_wrapper
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeAlias, TypeVar, cast
from weakref import WeakValueDictionary

import anyio.to_thread
from claude_agent_sdk import SessionKey, SessionListSubkeysKey, SessionStoreListEntry, SessionSummaryEntry

from statestore import (
    NEVER,
    AsyncStateStore,
    AsyncTransaction,
    ConflictError,
    InvalidValueError,
    LazyStore,
    Session,
    SessionExistsError,
    SessionNotFoundError,
    StoreLike,
    Usage,
)
from statestore.adapters.claude_agent_sdk.keys import quoted, sdk_id, statestore_id, subpath_of, whole
from statestore.adapters.claude_agent_sdk.lines import (
    AGENT,
    SUB_AGENT,
    TAIL,
    Line,
    Tail,
    check_lines,
    once,
    time_of,
    usage_of,
)
from statestore.adapters.flows import all_sessions, arun
from statestore.adapters.layouts.labels import label

_MOST_TAILS = 10_000
_LONGEST_PATH = 100_000

P = ParamSpec("P")
R = TypeVar("R")
Method: TypeAlias = "Callable[Concatenate[StatestoreSessionStore, P], Coroutine[Any, Any, R]]"


def _on_asyncio(method: "Method[P, R]") -> "Method[P, R]":
    """Run a method on asyncio, which stores need: called from trio, in a thread with an event loop of its own."""

    async def call(self: "StatestoreSessionStore", *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return await anyio.to_thread.run_sync(lambda: asyncio.run(method(self, *args, **kwargs)))
        return await method(self, *args, **kwargs)

    return cast("Method[P, R]", update_wrapper(call, method))


class StatestoreSessionStore:
    """Transcripts of the Claude Agent SDK, as its protocol `SessionStore` wants them; on asyncio and on trio.

    A line with a `uuid` is stored once, however often it is sent. What an answer used is counted once, although each of
    its lines repeats it.
    """

    def __init__(self, store: StoreLike = None, *, user_id: str | None = None, ttl: timedelta | None = None) -> None:
        """Keep transcripts in *store*: a `LazyStore`, an open `AsyncStateStore`, a URL, or None for STATESTORE_URL.

        Args:
            store: Where to keep them. It is opened at first use.
            user_id: The user that new sessions belong to, for reports and erasure. It limits neither lists nor `load`.
            ttl: How long after its last use a new session expires, sub-agents included; None for the store's default.
        """
        self._store = LazyStore.of(store)
        given: Any = ttl
        if given is not NEVER and not isinstance(given, timedelta | None):
            raise InvalidValueError("ttl", f"must be a timedelta, NEVER or None, not {type(given).__name__}")
        self._new: dict[str, Any] = {"user_id": user_id, "ttl": ttl}
        self._tails: dict[str, Tail] = {}
        self._locks: WeakValueDictionary[Any, asyncio.Lock] = WeakValueDictionary()

    @_on_asyncio
    async def append(self, key: SessionKey, entries: list[Line]) -> None:
        """Store lines at the end of a transcript, all or none.

        Raises:
            InvalidValueError: The key does not name a transcript, or a line is not a dictionary. Nothing was written.
        """
        session_id = statestore_id(key)
        check_lines(entries)
        if not entries:
            return
        async with self._locks.setdefault((asyncio.get_running_loop(), session_id), asyncio.Lock()):
            store = await self._store.here()
            lines = once(entries)
            tail = self._tails.get(session_id) or await self._open(store, key, lines)
            while True:
                copied = await _copied(store, lines) if tail.seq == 0 else set()
                batch, after = tail.extended(key, lines, copied)
                try:
                    stored = await store.history.append(session_id, batch, after_seq=tail.seq, on_conflict="keep")
                    break
                except (ConflictError, SessionNotFoundError):
                    before, tail = tail, await self._open(store, key, lines)
                    if tail.seq == before.seq:
                        raise  # Nobody else has written meanwhile, so it would be refused again.
            after.seq = max([tail.seq, *(entry.seq for entry in stored)])
            if len(self._tails) >= _MOST_TAILS:
                self._tails.clear()  # They are only a memory of what the newest entries say.
            self._tails[session_id] = after

    @_on_asyncio
    async def load(self, key: SessionKey) -> list[Line] | None:
        """The lines of a transcript; None if there is none."""
        store = await self._store.here()
        try:
            lines: list[Line] = await store.history.messages(statestore_id(key))
        except SessionNotFoundError:
            return None
        return lines or None

    @_on_asyncio
    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """The sessions of a project, and when something was last written to each."""
        found = await _sessions_of(await self._store.here(), project_key)
        return [{"session_id": sdk_id(one), "mtime": _mtime(one)} for one in found]

    @_on_asyncio
    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """What is shown of a project's sessions. The SDK itself reads those that others have appended to."""
        store = await self._store.here()
        # A list extends no TTL; reading entries does, unless nothing is written.
        async with store.transaction(read_only=True) as tx:
            sessions = await _sessions_of(tx, project_key)
            newest = await tx.history.last_many([one.session_id for one in sessions], 1)
        return [
            {"session_id": sdk_id(one), "mtime": _mtime(one), "data": kept["summary"]}
            for one in sessions
            for entry in newest.get(one.session_id, ())
            if (kept := entry.metadata.get(TAIL)) is not None
        ]

    @_on_asyncio
    async def delete(self, key: SessionKey) -> None:
        """Delete a transcript; that of a session with those of its sub-agents."""
        store = await self._store.here()
        self._tails.pop(statestore_id(key), None)
        try:
            await store.sessions.delete(statestore_id(key))
        except SessionNotFoundError:
            return

    @_on_asyncio
    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """The subpaths of a session's sub-agents."""
        store = await self._store.here()
        prefix = f"{statestore_id(key)}/"
        parts = await arun(store, all_sessions(belongs_to=statestore_id(key), id_prefix=prefix, order_by="created_at"))
        return [part.session_id.removeprefix(prefix) for part in parts if part.entry_count]

    async def _open(self, store: AsyncStateStore, key: SessionKey, lines: Sequence[Line]) -> Tail:
        """How a transcript ends, as it is stored. If there is none, it will begin with these *lines*."""
        cwd = next((said for line in lines if (said := label(line.get("cwd"), longest=_LONGEST_PATH))), None)
        about: dict[str, Any] = {"project_root": cwd, "cwd": cwd}
        about["created_at"] = next(filter(None, map(time_of, lines)), None)
        about |= {"agent_name": AGENT, **self._new}
        if subpath_of(key):  # Whose TTL is that of its session.
            about |= {"agent_name": SUB_AGENT, "ttl": None, "belongs_to": whole(key)}
        try:
            await store.sessions.create(statestore_id(key), **about)
        except SessionExistsError:
            return await _tail_of(store, key)
        except SessionNotFoundError:  # A sub-agent's lines come before those of its session.
            await store.sessions.open(whole(key), agent_name=AGENT, **self._new)
            return await self._open(store, key, lines)
        return Tail()

    @_on_asyncio
    async def aclose(self) -> None:
        """Close the store if it was opened here. A later use opens it again."""
        await self._store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _tail_of(store: AsyncStateStore, key: SessionKey) -> Tail:
    session_id = statestore_id(key)
    newest = await store.history.read(session_id, last=1)
    if not newest:
        return Tail((await store.sessions.get(session_id)).next_seq - 1)
    [entry] = newest
    if (kept := entry.metadata.get(TAIL)) is not None:
        return Tail(entry.seq, kept["summary"], kept["response"], Usage(**kept["counted"]))
    # Somebody has appended in another way, or this is a fork at a line between the last ones of two appends.
    _, tail = Tail().extended(key, await store.history.messages(session_id), set())
    tail.seq = entry.seq
    return tail


async def _copied(store: AsyncStateStore, lines: Sequence[Line]) -> set[str]:
    """The lines of answers that other transcripts have too: a resumed session may begin with a copy of another."""
    ids = [uuid for line in lines if (uuid := label(line.get("uuid"))) and usage_of(line, set()) != Usage()]
    names = (AGENT, SUB_AGENT)
    return set(await store.history.locate_many(ids, agent_names=names, include_expired=True)) if ids else set()


async def _sessions_of(store: AsyncStateStore | AsyncTransaction, project_key: str) -> list[Session]:
    prefix = quoted(project_key, "project_key") + "/"
    found = await arun(store, all_sessions(agent_name=AGENT, id_prefix=prefix))
    return [session for session in found if session.entry_count]


def _mtime(session: Session) -> int:
    return int(session.last_activity_at.timestamp() * 1000)
