"""How alike is every moment of one view to every moment of another? Axes in seconds, and a bar."""

from __future__ import annotations

import base64
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.pipeline.report.charts import svg, ticks
from marey.pipeline.report.page import number

_LEFT, _TOP, _SIDE = 40, 22, 250
_WIDTH, _HEIGHT = _LEFT + _SIDE + 62, _TOP + _SIDE + 36


def heat_range(matrices: list[NDArray[np.floating]]) -> tuple[float, float]:
    """One scale for several pictures: from their 5th percentile to their maximum."""
    values = np.concatenate([matrix.ravel() for matrix in matrices])
    return float(np.quantile(values, 0.05)), float(values.max())


def heat_map(
    title: str,
    cosines: NDArray[np.floating],
    times_s: tuple[NDArray[np.float64], NDArray[np.float64]],
    views: tuple[str, str],
    scale: tuple[float, float],
) -> str:
    """Cosines [m, n] of view one (downwards) and two (across) as an SVG with seconds on both axes.

    times_s: float64 [m] and [n], of the rows and the columns.
    """
    low, high = scale
    share = np.clip((cosines - low) / max(high - low, 1e-9), 0, 1)
    parts = [f'<text class="title" x="0" y="13">{escape(title)}</text>']
    parts.append(_image(share, _LEFT, _TOP, _SIDE, _SIDE))
    for axis, times in enumerate(times_s):
        begin, end = float(times[0]), float(times[-1])
        for value in ticks(begin, end, 4):
            at = (value - begin) / max(end - begin, 1e-9) * _SIDE
            x, y = (_LEFT - 6, _TOP + at + 4) if axis == 0 else (_LEFT + at, _TOP + _SIDE + 14)
            anchor = "end" if axis == 0 else "middle"
            parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{value:g}</text>')
    parts.append(
        f'<text x="{_LEFT + _SIDE / 2}" y="{_TOP + _SIDE + 30}" text-anchor="middle">'
        f"view {escape(views[1])} across, view {escape(views[0])} down, seconds</text>"
    )
    bar = np.linspace(1, 0, 64)[:, None]
    right = _LEFT + _SIDE
    parts.append(_image(bar, right + 10, _TOP, 9, _SIDE))
    for value, y in ((high, _TOP + 9), (low, _TOP + _SIDE)):
        parts.append(f'<text x="{right + 24}" y="{y}">{number(value, 2)}</text>')
    values = {
        "down": np.round(times_s[0], 2).tolist(),
        "across": np.round(times_s[1], 2).tolist(),
        "box": [_LEFT, _TOP, _SIDE],
        "names": list(views),
    }
    return svg(_WIDTH, _HEIGHT, parts, title, hover=("heat", values))


def _image(share: NDArray[np.floating], x: int, y: int, width: int, height: int) -> str:
    """Values in [0, 1] as a picture within an SVG, one pixel a value."""
    grey = (share * 255).astype(np.uint8)
    colours = cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)
    content = base64.b64encode(cv2.imencode(".png", colours)[1].tobytes()).decode()
    return (
        f'<image x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{content}"/>'
    )
