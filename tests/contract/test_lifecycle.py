"""The status of a session, from starting to dead and back."""

from datetime import timedelta
from typing import Any, get_args

import pytest

from statestore import InvalidTransitionError, InvalidValueError, SessionNotFoundError, StaleLeaseError
from statestore.values.sessions import STATUSES, Status
from tests.support.clock import MovableClock
from tests.support.crowd import at_once

Store = Any

ALLOWED = {
    ("starting", "ready"), ("starting", "dead"), ("ready", "busy"), ("ready", "dead"), ("busy", "ready"),
    ("busy", "dead"), ("dead", "starting"), ("dead", "ready"),
}  # fmt: skip
HOUR = timedelta(hours=1)


@pytest.mark.parametrize("before", STATUSES)
@pytest.mark.parametrize("after", STATUSES)
def test_the_transition_table(store: Store, before: Status, after: Status) -> None:
    store.sessions.create("s", status=before)
    if (before, after) in ALLOWED:
        assert store.sessions.set_status("s", after).status == after
        assert store.sessions.get("s").status == after
        return
    with pytest.raises(InvalidTransitionError) as caught:
        store.sessions.set_status("s", after)
    assert (caught.value.current, caught.value.wanted) == (before, after)
    assert set(caught.value.allowed) == {to for start, to in ALLOWED if start == before}
    assert store.sessions.get("s").status == before


def test_of_two_that_want_to_be_busy_one_is_told(store: Store) -> None:
    store.sessions.create("s")

    def busy() -> str:
        try:
            return str(store.sessions.set_status("s", "busy").status)
        except InvalidTransitionError:
            return "refused"

    assert sorted(at_once(*[busy] * 8)) == ["busy"] + ["refused"] * 7


def test_a_status_that_does_not_exist(store: Store) -> None:
    assert set(get_args(Status)) == set(STATUSES)
    with pytest.raises(InvalidValueError):
        store.sessions.set_status("s", "asleep")


def test_a_missing_session_has_no_status(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        store.sessions.set_status("missing", "ready")


def test_an_expired_session_has_no_status(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=HOUR)
    clock.advance(hours=1)
    with pytest.raises(SessionNotFoundError):
        store.sessions.set_status("s", "busy")


def test_a_status_does_not_count_as_a_revision(store: Store) -> None:
    before = store.sessions.create("s")
    store.sessions.set_status("s", "busy")
    assert store.sessions.update("s", title="t", expected_revision=before.revision).title == "t"


def test_a_change_of_status_keeps_the_session_alive(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=HOUR)
    clock.advance(minutes=59)
    store.sessions.set_status("s", "busy")
    clock.advance(minutes=59)
    assert store.sessions.exists("s")


@pytest.mark.parametrize("status", STATUSES)
def test_terminate_ends_a_session_in_any_status(store: Store, status: Status) -> None:
    store.sessions.create("s", status=status)
    assert store.sessions.terminate("s") is True
    assert store.sessions.get("s").status == "dead"


def test_terminating_a_missing_session_is_no_error(store: Store) -> None:
    assert store.sessions.terminate("missing") is False


def test_terminate_takes_the_lease_back(store: Store) -> None:
    store.sessions.create("s")
    lease = store.sessions.acquire("s", owner="w", ttl=HOUR)
    store.sessions.terminate("s")
    with pytest.raises(StaleLeaseError):
        store.history.append("s", [{"role": "user", "content": "x"}], lease=lease)


def test_what_a_dead_session_holds_stays(store: Store) -> None:
    store.sessions.create("s", instructions="be kind")
    store.history.append("s", [{"role": "user", "content": "x"}])
    store.sessions.terminate("s")
    resumed = store.sessions.open("s", instructions="others")
    assert (resumed.status, resumed.resumed, resumed.instructions) == ("ready", True, "be kind")
    assert store.history.count("s") == 1


@pytest.mark.parametrize(
    ("status", "opened_with", "expected"),
    [
        ("dead", "ready", "ready"),
        ("dead", "starting", "starting"),
        ("dead", "busy", "ready"),
        ("starting", "ready", "starting"),
        ("ready", "ready", "ready"),
        ("busy", "ready", "busy"),
    ],
)
def test_open_resumes_what_is_dead_and_leaves_the_rest(
    store: Store, status: Status, opened_with: Status, expected: Status
) -> None:
    store.sessions.create("s", status=status)
    session = store.sessions.open("s", status=opened_with)
    assert (session.status, session.resumed) == (expected, True)
    assert store.sessions.get("s").status == expected


def test_open_says_that_it_made_a_session(store: Store) -> None:
    assert store.sessions.open("s").resumed is False


def test_sessions_can_be_listed_by_status(store: Store) -> None:
    for number, status in enumerate(STATUSES):
        store.sessions.create(f"s{number}", status=status)
    assert [session.session_id for session in store.sessions.page(status="busy").sessions] == ["s2"]


def test_a_session_left_busy_is_repaired(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s")
    store.sessions.set_status("s", "busy")
    clock.advance(minutes=59)
    assert store.sessions.repair_abandoned(older_than=HOUR) == 0
    clock.advance(minutes=1)
    assert store.sessions.repair_abandoned(older_than=HOUR) == 1
    assert store.sessions.get("s").status == "ready"
    assert store.sessions.repair_abandoned(older_than=HOUR) == 0


def test_only_idle_sessions_at_work_are_repaired(store: Store, clock: MovableClock) -> None:
    for status in STATUSES:
        store.sessions.create(status, status=status)
    store.sessions.create("used", status="busy")
    store.sessions.create("expired", status="busy", ttl=HOUR)
    clock.advance(hours=1)
    store.history.append("used", [{"role": "user", "content": "x"}])
    assert store.sessions.repair_abandoned(older_than=HOUR) == 2
    assert [store.sessions.get(status).status for status in STATUSES] == ["dead", "ready", "ready", "dead"]
    assert store.sessions.get("used").status == "busy"


def test_a_lease_that_holds_keeps_a_session_from_being_repaired(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", status="busy")
    store.sessions.acquire("s", owner="w", ttl=3 * HOUR)
    clock.advance(hours=2)
    assert store.sessions.repair_abandoned(older_than=HOUR) == 0
    clock.advance(hours=1)
    assert store.sessions.repair_abandoned(older_than=HOUR) == 1
    assert store.sessions.get("s").status == "ready"


def test_repair_stays_in_its_namespace(open_store: Any, store: Store, clock: MovableClock) -> None:
    other = open_store(namespace="other", clock=clock)
    other.sessions.create("s", status="busy")
    clock.advance(hours=2)
    assert store.sessions.repair_abandoned(older_than=HOUR) == 0
    assert other.sessions.get("s").status == "busy"


@pytest.mark.parametrize("older_than", [None, timedelta(0), 5])
def test_how_old_must_be_said(store: Store, older_than: Any) -> None:
    with pytest.raises(InvalidValueError) as caught:
        store.sessions.repair_abandoned(older_than=older_than)
    assert "None for" not in str(caught.value)
