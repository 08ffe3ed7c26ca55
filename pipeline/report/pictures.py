"""Where a report's pictures come from: the indexed videos (or images) that a name stands for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError, MareyError
from marey.pipeline.data.images import Images, decode_image
from marey.pipeline.data.index import Index, Video
from marey.pipeline.data.source import open_source
from marey.pipeline.video import read

Fetch = Callable[[str, float], NDArray[np.uint8]]
"""(video_id, seconds on the event's clock) -> the frame shown then, uint8 [H, W, 3]."""

HEIGHT = 144
"""Pixels at which frames are read for a page."""


def open_fetch(data: str) -> Fetch:
    """Frames by video_id of an index or image table. Raises InputError when it is gone."""
    source = open_source(data)
    if isinstance(source, Images):
        return _of_images(source)
    if isinstance(source, Index):
        return _of_index(source)
    raise InputError(f"{data} is neither an index nor images: frames cannot be had from it by name")


def _of_index(index: Index) -> Fetch:
    videos = {video.video_id: video for event in index.events() for video in event.videos}

    @cache
    def fetch(video_id: str, time_s: float) -> NDArray[np.uint8]:
        if video_id not in videos:
            raise InputError(f"{index.location} has no video {video_id}")
        return frame_of(videos[video_id], time_s)

    return fetch


def frame_of(video: Video, time_s: float, height: int = HEIGHT) -> NDArray[np.uint8]:
    """The frame of a video shown at `time_s` of its event's clock, scaled to `height`."""
    width = max(16, round(height * video.width / max(1, video.height)))
    times = np.array([video.shown_at(time_s)])
    return read(video.uri, times, (height, width), stream=video.stream, fit="cover")[0]


def _of_images(images: Images) -> Fetch:
    number = {name: index for index, name in enumerate(images.names)}

    def fetch(video_id: str, time_s: float) -> NDArray[np.uint8]:
        if video_id not in number:
            raise InputError(f"{images.location} has no image {video_id}")
        try:
            return decode_image(images.encoded(number[video_id]), (96, 96))
        except (OSError, ValueError) as error:
            raise InputError(f"{video_id}: {error}") from error

    return fetch


def try_fetch(fetch: Fetch | None, video_id: str, time_s: float) -> NDArray[np.uint8] | None:
    """The frame, or None where it cannot be had: a page must not fail for one picture."""
    if fetch is None:
        return None
    try:
        return fetch(video_id, time_s)
    except MareyError:
        return None
