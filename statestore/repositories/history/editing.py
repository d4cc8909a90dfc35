"""Changing entries that are stored: what they say, what is noted about them, what they used."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from statestore import schema
from statestore.checking import checks, exactjson
from statestore.engine.calls import writes_in_one_statement
from statestore.engine.sql import Params
from statestore.errors import ConflictError, EntryNotFoundError, InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.history import appending, entry_edits, entry_lookups, entry_rows, ranges
from statestore.repositories.history.entry_edits import Found
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.repositories.usage import price_rows
from statestore.repositories.usage.records import usage_columns
from statestore.values.history import Entry, NewEntry, Usage
from statestore.values.markers import MISSING
from statestore.values.sessions import Session


class EditingRepository(Repository):
    """Entries that change after they were appended."""

    @writes_in_one_statement
    def replace(
        self,
        session_id: str,
        seq: int,
        entry: NewEntry | Mapping[str, Any],
        *,
        expected_content: Any = MISSING,
    ) -> Entry:
        """Put another entry in the place of one: a message that a guardrail has redacted, for example.

        The position stays; so do the entry's id and time, unless *entry* gives others. Everything else becomes what
        *entry* says, its metadata and usage included; the result of a tool keeps the tool's name. In the usage reports
        what the old entry used goes, and what the new one uses counts; who was told of the old one, as by `follow`, is
        not told of the new one. In a fork only the fork sees the change, and in a session with forks these keep what
        they see; what another session's entry used stays counted there if the copy does not say. Summaries stay as
        they are.

        Args:
            session_id: The session.
            seq: The position.
            entry: What is to be there, as for `append`.
            expected_content: Replace the entry only if this is its content.

        Returns:
            The entry as it is stored now.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
            EntryNotFoundError: The session has no entry there, or no longer has one. Nothing was written.
            ConflictError: The content is not the one expected, or another entry of the session has the new `entry_id`.
                Nothing was written.
            InvalidValueError: A value can never be stored. Nothing was written.
        """
        checks.key(session_id, "session_id")
        checks.count(seq, "seq", most=checks.MAX_INTEGER)
        max_bytes = self._link.settings.max_value_bytes
        given = self._once("entry", lambda: entry_rows.prepare_one(entry, "entry", max_bytes=max_bytes))
        expected = None
        if expected_content is not MISSING:
            expected = exactjson.dumps(expected_content, "expected_content", max_bytes=max_bytes)

        if not self._link.in_transaction:
            [[given]] = appending.complete_tools(self._link, [(session_id, [given])])
            (priced,), revision = entry_rows.price(self._link, [given])
            conditions = {
                entry_edits.UNCOUNTED: True,
                entry_edits.SAME_TURN: True,
                entry_edits.SAME_CONTENT: expected is not None,
                entry_edits.SAME_ID: given.own_id,
                price_rows.UNCHANGED: revision is not None,
            }
            changed = None
            if not appending.awaits_tool(given):  # If it does, the stored entry may have it.
                changed = entry_edits.change_at_once(
                    self._link,
                    session_id,
                    "seq",
                    _columns(priced),
                    [sql for sql, wanted in conditions.items() if wanted],
                    seq=seq,
                    expected_content=expected,
                    entry_id=given.entry_id,
                    begins_turn=int(_begins_turn(given.columns["role"])),
                    prices_revision=revision,
                )
            if changed is not None:
                return changed
        session, found = self._found(session_id, "seq", seq)
        if expected is not None and exactjson.text(found.entry.content) != expected:
            raise _conflict(found.entry, "does not have the expected content; read it again", "content")
        return self._put(session, found, given)

    @writes_in_one_statement
    def annotate(self, session_id: str, seq: int, metadata: Mapping[str, Any]) -> Entry:
        """Set some keys of an entry's metadata and keep the others: a rating, or what a guardrail found.

        Existing keys keep their place; a None value is stored as None. In a fork only the fork sees the change, and in
        a session with forks these keep what they see. Concurrent calls with different keys all take effect. To append
        the `NewEntry` again as it was is then a conflict, unless with `on_conflict="keep"`.

        Returns:
            The entry as it is stored now.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
            EntryNotFoundError: The session has no entry there, or no longer has one. Nothing was written.
            InvalidValueError: *metadata* is not a mapping of exact JSON, or is too large together with what is there.
                Nothing was written.
        """
        checks.key(session_id, "session_id")
        checks.count(seq, "seq", most=checks.MAX_INTEGER)
        if metadata is None:
            raise InvalidValueError("metadata", "must be a mapping of the keys to set, not None")
        max_bytes = self._link.settings.max_value_bytes
        text = checks.metadata(metadata, "metadata", max_bytes=max_bytes)

        def merged(entry: Entry) -> Params:
            both = entry.metadata | exactjson.loads(text or "{}")
            return {"metadata": checks.metadata(both, "metadata", max_bytes=max_bytes)}

        if not self._link.in_transaction:
            changed = entry_edits.change_at_once(
                self._link, session_id, "seq", {"metadata": text}, [entry_edits.NO_METADATA], seq=seq
            )
            if changed is None:
                changed = self._change_if_same(session_id, "seq", seq, lambda entry: (merged(entry), None))
            if changed is not None:
                return changed
        session, found = self._found(session_id, "seq", seq)
        return self._change(session, found, merged(found.entry))

    @writes_in_one_statement
    def set_usage(
        self,
        session_id: str,
        seq: int | None = None,
        usage: Usage | None = None,
        *,
        entry_id: str | None = None,
        response_model: str | None = None,
        cost_usd: Decimal | float | int | None = None,
        duration: timedelta | None = None,
        error_type: str | None = None,
    ) -> Entry:
        """Say what an entry used, once that is known: what it was said to use before no longer counts.

        What is not given stays as it is, except the cost: it is computed from the tokens and the price of the model, as
        by `append`, if *usage* or *response_model* is given and *cost_usd* is not. In a fork only the fork sees the
        change: what it uses more or less than the entry that it shares counts for the fork. To append the `NewEntry`
        again as it was is then a conflict, unless with `on_conflict="keep"`.

        Args:
            session_id: The session.
            seq: The position of the entry; or give its *entry_id*.
            usage: The tokens. They replace all of the entry's: a figure that is None is not known.
            entry_id: The id of the entry, instead of *seq*.
            response_model: The model that answered.
            cost_usd: The cost in US dollars.
            duration: How long the call took.
            error_type: The kind of error it ended with.

        Returns:
            The entry as it is stored now.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
            EntryNotFoundError: The session has no such entry, or no longer has it. Nothing was written.
            InvalidValueError: Both *seq* and *entry_id* are given, or neither, or nothing to set. Nothing was written.
        """
        checks.key(session_id, "session_id")
        if (seq is None) == (entry_id is None):
            raise InvalidValueError("seq", "give either the position of the entry or its entry_id")
        by, key = ("seq", seq) if entry_id is None else ("entry_id", entry_id)
        if entry_id is None:
            checks.count(seq, "seq", most=checks.MAX_INTEGER)
        else:
            checks.key(entry_id, "entry_id")
        columns: Params = {}
        if usage is not None:
            columns = dict.fromkeys(schema.TOKEN_COLUMNS) | usage_columns(usage, "usage")
        for name, value in {
            "response_model": checks.optional_key(response_model, "response_model"),
            "cost_usd": checks.optional_cost(cost_usd),
            "duration_ms": entry_rows.milliseconds(duration, "duration"),
            "error_type": checks.optional_key(error_type, "error_type"),
        }.items():
            if value is not None:
                columns[name] = value
        if not columns:
            raise InvalidValueError("usage", "is missing; give what is to be set")
        reprices = cost_usd is None and (usage is not None or response_model is not None)

        def priced(entry: Entry) -> tuple[Params, int | None]:
            if not reprices:
                return columns, None
            cost, revision = entry_rows.cost_of(self._link, entry_edits.figures(entry) | columns, entry.content)
            return columns | ({"cost_usd": cost} if cost is not None or usage is not None else {}), revision

        revision = entry_rows.known_prices_revision(self._link)
        if not self._link.in_transaction:
            if reprices and revision:
                changed = self._change_if_same(session_id, by, key, priced, entry_edits.UNCOUNTED)
            else:
                changed = entry_edits.change_at_once(
                    self._link,
                    session_id,
                    by,
                    columns | ({"cost_usd": None} if reprices and usage is not None else {}),
                    [entry_edits.UNCOUNTED, *([price_rows.UNCHANGED] if reprices else [])],
                    prices_revision=revision,
                    **{by: key},
                )
            if changed is not None:
                return changed
        session, found = self._found(session_id, by, key)
        return self._change(session, found, priced(found.entry)[0])

    def _change_if_same(
        self, session_id: str, by: str, key: Any, change: Callable[[Entry], tuple[Params, int | None]], *conditions: str
    ) -> Entry | None:
        """Read an entry, and change it if nobody has done so meanwhile; None if that takes a transaction. PostgreSQL.

        *change* says what becomes of it, and the revision of the prices by which it does, if that matters.
        """
        found = entry_edits.look(self._link, session_id, by, key)
        if found is None:
            return None
        entry, version = found
        columns, revision = change(entry)
        return entry_edits.change_at_once(
            self._link,
            session_id,
            by,
            columns,
            [*conditions, entry_edits.SAME_ROW, *([] if revision is None else [price_rows.UNCHANGED])],
            row_version=version,
            prices_revision=revision,
            **{by: key},
        )

    def _found(self, session_id: str, by: str, key: Any) -> tuple[Session, Found]:
        """The session and the entry, both locked, in a transaction."""
        self._needs_transaction()
        session = ranges.lock(self._link, session_id).session
        return session, self._find(session_id, by, key)

    def _find(self, session_id: str, by: str, key: Any) -> Found:
        found = entry_edits.find(self._link, session_id, by, key)
        if found is None:
            raise EntryNotFoundError(session_id, **{by: key})
        return found

    def _put(self, session: Session, found: Found, given: PreparedEntry) -> Entry:
        """Put another entry in the place of one; the locks for a release are held."""
        if appending.awaits_tool(given) and given.columns["tool_call_id"] == found.entry.tool_call_id:
            given = appending.with_tool(given, found.entry.tool_name)
        [[given]] = appending.complete_tools(self._link, [(session.session_id, [given])])
        (priced,), _ = entry_rows.price(self._link, [given])
        columns = _columns(priced)
        if given.own_id and given.entry_id != found.entry.entry_id:
            for other in entry_lookups.find_many(self._link, session.session_id, [given.entry_id]).values():
                raise _conflict(other, f"has the entry_id {given.entry_id!r} already; give another", "entry_id")
            columns["entry_id"] = given.entry_id
        turns = _begins_turn(given.columns["role"]) - _begins_turn(found.entry.role)
        return self._change(session, found, columns, turns=turns)

    def _change(self, session: Session, found: Found, columns: Params, *, turns: int = 0) -> Entry:
        return entry_edits.change(self._link, session, found, columns, turns=turns)


_KEPT = ("entry_id", "turn", "created_at")


def _columns(entry: PreparedEntry) -> Params:
    """What a row becomes that is to hold *entry*: all columns but those that it keeps if they are not given."""
    columns = dict.fromkeys(name for name in ("role", *entry_rows.OPTIONAL_COLUMNS) if name not in _KEPT)
    given = {name: value for name, value in entry.columns.items() if name not in ("entry_id", "turn")}
    return columns | given


def _begins_turn(role: str | None) -> bool:
    return role == "user"


def _conflict(entry: Entry, what: str, field: str) -> ConflictError:
    return ConflictError(
        f"the entry at position {entry.seq} of session {entry.session_id!r} {what}",
        session_id=entry.session_id,
        entry_id=entry.entry_id,
        field=field,
        actual=entry.seq,
    )
