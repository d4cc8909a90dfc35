"""A folder of pages to browse: the overview, the lists of sessions, and a page for each conversation."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, tzinfo
from itertools import pairwise
from pathlib import Path
from typing import Any

from statestore.checking import checks
from statestore.reports import conversation_page, names, page, sessions_page, staging
from statestore.reports.conversation_page import Conversation, Linked
from statestore.reports.layout import Place
from statestore.reports.queries import Billed, Descendants, PageQueries, ShownEntry
from statestore.reports.report_data import collect_in
from statestore.reports.sessions_page import Listed
from statestore.repositories.usage.periods import Moment, zone
from statestore.store import StateStore
from statestore.values.sessions import Session

Progress = Callable[[int], None]

SESSIONS_AT_ONCE = 100
"""How many sessions are read together, and how many are on a page of the list."""
_ENTRIES_AT_ONCE = 500
ENTRIES_ON_A_PAGE = 300
_NONE = Descendants(0, [])


@dataclass(slots=True)
class Written:
    """How much was written."""

    sessions: int = 0
    entries: int = 0
    pages: int = 0


def write_folder(
    store: StateStore,
    path: str | os.PathLike[str],
    *,
    since: Moment = None,
    until: Moment = None,
    tz: str | tzinfo = "UTC",
    user_id: str | None = None,
    replace: bool = False,
    expect: Progress = lambda sessions: None,
    progress: Progress = lambda sessions: None,
) -> Written:
    """Write pages to browse: what was used, the sessions, and their conversations, all as of one moment.

    `index.html` is the overview. The pages need no script and no server, and name nothing outside the folder. *path*
    appears when it is complete, and only its owner can read it. A hundred sessions are read at a time, so memory does
    not grow with their number.

    Args:
        store: The store, of whose namespace the report is.
        path: A folder that is not there, or empty.
        since: Only sessions that were used since then, and what was used since then; as for `store.usage`.
        until: Only sessions that were created before, and what was used before.
        tz: The time zone of days and times: a name such as `Europe/Berlin`, or a tzinfo.
        user_id: Only this user's sessions, and what they used. What is stored and due in all, and the cache, are left
            out.
        replace: Replace the report that *path* has.
        expect: Called once, with the number of sessions to come.
        progress: Called with the number of sessions written since the last call.

    Raises:
        InvalidValueError: *path* is in use for something else, or has a report and *replace* is false. Nothing was
            written. Or another process is writing it. Or *user_id* is not the id of a user.
    """
    target = Path(path)
    found = zone(tz)
    checks.optional_key(user_id, "user_id")
    with staging.written(target, replace=replace) as folder, store.transaction(read_only=True) as tx:
        overview = collect_in(tx, store.namespace, since=since, until=until, tz=tz, user_id=user_id)
        queries = PageQueries.of(tx)
        linked = Linked(_instant(since, found), _instant(until, found), ENTRIES_ON_A_PAGE, user_id)
        addresses = {
            name: f"{names.CONVERSATIONS}/{address}"
            for name, label in overview.labels.items()
            if (address := linked.address(label)) is not None
        }
        return _Folder(folder, queries, store.namespace, found, linked, expect, progress).write(
            page.render(overview, place=Place("", "index.html"), addresses=addresses)
        )


def _instant(moment: Moment, tz: tzinfo) -> datetime | None:
    if moment is None:
        return None
    at = moment if isinstance(moment, datetime) else datetime.combine(moment, time(), tz)
    try:
        return at.astimezone(UTC)
    except OverflowError:
        return None


class _Folder:
    def __init__(
        self,
        folder: staging.Folder,
        queries: PageQueries,
        namespace: str,
        tz: tzinfo,
        linked: Linked,
        expect: Progress,
        progress: Progress,
    ) -> None:
        self._folder = folder
        self._queries = queries
        self._namespace = namespace
        self._tz = tz
        between = {"active_since": linked.since, "created_until": linked.until, "user_id": linked.user_id}
        self._between: dict[str, Any] = {name: at for name, at in between.items() if at is not None}
        self._expect = expect
        self._progress = progress
        self._linked = linked
        self._written = Written()

    def write(self, overview: str) -> Written:
        self._expect(self._queries.count(include_parts=True, **self._between))
        self._page("index.html", overview)
        total = self._queries.count(**self._between)
        pages = max(1, -(-total // SESSIONS_AT_ONCE))
        waiting: list[Listed] = []
        number = 1
        for sessions in self._pages_of_sessions():
            waiting += self._conversations(sessions)
            while len(waiting) > SESSIONS_AT_ONCE:
                self._list(waiting[:SESSIONS_AT_ONCE], number, pages, total)
                del waiting[:SESSIONS_AT_ONCE]
                number += 1
        # Sessions may expire meanwhile: a page that others lead to is there all the same.
        for last in range(number, max(pages, number) + 1):
            self._list(waiting, last, max(pages, number), total)
            waiting = []
        return self._written

    def _pages_of_sessions(self) -> Iterator[Sequence[Session]]:
        cursor = None
        while True:
            found = self._queries.page(include_parts=True, limit=SESSIONS_AT_ONCE, cursor=cursor, **self._between)
            yield found.sessions
            cursor = found.next_cursor
            if cursor is None:
                return

    def _list(self, rows: Sequence[Listed], number: int, pages: int, total: int) -> None:
        self._page(
            sessions_page.file_name(number),
            sessions_page.render(rows, page=number, pages=pages, total=total, namespace=self._namespace, tz=self._tz),
        )

    def _conversations(self, sessions: Sequence[Session]) -> Iterator[Listed]:
        """Write the conversations of some sessions: a few statements for all of them together."""
        if not sessions:
            return
        ids = [session.session_id for session in sessions]
        labels, billed = self._queries.labels(ids), self._queries.billed(ids)
        sessions = [session for session in sessions if session.session_id in labels]
        forks, parts = self._queries.forks(ids), self._queries.parts(ids)
        summaries, state = self._queries.summaries(ids), self._queries.state(ids)
        above = {one for session in sessions for one in (session.parent_session_id, session.belongs_to) if one}
        relatives = labels | self._queries.labels(sorted(above - labels.keys()))
        made = {
            session.session_id: Conversation(
                session=session,
                label=labels[session.session_id],
                billed=billed.get(session.session_id, Billed()),
                relatives=relatives,
                forks=forks.get(session.session_id, _NONE),
                parts=parts.get(session.session_id, _NONE),
                summaries=summaries.get(session.session_id, ()),
                state=state.get(session.session_id),
                pages=max(1, -(-session.entry_count // ENTRIES_ON_A_PAGE)),
                linked=self._linked,
            )
            for session in sessions
        }
        for few in _in_batches(sessions):
            self._write_together([made[session.session_id] for session in few])
        for session in sessions:
            self._written.sessions += 1
            if session.belongs_to is None:
                one = made[session.session_id]
                yield Listed(session, one.label, one.billed, one.forks.total, one.parts.total)
        self._progress(len(sessions))

    def _write_together(self, conversations: Sequence[Conversation]) -> None:
        first = conversations[0]
        if first.pages > 1:
            starts = range(first.session.first_seq, first.session.next_seq, ENTRIES_ON_A_PAGE)
            for number, (start, end) in enumerate(pairwise([*starts, first.session.next_seq]), 1):
                found = self._queries.entries([first.session.session_id], after=start - 1, until=end - 1)
                self._conversation(first, found.get(first.session.session_id, ()), number)
            return
        found = self._queries.entries([one.session.session_id for one in conversations])
        for one in conversations:
            self._conversation(one, found.get(one.session.session_id, ()), 1)

    def _conversation(self, one: Conversation, entries: Sequence[ShownEntry], number: int) -> None:
        self._written.entries += len(entries)
        name = names.file_name(one.session.session_id, number)
        text = conversation_page.render(one, entries, page=number, namespace=self._namespace, tz=self._tz)
        self._page(f"{names.CONVERSATIONS}/{name}", text)

    def _page(self, name: str, text: str) -> None:
        self._folder.write(name, text)
        self._written.pages += 1


def _in_batches(sessions: Sequence[Session]) -> Iterator[list[Session]]:
    """Sessions whose entries are read together; one with several pages is by itself."""
    batch: list[Session] = []
    entries = 0
    for session in sessions:
        if session.entry_count > ENTRIES_ON_A_PAGE:
            yield [session]
            continue
        if batch and entries + session.entry_count > _ENTRIES_AT_ONCE:
            yield batch
            batch, entries = [], 0
        batch.append(session)
        entries += session.entry_count
    if batch:
        yield batch
