"""What a store tells of an operation that has ended."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation, as `store.on_operation` tells of it. It never holds content, keys, ids or values.

    Attributes:
        name: What was called, such as `history.append`. Work that takes several calls tells of each of them:
            `sessions.delete` of a large session comes several times. A transaction tells of itself as `transaction`.
        namespace: The store's.
        duration: How long the caller waited, in seconds: for connections, locks, other tries and the network, too.
        attempts: How often it was tried. Of a `transaction`, how often `run_transaction` called its work.
        rows: How many items came back or were written; None where the operation does not say.
        error: The class of the error that it ended with, such as `ConflictError`; None if it ended well.
    """

    name: str
    namespace: str
    duration: float
    attempts: int
    rows: int | None
    error: str | None
