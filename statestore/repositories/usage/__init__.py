"""What entries used and cost: the ledger of those that are gone, the prices, and the reports on all of it."""
