"""How do charts of a report stand outside a page? As one SVG file that brings its own colours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

_STYLE = Path(__file__).with_name("chart.css")
_PAD = 12
_HOVER = re.compile(r" data-hover=[^>]*")
"""What a page shows where a chart is pointed at; a file alone has no script."""


def standalone(charts: Sequence[str], *, across: int = 1) -> str:
    """A whole SVG document of charts (see `charts.svg`), `across` in a row, in the order given.

    It follows light and dark like a page, on a ground of its own.
    """
    sizes = [_size(chart) for chart in charts]
    rows = [range(n, min(n + across, len(charts))) for n in range(0, len(charts), across)]
    parts, y, width = [], _PAD, 0
    for row in rows:
        x = _PAD
        for n in row:
            place = f'<svg x="{x}" y="{y}" width="{sizes[n][0]}" height="{sizes[n][1]}" '
            parts.append(_HOVER.sub("", charts[n], count=1).replace("<svg ", place, 1))
            x += sizes[n][0] + _PAD
        width = max(width, x)
        y += max(sizes[n][1] for n in row) + _PAD
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" '
        f'height="{y}"><style>{_STYLE.read_text()}</style>'
        f'<rect width="{width}" height="{y}" rx="8" fill="var(--card)"/>{"".join(parts)}</svg>\n'
    )


def _size(chart: str) -> tuple[int, int]:
    """Width and height of a chart, from its view box."""
    _, _, width, height = ElementTree.fromstring(chart).attrib["viewBox"].split()
    return int(width), int(height)
