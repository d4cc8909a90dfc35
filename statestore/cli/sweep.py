"""`statestore sweep` and `statestore retention`: delete what has expired, once or on a schedule."""

import logging
import signal
import sys
import threading
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from statestore.cli.durations import Duration
from statestore.cli.durations import text as duration_text
from statestore.cli.options import Database, examples, json_option, namespaces_option, store_options
from statestore.cli.output import counted, json_text, size_text
from statestore.cli.terminal import StatusLine

if TYPE_CHECKING:
    from statestore.store import StateStore
    from statestore.values.usage import SweepReport

_NOUNS = {
    "expired_sessions": "expired session",
    "idle_sessions": "idle session",
    "history_entries": "history entry",
    "expired_state": "expired state key",
    "expired_cache": "expired cache entry",
    "cache_overflow": "evicted cache entry",
    "unseen_entries": "unseen entry",
}


@click.command(
    epilog=examples(
        "statestore sweep --dry-run",
        "statestore sweep --every 60s",
        "statestore sweep --namespace tenant-1 --time-budget 30s --json",
        "statestore sweep --all-namespaces --every 5m",
        "statestore sweep --namespaces 'acme/*'",
    )
)
@click.option("--every", type=Duration(), metavar="DURATION", help="Repeat until stopped, with this pause: 60s, 5m.")
@click.option("--dry-run", is_flag=True, help="Only count what would be deleted.")
@click.option("--batch-size", type=click.IntRange(1), default=500, show_default=True, help="Rows in a transaction.")
@click.option(
    "--time-budget", type=Duration(), metavar="DURATION", help="Stop a sweep after this time; leave the rest for later."
)
@click.option(
    "--cache-max-entries",
    type=click.IntRange(0),
    metavar="N",
    help="How many cache entries to leave.  [default: all that have not expired]",
)
@click.option(
    "--max-clock-gap",
    type=Duration(),
    metavar="DURATION",
    help="Refuse if by the clock nothing was used for longer than this: then the clock may be wrong.",
)
@click.option("--all-namespaces", is_flag=True, help="Sweep all namespaces of the database.")
@namespaces_option
@store_options
@json_option
def sweep(
    database: Database,
    every: timedelta | None,
    dry_run: bool,
    batch_size: int,
    time_budget: timedelta | None,
    cache_max_entries: int | None,
    max_clock_gap: timedelta | None,
    all_namespaces: bool,
    namespaces: tuple[str, ...],
    as_json: bool,
) -> None:
    """Delete what has expired, and sessions that were idle for longer than the namespace's retention allows.

    Nobody can read what has expired even before that. What it used and cost stays in the reports. Any number of sweeps
    may run at once, and each may be killed at any time.

    With --every it runs until SIGTERM or Ctrl-C, which end it within a second, with exit code 0. A sweep that finds
    nothing then prints nothing, except with --json, which prints a line for each sweep.
    """
    if every is not None and dry_run:
        raise click.UsageError("--every and --dry-run cannot be combined.")
    if all_namespaces and namespaces:
        raise click.UsageError("--all-namespaces and --namespaces cannot be combined.")
    which: dict[str, Any] = {
        "all_namespaces": all_namespaces,
        "namespaces": namespaces or None,
        "max_clock_gap": max_clock_gap,
    }
    with database.open(cache_max_entries=cache_max_entries) as store:
        if every is not None:
            _sweep_until_stopped(store, every, batch_size, time_budget, as_json, which)
            return
        with _Progress(quiet=dry_run) as line:
            report = store.sweep(
                batch_size=batch_size,
                time_budget=time_budget,
                dry_run=dry_run,
                progress=line.report,
                **which,
            )
    _print(report, as_json)


def _sweep_until_stopped(
    store: "StateStore",
    every: timedelta,
    batch_size: int,
    time_budget: timedelta | None,
    as_json: bool,
    which: dict[str, Any],
) -> None:
    from statestore.sweeper import Sweeper

    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    def show(report: "SweepReport") -> None:
        if as_json or report.rows or not report.complete:
            _print(report, as_json)

    # Already printed here. Without a handler, logging would print warnings a second time.
    logging.getLogger("statestore.sweeper").addHandler(logging.NullHandler())
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        sweeper = Sweeper(
            store,
            every=every,
            jitter=timedelta(0),
            batch_size=batch_size,
            time_budget=time_budget,
            **which,
            on_sweep=show,
            on_error=lambda error: click.echo(f"error: {error}; the next sweep runs as planned", err=True),
        )
        with sweeper:
            while not stopped.wait(1) and sweeper.running:
                pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(report: "SweepReport", as_json: bool) -> None:
    if as_json:
        click.echo(json_text(_record(report)))
        return
    found = [counted(swept.rows, _NOUNS[kind]) for kind, swept in report.kinds.items() if swept.rows]
    what = ", ".join(found) or "nothing"
    verb = "would delete" if report.dry_run else "deleted"
    rest = "" if report.complete else "; there is more to do"
    click.echo(f"{verb} {what}: {size_text(report.bytes)} in {report.elapsed.total_seconds():.1f} s{rest}")
    sys.stdout.flush()


def _record(report: "SweepReport") -> dict[str, Any]:
    return {
        "dry_run": report.dry_run,
        "complete": report.complete,
        "elapsed_seconds": round(report.elapsed.total_seconds(), 3),
        "kinds": {kind: {"rows": swept.rows, "bytes": swept.bytes} for kind, swept in report.kinds.items()},
    }


class _Progress(StatusLine):
    """A line that says how far a sweep has come."""

    def report(self, report: "SweepReport") -> None:
        elapsed = report.elapsed.total_seconds()
        self.show(f"sweeping: {report.rows:,} rows, {size_text(report.bytes)}, {elapsed:.0f} s")


@click.command(epilog=examples("statestore retention", "statestore retention --max-idle 90d"))
@click.option("--max-idle", type=Duration(), metavar="DURATION", help="Delete sessions not written to for this long.")
@click.option("--forever", is_flag=True, help="Keep idle sessions.")
@store_options
@json_option
def retention(database: Database, max_idle: timedelta | None, forever: bool, as_json: bool) -> None:
    """Show or set how long a session of the namespace may be idle before a sweep deletes it.

    This also applies to sessions without a TTL, and to all processes from their next sweep on.
    """
    if forever and max_idle is not None:
        raise click.UsageError("--max-idle and --forever cannot be combined.")
    with database.open() as store:
        if forever or max_idle is not None:
            store.set_retention(max_idle)
        kept = store.retention()
    if as_json:
        click.echo(json_text({"max_idle_seconds": kept}))
        return
    click.echo("idle sessions are kept" if kept is None else f"sessions may be idle for {duration_text(kept)}")
