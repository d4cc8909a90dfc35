"""diskcache, dogpile.cache and redis-py."""

from typing import Any

import diskcache
import orjson
import redis
from dogpile.cache import make_region

from benchmarks import data
from benchmarks.peers.base import Peer


class DiskCache(Peer):
    def open(self, url: str) -> None:
        # FULL, as everything else here; its default is NORMAL.
        self.cache = diskcache.Cache(url, sqlite_synchronous=2, tag_index=True)

    def close(self) -> None:
        self.cache.close()

    def cache_get(self, key: str) -> Any:
        return self.cache.get(key)

    def cache_set(self, key: str, value: Any, tags: tuple[str, ...] = ()) -> None:
        self.cache.set(key, value, expire=3600, tag=tags[0] if tags else None)

    def cache_fill(self, tags: list[str], size: int) -> None:
        self.tags = list(tags)
        with self.cache.transact():
            for tag in tags:
                for number in range(size):
                    self.cache_set(f"{tag}-{number}", data.cache_value(number), (tag,))

    def next_tag(self) -> str:
        return self.tags.pop()

    def cache_invalidate_tag(self, tag: str) -> None:
        if self.cache.evict(tag) != data.TAG_SIZE:
            raise RuntimeError("not all were there")


class Dogpile(Peer):
    """Over redis. Its dbm backend is left out: how fast that is depends on which dbm Python was built with."""

    def open(self, url: str) -> None:
        self.region = make_region().configure("dogpile.cache.redis", expiration_time=3600, arguments={"url": url})

    def cache_get(self, key: str) -> Any:
        return self.region.get(f"dogpile:{key}")

    def cache_set(self, key: str, value: Any, tags: tuple[str, ...] = ()) -> None:
        self.region.set(f"dogpile:{key}", value)


class Redis(Peer):
    """JSON in and out, as the others. The server synchronises its log at each write."""

    def open(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)

    def close(self) -> None:
        self.client.close()

    def create(self, session_id: str) -> None:
        self.client.hset(f"session:{session_id}", mapping={"user": "user"})

    def append(self, session_id: str, messages: list[dict[str, Any]]) -> None:
        self.client.rpush(f"history:{session_id}", *[orjson.dumps(message) for message in messages])

    def read(self, session_id: str, last: int | None = None) -> Any:
        found = self.client.lrange(f"history:{session_id}", 0 if last is None else -last, -1)
        return [orjson.loads(text) for text in found]

    def get(self, session_id: str, key: str) -> Any:
        return orjson.loads(self.client.get(f"state:{session_id}:{key}"))

    def set(self, session_id: str, key: str, value: Any) -> None:
        self.client.set(f"state:{session_id}:{key}", orjson.dumps(value))

    def cache_get(self, key: str) -> Any:
        return orjson.loads(self.client.get(f"cache:{key}"))

    def cache_set(self, key: str, value: Any, tags: tuple[str, ...] = ()) -> None:
        self.client.set(f"cache:{key}", orjson.dumps(value), ex=3600)
