"""Processes that have imported the package already.

Half a second of CPU goes into the start of a command or a script, nearly all of it into imports. `programs()` is a
folder with `statestore` and `python`, which look like the real ones to whoever starts them, in a shell too, but are
forked from one process that has imported everything. They serve where neither the start nor what is imported is the
subject. A signal reaches the forked process, too, and so does the SIGKILL of the program that waits for it, soon after:
it may live a moment longer than `wait()` lasts. Where the process that they are forked from cannot serve or goes away,
they end with 99 and a word on standard error.

What is not as in a real start: the hash seed is the same in all of them. `LC_ALL=C` does not alter the encodings, and
`PYTHON...` variables have no effect but for `PYTHONPATH` and `PYTHONSAFEPATH`; that of the tests stays in `sys.path`.
Options other than `-P` and `-W` are unknown, `sys.flags` stays that of the tests, and no warning of an import is seen.
"""

import atexit
import fcntl
import gc
import importlib
import io
import locale
import marshal
import os
import runpy
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

IMPORTED = (
    "asyncio", "concurrent.futures", "fractions", "pdb", "rlcompleter", "runpy", "sqlite3", "tempfile", "tomllib",
    "alembic.command", "psycopg", "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.pysqlite",
    "sqlalchemy.ext.asyncio", "statestore.async_store", "statestore.migrate", "statestore.store", "statestore.portable",
    "statestore.context", "statestore.sweeper", "statestore.importers", "statestore.doctor", "statestore.reports.page",
)  # fmt: skip

# What the process that they are forked from is told of by a pipe, and what a real one does with it. As an exception, an
# interrupt could fall into what Python calls at a fork, which swallows it.
OWN_SIGNALS = {signal.SIGCHLD: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}

# Started without `site`, and with what is built into the interpreter only.
PROGRAM = """#!{python} -IS
import _signal, _socket, marshal, os, sys
child = 0
def number():
    got = server.recv(4)
    if len(got) < 4:
        raise ConnectionError("the process that it is forked from could not serve, or has gone")
    return int.from_bytes(got, "big", signed=True)
def kill(number, _=None):
    try:
        os.kill(child, number)
    except ProcessLookupError:
        pass
try:
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    server.connect({path!r})
    fds = [int(fd) for fd in os.listdir("/dev/fd") if os.path.exists("/dev/fd/" + fd)]
    fds.remove(server.fileno())
    umask = os.umask(0)
    os.umask(umask)
    task = marshal.dumps((sys.argv, os.getcwd(), umask, dict(os.environ), fds))
    sent = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
    server.sendmsg([len(task).to_bytes(4, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, sent)])
    while task:
        task = task[server.send(task):]
    child = number()
    for one in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(one, kill)
    code = number()
except OSError as exc:
    if child:
        kill(_signal.SIGKILL)
    try:
        os.write(2, (sys.argv[0] + ": " + str(exc) + "\\n").encode())
    finally:
        os._exit(99)
if code < 0:
    if -code != _signal.SIGKILL:
        _signal.signal(-code, _signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@cache
def programs() -> Path:
    """The folder with the programs. It goes, and so does the process that they are forked from, when this one ends."""
    folder = Path(tempfile.mkdtemp(prefix="statestore-warm-"))
    for name in ("statestore", "python"):
        program = folder / name
        program.write_text(PROGRAM.format(python=sys.executable, path=str(folder / "socket")))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    server = subprocess.Popen(
        [sys.executable, "-c", "from tests.support.warm import serve; serve()", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    server.stdout.readline()
    atexit.register(_end, server, folder)
    return folder


def _end(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    server.communicate()
    shutil.rmtree(folder, ignore_errors=True)


def serve() -> None:
    """Until standard input ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    import statestore.cli as commands

    sys.path[:] = [one for one in sys.path if one]  # Without the "" of its own `-c`.
    for path in Path(commands.__file__).parent.glob("[a-z]*.py"):
        importlib.import_module(f"statestore.cli.{path.stem}")
    gc.collect()
    gc.freeze()
    # Those who asked, by the process that they got, and the other way round.
    waiting: dict[int, socket.socket] = {}
    children: dict[socket.socket, int] = {}
    ended, end = os.pipe()
    os.set_blocking(end, False)
    os.set_blocking(ended, False)
    for one in OWN_SIGNALS:
        signal.signal(one, lambda *_: None)
    signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(Path(sys.argv[1], "socket")))
    listener.listen(64)
    os.write(1, b"\n")
    selector = selectors.DefaultSelector()
    for one in (listener, ended, 0):
        selector.register(one, selectors.EVENT_READ)
    try:
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if 0 in ready:
                return
            if ended in ready and signal.SIGINT in os.read(ended, 4096):
                return
            while waiting:
                child, status = os.waitpid(-1, os.WNOHANG)
                if not child:
                    break
                client = waiting.pop(child)
                if children.pop(client, None):
                    selector.unregister(client)
                _tell(client, os.waitstatus_to_exitcode(status))
                client.close()
            for client in ready & children.keys():
                selector.unregister(client)
                os.kill(children.pop(client), signal.SIGKILL)
            if listener in ready:
                client, _ = listener.accept()
                try:
                    child = _forked(client, (listener, selector, *waiting.values()), (ended, end))
                except Exception:  # Whoever asked sees the end of the connection. The others go on.
                    traceback.print_exc()
                    client.close()
                else:
                    waiting[child] = client
                    children[client] = child
                    selector.register(client, selectors.EVENT_READ)
    finally:
        for child in waiting:
            os.kill(child, signal.SIGKILL)


def _tell(client: socket.socket, number: int) -> None:
    with suppress(OSError):  # Whoever asked was killed.
        client.send(number.to_bytes(4, "big", signed=True))


def _forked(client: socket.socket, others: Iterable[Any], numbers: Iterable[int]) -> int:
    """The process that was asked for, which has no use for the others' connections."""
    size, fds, _, _ = socket.recv_fds(client, 4, 16)
    try:
        task = b""
        while more := client.recv(min(65536, int.from_bytes(size, "big") - len(task))):
            task += more
        asked = marshal.loads(task)
        if child := os.fork():
            return child
        try:
            signal.set_wakeup_fd(-1)
            for one, handler in OWN_SIGNALS.items():
                signal.signal(one, handler)
            # By itself, before it does anything: whoever asked ends it if the one that it was forked from goes.
            _tell(client, os.getpid())
            for one in (client, *others):
                one.close()
            for number in numbers:
                os.close(number)
            _become(fds, asked)
        finally:  # It never goes on as the one that it was forked from.
            os._exit(99)
    finally:
        for fd in fds:
            os.close(fd)


def _become(fds: list[int], task: Any) -> None:
    """The process that was asked for."""
    code: object = 1
    interrupted = False
    try:
        arguments, directory, umask, environment, numbers = task
        highest = max((*fds, *numbers))
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, highest + 1) for fd in fds]
        for fd in fds:
            os.close(fd)
        for number, fd in zip(numbers, moved, strict=True):
            os.dup2(fd, number)
            os.close(fd)
        os.setsid()
        os.chdir(directory)
        os.umask(umask)
        os.environ.clear()
        os.environ.update(environment)
        encoding = locale.getpreferredencoding(do_setlocale=False)
        time.tzset()
        path = environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = [one for one in path if one and one not in sys.path]
        given, out, err = (io.FileIO(fd, "rw"[fd > 0], closefd=False) for fd in range(3))
        sys.stdin = io.TextIOWrapper(io.BufferedReader(given), encoding)
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(out), encoding, line_buffering=os.isatty(1))
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(err), encoding, "backslashreplace", line_buffering=True)
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
        run = _python if arguments[0].endswith("python") else _command
        run(arguments)
        code = 0
    except SystemExit as exc:
        code = exc.code
    except BaseException as exc:
        sys.excepthook(*sys.exc_info())
        interrupted = isinstance(exc, KeyboardInterrupt)
    ended = _finish(code)
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(ended)


def _finish(code: object) -> int:
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    except BaseException:
        sys.excepthook(*sys.exc_info())
    atexit.unregister(_end)
    atexit._run_exitfuncs()
    try:
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        sys.stderr.flush()
        sys.stdout.flush()
    except (OSError, ValueError):
        return 120
    return code & 0xFF if isinstance(code, int) else 0


def _command(arguments: list[str]) -> None:
    from statestore.cli import main

    sys.argv = arguments
    _first_in_path(os.path.dirname(os.path.abspath(arguments[0])))
    main()


def _first_in_path(folder: str, safe: bool = False) -> None:
    if not safe and not os.environ.get("PYTHONSAFEPATH"):
        sys.path.insert(0, folder)


def _python(arguments: list[str]) -> None:
    kind, *rest = arguments[1:]
    safe = kind == "-P"
    if safe:
        kind, *rest = rest
    while kind == "-W":
        warnings.simplefilter(rest[0])  # type: ignore[arg-type]
        sys.warnoptions.append(rest[0])
        kind, *rest = rest[1:]
    if kind == "-c":
        code, *given = rest
        sys.argv = ["-c", *given]
        _first_in_path("", safe)
        module = type(sys)("__main__")
        sys.modules["__main__"] = module
        exec(compile(code, "<string>", "exec"), module.__dict__)
    elif kind == "-m":
        sys.argv = rest
        _first_in_path(os.getcwd(), safe)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *rest]
        _first_in_path(os.path.dirname(os.path.abspath(kind)), safe)
        runpy.run_path(kind, run_name="__main__")
