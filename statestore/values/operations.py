"""What a store reports about an operation that has ended."""

from dataclasses import dataclass, field
from datetime import timedelta

from statestore.values.history import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """A call of a model that an operation has stored, without what was said.

    Attributes:
        usage: The tokens, as far as they are known.
        provider_name: Who ran the model.
        request_model: The model that was requested.
        response_model: The model that answered.
        duration: How long the call took.
    """

    usage: Usage
    provider_name: str | None = None
    request_model: str | None = None
    response_model: str | None = None
    duration: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a namespace has, for metrics: sessions by status, and by kind how much is due, and for how many seconds."""

    sessions: dict[str, int]
    backlog: dict[str, int]
    lag: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation, as reported by `store.on_operation`. It never contains content, keys or values.

    Attributes:
        name: What was called, such as `history.append`. Work that takes several calls reports each of them:
            `sessions.delete` of a large session is reported several times. A transaction is reported as `transaction`.
        namespace: The namespace of the store.
        duration: How long the caller waited, in seconds, including for connections, locks, retries and the network.
        attempts: How often it was tried. For a `transaction`, how often `run_transaction` called its work.
        rows: How many items were returned or written; None if the operation does not say.
        error: The class of the error that it ended with, such as `ConflictError`; None if it succeeded.
        session_id: The session, if calls of models were stored; else None. Not shown by `repr`.
        model_calls: The calls of models that were stored, by `history.append`, `turn.commit` and `usage.record`; a
            repeated call that found them stored already reports them again. Not shown by `repr`.
    """

    name: str
    namespace: str
    duration: float
    attempts: int
    rows: int | None
    error: str | None
    session_id: str | None = field(default=None, repr=False)
    model_calls: tuple[ModelCall, ...] = field(default=(), repr=False)
