"""The demonstration on the user's own conversations: imported, forked in the middle, compared message by message."""

import itertools
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from statestore import migrate
from statestore.checking import json_files
from statestore.cli.failures import Failure
from statestore.cli.narration import Narrator, milliseconds
from statestore.cli.output import counted, visible
from statestore.importers import ConversationsReport, NotConversationsError, Problem, openai_jsonl
from statestore.importers.json_lines import LineError
from statestore.importers.openai_conversations import Conversation, SessionId, parse
from statestore.store import StateStore
from statestore.values.history import Entry
from statestore.values.sessions import Session

_FORK = "demo-fork"
_MESSAGE = {"role": "user", "content": "What if I had asked for something else here?"}


def replay(path: Path, file: str) -> str:
    """Show with *file* on a new database at *path* what statestore does; returns a session to look at."""
    narrator = Narrator()
    click.echo(f"Your conversations, {visible(file)}, go into a new SQLite file, and every message comes back.")

    narrator.title("Make the tables, and open the store")
    with narrator.run(open_store, f"sqlite:///{path}") as store:
        narrator.found(f"{path}: schema at revision {migrate.current(f'sqlite:///{path}')}")

        narrator.title("Import the conversations, each a session")
        totals = _import(narrator, store, file)
        seconds = narrator.seconds
        sessions = store.sessions.count()
        narrator.found(f"{counted(sessions, 'session')} with {counted(_entries(store), 'entry')} in the store")
        narrator.found(f"{milliseconds(seconds)}, {totals.entries_added / seconds:,.0f} entries a second")
        if not sessions:
            raise Failure(f"{file}: contains no conversation")

        narrator.title("Import the same file again: what is already there stays as it is")
        totals = _import(narrator, store, file)
        narrator.found(
            f"{totals.entries_added:,} entries added; {counted(store.sessions.count(), 'session')} in the store"
        )

        source = max(_sessions(store), key=lambda session: session.entry_count)
        middle = source.entry_count // 2
        before = store.history.read(source.session_id)
        narrator.title(f"Fork the longest session, {counted(source.entry_count, 'entry')}, after entry {middle}")
        narrator.run(fork, store, source.session_id, middle)
        narrator.found(f"{milliseconds(narrator.seconds)}; no entry was copied")
        narrator.run(append, store, _FORK)
        forked = store.history.read(_FORK)
        narrator.found(
            f"the fork has {counted(len(forked), 'entry')}, the last one is: {forked[-1].content['content']}"
        )

        narrator.title("The original session is unchanged")
        after = narrator.run(read, store, source.session_id)
        narrator.found(f"read {counted(len(after), 'entry')} in {milliseconds(narrator.seconds)}")
        narrator.expect(after == before, "every entry is as before the fork")
        narrator.expect(_texts(forked[:-1]) == _texts(before[:middle]), f"the fork begins with its first {middle}")

        narrator.title("Compare every message of the file with what the store returns, key order included")
        equal, different = _compare(store, file)
        narrator.found(f"{equal:,} of {equal + different:,} messages are equal")
        if different:
            raise Failure(f"{counted(different, 'message')} came back different")
    return _FORK


def open_store(url: str) -> StateStore:
    migrate.upgrade(url)
    store = StateStore.open(url)
    return store


def fork(store: StateStore, session_id: str, middle: int) -> Session:
    return store.sessions.fork(session_id, _FORK, at_seq=middle)


def append(store: StateStore, session_id: str) -> list[Entry]:
    return store.history.append(session_id, [_MESSAGE])


def read(store: StateStore, session_id: str) -> list[Entry]:
    return store.history.read(session_id)


def _import(narrator: Narrator, store: StateStore, file: str) -> ConversationsReport:
    def say(problem: Problem) -> None:
        click.echo(visible(f"{file}:{problem.line}: {problem.reason}"), err=True)

    narrator.show(f"$ statestore import openai-jsonl {shlex.quote(file)}")
    try:
        return narrator.time(openai_jsonl, store, file, on_problem=say)
    except NotConversationsError:
        raise Failure(f"{file}: none of the first lines is a conversation; is it JSON Lines?") from None


def _sessions(store: StateStore) -> Iterator[Session]:
    cursor = None
    while True:
        page = store.sessions.page(order_by="created_at", cursor=cursor, limit=1000)
        yield from page.sessions
        cursor = page.next_cursor
        if cursor is None:
            return


def _entries(store: StateStore) -> int:
    return sum(session.entry_count for session in _sessions(store))


def _compare(store: StateStore, file: str) -> tuple[int, int]:
    """How many messages of the file the store has exactly, and how many it does not."""
    equal = different = 0
    with open(file, "rb") as lines:
        for conversation in _conversations(json_files.lines(lines)):
            stored = _texts(store.history.read(conversation.session_id))
            for said, kept in itertools.zip_longest(map(json.dumps, conversation.messages), stored):
                equal += said == kept
                different += said != kept
    return equal, different


def _conversations(lines: Iterator[tuple[int, bytes]]) -> Iterator[Conversation]:
    for number, line in lines:
        try:
            yield parse(number, line, SessionId())
        except LineError:
            continue  # Reported by the import.


def _texts(entries: list[Entry]) -> list[str]:
    return [json.dumps(entry.content) for entry in entries]
