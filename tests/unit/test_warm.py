import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.warm import programs

WAITS = "import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(20)"


@pytest.fixture
def own() -> Path:
    """Programs of a process that may be killed."""
    return programs.__wrapped__()


@pytest.fixture
def waits(own: Path) -> Iterator[tuple["subprocess.Popen[str]", int, int]]:
    """A program that waits, the process that was forked for it, and the one that forked it."""
    with subprocess.Popen(
        [own / "python", "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        forked, server = map(int, program.stdout.readline().split())
        yield program, forked, server
        with suppress(ProcessLookupError):
            os.kill(forked, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_without_the_process_that_it_is_forked_from_a_program_fails(
    own: Path, waits: tuple["subprocess.Popen[str]", int, int], number: signal.Signals
) -> None:
    program, _, server = waits
    os.kill(server, number)
    # The pipe's end is that of the forked process, too.
    _, said = program.communicate(timeout=10)
    assert (program.returncode, "has gone" in said) == (99, True)
    late = subprocess.run([own / "python", "-c", ""], capture_output=True, text=True, check=False)
    assert (late.returncode, late.stderr != "") == (99, True)


def test_what_cannot_be_served_harms_nobody_else(own: Path, waits: tuple["subprocess.Popen[str]", int, int]) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(own / "socket"))
        socket.send_fds(client, [(3).to_bytes(4, "big")], [0])
        client.sendall(b"???")
        assert client.recv(4) == b""
    assert waits[0].poll() is None
    subprocess.run([own / "python", "-c", ""], check=True)


def test_an_interrupt_ends_it_as_it_ends_a_real_one(waits: tuple["subprocess.Popen[str]", int, int]) -> None:
    program, *_ = waits
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=10)
    assert (program.returncode, said.strip().endswith("KeyboardInterrupt")) == (-signal.SIGINT, True)


@pytest.mark.parametrize("options", [[], ["-P"]])
def test_path_and_umask_are_those_of_a_real_start(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "beside.py").touch()
    found = "importlib.util.find_spec('beside') is None"
    code = f"import importlib.util, os, sys; print({found}, sys.path[0] == '', os.umask(0))"
    said = [
        subprocess.check_output([python, *options, "-c", code], cwd=tmp_path, umask=0o027)
        for python in (programs() / "python", sys.executable)
    ]
    assert said[0] == said[1]
