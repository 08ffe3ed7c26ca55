"""What a report page is made of: sections, figures, tables and tiles in one self-contained file.

No external resource: pictures are inlined, charts are SVG that take their colours from
the page, so that one file reads well on paper, on a phone, in light and in dark. A few lines of
script in the file show what is pointed at; without them everything else stands.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

_STYLES = Path(__file__).with_name("chart.css"), Path(__file__).with_name("page.css")
"""Colours and charts, which also stand alone (see `standalone`), and the page around them."""
_SCRIPT = Path(__file__).with_name("hover.js")
PNG_PIXELS = 6_000
"""Pictures up to this many pixels are kept losslessly, larger ones as JPEG."""


@dataclass(frozen=True, slots=True)
class Section:
    """One heading with its content; `body` is HTML, `intro` plain text above it."""

    title: str
    body: str
    intro: str = ""


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page as HTML."""
    contents = "".join(
        f'<a href="#s{number}">{escape(section.title)}</a>'
        for number, section in enumerate(sections)
    )
    body = "".join(
        f'<section id="s{number}"><h2>{escape(section.title)}</h2>'
        + (f'<p class="intro">{escape(section.intro)}</p>' if section.intro else "")
        + f"{section.body}</section>"
        for number, section in enumerate(sections)
    )
    style = "".join(path.read_text() for path in _STYLES)
    script = f"<script>{_SCRIPT.read_text()}</script>" if " data-hover=" in body else ""
    navigation = f"<nav>{contents}</nav>" if len(sections) > 2 else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<header><p class="brand">marey</p><h1>{escape(title)}</h1>'
        f'<p class="subtitle">{escape(subtitle)}</p>{navigation}</header>'
        f"<main>{body}</main>{script}</body></html>\n"
    )


def picture(image: NDArray[np.uint8], description: str, *, width: int | None = None) -> str:
    """An inlined picture, uint8 [H, W, 3] RGB; `width` in CSS pixels when not its own."""
    pixels = image.shape[0] * image.shape[1]
    kind = "png" if pixels <= PNG_PIXELS else "jpeg"
    options = [] if kind == "png" else [cv2.IMWRITE_JPEG_QUALITY, 88]
    _, data = cv2.imencode(f".{kind}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    content = base64.b64encode(data.tobytes()).decode()
    shown = f' style="width:{width}px"' if width else ""
    return (
        f'<img src="data:image/{kind};base64,{content}" alt="{escape(description)}"'
        f' width="{image.shape[1]}" height="{image.shape[0]}"{shown}>'
    )


def figure(content: str, caption: str = "", *, wide: bool = False) -> str:
    """A figure with its caption; a wide one scrolls sideways on a small screen."""
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="{"wide" if wide else "card"}"><div>{content}</div>{text}</figure>'


def grid(items: Iterable[str], *, smallest: int = 300) -> str:
    """Items side by side, as many as fit."""
    return f'<div class="grid" style="--smallest:{smallest}px">{"".join(items)}</div>'


def tiles(values: Sequence[tuple[str, str, str]]) -> str:
    """Headline numbers: (value, what it is, a remark)."""
    return (
        '<div class="tiles">'
        + "".join(
            f"<div><b>{escape(value)}</b><span>{escape(name)}</span><small>{escape(note)}</small></div>"
            for value, name, note in values
        )
        + "</div>"
    )


LONGEST = 50


def long_table(header: Sequence[str], rows: Sequence[Sequence[str]], place: str) -> str:
    """The first rows of a table that may have one for each video; the rest are in `place`."""
    more = len(rows) - LONGEST
    left = f"<p>and {more:,} more, in {escape(place)}</p>" if more > 0 else ""
    return table(header, rows[:LONGEST]) + left


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, raw: frozenset[int] = frozenset()
) -> str:
    """A table of text cells; columns in `raw` hold HTML, columns of numbers are set right."""
    rows = [list(row) for row in rows]
    numeric = {
        column
        for column in range(len(header))
        if column not in raw and rows and all(_looks_numeric(row[column] or "0") for row in rows)
    }
    head = "".join(
        f"<th{' class=n' if column in numeric else ''}>{escape(cell)}</th>"
        for column, cell in enumerate(header)
    )
    lines = []
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            text = cell if column in raw else escape(cell)
            cells.append(f"<td{' class=n' if column in numeric else ''}>{text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def details(summary: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def note(text: str) -> str:
    """A remark under a figure or table."""
    return f'<p class="note">{escape(text)}</p>'


def _looks_numeric(cell: str) -> bool:
    return cell[:1].isdigit() or (cell[:1] in ("-", "+") and cell[1:2].isdigit()) or cell == "–"


def number(value: float, digits: int = 3) -> str:
    """A number for people: three significant digits, thousands grouped."""
    if not np.isfinite(value):
        return "–"
    if value != 0 and (abs(value) >= 10**digits or float(value).is_integer()):
        return f"{value:,.0f}"
    return f"{value:.{digits if abs(value) >= 1e-2 else 2}g}"


def duration(seconds: float) -> str:
    """A length of time for people: 8.2 s, 3:05 min, 2:10 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d} h"
