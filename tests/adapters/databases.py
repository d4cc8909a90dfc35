"""Fresh databases for test suites of other projects, which know nothing of our fixtures."""

import atexit
import itertools
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from statestore.migrate import upgrade
from tests.postgres import start_server

KIND = "STATESTORE_SUITE_DATABASE"


class Databases:
    """A new database with the schema at each call: a copy of a template, on the kind that the environment names."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        atexit.register(self._stack.close)
        self._numbers = itertools.count()
        self._template: str | None = None
        if os.environ.get(KIND, "sqlite") == "postgresql":
            self._server = self._stack.enter_context(start_server())
            self.fresh = self._fresh_on_server
        else:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            self.fresh = self._fresh_file

    def _fresh_file(self) -> str:
        if self._template is None:
            self._template = str(self._folder / "template.db")
            upgrade(f"sqlite:///{self._template}")
        path = shutil.copyfile(self._template, self._folder / f"{next(self._numbers)}.db")
        return f"sqlite:///{path}"

    def _fresh_on_server(self) -> str:
        if self._template is None:
            self._template = self._stack.enter_context(self._server.database())
            upgrade(self._server.url(self._template))
        name = self._stack.enter_context(self._server.database(template=self._template))
        return self._server.url(name)
