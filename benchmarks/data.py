"""The messages and ids that every subject works with: the same in every process and in every run."""

import random
from typing import Any

SEED = 20260131
MESSAGE_BYTES = 1024

SESSIONS = 64
"""How many sessions of 200 entries there are. Work goes round them, as the turns of an agent's users do."""
READING = 32
LONG = 10_000
FORK_SIZES = (10, 200, 2_000, 10_000)
STATE_KEYS = 8
TAG_SIZE = 1_000
CACHE_SIZE = 100_000
SWEEP_SIZE = 10_000

_VOCABULARY = """
the a of to and in is that for it as was on with be by at from or an are this not have which had their but has been one
all were they you can will there would each about how up out them then she many some so these into like him time two
more write go see number no way could people my than first water call who oil its now find long down day did get come
made may part agent tool session answer question result database query index context"""
_WORDS = _VOCABULARY.split()


def _text(randomness: random.Random, length: int) -> str:
    words: list[str] = []
    size = 0
    while size < length:
        words.append(randomness.choice(_WORDS))
        size += len(words[-1]) + 1
    return " ".join(words)[:length]


def _messages() -> list[dict[str, Any]]:
    randomness = random.Random(SEED)
    roles = ("user", "assistant")
    # 36 bytes are the keys, the quotes and the role.
    return [{"role": roles[number % 2], "content": _text(randomness, MESSAGE_BYTES - 36)} for number in range(1_000)]


MESSAGES = _messages()
STATE_VALUES = [{"language": "en", "step": number, "plan": message["content"][:160]} for number, message in
                enumerate(MESSAGES[:256])]  # fmt: skip
CACHE_VALUES = [{"answer": message["content"], "model": "gpt-5", "tokens": 231} for message in MESSAGES[:256]]


def message(number: int) -> dict[str, Any]:
    return MESSAGES[number % len(MESSAGES)]


def messages(number: int, count: int) -> list[dict[str, Any]]:
    return [message(number * count + index) for index in range(count)]


def session(number: int) -> str:
    """One of the sessions of 200 entries."""
    return f"chat-{number % SESSIONS:04}"


def reading(number: int) -> str:
    """One of the sessions of 200 entries that stay as they are, for what reads."""
    return f"reading-{number % READING:04}"


def sized(entries: int) -> str:
    """The session of so many entries that forks are made from."""
    return f"source-{entries}"


SPREAD = 50
"""How many sessions of a grown database have entries; set by what it was grown to."""


def spread(number: int) -> str:
    """A session of 20 entries, far from the one before: 7,919 is prime."""
    return f"grown-{number * 7919 % SPREAD}"


def spread_key(number: int) -> str:
    return f"cached-{number * 7919 % (SPREAD * 20)}"


def fork_at(depth: int) -> str:
    """A session with the same number of entries at every depth of forks; 0 is unforked."""
    return f"fork-depth-{depth}"


def state_key(number: int) -> str:
    return f"key-{number % STATE_KEYS}"


def state_value(number: int) -> dict[str, Any]:
    return STATE_VALUES[number % len(STATE_VALUES)]


def cache_key(number: int) -> str:
    return f"cached-{number % 1_000:04}"


def cache_value(number: int) -> dict[str, Any]:
    return CACHE_VALUES[number % len(CACHE_VALUES)]
