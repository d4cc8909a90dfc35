"""The lists of sessions: a hundred to a page, those that were used last first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo

from statestore.reports import figures, names
from statestore.reports.conversation_page import pager
from statestore.reports.layout import Column, Html, Place, Row, document, table
from statestore.reports.queries import Billed, Label
from statestore.reports.text import escape
from statestore.values.sessions import Session


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of a list."""

    session: Session
    label: Label
    billed: Billed
    forks: int
    parts: int


def file_name(page: int) -> str:
    return "sessions.html" if page == 1 else f"sessions-{page}.html"


def render(rows: Sequence[Listed], *, page: int, pages: int, total: int, namespace: str, tz: tzinfo) -> str:
    columns = [
        Column("session"),
        Column("user", less=True, text=True),
        Column("turns", less=True),
        Column("tools", less=True),
        Column("errors", less=True),
        Column("input", less=True),
        Column("output", less=True),
        Column("cost"),
        Column("last used"),
    ]
    lines = [_line(row, tz) for row in rows]
    links = pager([file_name(number + 1) for number in range(pages)], page, "page") if pages > 1 else ""
    body = (
        f'<h1>Sessions</h1><p class="when">{figures.counted(total, "session")}, '
        "the one that was used last first</p>"
        f'<section class="panel">{table(columns, lines) if lines else "<p class=none>no sessions in this period</p>"}'
        f"</section>{links}"
    )
    return document(
        f"Sessions{f', page {page}' if page > 1 else ''} · {namespace}",
        body,
        namespace=namespace,
        place=Place("", "sessions.html"),
        footer="Tokens and cost are what was billed to the session: entries that a fork shares count where they came "
        "from. Sessions that belong to another are on its page.",
    )


def _line(row: Listed, tz: tzinfo) -> Row:
    address = f"{names.CONVERSATIONS}/{names.file_name(row.session.session_id)}"
    tags = []
    if row.session.parent_session_id is not None:
        tags.append("fork")
    if row.forks:
        tags.append(f"{figures.counted(row.forks, 'fork')} of it")
    if row.parts:
        tags.append(figures.counted(row.parts, "part"))
    shown = "".join(f' <span class="tag plain">{tag}</span>' for tag in tags)
    billed, active = row.billed, row.session.last_activity_at.astimezone(tz)
    cost = "unknown" if billed.cost_usd is None and billed.unpriced_calls else figures.money(billed.cost_usd)
    errors = Html(f'<span class="bad">{billed.errors:,}</span>') if billed.errors else figures.NONE
    return Row(
        Html(f"{names.described(row.label, address=address)}{shown}"),
        None,
        (
            row.session.user_id or "",
            figures.whole(billed.turns),
            figures.whole(billed.tool_calls),
            errors,
            figures.short(billed.input_tokens),
            figures.short(billed.output_tokens),
            cost,
            Html(f'{escape(f"{active:%Y-%m-%d}")}<span class="sub">{active:%H:%M}</span>'),
        ),
    )
