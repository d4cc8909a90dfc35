"""Reports that people look at: their catalogue, and the pages of them, whose own SQL is in `queries.py`."""
