"""Every statement of the repositories, as each database gets it: docs/sql, which `./run sql` writes."""
