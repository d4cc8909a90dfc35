"""Why no connection was made, in the words of the server or of libpq.

psycopg gives no SQLSTATE while it connects, and no other sign that tells a wrong password from a server that is gone.
So these messages, and no others, are told apart by their text. It only decides what else to say, and whether another
try is of use: what is not known here, such as the words of a server in another language, may pass.

The words hold hosts, ports and the names of users, databases and settings; secrets are taken out.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import URL

from statestore.errors import DatabaseError, UnavailableError


class NotConnected(Exception):
    """Raised in place of a driver's error when no connection could be made. Never leaves the package."""

    def __init__(self, error: DatabaseError, *, may_pass: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.may_pass = may_pass


class _Reason(NamedTuple):
    words: str
    code: str | None
    what: str
    remedy: str
    may_pass: bool = False


_REFUSED = "PostgreSQL refused the connection"
_REASONS = (
    _Reason(
        r"authentication failed|no password supplied|role .* (does not exist|is not permitted)|no pg_hba\.conf entry"
        r"|no such user|permission denied for database",
        "28000",
        _REFUSED,
        "check the user, the password, and the rules in pg_hba.conf",
    ),
    _Reason(
        r"database .* does not exist|no such database", "3D000", _REFUSED, "correct the database's name, or create it"
    ),
    _Reason(
        r"too many (connections|clients)|connection slots|no more connections allowed",
        "53300",
        "PostgreSQL has no connection left",
        "use a smaller pool_size, close what is not needed, or raise max_connections",
        may_pass=True,
    ),
    _Reason(
        r"the database system is|not (yet )?accepting connections",
        "57P03",
        "PostgreSQL does not accept connections at the moment",
        "try again when it is up",
        may_pass=True,
    ),
    _Reason(
        r"server is (not )?in hot standby|session is (not )?read-only",
        None,
        "no server in the URL has the role that target_session_attrs asks for",
        "check which is the primary, or try again when one is",
        may_pass=True,
    ),
    _Reason(
        r"unsupported startup parameter",
        "08P01",
        _REFUSED,
        "take the parameter out of the URL; the pooler in between does not pass it on",
    ),
    _Reason(
        r"invalid value for parameter|unrecognized configuration parameter|parameter .* cannot be",
        "22023",
        _REFUSED,
        "correct the options of the URL",
    ),
    _Reason(r"SSL|sslmode|certificate", None, _REFUSED, "check sslmode in the URL and the certificates"),
    _Reason(r"invalid [\w ]*value", None, "the URL cannot be used", "correct its options"),
)
_NO_REASON = _Reason(
    "", None, "PostgreSQL cannot be reached", "check that it runs and that the address is right", may_pass=True
)


def is_from_connecting(exc: Any) -> bool:
    """Whether an error of psycopg's without an SQLSTATE comes from making a connection, not from using one."""
    if getattr(exc, "pgconn", None) is not None or type(exc).__name__ == "ConnectionTimeout":
        return True
    return str(exc).startswith("failed to resolve host")  # psycopg's own words, in every language


def not_connected(exc: Any, url: URL | None = None) -> NotConnected:
    """What it means that psycopg raised *exc* when it connected to *url*."""
    said = "; ".join(_said(str(exc), url))
    for secret in _secrets(exc, url):
        said = said.replace(secret, "***")
    reason = next((reason for reason in _REASONS if re.search(reason.words, said)), _NO_REASON)
    # A host that refused may be listed with one that is away for a moment.
    if "Connection refused" in said or "timeout expired" in said:
        reason = _NO_REASON if not reason.may_pass else reason
    facts = {} if reason.may_pass else {"retryable": False}
    error = UnavailableError(f"{reason.what}: {said}; {reason.remedy}", code=reason.code, **facts)
    return NotConnected(error, may_pass=reason.may_pass)


_PREFIX = re.compile(r"^connection (failed|is bad): ")
_ATTEMPT = re.compile(r"^- host: (.*?), port: (.*?), hostaddr: .*?: (.*)$")
_SERVER = re.compile(r"^connection to server ")


def _said(text: str, url: URL | None) -> Iterator[str]:
    """What was said of each host, once. Hints and details are left out."""
    first, *others = text.strip().splitlines() or [""]
    attempts = [found.groups() for found in map(_ATTEMPT.match, others) if found]
    if attempts:
        said = [_with_host(_plain(words), host.strip("'"), port.strip("'")) for host, port, words in attempts]
    else:
        servers = [line for line in others if _SERVER.match(line)]
        host = None if url is None else url.host
        said = [_with_host(_plain(first), host, url.port if url is not None else None), *map(_plain, servers)]
    yield from dict.fromkeys(said)


def _plain(words: str) -> str:
    return " ".join(_PREFIX.sub("", words).split())


def _with_host(words: str, host: str | None, port: object) -> str:
    if host is None or host in words or words.startswith("invalid"):
        return words
    return f"{host}, port {port or 5432}: {words}"


def _secrets(exc: Any, url: URL | None) -> Iterator[str]:
    """What must not be said, though nobody has seen libpq do it. Too short a secret would spoil other words."""
    found = {"" if url is None else str(url.password or "")}
    for option in getattr(getattr(exc, "pgconn", None), "info", ()):
        if option.dispchar in (b"*", b"D") and option.val:  # libpq's marks of what is not to be displayed
            found.add(option.val.decode(errors="replace"))
    return (secret for secret in found if len(secret) > 3)
