"""Where the command line takes its settings from: options, the environment, and a file with named profiles.

The file is `statestore.toml`, or `[tool.statestore]` in pyproject.toml, in the current directory or the nearest one
above it that has either. Each setting is looked up by itself, and the first place that has it counts:

1. the command's own option, such as --url
2. the profile that --profile names
3. the environment: STATESTORE_URL, STATESTORE_SCHEMA, STATESTORE_TABLE_PREFIX, STATESTORE_NAMESPACE
4. the profile that STATESTORE_PROFILE names, or else the file's `profile`
5. the file itself, outside its profiles
6. the default
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from statestore.cli.failures import Failure

FILE: Final = "statestore.toml"
# What a file may say, there and in each profile, and the variable that says it in the environment.
SETTINGS: Final = {name: f"STATESTORE_{name.upper()}" for name in ("url", "schema", "table_prefix", "namespace")}
DEFAULTS: Final = {"schema": "statestore", "table_prefix": "", "namespace": "default"}
_BESIDE_URL: Final = ("password_env", "reporting_url")
_KEYS: Final = (*SETTINGS, *_BESIDE_URL)


@dataclass(frozen=True, slots=True)
class Found:
    """A setting, and where it comes from."""

    value: str
    source: str
    directory: Path | None = None
    """Paths are relative to this directory; None for the current one."""
    password_env: str | None = None
    """With a URL: the environment variable that has its password."""
    reporting_url: str | None = None
    """With a URL: a standby of that database."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a file says."""

    path: Path | None = None
    shown: str = ""
    top: Mapping[str, str] = field(default_factory=dict)
    profiles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    profile: str | None = None


def resolve(name: str, given: str | None, profile: str | None, settings: Settings) -> Found | None:
    """A setting from the first place that has it; None if there is only the default, and none.

    Args:
        name: Which setting.
        given: What the command's own option says.
        profile: What --profile says.
        settings: What the file says.
    """
    for found in _places(name, given, profile, settings):
        if found is not None:
            return found
    return Found(DEFAULTS[name], "default") if name in DEFAULTS else None


def _places(name: str, given: str | None, profile: str | None, settings: Settings) -> Iterator[Found | None]:
    yield None if given is None else Found(given, f"--{name.replace('_', '-')}")
    if profile is not None:
        yield _of_profile(name, profile, settings, "--profile")
    if value := os.environ.get(SETTINGS[name]):
        yield Found(value, SETTINGS[name])
    if profile is None and (other := os.environ.get("STATESTORE_PROFILE")):
        yield _of_profile(name, other, settings, "STATESTORE_PROFILE")
    elif profile is None and settings.profile is not None:
        yield _of_profile(name, settings.profile, settings, f"profile in {settings.shown}")
    yield _taken(name, settings.top, settings, settings.shown)


def _of_profile(name: str, profile: str, settings: Settings, asked_by: str) -> Found | None:
    if profile not in settings.profiles:
        where = settings.shown or f"no {FILE} and no [tool.statestore] in pyproject.toml, here or above,"
        hint = near(profile, settings.profiles, "its profiles are") if settings.path else "make one, or use --url"
        raise Failure(f"{asked_by}: {where} has no profile {profile!r}; {hint}")
    return _taken(name, settings.profiles[profile], settings, f"profile {profile} in {settings.shown}")


def _taken(name: str, table: Mapping[str, str], settings: Settings, source: str) -> Found | None:
    if name not in table or settings.path is None:
        return None
    return Found(table[name], source, settings.path.parent, table.get("password_env"), table.get("reporting_url"))


def read(path: str | None = None) -> Settings:
    """What the file at *path* says, or else STATESTORE_CONFIG, or else the nearest file."""
    named = path or os.environ.get("STATESTORE_CONFIG")
    if named:
        file = Path(named)
        if not file.is_file():
            raise Failure(f"there is no file {named!r}, which {'--config' if path else 'STATESTORE_CONFIG'} names")
        return _parsed(file, _table(file) or {})
    here = Path.cwd()
    for directory in (here, *here.parents):
        for file in (directory / FILE, directory / "pyproject.toml"):
            if file.is_file() and (table := _table(file, ours=file.name == FILE)) is not None:
                _check_owner(file)
                return _parsed(file, table)
    return Settings()


def _table(file: Path, *, ours: bool = True) -> dict[str, Any] | None:
    """What is there for statestore; None if the file is for others alone."""
    try:
        data = file.read_bytes()
    except OSError as error:
        if not ours:
            return None
        raise Failure(f"{_shown(file)}: {error.strerror}") from None
    if file.name == "pyproject.toml" and b"tool.statestore" not in data:
        return None  # Not read: it would take as long as all the rest here.
    import tomllib

    try:
        parsed = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Failure(f"{_shown(file)} is not TOML: {error}") from None
    if file.name != "pyproject.toml":
        return parsed
    table = parsed.get("tool", {}).get("statestore")
    return table if isinstance(table, dict) else None


def _parsed(file: Path, table: dict[str, Any]) -> Settings:
    shown = _shown(file)
    profiles = table.get("profiles", {})
    if not isinstance(profiles, dict) or not all(isinstance(one, dict) for one in profiles.values()):
        raise Failure(f"{shown}: profiles are tables, such as [profiles.prod]")
    top = {name: value for name, value in table.items() if name not in ("profiles", "profile")}
    _check(top, shown, "", (*_KEYS, "profile", "profiles"))
    for name, one in profiles.items():
        _check(one, shown, f" in profile {name}", _KEYS)
    profile = table.get("profile")
    if not isinstance(profile, str | None):
        raise Failure(f"{shown}: profile must be text: the name of a profile")
    return Settings(file.absolute(), shown, top, profiles, profile)


def _check(table: Mapping[str, Any], shown: str, where: str, known: tuple[str, ...]) -> None:
    for name, value in table.items():
        if name not in known:
            raise Failure(f"{shown}: unknown key {name!r}{where}; {near(name, known, 'known are')}")
        if not isinstance(value, str) or not value:
            raise Failure(f"{shown}: {name}{where} must be text in quotes, and not empty")
    for name in _BESIDE_URL:
        if name in table and "url" not in table:
            raise Failure(f"{shown}: {name}{where} needs a url beside it")


def _check_owner(file: Path) -> None:
    """Refuse a file that somebody else has put into a directory above, such as /tmp: it names where data goes."""
    if not hasattr(os, "geteuid"):
        return
    # Of a link, too: it may lead to a file of ours that is meant for another place.
    owners = {file.stat().st_uid, file.lstat().st_uid}
    if any(owner not in (0, os.geteuid()) and str(owner) != os.environ.get("SUDO_UID") for owner in owners):
        raise Failure(
            f"{_shown(file)} belongs to another user, and was ignored; if you trust it, name it: "
            f"STATESTORE_CONFIG={_shown(file)}"
        )


def near(given: str, known: Mapping[str, Any] | tuple[str, ...], otherwise: str) -> str:
    """`did you mean 'url'?`, or else all that there are."""
    from difflib import get_close_matches

    if close := get_close_matches(given, list(known), n=1):
        return f"did you mean {close[0]!r}?"
    return f"{otherwise}: {', '.join(known)}" if known else "it has none"


def _shown(file: Path) -> str:
    """The path as it is shortest from here."""
    try:
        return str(file.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(file)
