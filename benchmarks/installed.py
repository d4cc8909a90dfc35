"""The environment of the peers, `.venv-peers`: theirs are hundreds of packages, which the project does without."""

import subprocess
import sys
from pathlib import Path

from benchmarks.workers import PEERS_PYTHON, ROOT

REQUIREMENTS = Path(__file__).parent / "peers" / "requirements.txt"
_TIMEOUT = 600


def install_peers() -> str | None:
    """Make the environment, or leave it as it is if it is there already; the reason if that is not possible."""
    venv = PEERS_PYTHON.parent.parent
    stamp = venv / "stamp"
    wanted = REQUIREMENTS.read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return None
    print("installing the peers into .venv-peers", flush=True)
    uv = [sys.executable, "-m", "uv"]
    for command in (
        [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)],
        [*uv, "pip", "install", "--quiet", "--python", str(PEERS_PYTHON), "--requirement", str(REQUIREMENTS)],
    ):
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            return f"took longer than {_TIMEOUT} seconds"
        if done.returncode != 0:
            return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "failed"
    stamp.write_text(wanted)
    return None


def versions(packages: list[str]) -> dict[str, str]:
    """Which release of each package the peers' environment has."""
    code = (
        "import importlib.metadata, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = importlib.metadata.version(name)\n"
        "    except importlib.metadata.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    if not PEERS_PYTHON.exists():
        return {}
    done = subprocess.run([str(PEERS_PYTHON), "-c", code, *packages], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {}
    import json

    found: dict[str, str] = json.loads(done.stdout)
    return found
