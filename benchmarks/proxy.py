"""A slow network: `python -m benchmarks.proxy PORT MICROSECONDS` prints its own port, and passes on late what it gets.

Every byte travels for so long each way. A process of its own, with threads: asyncio's timers know only milliseconds.
"""

import ctypes
import os
import queue
import socket
import sys
import threading
import time
from contextlib import suppress


def main() -> None:
    target, delay = int(sys.argv[1]), int(sys.argv[2]) / 1e6
    _sleep_exactly()
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", target))
        for source, sink in ((near, far), (far, near)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _carry(source, sink, delay)


def _carry(source: socket.socket, sink: socket.socket, delay: float) -> None:
    travelling: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def send_off() -> None:
        while True:
            try:
                chunk = source.recv(1 << 20)
            except OSError:
                chunk = b""
            travelling.put((time.perf_counter() + delay, chunk))
            if not chunk:
                return

    def deliver() -> None:
        while True:
            due, chunk = travelling.get()
            wait = due - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            try:
                if not chunk:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(chunk)
            except OSError:
                return

    threading.Thread(target=send_off, daemon=True).start()
    threading.Thread(target=deliver, daemon=True).start()


def _sleep_exactly() -> None:
    """Linux lets sleepers wake up to 50 µs late, unless told otherwise before the threads are started."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
