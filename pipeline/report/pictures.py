"""Where a report's pictures come from: the indexed videos (or images) that a name stands for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError, MareyError
from marey.pipeline.data.events import Video
from marey.pipeline.data.reading import read_frames
from marey.pipeline.data.source import need_frames, open_source
from marey.pipeline.report.thumbnails import places_of
from marey.pipeline.video import read

Fetch = Callable[[str, float], NDArray[np.uint8]]
"""(video_id, seconds on the event's clock) -> the frame shown then, uint8 [H, W, 3]."""

HEIGHT = 144
"""Pixels at which frames are read for a page."""
STILL = (96, 96)
"""Height and width at which stills are."""


def open_fetch(data: str) -> Fetch:
    """Frames by video_id of an index or image table. Raises InputError when it is gone."""
    source = open_source(data)
    need_frames(source)
    reader = source.reader
    places = places_of(source)

    @cache
    def fetch(video_id: str, time_s: float) -> NDArray[np.uint8]:
        if video_id not in places:
            raise InputError(f"{data} has no {source.kind} {video_id}")
        number, view = places[video_id]
        event = source.event(number)
        video = event.videos[view]
        shape = STILL if source.stills else (HEIGHT, _width(video, HEIGHT))
        return read_frames(reader, event, view, _within_frame(video, time_s), shape)[0]

    return fetch


def _width(video: Video, height: int) -> int:
    return max(16, round(height * video.width / max(1, video.height)))


def _within_frame(video: Video, time_s: float) -> NDArray[np.float64]:
    """When in a video the frame is well shown that is shown at a time of its event's clock: [1].

    Embeddings say when a frame begins, which rounding may put before it. Raises InputError for a
    video that has no frame.
    """
    if not video.frames:
        raise InputError(f"{video.video_id}: {video.status}, without a frame")
    shown_s, clock = np.array([video.shown_at(time_s)]), video.frame_clock
    if not 0 <= shown_s[0] + 1e-6 <= clock.times_s[-1]:
        return shown_s
    return clock.middles(clock.numbers_at(shown_s))


def frame_of(video: Video, time_s: float, height: int = HEIGHT) -> NDArray[np.uint8]:
    """The frame of a video shown at `time_s` of its event's clock, scaled to `height`."""
    size = (height, _width(video, height))
    times, place = _within_frame(video, time_s), video.location()
    return read(place, times, size, stream=video.stream, fit="cover", span=video.span)[0]


def try_fetch(fetch: Fetch | None, video_id: str, time_s: float) -> NDArray[np.uint8] | None:
    """The frame, or None where it cannot be had: a page must not fail for one picture."""
    if fetch is None:
        return None
    try:
        return fetch(video_id, time_s)
    except MareyError:
        return None
