"""`statestore sessions` and `statestore show`: look at what is stored."""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import click

from statestore.cli import conversation
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import counted, json_text, session_record, shortened, table, time_text, visible
from statestore.values.history import Entry
from statestore.values.sessions import STATUSES, Lineage, Session, Status

OrderBy = Literal["last_activity_at", "created_at"]

_READ_AT_ONCE = 200
_FORKS_SHOWN = 5


@click.command(
    epilog=examples(
        "statestore sessions --user ada --limit 20",
        "statestore sessions --order-by created_at --json | jq -r '.sessions[].session_id'",
    )
)
@click.option("--user", metavar="USER", help="Only this user's sessions.")
@click.option("--agent", metavar="AGENT", help="Only this agent's sessions.")
@click.option("--status", type=click.Choice(STATUSES), help="Only sessions with this status.")
@click.option("--order-by", type=click.Choice(get_args(OrderBy)), default="last_activity_at", show_default=True)
@click.option("--ascending", is_flag=True, help="The earliest first instead of the latest.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many at most.")
@click.option("--cursor", metavar="CURSOR", help="Continue after the previous page, in the same order.")
@store_options
@json_option
def sessions(
    database: Database,
    user: str | None,
    agent: str | None,
    status: Status | None,
    order_by: OrderBy,
    ascending: bool,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List sessions, the latest first.

    If there are more than --limit, stderr shows the cursor of the next page; the JSON has it as next_cursor.
    """
    with database.open() as store:
        page = store.sessions.page(
            user_id=user,
            agent_name=agent,
            status=status,
            order_by=order_by,
            descending=not ascending,
            limit=limit,
            cursor=cursor,
        )
    if as_json:
        records = [session_record(session) for session in page.sessions]
        click.echo(json_text({"sessions": records, "next_cursor": page.next_cursor}))
        return
    if page.sessions:
        head = ("SESSION", "USER", "AGENT", "STATUS", "ENTRIES", "LAST ACTIVITY", "TITLE")
        click.echo("\n".join(table(head, [_row(session) for session in page.sessions])))
    else:
        click.echo(f"no matching sessions in namespace {visible(database.namespace)!r}", err=True)
    if page.next_cursor:
        click.echo(f"there are more; for the next page, add: --cursor {page.next_cursor}", err=True)


def _row(session: Session) -> tuple[str, ...]:
    return (
        session.session_id,
        shortened(session.user_id or "-", 30),
        shortened(session.agent_name or "-", 30),
        session.status,
        f"{session.entry_count:,}",
        time_text(session.last_activity_at),
        shortened(session.title or "", 50),
    )


@click.command(
    epilog=examples(
        "statestore show user-42 --last 10",
        "statestore show user-42 --json | jq '.entries[].content'",
    )
)
@click.argument("session")
@click.option("--last", type=click.IntRange(0), metavar="N", help="Only the newest N entries.")
@store_options
@json_option
def show(database: Database, session: str, last: int | None, as_json: bool) -> None:
    """Show a session: its attributes, its state and its conversation.

    Control characters are shown as escapes; --json has every entry exactly as it was stored. Showing a session with a
    TTL counts as a use and extends it.
    """
    with database.open() as store:
        found = store.sessions.get(session)
        state = store.state.get_all(session)
        lineage = store.sessions.lineage(session)
        entries = _entries(store, found, last)
        if as_json:
            _print_json(found, state, lineage, entries)
            return
        click.echo("\n".join(f"{name:<15}{visible(value)}" for name, value in _facts(found, state, lineage)))
        for entry in entries:
            click.echo("\n" + "\n".join(conversation.render(entry)))


def _entries(store: Any, session: Session, last: int | None) -> Iterator[Entry]:
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


def _facts(session: Session, state: dict[str, Any], lineage: Lineage) -> Iterator[tuple[str, str]]:
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
