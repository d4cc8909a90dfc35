"""How much a batch of a sweep looks at."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import event

from statestore import NewEntry, StateStore


def test_a_batch_of_a_sweep_looks_at_as_many_sessions_as_the_one_before_lets_expect(database_url: str) -> None:
    now = datetime.now(UTC)
    with StateStore.open(database_url, clock=lambda: now) as store:
        for n in range(60):
            store.sessions.create(f"s{n:02}", ttl=timedelta(seconds=1))
            store.history.append(f"s{n:02}", [NewEntry("x")] * 9)
        now += timedelta(hours=1)
        looked_at: list[int] = []

        def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
            if "first_seq, s.next_seq, s.ttl" in " ".join(statement.split()):
                ids = parameters["session_ids"]
                looked_at.append(len(json.loads(ids) if isinstance(ids, str) else ids))

        event.listen(store._database.engine, "before_cursor_execute", note)
        report = store.sweep(batch_size=20)
        event.remove(store._database.engine, "before_cursor_execute", note)
    assert (report["expired_sessions"].rows, report["history_entries"].rows) == (60, 540)
    assert looked_at[0] == 20
    assert max(looked_at[1:]) <= 12
