"""The adapter for LangChain: message histories, and the cache of what models answered."""
