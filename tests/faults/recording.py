"""What SQLite asks of the disk, in order: a VFS between SQLite and the one of the system, made with ctypes.

It is registered as the default in the library that `sqlite3` uses, for the whole process. Everything goes on to the
system's VFS, which does it; writes, truncations, syncs and deletions of a database's files are noted on the way.
"""

import ctypes
import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.faults.table import Missing

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_OK = 0


class _Vfs(ctypes.Structure):
    _fields_ = (
        ("iVersion", _INT), ("szOsFile", _INT), ("mxPathname", _INT), ("pNext", _POINTER), ("zName", ctypes.c_char_p),
        ("pAppData", _POINTER),
        *((name, _POINTER) for name in (
            "xOpen", "xDelete", "xAccess", "xFullPathname", "xDlOpen", "xDlError", "xDlSym", "xDlClose", "xRandomness",
            "xSleep", "xCurrentTime", "xGetLastError", "xCurrentTimeInt64", "xSetSystemCall", "xGetSystemCall",
            "xNextSystemCall",
        )),
    )  # fmt: skip


class _Methods(ctypes.Structure):
    _fields_ = (
        ("iVersion", _INT),
        *((name, _POINTER) for name in (
            "xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize", "xLock", "xUnlock", "xCheckReservedLock",
            "xFileControl", "xSectorSize", "xDeviceCharacteristics", "xShmMap", "xShmLock", "xShmBarrier", "xShmUnmap",
            "xFetch", "xUnfetch",
        )),
    )  # fmt: skip


class _File(ctypes.Structure):
    _fields_ = (("pMethods", ctypes.POINTER(_Methods)),)


_FILE = ctypes.POINTER(_File)
# The name as an address: SQLite goes on using the memory behind it as long as the file is open.
_OPEN = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _FILE, _INT, _POINTER)
_DELETE = ctypes.CFUNCTYPE(_INT, _POINTER, ctypes.c_char_p, _INT)
_WRITE = ctypes.CFUNCTYPE(_INT, _FILE, _POINTER, _INT, _LONG)
_TRUNCATE = ctypes.CFUNCTYPE(_INT, _FILE, _LONG)
_SYNC = ctypes.CFUNCTYPE(_INT, _FILE, _INT)
_CLOSE = ctypes.CFUNCTYPE(_INT, _FILE)


@dataclass(frozen=True, slots=True)
class Event:
    """One step: of a file, or of the client, who was told that something is stored (`acknowledged`)."""

    kind: Literal["write", "truncate", "sync", "delete", "acknowledged"]
    file: str
    offset: int = 0
    data: bytes = b""


@dataclass
class Recording:
    """The steps, in order. Safe to share between threads."""

    events: list[Event] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, event: Event) -> None:
        with self._lock:
            self.events.append(event)

    def acknowledge(self, tag: str) -> None:
        self.add(Event("acknowledged", tag))


def record(recording: Recording) -> None:
    """Note from now on all that SQLite does in this process. There is no way back."""
    library = _library()
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    library.sqlite3_vfs_find.argtypes = (ctypes.c_char_p,)
    library.sqlite3_vfs_register.argtypes = (ctypes.POINTER(_Vfs), _INT)
    system = library.sqlite3_vfs_find(None)
    vfs = _Vfs.from_buffer_copy(system.contents)
    vfs.zName = b"recording"
    vfs.pNext = None
    below_open = _OPEN(system.contents.xOpen)
    below_delete = _DELETE(system.contents.xDelete)
    names: dict[int, str] = {}
    tables: dict[int, _Methods] = {}

    def open_file(_: int, name: int | None, file: Any, flags: int, found: int) -> int:
        code = below_open(ctypes.addressof(system.contents), name, file, flags, found)
        if code == _OK and name is not None and file.contents.pMethods:
            below = ctypes.addressof(file.contents.pMethods.contents)
            if below not in tables:
                tables[below] = wrap(file.contents.pMethods.contents)
            names[ctypes.addressof(file.contents)] = ctypes.string_at(name).decode()
            file.contents.pMethods = ctypes.pointer(tables[below])
        return code

    def delete(_: int, name: bytes, sync: int) -> int:
        code = below_delete(ctypes.addressof(system.contents), name, sync)
        if code == _OK:
            recording.add(Event("delete", name.decode()))
        return code

    def wrap(below: _Methods) -> _Methods:
        methods = _Methods.from_buffer_copy(below)
        below_write, below_truncate = _WRITE(below.xWrite), _TRUNCATE(below.xTruncate)
        below_sync, below_close = _SYNC(below.xSync), _CLOSE(below.xClose)

        def name_of(file: Any) -> str:
            return names[ctypes.addressof(file.contents)]

        def write(file: Any, data: int, size: int, offset: int) -> int:
            code = below_write(file, data, size, offset)
            recording.add(Event("write", name_of(file), offset, ctypes.string_at(data, size)))
            return code

        def truncate(file: Any, size: int) -> int:
            code = below_truncate(file, size)
            recording.add(Event("truncate", name_of(file), size))
            return code

        def sync(file: Any, flags: int) -> int:
            code = below_sync(file, flags)
            recording.add(Event("sync", name_of(file)))
            return code

        def close(file: Any) -> int:
            names.pop(ctypes.addressof(file.contents), None)
            return below_close(file)

        for field_name, kind, function in (
            ("xWrite", _WRITE, write), ("xTruncate", _TRUNCATE, truncate), ("xSync", _SYNC, sync),
            ("xClose", _CLOSE, close),
        ):  # fmt: skip
            setattr(methods, field_name, keep(kind, function))
        return methods

    def keep(kind: Any, function: Callable[..., int]) -> int:
        callback = kind(function)
        _kept.append(callback)
        return ctypes.cast(callback, _POINTER).value or 0

    vfs.xOpen = keep(_OPEN, open_file)
    vfs.xDelete = keep(_DELETE, delete)
    _kept.extend((vfs, system, tables, names))
    if library.sqlite3_vfs_register(ctypes.byref(vfs), 1) != _OK:
        raise Missing("a SQLite that takes another VFS")


# SQLite goes on using them as long as the process lives.
_kept: list[Any] = []


def _library() -> ctypes.CDLL:
    """The library that Python's own module is linked to, and no other copy of it."""
    import _sqlite3

    own = _sqlite3.__file__ if importlib.util.find_spec("_sqlite3") else None
    for name in (own, None):
        library = ctypes.CDLL(name)
        if hasattr(library, "sqlite3_vfs_register"):
            return library
    raise Missing("a SQLite library that is not hidden inside of Python")
