"""Conversations into a store: in batches, each line as a whole or not at all, and again without harm."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import orjson

from statestore.checking import json_files
from statestore.cli.openai_jsonl import Conversation, LineError, SessionId, parse
from statestore.errors import CommitUnknownError, ConflictError, InvalidValueError, NotFoundError, StateStoreError

if TYPE_CHECKING:
    from statestore.store import StateStore, Transaction

# The command says itself what it does: without a handler, stamina's warnings would go to standard error.
logging.getLogger("stamina").addHandler(logging.NullHandler())

# A transaction costs a wait for the disk, however much is in it; beyond this size that no longer shows.
_BATCH_ENTRIES = 500
_BATCH_BYTES = 4 * 1024 * 1024
# A file that starts with so many bad lines, and not one good, is something else.
_HOPELESS = 100

# What is wrong with one conversation; everything else is wrong with the database.
_REFUSED = (ConflictError, InvalidValueError, NotFoundError)


@dataclass(slots=True)
class Totals:
    """What an import has done so far."""

    sessions_new: int = 0
    sessions_extended: int = 0
    sessions_unchanged: int = 0
    entries_added: int = 0
    lines_failed: int = 0

    def add(self, other: "Totals") -> None:
        self.sessions_new += other.sessions_new
        self.sessions_extended += other.sessions_extended
        self.sessions_unchanged += other.sessions_unchanged
        self.entries_added += other.entries_added


class NotConversationsError(Exception):
    """None of the first lines is a conversation."""


class Importer:
    """Writes the conversations of a file as sessions, several in a transaction.

    A session that is there already is compared: equal messages are left alone, further ones are appended, others are a
    conflict. So an import that was cut off, by whatever, is completed by the same import again.
    """

    def __init__(
        self,
        store: "StateStore",
        *,
        session_id: SessionId,
        user_id: str | None = None,
        agent_name: str | None = None,
        report: Callable[[int, str], None],
        progress: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Make an importer into *store*.

        Args:
            store: Where to.
            session_id: How a line's session is called.
            user_id: Whose the sessions are.
            agent_name: Which agent's.
            report: Called with the number of a line that cannot be imported, and the reason.
            progress: Called with a number of bytes that were read.
        """
        from statestore.checking import checks

        checks.optional_key(user_id, "--user-id")
        checks.optional_key(agent_name, "--agent-name")
        self._store = store
        self._session_id = session_id
        self._user_id = user_id
        self._agent_name = agent_name
        self._report = report
        self._progress = progress
        self._good = 0
        self.totals = Totals()

    def run(self, file: BinaryIO) -> Totals:
        """Import every conversation of *file*.

        Raises:
            NotConversationsError: The first hundred lines are all bad. Nothing was written.
            StateStoreError: The database failed. What was committed before stays.
        """
        batch: list[Conversation] = []
        for conversation in self._conversations(file):
            batch.append(conversation)
            entries = sum(len(one.messages) for one in batch)
            if entries >= _BATCH_ENTRIES or sum(one.size for one in batch) >= _BATCH_BYTES:
                self._write(batch)
                batch = []
        self._write(batch)
        return self.totals

    def _conversations(self, file: BinaryIO) -> Iterator[Conversation]:
        for number, line in json_files.lines(file):
            self._progress(len(line))
            if line.isspace():
                continue
            try:
                conversation = parse(number, line, self._session_id)
            except LineError as error:
                self._fail(number, str(error))
                continue
            self._good += 1
            yield conversation

    def _fail(self, number: int, reason: str) -> None:
        self.totals.lines_failed += 1
        self._report(number, reason)
        if not self._good and self.totals.lines_failed >= _HOPELESS:
            raise NotConversationsError

    def _write(self, batch: list[Conversation]) -> None:
        try:
            done = self._commit(batch)
        except _REFUSED as error:
            if len(batch) == 1:
                self._fail(batch[0].line, str(error))
                return
            # Nothing of the batch was kept. One by one, the good ones go in, and the bad ones are found.
            for conversation in batch:
                self._write([conversation])
            return
        self.totals.add(done)

    def _commit(self, batch: list[Conversation]) -> Totals:
        """Write the batch in a transaction, which may be done twice without harm, and so is tried again."""
        import stamina

        done = Totals()
        for attempt in stamina.retry_context(on=_may_pass, attempts=8, timeout=60):
            with attempt, self._store.transaction() as tx:
                done = Totals()
                for conversation in batch:
                    self._write_one(tx, conversation, done)
        return done

    def _write_one(self, tx: "Transaction", conversation: Conversation, done: Totals) -> None:
        session_id, messages = conversation.session_id, conversation.messages
        found = tx.sessions.find(session_id)
        # Compared without append, which would count as a use of the session and move its last activity.
        if found is not None and found.next_seq > len(messages) and _same(tx, conversation):
            done.sessions_unchanged += 1
            return
        session = tx.sessions.open(
            session_id, user_id=self._user_id, agent_name=self._agent_name, metadata=conversation.metadata
        )
        tx.history.append(session_id, messages, after_seq=0)
        added = max(0, len(messages) - session.next_seq + 1)
        done.entries_added += added
        if not session.resumed:
            done.sessions_new += 1
        elif added:
            done.sessions_extended += 1
        else:
            done.sessions_unchanged += 1


def _same(tx: "Transaction", conversation: Conversation) -> bool:
    """Whether the session begins with the messages, key order included, as far as it was not trimmed."""
    messages = conversation.messages
    stored = tx.history.read(conversation.session_id, before=len(messages) + 1)
    return all(orjson.dumps(entry.content) == _dumped(messages[entry.seq - 1]) for entry in stored)


def _dumped(message: dict[str, object]) -> bytes | None:
    try:
        return orjson.dumps(message)
    except TypeError:
        return None  # The store would refuse it, and say why.


def _may_pass(error: Exception) -> bool:
    return isinstance(error, StateStoreError) and (error.retryable or isinstance(error, CommitUnknownError))
