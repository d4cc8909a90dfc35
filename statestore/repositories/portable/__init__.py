"""Rows of whole sessions as values that are the same for both databases: out of the tables, and into them."""
