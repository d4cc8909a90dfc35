"""Long-term memory of LangGraph: items are keys of the state of an agent, which all threads and users share."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)

from statestore import ConflictError, InvalidValueError, LazyStore, StateEntry, StateKeyNotFoundError, StoreLike
from statestore.adapters.flows import Flow, OnStore, awaited, called, store
from statestore.adapters.langgraph import checks
from statestore.adapters.langgraph.filters import matches
from statestore.adapters.layouts.langgraph import Json, plain

M = TypeVar("M", bound=Callable[..., Any])

_LONGEST_KEY = 512
_MINUTE = timedelta(minutes=1)
_OLD = 0.1  # As sessions do: a read extends a TTL of which a tenth has passed.


def _of_a_key(method: M) -> M:
    """A method of the base class, which makes a text of any key, for what is one."""

    def place(namespace: Any, key: Any) -> tuple[tuple[Any, ...], str]:
        return tuple(checks.several("namespace", namespace, "label")), checks.name("key", key)

    @wraps(method)
    def checked(self: BaseStore, namespace: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *place(namespace, key), *args, **kwargs)

    @wraps(method)
    async def checked_async(self: BaseStore, namespace: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        return await method(self, *place(namespace, key), *args, **kwargs)

    return cast(M, checked_async if iscoroutinefunction(method) else checked)


class StatestoreStore(OnStore, BaseStore):
    """Keeps items under namespaces in a statestore.

        graph = builder.compile(checkpointer=saver, store=StatestoreStore("postgresql://app@db/agents"))

    Items of expired TTLs are gone at once, and deleted by the store's sweep. There is no search by meaning.
    """

    __slots__ = ("_name", "_store", "_user_of", "ttl_config")

    supports_ttl: bool = True

    def __init__(
        self,
        store: StoreLike = None,
        *,
        name: str = "langgraph",
        ttl: TTLConfig | None = None,
        index: IndexConfig | None = None,
        user_of: Callable[[tuple[str, ...]], str | None] | None = None,
    ) -> None:
        """Take what opens a store, or an open one. Nothing is connected before the first use.

        Args:
            store: A URL, an open store, or a `LazyStore`; None for STATESTORE_URL.
            name: The agent in whose state the items are: `store.app_state` has them under it.
            ttl: `default_ttl` in minutes, and `refresh_on_read`. What has expired is always omitted, and deleted by a
                `statestore.Sweeper` or `statestore sweep`.
            index: Not supported.
            user_of: The user whom the items of a namespace are about, or None, as in `lambda namespace: namespace[1]`
                for `("memories", user_id)`: `sessions.delete_user` erases them. Without it, items are nobody's.
        """
        if index is not None:
            raise InvalidValueError(
                "index", "is not supported: there is no search by vectors; use langgraph's PostgresStore for that"
            )
        if user_of is not None:
            checks.checked("user_of", user_of, Callable, "a function of a namespace")
        if ttl is not None:
            _minutes(checks.mapping("ttl", ttl).get("default_ttl"))
        self._store = LazyStore.of(store)
        self._name = checks.agent("name", name)
        self._user_of = user_of or _nobody
        self.ttl_config = ttl

    def _batch(self, ops: Iterable[Op]) -> Flow[list[Result]]:
        """Read first and write then, of several puts of an item the last, as langgraph's own stores do."""
        ops = checks.several("ops", ops, "operation")
        for op in ops:
            _check(op)
            validate_op_namespace(op)
        puts = {_key(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        values = self._values(puts)
        results: list[Result] = []
        for op in ops:
            if isinstance(op, PutOp):
                results.append(None)
            elif isinstance(op, GetOp):
                results.append((yield from self._get(op)))
            elif isinstance(op, SearchOp):
                results.append((yield from self._search(op)))
            else:
                results.append((yield from self._namespaces(op)))
        for (ttl, user_id), alike in values.items():
            yield store.app_state.set_many(self._name, alike, ttl=_minutes(ttl), user_id=user_id)
        if gone := [key for key, op in puts.items() if op.value is None]:
            yield store.app_state.delete_many(self._name, gone)
        return results

    batch, abatch = called(_batch), awaited(_batch)

    put, aput = _of_a_key(BaseStore.put), _of_a_key(BaseStore.aput)
    get, aget = _of_a_key(BaseStore.get), _of_a_key(BaseStore.aget)
    delete, adelete = _of_a_key(BaseStore.delete), _of_a_key(BaseStore.adelete)

    def _values(self, puts: Mapping[str, PutOp]) -> dict[tuple[float | None, str | None], Json]:
        """What is to be set, by TTL and user."""
        alike: dict[tuple[float | None, str | None], Json] = {}
        for key, op in puts.items():
            if op.value is not None:
                user_id = checks.user("user_of", self._user_of(op.namespace))
                alike.setdefault((op.ttl, user_id), {})[key] = {"value": plain(op.value, "value"), "ttl": op.ttl}
        return alike

    def _get(self, op: GetOp) -> Flow[Item | None]:
        try:
            found = yield store.app_state.entry(self._name, _key(op.namespace, op.key))
        except StateKeyNotFoundError:
            return None
        if op.refresh_ttl:
            yield from self._refresh([found])
        return Item(**_fields(found))

    def _search(self, op: SearchOp) -> Flow[list[SearchItem]]:
        """The newest first, as langgraph's SQL stores return them: all below the prefix are read."""
        entries = yield store.app_state.entries(self._name, prefix=_prefix(op.namespace_prefix))
        wanted = op.filter or {}
        found = [entry for entry in entries if matches(entry.value["value"], wanted)]
        found.sort(key=_updated_at, reverse=True)
        found = found[op.offset : op.offset + op.limit]
        if op.refresh_ttl:
            yield from self._refresh(found)
        return [SearchItem(**_fields(entry)) for entry in found]

    def _refresh(self, found: Iterable[StateEntry]) -> Flow[None]:
        """Let the TTL of items begin anew; the time of their last change stays, and a change meanwhile wins."""
        for entry in found:
            if (ttl := _minutes(entry.value["ttl"])) is None or entry.expires_at is None:
                continue
            if entry.expires_at - datetime.now(UTC) > ttl * (1 - _OLD):
                continue
            value = {**entry.value, "updated_at": _updated_at(entry).isoformat()}
            try:
                yield store.app_state.set(self._name, entry.key, value, ttl=ttl, expected_version=entry.version)
            except ConflictError:
                continue

    def _namespaces(self, op: ListNamespacesOp) -> Flow[list[tuple[str, ...]]]:
        conditions = op.match_conditions or ()
        keys = yield store.app_state.keys(self._name, prefix=_common(conditions))
        namespaces = {_split(key)[0] for key in keys}
        found = {
            namespace[: op.max_depth]
            for namespace in namespaces
            if all(_meets(namespace, condition) for condition in conditions)
        }
        return sorted(found)[op.offset : op.offset + op.limit]


def _check(op: Any) -> None:
    """Refuse what LangGraph's methods pass on as it is, and a slice would take for something else."""
    if isinstance(op, PutOp):
        checks.several("namespace", op.namespace, "label")
        if op.value is not None:
            checks.checked("value", op.value, dict, "a dictionary, or None to delete the item")
        _minutes(op.ttl)
    elif isinstance(op, GetOp):
        checks.several("namespace", op.namespace, "label")
    elif isinstance(op, SearchOp):
        checks.several("namespace_prefix", op.namespace_prefix, "label")
        checks.mapping("filter", {} if op.filter is None else op.filter)
        checks.count("limit", op.limit)
        checks.count("offset", op.offset)
    elif isinstance(op, ListNamespacesOp):
        for condition in op.match_conditions or ():
            checks.several(condition.match_type, condition.path, "label")
        checks.count("max_depth", 0 if op.max_depth is None else op.max_depth)
        checks.count("limit", op.limit)
        checks.count("offset", op.offset)
    else:
        raise InvalidValueError("ops", f"must be operations of langgraph.store.base, not {type(op).__name__}")


def _nobody(namespace: tuple[str, ...]) -> None:
    return None


def _key(namespace: tuple[str, ...], key: str) -> str:
    joined = _prefix(namespace) + _escaped(checks.text("key", key))
    if len(joined) > _LONGEST_KEY:
        raise InvalidValueError(
            "namespace", f"and key together have more than {_LONGEST_KEY} characters; use shorter ones"
        )
    return joined


def _prefix(namespace: tuple[str, ...]) -> str:
    return "".join(f"{_escaped(checks.text('namespace', label))}/" for label in namespace)


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


def _split(joined: str) -> tuple[tuple[str, ...], str]:
    *namespace, key = (part.replace("%2F", "/").replace("%25", "%") for part in joined.split("/"))
    return tuple(namespace), key


def _common(conditions: Iterable[MatchCondition]) -> str:
    """What the keys of all namespaces begin with that meet the first condition on a prefix."""
    for condition in conditions:
        if condition.match_type == "prefix":
            path = condition.path
            return _prefix(tuple(path[: path.index("*")] if "*" in path else path))
    return ""


def _meets(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    path = tuple(condition.path)
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :] if path else ()
    return len(part) == len(path) and all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))


def _fields(entry: StateEntry) -> Json:
    namespace, key = _split(entry.key)
    return {
        "namespace": namespace,
        "key": key,
        "value": entry.value["value"],
        "created_at": entry.created_at,
        "updated_at": _updated_at(entry),
    }


def _updated_at(entry: StateEntry) -> datetime:
    stored = entry.value.get("updated_at")
    return entry.updated_at if stored is None else datetime.fromisoformat(stored)


def _minutes(ttl: float | None) -> timedelta | None:
    found = None if ttl is None else checks.span("ttl", ttl, _MINUTE)
    checks.ttl("ttl", found)
    return found
