"""Groups of commands that answer a mistyped name with the one that was meant, and arguments that do the same."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from statestore.cli.terminal import message

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _StringType = click.ParamType[str]
else:  # Before click 8.4 it is not generic.
    _StringType = click.ParamType


class Group(click.Group):
    """A group whose commands and options have their near misses named, whichever click is installed."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"No such command '{args[0]}'.{self._meant(ctx, args[0])}")
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: click.Context, given: str) -> str:
        from difflib import get_close_matches

        known = self.list_commands(ctx)
        # A command of a group below, such as `up`, is what somebody means who leaves the group out.
        below = [
            f"{name} {given}"
            for name in known
            if isinstance(group := self.get_command(ctx, name), click.Group) and given in group.list_commands(ctx)
        ]
        synonym = _SYNONYMS.get(given, "")
        close = below or ([synonym] if synonym in known else get_close_matches(given, known, n=3, cutoff=0.55))
        if not close:
            return f" Commands: {', '.join(known)}." if len(known) < 10 else ""
        *others, last = [f"'{ctx.command_path} {name}'" for name in close]
        return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


# What other programs call it.
_SYNONYMS = {
    "list": "ls", "remove": "rm", "delete": "rm", "put": "set", "read": "get", "upgrade": "up", "downgrade": "down",
    "log": "show", "cat": "show", "rm": "delete", "ls": "sessions", "follow": "tail", "branch": "fork",
}  # fmt: skip


class Name(_StringType):
    """One of *known*, where an underscore counts as a hyphen; a mistyped one is answered with what was meant."""

    name = "name"

    def __init__(self, known: Collection[str], what: str) -> None:
        self._known = known
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        given = str(value).replace("_", "-")
        if given not in self._known:
            raise click.UsageError(message(no_such(self._what, str(value), self._known), behind="Error: "), ctx)
        return given

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list["CompletionItem"]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in self._known if name.startswith(incomplete)]


def no_such(what: str, given: str, known: Collection[str]) -> str:
    """The message that there is none of that name, with those that were perhaps meant."""
    from difflib import get_close_matches

    close = get_close_matches(given.replace("_", "-"), list(known), n=3, cutoff=0.7)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known)}"
    return f"there is no {what} {given!r}; {hint}"
