"""What clients tried to write and what they were told, and whether the database agrees."""

import json
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from tests.faults.table import SHOWN, Tally
from tests.support.content import Content, unsound

ACKNOWLEDGED, DENIED, UNKNOWN, TRIED = "acknowledged", "denied", "unknown", "tried"


class Journal:
    """For each write the answer that its client got last. Safe to share between threads."""

    def __init__(self, file: int | None = None) -> None:
        self._lock = threading.Lock()
        self._file = file
        self.answers: dict[str, str] = {}
        self.sessions: dict[str, str] = {}
        self.batches: dict[str, list[str]] = {}
        self.seen = Tally()

    def note(self, answer: str, session: str, tags: list[str]) -> None:
        """A write of entries with these *tags* was answered. A tag that begins with `+` is an increment's."""
        with self._lock:
            for tag in tags:
                self.answers[tag] = answer
                self.sessions[tag] = session
            self.batches[tags[0]] = tags
        self._send(answer, session, tags)

    def is_wrong(self, text: str) -> None:
        with self._lock:
            self.seen.is_wrong(text)
        self._send("wrong", text, [])

    def is_hung(self, text: str) -> None:
        with self._lock:
            self.seen.is_hung(text)
        self._send("hung", text, [])

    def feed(self, line: str) -> None:
        """Take over what another process noted."""
        kind, text, tags = json.loads(line)
        if kind == "wrong":
            self.is_wrong(text)
        elif kind == "hung":
            self.is_hung(text)
        else:
            self.note(kind, text, tags)

    def feed_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            # A process that was killed may leave a line unfinished.
            if line.endswith("\n"):
                self.feed(line)

    def _send(self, kind: str, text: str, tags: list[str]) -> None:
        if self._file is not None:
            os.write(self._file, json.dumps([kind, text, tags]).encode() + b"\n")

    def settle(self, store: Any, *, url: str | None = None) -> Tally:
        """Compare with what a store reads now. With *url* also how it is stored."""
        tally = Tally()
        tally.add(self.seen)
        stored: Counter[str] = Counter()
        increments: dict[str, Counter[str]] = {}
        for tag, answer in self.answers.items():
            if tag.startswith("+"):
                increments.setdefault(self.sessions[tag], Counter())[answer] += 1
        for session in sorted(set(self.sessions.values())):
            if not store.sessions.exists(session):
                continue
            entries = store.history.read(session)
            if [entry.seq for entry in entries] != list(range(1, len(entries) + 1)):
                tally.is_wrong(f"the positions of {session} are not 1 to {len(entries)}")
            for entry in entries:
                tag = entry.content["tag"]
                stored[tag] += 1
                if self.sessions.get(tag) != session:
                    tally.is_wrong(f"{tag} of {self.sessions.get(tag)} stands in {session}")
            _settle_increments(session, store.state.get(session, "n", 0), increments.get(session, Counter()), tally)
        self._settle_entries(stored, tally)
        if url is not None:
            for problem in problems_of(url):
                tally.is_wrong(problem)
        return tally

    def _settle_entries(self, stored: Counter[str], tally: Tally) -> None:
        answers = {tag: answer for tag, answer in self.answers.items() if not tag.startswith("+")}
        tally.acknowledged += sum(answer == ACKNOWLEDGED for answer in answers.values())
        lost = [tag for tag, answer in answers.items() if answer == ACKNOWLEDGED and not stored[tag]]
        doubled = [tag for tag, times in stored.items() if times > 1]
        tally.lost += len(lost)
        tally.doubled += len(doubled)
        for what, tags in (("lost", lost), ("doubled", doubled)):
            if tags:
                tally.note(f"{what}: {', '.join(sorted(tags)[:SHOWN])}")
        for tag, answer in answers.items():
            if answer == DENIED and stored[tag]:
                tally.is_wrong(f"{tag} is stored, though its caller was told that nothing was written")
        for tags in self.batches.values():
            if len({stored[tag] > 0 for tag in tags}) > 1:
                tally.is_wrong(f"a part of {tags} is stored")


def _settle_increments(session: str, found: int, answers: Counter[str], tally: Tally) -> None:
    least = answers[ACKNOWLEDGED]
    most = least + answers[UNKNOWN] + answers[TRIED]
    tally.acknowledged += least
    if found < least:
        tally.lost += least - found
        tally.note(f"lost: {least - found} increments of {session}")
    elif found > most:
        tally.doubled += found - most
        tally.note(f"doubled: {found - most} increments of {session}")


def problems_of(url: str) -> list[str]:
    """What is wrong with how a database is stored."""
    content = Content(url)
    try:
        problems = unsound(content)
        if content.is_sqlite:
            problems += integrity_of(Path(str(make_url(url).database)))
        return problems[:SHOWN]
    finally:
        content.close()


def integrity_of(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    except sqlite3.DatabaseError as exc:
        return [f"integrity_check: {exc}"]
    finally:
        connection.close()
    return [] if found == ["ok"] else found
