"""A tenant spread over namespaces, behind the face of one store.

It does what an application does whose tenant is spread: what belongs to a session or a user goes to the store of the
namespace in which that is, lists, reports and sweeps look over all of them, and what is the tenant's own is in one.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import signature
from typing import Any

import pytest

from statestore import NewSession, spread

TENANT, SHARDS = "default", 4
ALL = f"{TENANT}/*"
_OVER_ALL = {"load_many", "delete_many", "last_many", "get_all_many", "scopes_many"}
_BY_SESSION = ("sessions", "history", "state", "lists")


class Spread:
    """Stores of all the tenant's namespaces.

    Args:
        opened: Opens the store of a namespace.
        homes: In which namespace the sessions are that have one by their user, or by the session they belong to.
    """

    def __init__(self, opened: Callable[[str], Any], homes: dict[str, str]) -> None:
        self._opened = opened
        self._homes = homes
        self._stores: dict[str, Any] = {}
        self.own = self.at(spread(TENANT, "the tenant's own", shards=SHARDS))

    def at(self, namespace: str) -> Any:
        if namespace not in self._stores:
            self._stores[namespace] = self._opened(namespace)
        return self._stores[namespace]

    def every(self) -> list[Any]:
        return [self.at(f"{TENANT}/{number}") for number in range(SHARDS)]

    def of_session(self, session_id: Any) -> str:
        if not isinstance(session_id, str) or not session_id:
            return str(self.own.namespace)
        return self._homes.get(session_id) or spread(TENANT, session_id, shards=SHARDS)

    def made(self, session_id: str | None, beside: str | None, user_id: str | None) -> str:
        """The namespace of a session that may be made: with its whole or its source, else with its user."""
        if beside is not None:
            home = self.of_session(beside)
        elif session_id in self._homes:
            return self._homes[session_id]
        else:
            home = (
                spread(TENANT, user_id or session_id or "", shards=SHARDS) if user_id or session_id else ALL[:-1] + "0"
            )
        if session_id is not None:
            self._homes[session_id] = home
        return home

    def __getattr__(self, name: str) -> Any:
        if name in (*_BY_SESSION, "user_state", "usage"):
            return _Group(self, name)
        if name == "prices":
            return _Prices(self)
        if name in ("sweep", "stats", "drop_namespace"):
            return partial(_over_all, getattr(self.own, name))
        if name == "turn":
            return lambda session_id, **how: self.at(self.of_session(session_id)).turn(session_id, **how)
        if name in ("cleanup_expired", "cleanup_inactive"):
            return lambda *given: sum(getattr(store, name)(*given) for store in self.every())
        if name == "set_retention":
            return self._set_retention
        return getattr(self.own, name)

    def _set_retention(self, max_idle: Any) -> None:
        for store in self.every():
            store.set_retention(max_idle)

    @contextmanager
    def transaction(self, **how: Any) -> Iterator[Any]:
        """One of the namespace whose session is used first in it; it can have no other one."""
        with ExitStack() as stack:
            yield _Transaction(self, lambda namespace: stack.enter_context(self.at(namespace).transaction(**how)))

    def close(self) -> None:
        for store in self._stores.values():
            store.close()

    def __enter__(self) -> "Spread":
        self.own.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Transaction(Spread):
    def __init__(self, whole: Spread, begin: Callable[[str], Any]) -> None:
        self._homes = whole._homes
        self._whole = whole
        self._begin = begin
        self._stores = {}

    @property
    def own(self) -> Any:  # type: ignore[override]
        return self.at(self._whole.own.namespace)

    def at(self, namespace: str) -> Any:
        if not self._stores:
            self._stores[namespace] = self._begin(namespace)
        if namespace not in self._stores:
            pytest.skip("a transaction is of one namespace, and these sessions are in several")
        return self._stores[namespace]


class _Group:
    def __init__(self, stores: Spread, name: str) -> None:
        self._stores = stores
        self._name = name

    def __getattr__(self, method: str) -> Any:
        return partial(self._call, method)

    def _call(self, method: str, *given: Any, **named: Any) -> Any:
        stores = self._stores
        known = getattr(getattr(stores.own, self._name), method)
        if method in _OVER_ALL and given:
            ids, *given = [list(one) if isinstance(one, Iterator) else one for one in given]
            if isinstance(ids, list | tuple) and all(map(_is_id, ids)):
                return self._merged(method, ids, *given, **named)
            given = [ids, *given]
        if method in ("locate", "locate_many"):
            return self._located(method, *given, **named)
        if method == "repair_abandoned":
            return sum(getattr(getattr(store, self._name), method)(*given, **named) for store in stores.every())
        if "namespaces" in signature(known).parameters:
            return _over_all(known, *given, **named)
        try:
            arguments = signature(known).bind(*given, **named).arguments
        except TypeError:
            return known(*given, **named)
        home = self._home(method, arguments)
        result = getattr(getattr(stores.at(home), self._name), method)(*given, **named)
        if self._name == "sessions" and method in ("create", "open", "fork"):
            made = result[0] if isinstance(result, tuple) else result
            stores._homes.setdefault(made.session_id, home)
        return result

    def _home(self, method: str, arguments: dict[str, Any]) -> str:
        stores = self._stores
        if self._name == "user_state" or method == "delete_user":
            return spread(TENANT, arguments["user_id"] or "-", shards=SHARDS)
        if method in ("create", "open"):
            options = arguments.get("options", arguments)
            return stores.made(arguments.get("session_id"), options.get("belongs_to"), options.get("user_id"))
        if method == "fork":
            home = stores.of_session(arguments["source_id"])
            if (new := arguments.get("new_session_id")) is not None:
                stores._homes.setdefault(new, home)
            return home
        new = arguments.get("create")
        if isinstance(new, NewSession) and _is_id(arguments.get("session_id")):
            return stores.made(arguments["session_id"], new.belongs_to, new.user_id)
        holder = arguments.get("lease") or arguments.get("conversation")
        session_id = arguments.get("session_id") or getattr(holder, "session_id", None)
        return stores.of_session(session_id)

    def _located(self, method: str, *given: Any, **named: Any) -> Any:
        """Where entries are: which session has an id is asked of all."""
        given = tuple(list(one) if isinstance(one, Iterator) else one for one in given)
        named = {name: list(one) if isinstance(one, Iterator) else one for name, one in named.items()}
        every = [getattr(getattr(store, self._name), method)(*given, **named) for store in self._stores.every()]
        if method == "locate":
            return next((place for place in every if place is not None), None)
        found: dict[str, Any] = {}
        for one in every:
            for entry_id, places in one.items():
                found[entry_id] = [*found.get(entry_id, ()), *places]
        return found

    def _merged(self, method: str, ids: Any, *given: Any, **named: Any) -> Any:
        ids = list(ids)
        found: dict[str, Any] = {}
        deleted = 0
        for home in dict.fromkeys(map(self._stores.of_session, ids)):
            there = [one for one in ids if self._stores.of_session(one) == home]
            result = getattr(getattr(self._stores.at(home), self._name), method)(there, *given, **named)
            if isinstance(result, int):
                deleted += result
            else:
                found |= result
        if method == "delete_many":
            return deleted
        return {one: found[one] for one in ids if one in found}


class _Prices:
    """Prices are of a namespace, so each has all of them."""

    def __init__(self, stores: Spread) -> None:
        self._stores = stores

    def __getattr__(self, method: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            for store in self._stores.every():
                if store is not self._stores.own:
                    getattr(store.prices, method)(*given, **named)
            return getattr(self._stores.own.prices, method)(*given, **named)

        return call if method in ("set", "remove", "apply") else getattr(self._stores.own.prices, method)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _over_all(method: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if not given and not {"namespaces", "all_namespaces"} & named.keys():
        named["namespaces"] = ALL
    return method(*given, **named)
