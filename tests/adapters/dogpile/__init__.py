"""dogpile.cache: the region backend."""
