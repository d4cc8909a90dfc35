"""Connections that were lost: whether one was while nobody used it, and their places in a caller's pool."""

import select
import weakref
from typing import Any

from sqlalchemy import Engine, event

# Connections, of a pool that does not say.
_MANY = 20


class LostPlaces:
    """What a caller's engine has lost.

    A pool keeps the place of a lost connection, and makes another when it comes to that one. It hands its connections
    out one after another, so each has been used once when it has handed out as many as it has.
    """

    to_be_replaced = 0

    def note(self, *_: Any) -> None:
        self.to_be_replaced = 2 * _MANY


# One for each engine, however many stores are made on it.
_losses: "weakref.WeakKeyDictionary[Engine, LostPlaces]" = weakref.WeakKeyDictionary()


def of(engine: Engine) -> LostPlaces:
    found = _losses.get(engine)
    if found is None:
        found = _losses[engine] = LostPlaces()
        event.listen(engine, "invalidate", found.note)
    return found


def has_ended(driver: Any) -> bool:
    """Whether the server has said something on an idle connection, which can only be its end.

    A write that is sent on a dead connection is a write of which nobody knows whether it was done.
    """
    if driver.closed:
        return True
    poll = select.poll()
    poll.register(driver.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))
