"""What a store can be opened with, what it says of what it cannot, and what it tells the network."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from statestore import AsyncStateStore, DatabaseError, InvalidValueError, StateStore, StoreClosedError
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
    "url",
    [
        "sqlite://agents.db",
        "sqlite:///w.db?timeout=abc",
        "sqlite:///w.db?foo=bar",
        "sqlite:///w.db?mode=ro",
        "postgresql://app@localhost/app?port=abc",
        "postgresql://app:x@secret@127.0.0.1:1/x",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(InvalidValueError, match="url") as caught:
        StateStore.open(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["no", "false", 1, 0])
def test_whether_to_prepare_statements_is_true_false_or_to_be_found_out(value: object) -> None:
    with pytest.raises(InvalidValueError, match="prepared_statements"):
        StateStore.open("sqlite://", prepared_statements=value)  # type: ignore[arg-type]
