"""Runs pytest in forks of a process that has imported what is not ours: that takes longer than most of the tests.

Each line that comes in is an order; for each, a line with the process goes out, and one with its exit code.
"""

import gc
import importlib
import json
import os
import sys
from typing import Any

import pytest

_IMPORTED = (
    *("alembic.command", "hypothesis.strategies", "multiprocessing.connection", "orjson", "psycopg", "psycopg_binary"),
    *("sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.pysqlite", "sqlalchemy.ext.asyncio"),
)


def main() -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    # Not through sys.stdin: what it has read ahead would be read again by the fork.
    with os.fdopen(os.dup(0)) as orders:
        while line := orders.readline():
            process = os.fork()
            if process == 0:
                orders.close()
                sys.exit(_run(**json.loads(line)))
            print(process, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def _run(folder: str, environment: dict[str, str], arguments: list[str], output: str) -> Any:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    said, nothing = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(source, target)
    sys.path.insert(0, folder)
    import statestore

    if not str(statestore.__file__).startswith(folder):
        raise RuntimeError(f"the tests would use {statestore.__file__}, not the copy")
    return pytest.main(arguments)


if __name__ == "__main__":
    main()
