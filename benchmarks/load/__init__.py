"""Many simulated agents on one database: what it carries, what fails, and whether anything is lost. `./run load`."""
