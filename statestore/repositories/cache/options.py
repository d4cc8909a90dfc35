"""How a store's cache behaves."""

from dataclasses import dataclass
from datetime import timedelta

from statestore.checking import checks, codec
from statestore.errors import InvalidValueError
from statestore.repositories.cache.lifetimes import seconds
from statestore.values.markers import NEVER, NeverType


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """How a store's cache behaves; see `StateStore.open`."""

    max_entries: int | None = 1000
    max_bytes: int | None = None
    default_ttl: timedelta | float | NeverType = timedelta(hours=1)
    content_hash_invalidation: bool = True
    compress_above: int = codec.COMPRESS_ABOVE

    @property
    def spare_entries(self) -> int:
        """How many more entries than necessary an eviction removes, so that the next sets need none.

        A fiftieth. Counting the whole cache once for so many sets is fifty rows for each, at any size. A small cache
        can be counted each time, and so keeps just as many entries as it may.
        """
        return _fiftieth(self.max_entries)

    @property
    def spare_bytes(self) -> int:
        return _fiftieth(self.max_bytes)

    def __post_init__(self) -> None:
        for name in ("max_entries", "max_bytes"):
            checks.optional_count(getattr(self, name), f"cache_{name}", least=1)
        if self.default_ttl is None:
            raise InvalidValueError("cache_default_ttl", "must be a timedelta or seconds, or NEVER for no end")
        if self.default_ttl is not NEVER:
            seconds(self.default_ttl, "cache_default_ttl", hint="use NEVER for no expiry", also=" or NEVER")
        checks.count(self.compress_above, "cache_compress_above")


def _fiftieth(limit: int | None) -> int:
    return 0 if limit is None or limit <= 100 else limit // 50
