"""The chart of docs/performance.md: who takes how long, on a logarithmic scale, drawn by hand as SVG."""

import math
from html import escape

from benchmarks.results import Results

WORKS = (("append_1", "append 1"), ("read_20", "read the last 20"), ("state_get", "state get"))
DATABASES = (("postgresql", "PostgreSQL"), ("sqlite", "SQLite"))

_WIDTH, _LABELS, _ROW, _HEAD = 490, 215, 17, 34
_OWN, _RAW, _PEER = "#c2410c", "#1f2937", "#64748b"


def draw(results: Results) -> str:
    """One panel for each database and work: a dot at the median, a line up to the 99th percentile."""
    columns = []
    height = 0
    for database, title in DATABASES:
        top = 46
        parts = []
        for work, name in WORKS:
            found = results.figures.get("single", {}).get(database, {}).get(work, {})
            shown = {subject: figures for subject, figures in found.items() if not subject.endswith(" again")}
            if not shown:
                continue
            panel, used = _panel(f"{title}: {name}", shown, top)
            parts.append(panel)
            top += used
        columns.append("".join(parts))
        height = max(height, top)
    body = "".join(
        f'<g transform="translate({index * _WIDTH + 12} 0)">{column}</g>' for index, column in enumerate(columns)
    )
    about = results.about
    caption = (
        f"Median (dot) and 99th percentile (end of the line) of one caller, {about.get('date', '')}. "
        "Microseconds, logarithmic; left is faster."
    )
    width = _WIDTH * len(columns) + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 8}" width="{width}" '
        f'height="{height + 8}" font-family="system-ui, sans-serif" font-size="11" role="img" '
        f'aria-label="{escape(caption)}">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n'
        f'<text x="12" y="22" font-size="13" fill="{_RAW}">{escape(caption)}</text>\n{body}</svg>\n'
    )


def _panel(title: str, found: dict[str, dict[str, float]], top: int) -> tuple[str, int]:
    ordered = sorted(found.items(), key=lambda item: item[1]["median_us"])
    low = 10 ** math.floor(math.log10(min(figures["median_us"] for _, figures in ordered)))
    high = 10 ** math.ceil(math.log10(max(figures["p99_us"] for _, figures in ordered)))
    scale = (_WIDTH - _LABELS - 70) / math.log10(high / low)

    def x(value: float) -> float:
        return round(_LABELS + math.log10(value / low) * scale, 1)

    bottom = top + _HEAD + _ROW * len(ordered)
    lines = [f'<text x="0" y="{top + 12}" font-weight="600" fill="{_RAW}">{escape(title)}</text>\n']
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = x(10**power)
        lines.append(
            f'<line x1="{at}" y1="{top + _HEAD - 6}" x2="{at}" y2="{bottom - 4}" stroke="#e2e8f0"/>'
            f'<text x="{at}" y="{top + _HEAD - 9}" text-anchor="middle" font-size="9" fill="{_PEER}">'
            f"{_label(10**power)}</text>\n"
        )
    for index, (subject, figures) in enumerate(ordered):
        y = top + _HEAD + index * _ROW + 7
        colour = _OWN if subject.startswith("statestore") else _RAW if subject.startswith("raw") else _PEER
        start, end = x(figures["median_us"]), x(max(figures["p99_us"], figures["median_us"]))
        lines.append(
            f'<text x="{_LABELS - 10}" y="{y + 4}" text-anchor="end" fill="{colour}">{escape(subject)}</text>'
            f'<line x1="{start}" y1="{y}" x2="{end}" y2="{y}" stroke="{colour}" stroke-opacity="0.45" '
            f'stroke-width="2"/>'
            f'<circle cx="{start}" cy="{y}" r="4" fill="{colour}"/>'
            f'<text x="{end + 7}" y="{y + 4}" font-size="10" fill="{colour}">{figures["median_us"]:,.0f}</text>\n'
        )
    return "".join(lines), bottom - top + 14


def _label(microseconds: int) -> str:
    return f"{microseconds // 1000:,} ms" if microseconds >= 1000 else f"{microseconds} µs"
