"""What a row works with: databases, servers and stores of its own, all of which go when it ends."""

import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from statestore import StateStore, migrate
from tests.faults.watch import Heartbeat
from tests.postgres import LocalServer, PostgresServer, start_server
from tests.support.portal import BlockingStore, Portal

# Long enough for a server's restart on a busy machine, and less than the portal's patience.
TIMEOUT = timedelta(seconds=20)


class Bench:
    """One run of a row.

    *server* starts the server that is shared with others, and *template* gives a database with all tables: its name on
    that server, or its path. Without them there is a server for this run, and tables are made by the migrations.

    Attributes:
        rounds: How often the fault is to happen.
        unsafe: Whether this is the control, which has to lose something.
        tell: Shows how far the row is.
    """

    def __init__(
        self,
        database: str,
        world: str,
        rounds: int,
        *,
        unsafe: bool = False,
        long: bool = False,
        server: Callable[[], PostgresServer] | None = None,
        template: Callable[[], str] | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.database = database
        self.world = world
        self.rounds = rounds
        self.unsafe = unsafe
        self.long = long
        self.tell = tell
        self.stack = ExitStack()
        self._start = server
        self._template = template

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.close()

    @cached_property
    def folder(self) -> Path:
        """An empty folder."""
        folder = Path(tempfile.mkdtemp(prefix="statestore-faults-"))
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    @cached_property
    def portal(self) -> Portal:
        portal = Portal()
        self.stack.callback(portal.close)
        return portal

    @cached_property
    def heartbeat(self) -> Heartbeat:
        heartbeat = Heartbeat()
        self.stack.callback(heartbeat.close)
        return heartbeat

    @cached_property
    def server(self) -> PostgresServer:
        """A server that other rows use too: not to be stopped."""
        if self._start is not None:
            return self._start()
        return self.stack.enter_context(start_server())

    def own_server(self, **settings: str) -> LocalServer:
        """A server that nobody else uses."""
        server = start_server(settings=settings)
        assert isinstance(server, LocalServer)
        self.stack.callback(server.stop)
        return server

    def url(self, server: PostgresServer | None = None, *, kept: bool = False) -> str:
        """A new database with all tables. One that is *kept* goes with its server."""
        template = self._template() if self._template is not None and server in (None, self._shared) else None
        if self.database == "sqlite":
            path = Path(tempfile.mkdtemp(dir=self.folder)) / "statestore.db"
            if template is not None:
                shutil.copyfile(template, path)
            url = f"sqlite:///{path}"
        else:
            server = server or self.server
            name = f"faults_{secrets.token_hex(6)}"
            server.create_database(name, template)
            if not kept:
                self.stack.callback(server.drop_database, name)
            url = server.url(name)
        if template is None:
            migrate.upgrade(url)
        return url

    @property
    def _shared(self) -> PostgresServer | None:
        return self.__dict__.get("server")

    def open(self, url: str, *, world: str | None = None, **options: Any) -> Any:
        """A store in the row's world, called without awaiting in both. It is closed when the row ends."""
        options = {"timeout": TIMEOUT, "cache_max_entries": None, **options}
        if (world or self.world) == "sync":
            store: Any = StateStore.open(url, **options)
        else:
            store = BlockingStore.open(self.portal, url, **options)
        self.stack.callback(_close, store)
        return store

    def each_round(self) -> Any:
        """Count the rounds, and show them."""
        shown = time.monotonic()
        for number in range(self.rounds):
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                self.tell(f"{number} of {self.rounds}")
            yield number


def _close(store: Any) -> None:
    # What the row found stands in its tally by now; a store that cannot be closed any more is part of it.
    with suppress(Exception):
        store.close()


def kill_server(server: LocalServer) -> None:
    """Kill a server's first process, and with it all others, without a word."""
    os.kill(server.pid, signal.SIGKILL)


def start_again(server: LocalServer) -> None:
    """Start a server that was killed."""
    until = time.monotonic() + 60
    while True:
        try:
            server.start()
            return
        except RuntimeError:
            # Its orphans hold on to the shared memory until they notice.
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
