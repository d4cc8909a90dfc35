"""Conversations in the shape of OpenAI's chat completions, as sessions: written in batches, safe to repeat.

They come as JSON Lines: one object per line, its `messages` the conversation. The other keys of a line become the
session's metadata. A line is read exactly or refused: a duplicate key, a number that would change or text that is not
Unicode is an error, not a guess.
"""

import hashlib
import json
import string
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from statestore.checking import checks, exactjson
from statestore.errors import CommitUnknownError, ConflictError, InvalidValueError, NotFoundError
from statestore.importers.json_lines import LineError, Source, check_source, lines_of, name_of, parse_line
from statestore.importers.problems import OnProblem, Problems, check_functions, check_store

if TYPE_CHECKING:
    from statestore.store import StateStore, Transaction


@dataclass(frozen=True, slots=True)
class Conversation:
    """A line: the session's id, its history, and its metadata."""

    line: int
    size: int
    session_id: str
    messages: list[dict[str, Any]]
    metadata: dict[str, Any]


class SessionId:
    """The id of a line's session: a template such as `{task_id}-{trial}` over the line's fields.

    The default is a digest of the line's content. Unlike a line number it does not change when the file is renamed,
    sorted, joined with another or read from a pipe. Equal lines become one session.
    """

    def __init__(self, template: str | None = None, *, option: str = "session_id") -> None:
        """Raises ValueError for a template that cannot be used. *option* is what messages call it."""
        self._option = option
        self._parts: list[tuple[str, str | None]] = []
        for text, field, spec, conversion in string.Formatter().parse(template or ""):
            if field == "" or spec or conversion:
                raise ValueError("a field is a name in braces, such as {id}")
            self._parts.append((text, field))
        if template is not None and all(field is None for _, field in self._parts):
            raise ValueError("the template has no field, such as {id}, so all lines would be one session")

    def of(self, record: dict[str, Any]) -> str:
        if not self._parts:
            # A digest of the parsed line: spacing does not matter, but key order does.
            return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:32]
        return "".join(text + ("" if field is None else self._value(record, field)) for text, field in self._parts)

    def _value(self, record: dict[str, Any], field: str) -> str:
        if field not in record:
            raise LineError(f"{self._option} names field {field!r}, which the line does not have")
        value = record[field]
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LineError(f"{self._option} names field {field!r}, which is neither text nor a number")
        return str(value)


def parse(number: int, line: bytes, session_id: SessionId) -> Conversation:
    """The conversation on a line.

    Raises:
        LineError: It is not a conversation.
    """
    record = parse_line(line)
    if not isinstance(record, dict):
        raise LineError("is not a JSON object")
    messages = record.get("messages")
    if not isinstance(messages, list):
        raise LineError("has no list under 'messages'")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise LineError(f"messages[{index}] is not an object with a 'role'")
    try:
        found = session_id.of(record)
    except RecursionError:
        raise LineError("is nested too deeply") from None
    metadata = {key: value for key, value in record.items() if key != "messages"}
    return Conversation(number, len(line), found, messages, metadata)


_TRIES = 8
# Each transaction waits for the disk once, whatever its size; beyond this size the wait is no longer noticeable.
_BATCH_ENTRIES = 500
_BATCH_BYTES = 4 * 1024 * 1024
# A file that starts with this many bad lines and no good one is something else.
_HOPELESS = 100

# Errors of one conversation; all others are errors of the database.
_REFUSED = (ConflictError, InvalidValueError, NotFoundError)


@dataclass(frozen=True, slots=True)
class ConversationsReport:
    """What an import of conversations did."""

    sessions_new: int = 0
    """Sessions that were created."""
    sessions_extended: int = 0
    """Sessions that already existed and got new messages."""
    sessions_unchanged: int = 0
    """Sessions that already had all messages."""
    entries_added: int = 0
    """Messages that were appended, in all sessions."""
    lines_failed: int = 0
    """Lines that were left out; each was reported."""


class NotConversationsError(InvalidValueError):
    """None of the first hundred lines is a conversation. Nothing was written."""


def openai_jsonl(
    store: "StateStore",
    source: Source,
    *,
    session_id: str | SessionId | None = None,
    user_id: str | None = None,
    agent_name: str | None = None,
    progress: Callable[[int], object] | None = None,
    on_problem: OnProblem | None = None,
) -> ConversationsReport:
    """Import conversations from JSON Lines, each line as a session.

    A line is a JSON object. Its `messages`, OpenAI chat messages, become the history and are kept as they are, key
    order included; its other keys become the metadata of a new session.

    If the session already exists, the messages are compared: equal ones are left alone, additional ones are appended,
    and different ones are a problem of the line. Repeating an import therefore changes nothing, and completes one that
    was cut off. Several lines are written in one transaction, each as a whole or not at all. Transactions are retried
    for a minute if the database goes away.

    Args:
        store: The store to import into.
        source: The path of a file, or a file that is open for reading in binary. Lines of up to 128 MiB.
        session_id: A template for the session's id, with fields of the line in braces, such as `{task_id}-{trial}`. By
            default a digest of the line, which suits files whose lines do not change; equal lines become one session.
        user_id: The user that new sessions belong to.
        agent_name: The agent that new sessions belong to.
        progress: Called with the number of bytes that were read since the last call.
        on_problem: Called with each line that is left out as a whole because it is not a conversation, cannot be stored
            exactly, or contradicts its session. The others are imported. If None, the first problem raises.

    Returns:
        How many sessions and entries were written, and how many lines were left out.

    Raises:
        InvalidValueError: An argument cannot be used, or *source* cannot be opened. Nothing was written. Or a line
            cannot be imported, and there is no *on_problem*; the message names the file and the line. Lines before it
            may be in.
        ConflictError: A session's messages differ from its line, and there is no *on_problem*. Lines before it may be
            in.
        NotConversationsError: The first hundred lines are all bad and were reported. Nothing was written.
        DatabaseError: The database failed. What was committed before stays.
    """
    check_store(store)
    check_source(source)
    check_functions(progress=progress, on_problem=on_problem)
    checks.optional_key(user_id, "user_id")
    checks.optional_key(agent_name, "agent_name")
    if not isinstance(session_id, SessionId):
        checks.optional_text(session_id, "session_id")
        try:
            session_id = SessionId(session_id)
        except ValueError as error:
            raise InvalidValueError("session_id", str(error)) from None
    problems = Problems(on_problem)
    writer = BatchWriter(store, name_of(source), problems, user_id=user_id, agent_name=agent_name)
    with closing(_conversations(source, session_id, problems, progress)) as found:
        writer.write_all(found)
    return ConversationsReport(**writer.counts, lines_failed=problems.count)


def _conversations(
    source: Source, session_id: SessionId, problems: Problems, progress: Callable[[int], object] | None
) -> Generator[Conversation, None, None]:
    name = name_of(source)
    good = 0
    with closing(lines_of(source)) as lines:
        for number, line in lines:
            if progress is not None:
                progress(len(line))
            if line.isspace():
                continue
            try:
                conversation = parse(number, line, session_id)
            except LineError as error:
                problems.report(name, str(error), line=number)
                if not good and problems.count >= _HOPELESS:
                    raise NotConversationsError(
                        name, "none of the first lines is a conversation; is it JSON Lines?"
                    ) from None
                continue
            good += 1
            yield conversation


class BatchWriter:
    """Writes conversations as sessions, several in a transaction."""

    def __init__(
        self, store: "StateStore", name: str, problems: Problems, *, user_id: str | None, agent_name: str | None
    ) -> None:
        """Make a writer into *store*, of what comes from the file *name*."""
        self._store = store
        self._name = name
        self._problems = problems
        self._user_id = user_id
        self._agent_name = agent_name
        self.counts: Counter[str] = Counter()
        """What was committed, by the fields of `ConversationsReport`."""

    def write_all(self, conversations: Iterable[Conversation]) -> None:
        batch: list[Conversation] = []
        for conversation in conversations:
            batch.append(conversation)
            entries = sum(len(one.messages) for one in batch)
            if entries >= _BATCH_ENTRIES or sum(one.size for one in batch) >= _BATCH_BYTES:
                self._write(batch)
                batch = []
        self._write(batch)

    def _write(self, batch: list[Conversation]) -> None:
        try:
            done = self._commit(batch)
        except _REFUSED as error:
            if len(batch) == 1:
                self._problems.report(self._name, error, line=batch[0].line)
                return
            # Nothing of the batch was kept. Written one by one, the good ones are stored and the bad ones found.
            for conversation in batch:
                self._write([conversation])
            return
        self.counts += done

    def _commit(self, batch: list[Conversation]) -> Counter[str]:
        """Write the batch in a transaction. It is safe to repeat, also after a commit whose reply was lost."""

        def write(tx: "Transaction") -> Counter[str]:
            done: Counter[str] = Counter()
            for conversation in batch:
                self._write_one(tx, conversation, done)
            return done

        for _ in range(_TRIES - 1):
            with suppress(CommitUnknownError):
                return self._store.run_transaction(write)
        return self._store.run_transaction(write)

    def _write_one(self, tx: "Transaction", conversation: Conversation, done: Counter[str]) -> None:
        session_id, messages = conversation.session_id, conversation.messages
        found = tx.sessions.find(session_id)
        # Compared without append, which would count as a use of the session and update its last activity.
        if found is not None and found.next_seq > len(messages) and _same(tx, conversation):
            done["sessions_unchanged"] += 1
            return
        session = tx.sessions.open(
            session_id, user_id=self._user_id, agent_name=self._agent_name, metadata=conversation.metadata
        )
        tx.history.append(session_id, messages, after_seq=0)
        added = max(0, len(messages) - session.next_seq + 1)
        done["entries_added"] += added
        if not session.resumed:
            done["sessions_new"] += 1
        elif added:
            done["sessions_extended"] += 1
        else:
            done["sessions_unchanged"] += 1


def _same(tx: "Transaction", conversation: Conversation) -> bool:
    """Whether the session begins with the messages, key order included, as far as it was not trimmed."""
    messages = conversation.messages
    stored = tx.history.read(conversation.session_id, before=len(messages) + 1)
    return all(exactjson.text(entry.content) == _dumped(messages[entry.seq - 1]) for entry in stored)


def _dumped(message: dict[str, object]) -> str | None:
    try:
        return exactjson.text(message)
    except (TypeError, ValueError):
        return None  # The store will refuse it and say why.
