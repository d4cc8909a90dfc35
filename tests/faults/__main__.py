"""`python -m tests.faults`: what statestore survives, as a table.

Each row runs in a process of its own, and so does its control: the same fault with the safety off, which must be seen
to lose something. A row whose control loses nothing is void.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from tests.faults import running
from tests.faults.bench import Bench
from tests.faults.page import HEADINGS, cells, conditions, markdown, write_page
from tests.faults.processes import die_with_parent
from tests.faults.rows import CASES
from tests.faults.table import Case, Missing, Outcome
from tests.postgres import start_server

# Seconds between two lines about how far it is, in a log.
QUIET = 20
_told = [0.0]


def main() -> int:
    arguments = _parse()
    if arguments.case:
        return _child(arguments)
    cases = _chosen(arguments)
    if arguments.list:
        for case in cases:
            print(f"{case.name:60} {case.short:>6} {case.long:>7}  control: {case.control}")
        return 0
    if not cases:
        print(f"no such row: {', '.join(arguments.only)}; --list names them", file=sys.stderr)
        return 2
    # Ends the row under way as Ctrl-C does, with all that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    outcomes: list[Outcome] = []
    began = time.monotonic()
    with start_server() as server:
        version = server.version
        print(_line(HEADINGS), flush=True)
        for case in cases:
            outcome = running.run(case, server, long=arguments.long, tell=_tell)
            outcomes.append(outcome)
            _tell("")
            print(_line(cells(outcome)), flush=True)
            for note in outcome.tally.notes:
                print(f"    {note[:300]}", flush=True)
    facts = conditions(version, long=arguments.long, seconds=time.monotonic() - began)
    print(f"\n{facts}")
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"conditions": facts, "rows": [outcome.as_dict() for outcome in outcomes]}, indent=2) + "\n"
        )
    if arguments.markdown:
        Path(arguments.markdown).write_text(markdown(facts, outcomes))
    if arguments.write:
        write_page(Path(arguments.write), markdown(facts, outcomes))
    return int(any(outcome.tally.violations or outcome.verdict.startswith("void") for outcome in outcomes))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--long", action="store_true", help="as often as the published table (below 45 minutes)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="only rows with one of these in their name"
    )
    parser.add_argument("--database", choices=("sqlite", "postgresql"), help="only on this database")
    parser.add_argument("--list", action="store_true", help="name the rows, with their rounds, and do nothing")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there")
    parser.add_argument("--write", metavar="FILE", help="replace the table in a page, such as docs/reliability.md")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--unsafe", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _chosen(arguments: argparse.Namespace) -> list[Case]:
    return [
        case
        for case in CASES
        if (not arguments.only or any(name in case.name or name in case.fault for name in arguments.only))
        and arguments.database in (None, case.database)
    ]


def _child(arguments: argparse.Namespace) -> int:
    """Run one case, and print its tally as the last line."""
    die_with_parent()
    [case] = [case for case in CASES if case.name == arguments.case]

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        with Bench(
            case.database, case.world, arguments.rounds, unsafe=arguments.unsafe, long=arguments.long, tell=tell
        ) as bench:
            found = vars(case.run(bench))
    except Missing as exc:
        found = {"missing": str(exc)}
    print(json.dumps(found), flush=True)
    return 0


def _line(texts: list[str]) -> str:
    widths = (34, 10, 5, 7, 12, 6, 7, 6, 5, 13, 8)
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)
    elif text and time.monotonic() - _told[0] > QUIET:
        _told[0] = time.monotonic()
        print(f"… {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
