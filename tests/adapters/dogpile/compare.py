"""Beside the backend on a DBM file: dogpile.cache has none on a SQL database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from dogpile.cache import make_region

from tests.adapters.comparing import Operations

VALUE = {"answer": "Sunny in the morning, rain from four.", "tokens": 812}


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Operations]:
    region = make_region().configure("statestore", expiration_time=3600, arguments={"url": url})
    yield operations(region)
    region.backend.close()


@asynccontextmanager
async def theirs(url: str) -> AsyncIterator[Operations]:
    with TemporaryDirectory() as folder:
        arguments = {"filename": f"{folder}/cache.dbm"}
        yield operations(make_region().configure("dogpile.cache.dbm", expiration_time=3600, arguments=arguments))


def operations(region: Any) -> Operations:
    many = {f"many {number}": VALUE for number in range(20)}
    region.set("k", VALUE)
    region.set_multi(many)
    return {
        "get": lambda: region.get("k"),
        "get_multi of 20": lambda: region.get_multi(list(many)),
        "set": lambda: region.set("k", VALUE),
        "set_multi of 20": lambda: region.set_multi(many),
        "delete": lambda: region.delete("k2"),
        "get_or_create, there": lambda: region.get_or_create("many 1", dict),
        "get_or_create, made": lambda: region.get_or_create(uuid4().hex, dict),
    }
