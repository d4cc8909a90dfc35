"""A process with callers of `get_or_compute`: `python -m tests.concurrency.cache_caller` and its orders as JSON.

It says `ready`, waits for a line, and lets its callers go, each through all keys. Each computation leaves a line in the
log. What the callers got is printed as JSON.
"""

import asyncio
import json
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from statestore import AsyncStateStore, StateStore


def main(orders: dict[str, Any]) -> None:
    work = in_tasks if orders["world"] == "async" else in_threads
    print(json.dumps(work(orders)), flush=True)


def noted(orders: dict[str, Any], key: str) -> str:
    """Say in the log that *key* is computed here, in one write, so that no two lines mix."""
    log = os.open(orders["log"], os.O_WRONLY | os.O_APPEND)
    os.write(log, f"{key}\n".encode())
    os.close(log)
    return f"{key} computed"


def shuffled(orders: dict[str, Any]) -> list[str]:
    keys = list(orders["keys"])
    random.shuffle(keys)
    return keys


def ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def in_threads(orders: dict[str, Any]) -> list[dict[str, Any]]:
    gate = threading.Barrier(orders["callers"])
    with StateStore.open(orders["url"], durability="normal", cache_max_entries=None) as store:

        def call() -> dict[str, Any]:
            gate.wait()
            return {
                key: store.cache.get_or_compute(
                    key, lambda key=key: computed(key), timeout=timedelta(seconds=orders["timeout"])
                )
                for key in shuffled(orders)
            }

        def computed(key: str) -> str:
            value = noted(orders, key)
            time.sleep(orders["seconds"])
            return value

        ready()
        with ThreadPoolExecutor(orders["callers"]) as pool:
            return [future.result() for future in [pool.submit(call) for _ in range(orders["callers"])]]


def in_tasks(orders: dict[str, Any]) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        async with await AsyncStateStore.open(orders["url"], durability="normal", cache_max_entries=None) as store:

            async def call() -> dict[str, Any]:
                found = {}
                for key in shuffled(orders):

                    async def computed(key: str = key) -> str:
                        value = noted(orders, key)
                        await asyncio.sleep(orders["seconds"])
                        return value

                    timeout = timedelta(seconds=orders["timeout"])
                    found[key] = await store.cache.get_or_compute(key, computed, timeout=timeout)
                return found

            ready()
            return await asyncio.gather(*(call() for _ in range(orders["callers"])))

    return asyncio.run(run())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
