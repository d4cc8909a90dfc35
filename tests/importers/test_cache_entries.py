"""`importers.cache_entries`: a cache comes back from a file, all of it or nothing."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from statestore import NEVER, InvalidValueError, StateStore
from statestore.importers import CacheReport, cache_entries
from statestore.importers.cache_files import dump


@pytest.fixture
def file(store: StateStore, tmp_path: Path) -> Path:
    """The export of a cache that has been emptied since."""
    for n in range(120):
        store.cache.set(f"k{n:03}", {"n": n}, tags=[f"t{n % 3}"])
    path = tmp_path / "cache.jsonl"
    path.write_bytes(b"".join(dump(entry) for entry in store.cache.entries(limit=1000)))
    store.cache.clear()
    return path


def values(store: StateStore) -> dict[str, Any]:
    return {entry.key: entry.value for entry in store.cache.entries(limit=1000)}


ALL = {f"k{n:03}": {"n": n} for n in range(120)}


def test_every_entry_comes_back_once_however_often(store: StateStore, file: Path) -> None:
    assert cache_entries(store, file) == CacheReport(restored=120, expired=0, newer=0)
    assert values(store) == ALL
    assert cache_entries(store, str(file)).expired == 0
    with file.open("rb") as opened:
        cache_entries(store, opened)
    assert values(store) == ALL
    assert store.cache.invalidate_tag("t1") == 40


def test_what_was_set_since_stays_and_what_has_expired_is_left_out(store: StateStore, file: Path) -> None:
    store.cache.set("k000", "theirs")
    lines = file.read_text().splitlines(keepends=True)
    old = json.loads(lines[1])
    old |= {"created_at": "2020-01-01T00:00:00Z", "expires_at": "2020-01-01T01:00:00Z"}
    lines[1] = json.dumps(old) + "\n"
    file.write_text("".join(lines))
    assert cache_entries(store, file) == CacheReport(restored=118, expired=1, newer=1)
    expected = ALL | {"k000": "theirs"}
    del expected["k001"]
    assert values(store) == expected


@pytest.mark.parametrize(
    "bad", ["{broken", "{}", '{"key": "", "codec": "json", "value": 1, "created_at": "2030-01-01"}']
)
def test_all_or_none(store: StateStore, file: Path, bad: str) -> None:
    with file.open("a") as opened:
        opened.write(bad + "\n")
    with pytest.raises(InvalidValueError) as caught:
        cache_entries(store, file)
    assert str(caught.value).startswith(f"{file}: line 121: ")
    assert values(store) == {}


def test_entries_of_conexus_live_as_long_as_is_said(store: StateStore, tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    created = datetime.now(UTC) - timedelta(minutes=90)
    path.write_text(json.dumps({"k": {"Key": "k", "Output": "out", "CreatedAt": created.isoformat()}}))
    assert cache_entries(store, path) == CacheReport(restored=0, expired=1, newer=0)  # An hour by default.
    assert cache_entries(store, path, ttl=timedelta(hours=2), format="conexus").restored == 1
    entry = store.cache.entry("k")
    assert entry is not None
    assert (entry.value, entry.created_at, entry.expires_at) == ("out", created, created + timedelta(hours=2))
    store.cache.clear()
    assert cache_entries(store, io.BytesIO(path.read_bytes()), ttl=NEVER).restored == 1
    entry = store.cache.entry("k")
    assert entry is not None
    assert entry.expires_at is None


@pytest.mark.parametrize(("name", "value"), [("format", "xml"), ("ttl", timedelta(0)), ("ttl", 5)])
def test_an_argument_that_cannot_be_used_is_named(store: StateStore, file: Path, name: str, value: Any) -> None:
    arguments: Any = {name: value}
    with pytest.raises(InvalidValueError, match=rf"^{name}: "):
        cache_entries(store, file, **arguments)
    assert values(store) == {}


def test_a_file_that_cannot_be_opened_is_named(store: StateStore, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InvalidValueError, match=str(path)):
            cache_entries(store, path)
