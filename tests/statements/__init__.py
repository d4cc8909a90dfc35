"""Every statement of an operation, as each database gets it: docs/sql, which `./run sql` writes."""
