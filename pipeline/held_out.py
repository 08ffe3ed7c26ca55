"""Frames kept in memory for the online probe: a few held-out events, or images with labels."""

from __future__ import annotations

import numpy as np

from configs.errors import InputError
from configs.schema import RunConfig
from pipeline.evaluate.online import OnlineProbe
from pipeline.images import Images, decode_image
from pipeline.index import Event, Index
from pipeline.source import open_source
from pipeline.video import read

EVENTS = 12
"""Events that are kept, evenly spread over the index."""
TIMES = 48
"""Times of each that are kept, evenly spread."""
IMAGES = 2500
"""Images that are kept; each is classified by its neighbours among the others."""


def build_probe(location: str, config: RunConfig) -> OnlineProbe:
    """The online probe of a run: alignment across views, or kNN over labelled images.

    Raises InputError when the data has neither two views of an event nor labels.
    """
    source = open_source(location)
    size = config.encoder.image_size
    if isinstance(source, Index):
        return _from_index(source, (size, size))
    if isinstance(source, Images):
        return _from_images(source, (size, size))
    raise InputError(f"{location} cannot be probed online: give an index or labelled images")


def _from_index(index: Index, shape: tuple[int, int]) -> OnlineProbe:
    numbers = [n for n in range(len(index)) if _views(index.event(n)) >= 2]
    if not numbers:
        raise InputError(
            f"{index.location} cannot be probed online: none of its {len(index)} events has two "
            "readable views"
        )
    frames, events, views, times = [], [], [], []
    for number in np.unique(np.linspace(0, len(numbers) - 1, EVENTS).round().astype(int)):
        event = index.event(numbers[number])
        videos = [v for v in event.videos if v.frames > 1]
        stop = min((v.frames / v.fps - v.clock_offset_s) / v.clock_rate for v in videos)
        start = max(-v.clock_offset_s / v.clock_rate for v in videos)
        clock = start + (np.arange(TIMES) + 0.5) / TIMES * (stop - start)
        for video in videos:
            shown = video.clock_rate * clock + video.clock_offset_s
            frames.append(read(video.uri, shown, shape, stream=video.stream, fit="cover"))
            events += [event.event_id] * TIMES
            views += [video.view] * TIMES
            times.append(clock)
    return OnlineProbe(
        np.concatenate(frames),
        event=np.array(events),
        view=np.array(views),
        time_s=np.concatenate(times),
    )


def _views(event: Event) -> int:
    return sum(video.frames > 1 for video in event.videos)


def _from_images(images: Images, shape: tuple[int, int]) -> OnlineProbe:
    labels = images.labels()
    if labels is None:
        raise InputError(f"{images.location} cannot be probed online: it has no `label` column")
    chosen = np.unique(np.linspace(0, len(images) - 1, IMAGES).round().astype(int))
    frames = np.stack([decode_image(images.encoded(int(n)), shape) for n in chosen])
    return OnlineProbe(frames, labels=np.array(labels)[chosen])
