"""With `--table-prefix`: all stores, migrations and looks at a SQLite file take that prefix by default."""

from statestore import migrate
from statestore.engine.sql import Dialect
from statestore.options import StoreOptions
from statestore.schema import prefixes

default = ""


def take(prefix: str) -> None:
    """Let tests that say nothing of a prefix have this one."""
    global default
    default = prefixes.check(prefix)
    functions = (migrate.upgrade, migrate.downgrade, migrate.current, migrate.read, migrate.check, migrate.differences)
    for function in (StoreOptions.__init__, Dialect.__init__, *functions):
        assert function.__kwdefaults__ is not None
        function.__kwdefaults__["table_prefix"] = prefix


def named(sql: str) -> str:
    """SQL of a test for the tables as they are called."""
    return prefixes.prefixed(sql, default)
