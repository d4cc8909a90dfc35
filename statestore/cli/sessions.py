"""`statestore sessions`: which sessions there are."""

from typing import Literal, get_args

import click

from statestore.cli import terminal
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import json_text, session_record, visible
from statestore.values.sessions import STATUSES, Session, Status

OrderBy = Literal["last_activity_at", "created_at"]


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
@click.option("--parts", is_flag=True, help="Parts of other sessions too, such as those of sub-agents.")
@terminal.wide_option
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
    parts: bool,
    wide: bool,
    as_json: bool,
) -> None:
    """List sessions, the latest first.

    If there are more than --limit, stderr shows the cursor of the next page; the JSON has it as next_cursor.

    If the terminal is too narrow, long names and titles are cut, and then columns are left out, in this order: AGENT,
    STATUS, USER, ENTRIES, TITLE, LAST ACTIVITY. --wide shows all, as a pipe does.
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
            include_parts=parts,
        )
    if as_json:
        records = [session_record(session) for session in page.sessions]
        click.echo(json_text({"sessions": records, "next_cursor": page.next_cursor}))
        return
    if page.sessions:
        terminal.print_table(
            ("SESSION", "USER", "AGENT", "STATUS", "ENTRIES", "LAST ACTIVITY", "TITLE"),
            [_row(session) for session in page.sessions],
            drop=("AGENT", "STATUS", "USER", "ENTRIES", "TITLE", "LAST ACTIVITY"),
            ids=("SESSION",),
            texts=("USER", "AGENT", "TITLE"),
            numbers=("ENTRIES",),
            wide=wide,
        )
    else:
        click.echo(f"no matching sessions in namespace {visible(database.namespace)!r}", err=True)
    if page.next_cursor:
        click.echo(f"there are more; for the next page, add: --cursor {page.next_cursor}", err=True)


def _row(session: Session) -> tuple[str, ...]:
    return (
        session.session_id,
        session.user_id or "-",
        session.agent_name or "-",
        session.status,
        f"{session.entry_count:,}",
        terminal.moment_text(session.last_activity_at),
        session.title or "",
    )
