"""The held-out data of the online probe: frames or clips of a few events, or labelled images."""

from __future__ import annotations

import numpy as np

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import InputError
from marey.configs.schema import RunConfig
from marey.pipeline.data.events import Event, Video
from marey.pipeline.data.reading import read_frames
from marey.pipeline.data.source import Source, open_source
from marey.pipeline.sampling.lookback import clip_times
from marey.pipeline.training.online_probe import OnlineProbe

EVENTS = 12
"""Events that are kept, evenly spread over the index."""
TIMES = 48
"""Times of each event that are kept, evenly spread."""
IMAGES = 2500
"""Images that are kept; each is classified by its nearest neighbours among the others."""


def build_probe(location: str, config: RunConfig) -> OnlineProbe:
    """The online probe of a run: alignment across views, or kNN over labelled images.

    Raises InputError when the data has neither two views of an event nor labels.
    """
    source = open_source(location)
    encoder = config.encoder
    if source.sample_kind is not None:
        raise InputError(f"{location} cannot be probed online: give an index or labelled images")
    if not source.stills:
        return _from_videos(source, encoder)
    if encoder.clip_frames > 1:
        raise InputError(
            f"{location} holds single images, and the encoder sees clips of "
            f"{encoder.clip_frames} frames: probe it on an index"
        )
    return _from_stills(source, (encoder.image_size, encoder.image_size))


def _from_videos(source: Source, encoder: EncoderConfig) -> OnlineProbe:
    shape = (encoder.image_size, encoder.image_size)
    numbers = [n for n in range(len(source)) if _overlap(_views(source.event(n), encoder))]
    if not numbers:
        raise InputError(
            f"{source.location} cannot be probed online: none of its {len(source)} events has two "
            f"readable views{' that clips fit into' if encoder.clip_frames > 1 else ''} with "
            "a time that all of them show"
        )
    frames, events, views, times = [], [], [], []
    for number in np.unique(np.linspace(0, len(numbers) - 1, EVENTS).round().astype(int)):
        event = source.event(numbers[number])
        videos = _views(event, encoder)
        start, stop = _common_time(videos)
        clock = start + (np.arange(TIMES) + 0.5) / TIMES * (stop - start)
        for video in videos:
            shown_s = video.shown_at(clock)
            seen, refused = clip_times(video, shown_s, encoder.clip_frames, encoder.clip_step_s)
            good = np.array([not reason for reason in refused])
            view = event.videos.index(video)
            flat = read_frames(source.reader, event, view, seen[good].ravel(), shape)
            frames.append(flat.reshape(-1, *seen.shape[1:], *flat.shape[1:]))
            events += [event.event_id] * int(good.sum())
            views += [video.view] * int(good.sum())
            times.append(clock[good])
    kept = np.concatenate(frames)
    return OnlineProbe(
        kept if encoder.clip_frames > 1 else kept[:, 0],
        event=np.array(events),
        view=np.array(views),
        time_s=np.concatenate(times),
    )


def _views(event: Event, encoder: EncoderConfig) -> list[Video]:
    """Videos of the event of which some clip (or more than one frame) can be embedded."""
    return [v for v in event.videos if v.frames > 1 and _fits(v, encoder)]


def _overlap(videos: list[Video]) -> bool:
    """Whether there are two or more, and a time that all of them show."""
    if len(videos) < 2:
        return False
    start, stop = _common_time(videos)
    return start < stop


def _common_time(videos: list[Video]) -> tuple[float, float]:
    """From when to when, in the event's clock, all videos show it; the end is first if never."""
    start = max(video.event_time(0.0) for video in videos)
    return start, min(video.event_time(video.frames / video.fps) for video in videos)


def _fits(video: Video, encoder: EncoderConfig) -> bool:
    middles = np.array(video.frames) / video.fps * (np.arange(TIMES) + 0.5) / TIMES
    _, refused = clip_times(video, middles, encoder.clip_frames, encoder.clip_step_s)
    return not all(refused)


def _from_stills(source: Source, shape: tuple[int, int]) -> OnlineProbe:
    labels = source.labels()
    if labels is None or max(labels, default=-1) < 0:
        raise InputError(
            f"{source.location} cannot be probed online: it has no column `label` of classes"
        )
    labelled = np.flatnonzero(np.array(labels) >= 0)
    chosen = labelled[np.unique(np.linspace(0, len(labelled) - 1, IMAGES).round().astype(int))]
    frames = np.empty((len(chosen), *shape, 3), dtype=np.uint8)
    for frame, number in zip(frames, chosen, strict=True):
        try:
            event = source.event(int(number))
            frame[:] = read_frames(source.reader, event, 0, np.array([0.5]), shape)[0]
        except InputError as error:
            raise InputError(
                f"{source.location} cannot be probed online: {error}; leave it out"
            ) from error
    return OnlineProbe(frames, labels=np.array(labels)[chosen])
