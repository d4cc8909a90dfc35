"""strands' own tests of its session managers, on our repository: a plugin of pytest."""

import functools
from collections.abc import Iterator

import pytest
from strands.session.repository_session_manager import RepositorySessionManager

from statestore.adapters.strands import StatestoreSessionRepository
from tests.adapters.databases import Databases

_FILES = "tests/strands/session/test_file_session_manager.py"
PATHS = [_FILES, "tests/strands/session/test_repository_session_manager.py"]
# Their conftest wants the whole of AWS; what is run here asks for nothing of it.
OPTIONS = ["--import-mode=importlib", "--noconftest"]

_LOOKS_AT_FILES = "looks at the files of the FileSessionManager"
LEFT_OUT = {
    f"{_FILES}::{test}": _LOOKS_AT_FILES
    for test in (
        "test_create_session",
        "test_delete_session",
        "test_create_agent",
        "test_create_message",
        "test_message_durable_id_persists",
        "test_corrupted_json_file",
        "test_permission_error_handling",
        "test__get_session_path_invalid_session_id",
        "test__get_agent_path_invalid_agent_id",
        "test__get_message_path_invalid_message_id",
        "test_create_multi_agent",
        "test_create_session_multi_agent_directory_structure",
    )
}

_databases = Databases()
_url = functools.cache(lambda folder: _databases.fresh())
_made: list[StatestoreSessionRepository] = []


class _Repository(StatestoreSessionRepository):
    """On a database of its own."""

    def __init__(self) -> None:
        super().__init__(_databases.fresh())
        _made.append(self)


class _Manager(RepositorySessionManager, StatestoreSessionRepository):
    """Made as a FileSessionManager is: a session manager that is its own repository."""

    def __init__(self, session_id: str, storage_dir: str) -> None:
        StatestoreSessionRepository.__init__(self, _url(storage_dir))
        RepositorySessionManager.__init__(self, session_id, self)
        _made.append(self)


@pytest.fixture(autouse=True)
def _ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our classes in place of theirs, under the names by which the tests have imported them."""
    monkeypatch.setattr(request.module, "FileSessionManager", _Manager)
    monkeypatch.setattr(request.module, "MockedSessionRepository", _Repository, raising=False)
    yield
    while _made:
        _made.pop().close()
