"""Options that many commands share, and the database that they lead to."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from statestore.cli import settings
from statestore.cli.failures import Failure

if TYPE_CHECKING:
    from sqlalchemy import URL

    from statestore.store import StateStore

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")

namespaces_option = click.option(
    "--namespaces",
    multiple=True,
    metavar="NAMES",
    help="These namespaces instead of --namespace: a name, or a prefix such as 'acme/*'. May be repeated.",
)

_URL_HELP = "The database: postgresql://user@host/database or sqlite:///path.  [default: sqlite:///statestore.db]"
_DATABASE = "statestore.database"


def examples(*lines: str) -> str:
    """The examples at the end of a command's --help; click does not wrap them."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


@dataclass(frozen=True, slots=True)
class Database:
    """The database that the command line names, or the environment, or a file; see `settings`."""

    given_url: str | None
    schema: str
    table_prefix: str = ""
    namespace: str = "default"
    reporting_url: str | URL | None = None
    standby: str | None = None
    """The reporting URL that is next to the URL in a file."""
    directory: Path | None = None
    """A relative path of a SQLite file begins here; None for the current directory."""
    password_env: str | None = None
    """The environment variable that has the password."""
    profile: str | None = None
    """What --profile says."""
    options: tuple[tuple[str, str], ...] = ()
    """The options that name the database, as they were given."""
    config: str | None = None
    """What --config says."""

    @classmethod
    def chosen(
        cls,
        url: str | None,
        schema: str | None,
        namespace: str | None,
        profile: str | None,
        table_prefix: str | None = None,
        context: click.Context | None = None,
    ) -> Database:
        """The database that options, environment and file lead to."""
        context = context or click.get_current_context(silent=True)
        top = {} if context is None else context.find_root().params
        profile = profile or top.get("profile")
        file = settings.read(top.get("config"))
        found = settings.resolve("url", url, profile, file)
        database = cls(
            None if found is None else found.value,
            _certain("schema", schema, profile, file),
            _certain("table_prefix", table_prefix, profile, file),
            _certain("namespace", namespace, profile, file),
            standby=None if found is None else found.reporting_url,
            directory=None if found is None else found.directory,
            password_env=None if found is None else found.password_env,
            profile=profile,
            options=tuple(
                (name, value)
                for name, value in (
                    ("profile", profile),
                    ("url", url),
                    ("schema", schema),
                    ("table-prefix", table_prefix),
                    ("namespace", namespace),
                )
                if value is not None
            ),
            config=top.get("config"),
        )
        if context is not None:
            context.find_root().meta[_DATABASE] = database
        return database

    @classmethod
    def of(cls, context: click.Context) -> Database | None:
        """The database that the command of *context* has used, if it has come so far."""
        found: Database | None = context.find_root().meta.get(_DATABASE)
        return found

    @property
    def where(self) -> dict[str, Any]:
        """Where its tables are, as `migrate` and `StateStore.open` take it."""
        return {"schema": self.schema, "table_prefix": self.table_prefix}

    def url(self) -> URL:
        return self._with_password(self.url_without_password())

    def standby_url(self) -> URL | str | None:
        """The standby of the database, if the place that names the database names one."""
        from statestore.engine import engines

        if self.directory is None:
            # Not for a URL of a file: the environment's would be a standby of another database.
            return os.environ.get("STATESTORE_REPORTING_URL") or None
        return None if self.standby is None else self._with_password(engines.parse(self.standby))

    def _with_password(self, url: URL) -> URL:
        if self.password_env is None or url.get_backend_name() == "sqlite":
            return url
        if not (password := os.environ.get(self.password_env)):
            raise Failure(f"the password is expected in the environment variable {self.password_env}; set it")
        return url.set(password=password)

    def url_without_password(self) -> URL:
        """The URL without the password that an environment variable has for it."""
        from statestore.engine import engines, sqlite_files

        url = engines.parse(self.given_url)
        if engines.is_memory(url):
            raise Failure("--url names a database in memory, which would vanish with this command; name a file")
        file = sqlite_files.path_of(url) if url.get_backend_name() == "sqlite" else None
        # A file: URI stays as it is.
        if self.directory is not None and file is not None and str(file) == url.database and not file.is_absolute():
            url = url.set(database=os.path.relpath(self.directory / file))
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
                f"{self.command('migrate up' + ('' if self.options else f' --url {shlex.quote(hosts.shown(url))}'))}"
            )
        return url

    def command(self, words: str, *, namespace: bool = False) -> str:
        """A command for a message, to be pasted: it goes to the same database, by the options as they were given.

        A URL with a password is left out; see `hides_url`.

        Args:
            words: The command, such as `migrate up`.
            namespace: Whether it takes a namespace.
        """
        shown = [
            f"--{name} {shlex.quote(value)}"
            for name, value in self.options
            if (namespace or name != "namespace") and not (name == "url" and self.hides_url)
        ]
        config = [] if self.config is None else [f"--config {shlex.quote(self.config)}"]
        return " ".join(["statestore", *config, words, *shown])

    @property
    def hides_url(self) -> bool:
        """Whether --url has a password, which no message may have."""
        from statestore.engine import engines, hosts

        given = dict(self.options).get("url")
        return given is not None and hosts.has_secret(engines.parse(given))

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
            migrate.check(url, **self.where)
        # This works behind any pooler, and few commands send a statement twice.
        options = {"prepared_statements": False, "reporting_url": self.reporting_url, **options}
        return StateStore.open(url, namespace=self.namespace, **self.where, **options)


def _certain(name: str, given: str | None, profile: str | None, file: settings.Settings) -> str:
    found = settings.resolve(name, given, profile, file)
    assert found is not None, name  # It has a default.
    return found.value


def database_options(function: F) -> F:
    """Add --url, --schema, --table-prefix and --profile; *function* gets a `Database`."""

    @wraps(function)
    def command(
        *args: Any, url: str | None, schema: str | None, table_prefix: str | None, profile: str | None, **kwargs: Any
    ) -> Any:
        return function(Database.chosen(url, schema, None, profile, table_prefix), *args, **kwargs)

    return _with_database(command)  # type: ignore[return-value]


def store_options(function: F) -> F:
    """Add --url, --schema, --table-prefix, --namespace and --profile; *function* gets a `Database`."""

    @wraps(function)
    def command(
        *args: Any,
        url: str | None,
        schema: str | None,
        table_prefix: str | None,
        namespace: str | None,
        profile: str | None,
        **kwargs: Any,
    ) -> Any:
        return function(Database.chosen(url, schema, namespace, profile, table_prefix), *args, **kwargs)

    option = click.option("--namespace", metavar="NAME", help="Which namespace.  [default: default]")
    return _with_database(option(command))  # type: ignore[return-value]


def reporting_option(function: F) -> F:
    """Add --reporting-url to a command with `store_options`, which comes first; the `Database` then reads there."""

    @wraps(function)
    def command(database: Database, *args: Any, reporting_url: str | None, **kwargs: Any) -> Any:
        chosen = database.standby_url() if reporting_url is None else reporting_url
        return function(replace(database, reporting_url=chosen), *args, **kwargs)

    option = click.option(
        "--reporting-url",
        metavar="URL",
        help="A standby of the database, to be read if it is recent enough.  [env var: STATESTORE_REPORTING_URL]",
    )
    return option(command)  # type: ignore[return-value]


def _with_database(command: F) -> F:
    schema = click.option("--schema", metavar="NAME", help="PostgreSQL: where the tables are.  [default: statestore]")
    prefix = click.option("--table-prefix", metavar="PREFIX", help="SQLite: what the tables' names begin with.")
    # Only for --help: the environment is looked at by `settings`, since a profile may come before it.
    url = click.option("--url", metavar="URL", help=f"{_URL_HELP}  [env var: STATESTORE_URL]")
    profile = click.option("--profile", metavar="NAME", help="A profile of statestore.toml.")
    return url(schema(prefix(profile(command))))
