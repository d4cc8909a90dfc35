"""The demonstration on a built-in conversation: someone plans a day out, and an agent helps with tools."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from statestore import migrate
from statestore.cli.narration import Narrator
from statestore.cli.output import counted, json_text, visible
from statestore.store import StateStore
from statestore.values.history import Entry, NewEntry, Usage
from statestore.values.sessions import Session

QUESTION: list[dict[str, Any]] = [
    {"role": "system", "content": "You plan day trips. Ask the tools, do not guess."},
    {"role": "user", "content": "Is Saturday good for a walk around Lake Constance?"},
]
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"place": "Konstanz", "day": "Saturday"}'},
        }
    ],
}
RESULT: dict[str, Any] = {
    "role": "tool",
    "tool_call_id": "call_1",
    "name": "get_weather",
    "content": '{"morning": "sun, 19 °C", "afternoon": "thunderstorms"}',
}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "In the morning, yes. Be back by noon: storms follow."}
TRAIN: list[dict[str, Any]] = [
    {"role": "assistant", "content": "Storms come in the afternoon. Take the lakeside train: dry, same view."},
    {"role": "user", "content": "Good idea. Which one?"},
]


def tell(path: Path) -> str:
    """Tell the story on a new database at *path*; returns a session to look at."""
    narrator = Narrator()
    click.echo("statestore keeps what AI agents must not forget in a SQL database: this one is a new SQLite file.")

    narrator.title("Make the tables, and open the store")
    store = narrator.run(open_store, f"sqlite:///{path}")
    with store:
        narrator.found(f"{path}: schema at revision {migrate.current(f'sqlite:///{path}')}")

        narrator.title("Keep a conversation: plain chat messages, with what each model call used and cost")
        narrator.run(converse, store)
        _show(narrator, store, "lake-trip")

        narrator.title("Send the same messages again, as after a lost reply: after_seq= makes that harmless")
        narrator.run(send_again, store)
        narrator.found(f"the session still has {counted(store.history.count('lake-trip'), 'entry')}")

        narrator.title("Remember facts beside the conversation")
        narrator.run(remember, store)
        narrator.found(json_text(store.state.get_all("lake-trip")))

        narrator.title("Fork the session after the weather report, and take it another way")
        narrator.run(fork, store)
        _show(narrator, store, "lake-trip-by-train")
        narrator.found(f"state of the fork: {json_text(store.state.get_all('lake-trip-by-train'))}")

        narrator.title("The original session does not see any of that")
        before = store.history.read("lake-trip")
        _show(narrator, store, "lake-trip")
        fork_began_with = store.history.read("lake-trip-by-train", before=5)
        same = [entry.content for entry in before[:4]] == [entry.content for entry in fork_began_with]
        narrator.found(f"the fork shares its first four entries, none was copied: {'yes' if same else 'NO'}")
        narrator.found(f"rows in history_entries: {_query(path, 'SELECT count(*) FROM history_entries')[0][0]}")

    narrator.title("What did it cost? Plain SQL on the tables")
    sql = """SELECT session_id, response_model, sum(input_tokens), sum(output_tokens), round(sum(cost_usd), 6)
FROM history_entries WHERE response_model IS NOT NULL GROUP BY session_id, response_model"""
    narrator.show(*sql.splitlines())
    for session_id, model, tokens_in, tokens_out, cost in _query(path, sql):
        narrator.found(f"{session_id}: {model}, {tokens_in:,} tokens in, {tokens_out:,} out, ${cost:.6f}")
    return "lake-trip-by-train"


def open_store(url: str) -> StateStore:
    migrate.upgrade(url)
    store = StateStore.open(url)
    return store


def converse(store: StateStore) -> None:
    store.sessions.create("lake-trip", user_id="ada", agent_name="day-trips")
    store.history.append("lake-trip", QUESTION)
    usage = Usage(input_tokens=182, output_tokens=24)
    store.history.append("lake-trip", [NewEntry(CALL, usage=usage, response_model="small-1", cost_usd=0.000214)])
    usage = Usage(input_tokens=241, output_tokens=31, cache_read_input_tokens=160)
    answer = NewEntry(ANSWER, usage=usage, response_model="small-1", cost_usd=0.000187)
    store.history.append("lake-trip", [RESULT, answer])


def send_again(store: StateStore) -> None:
    store.history.append("lake-trip", QUESTION, after_seq=0)


def remember(store: StateStore) -> None:
    store.state.set("lake-trip", "place", {"name": "Konstanz", "lat": 47.66, "lon": 9.18})
    store.state.increment("lake-trip", "tool_calls")


def fork(store: StateStore) -> Session:
    store.sessions.fork("lake-trip", "lake-trip-by-train", at_seq=4)
    store.history.append("lake-trip-by-train", TRAIN)
    store.state.set("lake-trip-by-train", "transport", "train")
    return store.sessions.get("lake-trip-by-train")


def _show(narrator: Narrator, store: StateStore, session_id: str) -> None:
    entries = store.history.read(session_id)
    narrator.found(f"{session_id} has {counted(len(entries), 'entry')}:")
    for entry in entries:
        click.echo(f"       #{entry.seq} {visible(_line(entry))}")


def _line(entry: Entry) -> str:
    text = entry.content["content"]
    if text is None:
        function = entry.content["tool_calls"][0]["function"]
        text = f"→ {function['name']}({function['arguments']})"
    cost = "" if entry.cost_usd is None else f"  (${entry.cost_usd.normalize():f})"
    return f"{entry.role:<10}{text}{cost}"


def _query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()
