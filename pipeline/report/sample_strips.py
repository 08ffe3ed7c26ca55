"""Samples as strips of frames, with the time and the view of each frame, as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marey.pipeline.report.page import figure, picture


def sample_strips(samples: dict[str, NDArray[Any]], kind: str, numbers: Sequence[int]) -> str:
    """Samples, side by side where there is room.

    samples: `frames` uint8 [N, F, H, W, 3], and what the sampler says beside them, such as `time_s`
    [N, F] (seconds) and `view` [N, F]. numbers: what they are called; no more are shown.
    """
    frames = samples["frames"]
    blocks = []
    for index, number in enumerate(numbers[: len(frames)]):
        keys = {name: values[index] for name, values in samples.items() if name != "frames"}
        blocks.append(f"<div>{_sample(frames[index], keys, kind, f'Sample {number}')}</div>")
    wide = frames.shape[1] > 8
    style = ' style="--smallest:100%"' if wide else ""
    return f'<div class="samples"{style}>{"".join(blocks)}</div>'


def _sample(frames: NDArray[np.uint8], keys: dict[str, NDArray[Any]], kind: str, name: str) -> str:
    """One sample as a strip of frames; pairs have their positives in a second row."""
    pairs = kind.endswith("pairs") and len(frames) % 2 == 0
    label = keys.get("label")
    text = name
    if label is not None and np.ndim(label) == 0:
        meaning = {0: "out of order", 1: "in order"} if kind == "tuples" else {}
        text += f": {meaning.get(int(label), f'label {int(label)}')}"
    if pairs:
        text += ": anchors above, positives below"
    if kind == "tuples" and len(frames) == 4:
        text += "; the fourth is the frame that is in order between the ends"
    rows = np.split(np.arange(len(frames)), 2) if pairs else [np.arange(len(frames))]
    # time order makes a strip of pairs readable; tuples keep the order that is to be judged
    order = (
        np.argsort(keys["time_s"][rows[0]], kind="stable") if pairs and "time_s" in keys else None
    )
    strips = []
    for row in rows:
        row = row if order is None else row[order]
        cells = "".join(
            f"<div>{picture(frames[n], f'frame {n}')}{_caption(keys, int(n))}</div>" for n in row
        )
        size = max(88, min(150, 440 // len(row)))
        strips.append(f'<div class="strip" style="--cell:{size}px">{cells}</div>')
    return f"<p>{text}</p>" + figure("".join(strips), wide=True)


def _caption(keys: dict[str, NDArray[Any]], index: int) -> str:
    parts = []
    if "time_s" in keys and keys["time_s"].ndim == 1:
        parts.append(f"{float(keys['time_s'][index]):.2f} s")
    if "view" in keys and keys["view"].ndim == 1:
        parts.append(f"view {int(keys['view'][index])}")
    return "<br>".join(parts)
