"""The cache as LangChain's `BaseCache`, as thin as it can be."""

from collections.abc import Sequence
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.outputs import Generation

from statestore import AsyncStateStore, StateStore

_AGENT = "langchain"


class SyncCache(BaseCache):
    def __init__(self, store: StateStore) -> None:
        self.cache = store.cache

    def lookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        found = self.cache.get(self.cache.make_key(_AGENT, [prompt, llm_string]))
        return found and [Generation.model_validate(generation) for generation in found]

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        key = self.cache.make_key(_AGENT, [prompt, llm_string])
        self.cache.set(key, [generation.model_dump() for generation in return_val], agent_name=_AGENT)

    def clear(self, **kwargs: Any) -> None:
        self.cache.invalidate_agent(_AGENT)


class AsyncCache(BaseCache):
    def __init__(self, store: AsyncStateStore) -> None:
        self.cache = store.cache

    def lookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        raise NotImplementedError

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        raise NotImplementedError

    def clear(self, **kwargs: Any) -> None:
        raise NotImplementedError

    async def alookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        found = await self.cache.get(self.cache.make_key(_AGENT, [prompt, llm_string]))
        return found and [Generation.model_validate(generation) for generation in found]

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        key = self.cache.make_key(_AGENT, [prompt, llm_string])
        await self.cache.set(key, [generation.model_dump() for generation in return_val], agent_name=_AGENT)

    async def aclear(self, **kwargs: Any) -> None:
        await self.cache.invalidate_agent(_AGENT)
