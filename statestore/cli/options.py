"""Options that many commands share, and the database that they lead to."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from statestore.cli.output import Failure

if TYPE_CHECKING:
    from sqlalchemy import URL

    from statestore.store import StateStore

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")

_URL_HELP = "The database: postgresql://user@host/database or sqlite:///path.  [default: sqlite:///statestore.db]"


def examples(*lines: str) -> str:
    """The examples at the end of a command's --help; click does not wrap them."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


@dataclass(frozen=True, slots=True)
class Database:
    """The database that the command line names."""

    given_url: str | None
    schema: str
    namespace: str = "default"
    reporting_url: str | None = None

    def url(self) -> URL:
        from statestore.engine import engines

        url = engines.parse(self.given_url)
        if engines.is_memory(url):
            raise Failure("--url names a database in memory, which would vanish with this command; name a file")
        return url

    def existing_url(self) -> URL:
        """The URL of a database that exists: a command that only looks must not create one."""
        from statestore.engine import hosts, sqlite_files

        url = self.url()
        file = sqlite_files.path_of(url) if url.get_backend_name() == "sqlite" else None
        if file is not None and not file.exists():
            default = "" if self.given_url else ", the default since neither --url nor STATESTORE_URL is given"
            raise Failure(
                f"there is no SQLite file {str(file)!r}{default}; check the path, or make the database with: "
                f"statestore migrate up --url {shlex.quote(hosts.shown(url))}"
            )
        return url

    def open(self, *, create: bool = False, **options: Any) -> StateStore:
        """Open the store.

        Args:
            create: Make the SQLite file, and the tables in it, if they do not exist.
            options: Other options of `StateStore.open`.
        """
        from statestore import migrate
        from statestore.store import StateStore

        url = self.url() if create else self.existing_url()
        if not create and url.get_backend_name() == "sqlite":
            # The store would create its tables, perhaps in a file that belongs to another program.
            migrate.check(url, schema=self.schema)
        # This works behind any pooler, and few commands send a statement twice.
        options = {"prepared_statements": False, "reporting_url": self.reporting_url, **options}
        return StateStore.open(url, namespace=self.namespace, schema=self.schema, **options)


def database_options(function: F) -> F:
    """Add --url and --schema; *function* gets a `Database`."""

    @wraps(function)
    def command(*args: Any, url: str | None, schema: str, **kwargs: Any) -> Any:
        return function(Database(url, schema), *args, **kwargs)

    return _with_database(command)  # type: ignore[return-value]


def store_options(function: F) -> F:
    """Add --url, --schema and --namespace; *function* gets a `Database`."""

    @wraps(function)
    def command(*args: Any, url: str | None, schema: str, namespace: str, **kwargs: Any) -> Any:
        return function(Database(url, schema, namespace), *args, **kwargs)

    option = click.option("--namespace", default="default", show_default=True, metavar="NAME", help="Which namespace.")
    return _with_database(option(command))  # type: ignore[return-value]


def reporting_option(function: F) -> F:
    """Add --reporting-url to a command with `store_options`, which stands above; the `Database` then reads there."""

    @wraps(function)
    def command(database: Database, *args: Any, reporting_url: str | None, **kwargs: Any) -> Any:
        return function(replace(database, reporting_url=reporting_url), *args, **kwargs)

    option = click.option(
        "--reporting-url",
        envvar="STATESTORE_REPORTING_URL",
        show_envvar=True,
        metavar="URL",
        help="A standby of the database, which is read instead if it is recent enough.",
    )
    return option(command)  # type: ignore[return-value]


def _with_database(command: F) -> F:
    schema = click.option(
        "--schema", default="statestore", show_default=True, metavar="NAME", help="PostgreSQL: where the tables are."
    )
    url = click.option("--url", envvar="STATESTORE_URL", show_envvar=True, metavar="URL", help=_URL_HELP)
    return url(schema(command))
