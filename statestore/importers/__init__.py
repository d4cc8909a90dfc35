"""Conversations, caches and prices from elsewhere, as functions; the command line only calls them."""
