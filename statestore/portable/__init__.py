"""Sessions as a file, and back: JSON Lines that are the same for both databases.

The first line names the format and its version; the last one counts the lines in between, so that a truncated file is
noticed. Between them are all sessions, then for each session its segments, entries, state, summaries and lists, and its
lines of the usage ledger. Where they are of several namespaces, each line says its own. A fork stays a fork: the file
has the entries that it shares with another session of the file only once. Those that it shares with a session outside
the file become its own, marked so that they are not billed again.
"""

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, BinaryIO, TypeAlias

import orjson

from statestore.async_store import AsyncStateStore, AsyncTransaction
from statestore.checking import checks, open_files
from statestore.checking.namespaces import Renaming, chosen, renaming
from statestore.engine.async_database import finished
from statestore.engine.calls import Call, NamespaceCall
from statestore.engine.database import Database
from statestore.engine.flows import Flow, run, run_async
from statestore.engine.threaded_database import ThreadedDatabase
from statestore.errors import InvalidValueError, SessionExistsError, SessionNotFoundError
from statestore.portable import arguments
from statestore.portable.exports import Exported, encoded, write_sessions
from statestore.portable.files import FORMAT, LABELLED, VERSION, Part, Progress, Survey
from statestore.portable.imports import Mark, Totals, bring_part, forget, has_come, insert, insert_part, parts_left
from statestore.portable.jobs import Crew, check_jobs, one_moment, write_by_crew
from statestore.repositories.expiry.namespaces import NamespaceRepository
from statestore.repositories.portable import portable_sessions
from statestore.repositories.portable.portable_checks import Histories
from statestore.repositories.portable.portable_pages import Page, PortablePages
from statestore.store import StateStore
from statestore.values.saved_sessions import SavedSession

Namespaces: TypeAlias = str | Iterable[str] | None


def export_sessions(
    store: StateStore,
    file: BinaryIO,
    *,
    session_ids: Sequence[str] | None = None,
    user_id: str | None = None,
    namespaces: Namespaces = None,
    jobs: int = 1,
    expect: Progress = lambda lines: None,
    progress: Progress = lambda lines: None,
) -> Totals:
    """Write sessions to *file*, all as of one moment; expired ones are left out.

    Rows are read and written in pages of up to 500, so it takes about the same memory for any number of sessions.

    Args:
        store: The store that has them.
        file: Open for writing. It is written from start to end.
        session_ids: Only these, with what belongs to them; by default all of the store's namespace.
        user_id: Only those of this user, with what belongs to them.
        namespaces: Those of these namespaces instead of the store's own: a name, a prefix such as `acme/*`, or a list
            of these; see `sessions.page`. Each line of the file then says its namespace, and an import brings it back
            there.
        jobs: How many processes read and write at once, each on a connection of its own. The file is the same. They
            keep parts of it in the folder for temporary files for a while.
        expect: Called once, before the first entry, with the approximate number of lines to come.
        progress: Called with the number of lines written since the last call.

    Raises:
        SessionNotFoundError: One of the ids has no session, in any of the namespaces.
        InvalidValueError: An argument is invalid. *namespaces* are none; or *jobs* is not between 1 and 64, or other
            processes cannot open the store's database: it is in memory, or the caller's own engine. Nothing was
            written.
    """
    arguments.called(store, twin="export_sessions_async")
    check_jobs(jobs, store._database)
    export = _Export(store.namespace, file, session_ids, user_id, namespaces, expect, progress)
    if jobs > 1:
        return export.by_crew(store._database, jobs)
    with store._database.snapshot() as runner:
        return run(store._database.telemetry.watched(runner), export.flow())


async def export_sessions_async(
    store: AsyncStateStore,
    file: BinaryIO,
    *,
    session_ids: Sequence[str] | None = None,
    user_id: str | None = None,
    namespaces: Namespaces = None,
    jobs: int = 1,
    expect: Progress = lambda lines: None,
    progress: Progress = lambda lines: None,
) -> Totals:
    """As `export_sessions`, awaited. *file* is written, and *expect* and *progress* are called, in worker threads."""
    arguments.awaited(store, twin="export_sessions")
    database = _in_threads(store)
    check_jobs(jobs, database)
    export = _Export(store.namespace, file, session_ids, user_id, namespaces, expect, progress)
    if jobs > 1 and database is not None:
        return await _until_stopped(export.stop, partial(export.by_crew, database, jobs))
    async with store._database.snapshot() as runner:
        return await run_async(store._database.telemetry.watched_async(runner), export.flow(), in_thread=True)


def _in_threads(store: AsyncStateStore) -> Database | None:
    """What an async store calls in threads; None if it is on the caller's own engine."""
    database = store._database
    return database.database if isinstance(database, ThreadedDatabase) else None


async def _until_stopped(stop: threading.Event, work: Callable[[], Totals]) -> Totals:
    """Do *work* in a thread, which looks whether it is to stop."""
    try:
        totals: Totals = await finished(asyncio.to_thread(work), hurry=stop.set)
        return totals
    except _Stopped:
        raise asyncio.CancelledError from None


class _Stopped(Exception):
    """The task that wanted it was cancelled."""


class _Export:
    def __init__(
        self,
        namespace: str,
        file: BinaryIO,
        session_ids: Sequence[str] | None,
        user_id: str | None,
        namespaces: Namespaces,
        expect: Progress,
        progress: Progress,
    ) -> None:
        open_files.to_write(file)
        checks.function(expect, "expect")
        checks.function(progress, "progress")
        self._own = namespace
        self._several = chosen(namespaces)
        self._names = [namespace]
        self._file = file
        self._session_ids = None if session_ids is None else checks.keys(session_ids, "session_ids")
        self._user_id = checks.optional_key(user_id, "user_id")
        # The lines of the ledger, those of sessions that are gone too, come in the end.
        self._everything = session_ids is None and user_id is None
        self._expect = expect
        self._progress = progress
        self._totals = Totals()
        self.stop = threading.Event()

    def flow(self) -> Flow[Totals]:
        with closing(Exported()) as exported:
            yield from self._sessions(exported)
            for namespace, sessions in exported.chunks():
                write = partial(self._write, namespace)
                yield from write_sessions(namespace, sessions, exported, write, usage=not self._everything)
        return (yield from self._end())

    def by_crew(self, database: Database, jobs: int) -> Totals:
        """As `flow`, where other processes write what is behind the sessions."""
        database = database.for_snapshots()
        with (
            tempfile.TemporaryDirectory(prefix="statestore-") as folder,
            closing(Exported(os.path.join(folder, "sessions"))) as exported,
            Crew(database, jobs) as crew,
            one_moment(database, crew) as runner,
        ):
            run(runner, self._sessions(exported))
            how = {"usage": not self._everything, "labelled": self._several is not None}
            write_by_crew(crew, exported, folder, self._file, self._count, how)
            return run(runner, self._end())

    def _sessions(self, exported: Exported) -> Flow[None]:
        if self._several is not None:
            self._names = yield Call(NamespaceRepository.names, (self._several, "export"))
        self._line({"type": "header", "format": FORMAT, "version": VERSION if self._several is None else LABELLED})
        missing = set(self._session_ids or ())
        for name in self._names:
            options: dict[str, Any] = {"session_ids": self._session_ids, "user_id": self._user_id, "after": None}
            while page := (yield NamespaceCall(name, PortablePages.sessions, **options)):
                exported.add(name, page)
                self._write(name, "session", page)
                options["after"] = page[-1]
            missing -= exported.having(name, missing)
        if missing:
            raise SessionNotFoundError(min(missing), str(self._several or self._own))
        self._expect(exported.sessions + exported.entries)

    def _end(self) -> Flow[Totals]:
        for name in self._names if self._everything else ():
            lines: Page | None = yield NamespaceCall(name, PortablePages.all_usage, None)
            while lines is not None and lines.rows:
                self._write(name, "usage", lines.rows)
                after = lines.rows[-1] if lines.more else None
                lines = (yield NamespaceCall(name, PortablePages.all_usage, after)) if after else None
        self._line({"type": "end", "lines": self._totals.lines})
        return self._totals

    def _write(self, namespace: str, kind: str, rows: list[dict[str, Any]]) -> None:
        self._file.write(encoded(kind, rows, None if self._several is None else namespace))
        self._count({kind: len(rows)})

    def _count(self, lines: Mapping[str, int]) -> None:
        if self.stop.is_set():
            raise _Stopped
        for kind, count in lines.items():
            self._totals.add(kind, count)
        self._progress(sum(lines.values()))

    def _line(self, values: dict[str, Any]) -> None:
        self._file.write(orjson.dumps(values) + b"\n")


def import_sessions(
    store: StateStore,
    file: BinaryIO,
    *,
    replace: bool = False,
    resume: bool = False,
    jobs: int = 1,
    rename: Mapping[str, str] | None = None,
    progress: Progress = lambda size: None,
) -> Totals:
    r"""Import the sessions of an exported *file*.

    They come into the store's namespace; those of a file of several namespaces each into the one that it was in,
    whatever the store's is.

    All or none, in one transaction. With *replace*, *resume* or more *jobs* than one, in several short transactions,
    each of which imports some sessions, so that nobody waits long. One that is cut off has imported some of them: the
    same import again completes it, and with *resume* it goes on where it was cut off. A session that belongs to another
    becomes one of its own if that other is neither in the file nor in the store.

    Args:
        store: The store to import into.
        file: Open for reading, compressed by zstd or not. It is read twice: checked as a whole before anything is
            written, then imported.
        replace: Overwrite sessions that exist already, with what belongs to them. Their forks keep what they see, and
            recorded usage that is not in the file stays recorded.
        resume: Leave alone what an import of the same file, with any of these three, has imported before it was cut
            off. The totals do not count it. Where all of it is there already, nothing is written.
        jobs: How many processes import at once, each on a connection of its own.
        rename: Of a file of several namespaces, which of them come into others: names or prefixes, and what takes
            their place, such as `{"acme/*": "copy/*", "bob": "alice"}`, or `{"*": "one"}` for all into one. A name
            comes before a prefix, a longer prefix before a shorter one. `\*` at the end is the character.
        progress: Called with the number of bytes read since the last call.

    Raises:
        SessionExistsError: A session exists already, and *replace* is false. Nothing was written, unless it was made
            while an import in several transactions was under way.
        InvalidValueError: The file was not written by `export_sessions`, is damaged, or ends too early. Nothing was
            written, unless the sessions conflict with others that exist already. Or *rename* is something else, brings
            two sessions of one id into one namespace, or is given for a file of one namespace; or *jobs* is not between
            1 and 64, or other processes cannot open the store's database; or another argument is invalid. Nothing was
            written.
    """
    arguments.called(store, twin="import_sessions_async")
    check_jobs(jobs, store._database)
    renamed = _checked(file, replace, resume, rename, progress)
    totals = Totals()
    with closing(Survey(file, progress, store.namespace, renamed, shared=jobs > 1)) as survey:
        if jobs > 1:
            return _by_crew(store._database, survey, progress, threading.Event(), jobs, replace, resume)
        if replace or resume:
            for part, mark in run(store._database, parts_left(survey, progress, replace, resume)):
                totals.include(bring_part(store, part, replace=replace, mark=mark))
            run(store._database, forget(survey))
            return totals
        with store.transaction() as tx:
            for part in survey.parts():
                totals.include(run(tx._runner, insert_part(part, replace=False)))
    return totals


async def import_sessions_async(
    store: AsyncStateStore,
    file: BinaryIO,
    *,
    replace: bool = False,
    resume: bool = False,
    jobs: int = 1,
    rename: Mapping[str, str] | None = None,
    progress: Progress = lambda size: None,
) -> Totals:
    """As `import_sessions`, awaited. *file* is read, and *progress* is called, in worker threads."""
    arguments.awaited(store, twin="import_sessions")
    database = _in_threads(store)
    check_jobs(jobs, database)
    renamed = _checked(file, replace, resume, rename, progress)
    totals = Totals()
    looking = partial(Survey, file, progress, store.namespace, renamed, shared=jobs > 1)
    with closing(await finished(asyncio.to_thread(looking))) as survey:
        if jobs > 1 and database is not None:
            stop = threading.Event()
            work = partial(_by_crew, database, survey, progress, stop, jobs, replace, resume)
            return await _until_stopped(stop, work)
        if replace or resume:
            left = parts_left(survey, progress, replace, resume)
            for part, mark in await run_async(store._database, left, in_thread=True):

                async def bring(tx: AsyncTransaction, part: Part = part, mark: Mark = mark) -> Totals:
                    return await run_async(tx._runner, insert_part(part, replace=replace, mark=mark), in_thread=True)

                try:
                    totals.include(await store.run_transaction(bring))
                except SessionExistsError:
                    if not await run_async(store._database, has_come(mark), in_thread=True):
                        raise
            await run_async(store._database, forget(survey))
            return totals
        async with store.transaction() as tx:
            for part in survey.parts():
                totals.include(await run_async(tx._runner, insert_part(part, replace=False), in_thread=True))
    return totals


def _checked(file: Any, replace: Any, resume: Any, rename: Any, progress: Any) -> Renaming:
    """What an import is given, all of it before the file is touched. Returns *rename* as it is used."""
    open_files.to_read(file)
    checks.flags(replace=replace, resume=resume)
    checks.function(progress, "progress")
    return renaming(rename)


def _by_crew(
    database: Database,
    survey: Survey,
    progress: Progress,
    stop: threading.Event,
    jobs: int,
    replace: bool,
    resume: bool,
) -> Totals:
    """Import a file by several processes, a part at a time each."""
    totals = Totals()
    left = run(database, parts_left(survey, progress, replace, resume))
    tasks = (
        {"do": "bring", "part": part.tell(), "how": {"replace": replace, "mark": tuple(mark)}} for part, mark in left
    )
    if left:
        with Crew(database, min(jobs, len(left)), files={"file": survey.descriptor}) as crew:
            for done in crew.results(tasks):
                totals.include(Totals(**done["totals"]))
                progress(done["size"])
                if stop.is_set():
                    raise _Stopped
    run(database, forget(survey))
    return totals


def insert_session(store: StateStore, session: SavedSession, *, replace: bool = False) -> Totals:
    """Write a session that another system kept, with all that belongs to it, in one transaction.

    Args:
        store: The store to write to.
        session: The session, as read from the other system.
        replace: Overwrite a session that exists already. See `import_sessions`.

    Raises:
        SessionExistsError: The session exists already, and *replace* is false. Nothing was written.
        InvalidValueError: A value cannot be stored, or values contradict each other; the message begins with the place
            that the value came from. Or an argument is of another kind. Nothing was written.
    """
    arguments.called(store)
    checks.flag(replace, "replace")
    if not isinstance(session, SavedSession):
        raise InvalidValueError("session", f"must be a SavedSession, not {type(session).__name__}")
    records = portable_sessions.records(session)
    histories = Histories(store.namespace)
    for record in records:
        histories.add(record.kind, record.values, record.where)
    histories.check()
    with store.transaction() as tx:
        return run(tx._runner, insert(store.namespace, records, replace=replace))
