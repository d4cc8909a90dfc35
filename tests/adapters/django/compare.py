"""Beside Django's `DatabaseCache` and its sessions in a table."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from sqlalchemy import make_url

from tests.adapters.comparing import Operations

VALUE = {"answer": "Sunny in the morning, rain from four.", "tokens": 812, "places": ["Konstanz", "Bregenz"]}

os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
settings.configure(
    SECRET_KEY="test",
    USE_TZ=True,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3"}},
    INSTALLED_APPS=["django.contrib.sessions"],
)
django.setup()


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Operations]:
    from statestore.adapters import django as adapter
    from statestore.adapters.django.cache import StatestoreCache
    from statestore.adapters.django.sessions import SessionStore

    settings.STATESTORE_SESSIONS = {"url": url}
    yield operations(StatestoreCache(url, {}), SessionStore)
    for store in adapter._stores.values():
        store.close()
    adapter._stores.clear()


@asynccontextmanager
async def theirs(url: str) -> AsyncIterator[Operations]:
    from django.contrib.sessions.backends.db import SessionStore
    from django.core.cache.backends.db import DatabaseCache

    connections.settings["default"] = connections.configure_settings({"default": database(url)})["default"]
    if hasattr(connections._connections, "default"):
        del connections["default"]
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache"}}
    call_command("migrate", verbosity=0)
    call_command("createcachetable", "cache", verbosity=0)
    yield operations(DatabaseCache("cache", {}), SessionStore)
    connections.close_all()


def database(url: str) -> dict[str, Any]:
    """As for production: connections that stay, and SQLite as safe and as fast as our own."""
    parts = make_url(url)
    if parts.drivername.startswith("sqlite"):
        pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
        options = {"transaction_mode": "IMMEDIATE", "init_command": pragmas}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": parts.database, "OPTIONS": options}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.database,
        "USER": parts.username,
        "PASSWORD": parts.password,
        "HOST": parts.host,
        "PORT": parts.port,
        "CONN_MAX_AGE": None,
    }


def operations(cache: Any, sessions: Any) -> Operations:
    many = {f"many-{number}": VALUE for number in range(20)}
    cache.set("k", VALUE)
    cache.set("n", 1)
    cache.set_many(many)
    session = sessions()
    session.update(VALUE)
    session.save()

    def create_and_delete() -> None:
        made = sessions()
        made.create()
        made.delete()

    return {
        "cache.get": lambda: cache.get("k"),
        "cache.get_many of 20": lambda: cache.get_many(many),
        "cache.set": lambda: cache.set("k", VALUE),
        "cache.set_many of 20": lambda: cache.set_many(many),
        "cache.add, there": lambda: cache.add("k", VALUE),
        "cache.incr": lambda: cache.incr("n"),
        "cache.touch": lambda: cache.touch("k"),
        "cache.set and delete": lambda: (cache.set("x", VALUE), cache.delete("x")),
        "session.load": lambda: sessions(session.session_key).load(),
        "session.save": session.save,
        "session.create and delete": create_and_delete,
        "session.cycle_key": session.cycle_key,
    }
