"""The `statestore` command, one file for each group of commands.

Nothing here imports SQLAlchemy before a command needs the database: `--help` and `--version` answer at once.
"""

from statestore.cli.program import main

__all__ = ["main"]
