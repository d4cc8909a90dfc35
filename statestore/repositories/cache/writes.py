"""Writing entries of the cache within its limits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from statestore.checking import checks, codec
from statestore.checking.codec import Encoded
from statestore.engine.sql_parts import ROWS_SQLITE, arrays, numbered
from statestore.errors import InvalidValueError
from statestore.repositories.cache import lifetimes, statements
from statestore.repositories.cache.base import json_or_none
from statestore.repositories.cache.base import tags as checked_tags
from statestore.repositories.cache.eviction import CacheRoom
from statestore.repositories.cache.lifetimes import Lifetime, stamps
from statestore.repositories.cache.limits import Room, new_version
from statestore.repositories.cache.options import CacheOptions
from statestore.values.cache import CacheItem, CacheTtl
from statestore.values.markers import MISSING

Old: TypeAlias = Mapping[str, tuple[int, int, bool]]
"""By key: the size and the version of an entry that is replaced, and whether it was live."""

Condition: TypeAlias = Literal["missing", "present"] | int | None
"""What a single entry is written on: that there is none, that there is one, or that it has this version."""

_NO_LIMIT = 2**62

_NO_ROOM = "no room"
"""Where a call remembers what its try without a transaction has found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What all entries of one write share; JSON as text."""

    life: Lifetime
    tags: list[str] = field(default_factory=list)
    agent_name: str | None = None
    request: str | None = None
    content_hash: str | None = None
    metadata: str | None = None
    own: Mapping[str, tuple[Lifetime, list[str]]] = field(default_factory=dict)
    """By key: the lifetime and all tags of entries that do not share them."""

    @property
    def tagged(self) -> bool:
        return bool(self.tags or self.own)

    def of(self, key: str) -> tuple[Lifetime, list[str]]:
        return self.own.get(key, (self.life, self.tags))

    def description(self) -> dict[str, Any]:
        """The attributes for people and for invalidation, most of which are usually missing."""
        return {
            "agent_name": self.agent_name,
            "request": self.request,
            "content_hash": self.content_hash,
            "metadata": self.metadata,
        }


def checked_attributes(
    options: CacheOptions,
    max_bytes: int,
    *,
    now: datetime | None = None,
    ttl: CacheTtl | None,
    tags: Iterable[str],
    agent_name: str | None,
    request: Any,
    content_hash: str | None,
    metadata: Mapping[str, Any] | None,
    stale_ttl: timedelta | float | None = None,
) -> Attributes:
    """The arguments of a write as they are stored. Without *now*, an end that has passed is accepted."""
    return Attributes(
        life=lifetimes.checked(ttl, options.default_ttl, now=now, stale_ttl=stale_ttl),
        tags=checked_tags(tags),
        agent_name=checks.optional_key(agent_name, "agent_name"),
        request=json_or_none(request, "request", max_bytes),
        content_hash=checks.optional_key(content_hash, "content_hash"),
        metadata=checks.metadata(metadata, max_bytes=max_bytes),
    )


class CacheWrites(CacheRoom):
    """Writing entries within the limits."""

    def _encode(self, value: Any, argument: str = "value") -> Encoded:
        if value is MISSING:
            raise InvalidValueError(argument, "MISSING marks absence; it is not a value")
        return codec.encode(
            value,
            argument,
            max_bytes=self._link.settings.max_value_bytes,
            compress_above=self._state.options.compress_above,
        )

    def _attributes(self, *, late: bool = False, **given: Any) -> Attributes:
        """The same at every try. With *late*, the value was computed meanwhile, and its end may have passed."""
        now = None if late else self._now()
        max_bytes = self._link.settings.max_value_bytes
        return self._once("attributes", lambda: checked_attributes(self._state.options, max_bytes, now=now, **given))

    def _own_attributes(self, item: CacheItem, common: Attributes, name: str) -> tuple[Lifetime, list[str]]:
        """The lifetime and the tags of an item of `set_many`, which errors call *name*."""
        life = common.life
        if item.ttl is not None:
            default, now = self._state.options.default_ttl, self._now()
            life = lifetimes.checked(item.ttl, default, now=now, argument=f"{name}.ttl")
        return life, list(dict.fromkeys([*common.tags, *checked_tags(item.tags, f"{name}.tags")]))

    def _times(self, life: Lifetime) -> dict[str, Any]:
        return life.params(self._link.now())

    def _write(self, values: Mapping[str, Encoded], attributes: Attributes, *, only_if: Condition = None) -> bool:
        """Write *values*, of which there is at least one.

        With *only_if* there is only one, and it is written only on that condition. Returns whether it was written.
        """
        if only_if not in (None, "missing") and self._link.holds_reads:
            self._hold(list(values))  # If nothing is written, that holds until the transaction ends.
        size = sum(len(encoded.data) for encoded in values.values())
        self._check_fits(values, size)
        room = self._state.book(len(values), size, self._notes)
        # An entry that the first try found missing cannot be replaced.
        may_replace = self._state.options.max_bytes is None and not self._call.memo.get(_NO_ROOM)
        if len(values) == 1 and only_if is None and (room.enough or may_replace):
            ((key, encoded),) = values.items()
            if self._write_one(key, encoded, attributes, may_add=room.enough):
                return True
        if self._postgresql:
            return self._write_postgresql(values, attributes, size, room, only_if)
        old = self._old(values)
        if not _is_met(only_if, old):
            self._settle(0, old, attributes)
            return False
        if not room.enough:
            replaced = len(old), sum(found for found, *_ in old.values())
            self._make_room(list(values), len(values), size, room, replaced)
        self._write_sqlite(values, attributes, old)
        self._settle(len(values), old, attributes)
        return True

    def _write_one(self, key: str, encoded: Encoded, attributes: Attributes, *, may_add: bool) -> bool:
        """The most frequent writes: one entry, whether or not there is one, or only to replace another."""
        version, tags = self._version(attributes), attributes.tags
        params = {
            "key": key,
            "value": encoded.data,
            "codec": encoded.codec,
            "size": len(encoded.data),
            "version": version,
            "stamp": stamps.take(),
        } | self._times(attributes.life)
        description = attributes.description()
        if self._postgresql:
            described = any(value is not None for value in description.values())
            if described:
                params |= description
            if tags:
                params["tags"] = tags
            statement = statements.set_one_postgresql if may_add else statements.replace_one_postgresql
            found = self._link.one(statement(tagged=bool(tags), described=described), **params)
            written = may_add or found is not None
        else:
            found = self._link.one(statements.FIND_OLD_ONE_SQLITE, key=key)
            written = may_add or found is not None
            if written:
                self._link.run(statements.SET_ONE_SQLITE, **params, **description)
            *_, was_tagged = found or (False,)
            if was_tagged:
                self._link.run(statements.UNTAG_ONE_SQLITE, key=key)
            if written and tags:
                self._link.run(statements.TAG_SQLITE, keys=[key], version=version, tags=tags)
        if written:
            old_size, old_version, live, *_ = found or (None, None, None)
            old = {} if old_version is None else {key: (old_size, old_version, bool(live))}
            self._settle(1, old, attributes)
        return written

    def _write_postgresql(
        self, values: Mapping[str, Encoded], attributes: Attributes, size: int, room: Room, only_if: Condition
    ) -> bool:
        if not room.enough:
            # The bound may be too high, or too old, or this may overwrite: the statement finds out by itself.
            if not self._call.memo.get(_NO_ROOM):
                stored = self._set_postgresql(values, attributes, only_if, room)
                if stored is not None:
                    return stored
            if not self._link.in_transaction:
                self._call.memo[_NO_ROOM] = True
                self._state.unbook(self._notes)
            self._needs_transaction()
            # One that finds no room does not overwrite, as long as bytes do not matter.
            none = (0, 0) if len(values) == 1 and self._state.options.max_bytes is None else None
            self._make_room(list(values), len(values), size, room, none)
        stored = self._set_postgresql(values, attributes, only_if)
        assert stored is not None
        return stored

    def _set_postgresql(
        self, values: Mapping[str, Encoded], attributes: Attributes, only_if: Condition, room: Room | None = None
    ) -> bool | None:
        """Whether the values were stored; None if the statement found no room for them."""
        version = self._version(attributes)
        params = attributes.description() | {"version": version, "stamp": stamps.take(len(values))}
        encoded = list(values.values())
        form = "varied" if attributes.own else "one" if len(values) == 1 else "several"
        if form == "one":
            (key,) = values
            params |= {"key": key, "value": encoded[0].data, "codec": encoded[0].codec, "size": len(encoded[0].data)}
        else:
            new: list[dict[str, Any]] = [
                {"key": key, "value": one.data, "codec": one.codec, "size_bytes": len(one.data)}
                for key, one in values.items()
            ]
            if form == "varied":
                new = [row | self._times(attributes.of(row["key"])[0]) for row in new]
            params |= arrays(new, statements.VARIED if form == "varied" else statements.SEVERAL, "new_{}")
        if form == "varied":
            pairs = [(place, tag) for place, key in enumerate(values, 1) for tag in attributes.of(key)[1]]
            params |= {"tag_places": [place for place, _ in pairs], "tags": [tag for _, tag in pairs]}
        else:
            params |= self._times(attributes.life) | {"tags": attributes.tags}
        if isinstance(only_if, int):
            params["expected_version"] = only_if
        limited_by = token = None
        if room is not None:
            options = self._state.options
            limited_by = "entries" if options.max_bytes is None else "bytes"
            params["room_entries"] = (options.max_entries or _NO_LIMIT) - room.others_entries
            params["room_bytes"] = (options.max_bytes or _NO_LIMIT) - room.others_bytes
            token = self._state.start_count()
        condition = "version" if isinstance(only_if, int) else only_if
        statement = statements.set_postgresql(values=form, only_if=condition, limited_by=limited_by)
        rows = self._link.all(statement, **params)
        old: dict[str, tuple[int, int, bool]] = {}
        counted: tuple[int, int] | None = None
        stored = 0
        for key, is_stored, old_size, old_version, live, entries, held in rows:
            stored += is_stored
            if old_version is not None:
                old[key] = (old_size, old_version, live)
            if entries is not None:
                counted = int(entries), int(held)
        if token is not None and counted is not None:
            self._state.end_count(token, *counted, own=self._notes)
        if not stored and room is not None and _is_met(only_if, old):
            return None
        self._settle(stored, old, attributes)
        # An entry with this version was stored by an earlier try whose answer was lost.
        return bool(stored) or any(found == version for _, found, _ in old.values())

    def _write_sqlite(self, values: Mapping[str, Encoded], attributes: Attributes, old: Old) -> None:
        version, stamp = self._version(attributes), stamps.take(len(values))
        items, varied = list(values.items()), bool(attributes.own)
        names = statements.NUMBERED_VARIED_SQLITE if varied else statements.NUMBERED_SQLITE
        common = attributes.description() | ({} if varied else self._times(attributes.life))
        for start in range(0, len(items), ROWS_SQLITE):
            part = items[start : start + ROWS_SQLITE]
            rows: list[dict[str, Any]] = [
                {
                    "key": key,
                    "value": encoded.data,
                    "codec": encoded.codec,
                    "size": len(encoded.data),
                    "version": version + number,
                    "stamp": stamp + number,
                }
                for number, (key, encoded) in enumerate(part, start)
            ]
            if varied:
                rows = [row | self._times(attributes.of(row["key"])[0]) for row in rows]
            self._link.run(statements.set_sqlite(len(part), varied=varied), **numbered(rows, names), **common)
        if old:
            self._link.run(statements.UNTAG_SQLITE, keys=list(values))
        if varied:
            tags = [(place, key, tag) for place, key in enumerate(values) for tag in attributes.of(key)[1]]
            self._link.run(statements.TAG_VARIED_SQLITE, version=version, tags=tags)
        elif attributes.tags:
            self._link.run(statements.TAG_SQLITE, keys=list(values), version=version, tags=attributes.tags)

    def _version(self, attributes: Attributes) -> int:
        """The same at every try, so that a try whose answer was lost is recognised."""
        return self._once("version", lambda: new_version(tagged=attributes.tagged))

    def _old(self, values: Mapping[str, Encoded]) -> Old:
        rows = self._link.all(statements.FIND_OLD_SQLITE, keys=list(values))
        return {key: (size, version, bool(live)) for key, size, version, live in rows}

    def _settle(self, stored: int, old: Old, attributes: Attributes) -> None:
        """Note what was stored, and what it replaced."""
        self._notes.unused = self._notes.booked[0] - (stored - len(old) if stored else 0)
        if not stored:
            return
        now = self._now()
        self._notes.remove(0, sum(size for size, *_ in old.values()))
        self._notes.pending.count(now, attributes.agent_name, "sets", stored)
        replaced = sum(not live for *_, live in old.values())
        self._notes.pending.count(now, attributes.agent_name, "expirations", replaced)

    def _check_fits(self, values: Mapping[str, Encoded], size: int) -> None:
        options = self._state.options
        if options.max_entries is not None and len(values) > options.max_entries:
            raise InvalidValueError(
                "values",
                f"are {len(values):,}, more than cache_max_entries={options.max_entries} allows; set fewer at once",
            )
        if options.max_bytes is not None and size > options.max_bytes:
            raise InvalidValueError(
                "value",
                f"takes {size:,} bytes, more than the whole cache may (cache_max_bytes={options.max_bytes:,})",
            )


def _is_met(only_if: Condition, old: Old) -> bool:
    """Whether a write may be done, given what is stored."""
    versions = [version for _, version, live in old.values() if live]
    if isinstance(only_if, int):
        return versions == [only_if]
    return only_if is None or bool(versions) == (only_if == "present")
