"""Ids of sessions on the command line: their beginnings will do, and shells complete them."""

import shutil
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

from statestore.cli import terminal
from statestore.cli.failures import Failure
from statestore.cli.options import Database
from statestore.cli.output import counted, time_text, visible
from statestore.errors import StateStoreError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from statestore.store import StateStore, Transaction

_CANDIDATES = 10
_COMPLETIONS = 50
_PATIENCE = 1.5
"""How many seconds a shell waits for ids at most."""


def resolve(store: "StateStore | Transaction", given: str, *, whole: bool = False, say: bool = False) -> str:
    """The id of the session that *given* is, or that alone begins so.

    Args:
        store: The store, or a transaction.
        given: An id, or the beginning of one.
        whole: Take the beginning of an id for a mistake: there would be nobody to notice if it meant another session.
        say: Name the session on stderr if *given* is only the beginning of its id.
    """
    if store.sessions.exists(given):
        return given
    page = store.sessions.page(id_prefix=given, include_parts=True, limit=_CANDIDATES)
    if not page.sessions:
        return store.sessions.get(given).session_id  # It says that there is none.
    found = [session.session_id for session in page.sessions]
    if len(found) == 1 and not whole:
        if say:
            click.echo(f"session {visible(found[0])}", err=True)
        return found[0]
    rows = [
        (one.session_id, counted(one.entry_count, "entry"), time_text(one.last_activity_at), one.title or "")
        for one in page.sessions
    ]
    width = shutil.get_terminal_size().columns - 2 if sys.stderr.isatty() else None
    lines, _ = terminal.fitted(
        ("ID", "SIZE", "USED", "TITLE"), rows, width=width, drop=("TITLE", "SIZE"), texts=("TITLE",)
    )
    lines = lines[1:]
    if len(found) == 1:
        raise Failure(
            f"no session has exactly the id {given!r}, but one starts with it; --yes needs the full id:", lines
        )
    number = f"more than {_CANDIDATES}" if page.next_cursor else str(len(found))
    raise Failure(f"the ids of {number} sessions begin with {given!r}; give more of the id:", lines)


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list["CompletionItem"]:
    """The ids that begin so, for a shell: the latest fifty at most; none, and no word, if the database is away."""
    # Not in the time that the database is given: on a busy machine this takes as long.
    import statestore.store  # noqa: F401

    found: list[CompletionItem] = []
    looking = threading.Thread(target=_look_up, args=(ctx, incomplete, found), daemon=True)
    looking.start()
    looking.join(_PATIENCE)
    return list(found)


def _look_up(ctx: click.Context, incomplete: str, found: list["CompletionItem"]) -> None:
    from click.shell_completion import CompletionItem

    given: dict[str, Any] = {
        name: ctx.params.get(name) for name in ("url", "schema", "table_prefix", "namespace", "profile")
    }
    try:
        database = Database.chosen(**given, context=ctx)
        with database.open(timeout=_PATIENCE, retry_for=_PATIENCE) as store:
            page = store.sessions.page(id_prefix=incomplete or None, limit=_COMPLETIONS)
    except (StateStoreError, click.ClickException, OSError):
        return
    found += [
        CompletionItem(session.session_id, help=visible(session.title or "") or None)
        for session in page.sessions
        # Others would be a line of their own in what the shell reads.
        if visible(session.session_id) == session.session_id
    ]


session_argument = click.argument("session", shell_complete=complete)
