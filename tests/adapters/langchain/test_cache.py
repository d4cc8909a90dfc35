"""LangChain's own suites for caches, and what they do not ask."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite

from statestore import LazyStore, StateStore
from statestore.adapters.langchain import StatestoreCache
from tests.support.clock import MovableClock
from tests.support.wire import Traffic

pytestmark = pytest.mark.filterwarnings("ignore:The function `loads` is in beta")


@pytest.fixture
def store(database_url: str) -> Iterator[LazyStore]:
    store = LazyStore(database_url)
    yield store
    store.close()


@pytest.fixture
def cache(store: LazyStore) -> StatestoreCache:
    return StatestoreCache(store)


class TestSync(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, store: LazyStore) -> StatestoreCache:
        return StatestoreCache(store)


class TestAsync(AsyncCacheTestSuite):
    @pytest.fixture
    def cache(self, store: LazyStore) -> StatestoreCache:
        return StatestoreCache(store)


def answer(model: str, text: str = "yes") -> list[Generation]:
    return [ChatGeneration(message=AIMessage(text, response_metadata={"model_name": model}), generation_info={"lc": 1})]


def test_what_one_model_answered_can_be_removed(cache: StatestoreCache) -> None:
    cache.update("p", "small", answer("small"))
    cache.update("p", "large", answer("large"))
    cache.clear(model="small")
    assert cache.lookup("p", "small") is None
    assert cache.lookup("p", "large") == answer("large")


async def test_what_one_model_answered_can_be_removed_in_a_coroutine(cache: StatestoreCache) -> None:
    await cache.aupdate("p", "small", answer("small"))
    await cache.aclear(model="large")
    assert await cache.alookup("p", "small") == answer("small")
    await cache.aclear(model="small")
    assert await cache.alookup("p", "small") is None


def test_tags_of_all_answers_remove_them(cache: StatestoreCache, store: LazyStore) -> None:
    StatestoreCache(store, tags=["reviews"]).update("p", "l", answer("small"))
    assert store.sync().cache.invalidate_tag("reviews") == 1


def test_keys_never_collide(cache: StatestoreCache) -> None:
    pairs = [("a", "bc"), ("ab", "c"), ("a\0b", "c"), ("a", "b\0c"), ("", "abc"), ("\ud800", "c"), ("[a", "b]")]
    for prompt, llm in pairs:
        cache.update(prompt, llm, [Generation(text=repr((prompt, llm)))])
    for prompt, llm in pairs:
        assert cache.lookup(prompt, llm) == [Generation(text=repr((prompt, llm)))]


def test_caches_of_different_names_are_apart(store: LazyStore) -> None:
    first, second = StatestoreCache(store, agent_name="first"), StatestoreCache(store, agent_name="second")
    first.update("p", "l", answer("small", "one"))
    second.update("p", "l", answer("small", "two"))
    first.clear()
    assert first.lookup("p", "l") is None
    assert second.lookup("p", "l") == answer("small", "two")


def test_an_answer_stays_until_it_is_cleared_or_for_the_time_to_live(database_url: str, clock: MovableClock) -> None:
    with StateStore.open(database_url, clock=clock) as store:
        forever, for_a_minute = StatestoreCache(store), StatestoreCache(store, ttl=timedelta(minutes=1))
        forever.update("p", "kept", answer("small"))
        for_a_minute.update("p", "short", answer("small"))
        clock.advance(seconds=59)
        assert for_a_minute.lookup("p", "short") == answer("small")
        clock.advance(days=400)
        assert for_a_minute.lookup("p", "short") is None
        assert forever.lookup("p", "kept") == answer("small")
        store.sweep()
        assert [entry.agent_name for entry in store.cache.entries()] == ["langchain"]


class Own(AIMessage):
    """A class that is not LangChain's."""


def test_an_answer_that_cannot_be_read_back_counts_as_missing(
    cache: StatestoreCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.update("p", "own class", [ChatGeneration(message=Own("secret"))])
    cache.update("p", "object", [Generation(text="secret", generation_info={"raw": object()})])
    assert cache.lookup("p", "own class") is None
    assert cache.lookup("p", "object") is None
    assert "counts as missing" in caplog.text
    assert "secret" not in caplog.text


def test_nothing_but_answers_is_constructed(cache: StatestoreCache, store: LazyStore) -> None:
    key = store.sync().cache.make_key("langchain", ["p", "l"])
    prompt = (
        '{"lc": 1, "type": "constructor", "id": ["langchain", "prompts", "prompt", "PromptTemplate"], "kwargs": {}}'
    )
    secret = '{"lc": 1, "type": "secret", "id": ["PATH"]}'
    for text in (prompt, f'[{{"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {{"x": {secret}}}}}]'):
        store.sync().cache.set(key, text)
        assert cache.lookup("p", "l") is None


def test_a_model_is_asked_once(cache: StatestoreCache) -> None:
    said = [AIMessage("one", usage_metadata={"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}), AIMessage("2")]
    model = FakeMessagesListChatModel(responses=said, cache=cache)
    assert [model.invoke("hello").content for _ in range(3)] == ["one", "one", "one"]
    cache.clear()
    assert model.invoke("hello").content == "2"


def test_writers_at_once_leave_one_of_their_answers(cache: StatestoreCache) -> None:
    answers = [answer("small", str(number)) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: cache.update("p", "l", one), answers))
    assert cache.lookup("p", "l") in answers


def test_a_lookup_is_one_statement(traffic: Traffic) -> None:
    with StateStore.open(traffic.url) as store:
        cache = StatestoreCache(store)
        cache.update("p", "l", answer("small"))
        for prompt in ("p", "missing"):
            for _ in range(8):
                traffic.clear()
                cache.lookup(prompt, "l")
            assert len(traffic.statements) == 1
