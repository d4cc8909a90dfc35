"""Which modules are mutated, and which tests have to notice.

The first pattern that fits a module counts. Tests come in the order in which they are likely to notice.
"""

import re
from fnmatch import fnmatchcase
from pathlib import Path

PACKAGE = Path("statestore")

_C = "tests/contract/test_"
_CACHE = (
    *(
        f"{_C}cache{name}.py"
        for name in (
            *("", "_invalidation", "_limits", "_statistics", "_transactions", "_flights", "_cancellation"),
            *("_conditions", "_counters", "_keys", "_lifetimes", "_bulk", "_order", "_memoize", "_restoring"),
            *("_unwritable", "_waiting"),
        )
    ),
    "tests/concurrency/test_cache_processes.py",
)
_HISTORY = (f"{_C}history.py", f"{_C}idempotency.py", f"{_C}round_trips.py", "tests/concurrency/test_append_batches.py")
_LIFE = (f"{_C}sessions.py", f"{_C}lifecycle.py", f"{_C}expiry.py", f"{_C}fork.py")
_TREES = (f"{_C}wide_trees.py", f"{_C}descent.py", "tests/concurrency/test_families.py")
_STATE = (
    *(f"{_C}state.py", f"{_C}state_keys.py", f"{_C}shared_state.py", f"{_C}state_scopes.py", f"{_C}lists.py"),
    *(f"{_C}expiry.py", "tests/concurrency/test_state_writers.py", "tests/concurrency/test_writers.py"),
)
# What holds for all operations is tested there for all of them: after the tests of the subject, which notice sooner.
_EVERY_REPOSITORY = (
    *(
        f"{_C}{name}.py"
        for name in ("invalid", "wrong_kinds", "damaged", "values", "read_only", "namespaces", "held_reads")
    ),
    *("tests/concurrency/test_held_reads.py", "tests/concurrency/test_all_or_none.py", f"{_C}round_trips.py"),
    f"{_C}partitioned.py",
)

_ENGINE = (
    f"{_C}transactions.py",
    f"{_C}connections.py",
    f"{_C}cancellation.py",
    f"{_C}close.py",
    f"{_C}deadlines.py",
    f"{_C}outcomes.py",
    f"{_C}history.py",
    f"{_C}logging.py",
    "tests/concurrency/test_ends.py",
    "tests/concurrency/test_forking.py",
    "tests/concurrency/test_writers.py",
    "tests/concurrency/test_interrupts.py",
)
_BATCHES = (
    "tests/concurrency/test_batches.py",
    "tests/concurrency/test_append_batches.py",
    "tests/concurrency/test_read_batches.py",
    f"{_C}history.py",
    f"{_C}cancellation.py",
)

# Where a change is tried that none of the tests named for it reaches.
_OTHERS = ("unit", "contract", "concurrency", "reports")
# What reads the sources instead of running them.
_UNFIT = ("tests/unit/test_mutants.py", "tests/unit/test_typing.py", "tests/unit/test_architecture.py")

_SQLITE = (f"{_C}sqlite_files.py", f"{_C}sqlite_replaced.py", f"{_C}sqlite_space.py")

SUBJECTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("repositories/__init__.py", ()),
    ("repositories/*/__init__.py", ()),
    ("engine/__init__.py", ()),
    ("repositories/base.py", (f"{_C}state.py", f"{_C}transactions.py", f"{_C}round_trips.py")),
    ("repositories/cache/*.py", (*_CACHE, f"{_C}cache_model.py")),
    (
        "repositories/history/appending.py",
        (*_HISTORY, f"{_C}statistics.py", f"{_C}tool_names.py", f"{_C}sdk_objects.py"),
    ),
    (
        "repositories/history/append_batches.py",
        (*_BATCHES, "tests/concurrency/test_batch_disputes.py", f"{_C}idempotency.py"),
    ),
    ("repositories/history/read_batches.py", ("tests/concurrency/test_read_batches.py", f"{_C}history.py")),
    ("repositories/history/repository.py", (*_HISTORY, f"{_C}values.py")),
    (
        "repositories/history/entry_edits.py",
        (f"{_C}editing.py", f"{_C}shared_usage.py", "tests/concurrency/test_edits.py"),
    ),
    (
        "repositories/history/entry_lookups.py",
        (f"{_C}reading.py", f"{_C}idempotency.py", f"{_C}parts.py", f"{_C}follow.py"),
    ),
    ("repositories/history/entry_rows.py", (*_HISTORY, f"{_C}values.py", f"{_C}prices.py", f"{_C}statistics.py")),
    ("repositories/history/entry_*.py", (*_HISTORY, f"{_C}values.py", f"{_C}statistics.py", f"{_C}iterate.py")),
    (
        "repositories/history/reading.py",
        (f"{_C}history.py", f"{_C}reading.py", f"{_C}locate.py", f"{_C}iterate.py", *_HISTORY),
    ),
    (
        "repositories/history/editing.py",
        (f"{_C}editing.py", f"{_C}tool_names.py", f"{_C}idempotency.py", "tests/concurrency/test_edits.py"),
    ),
    ("repositories/history/windows.py", (f"{_C}windows.py",)),
    ("repositories/history/summaries.py", (f"{_C}windows.py", f"{_C}conversations.py", f"{_C}expiry.py")),
    ("repositories/history/follows.py", (f"{_C}follow.py",)),
    (
        "repositories/history/ranges.py",
        (f"{_C}history.py", "tests/concurrency/test_unshared.py", f"{_C}fork.py", f"{_C}lifecycle.py", *_TREES),
    ),
    ("repositories/conversations/billing.py", (f"{_C}shared_usage.py", f"{_C}conversations.py")),
    ("repositories/conversations/load_save.py", (f"{_C}conversations.py", f"{_C}shared_usage.py")),
    ("repositories/conversations/turns.py", (f"{_C}turns.py", f"{_C}windows.py")),
    ("repositories/state/lists.py", (f"{_C}lists.py",)),
    ("repositories/state/state_rows.py", (f"{_C}conversations.py", f"{_C}turns.py", *_STATE)),
    ("repositories/state/*.py", _STATE),
    (
        "repositories/sessions/leases.py",
        (f"{_C}leases.py", "tests/concurrency/test_leases.py", "tests/concurrency/test_lease_processes.py"),
    ),
    ("repositories/sessions/lease_checks.py", (f"{_C}leases.py",)),
    ("repositories/sessions/listing.py", (f"{_C}pages.py", f"{_C}finding_sessions.py", f"{_C}sessions.py")),
    ("repositories/sessions/session_filters.py", (f"{_C}finding_sessions.py", f"{_C}pages.py")),
    (
        "repositories/sessions/session_*.py",
        (
            *("tests/unit/test_session_columns.py", f"{_C}parts.py", f"{_C}new_sessions.py"),
            *(f"{_C}finding_sessions.py", *_LIFE, "tests/concurrency/test_races.py", f"{_C}session_model.py"),
        ),
    ),
    ("repositories/sessions/parts.py", (f"{_C}parts.py", f"{_C}portable_parts.py")),
    (
        "repositories/sessions/unshared.py",
        ("tests/concurrency/test_unshared.py", "tests/concurrency/test_edits.py", f"{_C}history.py", *_LIFE),
    ),
    ("repositories/sessions/statistics.py", (f"{_C}statistics.py", f"{_C}ping.py")),
    ("repositories/sessions/forks.py", (f"{_C}fork.py", *_TREES, f"{_C}parts.py")),
    ("repositories/sessions/segments.py", (f"{_C}fork.py", f"{_C}lifecycle.py", *_TREES)),
    (
        "repositories/expiry/erasure.py",
        (
            *(f"{_C}eras*.py", f"{_C}deleting_many.py", f"{_C}parts.py", f"{_C}finding_sessions.py", *_LIFE),
            *("tests/concurrency/test_unshared.py", f"{_C}session_model.py"),
        ),
    ),
    (
        "repositories/expiry/ending.py",
        (f"{_C}finding_sessions.py", f"{_C}parts.py", f"{_C}sweep.py", f"{_C}expiry.py", f"{_C}session_model.py"),
    ),
    ("repositories/expiry/namespaces.py", (f"{_C}namespace_operations.py", f"{_C}tenants.py")),
    ("repositories/expiry/vacuum.py", (f"{_C}sqlite_space.py",)),
    (
        "repositories/expiry/*.py",
        (
            *(f"{_C}sweep.py", f"{_C}expiry.py", f"{_C}parts.py", f"{_C}shared_state.py", f"{_C}sweep_batches.py"),
            *(f"{_C}sweeper.py", f"{_C}tenants.py", f"{_C}eras*.py", f"{_C}wide_trees.py", f"{_C}session_model.py"),
            *("tests/concurrency/test_sweeps.py", "tests/reports/test_conservation.py"),
        ),
    ),
    (
        "repositories/usage/ledger.py",
        ("tests/reports/test_conservation.py", "tests/reports/test_views.py", f"{_C}sweep.py", f"{_C}editing.py"),
    ),
    ("repositories/usage/records.py", (f"{_C}usage_records.py", f"{_C}eras*.py")),
    (
        "repositories/usage/*price*.py",
        (
            *(f"{_C}prices.py", f"{_C}shared_prices.py", f"{_C}prices_in_transactions.py", f"{_C}usage_records.py"),
            "tests/unit/test_price_patterns.py",
        ),
    ),
    (
        "repositories/rollup/*.py",
        ("tests/reports/test_rollup.py", "tests/reports/test_rollup_kills.py", "tests/concurrency/test_rollup.py"),
    ),
    ("repositories/usage/rolled.py", ("tests/reports/test_rollup_tenants.py", "tests/reports/test_rollup.py")),
    ("repositories/usage/latencies.py", ("tests/reports/test_rollup.py", "tests/reports/test_report.py")),
    (
        "repositories/usage/*.py",
        (
            *("tests/reports/test_report.py", "tests/reports/test_lineage.py", "tests/reports/test_views.py"),
            f"{_C}tenants.py",
        ),
    ),
    (
        "repositories/portable/portable_sessions.py",
        ("tests/importers/test_saved_sessions.py", "tests/cli/test_export.py"),
    ),
    ("repositories/portable/*.py", (f"{_C}portable*.py",)),
    ("repositories/*/*.py", (*_LIFE, f"{_C}parts.py", "tests/concurrency/test_races.py", f"{_C}model.py")),
    ("engine/engines.py", (*_ENGINE, *_SQLITE)),
    ("engine/connection_errors.py", (f"{_C}connection_errors.py", f"{_C}failover.py")),
    (
        "engine/driver_errors.py",
        (
            *(f"{_C}connection_errors.py", f"{_C}settled.py", f"{_C}outcomes.py", f"{_C}connections.py"),
            *(f"{_C}host_drivers.py", f"{_C}history.py", f"{_C}logging.py", f"{_C}opening.py"),
        ),
    ),
    ("engine/host_drivers.py", (f"{_C}host_drivers.py", f"{_C}transactions.py")),
    (
        "engine/hosts.py",
        (f"{_C}opening.py", f"{_C}failover.py", f"{_C}connection_errors.py", f"{_C}invalid.py", f"{_C}lazy.py"),
    ),
    ("engine/migration_targets.py", ("tests/migrations/test_connections.py", "tests/migrations/test_errors.py")),
    ("engine/orphans.py", (f"{_C}settled.py", f"{_C}connections.py")),
    ("engine/pooler.py", (f"{_C}poolers.py", f"{_C}connections.py")),
    (
        "engine/connections.py",
        (
            *("tests/concurrency/test_connections_at_hand.py", f"{_C}callers_pool.py", f"{_C}failover.py"),
            *(*_SQLITE, *_ENGINE),
        ),
    ),
    (
        "engine/async_database.py",
        ("tests/unit/test_awaited_to_the_end.py", "tests/concurrency/test_batches.py", *_ENGINE),
    ),
    (
        "engine/watchdog.py",
        ("tests/unit/test_threads_not_to_be_had.py", "tests/concurrency/test_sqlite_interrupts.py", *_ENGINE),
    ),
    ("engine/replicas.py", (f"{_C}replicas.py",)),
    ("engine/cursor_events.py", (f"{_C}cursor_events.py",)),
    ("engine/telemetry.py", (f"{_C}telemetry.py", f"{_C}logging.py")),
    ("engine/slots.py", ("tests/unit/test_slots.py", "tests/concurrency/test_connections_at_hand.py", *_ENGINE)),
    ("engine/lost_places.py", ("tests/concurrency/test_connections_at_hand.py", f"{_C}callers_pool.py")),
    ("engine/process_fork.py", ("tests/concurrency/test_forking.py",)),
    ("engine/sqlite_files.py", (*_SQLITE, f"{_C}opening.py", f"{_C}connections.py")),
    ("engine/columns.py", ("tests/unit/test_columns.py", f"{_C}history.py", f"{_C}sessions.py", f"{_C}portable.py")),
    ("engine/sql*.py", ("tests/unit/test_statements.py", f"{_C}explained_statements.py", *_HISTORY, *_CACHE)),
    ("engine/*batch*.py", _BATCHES),
    ("engine/schedule.py", _BATCHES),
    (
        "engine/listening.py",
        (f"{_C}follow.py", "tests/concurrency/test_listening.py", "tests/unit/test_threads_not_to_be_had.py"),
    ),
    ("engine/flows.py", (f"{_C}leases.py", f"{_C}sweep.py", f"{_C}iterate.py", f"{_C}portable*.py")),
    (
        "engine/waits.py",
        (
            *("tests/unit/test_fair_lock.py", f"{_C}deadlines.py", "tests/concurrency/test_interrupts.py"),
            *(f"{_C}cache_flights.py", *_BATCHES),
        ),
    ),
    ("engine/*.py", _ENGINE),
)


def tests_of(module: Path, root: Path) -> list[str]:
    """The tests of a module, as they are in the checkout; *module* is relative to it."""
    name = str(module.relative_to(PACKAGE))
    patterns = next(tests for pattern, tests in SUBJECTS if _fits(name, pattern))
    if patterns and name.startswith("repositories/"):
        patterns += _EVERY_REPOSITORY
    found: list[str] = []
    for pattern in patterns:
        found += [str(path.relative_to(root)) for path in sorted(root.glob(pattern))]
    return list(dict.fromkeys(found))


def other_tests_of(module: Path, root: Path) -> list[str]:
    """Tests that are not named for a module and may reach it all the same; those first that import it."""
    named = tests_of(module, root)
    found = [path for folder in _OTHERS for path in sorted((root / "tests" / folder).glob("test_*.py"))]
    imported = re.compile(rf"\b{'.'.join(module.parent.parts)}(?:\.| import .*\b){module.stem}\b")
    found.sort(key=lambda path: imported.search(path.read_text()) is None)
    names = [str(path.relative_to(root)) for path in found]
    return [name for name in names if name not in (*named, *_UNFIT)]


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")


def modules(root: Path) -> list[Path]:
    """Everything that is mutated: the floors that carry promises. Relative to *root*."""
    package = root / PACKAGE
    found = [*sorted((package / "engine").glob("*.py")), *sorted((package / "repositories").rglob("*.py"))]
    return [path.relative_to(root) for path in found]
