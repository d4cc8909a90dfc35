"""The newest part of a history that fits a budget, cut at a point from which a model can continue."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import index

from statestore.checking import checks, messages
from statestore.checking.messages import RESULT_ROLES, Tool
from statestore.engine.calls import reads
from statestore.engine.sql import Link
from statestore.errors import InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.history import entry_reads, summaries
from statestore.values.history import Entry, Summary, Window

Tokenizer = Callable[[str], int]

# Read from the end in growing pieces: a small window should not read too much, nor a large one take many round trips.
_FIRST_CHUNK, _LONGEST_CHUNK = 64, 512
# Larger entries are left out of these pieces, and read one by one if the window reaches them: most of them do not fit.
_LARGE = 64 * 1024
_CHARACTERS_A_TOKEN = 4


def estimate(text: str) -> int:
    """A rough number of tokens in a text: four characters per token."""
    return -(-len(text) // _CHARACTERS_A_TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a window."""

    max_entries: int | None = None
    max_tokens: int | None = None
    tokenizer: Tokenizer | None = None
    keep_system: bool = False
    keep_newest: bool = True
    include_summaries: bool = False

    def check(self) -> "Limits":
        checks.optional_count(self.max_entries, "max_entries")
        checks.optional_count(self.max_tokens, "max_tokens")
        if self.tokenizer is not None and not callable(self.tokenizer):
            raise InvalidValueError("tokenizer", "must be a function from a text to its number of tokens")
        checks.flags(
            keep_system=self.keep_system, keep_newest=self.keep_newest, include_summaries=self.include_summaries
        )
        return self

    def tokens(self, text: str) -> int:
        if self.tokenizer is None:
            return estimate(text)
        tokens = self.tokenizer(text)
        try:
            number = index(tokens)
        except TypeError:
            problem = f"must return a whole number of tokens, not {type(tokens).__name__}"
            raise InvalidValueError("tokenizer", problem) from None
        if not 0 <= number <= checks.MAX_INTEGER:
            raise InvalidValueError("tokenizer", "must return a number of at least 0 that fits 64 bits")
        return number


class WindowsRepository(Repository):
    """The part of a history that is sent to a model."""

    @reads
    def window(
        self,
        session_id: str,
        *,
        max_entries: int | None = None,
        max_tokens: int | None = None,
        tokenizer: Tokenizer | None = None,
        keep_system: bool = False,
        keep_newest: bool = True,
        include_summaries: bool = False,
    ) -> Window:
        """The newest whole turns that fit, oldest first. Extends the session's TTL.

        A tool result never comes without its call, nor a call without its result; a call that has no result yet is
        returned as it is. A result without an id belongs to the nearest earlier call, in its turn and of the tool that
        it names, that has no other result. If not even the newest turn fits, the window has as much of its end as fits,
        starting between two steps of the agent. If not even that fits *max_tokens*, it has the least that can still be
        sent, the last step: `Window.tokens` then exceeds the limit. Reads only as much as it needs, from the end.

        Args:
            session_id: The session.
            max_entries: The largest number of entries.
            max_tokens: The largest number of tokens.
            tokenizer: Counts the tokens of a text: for a message its content and its tool calls, for other content its
                JSON. By default four characters count as one token.
            keep_system: Begin with the session's first entry if its role is `system`, however far back; it counts.
            keep_newest: False for an empty window if not even the last step fits *max_tokens*.
            include_summaries: Put the summaries of entries outside the window into `Window.summaries`. They count
                against *max_tokens*, with their own `token_count` if they have one. If they do not all fit beside the
                newest entries, the oldest are left out.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            InvalidValueError: A limit is not a valid number, or *tokenizer* did not return a whole number.
        """
        checks.key(session_id, "session_id")
        limits = Limits(
            max_entries=max_entries,
            max_tokens=max_tokens,
            tokenizer=tokenizer,
            keep_system=keep_system,
            keep_newest=keep_newest,
            include_summaries=include_summaries,
        ).check()
        return read(self._link, session_id, limits)


def read(link: Link, session_id: str, limits: Limits, *, before: int | None = None) -> Window:
    """The window within *limits*, of the entries before a position."""
    system = _leading_system(link, session_id, before) if limits.keep_system else None
    past = summaries.read(link, session_id) if limits.include_summaries else []
    scan = _Scan(limits, system, past)
    chunk = _FIRST_CHUNK if limits.max_tokens is not None else entry_reads.FAR
    largest = None if limits.max_tokens is None else _LARGE
    while True:
        wanted = chunk if limits.max_entries is None else min(chunk, limits.max_entries - len(scan.entries) + 1)
        entries = entry_reads.read(link, session_id, last=wanted, before=before, largest=largest)
        for entry in reversed(entries):
            whole: Entry | None = entry
            if largest is not None and entry.content_bytes > largest and scan.has_room:
                whole = _whole(link, session_id, entry)
            if whole is None or not scan.take(whole):
                return scan.result()
        if len(entries) < wanted:
            scan.at_start()
            return scan.result()
        before, chunk = entries[0].seq, min(2 * chunk, _LONGEST_CHUNK)


def _whole(link: Link, session_id: str, entry: Entry) -> Entry | None:
    """The entry with its content; None if it has been removed meanwhile."""
    found = entry_reads.read(link, session_id, after=entry.seq - 1, before=entry.seq + 1)
    return found[0] if found and found[0].entry_id == entry.entry_id else None


def _leading_system(link: Link, session_id: str, before: int | None) -> Entry | None:
    first = entry_reads.read(link, session_id, limit=1, before=before)
    return first[0] if first and first[0].role == "system" else None


class _Scan:
    """Goes back through a history and remembers where it can be cut.

    While a result is `_open`, because its call has not been seen yet, a cut would separate the two. So nothing beyond
    what fits has to be read.
    """

    def __init__(self, limits: Limits, system: Entry | None, past: Sequence[Summary]) -> None:
        self.entries: list[Entry] = []
        self._limits = limits
        self._system = system
        self._past = past
        self._past_costs = [*accumulate((self._summary_cost(summary) for summary in past), initial=0)]
        self._costs: dict[int, int] = {}
        self._tokens = 0
        self._open = _Results()
        # How many of the newest entries fit, up to a cut between turns, and between steps within a turn.
        self._turns = self._steps = 0

    @property
    def has_room(self) -> bool:
        """Whether one more entry could be taken."""
        return self._limits.max_entries is None or len(self.entries) < self._limits.max_entries

    def take(self, entry: Entry) -> bool:
        """Go one entry back; false if it does not fit, since nothing further back would fit either."""
        max_entries, max_tokens = self._limits.max_entries, self._limits.max_tokens
        # The system message is in the window anyway, and counts once.
        aside = self._system is not None and entry.seq != self._system.seq
        reserved = self._cost(self._system) if self._system is not None and aside else 0
        if max_entries is not None and len(self.entries) + 1 + aside > max_entries:
            return False
        if max_tokens is not None and self._tokens + self._cost(entry) + reserved > max_tokens:
            return self._must_take(entry)
        self.entries.append(entry)
        self._tokens += self._cost(entry)
        self._open.take(entry)
        # The newest turn has priority over the summaries, and these over the other turns.
        left_out = bisect_left(self._past, entry.seq, key=lambda summary: summary.start_seq)
        needed = self._tokens + reserved + self._past_costs[left_out]
        if not self._open and (not self._turns or max_tokens is None or needed <= max_tokens):
            self._steps = len(self.entries)
            if entry.role == "user":
                self._turns = len(self.entries)
        return True

    def _must_take(self, entry: Entry) -> bool:
        """Go one entry back although it does not fit: so far there is nothing that could be sent."""
        if not self._limits.keep_newest or self._steps or len(self.entries) >= _LONGEST_CHUNK:
            return False
        self.entries.append(entry)
        self._tokens += self._cost(entry)
        self._open.take(entry)
        if not self._open:
            self._steps = len(self.entries)
        return bool(self._open)

    def at_start(self) -> None:
        """The start is reached: entries before the first turn belong to it, except results without a call."""
        if self._open or self._steps == len(self.entries):
            self._turns = self._steps

    def result(self) -> Window:
        size = self._turns or self._steps
        chosen = self.entries[:size][::-1]
        first_seq = chosen[0].seq if chosen else None
        if self._system is not None and first_seq != self._system.seq and self._fits_alone(self._system):
            chosen.insert(0, self._system)
        used = sum(self._cost(entry) for entry in chosen)
        kept: list[Summary] = []
        for summary in reversed(self._past):
            if first_seq is not None and summary.start_seq >= first_seq:
                continue
            cost = self._summary_cost(summary)
            if self._limits.max_tokens is not None and used + cost > self._limits.max_tokens:
                break
            used += cost
            kept.insert(0, summary)
        return Window(chosen, summaries=kept, tokens=None if self._limits.max_tokens is None else used)

    def _fits_alone(self, entry: Entry) -> bool:
        max_tokens = self._limits.max_tokens
        return self._limits.max_entries != 0 and (max_tokens is None or self._cost(entry) <= max_tokens)

    def _cost(self, entry: Entry) -> int:
        if self._limits.max_tokens is None:
            return 0
        if entry.seq not in self._costs:
            self._costs[entry.seq] = self._limits.tokens(messages.text(entry.content))
        return self._costs[entry.seq]

    def _summary_cost(self, summary: Summary) -> int:
        if self._limits.max_tokens is None:
            return 0
        return self._limits.tokens(summary.content) if summary.token_count is None else summary.token_count


class _Results:
    """The results that were seen before the calls that they answer, going from the newest entry to the oldest."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        # Results without an id, by the tool's name if they give it.
        self._others: list[str | None] = []

    def __bool__(self) -> bool:
        return bool(self._ids or self._others)

    def take(self, entry: Entry) -> None:
        """Go back over an entry: match its calls, then remember its results."""
        calls, results = _tools(entry)
        for call in reversed(calls):
            self._find(call)
        if entry.role == "user" and not results:
            # They answer calls of their own turn. If those were not found, they are in an unknown format.
            self._others.clear()
        for result in results:
            if result.call_id is not None:
                self._ids.add(result.call_id)
            else:
                self._others.append(result.name)

    def _find(self, call: Tool) -> None:
        if call.call_id in self._ids:
            self._ids.discard(call.call_id)
        elif call.name in self._others:
            self._others.remove(call.name)
        elif None in self._others:
            self._others.remove(None)
        elif call.name is None and self._others:
            self._others.pop()


def _tools(entry: Entry) -> tuple[list[Tool], list[Tool]]:
    """The tool calls that an entry makes, and those that it answers: by its content, and by its columns."""
    calls, results = messages.tools(entry.content) if isinstance(entry.content, dict) else ([], [])
    known = {tool.call_id for tool in (*calls, *results)}
    of_columns = Tool(entry.tool_call_id, entry.tool_name)
    if entry.role in RESULT_ROLES:
        if entry.tool_call_id is not None and entry.tool_call_id not in known:
            # A result in the content without an id may be the same one.
            results = [of_columns, *(result for result in results if result.call_id is not None)]
        return calls, results or [of_columns]
    if entry.tool_call_id is None:
        untold = entry.tool_name is not None and not known
    else:
        untold = entry.tool_call_id not in known
    return [*calls, of_columns] if untold else calls, results
