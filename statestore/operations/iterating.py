"""Going through a history, batch by batch, in both worlds."""

from collections.abc import AsyncIterator, Iterator

from statestore.checking import checks
from statestore.engine.async_database import AsyncRunner
from statestore.engine.calls import Call
from statestore.engine.database import Runner
from statestore.errors import InvalidValueError
from statestore.repositories.history.repository import HistoryRepository
from statestore.values.history import Entry

_LARGEST = 10_000


def iterate(runner: Runner, session_id: str, batch: int) -> Iterator[Entry]:
    """See `History.iterate`."""
    _check(session_id, batch)
    return _iterate(runner, session_id, batch)


def iterate_async(runner: AsyncRunner, session_id: str, batch: int) -> AsyncIterator[Entry]:
    """See `AsyncHistory.iterate`."""
    _check(session_id, batch)
    return _iterate_async(runner, session_id, batch)


def _check(session_id: str, batch: int) -> None:
    checks.key(session_id, "session_id")
    if checks.count(batch, "batch", least=1) > _LARGEST:
        raise InvalidValueError("batch", f"must be at most {_LARGEST:,}")


def _read(session_id: str, after: int, batch: int) -> Call:
    return Call(HistoryRepository.read, (session_id,), {"after": after, "limit": batch})


def _iterate(runner: Runner, session_id: str, batch: int) -> Iterator[Entry]:
    after = 0
    while True:
        entries: list[Entry] = runner.run(_read(session_id, after, batch))
        yield from entries
        if len(entries) < batch:
            return
        after = entries[-1].seq


async def _iterate_async(runner: AsyncRunner, session_id: str, batch: int) -> AsyncIterator[Entry]:
    after = 0
    while True:
        entries: list[Entry] = await runner.run(_read(session_id, after, batch))
        for entry in entries:
            yield entry
        if len(entries) < batch:
            return
        after = entries[-1].seq
