"""Which modules are mutated, and which tests have to notice.

The first pattern that fits a module counts. Tests come in the order in which they are likely to notice.
"""

from fnmatch import fnmatchcase
from pathlib import Path

PACKAGE = Path("statestore")

_C = "tests/contract/test_"
_CACHE = tuple(
    f"{_C}cache{name}.py"
    for name in ("", "_invalidation", "_limits", "_statistics", "_transactions", "_flights", "_cancellation")
)
_HISTORY = (f"{_C}history.py", f"{_C}idempotency.py", f"{_C}round_trips.py", "tests/concurrency/test_group_commit.py")
_LIFE = (f"{_C}sessions.py", f"{_C}lifecycle.py", f"{_C}expiry.py", f"{_C}fork.py")
_ENGINE = (
    f"{_C}transactions.py",
    f"{_C}connections.py",
    f"{_C}cancellation.py",
    f"{_C}close.py",
    f"{_C}deadlines.py",
    f"{_C}outcomes.py",
    f"{_C}history.py",
    "tests/concurrency/test_ends.py",
    "tests/concurrency/test_forking.py",
    "tests/concurrency/test_writers.py",
)
_GROUPS = (
    "tests/concurrency/test_groups.py",
    "tests/concurrency/test_group_commit.py",
    "tests/concurrency/test_group_reads.py",
    f"{_C}history.py",
    f"{_C}cancellation.py",
)

SUBJECTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("repositories/__init__.py", ()),
    ("repositories/base.py", (f"{_C}state.py", f"{_C}transactions.py", f"{_C}round_trips.py")),
    ("repositories/cache*.py", (*_CACHE, "tests/cache/test_model.py")),
    ("repositories/appending.py", (*_HISTORY, f"{_C}statistics.py")),
    ("repositories/group_appending.py", (*_GROUPS, f"{_C}idempotency.py")),
    ("repositories/group_reading.py", ("tests/concurrency/test_group_reads.py", f"{_C}history.py")),
    ("repositories/history.py", (*_HISTORY, f"{_C}values.py")),
    ("repositories/entry_*.py", (*_HISTORY, f"{_C}values.py", f"{_C}statistics.py")),
    ("repositories/windows.py", (f"{_C}windows.py",)),
    ("repositories/conversations.py", (f"{_C}conversations.py",)),
    ("repositories/turns.py", (f"{_C}turns.py", f"{_C}windows.py")),
    ("repositories/summaries.py", (f"{_C}windows.py", f"{_C}conversations.py", f"{_C}values.py")),
    ("repositories/state*.py", (f"{_C}state.py", f"{_C}expiry.py", "tests/concurrency/test_writers.py")),
    ("repositories/leases.py", (f"{_C}leases.py", "tests/live/test_lease_processes.py")),
    ("repositories/lease_checks.py", (f"{_C}leases.py",)),
    (
        "repositories/expiry*.py",
        (f"{_C}sweep.py", f"{_C}expiry.py", "tests/concurrency/test_sweeps.py", "tests/usage/test_conservation.py"),
    ),
    ("repositories/ledger.py", ("tests/usage/test_conservation.py", "tests/usage/test_views.py", f"{_C}sweep.py")),
    ("repositories/usage*.py", ("tests/usage/test_report.py", "tests/usage/test_views.py")),
    ("repositories/price*.py", ("tests/usage/test_prices.py",)),
    ("repositories/portable*.py", ("tests/live/test_portable*.py",)),
    ("repositories/follows.py", ("tests/live/test_follow.py",)),
    ("repositories/waking.py", ("tests/live/test_follow.py",)),
    ("repositories/listing.py", (f"{_C}pages.py", f"{_C}sessions.py")),
    ("repositories/statistics.py", (f"{_C}statistics.py",)),
    ("repositories/forks.py", (f"{_C}fork.py", "tests/concurrency/test_families.py")),
    ("repositories/segments.py", (f"{_C}fork.py", f"{_C}lifecycle.py", "tests/concurrency/test_families.py")),
    ("repositories/ranges.py", (f"{_C}fork.py", f"{_C}lifecycle.py")),
    ("repositories/famil*.py", (f"{_C}fork.py", "tests/concurrency/test_families.py")),
    ("repositories/eras*.py", (*_LIFE, f"{_C}eras*.py")),
    ("repositories/*.py", (*_LIFE, f"{_C}model.py")),
    ("engines.py", (*_ENGINE, "tests/sqlite")),
    ("connection_errors.py", (f"{_C}connection_errors.py", f"{_C}failover.py")),
    ("driver_errors.py", (f"{_C}connection_errors.py", f"{_C}settled.py", f"{_C}outcomes.py", f"{_C}connections.py")),
    ("hosts.py", (f"{_C}failover.py", f"{_C}connection_errors.py", f"{_C}invalid.py")),
    ("pooler.py", (f"{_C}poolers.py", f"{_C}connections.py")),
    (
        "connections.py",
        ("tests/concurrency/test_connections_at_hand.py", f"{_C}failover.py", "tests/sqlite", *_ENGINE),
    ),
    ("watchdog.py", ("tests/unit/test_threads_not_to_be_had.py", "tests/sqlite/test_interrupts.py", *_ENGINE)),
    ("forking.py", ("tests/concurrency/test_forking.py",)),
    ("sqlite_files.py", ("tests/sqlite", f"{_C}connections.py")),
    ("group*.py", _GROUPS),
    ("*_groups.py", _GROUPS),
    ("listening.py", ("tests/live/test_follow*.py",)),
    ("courses.py", (f"{_C}sweep.py", "tests/live/test_portable*.py")),
    ("genai_prices.py", ("tests/usage/test_prices.py",)),
    ("turnstile.py", ("tests/unit/test_turnstile.py", *_GROUPS)),
    ("*.py", _ENGINE),
)


def tests_of(module: Path, root: Path) -> list[str]:
    """The tests of a module, as they are in the checkout; *module* is relative to it."""
    name = str(module.relative_to(PACKAGE))
    patterns = next(tests for pattern, tests in SUBJECTS if _fits(name, pattern))
    found: list[str] = []
    for pattern in patterns:
        found += [str(path.relative_to(root)) for path in sorted(root.glob(pattern))]
    return list(dict.fromkeys(found))


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")


def floors() -> tuple[str, ...]:
    """The modules outside `repositories` that carry promises: transactions, retries, threads, groups, connections."""
    return (
        "async_database", "bounded", "connection_errors", "connections", "courses", "database", "deadlines",
        "driver_errors", "engine_database", "engines", "execution", "forking", "group_calls", "grouping", "hosts",
        "listening", "pooler", "slots", "sqlite_files", "task_groups", "thread_groups", "threaded_database",
        "transactions", "turnstile", "waits", "watchdog", "workers",
    )  # fmt: skip


def modules(root: Path) -> list[Path]:
    """Everything that is mutated, relative to *root*."""
    package = root / PACKAGE
    engine = [package / f"{name}.py" for name in floors() if (package / f"{name}.py").exists()]
    return [path.relative_to(root) for path in [*engine, *sorted((package / "repositories").glob("*.py"))]]
