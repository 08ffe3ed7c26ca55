"""A small picture of each embedded frame, read video by video."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np

from marey.configs.errors import InputError
from marey.pipeline.data.events import Video
from marey.pipeline.data.reading import Wanted
from marey.pipeline.data.source import Source, need_frames, open_source
from marey.pipeline.embedding.embeddings import Embeddings

_AT_A_TIME = 256
"""Frames that are held decoded."""


def location_of(embeddings: Embeddings, data: str | None) -> str:
    """Where that lies which was embedded: `data`, or what the embeddings say.

    Raises InputError where neither is there.
    """
    location = data or embeddings.meta.get("data")
    if not location:
        raise InputError("these embeddings do not say what they are of: give --data INDEX")
    return str(location)


def source_of(embeddings: Embeddings, data: str | None) -> Source:
    """What was embedded, opened. Raises InputError as `location_of` does, and for what is gone."""
    source = open_source(location_of(embeddings, data))
    need_frames(source)
    source.check_present()
    return source


def places_of(source: Source) -> dict[str, tuple[int, int]]:
    """By video_id the number of its event, and which of its videos it is."""
    return {
        video.video_id: (number, view)
        for number in range(len(source))
        for view, video in enumerate(source.event(number).videos)
    }


def picture_shape(video: Video, side: int) -> tuple[int, int]:
    """Height and width of a picture whose longer side is `side`; square where sizes are unknown."""
    if not video.width or not video.height:
        return side, side
    scale = side / max(video.width, video.height)
    return max(8, round(video.height * scale)), max(8, round(video.width * scale))


def thumbnails(
    embeddings: Embeddings, source: Source, side: int
) -> Iterator[tuple[np.ndarray, list[bytes | None]]]:
    """Rows int64 [n] and a JPEG of each (None where it cannot be read), in the order of the rows.

    side: of the longer side in pixels.
    """
    places = places_of(source)
    names = embeddings.video_id
    begins = np.concatenate([[0], np.flatnonzero(names[1:] != names[:-1]) + 1, [len(names)]])
    for first, last in pairwise(begins.tolist()):
        place = places.get(str(names[first]))
        for start in range(first, last, _AT_A_TIME):
            rows = np.arange(start, min(last, start + _AT_A_TIME))
            if place is None:
                yield rows, [None] * len(rows)
                continue
            event = source.event(place[0])
            video = event.videos[place[1]]
            times_s = video.frame_clock.middles(embeddings.frame[rows])
            wanted = [Wanted(event, np.array([place[1]]), np.array([time])) for time in times_s]
            read = source.reader.read(wanted, picture_shape(video, side))
            yield (
                rows,
                [
                    None if lack else jpeg(frames[0])
                    for frames, lack in zip(read.frames, read.lacks, strict=True)
                ],
            )


def sheet(embeddings: Embeddings, source: Source, across: int, side: int) -> np.ndarray:
    """The pictures of all frames in one, `across` in a row: uint8 [rows * side, across * side, 3].

    Each lies in the corner of a square of `side` pixels, black where it does not fill it.
    """
    down = -(-len(embeddings) // across)
    image = np.zeros((down * side, across * side, 3), np.uint8)
    for rows, pictures in thumbnails(embeddings, source, side):
        for row, content in zip(rows.tolist(), pictures, strict=True):
            if content is not None:
                frame = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
                y, x = row // across * side, row % across * side
                image[y : y + frame.shape[0], x : x + frame.shape[1]] = frame[..., ::-1]
    return image


def jpeg(frame: np.ndarray, quality: int = 82) -> bytes:
    """A frame, uint8 [H, W, 3] RGB, as a JPEG file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1].tobytes()
