"""A memoized function is computed once for equal arguments, in either world."""

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from statestore import NEVER, InvalidValueError
from tests.support.clock import MovableClock
from tests.support.crowd import at_once
from tests.support.portal import Blocking, BlockingStore

Store = Any


class Undo(Exception):
    pass


class Called:
    """A memoized coroutine function whose calls block."""

    def __init__(self, portal: Any, target: Any) -> None:
        self._portal = portal
        self._target = target
        self.key = target.key

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._portal.run(self._target(*args, **kwargs))

    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        return self._portal.run(self._target.invalidate(*args, **kwargs))


def memoize(store: Store, function: Callable[..., Any], **how: Any) -> Any:
    """*function* memoized by a store of either world, as something that is called."""
    if not isinstance(store, Blocking):
        return store.cache.memoize(**how)(function)

    @functools.wraps(function)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args, **kwargs)

    return Called(store._portal, store.cache.memoize(**how)(coroutine))


class Counted:
    """What a function was called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self._lock = threading.Lock()

    def add(self, *call: Any) -> int:
        with self._lock:
            self.calls.append(call)
            return len(self.calls)


def test_equal_calls_are_computed_once(store: Store) -> None:
    counted = Counted()

    def f(a: int, b: int = 2, *rest: Any, c: Any = None, **more: Any) -> Any:
        return [counted.add(a, b, c), a, b, c]

    kept = memoize(store, f)
    first = kept(1)
    assert kept(1, 2) == kept(a=1) == kept(b=2, a=1, c=None) == first == [1, 1, 2, None]
    assert len(counted.calls) == 1
    different = [
        lambda: kept(2),
        lambda: kept(1, 3),
        lambda: kept(1, 2, 3),
        lambda: kept(1, 2, [3]),
        lambda: kept(1, c=1),
        lambda: kept(1, c=True),
        lambda: kept(1, c=1.0),
        lambda: kept(1, c="1"),
        lambda: kept(1, d=None),
        lambda: kept(1, c={"x": [1, None]}),
    ]
    for n, call in enumerate(different, 2):
        call()
        call()
        assert len(counted.calls) == n


def test_none_is_kept_and_an_error_is_not(store: Store) -> None:
    counted = Counted()

    def f(fails: bool) -> None:
        counted.add()
        if fails:
            raise ZeroDivisionError

    kept = memoize(store, f)
    assert kept(False) is None
    assert kept(False) is None
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            kept(True)
    assert len(counted.calls) == 3


def test_functions_do_not_share_results(store: Store) -> None:
    def f(a: int) -> str:
        return f"f {a}"

    def g(a: int) -> str:
        return f"g {a}"

    kept, other = memoize(store, f), memoize(store, g)
    assert (kept(1), other(1), kept(1), other(1)) == ("f 1", "g 1", "f 1", "g 1")
    assert kept.key(1) != other.key(1)


def test_results_have_the_ttl_and_the_tags_of_the_decorator(store: Store, clock: MovableClock) -> None:
    counted = Counted()
    kept = memoize(store, lambda a: counted.add(a), ttl=30, tags=iter(["t", "u"]), key="numbers")
    kept(1)
    kept(2)
    entry = store.cache.entry(kept.key(1))
    assert (entry.tags, (entry.expires_at - clock.now).total_seconds()) == (("t", "u"), 30)
    assert store.cache.invalidate_tag("t") == 2
    assert kept(1) == 3
    clock.advance(seconds=30)
    assert kept(1) == 4
    endless = memoize(store, lambda: counted.add(), ttl=NEVER, key="endless")
    endless()
    assert store.cache.ttl(endless.key()) is NEVER


def test_a_result_is_invalidated_by_its_arguments(store: Store) -> None:
    counted = Counted()

    def f(a: int, b: int = 0) -> int:
        return counted.add(a, b)

    kept = memoize(store, f)
    assert (kept(1), kept(2)) == (1, 2)
    assert kept.invalidate(1, b=0) == 1
    assert kept.invalidate(1) == 0
    assert (kept(1), kept(2)) == (3, 2)
    assert store.cache.invalidate(kept.key(a=2)) == 1


def test_the_key_may_be_a_name_or_a_function_of_the_arguments(store: Store) -> None:
    class User:
        def __init__(self, name: str) -> None:
            self.name = name

    counted = Counted()

    def f(user: User, *, part: str = "all") -> int:
        return counted.add()

    kept = memoize(store, f, key=lambda user, part="all": f"user:{user.name}:{part}")
    assert (kept(User("ada")), kept(User("ada")), kept(User("bob")), kept(User("ada"), part="x")) == (1, 1, 2, 3)
    assert kept.key(User("ada")) == "user:ada:all"
    assert store.cache.invalidate_prefix("user:ada:") == 2
    assert kept(User("bob")) == 2

    old, new = memoize(store, lambda a: "old", key="answers"), memoize(store, lambda a: "new", key="answers")
    assert (old(1), new(1), new(2)) == ("old", "old", "new")


def test_arguments_that_make_no_key_are_refused_with_the_remedy(store: Store) -> None:
    counted = Counted()

    def f(a: Any, *rest: Any, **more: Any) -> int:
        return counted.add()

    kept = memoize(store, f)
    secret = "the secret value"
    for bad in ((secret, 1), object(), {1: secret}, float("nan"), b"secret", {secret}, [[(secret,)]]):
        for call in (partial(kept, bad), partial(kept, 1, bad), partial(kept, 1, x=bad), partial(kept.key, bad)):
            with pytest.raises(InvalidValueError, match=r"^arguments: .*key=") as raised:
                call()
            assert secret not in str(raised.value)
            assert raised.value.__cause__ is None
    with pytest.raises(TypeError):  # As the function itself says it.
        kept()
    for key in ("", 5, None, "x" * 513):
        with pytest.raises(InvalidValueError, match=r"^key: "):
            memoize(store, f, key=lambda a, key=key: key)(1)
    assert counted.calls == []
    assert store.cache.keys() == []


@pytest.mark.parametrize(
    ("how", "argument"),
    [
        ({"ttl": 0}, "ttl"),
        ({"ttl": "1h"}, "ttl"),
        ({"tags": "tag"}, "tags"),
        ({"tags": [""]}, "tags"),
        ({"key": ""}, "key"),
        ({"key": 5}, "key"),
    ],
)
def test_a_decorator_that_makes_no_sense_is_refused_at_once(store: Store, how: dict[str, Any], argument: str) -> None:
    with pytest.raises(InvalidValueError) as raised:
        store.cache.memoize(**how)
    assert raised.value.argument == argument


def test_each_world_takes_its_own_functions(store: Store) -> None:
    async def coroutine() -> None:
        pass

    class AsyncCallable:
        async def __call__(self) -> None:
            pass

    def function() -> None:
        pass

    is_async = isinstance(store, BlockingStore)
    decorate = store.cache.memoize()
    for wrong in (function, len) if is_async else (coroutine, AsyncCallable(), partial(coroutine)):
        with pytest.raises(InvalidValueError, match=r"^function: "):
            decorate(wrong)
    with pytest.raises(InvalidValueError, match=r"^function: "):
        decorate(5)
    if not is_async:  # Python cannot tell what `int` takes.
        with pytest.raises(InvalidValueError, match=r"^function: builtins.int does not say .*key="):
            decorate(int)
        assert store.cache.memoize(key=lambda text: f"int:{text}")(int)("5") == 5
    for right in (coroutine, AsyncCallable(), partial(coroutine)) if is_async else (function, partial(function)):
        assert len(decorate(right).key()) == 64


def test_the_function_keeps_its_face(store: Store) -> None:
    def f(a: int, *, b: str = "x") -> float:
        """What it does."""
        return 1.0

    async def g(a: int, *, b: str = "x") -> float:
        """What it does."""
        return 1.0

    function = g if isinstance(store, BlockingStore) else f
    kept = store.cache.memoize()(function)
    assert (kept.__name__, kept.__doc__, kept.__module__) == (function.__name__, "What it does.", __name__)
    assert kept.__wrapped__ is function
    assert inspect.signature(kept) == inspect.signature(function)
    assert inspect.iscoroutinefunction(kept) is isinstance(store, BlockingStore)


def test_of_many_who_call_at_once_one_computes(open_store: Callable[..., Store]) -> None:
    stores = [open_store() for _ in range(2)]
    for turn in range(5):
        counted = Counted()
        named = [
            memoize(store, lambda a, counted=counted: counted.add(), key=lambda a, turn=turn: f"{turn}:{a}")
            for store in stores
        ]
        assert at_once(*(partial(named[n % 2], "x") for n in range(8))) == [1] * 8
        assert len(counted.calls) == 1


def test_in_a_transaction_results_stand_or_fall_with_it(store: Store) -> None:
    counted = Counted()
    with suppress(Undo), store.transaction() as tx:
        kept = memoize(tx, lambda: counted.add(), key="f")
        assert (kept(), kept()) == (1, 1)
        raise Undo
    assert memoize(store, lambda: counted.add(), key="f")() == 2


def test_a_method_is_kept_by_a_key_of_its_own(store: Store) -> None:
    if isinstance(store, BlockingStore):
        pytest.skip("the same function with await")

    class Service:
        calls = 0

        @store.cache.memoize(key=lambda self, name: f"service:{name}")
        def find(self, name: str) -> int:
            self.calls += 1
            return self.calls

    service = Service()
    assert (service.find("a"), service.find("a"), service.find("b")) == (1, 1, 2)
