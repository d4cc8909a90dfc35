"""What a user installs: the wheel, away from the checkout."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from statestore import migrate
from statestore.schema import HEAD_REVISION, VERSION_TABLE
from tests.migrations import conftest
from tests.migrations.databases import prefix, rows

PROJECT = Path(__file__).parents[2]
FIRST_MIGRATION = "statestore/_migrations/versions/0001_*.py"


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STATESTORE_"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


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

    def statestore(self, *arguments: str, code: int = 0) -> str:
        return run(self.root / "bin" / "statestore", *arguments, cwd=self.cwd, code=code)


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
    # By uv, which takes a tenth of the time of venv and pip.
    uv = [sys.executable, "-m", "uv", "--quiet", "--offline", "--no-config"]
    run(*uv, "venv", "--python", sys.executable, root, cwd=cwd)
    installed = Installation(root, cwd)
    # The dependencies come from the environment that runs the tests, so that this needs no network. A folder named in
    # a .pth file follows the environment's own, and .pth files inside it (the editable install) are not read.
    (installed.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(*uv, "pip", "install", "--python", root / "bin" / "python", "--no-deps", "--no-index", wheel, cwd=cwd)
    return installed


def test_carries_the_package_and_the_migrations_but_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [Path(name) for name in archive.namelist()]
    assert Path("statestore/py.typed") in names
    assert Path("statestore/_migrations/env.py") in names
    assert Path("statestore/_migrations/script.py.mako") in names
    assert Path("statestore/_migrations/in_memory.sql") in names
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


# The release after this one, whose migrations the wheel, which is the old release from then on, does not know.
scripts, add_migration = conftest.scripts, conftest.add_migration
APPEND = """
from statestore import StateStore
with StateStore.open({url!r}) as store:
    store.history.append("s", [{{"role": "user", "content": "Hi"}}], create=True)
    print(store.history.count("s"))
"""


def test_an_old_release_goes_on_with_a_newer_schema_as_long_as_that_only_has_more(
    database_url: str, installation: Installation, add_migration: conftest.AddMigration
) -> None:
    url = database_url
    assert installation.python(APPEND.format(url=url)) == "1\n"

    additive = add_migration(f'\noldest_code = "{HEAD_REVISION}"\n' + conftest.ADD_MORE)
    migrate.upgrade(url)
    assert installation.python(APPEND.format(url=url)) == "2\n"
    assert f"revision {additive}" in installation.statestore("migrate", "up", "--url", url)
    assert f"revision {additive}, which this version may use" in installation.statestore(
        "migrate", "check", "--url", url
    )

    breaking = add_migration(conftest.ADD_COLUMN)
    migrate.upgrade(url)
    assert rows(url, f"SELECT oldest_code FROM {prefix(url)}{VERSION_TABLE}") == [(breaking,)]
    for command in (("migrate", "check"), ("migrate", "up"), ("sessions",)):
        said = installation.statestore(*command, "--url", url, code=1)
        assert f"knows revision {breaking} or a later one; this version knows {HEAD_REVISION}" in said
        assert "First install a newer statestore here" in said
    migrate.downgrade(url, additive)
    assert installation.python(APPEND.format(url=url)) == "3\n"


def test_a_new_release_says_what_to_do_with_an_older_schema(
    empty_database_url: str, installation: Installation
) -> None:
    migrate.upgrade(empty_database_url, "0003")
    said = installation.statestore("sessions", "--url", empty_database_url, code=1)
    assert re.search(
        "before you deploy this version, upgrade the schema( with|, with that URL in STATESTORE_URL): "
        "statestore migrate up",
        said,
    )
