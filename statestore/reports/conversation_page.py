"""The page of a conversation: its turns, with tools folded, what each used, and where its forks branch off."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from itertools import groupby

from statestore.checking import exactjson
from statestore.reports import figures, messages, names
from statestore.reports.layout import Html, Place, document, escape_text, figures_list, link, panel, shortened
from statestore.reports.messages import Piece
from statestore.reports.queries import Billed, Descendants, Label, ShownEntry, ShownState, ShownSummary
from statestore.reports.text import escape
from statestore.values.history import Entry
from statestore.values.sessions import Session

# So many characters of one piece are shown.
_LONGEST = 20_000
_ROLES = {"user": "User", "assistant": "Assistant", "tool": "Tool", "system": "System", "developer": "Developer"}
_ANOTHERS = "not of this user"
_NO_FORKS = Descendants(0, [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A session, and what its pages say besides its entries."""

    session: Session
    label: Label
    billed: Billed
    relatives: Mapping[str, Label]
    """Where it was forked from, and what it belongs to, if that is still there."""
    forks: Descendants = _NO_FORKS
    parts: Descendants = _NO_FORKS
    summaries: Sequence[ShownSummary] = ()
    state: ShownState | None = None
    pages: int = 1
    linked: "Linked"

    @property
    def shared_until(self) -> int:
        """The last position that it may share with the session that it was forked from."""
        return self.session.forked_at_seq or 0


@dataclass(frozen=True, slots=True)
class Linked:
    """Which sessions have pages in the folder: those that were used *since*, and created before *until*, of a user."""

    since: datetime | None
    until: datetime | None
    entries_on_a_page: int
    user_id: str | None = None

    def address(self, label: Label, *, at: int | None = None) -> str | None:
        """The page of a session, or where a position is on its pages; None if it has none here."""
        if self.since is not None and label.last_activity_at < self.since:
            return None
        if self.until is not None and label.created_at >= self.until:
            return None
        if self.user_id is not None and label.user_id != self.user_id:
            return None
        if at is None:
            return names.file_name(label.session_id)
        page = max(at - label.first_seq, 0) // self.entries_on_a_page + 1
        return f"{names.file_name(label.session_id, page)}#e{at}"


@dataclass(slots=True)
class _Sums:
    input_tokens: int = 0
    cached: int = 0
    output_tokens: int = 0
    cost: float | None = None
    unpriced: int = 0
    errors: int = 0
    seconds: float = 0.0
    models: dict[str, None] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        usage = entry.usage
        self.input_tokens += usage.input_tokens or 0
        self.cached += usage.cache_read_input_tokens or 0
        self.output_tokens += usage.output_tokens or 0
        if entry.cost_usd is not None:
            self.cost = (self.cost or 0.0) + float(entry.cost_usd)
        elif usage.input_tokens is not None or usage.output_tokens is not None:
            self.unpriced += 1
        self.errors += entry.error_type is not None
        if entry.duration is not None:
            self.seconds += entry.duration.total_seconds()


def render(found: Conversation, entries: Sequence[ShownEntry], *, page: int, namespace: str, tz: tzinfo) -> str:
    """One page of a conversation, as HTML."""
    title = names.title_of(found.label)
    writer = _Writer(found, tz)
    body = "".join(
        (
            f'<nav class="crumbs" aria-label="Where this is">{link("../index.html", "Overview")} / '
            f"{link('../sessions.html', 'Sessions')} / {escape(shortened(title, 60))}</nav>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="when">{escape(_when(found.session, tz))}</p>',
            *(writer.about() if page == 1 else ()),
            _pages(found, page),
            *writer.history(entries),
            '<p class="none">no entries</p>' if not entries else "",
            _pages(found, page),
        )
    )
    number = f", page {page}" if found.pages > 1 else ""
    return document(
        f"{title}{number} · {namespace}",
        body,
        namespace=namespace,
        place=Place("../"),
        footer="Tokens and cost of a turn are those of its entries, whoever they were billed to. Tool calls are "
        "folded; open them with a click or the Enter key.",
        conversation=True,
    )


def _when(session: Session, tz: tzinfo) -> str:
    created, active = session.created_at.astimezone(tz), session.last_activity_at.astimezone(tz)
    until = f"{active:%H:%M}" if created.date() == active.date() else f"{active:%Y-%m-%d %H:%M}"
    return f"{created:%Y-%m-%d %H:%M} to {until} · {figures.counted(session.entry_count, 'entry')}"


def _pages(found: Conversation, page: int) -> str:
    if found.pages == 1:
        return ""
    return pager([names.file_name(found.session.session_id, number + 1) for number in range(found.pages)], page, "part")


def pager(addresses: Sequence[str], page: int, what: str) -> str:
    """Links to the first, the previous, the next and the last of several pages."""

    def to(number: int, text: str) -> str:
        if number == page or not 1 <= number <= len(addresses):
            return f'<span class="off">{text}</span>'
        return link(addresses[number - 1], text)

    return (
        f'<nav class="pages" aria-label="Pages">{to(1, "First")}{to(page - 1, "Previous")}'
        f"<span>{what} {page:,} of {len(addresses):,}</span>{to(page + 1, 'Next')}{to(len(addresses), 'Last')}</nav>"
    )


class _Writer:
    def __init__(self, found: Conversation, tz: tzinfo) -> None:
        self._found = found
        self._session = found.session
        self._tz = tz
        self._forks: dict[int, list[Label]] = {}
        for fork in found.forks.labels:
            self._forks.setdefault(fork.forked_at_seq or 0, []).append(fork)

    def about(self) -> Iterator[str]:
        """What there is to know of the session before its first entry."""
        session, billed = self._session, self._found.billed
        facts: list[tuple[str, str | Html | None]] = [
            ("Session", Html(f"<code>{escape(session.session_id)}</code>")),
            ("User", session.user_id),
            ("Agent", session.agent_name),
            ("Project", session.project_root),
            ("Directory", session.cwd if session.cwd != session.project_root else None),
            ("Status", session.status),
            ("Expires", self._minute(session.expires_at)),
            ("Forked from", self._origin()),
            ("Part of", self._whole()),
        ]  # fmt: skip
        shown = "".join(
            f"<dt>{name}</dt><dd>{value if isinstance(value, Html) else escape(value)}</dd>"
            for name, value in facts
            if value
        )
        yield f'<dl class="facts">{shown}</dl>'
        cached = billed.cache_read_input_tokens
        calls = (
            f"{figures.counted(billed.model_calls, 'model call')}, {figures.counted(billed.tool_calls, 'tool call')}"
        )
        shared = "without what it shares" if session.forked_at_seq else ""
        unpriced = f"without {figures.counted(billed.unpriced_calls, 'unpriced call')}" if billed.unpriced_calls else ""
        share = f"{figures.percent(cached / billed.input_tokens)} cached" if cached and billed.input_tokens else ""
        yield figures_list(
            [
                ("cost", figures.money(billed.cost_usd), unpriced or shared),
                ("input tokens", figures.short(billed.input_tokens), share),
                ("cached input", figures.short(cached), ""),
                ("output tokens", figures.short(billed.output_tokens), shared),
                ("turns", figures.whole(billed.turns), calls),
                ("errors", figures.whole(billed.errors), ""),
            ]
        )
        yield self._list("Parts of this session", self._found.parts)
        yield self._list("Forks", self._found.forks)
        if session.instructions:
            yield _folded("Instructions", f'<div class="said">{_cut(session.instructions)}</div>')
        if session.metadata:
            yield _folded("Metadata", f'<pre tabindex="0">{_cut(messages.as_json(session.metadata))}</pre>')
        if (state := self._found.state) is not None:
            values = "".join(f"<h3>{escape(key)}</h3>{_value(value, whole)}" for key, value, whole in state.values)
            more = state.total - len(state.values)
            rest = f'<p class="note">and {figures.counted(more, "more key")}</p>' if more else ""
            yield _folded(f"State, {figures.counted(state.total, 'key')}", values + rest)
        for summary in self._found.summaries:
            yield _folded(
                f"Summary of {summary.start_seq:,} to {summary.end_seq:,}",
                f'<div class="said">{_cut(summary.content)}</div>',
            )

    def _minute(self, moment: datetime | None) -> str | None:
        return None if moment is None else f"{moment.astimezone(self._tz):%Y-%m-%d %H:%M}"

    def _origin(self) -> Html | None:
        session = self._session
        if session.parent_session_id is None:
            return None
        at = session.forked_at_seq or 0
        parent = self._found.relatives.get(session.parent_session_id)
        after = f" after entry {at:,}" if at else " at its beginning"
        if parent is None:
            return Html(f"<code>{escape(session.parent_session_id)}</code>{after}, no longer there")
        return Html(self._to(parent, at=at or None) + after)

    def _whole(self) -> Html | None:
        whole = self._session.belongs_to
        if whole is None:
            return None
        label = self._found.relatives.get(whole)
        return Html(f"<code>{escape(whole)}</code>") if label is None else self._to(label)

    def _to(self, label: Label, *, at: int | None = None) -> Html:
        address = self._found.linked.address(label, at=at)
        if address is not None:
            return link(address, self._name(label))
        return Html(f"{escape(self._name(label))}, {'outside this period' if self._is_shown(label) else _ANOTHERS}")

    def _name(self, label: Label) -> str:
        """What a session is called; of another user it is not said here what it was about."""
        return names.title_of(label) if self._is_shown(label) else label.session_id

    def _is_shown(self, label: Label) -> bool:
        return self._found.linked.user_id in (None, label.user_id)

    def _list(self, title: str, found: Descendants) -> str:
        if not found.total:
            return ""
        items = []
        for one in found.labels:
            at = f' <span class="sub">after entry {one.forked_at_seq:,}</span>' if one.forked_at_seq is not None else ""
            agent = f' <span class="tag plain">{escape(one.agent_name)}</span>' if one.agent_name else ""
            items.append(f"<li>{self._to(one)}{agent}{at}</li>")
        more = found.total - len(found.labels)
        if more:
            items.append(f'<li class="sub">and {more:,} more, each of which leads here</li>')
        content = f'<ul class="links">{"".join(items)}</ul>'
        if len(items) > 12:
            content = f'<details class="data"><summary>show all {found.total:,}</summary>{content}</details>'
        return panel(title, content).replace('class="panel"', 'class="panel apart"', 1)

    def history(self, entries: Sequence[ShownEntry]) -> Iterator[str]:
        """The entries by turn; those that a fork shares with its source are folded."""
        at = self._found.shared_until
        shared = [one for one in entries if one.entry.seq <= at]
        own = entries[len(shared) :]
        for fork in self._forks.get(0, ()):
            yield self._branch(fork)
        if shared:
            source = self._found.relatives.get(self._session.parent_session_id or "")
            name = f" with “{escape(self._name(source))}”" if source is not None else ""
            count = figures.counted(len(shared), "entry")
            yield f'<details class="shared"{"" if own else " open"}><summary>{count} shared{name}</summary>'
            yield from self._turns(shared)
            yield "</details>"
        yield from self._turns(own)

    def _turns(self, entries: Sequence[ShownEntry]) -> Iterator[str]:
        for turn, group in groupby(entries, key=lambda one: one.entry.turn):
            yield from self._turn(turn, list(group))

    def _turn(self, turn: int, entries: Sequence[ShownEntry]) -> Iterator[str]:
        sums = _Sums()
        for one in entries:
            sums.add(one.entry)
        name = f"Turn {turn:,}" if turn else "Before the first turn"
        said = "".join(f"<span>{escape(text)}</span>" for text in _used(sums))
        yield f'<section class="turn"><h2>{name}{said}</h2>'
        parts = [(one.entry, messages.pieces(one.entry, one.beginning)) for one in entries]
        calls = {piece.call_id for _, pieces in parts for piece in pieces if piece.kind == "call" and piece.call_id}
        results: dict[str | None, tuple[Entry, Piece]] = {
            piece.call_id: (entry, piece)
            for entry, pieces in parts
            for piece in pieces
            if piece.kind == "result" and piece.call_id in calls
        }
        for entry, pieces in parts:
            left = [piece for piece in pieces if piece.kind != "result" or piece.call_id not in results]
            if left or not pieces:
                yield self._entry(entry, left, results)
            for fork in self._forks.get(entry.seq, ()):
                yield self._branch(fork)
        yield "</section>"

    def _entry(self, entry: Entry, pieces: Sequence[Piece], results: Mapping[str | None, tuple[Entry, Piece]]) -> str:
        kind = "user" if entry.role == "user" else "quiet" if entry.role in ("system", "developer", None) else "other"
        who = _ROLES.get(entry.role or "", entry.role or "No role")
        facts = "".join(f"<span>{escape(text)}</span>" for text in self._facts(entry))
        error = f'<span class="tag bad">{escape(entry.error_type)}</span>' if entry.error_type else ""
        shown = "".join(self._piece(piece, results) for piece in pieces)
        return (
            f'<article class="entry {kind}" id="e{entry.seq}"><header><b>{escape(who)}</b>{facts}{error}'
            f'<a href="#e{entry.seq}" aria-label="Entry {entry.seq}">#{entry.seq}</a></header>{shown}</article>'
        )

    def _facts(self, entry: Entry) -> Iterator[str]:
        if entry.agent_name:
            yield entry.agent_name
        model = entry.response_model or entry.request_model
        if model:
            yield model
        yield from _tokens(entry)
        if entry.cost_usd is not None:
            yield figures.money(entry.cost_usd)
        if entry.duration is not None:
            yield figures.duration(entry.duration)
        yield f"{entry.created_at.astimezone(self._tz):%Y-%m-%d %H:%M:%S}"

    def _piece(self, piece: Piece, results: Mapping[str | None, tuple[Entry, Piece]]) -> str:
        if piece.kind == "text":
            return f'<div class="said">{_cut(piece.text)}</div>'
        if piece.kind == "thinking":
            return _tool("Thinking", shortened(piece.text, 80), f'<div class="said">{_cut(piece.text)}</div>')
        if piece.kind == "media":
            return f'<span class="tag plain">{escape(piece.text)}, not shown</span>'
        if piece.kind == "data":
            return f'<pre tabindex="0">{_cut(piece.text)}</pre>'
        if piece.kind == "cut":
            return f'<pre tabindex="0">{_cut(piece.text)}…</pre><p class="note">Too large to be shown in full.</p>'
        if piece.kind == "result":
            return _tool(
                f"Result of {piece.name or 'a tool'}", shortened(piece.text, 100), _block(piece.text), piece.failed
            )
        return self._call(piece, results.get(piece.call_id) if piece.call_id else None)

    def _call(self, call: Piece, answer: tuple[Entry, Piece] | None) -> str:
        inside = f"<h3>Arguments</h3>{_block(call.text)}" if call.text else ""
        if answer is None:
            return _tool(call.name or "tool", shortened(call.text, 100), inside + '<p class="note">no result</p>')
        entry, result = answer
        took = "" if entry.duration is None else f", {figures.duration(entry.duration)}"
        error = f" {entry.error_type}" if entry.error_type else ""
        inside += f"<h3>Result, entry {entry.seq:,}{took}{escape(error)}</h3>{_block(result.text)}"
        return _tool(
            call.name or "tool", shortened(call.text, 100), inside, result.failed, anchor=f"e{entry.seq}", took=took[2:]
        )

    def _branch(self, fork: Label) -> str:
        return f'<p class="branch">Forked here: {self._to(fork)}</p>'


def _tool(
    name: str, preview: str, inside: str, failed: bool = False, *, anchor: str | None = None, took: str = ""
) -> str:
    """A tool call, or what else is folded."""
    tag = ' <span class="tag bad">failed</span>' if failed else ""
    place = f' id="{anchor}"' if anchor else ""
    time = f' <span class="tag plain">{escape(took)}</span>' if took else ""
    return (
        f'<details class="tool"{place}><summary><b>{escape(shortened(name, 60))}</b>{tag}{time} '
        f"<code>{escape(preview)}</code></summary><div>{inside}</div></details>"
    )


def _folded(name: str, inside: str) -> str:
    return f'<details class="tool"><summary><b>{name}</b></summary><div>{inside}</div></details>'


def _block(text: str) -> str:
    return f'<pre tabindex="0">{_cut(text)}</pre>' if text else '<p class="note">empty</p>'


def _value(value: str, whole: bool) -> str:
    if whole:
        return f'<pre tabindex="0">{_cut(messages.as_json(exactjson.loads(value)))}</pre>'
    return f'<pre tabindex="0">{_cut(value.strip())}…</pre><p class="note">Too large to be shown in full.</p>'


def _cut(text: str) -> str:
    if len(text) <= _LONGEST:
        return escape_text(text)
    return f'{escape_text(text[:_LONGEST])}<span class="sub">… and {len(text) - _LONGEST:,} more characters</span>'


def _tokens(entry: Entry) -> Iterator[str]:
    usage = entry.usage
    if usage.input_tokens is not None:
        cached = f", {figures.short(usage.cache_read_input_tokens)} cached" if usage.cache_read_input_tokens else ""
        yield f"{figures.short(usage.input_tokens)} in{cached}"
    if usage.output_tokens is not None:
        yield f"{figures.short(usage.output_tokens)} out"


def _used(sums: _Sums) -> Iterator[str]:
    """What a turn used."""
    if sums.input_tokens or sums.output_tokens:
        cached = f" ({figures.short(sums.cached)} cached)" if sums.cached else ""
        yield f"{figures.short(sums.input_tokens)} in{cached}, {figures.short(sums.output_tokens)} out"
    if sums.cost is not None:
        yield figures.money(sums.cost)
    if sums.unpriced:
        yield f"{sums.unpriced:,} unpriced"
    if sums.seconds:
        yield f"{sums.seconds:.1f} s"
    if sums.errors:
        yield figures.counted(sums.errors, "error")
