"""The command: `./run mutants`."""

import argparse
import json
import os
import random
import sys
from pathlib import Path

from mutants import subjects
from mutants.operators import Mutation, mutations, readable
from mutants.trial import Copy, difference
from tests.postgres import start_server

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./run mutants",
        description="Change the engine or a repository in one place, blindly, and see whether its tests notice. All"
        " happens in a copy of the checkout. Ends with what survived; exit code 1 where something did.",
    )
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="how many changes to try; 20")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the same seed tries the same changes; 1")
    parser.add_argument("--only", action="append", metavar="PATH", help="only in files whose path contains PATH")
    parser.add_argument("--sql", action="store_true", help="only changes of SQL")
    parser.add_argument("--list", action="store_true", help="only print what would be tried")
    parser.add_argument("--results", type=Path, metavar="FILE", help="keep results there; what it has is not run again")
    arguments = parser.parse_args()

    chosen = choose(arguments.sample, arguments.seed, arguments.only, arguments.sql)
    if arguments.list:
        for module, mutation, source in chosen:
            print(f"{place(module, mutation, source)}: {mutation.what}")
        return 0
    known = read(arguments.results)
    environment = dict(os.environ)
    noticed = 0
    survivors: list[tuple[str, str, str]] = []
    unjudged: list[tuple[str, str, str]] = []
    with start_server() as server:
        environment["STATESTORE_TEST_POSTGRES_URL"] = server.url()
        with Copy(ROOT, environment) as copy:
            for number, (module, mutation, source) in enumerate(chosen, 1):
                name = f"{place(module, mutation, source)}: {mutation.what}"
                changed = mutation.of(source)
                diff = difference(module, source, changed)
                print(f"[{number}/{len(chosen)}] {name} ", end="", flush=True)
                verdict, by = known.get(diff) or judge(copy, module, changed)
                print(f"{verdict}: {by}", flush=True)
                write(arguments.results, diff, verdict, by)
                if verdict == "noticed":
                    noticed += 1
                else:
                    (survivors if verdict == "SURVIVED" else unjudged).append((name, diff, by))
    print(f"\n{noticed} noticed, {len(survivors)} survived, {len(unjudged)} not judged, of {len(chosen)}; "
          f"seed {arguments.seed}")  # fmt: skip
    for name, diff, by in [*survivors, *unjudged]:
        print(f"\n{name} ({by})\n{diff}", end="")
    return 1 if survivors or unjudged else 0


def choose(sample: int, seed: int, only: list[str] | None, sql: bool) -> list[tuple[Path, Mutation, str]]:
    """So many changes, each as likely as any other, in the order of the files."""
    all_ = [
        (module, mutation, source)
        for module in subjects.modules(ROOT)
        if not only or any(part in str(module) for part in only)
        for source in [(ROOT / module).read_text()]
        for mutation in mutations(source)
        if not sql or mutation.what.startswith("SQL: ")
    ]
    random.Random(seed).shuffle(all_)
    chosen: list[tuple[Path, Mutation, str]] = []
    for module, mutation, source in all_:
        if len(chosen) < sample and readable(mutation.of(source)):
            chosen.append((module, mutation, source))
    return sorted(chosen, key=lambda one: (str(one[0]), one[1].start, one[1].text))


def judge(copy: Copy, module: Path, changed: str) -> tuple[str, str]:
    tests = subjects.tests_of(module, ROOT)
    if not tests:
        return "not judged", "no tests are named for it"
    baseline = copy.baseline(tests)
    if not baseline.passed and not baseline.failed:
        return "not judged", f"its tests do not run without it either: {baseline.by}"
    outcome = copy.trial(module, changed, tests)
    without = f", without {', '.join(baseline.failed)}, which fail anyway" if baseline.failed else ""
    return "SURVIVED" if outcome.passed else "noticed", f"{outcome.by} ({outcome.seconds:.0f} s{without})"


def place(module: Path, mutation: Mutation, source: str) -> str:
    return f"{module}:{source.count(chr(10), 0, mutation.start) + 1}"


def read(file: Path | None) -> dict[str, tuple[str, str]]:
    if file is None or not file.exists():
        return {}
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return {one["diff"]: (one["verdict"], one["by"]) for one in records}


def write(file: Path | None, diff: str, verdict: str, by: str) -> None:
    if file is not None and verdict != "not judged" and diff not in read(file):
        with file.open("a") as results:
            results.write(json.dumps({"diff": diff, "verdict": verdict, "by": by}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
