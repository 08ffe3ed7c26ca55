"""The held-out data of the online probe: frames or clips of a few events, or labelled images."""

from __future__ import annotations

import numpy as np

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import InputError
from marey.configs.schema import RunConfig
from marey.pipeline.data.images import Images, decode_image
from marey.pipeline.data.index import Index, Video
from marey.pipeline.data.source import open_source
from marey.pipeline.sampling.lookback import clip_times
from marey.pipeline.training.online_probe import OnlineProbe
from marey.pipeline.video import read

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
    if isinstance(source, Index):
        return _from_index(source, encoder)
    if isinstance(source, Images) and encoder.clip_frames == 1:
        return _from_images(source, (encoder.image_size, encoder.image_size))
    if isinstance(source, Images):
        raise InputError(
            f"{location} holds single images, and the encoder sees clips of "
            f"{encoder.clip_frames} frames: probe it on an index"
        )
    raise InputError(f"{location} cannot be probed online: give an index or labelled images")


def _from_index(index: Index, encoder: EncoderConfig) -> OnlineProbe:
    shape = (encoder.image_size, encoder.image_size)
    numbers = [n for n in range(len(index)) if _overlap(_views(index, n, encoder))]
    if not numbers:
        raise InputError(
            f"{index.location} cannot be probed online: none of its {len(index)} events has two "
            f"readable views{' that clips fit into' if encoder.clip_frames > 1 else ''} with "
            "a time that all of them show"
        )
    frames, events, views, times = [], [], [], []
    for number in np.unique(np.linspace(0, len(numbers) - 1, EVENTS).round().astype(int)):
        event = index.event(numbers[number])
        videos = _views(index, numbers[number], encoder)
        start, stop = _common_time(videos)
        clock = start + (np.arange(TIMES) + 0.5) / TIMES * (stop - start)
        for video in videos:
            shown_s = video.shown_at(clock)
            seen, refused = clip_times(video, shown_s, encoder.clip_frames, encoder.clip_step_s)
            good = np.array([not reason for reason in refused])
            flat = read(video.uri, seen[good].ravel(), shape, stream=video.stream, fit="cover")
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


def _views(index: Index, number: int, encoder: EncoderConfig) -> list[Video]:
    """Videos of the event of which some clip (or more than one frame) can be embedded."""
    return [v for v in index.event(number).videos if v.frames > 1 and _fits(v, encoder)]


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


def _from_images(images: Images, shape: tuple[int, int]) -> OnlineProbe:
    labels = images.labels()
    if labels is None or max(labels, default=-1) < 0:
        raise InputError(
            f"{images.location} cannot be probed online: it has no column `label` of classes"
        )
    labelled = np.flatnonzero(np.array(labels) >= 0)
    chosen = labelled[np.unique(np.linspace(0, len(labelled) - 1, IMAGES).round().astype(int))]
    frames = np.empty((len(chosen), *shape, 3), dtype=np.uint8)
    for frame, number in zip(frames, chosen, strict=True):
        try:
            frame[:] = decode_image(images.encoded(int(number)), shape)
        except (OSError, ValueError) as error:
            name = images.names[number]
            raise InputError(
                f"{images.location} cannot be probed online: {name}: {error}; leave it out"
            ) from error
    return OnlineProbe(frames, labels=np.array(labels)[chosen])
