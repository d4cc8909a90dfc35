"""What a user installs: the wheel, away from the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from statestore.schema import HEAD_REVISION

PROJECT = Path(__file__).parents[2]
FIRST_MIGRATION = "statestore/_migrations/versions/0001_*.py"


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STATESTORE_"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Installation:
    """A virtual environment in which the wheel is installed."""

    root: Path
    cwd: Path

    @property
    def packages(self) -> Path:
        return next(self.root.glob("lib/python*/site-packages"))

    def python(self, code: str) -> str:
        return run(self.root / "bin" / "python", "-c", code, cwd=self.cwd)

    def statestore(self, *arguments: str) -> str:
        return run(self.root / "bin" / "statestore", *arguments, cwd=self.cwd)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=PROJECT)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture
def installation(wheel: Path, tmp_path: Path) -> Installation:
    root, cwd = tmp_path / "venv", tmp_path / "elsewhere"
    cwd.mkdir()
    venv.create(root, symlinks=True)
    installed = Installation(root, cwd)
    # The dependencies come from the environment that runs the tests, so that this needs no network. A folder named in
    # a .pth file follows the environment's own, and .pth files inside it (the editable install) are not read.
    (installed.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    run(sys.executable, "-m", "pip", "--python", root / "bin" / "python", *install, cwd=cwd)
    return installed


def test_carries_the_package_and_the_migrations_but_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [Path(name) for name in archive.namelist()]
    assert Path("statestore/py.typed") in names
    assert Path("statestore/_migrations/env.py") in names
    assert Path("statestore/_migrations/script.py.mako") in names
    assert any(name.match(FIRST_MIGRATION) for name in names)
    assert {name.parts[0] for name in names} == {"statestore", f"{'-'.join(wheel.stem.split('-')[:2])}.dist-info"}


def test_the_installed_command_is_the_wheels(wheel: Path, installation: Installation) -> None:
    origin = installation.python("import statestore; print(statestore.__file__)").strip()
    assert Path(origin) == installation.packages / "statestore" / "__init__.py"
    assert wheel.stem.split("-")[1] in installation.statestore("--version")


def test_migrates_with_the_migrations_it_carries(installation: Installation) -> None:
    [first] = installation.packages.glob(FIRST_MIGRATION)
    with first.open("a") as file:
        file.write("\nprint('the packaged migration')\n")
    url = f"sqlite:///{installation.cwd / 'statestore.db'}"

    assert "the packaged migration" in installation.statestore("migrate", "up", "--url", url)
    assert f"current  {HEAD_REVISION}" in installation.statestore("migrate", "status", "--url", url)
