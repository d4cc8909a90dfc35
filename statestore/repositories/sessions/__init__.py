"""Sessions: their rows, leases and status, and which session owns which part of a history."""
