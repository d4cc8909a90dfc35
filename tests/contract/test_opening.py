"""What a store can be opened with, what it says of what it cannot, and what it tells the network."""

import asyncio
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from statestore import (
    AsyncStateStore,
    DatabaseError,
    InvalidValueError,
    SchemaMissingError,
    StateStore,
    StoreClosedError,
    migrate,
)
from tests.support.content import Content

Store = Any
OWN_ENGINE = pytest.mark.parametrize("world", ["sync", "async"], indirect=True)


@OWN_ENGINE
def test_a_path_is_a_sqlite_file(connect: Callable[..., Store], tmp_path: Path) -> None:
    path = tmp_path / "an agent's #1?.db"
    connect(path).sessions.create("s")
    assert path.exists()
    assert connect(path).sessions.exists("s")


@pytest.mark.parametrize("given", ["sqlite:///x.db", Path("x.db")])
def test_who_hands_a_url_to_the_class_is_sent_to_open(given: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"StateStore\.open"):
        StateStore(given)

    async def use() -> None:
        AsyncStateStore(given)

    with pytest.raises(InvalidValueError, match=r"AsyncStateStore\.open"):
        asyncio.run(use())


@OWN_ENGINE
def test_who_hands_an_engine_to_open_is_sent_to_the_class(connect: Callable[..., Store]) -> None:
    remedy = r"^url: must be a URL or a path, not Engine; a store on an engine: StateStore\(engine\)$"
    with pytest.raises(InvalidValueError, match=remedy):
        connect(create_engine("sqlite://"))


async def test_an_async_store_can_be_entered_as_it_is_opened(sqlite_url: str) -> None:
    async with AsyncStateStore.open(sqlite_url) as store:
        await store.sessions.create("s")
    with pytest.raises(StoreClosedError):
        await store.sessions.exists("s")
    async with asyncio.timeout(30):
        store = await asyncio.create_task(AsyncStateStore.open(sqlite_url))
    assert await store.sessions.exists("s")
    await store.close()
    with pytest.raises(InvalidValueError):
        async with AsyncStateStore.open("mysql://nowhere"):
            pytest.fail("the block must not run")


@OWN_ENGINE
def test_a_file_that_is_no_database_is_named(connect: Callable[..., Store], tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("This is not a database, and it is long enough to tell." * 100)
    with pytest.raises(DatabaseError) as caught:
        connect(f"sqlite:///{path}")
    assert str(path) in str(caught.value)
    assert caught.value.code == "SQLITE_NOTADB"


@pytest.fixture
def file_of_others(tmp_path: Path) -> Path:
    path = tmp_path / "somebody's app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    return path


@OWN_ENGINE
def test_a_file_of_something_else_is_left_as_it_is(connect: Callable[..., Store], file_of_others: Path) -> None:
    before = file_of_others.read_bytes()
    with pytest.raises(SchemaMissingError, match="tables of something else"):
        connect(file_of_others)
    assert file_of_others.read_bytes() == before
    assert os.listdir(file_of_others.parent) == [file_of_others.name]


@OWN_ENGINE
def test_a_file_of_something_else_holds_the_tables_too_if_told_to(
    connect: Callable[..., Store], file_of_others: Path
) -> None:
    connect(file_of_others, create=True).sessions.create("s")
    assert connect(file_of_others).sessions.exists("s")
    assert migrate.differences(f"sqlite:///{file_of_others}") == []


def test_the_command_that_a_file_of_something_else_asks_for_makes_the_tables(file_of_others: Path) -> None:
    with pytest.raises(SchemaMissingError) as caught:
        StateStore.open(file_of_others)
    _, *command = shlex.split(str(caught.value).partition(" with: ")[2])
    subprocess.run([sys.executable, "-m", "statestore", *command], check=True, capture_output=True, timeout=60)
    with StateStore.open(file_of_others) as store:
        store.sessions.create("s")


@OWN_ENGINE
@pytest.mark.parametrize("left", ["nothing", "what SQLite keeps", "what a downgrade leaves"])
def test_an_empty_file_is_nobodys(connect: Callable[..., Store], file_of_others: Path, left: str) -> None:
    path = file_of_others
    if left == "what a downgrade leaves":
        path = path.with_name("own.db")
        migrate.upgrade(f"sqlite:///{path}")
        migrate.downgrade(f"sqlite:///{path}", "base")
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE customers")  # sqlite_sequence remains.
            connection.execute("ANALYZE")
            if left == "nothing":
                path.unlink()
                path.touch()
    connect(path).sessions.create("s")


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_whether_to_make_tables_is_true_or_false(value: Any) -> None:
    with pytest.raises(InvalidValueError, match="create"):
        StateStore.open("sqlite://", create=value)


def parameters(store: Store) -> dict[str, str]:
    """What libpq was told, by its names."""
    target = getattr(store, "_target", store)
    engine = getattr(target._database, "database", target._database).engine
    connection = engine.raw_connection()
    try:
        info = connection.driver_connection.pgconn.info
        return {option.keyword.decode(): option.val.decode() for option in info if option.val is not None}
    finally:
        connection.close()


@OWN_ENGINE
def test_a_peer_that_is_gone_is_noticed_in_time(connect: Callable[..., Store], postgres_url: str) -> None:
    found = parameters(connect(postgres_url))
    assert {name: found[name] for name in found if name.startswith(("keepalives", "tcp_"))} == {
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "25000",
    }


@OWN_ENGINE
def test_a_url_says_itself_how_to_treat_the_network(connect: Callable[..., Store], postgres_url: str) -> None:
    said = {"keepalives_idle": "77", "tcp_user_timeout": "0", "connect_timeout": "4", "application_name": "mine"}
    query = "&".join(f"{name}={value}" for name, value in said.items())
    found = parameters(connect(f"{postgres_url}?{query}"))
    assert {name: found.get(name) for name in said if name != "connect_timeout"} == {
        name: value for name, value in said.items() if name != "connect_timeout"
    }


@OWN_ENGINE
def test_the_log_of_a_file_is_bounded_in_every_connection(connect: Callable[..., Store], sqlite_url: str) -> None:
    store = connect(sqlite_url)
    target = getattr(store, "_target", store)
    connection = getattr(target._database, "database", target._database).engine.raw_connection()
    assert connection.cursor().execute("PRAGMA journal_size_limit").fetchone() == (16 << 20,)
    connection.close()
    with Content(sqlite_url) as content:
        assert content.query("PRAGMA journal_mode") == [{"journal_mode": "wal"}]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "url: is empty; is a variable not set?"),
        ("sqlite://agents.db", "needs a third slash in front of a path: sqlite:///agents.db"),
        ("sqlite://folder/agents.db", "needs a third slash in front of a path: sqlite:///folder/agents.db"),
        ("sqlite:///w.db?timeout=abc", "url: "),
        ("sqlite:///w.db?foo=bar", "url: "),
        ("sqlite:///w.db?mode=ro", "url: "),
        ("postgresql://app@localhost/app?port=abc", "url: "),
        ("postgresql://app:secret@[::1/x", "url: cannot be read; it looks like postgresql://"),
        ("postgresql://app:secret@[::1,h2/x", "url: cannot be read; it looks like postgresql://"),
        ("postgresql://app:x@secret@127.0.0.1:1/x", "one in a user's name or a password is written %40"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(url: str, said: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^url: ") as caught:
        StateStore.open(url)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["no", "false", 1, 0])
def test_whether_to_prepare_statements_is_true_false_or_to_be_found_out(value: object) -> None:
    with pytest.raises(InvalidValueError, match="prepared_statements"):
        StateStore.open("sqlite://", prepared_statements=value)  # type: ignore[arg-type]
