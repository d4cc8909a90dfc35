"""What goes to the database: for PostgreSQL a proxy that counts it, keeps it, and breaks it where a test says so.

Counted on the wire and not in the driver: what arrives at the server is what it costs, whoever sent it.
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Engine, event, make_url

_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102


@dataclass
class Traffic:
    """What a store sent, since the last `clear`.

    Attributes:
        url: Where a store has to connect, to be seen.
        statements: Every execution of a statement, as SQL.
        round_trips: How often the client waited for an answer.
        transactions: How many transactions, those of a single statement included, the database ended.
    """

    url: str
    statements: list[str] = field(default_factory=list)
    round_trips: int = 0
    transactions: int = 0

    def clear(self) -> None:
        self.statements.clear()
        self.round_trips = self.transactions = 0


class Proxy:
    """A PostgreSQL server, as its clients see it, at `url`."""

    def __init__(self, url: str) -> None:
        server = make_url(url)
        self._server = (server.host or "localhost", server.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = server.set(port=self._listener.getsockname()[1], host="127.0.0.1").render_as_string(False)
        self.traffic = Traffic(self.url)
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._threads: list[threading.Thread] = []
        self._fault: tuple[Literal["request", "reply", "silence"], str] | None = None
        self.swallows = False
        self.faults_left = 0
        self.prepared: set[str] = set()
        """What was prepared under a name, to be run again."""
        self._start(self._accept)

    def lose(self, what: Literal["request", "reply"], fragment: str, *, times: int = 1) -> None:
        """Cut the connection on which a statement with *fragment* in it comes.

        With `request` the server never gets it. With `reply` it has done all of it, and only the answer is lost.
        """
        self._fault, self.faults_left = (what, fragment), times

    def swallow(self, fragment: str = "") -> None:
        """From now on let nothing through, in either direction, and hang up on nobody: a network that has died.

        With *fragment* only the connection on which a statement with it in it comes dies so.
        """
        if fragment:
            self._fault, self.faults_left = ("silence", fragment), 1
            return
        self.swallows = True
        for connection in list(self._connections):
            connection.silent = True

    def recover(self) -> None:
        """Let new connections through again. Those that died stay dead."""
        self.swallows = False

    def cut(self) -> None:
        """Cut all connections."""
        for connection in list(self._connections):
            connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                server = socket.create_connection(self._server)
            except OSError:  # There is no server.
                client.close()
                continue
            connection = _Connection(self, client, server)
            self._connections.append(connection)
            self._start(connection.pump_requests)
            self._start(connection.pump_replies)

    def _failing(self, sql: str) -> Literal["request", "reply", "silence"] | None:
        with self._lock:
            if self._fault is None or not self.faults_left or self._fault[1] not in sql:
                return None
            self.faults_left -= 1
            return self._fault[0]


class _Connection:
    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._prepared: dict[bytes, str] = {}
        self._bound = ""
        self._started = False
        self._reply_is_to_be_lost = False
        self.silent = proxy.swallows

    def close(self) -> None:
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def pump_requests(self) -> None:
        self._pump(self._client, self._server, self._request)

    def pump_replies(self) -> None:
        self._pump(self._server, self._client, self._reply)

    def _pump(self, source: socket.socket, target: socket.socket, take: Callable[[bytearray], int]) -> None:
        """Pass on what *take* found complete, until it wants no more or one end hangs up."""
        buffer = bytearray()
        try:
            while data := source.recv(1 << 16):
                buffer += data
                if self.silent:
                    buffer.clear()
                while complete := take(buffer):
                    if complete < 0:
                        return
                    if self.silent:
                        break
                    target.sendall(buffer[:complete])
                    del buffer[:complete]
        except OSError:
            pass
        finally:
            self.close()
            source.close()

    def _request(self, buffer: bytearray) -> int:
        """The length of the messages that are complete; negative to hang up."""
        end = 0
        while True:
            header = 1 if self._started else 0
            if len(buffer) < end + header + 4:
                return end
            length = header + struct.unpack_from(">I", buffer, end + header)[0]
            if len(buffer) < end + length:
                return end
            message = bytes(buffer[end : end + length])
            if not self._started:
                code = struct.unpack_from(">I", message, 4)[0]
                if code in (_SSL, _GSS):  # A server may encrypt, as one with Citus does. Then there is nothing to see.
                    self._client.sendall(b"N")
                    del buffer[end : end + length]
                    continue
                self._started = code != _CANCEL
            elif not self._count(message[:1], message[5:]):
                return -1
            end += length

    def _count(self, kind: bytes, body: bytes) -> bool:
        traffic = self._proxy.traffic
        sql = None
        if kind == b"Q":
            sql = body[:-1].decode()
            traffic.round_trips += 1
        elif kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._prepared[name] = text.decode()
            if name:
                self._proxy.prepared.add(text.decode())
        elif kind == b"B":
            self._bound = self._prepared[body.split(b"\0", 2)[1]]
        elif kind == b"E":
            sql = self._bound
        elif kind == b"S":
            traffic.round_trips += 1
        if sql is not None:
            traffic.statements.append(sql)
            failing = self._proxy._failing(sql)
            self._reply_is_to_be_lost |= failing == "reply"
            self.silent |= failing == "silence"
            return failing != "request"
        return True

    def _reply(self, buffer: bytearray) -> int:
        end = 0
        while len(buffer) >= end + 5:
            length = 1 + struct.unpack_from(">I", buffer, end + 1)[0]
            if len(buffer) < end + length:
                break
            if buffer[end : end + 1] == b"Z":  # ready for the next query, with the state of the transaction
                if self._reply_is_to_be_lost:
                    return -1
                self._proxy.traffic.transactions += buffer[end + 5 : end + 6] == b"I"
            end += length
        return 0 if self._reply_is_to_be_lost else end


@contextmanager
def traced_sqlite(url: str) -> Iterator[Traffic]:
    """The traffic of all connections that are made in the block. A call of SQLite is no round trip."""
    traffic = Traffic(url)
    begun = threading.local()

    def count(sql: str) -> None:
        # What triggers and ON DELETE CASCADE do is reported under the name of the statement that set it off.
        writes = sql.lstrip().startswith(("DELETE", "INSERT", "UPDATE")) or "INSERT INTO" in sql
        triggered = writes and traffic.statements[-1:] == [sql]
        if triggered or sql.startswith(("--", "PRAGMA")):
            return
        traffic.statements.append(sql)
        begun.inside = sql.startswith("BEGIN") or (
            getattr(begun, "inside", False) and sql not in ("COMMIT", "ROLLBACK")
        )
        traffic.transactions += not begun.inside

    def watch(connection: Any, _: object) -> None:
        if hasattr(connection, "run_async"):
            connection.run_async(lambda driver: driver.set_trace_callback(count))
        else:
            connection.set_trace_callback(count)

    event.listen(Engine, "connect", watch)
    try:
        yield traffic
    finally:
        event.remove(Engine, "connect", watch)
