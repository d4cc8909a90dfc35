"""What ADK asks of a session service, and what the store adds."""

import asyncio
import base64
import traceback
from datetime import timedelta
from typing import Any

import pytest
from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions, EventCompaction
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.session import Session
from google.genai import types

from statestore import AsyncStateStore, ConflictError, InvalidValueError, LazyStore, NewEntry, StateStore
from statestore.adapters.adk import StatestoreSessionService, statestore_id
from tests.support.clock import MovableClock

Service = StatestoreSessionService
ADA: Any = {"app_name": "travel", "user_id": "ada"}
S: Any = {**ADA, "session_id": "s"}
KEY = statestore_id("travel", "ada", "s")


def event(author: str = "user", *, text: str = "hello", delta: dict[str, Any] | None = None, **fields: Any) -> Event:
    content = types.Content(role="user" if author == "user" else "model", parts=[types.Part(text=text)])
    return Event(author=author, content=content, actions=EventActions(state_delta=delta or {}), **fields)


async def read(service: Service, **config: Any) -> Session:
    found = await service.get_session(**S, config=GetSessionConfig(**config) if config else None)
    assert found is not None
    return found


async def test_a_session_comes_back_as_it_was_left(service: Service) -> None:
    assert await service.get_session(**S) is None
    session = await service.create_session(**S, state={"step": 1})
    assert await service.get_session(**S) == session
    await service.append_event(session, event(delta={"step": 2}))
    await service.append_event(session, event("planner"))
    assert await service.get_session(**S) == session
    listed = (await service.list_sessions(**ADA)).sessions
    assert listed == [session.model_copy(update={"events": []})]


EVENTS = [
    event(delta={"none": None, "nested": {"list": [1, 2.5, None, {"é": "\u0000"}]}}),
    Event(
        author="planner",
        output={"any": [None]},
        custom_metadata={"k": None},
        branch="a.b",
        long_running_tool_ids={"2", "1"},
    ),
    Event(
        author="planner",
        content=types.Content(
            role="model",
            parts=[
                types.Part.from_bytes(data=bytes(range(256)), mime_type="image/png"),
                types.Part(function_call=types.FunctionCall(id="c", name="look_up", args={"x": None, "n": 1e-7})),
                types.Part(thought=True, thought_signature=b"\x00\xff", text="hm"),
            ],
        ),
        grounding_metadata=types.GroundingMetadata(search_entry_point=types.SearchEntryPoint(sdk_blob=b"blob")),
        usage_metadata=types.GenerateContentResponseUsageMetadata(prompt_token_count=3, total_token_count=3),
        finish_reason=types.FinishReason.STOP,
        citation_metadata=types.CitationMetadata(),
        timestamp=1_700_000_000.123456,
        turn_complete=True,
        partial=False,
    ),
    Event(
        author="planner",
        error_code="SAFETY",
        error_message="no",
        interrupted=True,
        actions=EventActions(
            artifact_delta={"file": 0},
            transfer_to_agent="other",
            escalate=True,
            agent_state={"x": None},
            rewind_before_invocation_id="i",
            route=["a", 1, True],
            compaction=EventCompaction(
                start_timestamp=1.5, end_timestamp=2.5, compacted_content=types.Content(parts=[types.Part(text="…")])
            ),
        ),
    ),
]


@pytest.mark.parametrize("given", EVENTS, ids=range(len(EVENTS)))
async def test_an_event_comes_back_as_it_was(service: Service, given: Event) -> None:
    session = await service.create_session(**S)
    before = given.model_copy(deep=True)
    await service.append_event(session, given)
    assert (await read(service)).events == [before] == session.events


async def test_each_scope_is_seen_by_those_it_belongs_to(service: Service) -> None:
    session = await service.create_session(**S, state={"app:theme": "dark", "user:name": "Ada", "step": 1, "temp:x": 0})
    assert session.state == {"app:theme": "dark", "user:name": "Ada", "step": 1}
    await service.append_event(session, event(delta={"app:v": 2, "user:v": 3, "own": [4]}))
    assert (await service.create_session(**ADA, session_id="s2")).state == {
        "app:theme": "dark", "app:v": 2, "user:name": "Ada", "user:v": 3,
    }  # fmt: skip
    bob = await service.create_session(app_name="travel", user_id="bob")
    assert bob.state == {"app:theme": "dark", "app:v": 2}
    assert (await service.create_session(app_name="other", user_id="ada")).state == {}
    assert await service.get_user_state(**ADA) == {"name": "Ada", "v": 3}
    assert await service.get_user_state(app_name="other", user_id="ada") == {}
    everybody = (await service.list_sessions(app_name="travel")).sessions
    assert {(one.user_id, one.state.get("user:v"), one.state.get("own") is not None) for one in everybody} == {
        ("ada", 3, True), ("ada", 3, False), ("bob", None, False),
    }  # fmt: skip


async def test_what_is_temporary_is_only_in_memory(service: Service) -> None:
    session = await service.create_session(**S)
    await service.append_event(session, event(delta={"temp:t": 1, "own": 2}))
    assert session.state == {"temp:t": 1, "own": 2}
    found = await read(service)
    assert found.state == found.events[0].actions.state_delta == {"own": 2}


async def test_state_that_json_does_not_have_is_converted_as_adk_does(service: Service) -> None:
    session = await service.create_session(**S, state={"delta": timedelta(seconds=1), "tuple": (1, 2)})
    assert session.state == {"delta": "PT1S", "tuple": [1, 2]}
    await service.append_event(session, event(delta={"set": {1}}))
    assert (await read(service)).state == {"delta": "PT1S", "tuple": [1, 2], "set": [1]}


async def test_ids_are_not_mixed_up(service: Service, store: AsyncStateStore) -> None:
    names = [
        ("a", "b:c", "d"),
        ("a:b", "c", "d"),
        ("a", "b", "c:d"),
        ("a", "b%3Ac", "d"),
        ("a", "b", "c"),
        ("A", "b", "c"),
    ]
    assert len({statestore_id(*one) for one in names}) == len(names)
    for number, (app, user, session_id) in enumerate(names):
        await service.create_session(
            app_name=app, user_id=user, session_id=session_id, state={"n": number, "user:n": number}
        )
    for number, (app, user, session_id) in enumerate(names):
        found = await service.get_session(app_name=app, user_id=user, session_id=session_id)
        assert found is not None
        assert (found.state["n"], found.user_id, found.id) == (number, user, session_id)
        listed = (await service.list_sessions(app_name=app, user_id=user)).sessions
        assert (user, session_id) in {(one.user_id, one.id) for one in listed}
        assert all((one.app_name, one.user_id) == (app, user) for one in listed)
    assert await service.get_user_state(app_name="a:b", user_id="c") == {"n": 1}
    await service.delete_session(app_name="a", user_id="b:c", session_id="d")
    assert await store.sessions.count() == len(names) - 1


async def test_a_session_id_is_taken_once_for_a_user(service: Service) -> None:
    await service.create_session(**S, state={"kept": 1})
    with pytest.raises(AlreadyExistsError):
        await service.create_session(**S)
    with pytest.raises(AlreadyExistsError):
        await service.create_session(**S, state={"kept": 2, "app:lost": 1})
    assert (await read(service)).state == {"kept": 1}
    await service.create_session(app_name="travel", user_id="bob", session_id="s")
    made = [await service.create_session(**ADA, session_id=given) for given in (None, "")]
    assert len({one.id for one in made} - {""}) == 2


async def test_a_deleted_session_leaves_the_state_of_user_and_app(service: Service) -> None:
    await service.create_session(**S, state={"app:a": 1, "user:u": 2, "own": 3})
    await service.delete_session(**S)
    await service.delete_session(**S)
    assert (await service.list_sessions(**ADA)).sessions == []
    assert (await service.create_session(**S)).state == {"app:a": 1, "user:u": 2}


async def test_events_are_chosen_by_number_and_time(service: Service) -> None:
    session = await service.create_session(**S)
    for n in range(1, 6):
        await service.append_event(session, event(text=str(n), timestamp=float(n)))

    async def times(**config: Any) -> list[float]:
        found = await read(service, **config)
        assert (found.last_update_time, found.state) == (5.0, {})
        assert found._storage_update_marker == session._storage_update_marker
        return [one.timestamp for one in found.events]

    assert await times(num_recent_events=0) == []
    assert await times(num_recent_events=3) == [3.0, 4.0, 5.0]
    assert await times(num_recent_events=9) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert await times(after_timestamp=4.0) == [4.0, 5.0]
    assert await times(after_timestamp=50.0) == []
    assert await times(after_timestamp=2.0, num_recent_events=2) == [4.0, 5.0]
    assert await times(after_timestamp=4.0, num_recent_events=3) == [4.0, 5.0]
    with pytest.raises(ValueError, match="num_recent_events"):
        GetSessionConfig(num_recent_events=-1)


async def test_sessions_are_listed_by_the_time_of_their_last_event(service: Service, clock: MovableClock) -> None:
    sessions = []
    for name in ("a", "b", "c"):
        sessions.append(await service.create_session(**ADA, session_id=name))
        clock.advance(seconds=1)
    later = sessions[-1].last_update_time + 10
    await service.append_event(sessions[0], event(timestamp=later))
    assert sessions[0].last_update_time == later
    listed = (await service.list_sessions(**ADA)).sessions
    assert [one.id for one in listed] == ["b", "c", "a"]
    assert [one.last_update_time for one in listed] == [one.last_update_time for one in (*sessions[1:], sessions[0])]


async def test_sessions_that_adk_has_not_made_are_not_listed(service: Service, store: AsyncStateStore) -> None:
    await service.create_session(**S)
    for foreign in ("travel:notes", "travel::s", "travel:ada:"):
        await store.sessions.create(foreign)
    assert [one.id for one in (await service.list_sessions(app_name="travel")).sessions] == ["s"]


async def test_a_session_of_another_service_is_stale(service: Service) -> None:
    session = await service.create_session(**S)
    session._storage_update_marker = "2026-01-01T00:00:00.000000"  # As DatabaseSessionService marks it.
    with pytest.raises(StaleSessionError):
        await service.append_event(session, event())


async def test_more_sessions_than_a_page_are_all_listed(
    service: Service, store: AsyncStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statestore.adapters.adk._PAGE", 3)
    for n in range(8):
        await service.create_session(**ADA, session_id=str(n))
    assert {one.id for one in (await service.list_sessions(app_name="travel")).sessions} == set("01234567")


async def test_order_survives_equal_times(service: Service) -> None:
    session = await service.create_session(**S)
    for n in range(20):
        await service.append_event(session, event(text=str(n), timestamp=7.0))
    found = await read(service)
    assert [one.id for one in found.events] == [one.id for one in session.events]


async def test_a_partial_event_is_not_stored(service: Service) -> None:
    session = await service.create_session(**S)
    given = event(partial=True, delta={"x": 1})
    assert await service.append_event(session, given) is given
    assert session.events == (await read(service)).events == []


async def test_a_stale_writer_is_refused_and_changes_nothing(service: Service) -> None:
    await service.create_session(**S)
    first, second = await read(service), await read(service)
    await service.append_event(first, event(delta={"own": 1}))
    for delta in ({"own": 2, "app:a": 2, "user:u": 2}, {}):
        with pytest.raises(StaleSessionError, match="modified in storage"):
            await service.append_event(second, event(delta=delta))
    assert second.events == []
    found = await read(service)
    assert (found.events, found.state) == (first.events, {"own": 1})
    await service.append_event(found, event())


async def test_one_of_two_writers_at_once_wins(service: Service) -> None:
    await service.create_session(**S)
    for n in range(5):
        copies = [await read(service) for _ in range(4)]
        outcomes = await asyncio.gather(
            *(service.append_event(one, event(delta={f"{n}": w})) for w, one in enumerate(copies)),
            return_exceptions=True,
        )
        assert sum(isinstance(one, Event) for one in outcomes) == 1
        assert sum(isinstance(one, StaleSessionError) for one in outcomes) == 3
    found = await read(service)
    assert [one.actions.state_delta for one in found.events] == [{key: found.state[key]} for key in "01234"]


async def test_writers_that_read_again_lose_nothing(database_url: str) -> None:
    """Of two processes: each has a store of its own."""
    services = [Service(LazyStore(database_url)) for _ in range(2)]
    await services[0].create_session(**S)

    async def write(service: Service, worker: int) -> None:
        for n in range(10):
            while True:
                try:
                    await service.append_event(
                        await read(service), event(delta={f"{worker}-{n}": n, f"user:{worker}": n})
                    )
                    break
                except StaleSessionError:
                    continue

    await asyncio.gather(*(write(service, worker) for worker, service in enumerate(services)))
    found = await read(services[0])
    assert len(found.events) == 20
    assert len(found.state) == 22
    for service in services:
        await service._store.aclose()


async def test_agents_that_share_a_session_take_turns(service: Service) -> None:
    session = await service.create_session(**S)
    await asyncio.gather(*(service.append_event(session, event(text=str(n), delta={str(n): n})) for n in range(20)))
    found = await read(service)
    assert found.events == session.events
    assert len(found.state) == 20
    assert not service._locks


async def test_a_session_made_by_hand_is_compared_by_its_last_event(service: Service) -> None:
    session = await service.create_session(**S)
    await service.append_event(session, event())
    from_json = Session.model_validate_json(session.model_dump_json())
    assert from_json._storage_update_marker is None
    from_json.last_update_time -= 1
    await service.append_event(from_json, event())
    session._storage_update_marker = None
    with pytest.raises(StaleSessionError):
        await service.append_event(session, event())
    session.last_update_time = from_json.last_update_time
    await service.append_event(session, event())
    empty = await service.create_session(**ADA, session_id="empty")
    empty._storage_update_marker = None
    await service.append_event(empty, event())
    missing = Session(**ADA, id="missing")
    with pytest.raises(SessionNotFoundError):
        await service.append_event(missing, event())


async def test_an_event_that_is_there_is_not_stored_again(service: Service) -> None:
    session = await service.create_session(**S)
    given = event(delta={"n": 1})
    await service.append_event(session, given)
    await service.append_event(session, given)
    assert (await read(service)).events == session.events == [given]
    with pytest.raises(ConflictError, match="content"):
        await service.append_event(session, event(text="another", id=given.id))


async def test_an_event_that_is_sent_again_late_does_not_turn_state_back(service: Service) -> None:
    await service.create_session(**S)
    before = await read(service)
    first = event(delta={"n": 1, "user:n": 1, "app:n": 1})
    await service.append_event(await read(service), first)
    await service.append_event(await read(service), event(delta={"n": 2, "user:n": 2, "app:n": 2}))
    await service.append_event(before, first)  # The answer was lost, so its sender tries again.
    session = await read(service)
    assert (session.state, len(session.events)) == ({"n": 2, "user:n": 2, "app:n": 2}, 2)
    with pytest.raises(StaleSessionError):
        await service.append_event(before, event())


async def test_nothing_comes_back_after_a_session_is_deleted(service: Service) -> None:
    session = await service.create_session(**S)
    await service.delete_session(**S)
    for delta in ({}, {"app:x": 1}):
        with pytest.raises(SessionNotFoundError):
            await service.append_event(session, event(delta=delta))
    assert (await service.list_sessions(app_name="travel")).sessions == []
    assert (await service.create_session(**S)).state == {}


@pytest.mark.parametrize(
    ("argument", "given"),
    [("app_name", ""), ("user_id", ""), ("session_id", "x" * 513), ("user_id", 5), ("app_name", None)],
)
async def test_names_that_cannot_be_stored_are_named(service: Service, argument: str, given: Any) -> None:
    with pytest.raises(InvalidValueError, match=rf"^{argument}: "):
        await service.create_session(**{**S, argument: given})


async def test_an_event_that_cannot_be_stored_is_refused_as_a_whole(service: Service) -> None:
    session = await service.create_session(**S)
    with pytest.raises(InvalidValueError, match="timestamp"):
        await service.append_event(session, event(timestamp=1e30))
    with pytest.raises(InvalidValueError, match="1 to 512"):
        await service.append_event(session, event(delta={"app:": 1, "own": 2}))
    assert session.events == []
    assert session.state == {}
    assert (await read(service)) == session


@pytest.mark.parametrize("name", ["n" * 600, "a\0b", "\ud800"])
async def test_odd_names_of_a_model_do_not_keep_an_event_out(
    service: Service, store: AsyncStateStore, name: str
) -> None:
    session = await service.create_session(**S)
    call = types.Part(function_call=types.FunctionCall(id=name, name=name, args={}))
    given = Event(author=name, content=types.Content(role="model", parts=[call]), model_version=name, error_code=name)
    await service.append_event(session, given)
    assert (await read(service)).events == [given]
    [entry] = await store.history.read(KEY)
    assert (entry.tool_name, entry.tool_call_id, entry.agent_name) == (None, None, None)


async def test_tokens_reach_the_reports_once(service: Service, store: AsyncStateStore) -> None:
    session = await service.create_session(**S)
    used = types.GenerateContentResponseUsageMetadata(
        prompt_token_count=100,
        cached_content_token_count=40,
        candidates_token_count=10,
        thoughts_token_count=5,
        total_token_count=115,
    )
    call = types.Part(function_call=types.FunctionCall(id="c1", name="look_up", args={}))
    result = types.Part(function_response=types.FunctionResponse(id="c1", name="look_up", response={"r": 1}))
    await service.append_event(session, event())
    given = Event(author="planner", content=types.Content(role="model", parts=[call]), usage_metadata=used)
    given.model_version = "gemini-x"
    await service.append_event(session, given)
    await service.append_event(session, given)
    await service.append_event(session, Event(author="planner", content=types.Content(role="user", parts=[result])))
    only_total = types.GenerateContentResponseUsageMetadata(total_token_count=7)
    await service.append_event(session, event("planner", usage_metadata=only_total, error_code="SAFETY"))
    totals = await store.usage.totals(session_id=KEY)
    assert (totals.input_tokens, totals.output_tokens, totals.cache_read_input_tokens) == (100, 15, 40)
    assert totals.reasoning_output_tokens == 5
    [model] = [row for row in await store.usage.by_model() if row.model]
    assert (model.model, model.model_calls) == ("gemini-x", 1)
    [tool] = [row for row in await store.usage.by_tool() if row.tool_name]
    assert (tool.tool_name, tool.tool_calls) == ("look_up", 1)
    entries = await store.history.read(KEY)
    assert [one.role for one in entries] == ["user", "assistant", "tool", "assistant"]
    assert [one.turn for one in entries] == [1, 1, 1, 1]
    assert entries[3].error_type == "SAFETY"
    await store.sessions.fork(KEY, statestore_id("travel", "ada", "fork"))
    assert (await store.usage.totals(user_id="ada")).input_tokens == 100


@pytest.mark.parametrize("figure", [-1, 10**9 + 1])
async def test_an_odd_figure_keeps_no_event_out(service: Service, store: AsyncStateStore, figure: int) -> None:
    session = await service.create_session(**S)
    used = types.GenerateContentResponseUsageMetadata(prompt_token_count=figure, candidates_token_count=3)
    await service.append_event(session, event("planner", usage_metadata=used))
    totals = await store.usage.totals(session_id=KEY)
    assert (totals.entries, totals.input_tokens, totals.output_tokens) == (1, 0, 3)


async def test_a_fork_shows_through_the_service_and_the_service_in_the_store(
    service: Service, store: AsyncStateStore
) -> None:
    session = await service.create_session(**S, state={"own": 1, "user:u": 2})
    for n in range(3):
        await service.append_event(session, event(text=str(n)))
    await store.sessions.fork(KEY, statestore_id("travel", "ada", "retry"), at_seq=2)
    fork = await service.get_session(**ADA, session_id="retry")
    assert fork is not None
    assert fork.events == session.events[:2]
    assert fork.state == {"own": 1, "user:u": 2}
    await service.append_event(fork, event(text="another way", delta={"own": 5}))
    assert len((await read(service)).events) == 3
    assert (await read(service)).state["own"] == 1
    contents = await store.history.messages(statestore_id("travel", "ada", "retry"))
    assert [one["content"]["parts"][0]["text"] for one in contents] == ["0", "1", "another way"]
    assert {one.id for one in (await service.list_sessions(**ADA)).sessions} == {"s", "retry"}


async def test_sessions_expire_and_are_swept(database_url: str, clock: MovableClock) -> None:
    lazy = LazyStore(database_url, clock=clock, default_ttl=timedelta(hours=1))
    service = Service(lazy)
    session = await service.create_session(**S, state={"user:u": 1})
    await service.append_event(session, event())
    clock.advance(minutes=59)
    assert len((await read(service)).events) == 1
    clock.advance(minutes=59)
    assert len((await read(service)).events) == 1
    clock.advance(minutes=61)
    assert await service.get_session(**S) is None
    assert (await service.list_sessions(**ADA)).sessions == []
    with pytest.raises(SessionNotFoundError):
        await service.append_event(session, event())
    assert (await (await lazy.here()).sweep())["expired_sessions"].rows == 1
    assert (await service.create_session(**S)).state == {"user:u": 1}
    await lazy.aclose()


async def test_a_user_can_be_erased_in_all_apps(service: Service, store: AsyncStateStore) -> None:
    for app in ("travel", "books"):
        session = await service.create_session(app_name=app, user_id="ada", state={"user:u": app, "app:a": app})
        await service.append_event(session, event())
    await store.sessions.delete_user("ada")
    assert (await service.list_sessions(app_name="travel")).sessions == []
    assert await service.get_user_state(**ADA) == {}
    assert (await service.create_session(**ADA)).state == {"app:a": "travel"}


async def test_a_store_that_was_given_stays_open_and_one_that_was_not_is_closed(
    database_url: str, store: AsyncStateStore
) -> None:
    async with Service(store) as service:
        await service.create_session(**ADA)
    assert await store.sessions.count() == 1
    async with Service(database_url) as own:
        await own.create_session(**ADA)
        opened = await own._store.here()
    with pytest.raises(Exception, match="closed"):
        await opened.sessions.count()


async def test_a_lazy_store_is_closed_by_its_owner(database_url: str) -> None:
    lazy = LazyStore(database_url)
    async with Service(lazy) as service:
        await service.create_session(**ADA)
        opened = await lazy.here()
    assert await opened.sessions.count() == 1
    await lazy.aclose()


@pytest.mark.parametrize("bad", [{"author": ["secret"]}, {"author": "user", "content": "secret"}, ["secret"], "secret"])
async def test_an_entry_that_is_not_an_event_is_named_and_not_quoted(
    service: Service, store: AsyncStateStore, bad: Any
) -> None:
    session = await service.create_session(**S)
    await service.append_event(session, event())
    await store.history.append(KEY, [NewEntry(bad)])
    with pytest.raises(InvalidValueError, match="position 2 of session 's'") as refused:
        await service.get_session(**S)
    assert "secret" not in "".join(traceback.format_exception(refused.value))


async def test_a_session_without_its_events_goes_on(service: Service, store: AsyncStateStore) -> None:
    session = await service.create_session(**S)
    for _ in range(3):
        await service.append_event(session, event())
    await store.history.trim(KEY, keep_last=0)
    found = await read(service)
    assert found.events == []
    await service.append_event(found, event())
    assert (await read(service)).events == found.events
    await store.history.clear(KEY)
    with pytest.raises(StaleSessionError):
        await service.append_event(found, event())


def test_nothing_is_connected_before_the_first_use(tmp_path: Any) -> None:
    path = tmp_path / "new.db"
    Service(f"sqlite:///{path}")
    assert not path.exists()
    with pytest.raises(InvalidValueError):
        Service("mysql://somewhere/db")


def test_a_synchronous_store_is_refused_at_its_first_use(database_url: str) -> None:
    with StateStore.open(database_url) as store, pytest.raises(InvalidValueError, match="AsyncStateStore"):
        asyncio.run(Service(store).list_sessions(**ADA))


def test_one_service_serves_event_loops_one_after_the_other(database_url: str) -> None:
    service = Service(database_url)

    async def append() -> int:
        session = await service.get_session(**S) or await service.create_session(**S)
        await service.append_event(session, event())
        return len(session.events)

    assert [asyncio.run(append()) for _ in range(3)] == [1, 2, 3]
    asyncio.run(service.close())


def test_bytes_are_stored_as_json_has_them() -> None:
    part = types.Part.from_bytes(data=b"\xff", mime_type="image/png").model_dump(mode="json")
    assert base64.urlsafe_b64decode(part["inline_data"]["data"]) == b"\xff"
