"""What a run found: kept as JSON, so that the page and the chart can be made from it again."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Series, ratio
from benchmarks.works import BY_NAME


@dataclass
class Results:
    """Figures by part (`single`, `concurrent`, `network`, `small`, `large`, …), database, work and subject."""

    about: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, dict[str, dict[str, dict[str, Any]]]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """Single findings: memory, HOT updates, peers that could not take part."""

    def add(self, part: str, database: str, work: str, series: dict[str, Series], bases: dict[str, str]) -> None:
        """Take over what was measured. *bases* tells for each subject the raw driver to compare it with."""
        group = BY_NAME[work].group
        found: dict[str, Any] = {}
        for name, one in series.items():
            found[name] = {"median_us": round(one.median, 2), "p99_us": round(one.p99, 1), "samples": one.count}
            found[name]["per_second"] = round(one.rate, 1)
            base = series.get(bases.get(name, ""))
            if base is not None and base is not one:
                against = ratio(one, base, group)
                found[name] |= {
                    "base": bases[name],
                    "ratio": round(against.value, 3),
                    "ratio_low": round(against.low, 3),
                    "ratio_high": round(against.high, 3),
                }
        self.figures.setdefault(part, {}).setdefault(database, {})[work] = found

    def of(self, part: str, database: str, work: str, subject: str) -> dict[str, Any] | None:
        """One subject's figures; None where it was not measured."""
        found: dict[str, Any] | None = self.figures.get(part, {}).get(database, {}).get(work, {}).get(subject)
        return found

    def value(self, part: str, database: str, work: str, subject: str, key: str = "median_us") -> float | None:
        found = self.of(part, database, work, subject)
        return None if found is None else found.get(key)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"about": self.about, "facts": self.facts, "figures": self.figures}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Results":
        content = json.loads(path.read_text())
        return cls(content["about"], content["figures"], content["facts"])
