"""Leases: one holder, tokens that only grow, and no write by who has lost it."""

import asyncio
import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from statestore import (
    ConflictError,
    InvalidTransitionError,
    InvalidValueError,
    Lease,
    SessionNotFoundError,
    StaleLeaseError,
)
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.portal import Blocking
from tests.support.worlds import entering

Store = Any
TTL = timedelta(minutes=1)


@pytest.fixture
def session(store: Store) -> str:
    store.sessions.create("s")
    return "s"


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def plain(lease: Lease) -> Lease:
    """The lease as it may be handed to another process."""
    return Lease(session_id=lease.session_id, owner=lease.owner, token=lease.token, ttl=lease.ttl, until=lease.until)


def test_a_lease_says_what_it_is(store: Store, session: str, clock: MovableClock) -> None:
    lease = store.sessions.acquire(session, owner="worker 1", ttl=TTL)
    assert (lease.session_id, lease.owner, lease.ttl, lease.until) == (session, "worker 1", TTL, clock.now + TTL)
    assert isinstance(lease, Lease)


def test_there_is_one_holder(store: Store, session: str, clock: MovableClock) -> None:
    store.sessions.acquire(session, owner="a", ttl=TTL)
    with pytest.raises(ConflictError) as caught:
        store.sessions.acquire(session, owner="b", ttl=TTL)
    assert (caught.value.owner, caught.value.until) == ("a", clock.now + TTL)


def test_of_many_at_once_one_gets_it(store: Store, session: str) -> None:
    def take() -> bool:
        try:
            store.sessions.acquire(session, owner="w", ttl=TTL)
        except ConflictError:
            return False
        return True

    assert sum(at_once(*[take] * 8)) == 1


def test_a_lease_that_ran_out_can_be_taken_over(store: Store, session: str, clock: MovableClock) -> None:
    first = store.sessions.acquire(session, owner="a", ttl=TTL)
    clock.now += TTL
    second = store.sessions.acquire(session, owner="b", ttl=TTL)
    assert second.token > first.token


def test_a_released_lease_is_free_at_once(store: Store, session: str) -> None:
    first = store.sessions.acquire(session, owner="a", ttl=TTL)
    assert store.sessions.release(first) is True
    assert store.sessions.release(first) is False
    assert store.sessions.acquire(session, owner="b", ttl=TTL).token > first.token


def test_the_lease_of_a_session_that_has_expired_holds_no_more(store: Store, clock: MovableClock) -> None:
    store.sessions.create("short", ttl=TTL / 2)
    lease = store.sessions.acquire("short", owner="a", ttl=TTL)
    clock.now += TTL / 2
    with pytest.raises((StaleLeaseError, SessionNotFoundError)):
        store.sessions.renew(lease)
    assert store.sessions.release(lease) is False


def test_work_under_a_lease_does_not_begin_in_a_session_that_has_expired(store: Store, clock: MovableClock) -> None:
    store.sessions.create("short", ttl=TTL / 2)
    lease = store.sessions.acquire("short", owner="a", ttl=TTL)
    clock.now += TTL / 2
    with pytest.raises(SessionNotFoundError), entering(store, lease):
        pytest.fail("the block must not run")


def test_a_lease_is_for_its_own_session_alone(store: Store, session: str) -> None:
    store.sessions.create("other")
    lease = store.sessions.acquire(session, owner="a", ttl=TTL)
    astray = Lease(session_id="other", owner="a", token=lease.token, ttl=TTL, until=lease.until)
    assert store.sessions.release(astray) is False
    for work in (store.sessions.renew, lambda lease: store.history.append("other", say("x"), lease=lease)):
        with pytest.raises(StaleLeaseError):
            work(astray)
    assert store.history.count("other") == 0
    assert store.sessions.release(lease) is True


def test_tokens_grow_however_fast_leases_change_hands(store: Store, session: str) -> None:
    tokens = []
    for _ in range(20):
        lease = store.sessions.acquire(session, owner="a", ttl=TTL)
        tokens.append(lease.token)
        store.sessions.release(lease)
    assert tokens == sorted(set(tokens))


def test_tokens_grow_though_the_session_was_made_anew(store: Store, session: str) -> None:
    old = store.sessions.acquire(session, owner="a", ttl=TTL)
    store.sessions.delete(session)
    store.sessions.create(session)
    with pytest.raises(StaleLeaseError):
        store.history.append(session, say("x"), lease=old)
    new = store.sessions.acquire(session, owner="b", ttl=TTL)
    assert new.token > old.token
    with pytest.raises(StaleLeaseError):
        store.history.append(session, say("x"), lease=old)


def test_renewing_moves_the_end(store: Store, session: str, clock: MovableClock) -> None:
    lease = store.sessions.acquire(session, owner="a", ttl=TTL)
    clock.advance(seconds=59)
    renewed = store.sessions.renew(lease)
    assert (renewed.token, renewed.until) == (lease.token, clock.now + TTL)
    assert store.sessions.renew(lease, ttl=2 * TTL).until == clock.now + 2 * TTL


def test_a_lease_that_ran_out_cannot_be_renewed(store: Store, session: str, clock: MovableClock) -> None:
    lease = store.sessions.acquire(session, owner="a", ttl=TTL)
    clock.now += TTL
    with pytest.raises(StaleLeaseError) as caught:
        store.sessions.renew(lease)
    assert caught.value.expected == caught.value.actual == lease.token


def test_a_lease_keeps_the_session_alive(store: Store, clock: MovableClock) -> None:
    store.sessions.create("short", ttl=TTL)
    lease = store.sessions.acquire("short", owner="a", ttl=TTL)
    for _ in range(3):
        clock.advance(seconds=50)
        lease = store.sessions.renew(lease)
    assert store.sessions.exists("short")


def test_no_lease_on_a_missing_session(store: Store, session: str) -> None:
    with pytest.raises(SessionNotFoundError):
        store.sessions.acquire("missing", owner="a", ttl=TTL)
    lease = store.sessions.acquire(session, owner="a", ttl=TTL)
    store.sessions.delete(session)
    with pytest.raises(SessionNotFoundError):
        store.sessions.renew(lease)
    assert store.sessions.release(lease) is False


WRITES: dict[str, Any] = {
    "append": lambda store, lease: store.history.append("s", say("x"), lease=lease),
    "append after a position": lambda store, lease: store.history.append("s", say("x"), after_seq=1, lease=lease),
    "append what makes the session": lambda store, lease: store.history.append("s", say("x"), create=True, lease=lease),
    "append nothing": lambda store, lease: store.history.append("s", [], lease=lease),
    "set_status": lambda store, lease: store.sessions.set_status("s", "busy", lease=lease),
    "save": lambda store, lease: store.sessions.save(store.sessions.load("s"), lease=lease),
    "renew": lambda store, lease: store.sessions.renew(lease),
}


def turn(store: Store, lease: Lease, **changes: Any) -> None:
    with entering(store, store.turn("s", lease=lease)) as turn:
        if changes:
            turn.state.update(changes)
        else:
            turn.append({"role": "user", "content": "x"})


WRITES["turn"] = turn
WRITES["turn that changes state"] = lambda store, lease: turn(store, lease, key=1)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_with_a_lease_that_holds(store: Store, session: str, write: Any) -> None:
    store.history.append(session, say("first"))
    write(store, store.sessions.acquire(session, owner="a", ttl=TTL))


@pytest.mark.parametrize("lost", ["ran out", "taken over", "released", "revoked"])
def test_a_write_with_a_stale_lease_changes_nothing(
    store: Store, session: str, content: Content, clock: MovableClock, subtests: pytest.Subtests, lost: str
) -> None:
    store.history.append(session, say("first"))
    lease = plain(store.sessions.acquire(session, owner="a", ttl=TTL))
    if lost == "released":
        store.sessions.release(lease)
    elif lost == "revoked":
        store.sessions.terminate(session)
        store.sessions.open(session)
    else:
        clock.now += TTL
    if lost == "taken over":
        store.sessions.acquire(session, owner="b", ttl=TTL)
    before = content.snapshot()
    for name, write in WRITES.items():
        with subtests.test(name):
            with pytest.raises(StaleLeaseError):
                write(store, lease)
            assert content.snapshot() == before


def test_a_turn_asks_for_its_lease_before_the_work(store: Store, session: str, clock: MovableClock) -> None:
    stale = plain(store.sessions.acquire(session, owner="a", ttl=TTL))
    clock.now += TTL
    for lease, error in ((stale, StaleLeaseError), ("mine", InvalidValueError)):
        with pytest.raises(error), entering(store, store.turn(session, lease=lease)):
            pytest.fail("the block must not run")


def test_a_turn_that_wrote_nothing_asks_for_its_lease_too(
    store: Store, session: str, content: Content, clock: MovableClock
) -> None:
    lease = store.sessions.acquire(session, owner="a", ttl=TTL)
    before = content.snapshot()
    with entering(store, store.turn(session, lease=lease)):
        pass

    def work() -> None:
        with entering(store, store.turn(session, lease=lease)):
            clock.now += TTL

    with pytest.raises(StaleLeaseError):
        work()
    assert content.snapshot() == before


def test_a_lease_serves_one_session(store: Store, session: str) -> None:
    store.sessions.create("other")
    lease = store.sessions.acquire(session, owner="a", ttl=TTL)
    with pytest.raises(InvalidValueError):
        store.history.append("other", say("x"), lease=lease)
    with pytest.raises(InvalidValueError):
        store.history.append(session, say("x"), lease="mine")


def test_writes_without_a_lease_are_not_kept_away(store: Store, session: str) -> None:
    store.sessions.acquire(session, owner="a", ttl=TTL)
    assert store.history.append(session, say("x"))[0].seq == 1


def test_a_lease_may_go_to_another_process(store: Store, session: str) -> None:
    lease = store.sessions.acquire(session, owner="a", ttl=TTL)
    copy = pickle.loads(pickle.dumps(plain(lease)))
    assert store.history.append(session, say("x"), lease=copy)[0].seq == 1


def test_renewing_inside_a_transaction_keeps_others_out_until_the_commit(store: Store, session: str) -> None:
    lease = store.sessions.acquire(session, owner="a", ttl=TTL)
    with store.transaction() as tx:
        tx.sessions.renew(lease)
        tx.state.set(session, "k", 1)
    assert store.state.get(session, "k") == 1


def test_the_block_of_a_lease_is_busy_and_then_ready(store: Store, session: str) -> None:
    with entering(store, store.sessions.acquire(session, owner="a", ttl=TTL)) as lease:
        assert store.sessions.get(session).status == "busy"
        assert not lease.lost
        store.history.append(session, say("x"), lease=lease)
    assert store.sessions.get(session).status == "ready"
    store.sessions.acquire(session, owner="b", ttl=TTL)


def test_a_session_left_busy_can_be_taken_over(store: Store, session: str, clock: MovableClock) -> None:
    store.sessions.acquire(session, owner="a", ttl=TTL)
    store.sessions.set_status(session, "busy")
    clock.now += TTL
    with entering(store, store.sessions.acquire(session, owner="b", ttl=TTL)):
        assert store.sessions.get(session).status == "busy"
    assert store.sessions.get(session).status == "ready"


@pytest.mark.parametrize("status", ["starting", "dead"])
def test_work_does_not_begin_on_a_session_that_is_not_up(store: Store, status: str) -> None:
    store.sessions.create("s", status=status)
    lease = store.sessions.acquire("s", owner="a", ttl=TTL)
    with pytest.raises(InvalidTransitionError), entering(store, lease):
        pytest.fail("the block must not run")
    assert store.sessions.get("s").status == status
    store.sessions.acquire("s", owner="b", ttl=TTL)


def test_an_exception_in_the_block_comes_out_and_the_lease_goes_back(store: Store, session: str) -> None:
    with pytest.raises(ZeroDivisionError), entering(store, store.sessions.acquire(session, owner="a", ttl=TTL)):
        raise ZeroDivisionError
    assert store.sessions.get(session).status == "ready"
    store.sessions.acquire(session, owner="b", ttl=TTL)


def test_the_end_of_the_block_says_that_the_lease_was_lost(store: Store, session: str, clock: MovableClock) -> None:
    def work() -> Lease:
        with entering(store, store.sessions.acquire(session, owner="a", ttl=TTL)):
            clock.now += TTL
            taken.append(store.sessions.acquire(session, owner="b", ttl=TTL))
        pytest.fail("the loss must not go unsaid")

    taken: list[Lease] = []
    with pytest.raises(StaleLeaseError):
        work()
    assert store.sessions.renew(taken[0]).token == taken[0].token


def test_a_status_that_the_holder_set_stays(store: Store, session: str) -> None:
    with entering(store, store.sessions.acquire(session, owner="a", ttl=TTL)) as lease:
        store.sessions.set_status(session, "dead", lease=lease)
    assert store.sessions.get(session).status == "dead"


def test_the_block_renews_its_lease(open_store: Any) -> None:
    store = open_store()
    store.sessions.create("s")
    ttl = timedelta(seconds=0.6)
    with entering(store, store.sessions.acquire("s", owner="a", ttl=ttl)) as lease:
        first = lease.until
        # Waits for three times as long as the lease would hold by itself.
        with pytest.raises(ConflictError):
            store.sessions.acquire("s", owner="b", ttl=ttl, wait=3 * ttl)
        assert lease.until > first
        store.history.append("s", say("x"), lease=lease)


def test_a_lease_that_renews_itself_stays_the_one_it_was(open_store: Any) -> None:
    store = open_store()
    store.sessions.create("s")
    ttl = timedelta(seconds=0.9)
    lease = store.sessions.acquire("s", owner="a", ttl=ttl)
    work = {lease: "what is done under it"}
    before = hash(lease), lease.until
    with entering(store, lease):
        with pytest.raises(ConflictError):
            store.sessions.acquire("s", owner="b", ttl=ttl, wait=ttl / 2)
        assert lease.until > before[1]
        assert hash(lease) == before[0]
        assert work[lease] == "what is done under it"


def test_waiting_gets_the_lease_when_it_is_released(open_store: Any) -> None:
    store = open_store()
    store.sessions.create("s")
    first = store.sessions.acquire("s", owner="a", ttl=TTL)

    def wait() -> Any:
        return store.sessions.acquire("s", owner="b", ttl=TTL, wait=TTL)

    waited, released = at_once(wait, lambda: store.sessions.release(first))
    assert released
    assert waited.token > first.token


@pytest.mark.parametrize(
    "arguments",
    [{"ttl": None}, {"ttl": timedelta(0)}, {"owner": ""}, {"wait": timedelta(-1)}, {"wait": 5}],
    ids=str,
)
def test_arguments_that_cannot_be(store: Store, session: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError) as caught:
        store.sessions.acquire(session, **{"owner": "a", "ttl": TTL, **arguments})
    assert "no expiry" not in str(caught.value)


def test_a_lease_is_not_renewed_for_no_time(store: Store, session: str) -> None:
    lease = store.sessions.acquire(session, owner="a", ttl=TTL)
    with pytest.raises(InvalidValueError) as caught:
        store.sessions.renew(lease, ttl=timedelta(0))
    assert "no expiry" not in str(caught.value)


def test_a_lease_is_awaited_or_entered(store: Store, session: str) -> None:
    if not isinstance(store, Blocking):
        pytest.skip("there is nothing to await")
    sessions = store._target.sessions

    async def work() -> list[str]:
        async with sessions.acquire(session, owner="a", ttl=TTL) as lease:
            assert isinstance(lease, Lease)
            found = [(await sessions.get(session)).status]
        async with await sessions.acquire(session, owner="a", ttl=TTL):
            found.append((await sessions.get(session)).status)
        lease = await asyncio.create_task(sessions.acquire(session, owner="a", ttl=TTL))
        await sessions.release(lease)
        with pytest.raises(ZeroDivisionError):
            async with sessions.acquire(session, owner="a", ttl=TTL):
                raise ZeroDivisionError
        return [*found, (await sessions.get(session)).status]

    assert store._portal.run(work()) == ["busy", "busy", "ready"]
    store.sessions.acquire(session, owner="b", ttl=TTL)


def test_a_fork_has_no_lease(store: Store, session: str) -> None:
    store.sessions.acquire(session, owner="a", ttl=TTL)
    store.sessions.fork(session, "f")
    store.sessions.acquire("f", owner="b", ttl=TTL)


@pytest.mark.parametrize("session_id", [5, None, "", "x" * 513])
def test_a_lease_on_what_is_no_session_id_is_refused(store: Store, session: str, session_id: Any) -> None:
    lease = replace(plain(store.sessions.acquire(session, owner="a", ttl=TTL)), session_id=session_id)
    for call in (store.sessions.renew, store.sessions.release):
        with pytest.raises(InvalidValueError, match=r"lease\.session_id"):
            call(lease)


@pytest.mark.parametrize("token", ["1", "x", None, 1.0, True, 2**63, -1])
def test_a_lease_with_a_token_that_is_no_number_is_refused(store: Store, session: str, token: Any) -> None:
    lease = replace(plain(store.sessions.acquire(session, owner="a", ttl=TTL)), token=token)
    for use in (
        lambda: store.sessions.release(lease),
        lambda: store.sessions.renew(lease),
        lambda: store.history.append(session, say("x"), lease=lease),
        lambda: store.sessions.set_status(session, "busy", lease=lease),
    ):
        with pytest.raises(InvalidValueError, match=r"lease\.token"):
            use()


def test_a_lease_holds_for_half_a_day_at_most(store: Store, session: str) -> None:
    most = timedelta(hours=12)
    for ttl in (most + timedelta(microseconds=1), timedelta(days=400)):
        with pytest.raises(InvalidValueError, match="at most 12 hours"):
            store.sessions.acquire(session, owner="a", ttl=ttl)
    lease = store.sessions.acquire(session, owner="a", ttl=most)
    with pytest.raises(InvalidValueError, match="at most 12 hours"):
        store.sessions.renew(lease, ttl=2 * most)
    assert store.sessions.renew(lease).until == lease.until


@pytest.mark.parametrize("ahead", [timedelta(hours=13), timedelta(days=1), timedelta(days=3650)])
def test_a_lease_by_a_clock_far_ahead_keeps_nobody_away(
    store: Store, open_store: Callable[..., Store], session: str, clock: MovableClock, ahead: timedelta
) -> None:
    wrong = open_store(clock=lambda: clock() + ahead)
    lost = wrong.sessions.acquire(session, owner="from the future", ttl=TTL)
    lease = store.sessions.acquire(session, owner="a", ttl=TTL)
    assert lease.token > lost.token
    with pytest.raises(StaleLeaseError):
        wrong.history.append(session, say("x"), lease=lost)
    assert store.history.append(session, say("x"), lease=lease)
    with pytest.raises(ConflictError):
        store.sessions.acquire(session, owner="b", ttl=TTL)


def test_a_session_left_busy_under_a_lease_from_the_future_is_repaired(
    store: Store, open_store: Callable[..., Store], session: str, clock: MovableClock
) -> None:
    wrong = open_store(clock=lambda: clock() + timedelta(days=1))
    wrong.sessions.acquire(session, owner="from the future", ttl=TTL)
    store.sessions.set_status(session, "busy")
    clock.advance(hours=2)
    assert store.sessions.repair_abandoned(older_than=timedelta(hours=1)) == 1
    assert store.sessions.get(session).status == "ready"
