"""The goals, and whether a run met them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.results import Results

Figure = Callable[[Results], float | None]
Verdict = str

COLUMNS = (("postgresql", "sync"), ("postgresql", "async"), ("sqlite", "sync"), ("sqlite", "async"))
OWN = {"sync": "statestore", "async": "statestore, async"}
OPENAI = "openai-agents SQLAlchemySession"
ADK = "google-adk"


@dataclass(frozen=True)
class Goal:
    """One cell of the table: *work* in one column, with the figure that it is to have."""

    work: str
    database: str
    style: str
    limit: float
    at_least: bool
    figure: Figure

    @property
    def wanted(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"

    def verdict(self, results: Results) -> Verdict:
        found = self.figure(results)
        if found is None:
            return "not measured"
        # As they are printed: 1.404 is 1.40, which is not more than 1.4.
        printed = round(found, 2)
        return "met" if (printed >= self.limit if self.at_least else printed <= self.limit) else "missed"


def _to_raw(part: str, work: str, database: str, style: str) -> Figure:
    return lambda results: results.value(part, database, work, OWN[style], "ratio")


def _of_two(work: str, other: str, database: str, style: str) -> Figure:
    """How one work of ours compares to another work of ours."""

    def figure(results: Results) -> float | None:
        return _divided(
            results.value("single", database, work, OWN[style]), results.value("single", database, other, OWN[style])
        )

    return figure


def _growth(work: str, database: str, style: str) -> Figure:
    def figure(results: Results) -> float | None:
        return _divided(
            results.value("large", database, work, OWN[style]), results.value("small", database, work, OWN[style])
        )

    return figure


def _faster_than(peer: str, work: str, database: str, style: str, own_work: str | None = None) -> Figure:
    """How many times as long the peer takes."""

    def figure(results: Results) -> float | None:
        return _divided(
            results.value("single", database, work, peer),
            results.value("single", database, own_work or work, OWN[style]),
        )

    return figure


def _divided(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def _row(
    title: str, limits: tuple[float | None, ...], make: Callable[[str, str], Figure], *, at_least: bool = False
) -> Iterator[Goal]:
    for (database, style), limit in zip(COLUMNS, limits, strict=True):
        if limit is not None:
            yield Goal(title, database, style, limit, at_least, make(database, style))


def _rows() -> Iterator[Goal]:
    def raw(work: str, part: str = "single") -> Callable[[str, str], Figure]:
        return lambda database, style: _to_raw(part, work, database, style)

    yield from _row("append 1", (1.4, 1.6, 1.6, 2.0), raw("append_1"))
    yield from _row("read last 20", (1.6, 1.8, 1.5, 2.0), raw("read_20"))
    yield from _row("contents of the last 20", (1.4, None, 1.4, None), raw("select_contents_20"))
    yield from _row("read all 200", (1.2, 1.3, 1.3, 1.5), raw("read_all"))
    yield from _row("state get", (2.0, 2.5, 4, 3), raw("state_get"))
    yield from _row("state set", (1.4, 1.6, 2, 3), raw("state_set"))
    yield from _row("cache hit", (2.0, 2.5, 4, 3), raw("cache_hit"))
    yield from _row("cache set", (1.4, 1.6, 2, 3), raw("cache_set"))
    yield from _row(
        "fork 10,000 against fork 10",
        (1.2, 1.2, 1.2, 1.2),
        lambda database, style: _of_two("fork_10000", "fork_10", database, style),
    )
    yield from _row(
        "read last 20 of a fork at depth 8 against unforked",
        (1.5, 1.5, 1.2, 1.2),
        lambda database, style: _of_two("read_fork_8", "read_fork_0", database, style),
    )
    yield from _row(
        "32 concurrent callers, append + read 20, ops/s",
        (0.8, 1.2, 0.7, 0.7),
        raw("mixed_32", "concurrent"),
        at_least=True,
    )
    yield from _row(
        "32 concurrent callers, append only, ops/s",
        (0.8, 2.0, 0.7, 0.8),
        raw("appends_32", "concurrent"),
        at_least=True,
    )
    yield from _row("append through the 0.25 ms proxy", (1.3, 1.3, None, None), raw("append_1", "network"))
    yield from _peer_rows()
    for title, work in (("append", "grown_append"), ("read of 20", "grown_read"), ("state get", "grown_get"),
                        ("cache hit", "grown_hit")):  # fmt: skip
        yield from _row(
            f"{title}: 1,000,000 rows against 1,000",
            (1.5, 1.5, 1.5, 1.5),
            lambda database, style, work=work: _growth(work, database, style),  # type: ignore[misc]
        )


def _peer_rows() -> Iterator[Goal]:
    for title, work, peer, limits in (
        ("append, times as fast as openai-agents", "append_1", OPENAI, (4, 3, 4, 3)),
        ("read last 20, times as fast as openai-agents", "read_20", OPENAI, (3, 3, 3, 3)),
        ("append, times as fast as ADK", "append_1", ADK, (6, 6, 6, 6)),
        ("read last 20, times as fast as ADK", "read_20", ADK, (6, 6, 6, 6)),
    ):
        yield from _row(
            title,
            limits,
            lambda database, style, work=work, peer=peer: _faster_than(peer, work, database, style),  # type: ignore[misc]
            at_least=True,
        )
    for title, work in (("state get", "state_get"), ("cache hit", "cache_hit")):
        yield from _row(
            f"{title}, times as fast as redis-py's GET",
            (None, None, 1, None),
            lambda database, style, work=work: _faster_than("redis-py", work, database, style),  # type: ignore[misc]
            at_least=True,
        )


GOALS = tuple(_rows())
