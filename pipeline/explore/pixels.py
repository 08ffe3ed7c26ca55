"""The pictures and clips of a page: frames of the indexed videos, read when they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from marey.configs.errors import InputError
from marey.pipeline.data.events import Event
from marey.pipeline.data.reading import Wanted
from marey.pipeline.data.source import Source
from marey.pipeline.report.thumbnails import jpeg, picture_shape, places_of
from marey.pipeline.video.mp4_writer import encode_mp4

SIDE = 320
"""Longer side of pictures and clips in pixels."""
CLIP_S, CLIP_FPS = 3.0, 12.5
"""Length of a clip around a moment in seconds, and its frames per second."""
_KEPT = 4_096
"""Pictures that are kept encoded: about 60 MB."""


class Pixels:
    """Frames and clips by video_id and time on the event's clock, as files."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.places = places_of(source)
        self._decoding = threading.Semaphore(2)
        self.frame = lru_cache(_KEPT)(self._frame)
        self.clip = lru_cache(64)(self._clip)

    def _event(self, video_id: str) -> tuple[Event, int]:
        if video_id not in self.places:
            raise InputError(f"{self.source.location} has no {video_id}")
        number, view = self.places[video_id]
        return self.source.event(number), view

    def _read(
        self, video_id: str, shown_s: Sequence[float] | np.ndarray
    ) -> tuple[np.ndarray, list[str | None]]:
        """Frames uint8 [n, H, W, 3] at times of a video's own clock, and what each lacks."""
        event, view = self._event(video_id)
        wanted = [Wanted(event, np.array([view]), np.array([time_s])) for time_s in shown_s]
        with self._decoding:
            read = self.source.reader.read(wanted, picture_shape(event.videos[view], SIDE))
        return read.frames[:, 0], [lack and (lack.error or lack.reason) for lack in read.lacks]

    def _frame(self, video_id: str, frame: int) -> bytes:
        """A JPEG of the frame with that number. Raises InputError where it cannot be read."""
        event, view = self._event(video_id)
        clock = event.videos[view].frame_clock
        frames, (lack,) = self._read(video_id, clock.middles(np.array([frame])))
        if lack:
            raise InputError(f"{video_id}: {lack}")
        return jpeg(frames[0])

    def _clip(self, video_id: str, frame: int) -> tuple[bytes, float]:
        """An MP4 around the frame with that number, and when in it the frame is shown (seconds).

        Frames that cannot be read are left out. Raises InputError where fewer than two can be.
        """
        event, view = self._event(video_id)
        video = event.videos[view]
        clock = video.frame_clock
        moment = float(clock.middles(np.array([frame]))[0])
        end = float(clock.times_s[-1])
        start = min(max(0.0, moment - CLIP_S / 2), max(0.0, end - CLIP_S))
        count = max(2, round(min(CLIP_S, end) * CLIP_FPS))
        times = start + (np.arange(count) + 0.5) / CLIP_FPS
        numbers = np.unique(clock.numbers_at(times[times < end]))
        middles = clock.middles(numbers)
        frames, lacks = self._read(video_id, middles)
        good = np.array([lack is None for lack in lacks])
        if good.sum() < 2:
            raise InputError(f"{video_id}: {next(filter(None, lacks), 'too short for a clip')}")
        shown = middles[good]
        return encode_mp4(frames[good], shown), float(moment - shown[0])
