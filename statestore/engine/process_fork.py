"""What has to happen when the process forks.

A forked child has its parent's memory and sockets, but none of its threads. Whatever holds connections, locks or
threads registers here: before the fork it comes to rest where it must, and in the child it begins anew. What is the
parent's is never closed in the child, only kept and forgotten.
"""

import contextlib
import itertools
import os
import weakref
from collections.abc import Callable
from typing import Any

Hook = Callable[[], None]

_before: list[Hook] = []
_in_parent: list[Hook] = []
_in_child: list[Hook] = []

_generation = 0


def generation() -> int:
    """How often this process is the child of a fork: what was made in another generation belongs to a parent."""
    return _generation


# Held for ever by a child: closing them would end the parent's connections, or drop SQLite's locks.
_kept: list[Any] = []


def register(*, before: Hook | None = None, in_parent: Hook | None = None, in_child: Hook | None = None) -> None:
    """Call the hooks at each fork of the process: for what lives as long as the process."""
    if before is not None:
        _before.append(before)
    if in_parent is not None:
        _in_parent.append(in_parent)
    if in_child is not None:
        _in_child.append(in_child)


# A plain dictionary of weak references: its single steps cannot be interrupted by a fork, as those of a WeakSet can. By
# numbers of our own: the `id` of an object that has gone may be another's by the time that it is removed.
_objects: "dict[int, weakref.ref[Any]]" = {}
_numbers = itertools.count()


_crowded_at = 100


def renew_in_child(target: Any) -> None:
    """Call `target.renew_after_fork()` in a forked child, as long as *target* lives. To be called once for it."""
    global _crowded_at
    # Without a callback of the reference: Ctrl-C that fell into one would be swallowed.
    _objects[next(_numbers)] = weakref.ref(target)
    if len(_objects) > _crowded_at:
        # Not a list of the items: on Python 3.11 other threads may go on between two of them.
        for number, reference in _objects.copy().items():
            if reference() is None:
                _objects.pop(number, None)
        _crowded_at = 2 * len(_objects) + 100


def living(kind: type[Any]) -> list[Any]:
    """The registered objects of a kind that live."""
    found = [reference() for reference in list(_objects.values())]
    return [target for target in found if target is not None and isinstance(target, kind)]


def keep(*targets: Any) -> None:
    """Never let go of what belongs to the parent."""
    _kept.extend(targets)


def let_go(driver: Any) -> None:
    """In a child: drop this process' side of a psycopg connection of the parent's, without a word to the server.

    Otherwise the server would go on believing in the connection for as long as the child lives, whatever becomes of
    the parent. The number of the socket stays taken, so that nothing else can be meant by it.
    """
    keep(driver)
    with contextlib.suppress(Exception):
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            os.dup2(nothing, driver.pgconn.socket, inheritable=False)
        finally:
            os.close(nothing)


def _run_before() -> None:
    _call_all(_before)


def _run_in_parent() -> None:
    _call_all(_in_parent)


def _run_in_child() -> None:
    global _generation
    _generation += 1
    _call_all(_in_child + [target.renew_after_fork for target in living(object)])


def _call_all(hooks: list[Hook]) -> None:
    """Call every hook, also after one that failed: the others' connections would stay the parent's. Then raise."""
    failures = []
    for hook in hooks:
        try:
            hook()
        except Exception as exc:
            failures.append(exc)
    if failures:
        raise failures[0]


os.register_at_fork(before=_run_before, after_in_parent=_run_in_parent, after_in_child=_run_in_child)
