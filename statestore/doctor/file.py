"""Checks of SQLite's file: its rights, its settings, its log, its space, and whether it is whole."""

import os
import shlex
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from statestore import schema
from statestore.doctor.checks import check, found, mendable, size, some
from statestore.doctor.findings import Finding
from statestore.doctor.patient import Patient, writing
from statestore.doctor.upkeep import free_space
from statestore.engine.sqlite_files import LOG_LIMIT
from statestore.schema.naming import quoted

LARGE_FILE = 1_000_000_000
"""From which size on a file is read as a whole only if that is asked for."""
FREE_PAGES = 0.25
LEAST_FREE = 16 << 20
_INCREMENTAL = 2
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs", "9p"}


@check("file", on="sqlite")
def file(patient: Patient) -> Iterator[Finding]:
    """Who may read and write it, and on what it lies."""
    mode, folder = patient.path.stat().st_mode, Path(os.path.abspath(patient.path)).parent
    path = shlex.quote(str(patient.path))
    kind = _file_system(folder)
    if not mode & stat.S_IWUSR:
        yield found("file", "fail", f"it is read-only ({mode & 0o777:o})", f"chmod u+w {path}")
    elif not folder.stat().st_mode & stat.S_IWUSR:
        what = "its folder is read-only, and the log cannot be made beside it"
        yield found("file", "fail", what, f"chmod u+w {shlex.quote(str(folder))}")
    elif mode & 0o077:
        yield found("file", "warn", f"others can read it ({mode & 0o777:o})", f"chmod 600 {path}")
    elif kind in _NETWORK:
        yield found("file", "fail", f"it is on a network file system ({kind}), where SQLite's locks lose data; move it")
    else:
        yield found("file", "ok", "its owner alone can read and write it")


def _file_system(folder: Path) -> str:
    """What a folder is on, as Linux says; empty elsewhere."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    real = os.path.realpath(folder)
    mounts = [line.split()[1:3] for line in lines]
    over = [(point, kind) for point, kind in mounts if real == point or real.startswith(point.rstrip("/") + "/")]
    return max(over, key=lambda mount: len(mount[0]), default=("", ""))[1]


@check("pragmas", on="sqlite")
def pragmas(patient: Patient) -> Iterator[Finding]:
    """What the file itself keeps; the rest each connection of a store sets."""
    [mode], [space] = patient.one("PRAGMA journal_mode"), patient.one("PRAGMA auto_vacuum")
    if mode != "wal":
        what = f"journal_mode is {mode}: readers and the writer keep each other waiting"
        yield mendable(patient, "pragmas", "warn", what, ["PRAGMA journal_mode = WAL"])
    if space != _INCREMENTAL:
        what = "auto_vacuum is not incremental, so that the file never shrinks"
        yield found("pragmas", "warn", what, patient.command("vacuum --full"))
    if mode == "wal" and space == _INCREMENTAL:
        yield found("pragmas", "ok", "journal_mode wal; each store sets synchronous FULL and foreign_keys ON itself")


@check("writer", on="sqlite")
def writer(patient: Patient) -> Iterator[Finding]:
    """Whether somebody keeps all others from writing."""
    if not os.access(patient.path, os.W_OK):
        return
    try:
        with closing(writing(patient)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
            yield found("writer", "fail", f"nobody can write ({error.sqlite_errorname})")
            return
        yield found(
            "writer", "warn", "another process has held the write lock for five seconds; find it: lsof or fuser"
        )
        return
    yield found("writer", "ok", "no process holds the write lock")


@check("integrity", on="sqlite")
def integrity(patient: Patient) -> Iterator[Finding]:
    """Whether the file is whole. That reads all of it."""
    total = patient.path.stat().st_size
    if total > LARGE_FILE and not patient.thorough:
        hint = patient.command("doctor --check integrity --thorough")
        yield found("integrity", "ok", f"skipped: the file is {size(total)}, and would be read as a whole", hint)
        return
    try:
        lines = [line for (line,) in patient.rows("PRAGMA integrity_check(20)")]
    except DBAPIError as error:
        if not getattr(error.orig, "sqlite_errorname", "").startswith("SQLITE_CORRUPT"):
            raise
        # The schema cannot be read, and without it .recover makes no tables.
        yield found("integrity", "fail", f"the file is damaged: {error.orig}; restore a backup")
        return
    if lines == ["ok"]:
        yield found("integrity", "ok", "the file is whole")
    elif all("index" in line for line in lines):
        what = f"indexes do not have what the tables have: {some(lines, 1)}"
        yield mendable(patient, "integrity", "fail", what, ["REINDEX"])
    else:
        path = shlex.quote(str(patient.path))
        save = f"sqlite3 {path} .recover | sqlite3 {shlex.quote(f'{patient.path}.recovered')}"
        yield found(
            "integrity", "fail", f"the file is damaged: {some(lines, 1)}; restore a backup, or save the rest", save
        )


@check("log", on="sqlite")
def log(patient: Patient) -> Iterator[Finding]:
    """The write-ahead log, which grows while somebody reads without an end."""
    name = Path(f"{patient.path}-wal")
    length = name.stat().st_size if name.exists() else 0
    if length > 2 * LOG_LIMIT:
        what = f"the log has grown to {size(length)}: somebody reads for long, or was killed"
        yield found("log", "warn", what, patient.command("vacuum"))
    else:
        yield found("log", "ok", f"{size(length)}")


@check("space", on="sqlite")
def space(patient: Patient) -> Iterator[Finding]:
    """Of deleted rows."""
    ([free], [pages], [width]) = (
        patient.one(f"PRAGMA {name}") for name in ("freelist_count", "page_count", "page_size")
    )
    what = f"{size(free * width)} of {size(pages * width)} are free pages"
    if free * width >= LEAST_FREE and free > FREE_PAGES * pages:
        yield found("space", "warn", what, patient.command("vacuum"))
    else:
        yield found("space", "ok", what)


@check("disk", on="sqlite")
def disk(patient: Patient) -> Iterator[Finding]:
    """What the file's disk has left."""
    yield free_space(
        "disk", os.path.dirname(os.path.abspath(patient.path)), f"the file has {size(patient.path.stat().st_size)}"
    )


@check("leftovers", on="sqlite", needs=(schema.VERSION_TABLE,))
def leftovers(patient: Patient) -> Iterator[Finding]:
    """Tables that a migration that was killed has left."""
    names = [name for (name,) in patient.rows(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 13) = '_alembic_tmp_' ORDER BY 1")
        if name.removeprefix("_alembic_tmp_") in schema.metadata.tables]  # fmt: skip
    if names:
        sql = [f"DROP TABLE {quoted(name)}" for name in names]
        yield mendable(patient, "leftovers", "warn", f"a migration was killed and has left {some(names)}", sql)
    else:
        yield found("leftovers", "ok", "none")
