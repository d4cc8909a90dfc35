"""Django's own tests of caches and sessions, with our backends in the place of `locmem` and `db`.

Django's tests name the backend that they are for by its path, so ours takes its place in its module before they are
imported. What is left out is about the other backends, or looks into one.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings
from django.test.utils import setup_databases, setup_test_environment

from tests.adapters.databases import Databases

PATHS = ["tests/cache", "tests/sessions_tests"]
# Django's sources have no configuration of pytest, and ours is not for them.
OPTIONS = ["-c", os.devnull, "--rootdir=.", "-p", "no:asyncio", "-o", "python_files=tests*.py", "--import-mode=prepend"]

_CACHE, _SESSIONS = "tests/cache/tests.py", "tests/sessions_tests/tests.py"
_LOCMEM = f"{_CACHE}::LocMemCacheTests"
_OTHERS = "another backend"
_TABLE = "looks into the table of Django's own sessions"
_CULLING = "locmem removes a third of a full cache; we the one entry that was not used for longest: see our own tests"
_OF_TABLE = (
    *("test_session_str", "test_session_get_decoded", "test_sessionmanager_save", "test_clearsessions_command"),
    "test_aclear_expired",
)
LEFT_OUT = {
    f"{_CACHE}::DBCacheTests": _OTHERS,
    f"{_CACHE}::DBCacheWithTimeZoneTests": _OTHERS,
    f"{_CACHE}::CreateCacheTableForDBCacheTests": _OTHERS,
    f"{_CACHE}::PyLibMCCacheTests": _OTHERS,
    f"{_CACHE}::PyMemcacheCacheTests": _OTHERS,
    f"{_CACHE}::FileBasedCacheTests": _OTHERS,
    f"{_CACHE}::FileBasedCachePathLibTests": _OTHERS,
    f"{_CACHE}::RedisCacheTests": _OTHERS,
    f"{_LOCMEM}::test_locking_on_pickle": "looks at a lock that locmem has",
    **{f"{_LOCMEM}::{test}": _CULLING for test in ("test_cull", "test_zero_cull", "test_lru_get", "test_lru_incr")},
    f"{_LOCMEM}::test_lru_set": _CULLING,
    f"{_SESSIONS}::CustomDatabaseSessionTests": _OTHERS,
    f"{_SESSIONS}::CacheDBSessionTests": _OTHERS,
    f"{_SESSIONS}::CacheDBSessionWithTimeZoneTests": _OTHERS,
    f"{_SESSIONS}::FileSessionTests": _OTHERS,
    f"{_SESSIONS}::FileSessionPathLibTests": _OTHERS,
    f"{_SESSIONS}::CookieSessionTests": _OTHERS,
    f"{_SESSIONS}::SessionMiddlewareTests::test_empty_session_saved": _TABLE,
    **{f"{_SESSIONS}::DatabaseSessionTests::{test}": _TABLE for test in _OF_TABLE},
    **{f"{_SESSIONS}::DatabaseSessionWithTimeZoneTests::{test}": _TABLE for test in _OF_TABLE},
}


def pytest_configure() -> None:
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3"},
            "other": {"ENGINE": "django.db.backends.sqlite3"},
        },
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.sites",
            "django.contrib.sessions",
            "django.contrib.messages",
            "cache",
            "sessions_tests",
        ],
        LANGUAGE_CODE="en",
        MIDDLEWARE=[],
        MIGRATION_MODULES={"auth": None, "contenttypes": None, "sessions": None, "sites": None},
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        ROOT_URLCONF="urls",
        STATESTORE_SESSIONS={},
        SECRET_KEY="django_tests_secret_key",
        SITE_ID=1,
        STATIC_URL="static/",
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
        USE_TZ=False,
    )
    sys.path.insert(0, str(Path("tests").resolve()))
    django.setup()
    setup_test_environment()
    setup_databases(verbosity=0, interactive=False)
    _put_ours_there()


class _Ends:
    """When keys end, as locmem has it in a dict."""

    def __init__(self, entries: Any) -> None:
        self._entries = entries

    def __getitem__(self, key: str) -> datetime | None:
        return self._entries.entry(key).expires_at


def _put_ours_there() -> None:
    import django.contrib.sessions.backends.cached_db  # noqa: F401 - It is made of Django's own.
    from django.contrib.sessions.backends import db
    from django.core.cache.backends import locmem

    from statestore.adapters.django.cache import StatestoreCache
    from statestore.adapters.django.sessions import SessionStore

    class InPlace(StatestoreCache):
        """A cache of a name of its own, as those of locmem are, on the database of the test."""

        _cache = None

        @property
        def _expire_info(self) -> Any:
            return _Ends(self._entries)

        @_expire_info.setter
        def _expire_info(self, of_another: Any) -> None:
            """Caches of one name share their store already."""

        def __init__(self, name: str, params: Any) -> None:
            options = {**params.get("OPTIONS", {}), "namespace": f"locmem {name}"}
            super().__init__(settings.STATESTORE_SESSIONS["url"], {**params, "OPTIONS": options})

    locmem.LocMemCache = InPlace
    db.SessionStore = SessionStore


_databases = Databases()


@pytest.fixture(autouse=True)
def fresh_database() -> Iterator[None]:
    from django.core.cache import caches

    from statestore.adapters import django as adapter

    settings.STATESTORE_SESSIONS = {"url": _databases.fresh()}
    for alias in caches:  # They live for as long as their settings, which is all tests of a class.
        with suppress(AttributeError):
            del caches[alias]
    yield
    for store in adapter._stores.values():
        asyncio.run(store.aclose())
    adapter._stores.clear()
