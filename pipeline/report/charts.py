"""How numbers become pictures: curves with their chance line, sparklines, bars, scatter maps (SVG).

Colours are the page's variables, so that a chart follows light and dark; series are told apart by
direct labels as well as by colour. The palette is Okabe and Ito's, which colour-blind readers
can tell apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.pipeline.report.page import number

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 58, 30, 30
_MAP, _BARS = 256, 240
_POINTS = 240
"""Points drawn of one curve; more are averaged."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: `x` and `y` [n]; `name` is written at its end where there are several."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round values within [low, high]."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    scale = 10 ** math.floor(math.log10(rough))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= rough * 0.8)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(
    x: NDArray[np.float64], y: NDArray[np.float64], most: int = _POINTS
) -> tuple[NDArray, NDArray]:
    """At most `most` points: means over equal runs of points."""
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= most:
        return x, y
    parts = np.array_split(np.arange(len(x)), most)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def line_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    chance: float | None = None,
    unit: str = "",
    x_name: str = "step",
    dots: bool = False,
    floor: float | None = None,
) -> str:
    """A small chart of curves over `x_name`, chance as a dashed line, last values at the right.

    `floor` is a value that the axis must reach down to. `unit` follows every value ("%", "s").
    """
    drawn = [(curve, *thinned(curve.x, curve.y)) for curve in curves]
    drawn = [(curve, x, y) for curve, x, y in drawn if len(x)]
    if not drawn:
        return ""
    values = np.concatenate([y for _, _, y in drawn])
    # one diverged value must not flatten the curve
    low, high = (float(v) for v in np.quantile(values, [0, 1] if len(values) < 40 else [0, 0.995]))
    extra = [v for v in (chance, floor) if v is not None and math.isfinite(v)]
    low, high = min([low, *extra]), max([high, *extra])
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = (low if low == floor else low - pad), high + pad
    begin = min(float(x[0]) for _, x, _ in drawn)
    end = max(float(x[-1]) for _, x, _ in drawn)
    end = end if end > begin else begin + 1

    def px(value: float) -> float:
        return _LEFT + (value - begin) / (end - begin) * (_WIDTH - _LEFT - _RIGHT)

    def py(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text class="title" x="0" y="13">{escape(title)}</text>']
    for value in ticks(low, high):
        y = py(value)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="var(--grid)"/><text x="{_LEFT - 6}" y="{y + 3.5:.1f}" '
            f'text-anchor="end">{number(value)}{escape(unit)}</text>'
        )
    across = ticks(begin, end, 3)
    for value in across:
        anchor = "start" if value == begin else "middle"
        text = f"{value:,.0f}" if value != across[-1] else f"{value:,.0f} {escape(x_name)}"
        parts.append(
            f'<text x="{px(value):.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="{anchor}">'
            f"{text}</text>"
        )
    labels: list[tuple[float, str, str]] = []
    if chance is not None and math.isfinite(chance):
        y = py(chance)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke="var(--chance)" stroke-width="1.5" stroke-dasharray="5 4"/>'
        )
        labels.append((y, "chance", "var(--chance)"))
    for index, (curve, x, y) in enumerate(drawn):
        colour = f"var(--c{index % 4})"
        points = " ".join(f"{px(a):.1f},{py(b):.1f}" for a, b in zip(x, y, strict=True))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" '
            'stroke-linejoin="round" stroke-linecap="round"/>'
        )
        if dots or len(x) == 1:
            parts += [
                f'<circle cx="{px(a):.1f}" cy="{py(b):.1f}" r="3" fill="{colour}"/>'
                for a, b in zip(x, y, strict=True)
            ]
        name = f"{curve.name} " if len(drawn) > 1 else ""
        labels.append((py(float(y[-1])), f"{name}{number(float(y[-1]))}{unit}", colour))
    parts += [
        f'<text class="end" x="{_WIDTH - _RIGHT + 7}" y="{y + 3.5:.1f}" style="fill:{colour}">'
        f"{escape(text)}</text>"
        for y, text, colour in _apart(labels)
    ]
    values = {
        "name": x_name,
        "x": [begin, round(px(begin), 1), round(px(end), 1), end],
        "curves": [
            {
                "name": curve.name if len(drawn) > 1 else "",
                "x": [round(float(value), 4) for value in x],
                "y": [f"{number(float(value))}{unit}" for value in y],
            }
            for curve, x, y in drawn
        ],
    }
    return svg(_WIDTH, _HEIGHT, parts, title, hover=("curves", values))


def _apart(labels: list[tuple[float, str, str]], gap: float = 13) -> list[tuple[float, str, str]]:
    """Labels moved down until none covers another."""
    placed: list[tuple[float, str, str]] = []
    for y, text, colour in sorted(labels):
        y = max(y, placed[-1][0] + gap) if placed else y
        placed.append((y, text, colour))
    over = placed[-1][0] - (_HEIGHT - _BOTTOM + 4) if placed else 0
    return [(y - max(0, over), text, colour) for y, text, colour in placed]


def sparkline(values: NDArray[np.floating], *, width: int = 150, height: int = 28) -> str:
    """A profile without axes, filled below; its own maximum is the top."""
    finite = np.nan_to_num(np.asarray(values, dtype=np.float64))
    if len(finite) < 2 or finite.max() <= 0:
        return ""
    if len(finite) > width // 2:
        finite = np.array([part.mean() for part in np.array_split(finite, width // 2)])
    x = np.linspace(0, width, len(finite))
    y = height - 1 - finite / finite.max() * (height - 3)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return svg(
        width,
        height,
        [
            f'<polygon points="0,{height} {points} {width},{height}" fill="var(--wash)"/>',
            f'<polyline points="{points}" fill="none" stroke="var(--c0)" stroke-width="1.3"/>',
        ],
        "motion profile",
    )


def bar_chart(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: (name, value, text at the end of the bar)."""
    top = max((value for _, value, _ in rows), default=0) or 1
    height = _TOP + 21 * len(rows)
    parts = [f'<text class="title" x="0" y="13">{escape(title)}</text>']
    for index, (name, value, text) in enumerate(rows):
        y = _TOP + 21 * index
        length = 104 * value / top
        parts.append(
            f'<text x="88" y="{y + 11}" text-anchor="end">{escape(name[:16])}</text>'
            f'<rect x="94" y="{y + 1}" width="{max(length, 1.5):.1f}" height="13" rx="2" '
            f'fill="var(--c0)"/><text class="end" x="{100 + length:.1f}" y="{y + 11}">'
            f"{escape(text)}</text>"
        )
    return svg(_BARS, height, parts, title)


def scatter_map(title: str, points: NDArray[np.floating], colours: Sequence[str]) -> str:
    """Points [n, 2] on a plane without units, each with its CSS colour."""
    centre = (points.max(axis=0) + points.min(axis=0)) / 2
    half = float(np.ptp(points, axis=0).max()) / 2 or 1.0
    place = (points - centre) / half * (_MAP / 2 - 14) + _MAP / 2
    parts = [f'<text class="title" x="0" y="13">{escape(title)}</text>']
    groups: dict[str, list[str]] = {}
    for (x, y), colour in zip(place, colours, strict=True):
        groups.setdefault(colour, []).append(f'<circle cx="{x:.1f}" cy="{y + 10:.1f}" r="2.2"/>')
    parts += [
        f'<g fill="{colour}" fill-opacity=".82">{"".join(circles)}</g>'
        for colour, circles in groups.items()
    ]
    at = [[round(float(x), 1), round(float(y) + 10, 1)] for x, y in place]
    return svg(_MAP, _MAP + 12, parts, title, kind="map", hover=("map", at))


def time_colours(share: NDArray[np.floating]) -> list[str]:
    """Colours of values in [0, 1], in 32 steps of a scale that stays readable on both grounds."""
    scale = _scale()
    step = np.clip((share * 31).round().astype(int), 0, 31)
    return [scale[s] for s in step]


def time_gradient() -> str:
    """The same scale as a CSS gradient, for its legend."""
    return f"linear-gradient(90deg,{','.join(_scale()[::4])})"


def _scale() -> list[str]:
    ramp = np.linspace(60, 245, 32).astype(np.uint8)[None]
    colours = cv2.applyColorMap(ramp, cv2.COLORMAP_PLASMA)[0, :, ::-1]
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colours.tolist()]


CATEGORIES = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6bbd", "#7f7f7f",
    "#a5462a", "#5b8c2a",
)  # fmt: skip
"""Colours of classes: Okabe and Ito's, and three more."""


def svg(
    width: int,
    height: int,
    parts: Sequence[str],
    title: str,
    kind: str = "chart",
    hover: tuple[str, Any] | None = None,
) -> str:
    """A picture of these parts, for a page or for `standalone`.

    hover: what pointing at it shows on a page, as hover.js knows it: a kind and its values.
    """
    told = f" data-hover=\"{hover[0]}\" data-values='{_attribute(hover[1])}'" if hover else ""
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}"{told}>{"".join(parts)}</svg>'
    )


def _attribute(values: Any) -> str:
    """Values as JSON within an attribute in single quotes."""
    return escape(json.dumps(values, separators=(",", ":")))
