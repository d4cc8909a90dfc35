"""Any sequence of operations leaves what a plain model in memory says.

`STATESTORE_HYPOTHESIS_PROFILE=long` tries far more.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from statestore import MISSING, NEVER, CacheItem
from tests.contract.test_cache_memoize import memoize
from tests.support.clock import MovableClock

common = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True, "database": None}
PROFILES = {
    "ci": settings(max_examples=15, stateful_step_count=40, phases=[Phase.generate], **common),
    "long": settings(max_examples=500, stateful_step_count=60, **common),
}

LIMIT = 5
KEYS = st.sampled_from([f"k{n}" for n in range(8)])
TAGS = st.sets(st.sampled_from(["t", "u", "v"]))
NAMES = st.sampled_from([None, "a", "b"])
TTLS = st.sampled_from([None, timedelta(seconds=10), 30, NEVER])
AMOUNTS = st.sampled_from([1, 1, -3, 0.5])
DEFAULT_TTL = timedelta(seconds=100)


@dataclass(frozen=True)
class Held:
    value: Any
    tags: frozenset[str]
    agent_name: str | None
    content_hash: str | None
    expires_at: datetime | None
    used: int
    hits: int = 0
    version: int = 0


class Undo(Exception):
    pass


class CacheMachine(RuleBasedStateMachine):
    """A cache of five entries, beside a dictionary that does the same in the simplest way."""

    open_store: Any
    namespaces = itertools.count()

    @initialize()
    def begin(self) -> None:
        self.clock = MovableClock()
        self.namespace = f"run {next(self.namespaces)}"
        self.store = type(self).open_store(
            clock=self.clock,
            namespace=self.namespace,
            cache_max_entries=LIMIT,
            cache_default_ttl=DEFAULT_TTL,
        )
        self.groups = [self.store.cache]
        self.model: dict[str, Held] = {}
        self.counts = dict.fromkeys(("hits", "misses", "sets", "removed"), 0)
        self.ticks = itertools.count()
        self.values = itertools.count()
        self.versions = itertools.count(1)
        # Of a version of the model, what the store calls it.
        self.known: dict[int, int] = {}

    @property
    def cache(self) -> Any:
        return self.groups[-1]

    # The model

    def live(self) -> dict[str, Held]:
        now = self.clock.now
        return {key: held for key, held in self.model.items() if held.expires_at is None or held.expires_at > now}

    def end(self, ttl: Any) -> datetime | None:
        if isinstance(ttl, int):
            ttl = timedelta(seconds=ttl)
        return None if ttl is NEVER else self.clock.now + (DEFAULT_TTL if ttl is None else ttl)

    def put(self, key: str, value: Any, ttl: Any, **rest: Any) -> None:
        if key not in self.model and len(self.model) >= LIMIT:
            self.make_room(1)
        used, version = next(self.ticks), next(self.versions)
        self.model[key] = Held(value, expires_at=self.end(ttl), used=used, version=version, **rest)
        self.counts["sets"] += 1

    def make_room(self, wanted: int, keep: tuple[str, ...] = ()) -> None:
        live = self.live()
        self.model = {key: held for key, held in self.model.items() if key in live or key in keep}
        while len(self.model) + wanted > LIMIT:
            victims = {key: held for key, held in self.model.items() if key not in keep}
            del self.model[min(victims, key=lambda key: victims[key].used)]

    def remove(self, condition: Any) -> int:
        doomed = [key for key, held in self.model.items() if condition(held)]
        living = self.live()
        for key in doomed:
            del self.model[key]
        return sum(key in living for key in doomed)

    def read(self, key: str) -> Any:
        held = self.live().get(key)
        self.counts["misses" if held is None else "hits"] += 1
        if held is None:
            return MISSING
        self.model[key] = replace(held, used=next(self.ticks), hits=held.hits + 1)
        return held.value

    # What can be done

    @rule(key=KEYS, ttl=TTLS, tags=TAGS, agent_name=NAMES, content_hash=NAMES)
    def set_one(self, key: str, ttl: Any, tags: set[str], agent_name: str | None, content_hash: str | None) -> None:
        value = next(self.values)
        rest = {"agent_name": agent_name, "content_hash": content_hash}
        self.cache.set(key, value, ttl=ttl, tags=tags, **rest)
        self.put(key, value, ttl, tags=frozenset(tags), **rest)

    @rule(keys=st.lists(KEYS, unique=True, min_size=2, max_size=LIMIT), ttl=TTLS, tags=TAGS)
    def set_many(self, keys: list[str], ttl: Any, tags: set[str]) -> None:
        values = {key: next(self.values) for key in keys}
        self.cache.set_many(values, ttl=ttl, tags=tags)
        new = sum(key not in self.model for key in keys)
        if new and len(self.model) + new > LIMIT:
            self.make_room(new, keep=tuple(keys))
        for key, value in values.items():
            self.model.pop(key, None)
            self.put(key, value, ttl, tags=frozenset(tags), agent_name=None, content_hash=None)

    @rule(key=KEYS, ttl=TTLS, tags=TAGS)
    def add(self, key: str, ttl: Any, tags: set[str]) -> None:
        value, absent = next(self.values), key not in self.live()
        assert self.cache.add(key, value, ttl=ttl, tags=tags) is absent
        if absent:
            self.put(key, value, ttl, tags=frozenset(tags), agent_name=None, content_hash=None)

    @rule(key=KEYS, ttl=TTLS, tags=TAGS, only_if=st.sampled_from(["missing", "present"]))
    def set_if(self, key: str, ttl: Any, tags: set[str], only_if: str) -> None:
        value, expected = next(self.values), (key in self.live()) == (only_if == "present")
        assert self.cache.set(key, value, ttl=ttl, tags=tags, only_if=only_if) is expected
        if expected:
            self.put(key, value, ttl, tags=frozenset(tags), agent_name=None, content_hash=None)

    @rule(key=KEYS, other=KEYS, ttl=TTLS, tags=TAGS)
    def set_version(self, key: str, other: str, ttl: Any, tags: set[str]) -> None:
        """On the version of this key or, mostly in vain, of another one."""
        value, live = next(self.values), self.live()
        wanted = live[other].version if other in live else 0
        expected = wanted == (live[key].version if key in live else 0)
        version = self.known[wanted] if wanted else 0
        assert self.cache.set(key, value, ttl=ttl, tags=tags, expected_version=version) is expected
        if expected:
            self.put(key, value, ttl, tags=frozenset(tags), agent_name=None, content_hash=None)

    @rule(keys=st.lists(KEYS, unique=True, min_size=1, max_size=LIMIT), data=st.data(), ttl=TTLS, tags=TAGS)
    def set_items(self, keys: list[str], data: st.DataObject, ttl: Any, tags: set[str]) -> None:
        items = {key: CacheItem(next(self.values), ttl=data.draw(TTLS), tags=data.draw(TAGS)) for key in keys}
        self.cache.set_many(items, ttl=ttl, tags=tags)
        new = sum(key not in self.model for key in keys)
        if new and len(self.model) + new > LIMIT:
            self.make_room(new, keep=tuple(keys))
        for key, item in items.items():
            self.model.pop(key, None)
            life = ttl if item.ttl is None else item.ttl
            self.put(key, item.value, life, tags=frozenset({*tags, *item.tags}), agent_name=None, content_hash=None)

    @rule(key=KEYS, by=AMOUNTS, ttl=TTLS)
    def increment(self, key: str, by: float, ttl: Any) -> None:
        held = self.live().get(key)
        if held is None:
            assert self.cache.increment(key, by, initial=100, ttl=ttl) == 100 + by
            self.put(key, 100 + by, ttl, tags=frozenset(), agent_name=None, content_hash=None)
            return
        assert self.cache.increment(key, by, ttl=ttl) == held.value + by
        self.model[key] = replace(
            held,
            value=held.value + by,
            expires_at=held.expires_at if ttl is None else self.end(ttl),
            used=next(self.ticks),
            version=next(self.versions),
            hits=0,
        )
        self.counts["sets"] += 1

    @rule(key=KEYS, ttl=TTLS)
    def touch(self, key: str, ttl: Any) -> None:
        held = self.live().get(key)
        assert self.cache.touch(key, ttl) is (held is not None)
        if held is not None:
            self.model[key] = replace(held, expires_at=self.end(ttl))

    @rule(key=KEYS)
    def pop(self, key: str) -> None:
        expected = self.read(key)
        self.counts["removed"] += expected is not MISSING
        self.model.pop(key, None)
        assert self.cache.pop(key, MISSING) == expected

    @rule(key=KEYS)
    def look(self, key: str) -> None:
        held = self.live().get(key)
        assert self.cache.exists(key) is (held is not None)
        end = None if held is None else held.expires_at
        assert self.cache.ttl(key) == (None if held is None else NEVER if end is None else end - self.clock.now)

    @rule(keys=st.lists(KEYS, max_size=4))
    def invalidate_many(self, keys: list[str]) -> None:
        expected = self.remove_keys(lambda key: key in keys)
        assert self.cache.invalidate_many(keys) == expected

    @rule(prefix=st.sampled_from(["k", "k1", "k6", "x"]), often=st.integers(0, 3))
    def invalidate_prefix(self, prefix: str, often: int) -> None:
        if often == 0:
            expected = self.remove_keys(lambda key: key.startswith(prefix))
            assert self.cache.invalidate_prefix(prefix) == expected

    def remove_keys(self, condition: Any) -> int:
        living = self.live()
        doomed = [key for key in self.model if condition(key)]
        for key in doomed:
            del self.model[key]
        self.counts["removed"] += sum(key in living for key in doomed)
        return sum(key in living for key in doomed)

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        assert self.cache.get(key, MISSING) == self.read(key)

    @rule(keys=st.lists(KEYS, max_size=4))
    def get_many(self, keys: list[str]) -> None:
        expected = {key: self.read(key) for key in dict.fromkeys(keys)}
        found = self.cache.get_many(keys)
        assert found == {key: value for key, value in expected.items() if value is not MISSING}

    @rule(key=KEYS)
    def get_or_compute(self, key: str) -> None:
        value = next(self.values)
        found = self.read(key)
        if found is MISSING:
            found = value
            self.put(key, value, None, tags=frozenset(), agent_name=None, content_hash=None)
        assert self.cache.get_or_compute(key, lambda: value) == found

    @rule(key=KEYS, ttl=TTLS, tags=TAGS, times=st.integers(1, 2), invalidated=st.booleans())
    def memoize(self, key: str, ttl: Any, tags: set[str], times: int, invalidated: bool) -> None:
        value = next(self.values)
        kept = memoize(self.store, lambda key: value, ttl=ttl, tags=tags, key=lambda key: key)
        for _ in range(times):
            found = self.read(key)
            if found is MISSING:
                found = value
                self.put(key, value, ttl, tags=frozenset(tags), agent_name=None, content_hash=None)
            assert kept(key) == found
        if invalidated:
            assert kept.invalidate(key) == self.remove_keys(lambda one: one == key)

    @rule(often=st.integers(0, 9))
    def drop_namespace(self, often: int) -> None:
        if often == 0:
            self.cache.flush()
            self.store.drop_namespace(self.namespace)
            self.model, self.known = {}, {}
            self.counts = dict.fromkeys(self.counts, 0)

    @rule(seconds=st.sampled_from([0, 1, 10, 30]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    @rule(key=KEYS)
    def invalidate(self, key: str) -> None:
        assert self.cache.invalidate(key) == self.remove_keys(lambda one: one == key)

    @rule(tags=TAGS, match=st.sampled_from(["any", "all"]))
    def invalidate_tags(self, tags: set[str], match: str) -> None:
        if len(tags) == 1:
            found = self.cache.invalidate_tag(next(iter(tags)))
        else:
            found = self.cache.invalidate_tags(tags, match=match)
        if match == "all" and tags:
            assert found == self.remove(lambda held: held.tags >= tags)
        else:
            assert found == self.remove(lambda held: bool(held.tags & tags))

    @rule(name=st.sampled_from(["a", "b"]))
    def invalidate_agent(self, name: str) -> None:
        assert self.cache.invalidate_agent(name) == self.remove(lambda held: held.agent_name == name)

    @rule(name=st.sampled_from(["a", "b"]))
    def invalidate_content_hash(self, name: str) -> None:
        assert self.cache.invalidate_content_hash(name) == self.remove(lambda held: held.content_hash == name)

    @rule()
    def evict(self) -> None:
        before = len(self.model)
        self.make_room(0)
        assert self.cache.evict() == before - len(self.model)

    @rule(often=st.integers(0, 9))
    def clear(self, often: int) -> None:
        if often == 0:
            assert self.cache.clear() == self.remove(lambda held: True)

    @rule()
    def flush(self) -> None:
        if len(self.groups) == 1:
            self.cache.flush()

    @rule(data=st.data(), undone=st.booleans(), length=st.integers(1, 5))
    def transaction(self, data: st.DataObject, undone: bool, length: int) -> None:
        before = dict(self.model), dict(self.counts)
        steps = [
            lambda: self.set_one(data.draw(KEYS), data.draw(TTLS), data.draw(TAGS), data.draw(NAMES), None),
            lambda: self.add(data.draw(KEYS), data.draw(TTLS), data.draw(TAGS)),
            lambda: self.get(data.draw(KEYS)),
            lambda: self.invalidate(data.draw(KEYS)),
            lambda: self.invalidate_tags(data.draw(TAGS), "any"),
            lambda: self.set_many(data.draw(st.lists(KEYS, unique=True, min_size=2, max_size=3)), None, {"t"}),
            self.evict,
            lambda: self.increment(data.draw(KEYS), data.draw(AMOUNTS), data.draw(TTLS)),
            lambda: self.set_if(data.draw(KEYS), None, data.draw(TAGS), "present"),
            lambda: self.set_version(data.draw(KEYS), data.draw(KEYS), None, set()),
            lambda: self.touch(data.draw(KEYS), data.draw(TTLS)),
            lambda: self.pop(data.draw(KEYS)),
            lambda: self.invalidate_many(data.draw(st.lists(KEYS, max_size=3))),
        ]
        with self.inside():
            for _ in range(length):
                data.draw(st.sampled_from(steps))()
                self.same()
            if undone:
                self.model, self.counts = before
                raise Undo

    @contextmanager
    def inside(self) -> Iterator[None]:
        try:
            with self.store.transaction() as tx:
                self.groups.append(tx.cache)
                try:
                    yield
                finally:
                    self.groups.pop()
        except Undo:
            pass

    # What has to hold

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "store"):
            return
        entries = self.cache.entries()
        expected = self.live()
        assert {entry.key: entry.value for entry in entries} == {key: held.value for key, held in expected.items()}
        assert {entry.key: frozenset(entry.tags) for entry in entries} == {k: h.tags for k, h in expected.items()}
        assert {entry.key: entry.access_count for entry in entries} == {k: h.hits for k, h in expected.items()}
        assert {entry.key: entry.expires_at for entry in entries} == {k: h.expires_at for k, h in expected.items()}
        assert self.cache.keys() == sorted(expected)
        for entry in entries:
            # The same write has the same version, and another write has another one.
            assert self.known.setdefault(expected[entry.key].version, entry.version) == entry.version
        assert len(set(self.known.values())) == len(self.known)
        stats = self.cache.stats()
        assert stats.entries == len(expected)
        counts = {"hits": stats.hits, "misses": stats.misses, "sets": stats.sets}
        assert counts | {"removed": stats.invalidations["key"]} == self.counts

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


def test_the_cache_does_what_the_model_does(open_store: Any) -> None:
    machine = type("Machine", (CacheMachine,), {"open_store": staticmethod(open_store)})
    profile = PROFILES[os.environ.get("STATESTORE_HYPOTHESIS_PROFILE", "ci")]
    run_state_machine_as_test(machine, settings=profile)  # type: ignore[no-untyped-call]


def test_the_model_would_see_a_wrong_order(open_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a cache that evicts in the order of creation does not pass."""
    from statestore.repositories.cache import limits

    monkeypatch.setattr(limits.Pending, "hit", lambda *args: None)
    machine = type("Machine", (CacheMachine,), {"open_store": staticmethod(open_store)})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=PROFILES["ci"])  # type: ignore[no-untyped-call]
