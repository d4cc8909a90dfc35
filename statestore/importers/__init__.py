"""Imports of conversations, caches and prices, as functions; the command line only calls them.

Those that read databases are imported at their first use, since they bring SQLAlchemy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from statestore.importers.cache_files import CacheReport, cache_entries
from statestore.importers.claude_transcripts import ClaudeCodeReport, claude_code
from statestore.importers.conexus_files import conexus
from statestore.importers.genai_prices import PricesReport, PricesUnavailableError, model_prices
from statestore.importers.json_objects import SessionsReport
from statestore.importers.openai_conversations import ConversationsReport, NotConversationsError, openai_jsonl
from statestore.importers.problems import Problem
from statestore.importers.promptkit_files import promptkit

if TYPE_CHECKING:
    from statestore.importers.adk_sessions import adk
    from statestore.importers.agno_sessions import agno
    from statestore.importers.databases import DatabaseReport
    from statestore.importers.langchain_messages import langchain
    from statestore.importers.langgraph_threads import langgraph
    from statestore.importers.openai_agents_sessions import openai_agents

__all__ = [
    "CacheReport",
    "ClaudeCodeReport",
    "ConversationsReport",
    "DatabaseReport",
    "NotConversationsError",
    "PricesReport",
    "PricesUnavailableError",
    "Problem",
    "SessionsReport",
    "adk",
    "agno",
    "cache_entries",
    "claude_code",
    "conexus",
    "langchain",
    "langgraph",
    "model_prices",
    "openai_agents",
    "openai_jsonl",
    "promptkit",
]

_LAZY = {
    "DatabaseReport": "databases",
    "adk": "adk_sessions",
    "agno": "agno_sessions",
    "langchain": "langchain_messages",
    "langgraph": "langgraph_threads",
    "openai_agents": "openai_agents_sessions",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"statestore.importers.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
