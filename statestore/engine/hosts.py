"""Database URLs: how they are read, several hosts included, and how they are shown."""

import os
import re
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy import exc as sqlalchemy_errors

from statestore.errors import InvalidValueError

Address = str | URL | os.PathLike[str]

_SEVERAL = re.compile(
    r"^(?P<scheme>[\w+]+://)(?P<user>(?:[^:/@]*(?::[^@]*)?@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<rest>(?:[/?].*)?)$"
)
# What no URL looks like, and nothing but a file would be called.
_PATH = re.compile(r"^(?!.*://)(?:(?:\.{1,2}|~)?/.*|[^:?]*\.(?:db|db3|sqlite|sqlite3))$")
_HOST = re.compile(r"^(?:\[(?P<address>[^\]]*)\]|(?P<name>[^:]*))(?::(?P<port>\d*))?$")


def parse(given: Address, argument: str) -> URL:
    """The URL; the path of a SQLite file is one, too: as text it has a slash in front, or a name such as agents.db.

    Several hosts, `h1:5432,h2:5433`, become the options that SQLAlchemy and psycopg have for them.

    Raises:
        InvalidValueError: It cannot be read.
    """
    if isinstance(given, os.PathLike):
        return URL.create("sqlite", database=os.fspath(given))
    if not isinstance(given, str | URL):
        raise InvalidValueError(
            argument, f"must be a URL or a path, not {type(given).__name__}; a store on an engine: StateStore(engine)"
        )
    if isinstance(given, str) and _PATH.match(given):
        return URL.create("sqlite", database=os.path.expanduser(given))
    if given == "":
        raise InvalidValueError(argument, "is empty; is a variable not set?")
    try:
        if isinstance(given, str) and (several := _SEVERAL.match(given)):
            return _with_hosts(make_url(several["scheme"] + several["user"] + several["rest"]), several["hosts"])
        parsed = make_url(given)
        if parsed.host and "@" in parsed.host:
            raise InvalidValueError(argument, "has more than one @; one in a user's name or a password is written %40")
        if parsed.host and parsed.get_backend_name() == "sqlite":
            path = "/".join((parsed.host, *([parsed.database] if parsed.database else [])))
            raise InvalidValueError(argument, f"needs a third slash in front of a path: sqlite:///{path}")
        if parsed.host and "," in parsed.host:
            return _with_hosts(parsed.set(host=None), parsed.host)
        return parsed
    except InvalidValueError:
        raise
    except (sqlalchemy_errors.ArgumentError, ValueError, TypeError):
        raise InvalidValueError(
            argument, "cannot be read; it looks like postgresql://user@host/database or sqlite:///path/to/file.db"
        ) from None


def _with_hosts(url: URL, hosts: str) -> URL:
    found = [_HOST.match(host) for host in hosts.split(",")]
    if not all(found):
        raise ValueError("not hosts")
    names = [host["address"] or host["name"] for host in found if host]
    ports = [host["port"] or str(url.port or 5432) for host in found if host]
    return url.set(port=None).update_query_dict({"host": ",".join(names), "port": ",".join(ports)})


def several(url: URL) -> bool:
    """Whether a connection made anew may lead to another server: there are several hosts, or a part is asked for."""
    hosts = url.query.get("host", "")
    wanted = url.query.get("target_session_attrs", "any")
    return not isinstance(hosts, str) or "," in hosts or wanted != "any"


def shown(url: URL) -> str:
    """The URL without its secrets, which libpq takes from the query, too."""
    return url.update_query_dict(dict.fromkeys(_secrets(url), "***")).render_as_string(hide_password=True)


def _secrets(url: URL) -> list[str]:
    return [name for name in url.query if re.search("pass(?!file)|secret|scram", name)]


def has_secret(url: URL) -> bool:
    return url.password is not None or bool(_secrets(url))


def without_secrets(url: URL) -> URL:
    """The URL for a command to be pasted: libpq takes the password from PGPASSWORD then, or from a password file."""
    return URL.create(**(url._asdict() | {"password": None})).difference_update_query(_secrets(url))


def check_options(url: URL) -> None:
    """Make sure that libpq knows the options of a PostgreSQL URL.

    Raises:
        InvalidValueError: It does not; the message names the option.
    """
    from psycopg.pq import Conninfo

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    unknown = sorted(url.query.keys() - known)
    if unknown:
        problem = f"has the unknown option {unknown[0]!r}; take it out, or correct it to one of libpq's"
        raise InvalidValueError("url", problem)
    timeout: Any = url.query.get("connect_timeout", "0")
    if not re.fullmatch(r"-?\d+", str(timeout).strip()):
        raise InvalidValueError("url", "has a connect_timeout that is not a whole number of seconds")
