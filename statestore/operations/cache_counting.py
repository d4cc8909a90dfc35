"""Counting in the cache: what it returns depends on an argument, for which each world needs its own overloads."""

from typing import TYPE_CHECKING, Any, Literal, overload

from statestore.operations.base import AsyncGroup, Group, operation
from statestore.repositories.cache.repository import CacheRepository
from statestore.values.cache import CacheTtl


class Counting(Group):
    """`increment`, called."""

    if TYPE_CHECKING:

        @overload
        def increment(
            self,
            key: str,
            by: int | float = ...,
            *,
            initial: int | float = ...,
            ttl: CacheTtl | None = ...,
            only_if: None = ...,
        ) -> int | float: ...
        @overload
        def increment(
            self, key: str, by: int | float = ..., *, ttl: CacheTtl | None = ..., only_if: Literal["present"]
        ) -> int | float | None: ...
        def increment(self, *args: Any, **kwargs: Any) -> int | float | None: ...
    else:
        increment = operation(CacheRepository.increment)


class AsyncCounting(AsyncGroup):
    """`increment`, awaited."""

    if TYPE_CHECKING:

        @overload
        async def increment(
            self,
            key: str,
            by: int | float = ...,
            *,
            initial: int | float = ...,
            ttl: CacheTtl | None = ...,
            only_if: None = ...,
        ) -> int | float: ...
        @overload
        async def increment(
            self, key: str, by: int | float = ..., *, ttl: CacheTtl | None = ..., only_if: Literal["present"]
        ) -> int | float | None: ...
        async def increment(self, *args: Any, **kwargs: Any) -> int | float | None: ...
    else:
        increment = operation(CacheRepository.increment)
