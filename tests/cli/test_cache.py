"""`statestore cache`."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from statestore import NEVER
from tests.cli.conftest import CommandLine


@pytest.fixture
def filled(cli: CommandLine) -> CommandLine:
    with cli.store() as store:
        store.cache.set("a", {"z": 1, "a": [None]}, tags=["t", "u"], agent_name="x", request="Why?", ttl=NEVER)
        store.cache.set("b", "text", tags=["t"], agent_name="x", content_hash="h")
        store.cache.set("c\x1b[31m", b"\0\xff", agent_name="y", metadata={"m": 1}, ttl=timedelta(days=1))
        store.cache.get("a")
        store.cache.get("a")
        store.cache.get("missing")
    return cli


def keys(cli: CommandLine) -> list[str]:
    with cli.store() as store:
        return [entry.key for entry in store.cache.entries()]


def conexus_entry(key: str, created_at: str, **fields: Any) -> dict[str, Any]:
    """As Conexus writes it: Go's names, Go's times."""
    return {
        "Key": key,
        "Output": {"schema": "AGENT_OUTPUT_V1", "task_summary": key, "confidence": 0.5},
        "Metadata": {"Agent": "locator", "Request": f"find {key}", "ContentHash": "abc", "Tags": ["go", key]},
        "CreatedAt": created_at,
        "LastAccessed": created_at,
        "AccessCount": 3,
        **fields,
    }


LINE = '{"key": "other", "codec": "str", "value": "SECRET", "created_at": "2026-01-01T00:00:00Z"}'


def test_statistics(filled: CommandLine) -> None:
    lines = [line.split() for line in filled("cache", "stats").stdout.splitlines()]
    assert lines[0][:4] == ["AGENT", "ENTRIES", "BYTES", "HITS"]
    assert [line[0] for line in lines[1:]] == ["-", "x", "y", "total"]
    assert lines[-1][1:6] == ["3", "24", "2", "1", "66.7%"]
    found = json.loads(filled("cache", "stats", "--json").stdout)
    assert (found["entries"], found["hits"], found["misses"], found["sets"]) == (3, 2, 1, 3)
    assert found["hit_rate"] == pytest.approx(2 / 3)
    assert {agent["agent_name"]: agent["entries"] for agent in found["by_agent"]} == {None: 0, "x": 2, "y": 1}


def test_listing(filled: CommandLine) -> None:
    out = filled("cache", "ls").stdout
    assert "\x1b" not in out
    assert [line.split()[0] for line in out.splitlines()] == ["KEY", "a", "b", "c\\x1b[31m"]
    assert out.splitlines()[1].split()[1:4] == ["x", "18", "2"]
    assert "never" in out.splitlines()[1]
    first = filled("cache", "ls", "--limit", "1")
    assert "--after a" in first.stderr
    found = json.loads(filled("cache", "ls", "--after", "a", "--json").stdout)
    assert [entry["key"] for entry in found["entries"]] == ["b", "c\x1b[31m"]
    assert "value" not in found["entries"][0]
    assert len(filled("cache", "ls", "--tag", "u").stdout.splitlines()) == 2
    assert len(filled("cache", "ls", "--agent", "y").stdout.splitlines()) == 2
    assert "no matching" in filled("cache", "ls", "--agent", "z").stderr


def test_the_longest_listing(cli: CommandLine) -> None:
    with cli.store(cache_max_entries=None) as store:
        store.cache.set_many({f"k{n:05}": n for n in range(10_001)})
    found = cli("cache", "ls", "--limit", "10000", "--json")
    assert len(json.loads(found.stdout)["entries"]) == 10_000
    assert json.loads(found.stdout)["more"] is True
    rest = json.loads(cli("cache", "ls", "--limit", "1", "--after", "k09999", "--json").stdout)
    assert (len(rest["entries"]), rest["more"]) == (1, False)


def test_reading(filled: CommandLine) -> None:
    assert filled("cache", "get", "a").stdout == '{"z":1,"a":[null]}\n'
    assert filled("cache", "get", "b").stdout == "text\n"
    assert filled("cache", "get", "c\x1b[31m").stdout_bytes == b"\0\xff"
    found = json.loads(filled("cache", "get", "a", "--json").stdout)
    assert (found["value"], found["tags"], found["request"]) == ({"z": 1, "a": [None]}, ["t", "u"], "Why?")
    assert (found["access_count"], found["expires_at"]) == (2, None)
    assert "'none'" in filled("cache", "get", "none", code=1).stderr
    with filled.store() as store:
        assert store.cache.stats().hits == 2


def test_setting(cli: CommandLine) -> None:
    with cli.store():
        pass
    cli("cache", "set", "a", '{"b": [1, null]}', "--ttl", "10m", "--tag", "t", "--tag", "u", "--agent", "x")
    cli("cache", "set", "b", "plain", "--text", "--ttl", "never", "--content-hash", "h")
    cli("cache", "set", "c", "-", input="[1]")
    with cli.store() as store:
        a, b, c = store.cache.entries()
        assert (a.value, a.tags, a.agent_name) == ({"b": [1, None]}, ("t", "u"), "x")
        assert a.expires_at - a.created_at == timedelta(minutes=10)
        assert (b.value, b.expires_at, b.content_hash) == ("plain", None, "h")
        assert c.value == [1]
        assert c.expires_at - c.created_at == timedelta(hours=1)
    assert "--text" in cli("cache", "set", "a", "plain", code=1).stderr
    cli("cache", "set", "a", "1", "--ttl", "0s", code=2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1" * 4301, "4,300 digits"),
        ('{"a": 1, "a": 2}', "twice"),
        ("NaN", "NaN"),
        ("[" * 100_000, "nested"),
    ],
)
def test_what_is_not_exact_json_is_not_set(cli: CommandLine, value: str, message: str) -> None:
    assert message in cli("cache", "set", "a", "-", input=value, code=1).stderr
    with cli.store() as store:
        assert store.cache.entries() == []


def test_setting_evicts_nothing(cli: CommandLine) -> None:
    with cli.store(cache_max_entries=None) as store:
        store.cache.set_many({f"k{n:04}": n for n in range(1100)})
    cli("cache", "set", "one more", "1")
    assert len(keys(cli)) == 100
    with cli.store() as store:
        assert store.cache.stats().entries == 1101


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["a", "b", "unknown"], ["c\x1b[31m"]),
        (["--tag", "t"], ["c\x1b[31m"]),
        (["--tag", "t", "--tag", "u", "--all-tags"], ["b", "c\x1b[31m"]),
        (["--agent", "y"], ["a", "b"]),
        (["--content-hash", "h"], ["a", "c\x1b[31m"]),
    ],
)
def test_invalidating(filled: CommandLine, arguments: list[str], left: list[str]) -> None:
    out = filled("cache", "invalidate", *arguments).stdout
    assert keys(filled) == left
    removed = 3 - len(left)
    assert out == f"invalidated {removed} {'entry' if removed == 1 else 'entries'}\n"


def test_an_unclear_invalidation_is_refused(filled: CommandLine) -> None:
    for arguments in ([], ["a", "--tag", "t"], ["--agent", "x", "--content-hash", "h"], ["a", "--all-tags"]):
        filled("cache", "invalidate", *arguments, code=2)
    assert len(keys(filled)) == 3


def test_clearing_asks(filled: CommandLine) -> None:
    filled("cache", "clear", input="n\n", code=1)
    assert len(keys(filled)) == 3
    assert json.loads(filled("cache", "clear", "--yes", "--json").stdout) == {"removed": 3}
    assert keys(filled) == []


def test_evicting(filled: CommandLine) -> None:
    with filled.store(clock=lambda: datetime.now(UTC) - timedelta(days=9)) as store:
        store.cache.set("gone", 1)
    assert filled("cache", "evict").stdout == "evicted 1 entry\n"
    assert len(keys(filled)) == 3
    assert filled("cache", "evict", "--max-entries", "1").stdout == "evicted 2 entries\n"
    assert keys(filled) == ["a"]  # The only one that was used.
    assert filled("cache", "evict", "--max-bytes", "1").stdout == "evicted 1 entry\n"


def test_what_is_exported_comes_back(filled: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "cache.jsonl"
    filled("cache", "set", "lone", "null")
    assert filled("cache", "export", str(file)).stdout == f"exported 4 entries to {file}\n"
    assert file.stat().st_mode & 0o077 == 0
    assert "--replace" in filled("cache", "export", str(file), code=1).stderr
    with filled.store() as store:
        before = store.cache.entries()
        store.cache.clear()
        store.cache.set("a", "other", tags=["other"])
    left_out = "; left out 1 entry set again since"
    assert filled("cache", "import", str(file)).stdout == f"imported 3 entries from {file}{left_out}\n"
    with filled.store() as store:
        assert store.cache.get("a") == "other"
        assert store.cache.invalidate_tag("other") == 1
    assert filled("cache", "import", str(file)).stdout == f"imported 4 entries from {file}\n"
    with filled.store() as store:
        assert store.cache.entries() == before
        assert store.cache.invalidate_tag("t") == 2
    again = filled("cache", "export", "-")
    assert len(again.stdout.splitlines()) == 2
    assert "exported 2 entries" in again.stderr
    assert len(filled("cache", "export", "-", "--agent", "y").stdout.splitlines()) == 1


def test_what_has_expired_meanwhile_is_left_out(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "cache.jsonl"
    long_ago = datetime.now(UTC) - timedelta(days=9)
    with cli.store(clock=lambda: long_ago) as store:
        store.cache.set("gone", 1)
        store.cache.set("there", 2, ttl=NEVER)
        entries = store.cache.entries()
    from statestore.importers import cache_files

    file.write_bytes(b"".join(map(cache_files.dump, entries)))
    found = json.loads(cli("cache", "import", str(file), "--json").stdout)
    assert (found["imported"], found["expired"]) == (1, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "line 2: is not JSON"),
        ("[1]", "line 2: is not a cache entry"),
        ('{"key": "k"}', "line 2: is not a cache entry"),
        ('{"key": "k", "codec": "bytes", "value": "?", "created_at": "2026-01-01T00:00:00Z"}', "base64"),
        ('{"key": "k", "codec": "pickle", "value": "", "created_at": "2026-01-01T00:00:00Z"}', "codec"),
        ('{"key": "k", "codec": "json", "value": 1, "created_at": "soon"}', "line 2: has a time"),
        ('{"key": 1, "codec": "json", "value": 1, "created_at": "2026-01-01T00:00:00Z"}', "line 2: key"),
        (LINE.replace('"SECRET"', "1" * 5000), "line 2: contains an integer of more than 4,300 digits"),
        (LINE.replace('"SECRET"', "NaN"), "line 2: contains NaN"),
        (
            LINE.replace('"str", "value": "SECRET"', '"json", "value": 1e999'),
            "line 2: contains a number that is too large",
        ),
        (
            LINE.replace('"str", "value": "SECRET"', f'"json", "value": {"[" * 300}{"]" * 300}'),
            "line 2: is nested",
        ),
        (LINE.replace('"SECRET"', '{"a": 1, "a": 2}'), "line 2: has an object with the same key twice"),
        (LINE.replace("str", "SECRET"), "line 2: has a value that does not match its codec"),
        (LINE.replace("str", "SECRET" * 500), "line 2: has a value that does not match its codec"),
        (LINE[:-1] + ', "expires_at": "SECRET"}', "line 2: has a time"),
        (LINE[:-1] + ', "expires_at": "2500-01-01T00:00:00Z"}', "line 2: expires_at"),
        (LINE[:-1] + ', "access_count": 9223372036854775807}', "line 2: access_count"),
        (LINE[:-1] + ', "metadata": ["SECRET"]}', "line 2: metadata"),
        (LINE[:-1] + ', "metadata": []}', "line 2: metadata"),
        (LINE[:-1] + ', "tags": ["SECRET", 1]}', "line 2: tags"),
        (LINE[:-1] + ', "agent_name": 5}', "line 2: agent_name"),
        (LINE[:60], "line 2: is not JSON"),
    ],
)
def test_a_broken_line_stops_the_import(filled: CommandLine, tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "cache.jsonl"
    good = '{"key": "new", "codec": "json", "value": 1, "created_at": "2026-01-01T00:00:00Z"}'
    file.write_text(f"{good}\n{line}\n")
    error = filled("cache", "import", str(file), code=1).stderr
    assert message in error
    assert "SECRET" not in error
    assert "new" not in keys(filled)


def test_an_export_that_was_cut_off_in_its_first_line_is_known(filled: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "cache.jsonl"
    for length in (15, 30, len(LINE) - 1):
        file.write_text(LINE[:length])
        assert "line 1: is not JSON" in filled("cache", "import", str(file), code=1).stderr


def test_the_cache_of_conexus_is_imported(cli: CommandLine, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    recent, old = ((now - timedelta(minutes=age)).strftime("%Y-%m-%dT%H:%M:%S.123456789+00:00") for age in (10, 90))
    file = tmp_path / "cache.json"
    saved = {
        "k1": conexus_entry("k1", recent),
        "k2": conexus_entry("k2", old),
        "k3": conexus_entry("k3", recent, Output=None, Metadata={"Agent": "", "Request": "", "Tags": None}),
    }
    file.write_text(json.dumps(saved, indent=2))
    assert "imported 2 entries" in cli("cache", "import", str(file)).stdout
    with cli.store() as store:
        k1, k3 = store.cache.entries()
        assert k1.value == saved["k1"]["Output"]
        assert (k1.agent_name, k1.request, k1.content_hash) == ("locator", "find k1", "abc")
        assert (k1.tags, k1.access_count) == (("go", "k1"), 3)
        assert k1.expires_at - k1.created_at == timedelta(hours=1)
        assert k1.created_at.microsecond == 123456
        assert (k3.value, k3.agent_name, k3.tags) == (None, None, ())
        assert store.cache.invalidate_content_hash("abc") == 1
    assert "imported 3 entries" in cli("cache", "import", str(file), "--ttl", "never").stdout
    assert keys(cli) == ["k1", "k2", "k3"]


def test_other_spellings_of_conexus_are_understood(cli: CommandLine, tmp_path: Path) -> None:
    created = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    file = tmp_path / "cache.json"
    entries = [
        {"key": "a", "response": "text", "agent_id": "x", "created_at": created, "access_count": 1, "tags": ["t"]},
        {"key": "b", "value": [1], "createdAt": created, "lastAccessed": "0001-01-01T00:00:00Z", "ttl": 120 * 10**9},
        {"key": "c", "result": 1, "createdAt": created, "expiresAt": created},
    ]
    file.write_text(json.dumps({"entries": entries}))
    assert "imported 2 entries" in cli("cache", "import", str(file), "--format", "conexus").stdout
    with cli.store() as store:
        a, b = store.cache.entries()
        assert (a.value, a.agent_name, a.tags, a.access_count) == ("text", "x", ("t",), 1)
        assert b.expires_at - b.created_at == timedelta(minutes=2)
        assert b.last_accessed_at == b.created_at


@pytest.mark.parametrize("text", ["no json", "7", '{"k": 1}', '{"k": {"Key": "k"}}'])
def test_what_is_no_cache_of_conexus_is_refused(cli: CommandLine, tmp_path: Path, text: str) -> None:
    file = tmp_path / "cache.json"
    file.write_text(text)
    assert cli("cache", "import", str(file), code=1).stderr.startswith("error: ")


def test_a_file_is_read_line_by_line_and_no_line_without_end(
    sqlite_cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statestore.checking.json_files.MAX_BYTES", 1000)
    file = tmp_path / "cache.jsonl"
    line = '{"key": "%s", "codec": "str", "value": "%s", "created_at": "2026-01-01T00:00:00Z", "expires_at": null}\n'
    file.write_text("".join(line % (n, "x") for n in range(50)))
    assert "imported 50 entries" in sqlite_cli("cache", "import", str(file)).stdout
    file.write_text(line % (1, "x") + line % (2, "x" * 5000) + line % (3, "x"))
    assert f"{file}: line 2: is longer than 1,000 bytes" in sqlite_cli("cache", "import", str(file), code=1).stderr
    conexus = tmp_path / "cache.json"
    conexus.write_text('{"k": {"Key": "k", "Output": "' + "x" * 2000 + '", "CreatedAt": "2026-01-01T00:00:00Z"}}')
    assert f"{conexus}: cache.json: is longer" in sqlite_cli("cache", "import", str(conexus), code=1).stderr
