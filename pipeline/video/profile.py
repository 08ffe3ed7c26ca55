"""How much happens in a video, and where do shots begin? Estimated from packet sizes alone."""

from __future__ import annotations

import numpy as np

from marey.pipeline.video.timeline import Timeline

MOTION_HZ = 4.0
"""Values of the motion profile a second, unless the video has fewer frames than that."""

_WINDOW = 24
"""Frames on each side that say what is usual around a frame."""

_ROWS = 4096
"""Windows that are sorted at once: 1.6 MB."""

_SETTLE = 10

REPEATED = {"h264": (15.5, 0.1), "hevc": (15, 0.05)}
"""Bytes a frame and bits a macroblock (16x16 pixels) that x264 and x265 spend at most on a picture
that repeats the one before, from 64 to 1080 lines (measured, once the first keyframe is refined:
12-15 bytes, 0.03-0.07 bits). Of other codecs no such number is known that slow motion of small
things does not also fall below."""

SPIKE = 3.0
"""A frame that costs so many times what its neighbours cost begins a new shot."""


def packet_motion(timeline: Timeline, pixels: int, codec: str = "") -> tuple[np.ndarray, float]:
    """Motion over time: bits a pixel that the encoder spent on what changed.

    A keyframe's packet tells how detailed the picture is, not how it moves: it is replaced by the
    median of the frames around it. Reference frames, which are larger because they bridge several
    frame times, and the small frames between them are averaged over each bin. In a stream of
    keyframes only, the change of size from frame to frame takes the place of the size. Where no bin
    is above what the codec's encoder spends on repeated pictures (`REPEATED`), all are 0: still.

    Returns (float64 [bins], bins a second). A bin that shows no frame repeats the bin before: the
    frame shown then is still the same.
    """
    size = timeline.size[timeline.shown].astype(np.float64)
    key = timeline.key[timeline.shown]
    size = np.abs(np.diff(size, prepend=size[:1])) if key.all() else _without_keys(size, key)
    rate = MOTION_HZ
    if timeline.end_s > 0:
        rate = min(MOTION_HZ, timeline.num_frames / timeline.end_s)
    bins = np.floor(timeline.times_s * rate + 1e-9).astype(np.int64)
    count = int(bins[-1]) + 1
    total = np.bincount(bins, weights=size, minlength=count)
    frames = np.bincount(bins, minlength=count)
    filled = np.maximum.accumulate(np.where(frames > 0, np.arange(count), 0))
    profile = (total / np.maximum(frames, 1))[filled]
    if codec in REPEATED and not key.all():
        bytes_a_frame, bits_a_block = REPEATED[codec]
        if profile.max() <= bytes_a_frame + bits_a_block / 8 * pixels / 256:
            profile = np.zeros_like(profile)
    return profile * 8 / max(pixels, 1), rate


def find_cuts(timeline: Timeline) -> np.ndarray:
    """Times at which a new shot begins, as far as packets tell: float64 [cuts], ascending.

    Three signs. x264 and x265 write into the stream that they put a keyframe where a shot begins,
    so each keyframe that comes before its turn is one. Where the encoder says nothing, keyframes
    off an otherwise regular grid count. Else the first frame of a shot cannot be predicted from the
    shot before and costs several times its neighbours; only where packets are frames, which they
    are not in VP8, VP9 and AV1. This sign places a cut to within one run of B-frames.
    """
    if timeline.num_frames < 3:
        return np.empty(0)
    size = timeline.size[timeline.shown].astype(np.float64)
    key = timeline.key[timeline.shown]
    if key.all():
        return np.empty(0)
    cut = _off_grid(key, timeline.scene_grid)
    if timeline.one_packet_a_frame:
        for spike in _spikes(size, key):
            cut[_first_shown_with(timeline, spike)] = True
    cut[0] = False
    places = np.flatnonzero(cut)
    # One cut makes several frames expensive: keep the first of each burst.
    first = np.diff(places, prepend=-10) > 3
    return timeline.times_s[places[first]]


def _spikes(size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Places of the frames that stand alone in costing several times what is usual around them."""
    if not key.any():  # a damaged file
        return np.zeros(0, dtype=np.int64)
    high = (size > SPIKE * _usual_cost(size, key)) & ~key & (size > 0.4 * np.median(size[key]))
    high[:_SETTLE] = False  # rate control has not settled
    alone = []
    for place in np.flatnonzero(high):
        near = np.arange(max(0, place - _WINDOW), min(len(size), place + _WINDOW + 1))
        others = near[(np.abs(near - place) > 3) & ~key[near]]
        if len(others) == 0 or size[place] > 1.5 * size[others].max():
            alone.append(place)
    return np.array(alone, dtype=np.int64)


def _first_shown_with(timeline: Timeline, place: int) -> int:
    """First frame of the shot that a spike opens: B-frames predicted from it come before it."""
    position = timeline.shown[place]
    while place > 0 and timeline.shown[place - 1] > position:
        place -= 1
    return place


def _off_grid(key: np.ndarray, grid: int | None) -> np.ndarray:
    """Keyframes that come sooner after the last one than the encoder's regular distance."""
    places = np.flatnonzero(key)
    off = np.zeros(len(key), dtype=bool)
    if len(places) < 2:
        return off
    distance = np.diff(places)
    if grid is None:
        regular = np.median(distance) if len(distance) > 4 else distance.max()
        sooner = distance < 0.9 * regular
        if sooner.mean() > 0.5:  # no grid to be off from
            return off
    else:
        sooner = distance < grid
    off[places[1:][sooner]] = True
    return off


def _usual_cost(size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """For each frame, the 75th percentile of the other frames near it that are no keyframes."""
    padded = np.pad(np.where(key, np.nan, size), _WINDOW, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _WINDOW + 1)
    usual = np.empty(len(size))
    for start in range(0, len(size), _ROWS):
        usual[start : start + _ROWS] = _upper_quartile(np.sort(windows[start : start + _ROWS]))
    return np.maximum(np.nan_to_num(usual, nan=1.0), 1.0)


def _upper_quartile(rows: np.ndarray) -> np.ndarray:
    """The 75th percentile of each row, float64 [R, W], sorted, with its NaNs last: float64 [R].

    The bits of `np.nanpercentile`, which takes forty times as long.
    """
    count = rows.shape[1] - np.isnan(rows).sum(axis=1)
    place = np.maximum(count - 1, 0) * 0.75
    before = place.astype(np.int64)
    share = place - before
    each = np.arange(len(rows))
    low, high = rows[each, before], rows[each, np.minimum(before + 1, np.maximum(count - 1, 0))]
    gap = high - low
    return np.where(share >= 0.5, high - gap * (1 - share), low + gap * share)


def _without_keys(size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Sizes with each keyframe's replaced by the median of the frames around it."""
    result = size.copy()
    for place in np.flatnonzero(key):
        near = slice(max(0, place - _WINDOW // 2), place + _WINDOW // 2 + 1)
        others = size[near][~key[near]]
        result[place] = np.median(others) if len(others) else np.median(size[~key])
    return result
