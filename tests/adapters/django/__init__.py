"""Django: the cache backend and the session backend."""
