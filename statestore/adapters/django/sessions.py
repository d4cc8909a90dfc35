"""Django's sessions in a store: `SESSION_ENGINE = "statestore.adapters.django.sessions"`.

    STATESTORE_SESSIONS = {"url": "postgresql://app@db/app", "namespace": "web"}

A session is a key of `app_state`, with the end that Django gives it, which reading does not move. Its value is the text
that Django signs and its JSON serializer makes. `sessions.delete_user` logs a user out everywhere.
"""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import VALID_KEY_CHARS, CreateError, SessionBase, UpdateError
from django.utils.crypto import get_random_string

from statestore import LazyStore
from statestore.adapters.django import OPTIONS, check_options, lifetime, shared

OWNER = "django.contrib.sessions"
_LONGEST = 128


class SessionStore(SessionBase):
    """A session. What it costs: one statement to load, to save, to create or to delete it."""

    _session_key: Any
    session_key: Any

    @classmethod
    def store(cls) -> LazyStore:
        """The store that the settings name; without them that of STATESTORE_URL, or else the file statestore.db."""
        given = getattr(settings, "STATESTORE_SESSIONS", {})
        check_options(given, "STATESTORE_SESSIONS", OPTIONS)
        options = dict(given)
        return shared(options.pop("url", None), **options)

    def load(self) -> dict[str, Any]:
        known = _is_key(self.session_key)
        return self._loaded(self.store().sync().app_state.get(OWNER, self.session_key, None) if known else None)

    async def aload(self) -> dict[str, Any]:
        state = (await self.store().here()).app_state
        return self._loaded(await state.get(OWNER, self.session_key, None) if _is_key(self.session_key) else None)

    def _loaded(self, found: str | None) -> dict[str, Any]:
        if found is None:
            self._session_key = None
            return {}
        data: dict[str, Any] = self.decode(found)
        return data

    def exists(self, session_key: str) -> bool:
        return _is_key(session_key) and self.store().sync().app_state.exists(OWNER, session_key)

    async def aexists(self, session_key: str) -> bool:
        return _is_key(session_key) and await (await self.store().here()).app_state.exists(OWNER, session_key)

    def _get_new_session_key(self) -> str:
        """A key of 165 random bits. Whether it is free, the statement finds out that stores the session."""
        return str(get_random_string(32, VALID_KEY_CHARS))

    async def _aget_new_session_key(self) -> str:
        return self._get_new_session_key()

    def create(self) -> None:
        while True:
            self._session_key = self._get_new_session_key()
            try:
                self.save(must_create=True)
            except CreateError:
                continue
            self.modified = True
            return

    async def acreate(self) -> None:
        while True:
            self._session_key = self._get_new_session_key()
            try:
                await self.asave(must_create=True)
            except CreateError:
                continue
            self.modified = True
            return

    def save(self, must_create: bool = False) -> None:
        if self.session_key is None:
            return self.create()
        data = self._get_session(no_load=must_create)
        text, user_id = self.encode(data), _user_of(data)
        age = lifetime(self.get_expiry_age())
        self._check_key()
        if age <= timedelta(0):
            return self.delete()
        state, only_if = self.store().sync().app_state, _condition(must_create)
        if not state.set(OWNER, self.session_key, text, ttl=age, only_if=only_if, user_id=user_id):
            raise CreateError if must_create else UpdateError

    async def asave(self, must_create: bool = False) -> None:
        if self.session_key is None:
            return await self.acreate()
        data = await self._aget_session(no_load=must_create)
        text, user_id = self.encode(data), _user_of(data)
        age = lifetime(await self.aget_expiry_age())
        self._check_key()
        if age <= timedelta(0):
            return await self.adelete()
        state, only_if = (await self.store().here()).app_state, _condition(must_create)
        if not await state.set(OWNER, self.session_key, text, ttl=age, only_if=only_if, user_id=user_id):
            raise CreateError if must_create else UpdateError

    def _check_key(self) -> None:
        """A session that was not found when it was loaded, just before it is saved, has lost its key by that."""
        if self.session_key is None:
            raise UpdateError

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if _is_key(key):
            self.store().sync().app_state.delete(OWNER, key)

    async def adelete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if _is_key(key):
            await (await self.store().here()).app_state.delete(OWNER, key)

    @classmethod
    def clear_expired(cls) -> None:
        """What `manage.py clearsessions` does: a sweep, which removes all that has expired in the namespace."""
        cls.store().sync().sweep()

    @classmethod
    async def aclear_expired(cls) -> None:
        await (await cls.store().here()).sweep()


def _is_key(key: Any) -> bool:
    """Whether a session may have this key: what a cookie brings may be anything."""
    return isinstance(key, str) and 0 < len(key) <= _LONGEST and key.isprintable()


def _user_of(data: dict[str, Any]) -> str | None:
    """Who is logged in."""
    return str(data[SESSION_KEY]) if SESSION_KEY in data else None


def _condition(must_create: bool) -> Any:
    """A session that was deleted meanwhile, by a logout for example, does not come back."""
    return "missing" if must_create else "present"
