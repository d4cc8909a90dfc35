"""Namespaces: those that an operation looks over (`namespaces=`), and those that a large tenant spreads over."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from statestore.checking import checks
from statestore.errors import InvalidValueError

MAX_NAMES = 10_000
MAX_PREFIXES = 16
MAX_SHARDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Chosen:
    """Namespaces by name, and by how their names begin. At least one of either; an empty prefix is all of them."""

    names: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """Whether a namespace is among them."""
        return name in self.names or name.startswith(self.prefixes)

    def __str__(self) -> str:
        return ", ".join([*self.names, *(f"{prefix}*" for prefix in self.prefixes)])


EVERY = Chosen(prefixes=("",))
"""All namespaces of a database."""


def chosen(value: Any, argument: str = "namespaces") -> Chosen | None:
    r"""The namespaces that a caller asks for, checked: a name, a prefix such as `acme/*`, or a list of these.

    A `*` at the end stands for any text, the empty one included; for the character itself write `\*`. Every other
    character stands for itself, also a `*` elsewhere, `%` and `_`.

    Returns:
        None for None, which means the store's own namespace.

    Raises:
        InvalidValueError: It is something else, empty, or longer than the limits.
    """
    if value is None:
        return None
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        problem = "must be a name, a prefix such as 'acme/*', or a list of these"
        raise InvalidValueError(argument, f"{problem}, not {type(value).__name__}")
    given = [(argument, value)] if isinstance(value, str) else [(f"{argument}[{i}]", v) for i, v in enumerate(value)]
    if not given:
        raise InvalidValueError(argument, "is empty; name at least one namespace, or a prefix such as 'acme/*'")
    names: dict[str, None] = {}
    prefixes: dict[str, None] = {}
    for where, one in given:
        text, is_prefix = _read(one, where)
        (prefixes if is_prefix else names)[text] = None
    if len(names) > MAX_NAMES or len(prefixes) > MAX_PREFIXES:
        limits = f"at most {MAX_NAMES:,} names and {MAX_PREFIXES} prefixes"
        raise InvalidValueError(argument, f"must have {limits}; use fewer, shorter prefixes or several calls")
    return Chosen(tuple(names), tuple(prefixes))


def _read(value: Any, where: str) -> tuple[str, bool]:
    """What is asked for, and whether as a prefix."""
    text = checks.key(value, where)
    if text.endswith("\\*"):
        return f"{text[:-2]}*", False
    return (text[:-1], True) if text.endswith("*") else (text, False)


@dataclass(frozen=True, slots=True)
class Renaming:
    """Which namespaces get which names: by their name, or by the longest of the prefixes."""

    names: Mapping[str, str]
    prefixes: tuple[tuple[str, str, bool], ...]
    """Each with what takes its place, and whether what follows it is kept."""

    def __bool__(self) -> bool:
        return bool(self.names or self.prefixes)

    def has(self, name: str) -> bool:
        """Whether it gives *name* another one."""
        return name in self.names or any(name.startswith(prefix) for prefix, _, _ in self.prefixes)

    def __call__(self, name: str, where: str) -> str:
        """The name that *name* gets. *where* it is given is for the message."""
        if name in self.names:
            return self.names[name]
        for prefix, new, kept in self.prefixes:
            if name.startswith(prefix):
                return checks.key(new + name[len(prefix) :], where) if kept else new
        return name


def renaming(value: Any, argument: str = "rename") -> Renaming:
    """New names for namespaces, as a caller gives them, checked: `{"acme/*": "copy/*", "bob": "alice"}`.

    Raises:
        InvalidValueError: It is something else, or a name is to become a prefix.
    """
    if not isinstance(value, Mapping | None):
        problem = "must map names or prefixes to others, as in {'acme/*': 'copy/*'}"
        raise InvalidValueError(argument, f"{problem}, not {type(value).__name__}")
    names: dict[str, str] = {}
    prefixes: list[tuple[str, str, bool]] = []
    for old, new in (value or {}).items():
        old_text, of_prefix = _read(old, argument)
        new_text, to_prefix = _read(new, f"{argument}[{old!r}]")
        if of_prefix:
            prefixes.append((old_text, new_text, to_prefix))
        elif to_prefix:
            raise InvalidValueError(f"{argument}[{old!r}]", "must be a name; only a prefix becomes a prefix")
        else:
            names[old_text] = new_text
    return Renaming(names, tuple(sorted(prefixes, key=lambda one: -len(one[0]))))


def spread(tenant: str, key: str, *, shards: int) -> str:
    """The namespace of a large tenant in which what belongs to *key* is, such as `acme/17`: one of *shards*.

    Stable for ever: the same arguments give the same namespace, in each version and on each machine. It is the tenant,
    a slash, and the first eight bytes of the SHA-256 of *key* in UTF-8, as an unsigned big-endian number, modulo
    *shards*. All of the tenant's namespaces together are `namespaces="acme/*"`. Does not use the database.

    Args:
        tenant: The tenant's name. Without a slash: `a/*` would have the shards of a tenant `a/b`, too.
        key: What has to stay together, usually the user's id.
        shards: How many namespaces there are, 1 to 1,000,000. Another number puts most keys elsewhere, so choose it for
            good; sessions are moved by an export and an import.

    Raises:
        InvalidValueError: An argument is something else, or the name gets longer than 512 characters.
    """
    checks.key(tenant, "tenant")
    if "/" in tenant:
        problem = f"must not contain a slash, which separates the tenant from the shard; {tenant!r} has one"
        raise InvalidValueError("tenant", problem)
    checks.count(shards, "shards", least=1, most=MAX_SHARDS)
    digest = hashlib.sha256(checks.key(key, "key").encode()).digest()
    return checks.key(f"{tenant}/{int.from_bytes(digest[:8]) % shards}", "tenant")
