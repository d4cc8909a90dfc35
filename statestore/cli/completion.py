"""`statestore completion`: let the shell complete commands, options and ids of sessions."""

import os
import re
from pathlib import Path
from typing import Final

import click

from statestore.cli.failures import Failure
from statestore.cli.groups import Group
from statestore.cli.options import examples, json_option
from statestore.cli.output import json_text, visible

SHELLS: Final = ("bash", "zsh", "fish")
_MARK = "# statestore completion"


@click.group(cls=Group, epilog=examples("statestore completion install", "statestore completion show fish"))
def completion() -> None:
    """Let bash, zsh or fish complete commands, options, and the ids of sessions in the database."""


_shell = click.argument("shell", type=click.Choice(SHELLS), required=False)


@completion.command(epilog=examples("statestore completion install", "statestore completion install zsh"))
@_shell
@json_option
def install(shell: str | None, as_json: bool) -> None:
    """Install the completion for SHELL, by default that of $SHELL.

    Writes a script below ~/.local/share (for fish ~/.config), and for bash and zsh adds a line to ~/.bashrc or ~/.zshrc
    that reads it. Doing it again changes nothing but the script.
    """
    shell = shell or _current()
    script, startup = _places(shell)
    line = f"[ -r {_quoted(script)} ] && . {_quoted(script)}  {_MARK}"
    try:
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(_script(shell), encoding="utf-8")
        changed = startup is not None and _add(startup, line)
    except OSError as error:
        raise Failure(
            f"{error.filename}: {error.strerror}; print it with: statestore completion show {shell}"
        ) from None
    if as_json:
        facts = {"shell": shell, "script": str(script), "startup": None if startup is None else str(startup)}
        click.echo(json_text({**facts, "startup_changed": changed}))
        return
    click.echo(f"wrote {visible(str(script))}")
    if startup is not None:
        click.echo(f"{'added a line to' if changed else 'its line is already in'} {visible(str(startup))}")
    click.echo(f"it works in a new {shell}" + (f"; here: . {visible(_quoted(script))}" if shell != "fish" else ""))


@completion.command("show", epilog=examples("statestore completion show bash > completion.bash"))
@_shell
def show_script(shell: str | None) -> None:
    """Print the script for SHELL, by default that of $SHELL, to be installed by hand."""
    click.echo(_script(shell or _current()), nl=False)


def _current() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise Failure(
            f"$SHELL is {name or 'not set'}; name one of {', '.join(SHELLS)}: statestore completion install bash"
        )
    return name


def _places(shell: str) -> tuple[Path, Path | None]:
    """Where the script goes, and the file that has to read it; fish finds it by itself."""
    home = Path.home()
    if shell == "fish":
        return _folder("XDG_CONFIG_HOME", home / ".config") / "fish" / "completions" / "statestore.fish", None
    script = _folder("XDG_DATA_HOME", home / ".local" / "share") / "statestore" / f"completion.{shell}"
    return script, _folder("ZDOTDIR", home) / ".zshrc" if shell == "zsh" else home / ".bashrc"


def _folder(variable: str, otherwise: Path) -> Path:
    # XDG: a relative path is invalid, and to be ignored.
    given = Path(os.environ.get(variable, ""))
    return given if given.is_absolute() else otherwise


def _script(shell: str) -> str:
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    # Not its source(), which starts a bash to ask for its version.
    made = kind(click.get_current_context().find_root().command, {}, "statestore", "_STATESTORE_COMPLETE")
    source = made.source_template % made.source_vars()
    if shell == "zsh":  # Without a framework nobody has loaded what it needs.
        source = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n" + source.removeprefix(
            "#compdef statestore\n"
        )
    return source.rstrip() + "\n"


def _add(startup: Path, line: str) -> bool:
    """Add *line*, or put it in the place of an earlier one; whether the file had to be changed."""
    before = startup.read_text(encoding="utf-8", errors="surrogateescape") if startup.exists() else ""
    earlier = re.compile(rf"^.*{re.escape(_MARK)}$", re.MULTILINE)
    if earlier.search(before):
        after = earlier.sub(lambda _: line, before)
    else:
        after = before + ("" if before.endswith("\n") or not before else "\n") + line + "\n"
    if after == before:
        return False
    # Not replaced by a new file: it may be a link into somebody's repository.
    startup.write_text(after, encoding="utf-8", errors="surrogateescape")
    return True


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
