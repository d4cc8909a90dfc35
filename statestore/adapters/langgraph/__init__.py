"""LangGraph: checkpoints of graphs (`StatestoreSaver`), long-term memory (`StatestoreStore`) and a cache of nodes."""

from statestore.adapters.langgraph.cache import StatestoreCache
from statestore.adapters.langgraph.checkpoints import StatestoreSaver
from statestore.adapters.langgraph.items import StatestoreStore

__all__ = ["StatestoreCache", "StatestoreSaver", "StatestoreStore"]
