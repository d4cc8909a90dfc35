"""Batches: calls of one operation that wait at the same moment, carried out together as the operation says."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from statestore.engine.calls import Call
from statestore.engine.driver_errors import classify
from statestore.engine.execution import Retryable
from statestore.engine.sql import Link, Settings
from statestore.engine.telemetry import Telemetry, tell_batch
from statestore.errors import StateStoreError


class Item(Protocol):
    """A call in a batch: what is asked on the way in, its result on the way out."""

    size: int
    """In bytes, as far as it counts for others."""
    result: Any
    """None where it was left out."""


I = TypeVar("I", bound=Item)  # noqa: E741


class Batching(ABC, Generic[I]):
    """How calls of an operation travel together. Whatever is not simple goes by itself, and gets its own error."""

    writes: ClassVar[bool]
    room: ClassVar[int]
    """Bytes that fit one batch: what does not goes by itself."""

    @abstractmethod
    def key(self, call: Call, settings: Settings) -> Hashable | None:
        """What the call is about: those with one key keep their order. None where it has to be run by itself."""

    @abstractmethod
    def prepare(self, call: Call, settings: Settings) -> I | None:
        """Check what is asked, before any SQL; None where the call has to be run by itself after all."""

    @abstractmethod
    def run(self, link: Link, items: Sequence[I]) -> None:
        """Carry out all of *items*, in one statement on PostgreSQL, and give each its result."""


class BatchRunner(Protocol):
    """A `Database`, as far as batches are concerned."""

    @property
    def settings(self) -> Settings: ...
    @property
    def telemetry(self) -> Telemetry: ...
    def run_batch(self, work: Callable[[Link], None], until: float) -> None: ...


def carry_out(batching: Batching[Any], database: BatchRunner, calls: Sequence[Call], until: float) -> list[Any]:
    """Do together what can go together; the other calls are left to be run by themselves, and get None."""
    prepared = [batching.prepare(call, database.settings) for call in calls]
    # Behind one that has to go by itself all with its key do, to stay behind it.
    alone: set[Hashable] = set()
    together: list[Item] = []
    room = batching.room
    for index, (call, item) in enumerate(zip(calls, prepared, strict=True)):
        key = batching.key(call, database.settings)
        if item is None or item.size > room or key in alone:
            alone.add(key)
            prepared[index] = None
        else:
            together.append(item)
            room -= item.size
    if together:
        try:
            database.run_batch(lambda link: batching.run(link, together), until)
            database.telemetry.note_batch(calls[0].name, len(together))
        except Exception as exc:
            # Each by itself finds out what is wrong, and with whom. It may have been done and the reply been lost: as
            # at any second try, what is stored already is found.
            refused = isinstance(exc, StateStoreError | Retryable)
            failure = classify(exc)
            _tell(calls, exc.error if isinstance(exc, Retryable) else failure.error if failure else None)
            for call, item in zip(calls, prepared, strict=True):
                if item is not None:
                    item.result = None
                    call.attempt += 1
                    if batching.writes:
                        call.unsettled = not refused and (failure is None or failure.lost)
    return [None if item is None else item.result for item in prepared]


def _tell(calls: Sequence[Call], error: StateStoreError | None) -> None:
    if error is not None:
        tell_batch(calls[0].name, len(calls), error)
