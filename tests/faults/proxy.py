"""A network between a store and PostgreSQL that can be told to fail. It knows nothing of what it carries."""

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Literal

from sqlalchemy import make_url

Mode = Literal["carry", "swallow", "refuse"]


class Network:
    """Listens at `url` for a server elsewhere.

    `swallow` accepts everything, and nothing ever arrives, on connections old and new. `refuse` cuts whoever comes.
    """

    def __init__(self, url: str) -> None:
        server = make_url(url)
        self._server = (server.host or "127.0.0.1", server.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = server.set(host="127.0.0.1", port=self._listener.getsockname()[1]).render_as_string(False)
        self.mode: Mode = "carry"
        self.lost = 0
        self._replies_to_lose = 0
        self._outage = 0.0
        self._losing = b""
        self._lock = threading.Lock()
        self._links: list[_Link] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_reply(self, *, to: bytes = b"", outage: float = 0.0) -> None:
        """Let the next request arrive that holds *to*, drop what the server answers, and cut.

        Then refuse everybody for *outage* seconds.
        """
        with self._lock:
            self._outage = outage
            self._losing = to
            self._replies_to_lose += 1

    def cut(self, *, reset: bool = False) -> None:
        """Cut all connections; with *reset* by RST, in the middle of whatever they carry."""
        for link in self._living():
            link.close(reset=reset)

    def swallow_one(self) -> bool:
        """Let one connection die without a sign: it stays open, and carries nothing more."""
        for link in self._living():
            if link.busy:
                link.swallows = True
                return True
        return False

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _living(self) -> "list[_Link]":
        with self._lock:
            self._links = [link for link in self._links if not link.closed]
            return list(self._links)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.mode == "refuse":
                client.close()
                continue
            try:
                # A connection into the void gets no server: it must not count there.
                server = socket.create_connection(self._server, timeout=30) if self.mode == "carry" else None
            except OSError:
                client.close()
                continue
            with self._lock:
                self._links.append(_Link(self, client, server))

    def takes_loss(self, request: bytes) -> bool:
        with self._lock:
            if not self._replies_to_lose or self._losing not in request:
                return False
            self._replies_to_lose -= 1
            return True

    def lost_one(self) -> None:
        self.lost += 1
        if self._outage:
            self.mode = "refuse"
            self.cut()
            timer = threading.Timer(self._outage, self._end_outage)
            timer.daemon = True
            timer.start()

    def _end_outage(self) -> None:
        if self.mode == "refuse":
            self.mode = "carry"


class _Link:
    def __init__(self, network: Network, client: socket.socket, server: socket.socket | None) -> None:
        self._network = network
        self._client = client
        self._server = server
        self.closed = False
        self.swallows = False
        self.busy = False
        self._loses = False
        self._sent = 0
        for end in (client, server):
            if end is not None:
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._requests, daemon=True).start()
        if server is not None:
            threading.Thread(target=self._replies, daemon=True).start()

    def close(self, *, reset: bool = False) -> None:
        """Let both threads end, which close the sockets. With *reset* that sends RST instead of FIN."""
        if self.closed:
            return
        self.closed = True
        for end in (self._client, self._server):
            if end is None:
                continue
            with suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # A socket that another thread reads from is not closed by `close`, only by ending the read.
                end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)

    def _dead(self) -> bool:
        return self.swallows or self._network.mode == "swallow"

    def _requests(self) -> None:
        try:
            while data := self._client.recv(1 << 16):
                self._sent += 1
                self.busy = True
                if self._dead() or self._server is None:
                    continue
                # Not of a connection that is only being made: nothing is written by that.
                if self._sent > 6 and self._network.takes_loss(data):
                    self._loses = True
                self._server.sendall(data)
        except OSError:
            pass
        finally:
            self.close()
            self._client.close()

    def _replies(self) -> None:
        assert self._server is not None
        try:
            while data := self._server.recv(1 << 16):
                self.busy = False
                if self._loses:
                    # The request's end may still be on its way, when it is a large one.
                    time.sleep(0.005)
                    self._network.lost_one()
                    return
                if not self._dead():
                    self._client.sendall(data)
        except OSError:
            pass
        finally:
            self.close()
            self._server.close()
