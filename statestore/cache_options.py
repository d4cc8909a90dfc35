"""How a store's cache behaves."""

from dataclasses import dataclass
from datetime import timedelta

from statestore import checks, codec
from statestore.errors import InvalidValueError
from statestore.values import NEVER, NeverType


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """How a store's cache behaves; see `StateStore.open`."""

    max_entries: int | None = 1000
    max_bytes: int | None = None
    default_ttl: timedelta | NeverType = timedelta(hours=1)
    content_hash_invalidation: bool = True
    compress_above: int = codec.COMPRESS_ABOVE

    @property
    def spare_entries(self) -> int:
        """How many entries more than necessary an eviction removes, so that the next sets need none.

        A hundredth: counting the whole cache once for so many sets is a hundred rows for each, at any size.
        """
        return (self.max_entries or 0) // 100

    @property
    def spare_bytes(self) -> int:
        return (self.max_bytes or 0) // 100

    def __post_init__(self) -> None:
        for name in ("max_entries", "max_bytes"):
            checks.optional_count(getattr(self, name), f"cache_{name}", least=1)
        if self.default_ttl is None:
            raise InvalidValueError("cache_default_ttl", "must be a timedelta, or NEVER for no end")
        if self.default_ttl is not NEVER:
            checks.ttl(self.default_ttl, "cache_default_ttl")
        checks.count(self.compress_above, "cache_compress_above")
