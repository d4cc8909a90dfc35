"""How late a call may be on this machine, now."""

import asyncio
import threading
import time
from collections import deque

STEP = 0.05
ALLOWED = 0.5


class Heartbeat:
    """A thread that wakes up all the time and notes how late it was.

    A call that ends late on a machine that stands still for two seconds did not hang. So what is allowed beyond a
    store's timeout is half a second and as much as this thread was late meanwhile.
    """

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=20_000)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def allowed(self, since: float) -> float:
        """How much later than its timeout a call may end that began at *since*."""
        late = [by for when, by in list(self._late) if when >= since - STEP]
        # A stall is seen by the heartbeat once, and can hit a call on several of its steps.
        return ALLOWED + 3 * max(late, default=0.0)

    async def watch_loop(self) -> None:
        """Note the same of an event loop, until cancelled: it may be late when a thread is not."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(STEP)
            self._note(began)

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        while True:
            began = time.monotonic()
            if self._end.wait(STEP):
                return
            self._note(began)

    def _note(self, began: float) -> None:
        now = time.monotonic()
        self._late.append((now, max(0.0, now - began - STEP)))
