"""Beside SQLChatMessageHistory and SQLAlchemyCache of langchain-community."""

import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from langchain_core._api import LangChainBetaWarning
from langchain_core._api.deprecation import LangChainPendingDeprecationWarning
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from statestore import LazyStore
from statestore.adapters.langchain import StatestoreCache, StatestoreChatMessageHistory

warnings.filterwarnings("ignore", category=LangChainBetaWarning)
warnings.filterwarnings("ignore", category=LangChainPendingDeprecationWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)

_USED = {"input_tokens": 120, "output_tokens": 40, "total_tokens": 160}
_LLM = '{"name": "ChatFake", "type": "constructor"}---[(\'stop\', None)]'
_ANSWER = [ChatGeneration(message=AIMessage("In the morning, yes. " * 10, usage_metadata=_USED))]


def _turn() -> list[BaseMessage]:
    return [HumanMessage("Is Saturday good for a walk?"), AIMessage("In the morning, yes.", usage_metadata=_USED)]


def _operations(history: Callable[[str, bool], Any], cache: Any) -> Mapping[str, Callable[[], Any]]:
    appended, long, asynced = history("appended", False), history("long", False), history("asynced", True)
    long.add_messages(_turn() * 50)
    cache.update("known", _LLM, _ANSWER)

    def clear() -> None:
        emptied = history("emptied", False)
        emptied.add_messages(_turn())
        emptied.clear()

    return {
        "add_messages (2)": lambda: appended.add_messages(_turn()),
        "messages (100)": lambda: long.messages,
        "add_messages, and clear": clear,
        "aadd_messages (2)": lambda: asynced.aadd_messages(_turn()),
        "cache: lookup, a hit": lambda: cache.lookup("known", _LLM),
        "cache: lookup, a miss": lambda: cache.lookup("unknown", _LLM),
        "cache: update": lambda: cache.update(str(uuid.uuid4()), _LLM, _ANSWER),
    }


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Mapping[str, Callable[[], Any]]]:
    store = LazyStore(url)
    yield _operations(lambda session_id, _: StatestoreChatMessageHistory(session_id, store), StatestoreCache(store))
    await store.aclose()


@asynccontextmanager
async def theirs(url: str) -> AsyncIterator[Mapping[str, Callable[[], Any]]]:
    from langchain_community.cache import SQLAlchemyCache
    from langchain_community.chat_message_histories import SQLChatMessageHistory

    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    async_url = url.replace("postgresql:", "postgresql+psycopg:").replace("sqlite:", "sqlite+aiosqlite:")
    async_engine = create_async_engine(async_url)

    def history(session_id: str, is_async: bool) -> Any:
        made: Any = SQLChatMessageHistory(session_id, connection=async_engine if is_async else engine)
        made._table_created = True
        return made

    SQLChatMessageHistory("", connection=engine)  # Creates the table.
    yield _operations(history, SQLAlchemyCache(engine))
    engine.dispose()
    await async_engine.dispose()
