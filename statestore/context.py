"""The current session of an agent process: which one it is, where it works, and who is told when it changes."""

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

from statestore.async_store import AsyncStateStore
from statestore.engine import flows, process_fork
from statestore.engine.flows import Do, Flow
from statestore.errors import InvalidValueError
from statestore.store import StateStore
from statestore.values import ids
from statestore.values.sessions import Session

Path = str | os.PathLike[str]
Listener = Callable[[str], Any]

_log = logging.getLogger("statestore")


@dataclass(frozen=True, slots=True)
class Current:
    """The current session at one moment: what belongs together is replaced together."""

    session_id: str
    project_root: str
    cwd: str
    session: Session | None = None
    cache: dict[Any, Any] = field(default_factory=dict)


class _Context:
    """What both contexts know and do; they differ in how they run it."""

    _drive: Callable[[Flow[Any]], Any]
    """Runs a flow. Returns its result, or an awaitable of it."""

    def __init__(self, store: Any, session_id: str | None, project_root: Path, cwd: Path | None) -> None:
        self._store = store
        root = _text(project_root, "project_root")
        self._wanted_cwd = None if cwd is None else _text(cwd, "cwd")
        self._current = Current(ids.uuid7() if session_id is None else session_id, root, self._wanted_cwd or root)
        self.renew_after_fork()
        process_fork.renew_in_child(self)
        self._listeners: dict[object, Listener] = {}
        self._untold: deque[str] = deque()
        self._telling = False

    def renew_after_fork(self) -> None:
        """In a forked child, replace the lock: the thread that held it does not exist there."""
        self._lock = threading.Lock()

    @property
    def current(self) -> Current:
        """Id, project root, directory and cache of one session, even if another thread switches meanwhile."""
        return self._current

    @property
    def session_id(self) -> str:
        """The id of the current session."""
        return self._current.session_id

    @property
    def session(self) -> Session | None:
        """The current session as it was when last opened, switched to or changed here.

        None if an `AsyncSessionContext` has not been awaited yet.
        """
        return self._current.session

    @property
    def project_root(self) -> str:
        """The directory that the session is about. It stays when `cwd` changes, and changes only with the session."""
        return self._current.project_root

    @property
    def session_cache(self) -> dict[Any, Any]:
        """For whatever is worth keeping while this is the current session; empty after each switch."""
        return self._current.cache

    def on_switch(self, listener: Listener) -> Callable[[], None]:
        """Call *listener* with the new id after each change of the current session.

        Listeners are told of the changes one by one, in order, after each has taken place: they may read the context
        and even switch it. An exception in a listener is logged and affects nobody else.

        Returns:
            A function that ends the subscription.
        """
        key = object()
        with self._lock:
            self._listeners[key] = listener

        def unsubscribe() -> None:
            with self._lock:
                self._listeners.pop(key, None)

        return unsubscribe

    # What follows is written once, as flows: each kind of context runs them in its own way, with the lock held.

    def _open(self) -> Flow[None]:
        """Open the session, unless it is open already."""
        current = self._current
        if current.session is not None:
            return
        sessions, session_id = self._store.sessions, current.session_id
        session = yield Do(lambda: sessions.open(session_id, project_root=current.project_root, cwd=current.cwd))
        root = session.project_root or current.project_root
        cwd = self._wanted_cwd or session.cwd or root
        self._current = replace(current, project_root=root, cwd=cwd, session=session)
        known: dict[str, Any] = {"project_root": root, "cwd": cwd}
        if unknown := {name: value for name, value in known.items() if getattr(session, name) != value}:
            changed = yield Do(lambda: sessions.update(session_id, **unknown))
            self._moved(replace(changed, resumed=session.resumed))

    def _set_cwd(self, path: Path) -> Flow[None]:
        yield from self._open()
        self._moved((yield Do(lambda: self._store.sessions.update(self.session_id, cwd=_text(path, "cwd")))))

    def _regenerate(self, session_id: str, *, as_child: bool) -> Flow[None]:
        yield from self._open()
        if as_child:
            fork = partial(self._fork, session_id)
            session = yield Do(lambda: self._store.run_transaction(lambda tx: self._drive(fork(tx))))
        else:
            session = yield Do(lambda: self._store.sessions.create(session_id, **self._inherited()))
        self._switched(session)

    def _fork(self, session_id: str, tx: Any) -> Flow[Session]:
        """A child of the current session, without its history and its state."""
        yield Do(lambda: tx.sessions.fork(self.session_id, session_id, at_seq=0))
        yield Do(lambda: tx.state.clear(session_id))
        session: Session = yield Do(
            lambda: tx.sessions.update(session_id, title=None, metadata=None, **self._inherited())
        )
        return session

    def _switch(self, session_id: str, root: str | None) -> Flow[tuple[Session, bool]]:
        """The session, and whether it differs from the one before."""
        yield from self._open()
        sessions = self._store.sessions
        session = yield Do(lambda: sessions.get(session_id))
        if session.status == "dead":
            session = yield Do(lambda: sessions.open(session_id))
        if root is not None and root != session.project_root:
            session = yield Do(lambda: sessions.update(session_id, project_root=root))
        before = self._current
        if before.session_id == session_id and before.project_root == (session.project_root or before.project_root):
            self._moved(session)
            return session, False
        self._switched(session)
        return session, True

    def _tell(self) -> Flow[None]:
        """Tell the listeners of all changes that they do not know yet. Holds no lock, since they may switch."""
        due = self._next_to_tell(go_on=False)
        try:
            while due is not None:
                session_id, listeners = due
                for listener in listeners:
                    try:
                        yield Do(partial(listener, session_id))
                    except Exception:
                        _log.exception("a listener failed on the switch to session %r", session_id)
                due = self._next_to_tell(go_on=True)
        except BaseException:
            self._telling = False
            raise

    def _moved(self, session: Session) -> None:
        """Keep the current session as it is after a change of its attributes."""
        current = self._current
        self._current = replace(current, session=session, cwd=session.cwd or current.project_root)

    def _switched(self, session: Session) -> None:
        """Make another session the current one: id, project root and an empty cache in one assignment."""
        root = session.project_root or self._current.project_root
        self._current = Current(session.session_id, root, session.cwd or root, session)
        with self._lock:
            self._untold.append(session.session_id)

    def _inherited(self) -> dict[str, Any]:
        """The attributes that a new session takes over from the current one."""
        current = self._current
        session = current.session
        kept = ("user_id", "agent_name", "instructions", "ttl")
        attributes = {} if session is None else {name: getattr(session, name) for name in kept}
        return attributes | {"project_root": current.project_root, "cwd": current.cwd}

    def _next_to_tell(self, *, go_on: bool) -> tuple[str, list[Listener]] | None:
        """What to tell next, and to whom; None if there is nothing, or if another thread is telling already."""
        with self._lock:
            if self._telling and not go_on:
                return None
            self._telling = bool(self._untold)
            return (self._untold.popleft(), list(self._listeners.values())) if self._telling else None


def _text(path: Any, argument: str) -> str:
    """A path as it is stored."""
    found = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(found, str):
        raise InvalidValueError(argument, f"must be a text path, a str or os.PathLike, not {type(path).__name__}")
    return found


class SessionContext(_Context):
    """The current session of an agent process. Safe to share between threads.

    Creates or resumes the session. A session is found by its id, whatever directory the process is in, and keeps its
    project root. Called with an `AsyncStateStore`, it returns an `AsyncSessionContext`; type checkers do not see that,
    and need you to name `AsyncSessionContext` itself.
    """

    def __new__(cls, store: StateStore | AsyncStateStore, *args: Any, **kwargs: Any) -> "SessionContext":
        if isinstance(store, AsyncStateStore):
            return cast("SessionContext", AsyncSessionContext(store, *args, **kwargs))
        return super().__new__(cls)

    def __init__(
        self, store: StateStore, session_id: str | None = None, *, project_root: Path, cwd: Path | None = None
    ) -> None:
        """Open the session.

        Args:
            store: Where the session is kept.
            session_id: The session to resume, or to create if there is none; by default a new session.
            project_root: The directory that a new session is about.
            cwd: Where the agent works; by default where it last did, or the project root.
        """
        super().__init__(store, session_id, project_root, cwd)
        with self._switching:
            self._drive(self._open())

    def renew_after_fork(self) -> None:
        super().renew_after_fork()
        self._switching = threading.Lock()

    def _drive(self, flow: Flow[Any]) -> Any:
        return flows.run(self._store._database, flow)

    @property
    def cwd(self) -> str:
        """Where the agent works now. Assigning to it stores it with the session."""
        return self._current.cwd

    @cwd.setter
    def cwd(self, path: Path) -> None:
        self.set_cwd(path)

    def set_cwd(self, path: Path) -> None:
        """Change the directory, and store it with the session. The project root stays.

        Raises:
            SessionNotFoundError: The session was deleted, or has expired.
        """
        with self._switching:
            self._drive(self._set_cwd(path))

    def regenerate(self, *, as_child: bool = False) -> str:
        """Continue in a new session, with the same project root, directory, user, agent and instructions.

        Args:
            as_child: Record the old session as the parent of the new one, which inherits nothing else from it.

        Returns:
            The new id.
        """
        session_id = ids.uuid7()
        with self._switching:
            self._drive(self._regenerate(session_id, as_child=as_child))
        self._drive(self._tell())
        return session_id

    def switch(self, session_id: str, project_root: Path | None = None) -> Session:
        """Make another session the current one, together with its project root, then tell the listeners.

        A dead session is resumed. Switching to the session that is already current tells nobody.

        Args:
            session_id: A session that exists.
            project_root: A new project root for it; by default it keeps the stored one.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing changed.
        """
        root = None if project_root is None else _text(project_root, "project_root")
        with self._switching:
            session, is_other = self._drive(self._switch(session_id, root))
        if is_other:
            self._drive(self._tell())
        return session  # type: ignore[no-any-return]


class AsyncSessionContext(_Context):
    """As `SessionContext`, for an `AsyncStateStore`: `context = await AsyncSessionContext(store, project_root=…)`.

    The session is opened when the context is awaited, entered, or first used. Listeners may be coroutine functions;
    they are awaited one after the other.
    """

    def __init__(
        self, store: AsyncStateStore, session_id: str | None = None, *, project_root: Path, cwd: Path | None = None
    ) -> None:
        """Prepare to open the session. Arguments as for `SessionContext`."""
        super().__init__(store, session_id, project_root, cwd)
        self._switching = asyncio.Lock()

    async def _drive(self, flow: Flow[Any]) -> Any:
        return await flows.run_async(self._store._database, flow)

    async def start(self) -> Self:
        """Open the session, if it is not open yet."""
        async with self._switching:
            await self._drive(self._open())
        return self

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.start().__await__()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    @property
    def cwd(self) -> str:
        """Where the agent works now. `set_cwd` changes it."""
        return self._current.cwd

    async def set_cwd(self, path: Path) -> None:
        """Change the directory, and store it with the session. See `SessionContext.set_cwd`."""
        async with self._switching:
            await self._drive(self._set_cwd(path))

    async def regenerate(self, *, as_child: bool = False) -> str:
        """Continue in a new session. See `SessionContext.regenerate`."""
        session_id = ids.uuid7()
        async with self._switching:
            await self._drive(self._regenerate(session_id, as_child=as_child))
        await self._drive(self._tell())
        return session_id

    async def switch(self, session_id: str, project_root: Path | None = None) -> Session:
        """Make another session the current one, then tell the listeners. See `SessionContext.switch`."""
        root = None if project_root is None else _text(project_root, "project_root")
        async with self._switching:
            session, is_other = await self._drive(self._switch(session_id, root))
        if is_other:
            await self._drive(self._tell())
        return session  # type: ignore[no-any-return]
