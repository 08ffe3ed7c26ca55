"""Do the cameras of an event fit together: their lengths, their clocks, and which is which?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from marey.configs.errors import InputError
from marey.pipeline.data.checks.finding import Finding
from marey.pipeline.data.checks.glimpse import Glimpse
from marey.pipeline.data.events import Event, Video
from marey.pipeline.data.sync import SIGNALS, Clock, estimate_clock

LENGTH_S, LENGTH_SHARE = 0.5, 0.03
"""Views may differ in length by the larger of these: a time, or a share."""
APART_S = 0.15
"""Clocks that differ by more than this contradict the index."""
WITHIN_S = 5.0
"""Largest offset that is looked for."""
ENOUGH = 5
"""Events with the same cameras, of which fewer tell nothing of how a camera sees."""
CLEARLY = 0.7
"""Cameras are swapped where another order fits by this factor better than their own."""


def faults_of_lengths(event: Event) -> Iterator[Finding]:
    """Views that are shorter or longer than the middle one of their event."""
    videos = [video for video in event.videos if video.has_frames]
    if len(videos) < 2:
        return
    ends = [float(video.event_time(video.duration_s)) for video in videos]
    usual = sorted(ends)[(len(ends) - 1) // 2] if len(ends) > 2 else max(ends)
    for video, end in zip(videos, ends, strict=True):
        if abs(end - usual) > max(LENGTH_S, LENGTH_SHARE * usual):
            detail = f"ends at {end:.2f} s, the others at {usual:.2f} s"
            yield Finding(
                "view_lengths", video.video_id, video.event, detail, times_s=(video.duration_s,)
            )


def event_offset(event: Event) -> list[tuple[int, float]]:
    """Views whose motion is offset against the first one's by more than their clocks say.

    Decodes the videos. Returns (place of the view, seconds by which it is late); empty also where
    motion does not tell.
    """
    signals: list[np.ndarray | None] = []
    for video in event.videos:
        try:
            signals.append(SIGNALS["motion"].read(video.location(), video.stream, video.span))
        except InputError:
            signals.append(None)
    late = []
    first = signals[0]
    for place, values in enumerate(signals[1:], start=1):
        if first is None or values is None:
            continue
        clock = estimate_clock(first, values, SIGNALS["motion"], within_s=WITHIN_S)
        by = _against(clock, event.videos[0], event.videos[place])
        if by is not None and abs(by) > APART_S:
            late.append((place, by))
    return late


def may_be_offset(event: Event) -> bool:
    """Whether the motion profiles of the index do not rule an offset out."""
    videos = [video for video in event.videos if len(video.motion) and video.motion_hz > 0]
    if len(videos) < 2:
        return False
    first = videos[0]
    signal = replace(SIGNALS["motion"], rate_hz=first.motion_hz)
    for video in videos[1:]:
        if abs(video.motion_hz - first.motion_hz) > 1e-6 * first.motion_hz:
            return True
        clock = estimate_clock(
            first.motion.astype(np.float64), video.motion.astype(np.float64), signal,
            within_s=WITHIN_S,
        )  # fmt: skip
        by = _against(clock, first, video)
        if by is None or abs(by) > APART_S:
            return True
    return False


def _against(clock: Clock, first: Video, video: Video) -> float | None:
    """Seconds by which a view is later than the index says; None where the clock is unknown."""
    if clock.reason:
        return None
    said = float(video.shown_at(first.event_time(0.0)))
    return clock.offset_s - said


def faults_of_order(
    events: Sequence[Event], looks: Mapping[str, Glimpse | None]
) -> Iterator[Finding]:
    """Events in which cameras are swapped: each looks as another one does in most events."""
    from scipy.optimize import linear_sum_assignment

    sets: dict[tuple[str, ...], list[tuple[Event, np.ndarray]]] = defaultdict(list)
    for event in events:
        seen = [looks.get(video.video_id) for video in event.videos]
        small = [look.small for look in seen if look is not None and look.small is not None]
        if len(small) == len(event.videos) > 1:
            names = tuple(video.view for video in event.videos)
            pictures = np.stack(small).astype(np.float32).mean(axis=1)
            sets[names].append((event, pictures.reshape(len(names), -1)))
    for names, members in sets.items():
        if len(members) < ENOUGH:
            continue
        usual = np.median(np.stack([pictures for _, pictures in members]), axis=0)
        for event, pictures in members:
            apart = np.sqrt(((pictures[:, None] - usual[None]) ** 2).mean(axis=-1))
            rows, columns = linear_sum_assignment(apart)
            moved = np.flatnonzero(rows != columns)
            if not len(moved):
                continue
            best, own = apart[rows, columns][moved].sum(), np.diag(apart)[moved].sum()
            if best > CLEARLY * own:
                continue
            for place in moved.tolist():
                video = event.videos[place]
                detail = f"looks as {names[columns[place]]} does, is called {names[place]}"
                other = event.videos[int(columns[place])].video_id
                times = (0.5 * video.duration_s,)
                yield Finding(
                    "swapped_cameras", video.video_id, event.event_id, detail, other, times
                )
