"""Imports of conversations, caches and prices, as functions; the command line only calls them."""

from statestore.importers.adk_sessions import adk
from statestore.importers.agno_sessions import agno
from statestore.importers.cache_files import CacheReport, cache_entries
from statestore.importers.claude_transcripts import ClaudeCodeReport, claude_code
from statestore.importers.conexus_files import conexus
from statestore.importers.databases import DatabaseReport
from statestore.importers.each_session import SessionsReport
from statestore.importers.genai_prices import PricesReport, PricesUnavailableError, model_prices
from statestore.importers.langchain_messages import langchain
from statestore.importers.langgraph_threads import langgraph
from statestore.importers.openai_agents_sessions import openai_agents
from statestore.importers.openai_conversations import ConversationsReport, NotConversationsError, openai_jsonl
from statestore.importers.problems import Problem
from statestore.importers.promptkit_files import promptkit

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
