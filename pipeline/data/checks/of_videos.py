"""What is wrong with a video by itself: by its row of the index, and by what it looks like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from marey.pipeline.data.checks.finding import Finding
from marey.pipeline.data.checks.glimpse import MOMENTS, Glimpse
from marey.pipeline.data.events import Video

COUNT_FIELDS = ("num_frames", "frame_count", "n_frames")
"""Further columns that say how many frames a video has; so does `length` of LeRobot's tables."""
SHORT_SHARE = 0.2
"""A video shorter than this share of the median is too short."""
DARK, EVEN = 24.0, 4.0
"""A black video's brightness is below the first, the contrast of an even one below the second, of
255. Limited range black is 0 here, and compression leaves some noise."""
UNEVEN_SHARE = 0.5
"""Where distances of frames differ by less than this share of the median, times are rounded."""


def faults_of_row(
    video: Video, error: str | None, median_s: float, least_s: float
) -> Iterator[Finding]:
    """What the index knows.

    error: of its row. median_s: length of the data set's videos. least_s: shorter ones are too
    short, too.
    """

    def found(kind: str, detail: str, *times_s: float) -> Finding:
        return Finding(kind, video.video_id, video.event, detail, times_s=times_s)

    if video.status != "ok":
        yield found(video.status, (error or "").removeprefix(f"{video.uri}: "))
    if not video.has_frames:
        return
    said = frames_said(video.extra)
    if said is not None and said != video.frames:
        yield found(
            "frame_count", f"{video.frames} frames, its table says {said}", video.duration_s
        )
    if video.duration_s < max(least_s, SHORT_SHARE * median_s):
        yield found(
            "too_short", f"{video.duration_s:.2f} s, {video.frames} frames; median {median_s:.2f} s"
        )
    # what a damaged file has lost leaves a gap, which is no fault of its own
    if video.status == "ok" and video.frame_times is not None and (detail := _rate(video)):
        yield found("variable_rate", detail)


def faults_of_look(video: Video, look: Glimpse) -> Iterator[Finding]:
    """What a few of its frames show."""

    def found(kind: str, detail: str, *times_s: float) -> Finding:
        return Finding(kind, video.video_id, video.event, detail, times_s=times_s)

    if look.small is None:
        if video.status == "ok":
            yield found("damaged", f"a frame of it cannot be read ({look.error})")
        return
    times = [share * video.duration_s for share in MOMENTS]
    if max(look.contrast) < EVEN:
        kind = "black" if look.mean < DARK else "constant"
        yield found(kind, f"brightness {look.mean:.0f}, contrast {max(look.contrast):.1f}", *times)
        return
    for start, stop in look.still[:1]:
        whole = sum(b - a for a, b in look.still)
        runs = f" in {len(look.still)} runs" if len(look.still) > 1 else ""
        share = whole / video.duration_s
        detail = f"{whole:.1f} s{runs}, {share:.0%} of it; from {start:.1f} s on"
        inside = (stop - start) / 8
        yield found("frozen", detail, start + inside, (start + stop) / 2, stop - inside)


def frames_said(extra: Any) -> int | None:
    """How many frames a video's table says that it has; None where it does not say."""
    fields = extra or {}
    if isinstance(fields, str):
        fields = json.loads(fields)
    names = [*COUNT_FIELDS, *(["length"] if "episode_index" in fields else [])]
    counts = (fields.get(name) for name in names)
    return next((n for n in counts if isinstance(n, int) and not isinstance(n, bool)), None)


def _rate(video: Video) -> str:
    """What varies in a video's rate; "" where only timestamps are rounded."""
    times = video.frame_clock.middles(np.arange(video.frames))
    steps = np.diff(times)
    if len(steps) < 2:
        return ""
    usual = float(np.median(steps))
    off = np.abs(steps - usual) > UNEVEN_SHARE * usual
    if not off.any():
        return ""
    return f"{int(off.sum())} of {len(steps)} frames are off the usual {usual * 1000:.1f} ms"
