"""A folder that appears when it is complete: written beside its place, then renamed to it.

A run that was killed leaves its half-written folder beside; the next run removes it, and puts an old report back that
it had moved aside. Only folders with our mark are ever removed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from statestore.errors import InvalidValueError

MARK = ".statestore-report"
_MARK_TEXT = "This folder was written by `statestore report --html`, which may replace it as a whole.\n"


class Folder:
    """A folder being written. Only its owner may read it: it holds conversations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made: set[str] = set()

    def write(self, name: str, text: str) -> None:
        """Write a file; *name* has a slash at most once, and is ours."""
        parent = os.path.dirname(name)
        if parent and parent not in self._made:
            (self._path / parent).mkdir(mode=0o700)
            self._made.add(parent)
        descriptor = os.open(
            self._path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())


def is_report(path: Path) -> bool:
    """Whether a folder is a report, which may be replaced as a whole."""
    return (path / MARK).is_file()


def problem(path: Path) -> str | None:
    """Why no report can be written to *path*; None if it is not there, or empty, or a report."""
    if path.is_symlink():
        return f"{path} is a link; name the folder itself"
    if not Path(os.path.abspath(path)).parent.is_dir():
        return f"{path.parent} is not a folder; make it first"
    if not path.exists():
        return None
    if not path.is_dir():
        return f"{path} is a file; name a folder"
    if os.path.ismount(path):
        return f"{path} is a mount point, which cannot be replaced; name a folder inside it"
    if any(path.iterdir()) and not is_report(path):
        return f"{path} has files that are not a report of statestore; name a new or an empty folder"
    return None


def _check(path: Path, *, replace: bool) -> None:
    found = problem(path)
    if found is None and is_report(path) and not replace:
        found = f"{path} has a report already; name another folder, or allow to replace it"
    if found is not None:
        raise InvalidValueError("path", found)


@contextmanager
def written(path: Path, *, replace: bool = False) -> Iterator[Folder]:
    """A folder to write to, which takes the place of *path* at the end; if that fails, *path* is as it was.

    Raises:
        InvalidValueError: *path* cannot be used, or another run is writing the same report. Nothing was changed.
    """
    path = Path(os.path.abspath(path))
    aside = path.with_name(f".{path.name}.replaced")
    with _alone(path):
        _recover(path, aside)
        _check(path, replace=replace)
        part = path.with_name(f".{path.name}.part")
        _remove(part)
        part.mkdir(mode=0o700)
        (part / MARK).write_text(_MARK_TEXT)
        try:
            yield Folder(part)
            _take_place(part, path, aside)
        except BaseException:
            _remove(part)
            raise


def _recover(path: Path, aside: Path) -> None:
    """Undo what a run left that was killed between its two renamings."""
    if is_report(aside) and not path.exists():
        os.rename(aside, path)
    _remove(aside)


def _take_place(part: Path, path: Path, aside: Path) -> None:
    if path.exists() and not any(path.iterdir()):
        path.rmdir()
    elif path.exists():
        os.rename(path, aside)
    os.rename(part, path)
    _remove(aside)


def _remove(folder: Path) -> None:
    """Remove a folder of ours, if there is one."""
    if folder.is_symlink() or (folder.exists() and any(folder.iterdir()) and not (folder / MARK).is_file()):
        raise InvalidValueError("path", f"{folder} already exists and was not made by statestore; move it away")
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else writes the same report meanwhile. The lock goes with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Not on Windows.
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another one may have removed the file between these two steps, and a third one made it anew.
            if os.fstat(descriptor).st_ino != os.stat(lock).st_ino:
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            raise InvalidValueError("path", f"another process is writing {path}; wait until it is done") from None
        try:
            yield
        finally:
            os.unlink(lock)
    finally:
        os.close(descriptor)
