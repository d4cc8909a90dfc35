"""`statestore show`: a conversation, with what it used and where it was forked."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from statestore.cli import conversation, ids, terminal
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import counted, json_text, session_record, time_text, visible
from statestore.values.history import Entry
from statestore.values.sessions import Lineage, Session, SessionStats

if TYPE_CHECKING:
    from statestore.store import StateStore
    from statestore.values.usage import SessionDescent

_READ_AT_ONCE = 200
_FORKS_SHOWN = 5
_FACT_LINES = 3


@click.command(
    epilog=examples(
        "statestore show user-42 --last 10",
        "statestore show user-42 --json | jq '.entries[].content'",
    )
)
@ids.session_argument
@click.option("--last", type=click.IntRange(0), metavar="N", help="Only the newest N entries.")
@click.option(
    "--full/--fold", default=None, help="Tool calls and results whole, or on a line.  [default: --fold on a terminal]"
)
@click.option("--no-pager", is_flag=True, help="On a terminal: do not page.")
@store_options
@json_option
def show(database: Database, session: str, last: int | None, full: bool | None, no_pager: bool, as_json: bool) -> None:
    """Show a session: its attributes, its state and its conversation, with its forks where they begin.

    On a terminal tool calls and their results take a line each, and PAGER, or else `less`, shows what is longer than
    the screen. Elsewhere everything is printed whole. Control characters are shown as escapes; --json has every entry
    exactly as it was stored. Showing a session with a TTL counts as a use and extends it.
    """
    with database.open() as store:
        found = store.sessions.get(ids.resolve(store, session))
        state = store.state.get_all(found.session_id)
        lineage = store.sessions.lineage(found.session_id)
        entries = _entries(store, found, last)
        if as_json:
            _print_json(found, state, lineage, entries)
            return
        width = terminal.width() if terminal.is_terminal() else None
        fold = terminal.is_terminal() if full is None else not full
        facts = _facts(found, state, lineage, store.sessions.stats(found.session_id))
        forks = _forks(store, found) if lineage.forks else {}
        terminal.paged(_page(facts, entries, forks, width, fold), pager=not no_pager)


def _page(
    facts: Iterator[tuple[str, str]],
    entries: Iterator[Entry],
    forks: Mapping[int, Sequence["SessionDescent"]],
    width: int | None,
    fold: bool,
) -> Iterator[str]:
    for name, value in facts:
        text = visible(value)
        lines = [text] if width is None else list(terminal.wrapped(text, max(20, width - 15)))
        if fold and len(lines) > _FACT_LINES:
            lines = [*lines[:_FACT_LINES], "… --full shows all"]
        for index, line in enumerate(lines):
            yield f"{'' if index else name:<15}{line}"
    before = None
    for entry in entries:
        # A call and its result are shown together.
        if not (fold and entry.role == "tool"):
            yield ""
        if before is None:
            yield from _branches(forks.get(entry.seq - 1, ()), width)
        yield from conversation.render(entry, width=width, fold=fold)
        yield from _branches(forks.get(entry.seq, ()), width)
        before = entry


def _branches(forks: Sequence["SessionDescent"], width: int | None) -> Iterator[str]:
    for fork in forks:
        line = visible(f"    ├─ fork {fork.session_id}, {counted(fork.own_entries, 'entry')} of its own")
        yield click.style(line if width is None else terminal.cut(line, width), fg="magenta")


def _forks(store: "StateStore", session: Session) -> dict[int, list["SessionDescent"]]:
    """The forks of the session, by the last entry that they share with it."""
    found = defaultdict(list)
    for one in store.usage.lineage(root_session_id=session.root_session_id):
        if one.parent_session_id == session.session_id and one.forked_at_seq is not None:
            found[one.forked_at_seq].append(one)
    return found


def _entries(store: "StateStore", session: Session, last: int | None) -> Iterator[Entry]:
    """The entries that the session had when it was read, page by page: a history may be larger than memory."""
    position = session.first_seq if last is None else max(session.first_seq, session.next_seq - last)
    while position < session.next_seq:
        page = store.history.read(session.session_id, after=position - 1, before=session.next_seq, limit=_READ_AT_ONCE)
        if not page:  # Popped or trimmed since.
            return
        yield from page
        position = page[-1].seq + 1


def _print_json(session: Session, state: dict[str, Any], lineage: Lineage, entries: Iterator[Entry]) -> None:
    """One document, written as it is read."""
    head = {"session": session_record(session), "forks": lineage.forks, "state": state, "entries": []}
    click.echo(json_text(head)[:-2], nl=False)
    for index, entry in enumerate(entries):
        click.echo(("," if index else "") + json_text(entry), nl=False)
    click.echo("]}")


def _facts(session: Session, state: dict[str, Any], lineage: Lineage, stats: SessionStats) -> Iterator[tuple[str, str]]:
    yield "session", session.session_id
    for name in ("title", "user_id", "agent_name"):
        if value := getattr(session, name):
            yield name.partition("_")[0], value
    yield "status", session.status
    yield "created", time_text(session.created_at)
    yield "last activity", time_text(session.last_activity_at)
    if session.expires_at is not None:
        yield "expires", time_text(session.expires_at)
    for name in ("project_root", "cwd", "instructions"):
        if value := getattr(session, name):
            yield name.replace("_", " "), value
    if session.belongs_to is not None:
        yield "part of", session.belongs_to
    if session.parent_session_id is not None:
        yield "forked from", f"{session.parent_session_id} at {session.forked_at_seq}"
    if lineage.forks:
        more = ", …" if len(lineage.forks) > _FORKS_SHOWN else ""
        yield "forks", f"{len(lineage.forks)}: {', '.join(lineage.forks[:_FORKS_SHOWN])}{more}"
    if session.metadata:
        yield "metadata", json_text(session.metadata)
    for index, (key, value) in enumerate(state.items()):
        yield "" if index else "state", f"{key} = {json_text(value)}"
    positions = f", {session.first_seq} to {session.next_seq - 1}" if session.entry_count else ""
    yield "history", counted(session.entry_count, "entry") + positions
    if used := _used(stats):
        yield "used", used


def _used(stats: SessionStats) -> str:
    calls = sum(stats.tool_invocations.values())
    return " · ".join(
        filter(
            None,
            (
                conversation.tokens_text(stats.usage),
                "" if stats.cost_usd is None else conversation.cost_text(stats.cost_usd),
                counted(calls, "tool call") if calls else "",
                counted(stats.errors, "error") if stats.errors else "",
            ),
        )
    )
