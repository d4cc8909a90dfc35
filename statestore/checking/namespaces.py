"""Namespaces: those that an operation looks over (`namespaces=`), and those that a large tenant spreads over."""

import hashlib
from collections.abc import Iterable
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
        raise InvalidValueError(argument, "must name at least one namespace; leave it out for the store's own")
    names: dict[str, None] = {}
    prefixes: dict[str, None] = {}
    for where, one in given:
        checks.key(one, where)
        if one.endswith("\\*"):
            names[f"{one[:-2]}*"] = None
        elif one.endswith("*"):
            prefixes[one[:-1]] = None
        else:
            names[one] = None
    if len(names) > MAX_NAMES or len(prefixes) > MAX_PREFIXES:
        limits = f"at most {MAX_NAMES:,} names and {MAX_PREFIXES} prefixes"
        raise InvalidValueError(argument, f"must have {limits}; use fewer, shorter prefixes or several calls")
    return Chosen(tuple(names), tuple(prefixes))


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
