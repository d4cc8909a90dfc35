"""LangGraph: checkpoints, long-term memory and the cache of nodes."""
