"""The benchmark's command line: `./run bench`."""

import argparse
import sys
import time
from pathlib import Path

from benchmarks import big, page, report
from benchmarks.run import Run
from benchmarks.workers import ROOT

LATEST = ROOT / "benchmarks" / "results" / "latest.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench", description="What statestore costs beside the raw drivers.")
    parser.add_argument("--quick", action="store_true", help="under two minutes: fewer rounds, no peers, less data")
    parser.add_argument("--only", metavar="NAME", help="just the work whose name contains NAME; several with commas")
    parser.add_argument("--json", metavar="FILE", type=Path, help=f"where the results go; by default {LATEST.name}")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, help="with the peers, installed if need be")
    parser.add_argument("--page", action="store_true", help="only write docs/performance.md anew")
    parser.add_argument("--big", action="store_true", help="only what grows with the rows, up to millions: docs/big.md")
    parser.add_argument("--entries", type=int, default=5_000_000, help="with --big: how many; by default 5,000,000")
    parser.add_argument("--rounds", type=int, default=300, help="with --big: how often each is done")
    parser.add_argument("--databases", default="postgresql,sqlite", help="with --big: which, with commas")
    arguments = parser.parse_args()
    if arguments.big:
        whole = arguments.entries >= 5_000_000
        big.main(arguments.entries, arguments.rounds, arguments.databases.split(","), write=whole)
        return
    if arguments.page:
        page.write(arguments.json or LATEST)
        return
    whole = not arguments.quick and not arguments.only
    peers = arguments.peers if arguments.peers is not None else whole
    begun = time.monotonic()
    results = Run(quick=arguments.quick, only=arguments.only, peers=peers).everything()
    results.about["took"] = round(time.monotonic() - begun)

    print()
    for part in ("single", "network"):
        for database in results.figures.get(part, {}):
            print(f"{database}, {'one caller' if part == 'single' else 'one caller, through the proxy'}")
            print(report.text(report.times(results, part, database)) + "\n")
    for database in results.figures.get("concurrent", {}):
        print(f"{database}, concurrent callers\n{report.text(report.rates(results, database))}\n")
    for database in results.figures.get("large", {}):
        print(f"{database}, few rows and many\n{report.text(report.growth(results, database))}\n")
    if "memory" in results.facts:
        print(f"memory\n{report.text(report.memory(results))}\n")
    print(f"The goals: {report.tally(results)}\n{report.text(report.goals(results))}\n")
    print(f"The same subject twice, as a ratio: {report.noise(results)}")
    for name, why in results.facts.get("absent", {}).items():
        print(f"not measured: {name}: {why}")

    # Only a whole run is worth keeping as the latest; a part of one would replace figures by none.
    target = arguments.json or (LATEST if whole else LATEST.with_name("partial.json"))
    results.save(target)
    print(f"\n{results.about['took']} s; results in {target}")
    if whole and arguments.json is None:
        page.write(LATEST)


if __name__ == "__main__":
    sys.exit(main())
