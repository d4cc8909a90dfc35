"""SQLite's files: where they are, how they are made, and whether a file is still the one that was opened.

Nothing here opens a database file, and nothing else in the package may. POSIX drops all locks that a process holds on a
file when any descriptor of it is closed: SQLite would go on believing in its locks, and commits would be lost.
"""

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from sqlalchemy import URL

from statestore.errors import DatabaseError, ReadOnlyError, StorageFullError, UnavailableError

_TRUE = frozenset({"true", "yes", "on", "y", "t", "1"})


def path_of(url: URL) -> Path | None:
    """The file that a SQLite URL names; None for a database in memory."""
    name, mode = _name_and_mode(url)
    return None if mode == "memory" or name in ("", ":memory:") else Path(name)


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
        return ReadOnlyError(f"{what}; check the rights on its directory")
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
