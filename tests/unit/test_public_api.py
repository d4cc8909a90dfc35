"""What callers can name is pinned: a change shows as a change of public_api.txt, and belongs into the changelog.

`STATESTORE_UPDATE_SNAPSHOT=1` writes the file anew.
"""

import dataclasses
import inspect
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import statestore
from statestore import (
    AsyncCache,
    AsyncHeldLease,
    AsyncHistory,
    AsyncPrices,
    AsyncSessions,
    AsyncSharedPrices,
    AsyncState,
    AsyncStateStore,
    AsyncTransaction,
    AsyncUsageReports,
    Cache,
    Entry,
    HeldLease,
    History,
    Lease,
    NewEntry,
    Prices,
    Session,
    Sessions,
    SharedPrices,
    State,
    StateStore,
    Summary,
    Transaction,
    Turn,
    Usage,
    UsageReports,
)
from statestore.engine.calls import mode_of
from statestore.operations.base import AsyncGroup, Declared, Group, operation

SNAPSHOT = Path(__file__).with_name("public_api.txt")

PAIRS = [
    (Sessions, AsyncSessions),
    (History, AsyncHistory),
    (State, AsyncState),
    (Cache, AsyncCache),
    (UsageReports, AsyncUsageReports),
    (Prices, AsyncPrices),
    (SharedPrices, AsyncSharedPrices),
    (StateStore, AsyncStateStore),
    (Transaction, AsyncTransaction),
]

# Nobody else calls their constructors, which may change.
MADE_BY_STORES = (Group, AsyncGroup, HeldLease, AsyncHeldLease, Turn)


def members(cls: type) -> dict[str, Any]:
    """The public members of a class, as they stand in it or in what it inherits from, operations unwrapped."""
    found = {}
    ours = [base for base in reversed(cls.__mro__) if base.__module__.partition(".")[0] == "statestore"]
    for name, member in {name: member for base in ours for name, member in vars(base).items()}.items():
        if name != "repository" and (not name.startswith("_") or name == "__init__"):
            if isinstance(member, Declared):
                member = member.method
            elif isinstance(member, classmethod | staticmethod):
                member = member.__func__
            found[name] = member
    return found


def parameters(member: Any) -> str:
    """The parameters as a caller sees them, types included, where the two worlds spell them alike."""
    if not callable(member):
        return "property" if isinstance(member, property) else "attribute"
    signature = inspect.signature(member)
    shown = [parameter for name, parameter in signature.parameters.items() if name not in ("self", "cls")]
    text = str(signature.replace(parameters=shown, return_annotation=inspect.Signature.empty))
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return re.sub(r"(?:typing|collections\.abc|datetime|statestore(?:\.\w+)*|sqlalchemy(?:\.\w+)*)\.(?=\w)", "", text)


@pytest.mark.parametrize(("sync", "awaited"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_worlds_have_the_same_operations_and_parameters(sync: type, awaited: type) -> None:
    def plain(cls: type) -> dict[str, str]:
        return {name: parameters(member).replace("Async", "") for name, member in members(cls).items()}

    ours, theirs = plain(sync), plain(awaited)
    assert ours.keys() == theirs.keys()
    for name in ours:
        if name == "__init__" and not issubclass(sync, StateStore):
            continue
        if name in ("get_or_compute", "run_transaction"):  # their callbacks are coroutine functions
            assert set(_names(sync, name)) == set(_names(awaited, name))
            continue
        assert ours[name] == theirs[name], name


def _names(cls: type, name: str) -> list[str]:
    return list(inspect.signature(members(cls)[name]).parameters)


@pytest.mark.parametrize("group", [sync for sync, _ in PAIRS if not issubclass(sync, Transaction)])
def test_a_group_offers_what_its_repositories_declare(group: type[Group]) -> None:
    methods = {member.method for cls in group.__mro__ for member in vars(cls).values() if isinstance(member, operation)}
    declared = {
        method
        for repository in {method.repository for method in methods}
        for name, method in vars(repository).items()
        if not name.startswith("_") and mode_of(method) is not None
    }
    assert declared
    assert {method.__name__ for method in declared} <= members(group).keys()


@pytest.mark.parametrize("group", [cls for pair in PAIRS for cls in pair if issubclass(cls, Group | AsyncGroup)])
def test_every_operation_says_what_the_caller_gets(group: type) -> None:
    for name, member in members(group).items():
        if name != "__init__" and callable(member):
            assert (member.__doc__ or "").strip(), f"{group.__name__}.{name} has no docstring"


def test_an_operation_shows_its_own_signature() -> None:
    with StateStore.open("sqlite://") as store:
        assert list(inspect.signature(store.history.append).parameters)[:2] == ["session_id", "entries"]
        assert store.history.append.__name__ == "append"
        assert "Append *entries*" in (store.history.append.__doc__ or "")


def test_the_public_names_can_be_imported() -> None:
    assert len(set(statestore.__all__)) == len(statestore.__all__)
    for name in statestore.__all__:
        assert getattr(statestore, name) is not None
    assert set(statestore.__all__) <= set(dir(statestore))
    with pytest.raises(AttributeError):
        statestore.no_such_name  # noqa: B018


async def test_what_a_store_hands_out_is_of_a_public_type() -> None:
    with StateStore.open("sqlite://") as store:
        store.sessions.create("s")
        held = store.sessions.acquire("s", owner="w", ttl=timedelta(minutes=1))
        with store.turn("s") as turn:
            found = [*vars(store).values(), held, turn]
    async with await AsyncStateStore.open("sqlite://") as awaited:
        await awaited.sessions.create("s")
        found += [*vars(awaited).values(), await awaited.sessions.acquire("s", owner="w", ttl=timedelta(minutes=1))]
    handed_out = {type(one) for one in found if isinstance(one, MADE_BY_STORES)}
    assert len(handed_out) == 21
    for cls in handed_out:
        assert getattr(statestore, cls.__name__) is cls


@pytest.mark.parametrize("cls", [Entry, NewEntry, Usage, Summary, Session, Lease], ids=lambda cls: cls.__name__)
def test_every_field_is_explained(cls: Any) -> None:
    listed = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    explained = re.findall(r"^    (\w+): \S", listed, re.MULTILINE)
    assert explained == [field.name for field in dataclasses.fields(cls)]


def lines() -> Iterator[str]:
    for name in statestore.__all__:
        yield name
    groups = [cls for pair in PAIRS for cls in pair[:1]]
    awaited = {cls for pair in PAIRS for cls in pair[1:]}
    for cls in [*groups, *(getattr(statestore, name) for name in statestore.__all__)]:
        if inspect.isclass(cls) and cls not in awaited:
            for name, member in sorted(members(cls).items()):
                if name != "__init__" or issubclass(cls, Transaction) or not issubclass(cls, MADE_BY_STORES):
                    yield f"{cls.__name__}.{name} {parameters(member)}"


def test_the_public_interface_is_the_one_written_down() -> None:
    text = "\n".join(dict.fromkeys(lines())) + "\n"
    if os.environ.get("STATESTORE_UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(text)
    assert text.splitlines() == SNAPSHOT.read_text().splitlines()
