"""`statestore tree`: a session, what it was forked from, and what was forked from it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from statestore.cli import ids, terminal
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import counted, display_width, json_text, pad, visible

if TYPE_CHECKING:
    from statestore.values.usage import SessionDescent

_AT_ONCE = 500
_FACTS = 34
"""How many columns of a terminal are left to what is said of a session."""


@dataclass(frozen=True, slots=True)
class _Line:
    drawn: str
    session_id: str
    facts: str


@click.command(epilog=examples("statestore tree user-42", "statestore tree user-42 --json | jq -r .session_id"))
@ids.session_argument
@store_options
@json_option
def tree(database: Database, session: str, as_json: bool) -> None:
    """Draw the family of SESSION: what it was forked from, and all that was forked from there, each at its entry.

    A `*` marks SESSION. Forks of a deleted session come first, with its id if they name it. With --json
    each session is a line. No TTL is extended.
    """
    # A read-only transaction is one moment, and extends no TTL.
    with database.open() as store, store.transaction(read_only=True) as tx:
        session_id = ids.resolve(tx, session)
        root = tx.sessions.lineage(session_id).root_session_id
        family = tx.usage.lineage(root_session_id=root)
        known = [one.session_id for one in family]
        titles: dict[str, str] = {}
        for first in range(0, len(known), _AT_ONCE):
            found = tx.sessions.load_many(known[first : first + _AT_ONCE])
            titles |= {one.session_id: one.title or "" for one in found.values()}
    if as_json:
        for one in family:
            click.echo(json_text(_record(one, titles)))
        return
    living = set(known)
    children = defaultdict(list)
    for one in family:
        children[one.parent_session_id if one.parent_session_id in living else None].append(one)
    lines = list(_drawn(children, session_id, titles))
    terminal.paged(_fitted(lines))


def _record(one: "SessionDescent", titles: Mapping[str, str]) -> dict[str, object]:
    names = ("session_id", "user_id", "parent_session_id", "root_session_id", "forked_at_seq", "depth")
    record: dict[str, object] = {name: getattr(one, name) for name in (*names, "entries", "own_entries", "created_at")}
    return record | {"title": titles.get(one.session_id) or None}


def _drawn(
    children: Mapping[str | None, Sequence["SessionDescent"]], marked: str, titles: Mapping[str, str]
) -> Iterator[_Line]:
    """The lines of the trees, from the top; not by recursion, since forks of forks may be thousands deep."""
    for top in children[None]:
        if top.parent_session_id is not None:
            yield _Line("", top.parent_session_id, "deleted")
        pending = [(top, "└─ " if top.parent_session_id else "", "   " if top.parent_session_id else "")]
        while pending:
            one, drawn, below = pending.pop()
            yield _Line(drawn, one.session_id, _facts(one, one.session_id == marked, titles.get(one.session_id, "")))
            forks = sorted(children.get(one.session_id, ()), key=lambda fork: fork.forked_at_seq or 0)
            for index, fork in reversed(list(enumerate(forks))):
                last = index == len(forks) - 1
                pending.append((fork, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  ")))


def _facts(one: "SessionDescent", marked: bool, title: str) -> str:
    if one.forked_at_seq is None:
        entries = counted(one.entries, "entry")
    else:
        entries = f"at {one.forked_at_seq:,}, then {counted(one.own_entries, 'entry')}"
    facts = [entries, *filter(None, (one.user_id, title))]
    return f"{'* ' if marked else ''}{' · '.join(facts)}"


def _fitted(lines: Sequence[_Line]) -> Iterator[str]:
    """Whole without a terminal. On one what does not fit is cut at the end; the facts begin in one column."""
    names = [visible(f"{line.drawn}{line.session_id}") for line in lines]
    width = terminal.width() if terminal.is_terminal() else None
    column = max(map(display_width, names), default=0)
    if width is not None:
        column = min(column, max(20, width - _FACTS))
    for name, line in zip(names, lines, strict=True):
        shown = f"{pad(name, column)}  {visible(line.facts)}"
        yield shown if width is None else terminal.cut(shown, width)
