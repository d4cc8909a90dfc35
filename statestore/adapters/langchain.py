"""LangChain on a store: the history of a chat, and a cache of what models answered.

    history = StatestoreChatMessageHistory("user-42", "postgresql://app@db/agents")
    set_llm_cache(StatestoreCache("postgresql://app@db/agents"))

Both are made anywhere, connect at first use, and work in threads as in coroutines. `store` is a URL, a store that is
open, or a `statestore.LazyStore`, which several of them can share.
"""

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.load import dumps, loads
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
    convert_to_messages,
    messages_from_dict,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk

from statestore import NEVER, InvalidValueError, LazyStore, NewEntry, NewSession, SessionNotFoundError, StoreLike
from statestore.adapters.flows import Flow, OnStore, awaited, called, store
from statestore.adapters.layouts.labels import label

_MESSAGES = (
    *(AIMessage, ChatMessage, FunctionMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage),
    *(AIMessageChunk, ChatMessageChunk, FunctionMessageChunk, HumanMessageChunk, SystemMessageChunk, ToolMessageChunk),
)
_TYPES = frozenset(message.model_fields["type"].default for message in _MESSAGES)
# All that a cached answer may be made of; nothing else is constructed from what the cache contains.
_ANSWERS = (*_MESSAGES, Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk)

_log = logging.getLogger("statestore")


class StatestoreChatMessageHistory(OnStore, BaseChatMessageHistory):
    """The messages of a chat as the history of a session, whose id is that of the chat.

    The first message makes the session. A message with an `id` is there once: if it is added again it replaces what has
    that id, in its place, so an append can be repeated. Messages without an id are always added.
    """

    def __init__(
        self,
        session_id: str,
        store: StoreLike = None,
        *,
        user_id: str | None = None,
        agent_name: str | None = None,
        ttl: timedelta | None = None,
    ) -> None:
        """Take what a new session is to be like. Nothing is connected before the first use.

        Args:
            session_id: The session, unique among those of all users: `sessions.derive_id(user_id, chat)` makes one of
                both.
            store: Where it is; by default at `STATESTORE_URL`.
            user_id: The user it belongs to, for lists, reports and erasure.
            agent_name: The agent that runs it.
            ttl: How long after its last use it expires; by default what the store says.
        """
        super().__init__()
        self.session_id = session_id
        self._store = LazyStore.of(store)
        self._new = NewSession(user_id=user_id, agent_name=agent_name, ttl=ttl)

    def _messages(self) -> Flow[list[BaseMessage]]:
        """All messages, oldest first; none if there is no such session.

        Raises:
            InvalidValueError: An entry of the session, appended by other means, is not a message.
        """
        try:
            return _read(self.session_id, (yield store.history.messages(self.session_id)))
        except SessionNotFoundError:
            return []

    messages, aget_messages = property(called(_messages)), awaited(_messages)  # type: ignore[assignment]

    def _add_messages(self, messages: Sequence[BaseMessage]) -> Flow[None]:
        """Add messages: all or none, one after the other.

        Raises:
            InvalidValueError: One of them is not a message of LangChain's own types, or is not exact JSON. Nothing was
                written.
        """
        if entries := _entries(messages):
            yield store.history.append(self.session_id, entries, create=self._new, on_conflict="replace")

    add_messages, aadd_messages = called(_add_messages), awaited(_add_messages)

    def _clear(self) -> Flow[None]:
        """Remove all messages. The session and its state stay, and so does what a fork sees."""
        with suppress(SessionNotFoundError):
            yield store.history.clear(self.session_id)

    clear, aclear = called(_clear), awaited(_clear)


def _entries(messages: Sequence[Any]) -> list[NewEntry]:
    for number, message in enumerate(messages):
        if not isinstance(message, BaseMessage) or message.type not in _TYPES:
            raise InvalidValueError(
                f"messages[{number}]", f"must be one of langchain_core.messages, not {type(message).__name__}"
            )
    unique = {message.id or number: message for number, message in enumerate(messages)}
    return [
        NewEntry(
            message.model_dump(),
            entry_id=message.id or None,
            provider_name=label(message.response_metadata.get("model_provider")),
        )
        for message in unique.values()
    ]


def _read(session_id: str, contents: Sequence[Any]) -> list[BaseMessage]:
    """The messages, also those that were appended by other means than ours, such as messages of OpenAI."""
    messages = []
    for number, content in enumerate(contents, 1):
        try:
            messages.append(_message(content))
        except Exception as error:  # Of any type: LangChain takes it apart unchecked. Most of them quote it.
            raise InvalidValueError(
                "session_id",
                f"entry {number} of the {len(contents)} in session {session_id!r} is not a message that LangChain can "
                f"read ({type(error).__name__}); remove or replace it",
            ) from None
    return messages


def _message(content: Any) -> BaseMessage:
    if isinstance(content, dict) and content.get("type") in _TYPES:
        return messages_from_dict([{"type": content["type"], "data": content}])[0]
    return convert_to_messages([content])[0]


class StatestoreCache(OnStore, BaseCache):
    """What models answered, by prompt and by the parameters of the model, shared by all processes.

    An answer has the tag `model:NAME` of each model that it says it is from, so `clear(model=NAME)` and
    `statestore cache invalidate --tag model:NAME` remove what one model answered.
    """

    def __init__(
        self,
        store: StoreLike = None,
        *,
        ttl: timedelta | float | None = None,
        tags: Iterable[str] = (),
        agent_name: str = "langchain",
    ) -> None:
        """Take how answers are kept. Nothing is connected before the first use.

        Args:
            store: Where they are kept; by default at `STATESTORE_URL`.
            ttl: For how long, as a timedelta or in seconds; by default until they are cleared, or evicted because the
                cache is full.
            tags: Further tags of all answers.
            agent_name: Whose they are: each name has answers of its own, which `clear` removes.
        """
        self._store = LazyStore.of(store)
        self._ttl = NEVER if ttl is None else ttl
        self._tags = frozenset(tags)
        self._agent_name = agent_name

    def _lookup(self, prompt: str, llm_string: str) -> Flow[RETURN_VAL_TYPE | None]:
        """The answer, or None."""
        key = yield store.cache.make_key(self._agent_name, [prompt, llm_string])
        return _answer((yield store.cache.get(key, agent_name=self._agent_name)), key)

    lookup, alookup = called(_lookup), awaited(_lookup)

    def _update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> Flow[None]:
        """Keep an answer in place of what was there."""
        about: dict[str, Any] = {"tags": self._tags_of(return_val), "agent_name": self._agent_name}
        key = yield store.cache.make_key(self._agent_name, [prompt, llm_string])
        yield store.cache.set(key, dumps(return_val), ttl=self._ttl, **about)

    update, aupdate = called(_update), awaited(_update)

    def _clear(self, /, *, model: str | None = None, **kwargs: Any) -> Flow[None]:
        """Remove all answers, or those of one model: of all caches in the namespace then."""
        if model is None:
            yield store.cache.invalidate_agent(self._agent_name)
        else:
            yield store.cache.invalidate_tag(f"model:{model}")

    clear, aclear = called(_clear), awaited(_clear)

    def _tags_of(self, answer: RETURN_VAL_TYPE) -> frozenset[str]:
        messages = [generation.message for generation in answer if isinstance(generation, ChatGeneration)]
        models = {message.response_metadata.get("model_name") for message in messages}
        return self._tags | {f"model:{model}" for model in models if model}


def _answer(text: str | None, key: str) -> RETURN_VAL_TYPE | None:
    if text is None:
        return None
    try:
        answer: RETURN_VAL_TYPE = loads(text, allowed_objects=_ANSWERS)
    except (ValueError, NotImplementedError) as error:
        # A generation of somebody's own class, for example: it is asked for again.
        _log.warning("the cached answer %s cannot be read (%s), and counts as missing", key, type(error).__name__)
        return None
    return answer
