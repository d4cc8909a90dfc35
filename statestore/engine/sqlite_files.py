"""SQLite's files: where they are, how they are made, and whether a file is still the one that was opened.

Nothing here opens a database file, and nothing else in the package may. POSIX drops all locks that a process holds on a
file when any descriptor of it is closed: SQLite would go on believing in its locks, and commits would be lost.
"""

import errno
import os
import sqlite3
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sqlalchemy import URL

from statestore.errors import DatabaseError, ReadOnlyError, StorageFullError, UnavailableError

# A checkpoint leaves the log as long as it has ever been, unless told how much to keep: four times what SQLite lets it
# grow to while nobody reads.
LOG_LIMIT = 16 << 20
_CHECKPOINT_PATIENCE = 100

FILE = "statestore_file"
"""Where a `SqliteFile` is kept: in the options of its engine, to be glanced at, and in the `info` of each of its pooled
connections, to be checked before a write. Not in a listener to the pool, which costs more than the look itself."""

_GLANCE = 0.05
_TRUE = frozenset({"true", "yes", "on", "y", "t", "1"})


WAIT = 250
"""How long SQLite waits for a lock at a time, in milliseconds: that cannot be interrupted."""


class SqliteFile:
    """The file of an engine, which is to stay the one that was opened first.

    SQLite notices neither that a file was deleted nor that another was put in its place: what is written then goes to
    a file without a name, and a connection made anew goes to another database than those before it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Relative to where the process is now; SQLAlchemy keeps it so, too.
        self._name = os.path.abspath(path)
        self._identity: tuple[int, int] | None = None
        self._checked_at = 0.0

    def glance(self) -> None:
        """As `check`, but now and then only: it takes as long as a tenth of a small read."""
        now = time.monotonic()
        if now - self._checked_at > _GLANCE:
            self._checked_at = now
            self.check()

    def check(self) -> None:
        """Make sure that the file is the one that was checked first. Opens nothing.

        Raises:
            DatabaseError: It is not. Nothing was written.
        """
        try:
            found = os.stat(self._name)
        except FileNotFoundError:
            if self._identity is not None:
                raise self._changed("was deleted or moved away") from None
            return
        identity = found.st_dev, found.st_ino
        if self._identity is None:
            self._identity = identity
        elif self._identity != identity:
            raise self._changed("was replaced by another file")

    def _changed(self, what: str) -> DatabaseError:
        return DatabaseError(
            f"the SQLite file {self.path} {what} while the store was open; nothing was written, "
            "put it back or close the store, and open it again"
        )


def checkpoint(connection: Any) -> bool:
    """Write the log back into the database and empty it, so that it neither grows nor keeps what was deleted.

    Best effort: it waits for nobody longer than a tenth of a second. Not to be called in a transaction.

    Args:
        connection: A connection of sqlite3's, or of a pool.

    Returns:
        Whether the log is empty now. Another's transaction, one that only reads included, may keep it from being so.
    """
    cursor = connection.cursor()
    try:
        [patience] = cursor.execute("PRAGMA busy_timeout").fetchone()
        cursor.execute(f"PRAGMA busy_timeout = {min(patience, _CHECKPOINT_PATIENCE)}")
        try:
            busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy
        except sqlite3.OperationalError:
            return False
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {patience}")
    finally:
        cursor.close()


def path_of(url: URL) -> Path | None:
    """The file that a SQLite URL names; None for a database in memory."""
    name, mode = _name_and_mode(url)
    return None if mode == "memory" or name in ("", ":memory:") else Path(name)


def same(one: URL, other: URL) -> bool:
    """Whether two URLs name the same file, which exists. A database in memory is nobody else's."""
    paths = [path_of(url) for url in (one, other)]
    try:
        return all(paths) and os.path.samefile(*(path for path in paths if path))
    except OSError:
        return False


def make_private(url: URL) -> None:
    """Make the file of a SQLite URL if there is none, readable by its owner alone: it will hold conversations.

    SQLite would leave the rights to the umask. Its log files take after the database.

    Raises:
        ReadOnlyError: It cannot be made for want of rights.
        StorageFullError: Nor for want of space.
        UnavailableError: Nor for another reason, such as a directory that does not exist.
    """
    path = path_of(url)
    if path is None or _name_and_mode(url)[1] in ("ro", "rw"):
        return
    try:
        # Through links to the end: a link that leads nowhere yet is where SQLite would make the file.
        _make(Path(os.path.realpath(path)))
    except FileExistsError:
        return
    except OSError as exc:
        raise _cannot_be_made(path, exc.errno) from None


def _make(path: Path) -> None:
    # Never open, not even to make it: another thread may open the database as soon as it has its name.
    if hasattr(os, "mknod"):
        try:
            os.mknod(path, stat.S_IFREG | 0o600)
            return
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
    # macOS lets only root do that. So the file is made under another name, and gets its own when it is closed.
    if path.exists():
        return
    handle, other_name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        with suppress(OSError):  # A file system without links: SQLite makes the file.
            os.link(other_name, path)
    finally:
        os.unlink(other_name)


def _cannot_be_made(path: Path, code: int | None) -> DatabaseError:
    what = f"the SQLite file {path} cannot be made"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ReadOnlyError(f"{what}; check the permissions of its directory")
    if code in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(f"{what}: the disk or the quota is full")
    return UnavailableError(f"{what}; check that its directory exists")


def _name_and_mode(url: URL) -> tuple[str, str]:
    """The path, and `mode` if it is a `file:` URI."""
    name = url.database or ""
    query = {key: value if isinstance(value, str) else value[-1] for key, value in url.query.items()}
    if not name.startswith("file:") or query.get("uri", "").lower() not in _TRUE:
        return name, ""
    parts = urlsplit(name)
    modes = parse_qs(parts.query).get("mode", [])
    return unquote(parts.path), query.get("mode") or (modes[-1] if modes else "")
