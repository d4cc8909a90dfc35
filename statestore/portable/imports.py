"""The rows of a file, into the tables: some at a time, in one transaction for all or in one for each part."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from statestore.engine.calls import Call, NamespaceCall
from statestore.engine.flows import Flow, run, within
from statestore.errors import ConflictError, DatabaseError, InvalidValueError, SessionExistsError
from statestore.portable.files import Part, Progress, Survey
from statestore.repositories.portable import portable_ledger
from statestore.repositories.portable.portable_rows import PortableWork
from statestore.repositories.portable.portable_values import TABLES, Record
from statestore.store import StateStore, Transaction

# Rows that are written together, of all kinds, and about how many bytes they take at most.
_BATCH = 2000
_ROOM = 8 * 1024 * 1024


@dataclass(slots=True)
class Totals:
    """How much was exported or imported."""

    sessions: int = 0
    segments: int = 0
    entries: int = 0
    state_entries: int = 0
    summaries: int = 0
    usage_lines: int = 0
    lists: int = 0
    list_items: int = 0

    def add(self, kind: str, count: int) -> None:
        name = _TOTALS[kind]
        setattr(self, name, getattr(self, name) + count)

    def include(self, other: "Totals") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def lines(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


_TOTALS = dict(zip(TABLES, (field.name for field in fields(Totals)), strict=True))


class Mark(NamedTuple):
    """Where it is noted that a part of a file is there."""

    namespace: str
    digest: str
    part: int


def parts_left(survey: Survey, progress: Progress, replace: bool, resume: bool) -> Flow[list[tuple[Part, Mark]]]:
    """The parts that are to be imported, each with what is noted when it is."""
    place = survey.namespace, survey.digest
    marked: set[int] = set()
    if not resume:
        yield from forget(survey)
    else:
        marked = yield NamespaceCall(survey.namespace, PortableWork.marked, survey.digest)
        if not marked and not replace and (yield from _is_there(survey)):
            marked = {number for number, _ in enumerate(survey.parts())}
    left = []
    for number, part in enumerate(survey.parts()):
        mark = Mark(*place, number)
        if number not in marked:
            living: Mapping[str, datetime] = {}
            if not replace:
                living = yield NamespaceCall(part.namespace, PortableWork.living, part.session_ids)
            if not living:
                left.append((part, mark))
                continue
            if not (yield from has_come(mark)):
                raise SessionExistsError(min(living), part.namespace)
        progress(part.size)
    return left


def has_come(mark: Mark) -> Flow[bool]:
    """Whether a part is there by now. An import that was killed may have left a process that came to its end."""
    marked: set[int] = yield NamespaceCall(mark.namespace, PortableWork.marked, mark.digest)
    return mark.part in marked


def _is_there(survey: Survey) -> Flow[bool]:
    """Whether all sessions of a file are there, made at the same moments, but for some that may have expired."""
    found = False
    for part in survey.parts():
        there: Mapping[str, datetime] = yield NamespaceCall(part.namespace, PortableWork.living, part.session_ids)
        for session_id in part.session_ids:
            made = survey.made[part.namespace, session_id]
            if there.get(session_id, made.at if made.may_expire else None) != made.at:
                return False
        found |= bool(there)
    return found


def forget(survey: Survey) -> Flow[None]:
    """Forget which parts of a file were imported."""
    yield NamespaceCall(survey.namespace, PortableWork.forget_marks, survey.digest)


def bring_part(store: StateStore, part: Part, *, replace: bool, mark: Mark) -> Totals:
    """Import a part of a file in a transaction of its own, which notes that it is there. Nothing, if it has come."""

    def bring(tx: Transaction) -> Totals:
        return run(tx._runner, insert_part(part, replace=replace, mark=mark))

    try:
        return store.run_transaction(bring)
    except SessionExistsError:
        if not run(store._database, has_come(mark)):
            raise
        return Totals()


def insert_part(part: Part, *, replace: bool, mark: Mark | None = None) -> Flow[Totals]:
    """Insert a part of a file, and note with *mark* that it is there."""
    totals = yield from within(part.namespace, insert(part.namespace, part.records(), replace=replace))
    if mark is not None:
        yield NamespaceCall(mark.namespace, PortableWork.mark, mark.digest, mark.part)
    return totals


def insert(namespace: str, records: Iterable[Record], *, replace: bool) -> Flow[Totals]:
    """Insert checked records into the tables; with *replace*, instead of what is there."""
    totals = Totals()
    sessions: dict[str, str] = {}
    forks: list[str] = []
    parts: dict[str, str] = {}
    taken: dict[str, list[portable_ledger.Line]] = {}
    looked_up: set[str] = set()
    for kind, batch in _batches(records):
        ids = list(dict.fromkeys(record.values["session_id"] for record in batch))
        if kind == "session":
            for living in (yield _call(PortableWork.make_room, ids, replace=replace)):
                raise SessionExistsError(living, namespace)
            sessions |= {record.values["session_id"]: record.where for record in batch}
            parts |= {r.values["session_id"]: r.values["belongs_to"] for r in batch if r.values.get("belongs_to")}
            forks += [r.values["session_id"] for r in batch if r.values.get("parent_session_id") is not None]
        if kind == "usage" or (replace and kind == "session"):
            new = [session_id for session_id in ids if session_id not in looked_up]
            looked_up.update(new)
            if replace:
                taken |= yield _call(PortableWork.take_usage, new)
            else:
                yield from _refuse_recorded(new)
        yield from _insert_batch(kind, batch)
        totals.add(kind, len(batch))
    if strangers := [session_id for session_id, whole in parts.items() if whole not in sessions]:
        yield _call(PortableWork.settle_parts, strangers)
    for session_id, lines in taken.items():
        yield _call(PortableWork.keep_usage, session_id, lines, entries=session_id in sessions)
    if forks and (found := (yield _call(PortableWork.own_ancestor, forks))) is not None:
        raise InvalidValueError(sessions[found], "would be its own ancestor, by way of existing sessions")
    return totals


def _refuse_recorded(session_ids: Sequence[str]) -> Flow[None]:
    """Raise if the usage ledger has lines of one of these sessions."""
    recorded = yield _call(PortableWork.find_usage, session_ids)
    if recorded is not None:
        raise ConflictError(
            f"the usage ledger already has lines of session {recorded!r}; replace them, or import into an empty "
            "namespace",
            session_id=recorded,
        )


def _insert_batch(kind: str, batch: Sequence[Record]) -> Flow[None]:
    try:
        yield _call(PortableWork.insert, kind, batch)
    except DatabaseError as error:
        if type(error) is not DatabaseError:
            raise
        where = batch[0].where if len(batch) == 1 else f"{batch[0].where} to {batch[-1].where}"
        problem = f"was refused by the database ({error.code}): it does not fit the rest; the file is damaged"
        raise InvalidValueError(where, problem) from error


def _call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return Call(method, args, kwargs)


def _batches(records: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Records of one kind at a time, before those that refer to them: so many that few statements write them."""
    held: dict[str, list[Record]] = {kind: [] for kind in TABLES}
    count = size = 0
    for record in records:
        held[record.kind].append(record)
        count += 1
        size += record.size
        if count >= _BATCH or size >= _ROOM:
            yield from ((kind, batch) for kind, batch in held.items() if batch)
            held = {kind: [] for kind in TABLES}
            count = size = 0
    yield from ((kind, batch) for kind, batch in held.items() if batch)
