"""Calls of operations, and how an operation declares the way it is run."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar

from statestore.engine.sql import Link, Settings
from statestore.values.operations import ModelCall

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
Method = Callable[Concatenate[S, P], R]
ModelCalls: TypeAlias = tuple[str | None, tuple[ModelCall, ...]]
"""A session, and the calls of models that were stored."""


class Mode(Enum):
    """How the database runs an operation, and what a lost reply to its commit means."""

    READ = "read"
    SNAPSHOT = "snapshot"
    """Reads, in a transaction in which all statements see the same moment. At most it extends a TTL."""
    WRITE = "write"
    """In a transaction. Safe to repeat if it is not known whether the commit happened."""
    WRITE_ONCE = "write once"
    """In a transaction. Repeating it could do the work twice, so an unknown commit is reported."""
    SINGLE = "single"
    """One statement on PostgreSQL, without a transaction around it. Safe to repeat."""
    SINGLE_ONCE = "single once"
    """One statement on PostgreSQL. Not safe to repeat."""

    @property
    def repeatable(self) -> bool:
        return self not in (Mode.WRITE_ONCE, Mode.SINGLE_ONCE)

    @property
    def single(self) -> bool:
        return self in (Mode.SINGLE, Mode.SINGLE_ONCE)


READING = (Mode.READ, Mode.SNAPSHOT)
"""Of what needs no right but to read."""


def _declared(method: Method[S, P, R], mode: Mode) -> Method[S, P, R]:
    method.mode = mode  # type: ignore[attr-defined]
    method.repeatable = mode.repeatable  # type: ignore[attr-defined]
    return method


def reads(method: Method[S, P, R]) -> Method[S, P, R]:
    """The operation only reads; at most it extends a TTL. Each statement sees its own snapshot."""
    return _declared(method, Mode.READ)


def reads_snapshot(method: Method[S, P, R]) -> Method[S, P, R]:
    """The operation only reads, and all that it reads is of one moment; not so inside a caller's transaction."""
    return _declared(method, Mode.SNAPSHOT)


def writes(method: Method[S, P, R]) -> Method[S, P, R]:
    """The operation writes, in a transaction, and may be repeated without harm."""
    return _declared(method, Mode.WRITE)


def writes_once(method: Method[S, P, R]) -> Method[S, P, R]:
    """The operation writes, in a transaction, and a repetition could do its work twice."""
    return _declared(method, Mode.WRITE_ONCE)


def writes_in_one_statement(method: Method[S, P, R]) -> Method[S, P, R]:
    """As `writes`, but on PostgreSQL tried first as one statement, without a transaction around it.

    If it finds that it takes more, it calls `_needs_transaction`, and is run again inside one.
    """
    return _declared(method, Mode.SINGLE)


def writes_once_in_one_statement(method: Method[S, P, R]) -> Method[S, P, R]:
    """As `writes_in_one_statement`, for what must not be repeated."""
    return _declared(method, Mode.SINGLE_ONCE)


def in_batches(batching: Batching[Any]) -> Callable[[Method[S, P, R]], Method[S, P, R]]:
    """Calls of the operation that wait at the same moment may be carried out together, as *batching* says."""

    def mark(method: Method[S, P, R]) -> Method[S, P, R]:
        method.batching = batching  # type: ignore[attr-defined]
        return method

    return mark


def reported_as(
    name: str | None = None,
    *,
    rows: Callable[[Any], int | None] | None = None,
    model_calls: Callable[[Call, Any], ModelCalls] | None = None,
) -> Callable[[Method[S, P, R]], Method[S, P, R]]:
    """How hooks and logs hear of the operation, if that does not follow from its declaration.

    *name*: of the work that it is a step of, by default its own in its repository's group. *rows* counts what came back
    or was written in its result, if the type of that does not say. *model_calls* finds the calls of models that it
    has stored, and their session, in the call and its result.
    """

    def mark(method: Method[S, P, R]) -> Method[S, P, R]:
        if name is not None:
            method.name = name  # type: ignore[attr-defined]
        if rows is not None:
            method.rows = rows  # type: ignore[attr-defined]
        if model_calls is not None:
            method.model_calls = model_calls  # type: ignore[attr-defined]
        return method

    return mark


def belongs_to(repository: Callable[[Link, Call], Any], method: Callable[..., Any], group: str) -> None:
    """Note which repository a method is declared in, so that a call of it needs nothing but the method.

    *group* is what its callers find it under.
    """
    method.repository = repository  # type: ignore[attr-defined]
    if not hasattr(method, "name"):
        method.name = f"{group}.{method.__name__}"  # type: ignore[attr-defined]


def mode_of(method: Callable[..., Any]) -> Mode | None:
    """How an operation was declared; None for a method that is not one."""
    found: Mode | None = getattr(method, "mode", None)
    return found


class Call:
    """One call of an operation: what was asked, and what must stay the same if it has to be tried again."""

    __slots__ = (
        "args",
        "attempt",
        "batching",
        "ends_at",
        "given_up",
        "kwargs",
        "memo",
        "method",
        "mode",
        "patience",
        "repeatable",
        "repository",
        "sent",
        "unsettled",
        "watch",
        "watched",
    )

    def __init__(
        self,
        method: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.mode: Mode = method.mode  # type: ignore[attr-defined]
        self.repository: Callable[[Link, Call], Any] = method.repository  # type: ignore[attr-defined]
        self.batching: Batching[Any] | None = getattr(method, "batching", None)
        self.method = method
        # Whether it may be done again if nobody knows whether it was done. An operation may find out that it may not.
        self.repeatable: bool = method.repeatable  # type: ignore[attr-defined]
        self.args = args
        self.kwargs = kwargs or {}
        self.memo: dict[str, Any] = {}
        self.attempt = 1
        self.ends_at = math.inf
        """When it has to have ended, on the monotonic clock."""
        self.patience: float | None = None
        """For what may as well be done later: seconds to wait for SQLite's writer, and then there is no other try."""
        self.sent = False
        """Whether this attempt has sent what the database may do without answering."""
        self.unsettled = False
        """Whether an attempt may have been done, and none has found out since."""
        self.given_up = False
        """Whether its caller has left, and it is not to begin anything more."""
        self.watch: Any = None
        """The use of a connection that it has now."""
        self.watched = False
        """Whether hooks are told when it ends."""

    @property
    def name(self) -> str:
        """What hooks and logs call the operation, such as `history.append`."""
        found: str = self.method.name  # type: ignore[attr-defined]
        return found

    def waits_until(self, usual: float) -> float:
        """Until when it waits for SQLite's writer, if a call does so for *usual* seconds."""
        return min(self.ends_at, time.monotonic() + (usual if self.patience is None else self.patience))

    def __call__(self, link: Link) -> Any:
        return self.method(self.repository(link, self), *self.args, **self.kwargs)


class NamespaceCall(Call):
    """A call for another namespace than the store's. Not for operations that are carried out in batches."""

    __slots__ = ("namespace",)

    def __init__(self, namespace: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(method, args, kwargs)
        self.namespace = namespace

    def __call__(self, link: Link) -> Any:
        with link.within(self.namespace):
            return super().__call__(link)


class Item(Protocol):
    """A call in a batch: what is asked on the way in, its result on the way out."""

    size: int
    """In bytes, as far as it counts for others."""
    result: Any
    """None if it was left out."""


I = TypeVar("I", bound=Item)  # noqa: E741


class Batching(ABC, Generic[I]):
    """How calls of an operation travel together. Whatever is not simple goes by itself, and gets its own error."""

    writes: ClassVar[bool]
    room: ClassVar[int]
    """Bytes that fit one batch: what does not goes by itself."""

    @abstractmethod
    def key(self, call: Call, settings: Settings) -> Hashable | None:
        """What the call is about: those with one key keep their order. None if it has to be run by itself."""

    @abstractmethod
    def prepare(self, call: Call, settings: Settings) -> I | None:
        """Check what is asked, before any SQL; None if the call has to be run by itself after all."""

    @abstractmethod
    def run(self, link: Link, items: Sequence[I]) -> None:
        """Carry out all of *items*, in one statement on PostgreSQL, and give each its result."""
