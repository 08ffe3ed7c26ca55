"""One row of a corpus, as samplers and readers see it: a video. Several are an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from marey.configs.errors import InputError
from marey.pipeline.runtime.roots import Roots
from marey.pipeline.video.frame_clock import FrameClock
from marey.pipeline.video.reasons import OUTSIDE, VideoError
from marey.pipeline.video.span import Span

Times = TypeVar("Times", float, np.ndarray)
"""One time or several, in seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """One row of the index, as the samplers see it. Times are seconds from the first shown frame.

    The event has a clock of its own: see `shown_at`.
    """

    video_id: str
    uri: str
    event: str
    view: str
    label: str
    """Class of what the event shows, for evaluation and semi-supervised methods; mostly empty."""
    clock_offset_s: float
    clock_rate: float
    duration_s: float
    fps: float
    frames: int
    width: int
    height: int
    stream: int
    motion: np.ndarray
    motion_hz: float
    cuts: tuple[float, ...]
    status: str
    frame_times: FrameClock | None = None
    """When each frame is shown, where the rate varies."""
    start_s: float | None = None
    """Where in its file the video begins, in seconds of the file's time; None is a whole file."""
    end_s: float | None = None
    split: str = ""
    """The part of the corpus that a list gives it to, e.g. `train`; mostly empty."""
    extra: str | None = None
    """What else a list says of it: a JSON object."""
    roots: Roots | None = None
    """Below which its file must lie; None where its `uri` comes from this process itself."""

    def location(self) -> str:
        """Where its file may be opened. Raises VideoError (`outside_roots`) where it may not."""
        if self.roots is not None:
            try:
                self.roots.check(self.uri)
            except InputError as error:
                raise VideoError(str(error), OUTSIDE) from error
        return self.uri

    @property
    def has_frames(self) -> bool:
        """Whether there is anything to sample: damaged and unreadable videos may have no frame."""
        return self.frames > 0 and self.fps > 0

    @property
    def span(self) -> Span | None:
        """The part of its file that the video is; None for a whole file."""
        if self.start_s is None or self.end_s is None:
            return None
        return Span(self.start_s, self.end_s)

    @property
    def frame_clock(self) -> FrameClock:
        """When each frame is shown. For a video that has frames."""
        return self.frame_times or FrameClock.even(self.frames, self.fps)

    def shown_at(self, time_s: Times) -> Times:
        """When in this video a time of the event's clock is shown."""
        return self.clock_rate * time_s + self.clock_offset_s

    def event_time(self, shown_s: Times) -> Times:
        """The time of the event's clock that this video shows at one of its own times."""
        return (shown_s - self.clock_offset_s) / self.clock_rate


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Synchronised videos of one happening, in the order of their view names; mostly one."""

    event_id: str
    videos: tuple[Video, ...]
    member: int = 0
    """The corpus of a mixture that it is of."""
