"""Going through a history, batch by batch."""

from statestore.checking import checks
from statestore.engine.calls import Call
from statestore.engine.flows import Item, Stream
from statestore.errors import InvalidValueError
from statestore.repositories.history.repository import HistoryRepository
from statestore.values.history import Entry

_LARGEST = 10_000


def iterate(session_id: str, batch: int) -> Stream[Entry]:
    """See `History.iterate`."""
    checks.key(session_id, "session_id")
    if checks.count(batch, "batch", least=1) > _LARGEST:
        raise InvalidValueError("batch", f"must be at most {_LARGEST:,}")
    return _iterate(session_id, batch)


def _iterate(session_id: str, batch: int) -> Stream[Entry]:
    after = 0
    while True:
        entries: list[Entry] = yield Call(HistoryRepository.read, (session_id,), {"after": after, "limit": batch})
        for entry in entries:
            yield Item(entry)
        if len(entries) < batch:
            return
        after = entries[-1].seq
