"""How calls run: connections, transactions, retries, deadlines, threads, event loops, batches. Knows no operation."""
