"""What all pages are made of: the document around them, panels, tables, key figures and links."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from statestore.reports import style
from statestore.reports.charts import Series
from statestore.reports.text import escape, visible_text


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page is in its folder: how it leads to the others, and which of them it is."""

    to_root: str = ""
    current: str = ""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


class Row(NamedTuple):
    """A line of a table: its heading, how long its bar is, and the other cells."""

    heading: str | Html
    weight: float | None
    cells: Sequence[str | Html]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. On a phone those with *less* are left out."""

    name: str
    less: bool = False
    text: bool = field(default=False, kw_only=True)


def document(
    title: str, body: str, *, namespace: str, place: Place | None = None, footer: str = "", conversation: bool = False
) -> str:
    """A whole page. Nothing is fetched, no script runs, and no style but this one applies."""
    css = style.CONVERSATION if conversation else style.OVERVIEW
    policy = f"default-src 'none'; style-src '{style.HASHES[css]}'; img-src data:; base-uri 'none'; form-action 'none'"
    top = "" if place is None else _top(namespace, place)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{css}</style></head>'
        f"<body{' class=narrow-main' if conversation else ''}>"
        f'{top}<main id="main">{body}</main>'
        f"<footer>{footer}</footer></body></html>\n"
    )


def _top(namespace: str, place: Place) -> str:
    links = "".join(
        f'<a href="{place.to_root}{page}"{" aria-current=page" if page == place.current else ""}>{name}</a>'
        for page, name in (("index.html", "Overview"), ("sessions.html", "Sessions"))
    )
    skip = '<a class="skip" href="#main">Skip to the content</a>'
    nav = f'<nav aria-label="Report">{links}</nav>'
    return f'{skip}<header class="top"><div><b>{escape(namespace)}</b>{nav}</div></header>'


def panel(title: str, content: str, *, source: str = "", whole: bool = False) -> str:
    inside = content or '<p class="none">nothing in this period</p>'
    code = f"<code>{source}</code>" if source else ""
    return (
        f'<section class="panel{" whole" if whole else ""}"><div class="head"><h2>{title}</h2>{code}</div>'
        f"{inside}</section>"
    )


def figures_list(cells: Sequence[tuple[str, str, str]]) -> str:
    """Key figures: a name, a value, and what there is to say about it."""
    shown = "".join(
        f'<div class="figure"><dt>{name}</dt><dd>{escape(text)}<small>{_kept_together(note)}</small></dd></div>'
        for name, text, note in cells
    )
    return f'<dl class="figures">{shown}</dl>'


def _kept_together(note: str) -> str:
    """A number and its unit stay on one line."""
    return escape(note.replace(" %", "\u00a0%"))


def table(columns: Sequence[Column], rows: Sequence[Row], *, caption: str = "") -> str:
    """A table whose first column is the headings of its rows; each may have a bar."""
    most = max((row.weight for row in rows if row.weight is not None), default=0) or 1

    def attributes(index: int) -> str:
        names = [name for name in ("less", "text") if getattr(columns[index], name)]
        return f' class="{" ".join(names)}"' if names else ""

    lines = []
    for row in rows:
        bar = "" if row.weight is None else _bar(100 * row.weight / most)
        cells = "".join(f"<td{attributes(index)}>{text_of(cell)}</td>" for index, cell in enumerate(row.cells, 1))
        lines.append(f'<tr><th scope="row">{text_of(row.heading)}{bar}</th>{cells}</tr>')
    heads = "".join(
        f'<th scope="col"{attributes(index)}>{escape(column.name)}</th>' for index, column in enumerate(columns)
    )
    said = f"<caption class=note>{escape(caption)}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _bar(percent: float) -> str:
    return (
        '<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{percent:.1f}" height="4" fill="var(--c0)"/></svg>'
    )


def both(draw: Callable[[int], str], *, wide: int = 560, narrow: int = 330) -> str:
    """The chart for a wide page and the one for a phone; the style shows one of them."""
    return f'<div class="wide">{draw(wide)}</div><div class="narrow">{draw(narrow)}</div>'


def legend(series: Sequence[Series]) -> str:
    items = "".join(
        '<li><svg width="10" height="10" aria-hidden="true">'
        f'<rect width="10" height="10" rx="2" fill="var(--{one.colour})"/></svg>{escape(one.name)}</li>'
        for one in series
    )
    return f'<ul class="legend">{items}</ul>'


def data_table(
    heading: str, titles: Sequence[str], series: Sequence[Series], text: Callable[[float], str], *, name: str
) -> str:
    """The figures of a chart, folded: for those who cannot see it, or want to copy them. Empty bars are left out."""
    rows = [
        Row(title, None, ["" if (value := one.values[index]) is None else text(value) for one in series])
        for index, title in enumerate(titles)
        if any(one.values[index] for one in series)
    ]
    columns = [Column(heading), *(Column(one.name) for one in series)]
    return (
        f'<details class="data"><summary>{name} as a table</summary>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name} as a table">{table(columns, rows)}</div>'
        "</details>"
    )


def link(address: str, text: str | Html) -> Html:
    return Html(f'<a href="{html.escape(address)}">{text_of(text)}</a>')


def text_of(value: str | Html) -> str:
    return value if isinstance(value, Html) else escape(value)


def escape_text(value: str) -> str:
    """Text of several lines as HTML."""
    return html.escape(visible_text(value))


def shortened(value: str, length: int) -> str:
    """One line, cut at the end."""
    line = " ".join(value[: 4 * length].split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"
