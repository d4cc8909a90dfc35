"""What a store reports about an operation that has ended."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation, as reported by `store.on_operation`. It never contains content, keys, ids or values.

    Attributes:
        name: What was called, such as `history.append`. Work that takes several calls reports each of them:
            `sessions.delete` of a large session is reported several times. A transaction is reported as `transaction`.
        namespace: The namespace of the store.
        duration: How long the caller waited, in seconds, including for connections, locks, retries and the network.
        attempts: How often it was tried. For a `transaction`, how often `run_transaction` called its work.
        rows: How many items were returned or written; None if the operation does not say.
        error: The class of the error that it ended with, such as `ConflictError`; None if it succeeded.
    """

    name: str
    namespace: str
    duration: float
    attempts: int
    rows: int | None
    error: str | None
