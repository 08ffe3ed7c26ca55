"""How much moves in a video once the camera's own motion is taken out? Measured by decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from av.error import FFmpegError

from marey.pipeline.runtime.address import frame_folder
from marey.pipeline.video.container import open_video
from marey.pipeline.video.packet_plan import FrameRequest
from marey.pipeline.video.profile import MOTION_HZ
from marey.pipeline.video.reader import read_plan
from marey.pipeline.video.timeline import Timeline

FLOW_SIDE = 128
"""Short side at which optical flow is computed, in pixels (temporal.md, section 0)."""

_RANSAC_PIXELS = 1.0


def decoded_motion(
    uri: str,
    timeline: Timeline,
    parts: Sequence[Timeline],
    starts_s: Sequence[float],
    kind: Literal["vectors", "flow"],
    stream: int = 0,
) -> tuple[list[tuple[np.ndarray, float]], str | None]:
    """Motion over time in picture diagonals a second, from t = 0 of each part; one pass for all.

    timeline: of the file. parts: the whole, or spans of it. starts_s: when the first frame of each
        is shown, in the file's time.
    kind: "vectors" reads the motion vectors that the codec stored, and where libav cannot export
        them (AV1, VP9, HEVC, intra-only codecs, folders of frames) takes "flow" instead; "flow"
        computes dense optical flow between neighbouring frames and removes the homography that the
        camera induces.
    Returns (for each part float64 [bins] and bins a second; what went wrong, or None). A bin
    without a measurement (a keyframe, a damaged frame) takes the one before.
    """
    measured, error = [], None
    if kind == "vectors" and not frame_folder(uri):
        measured, error = _from_vectors(uri, timeline, stream)
    if not measured:
        measured, error = _from_flow(uri, timeline, parts, starts_s, stream)
    at = np.array([time_s for time_s, _ in measured])
    values = np.array([value for _, value in measured])
    profiles = []
    for part, start_s in zip(parts, starts_s, strict=True):
        inside = (at >= start_s - 1e-9) & (at < start_s + part.end_s - 1e-9)
        profiles.append(_binned(part, at[inside] - start_s, values[inside]))
    return profiles, error


def _bins(part: Timeline) -> tuple[int, float]:
    """How many bins a part has, and how many a second."""
    rate = MOTION_HZ
    if part.end_s > 0:
        rate = min(rate, part.num_frames / part.end_s)
    return max(1, int(np.floor(part.times_s[-1] * rate + 1e-9)) + 1), rate


def _binned(part: Timeline, at: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Means of what was measured at some times of a part, float64 [bins], and bins a second."""
    bins, rate = _bins(part)
    places = np.clip((at * rate + 1e-9).astype(np.int64), 0, bins - 1)
    count = np.bincount(places, minlength=bins)
    total = np.bincount(places, weights=values, minlength=bins)
    known = np.flatnonzero(count)
    if len(known) == 0:
        return np.zeros(bins), rate
    before = known[np.maximum(np.searchsorted(known, np.arange(bins), side="right") - 1, 0)]
    return total[before] / count[before], rate


def _from_vectors(
    uri: str, timeline: Timeline, stream: int
) -> tuple[list[tuple[float, float]], str | None]:
    """(time, motion) of each frame that the codec predicted from another."""
    measured: list[tuple[float, float]] = []
    damaged = 0
    with open_video(uri, stream) as source:
        context = source.stream.codec_context
        context.options = {"flags2": "+export_mvs"}
        diagonal = float(np.hypot(context.width, context.height))
        fps = timeline.num_frames / timeline.end_s if timeline.end_s else source.fps
        start = int(timeline.pts[timeline.shown].min())
        for packet in source.container.demux(source.stream):
            try:
                frames = context.decode(packet if packet.size else None)
            except FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                vectors = frame.side_data.get("MOTION_VECTORS")
                if vectors is None or frame.pts is None:
                    continue
                length = _vector_motion(vectors.to_ndarray())
                time_s = (frame.pts - start) * float(source.time_base)
                if length is not None and time_s >= 0:
                    measured.append((time_s, length / diagonal * fps))
    return measured, f"{uri}: {damaged} packets cannot be decoded" if damaged else None


def _vector_motion(vectors: np.ndarray) -> float | None:
    """Mean length of a frame's motion vectors less their median, in pixels a frame."""
    past = vectors[vectors["source"] < 0]
    if len(past) == 0:
        return None
    scale = np.maximum(past["motion_scale"], 1)
    move = np.stack([past["motion_x"] / scale, past["motion_y"] / scale], axis=1)
    move -= np.median(move, axis=0)
    area = past["w"].astype(np.float64) * past["h"]
    return float(np.average(np.hypot(move[:, 0], move[:, 1]), weights=area))


def _from_flow(
    uri: str,
    timeline: Timeline,
    parts: Sequence[Timeline],
    starts_s: Sequence[float],
    stream: int,
) -> tuple[list[tuple[float, float]], str | None]:
    """(time, motion) of the first pair of neighbouring frames in each bin of each part."""
    chosen = [np.empty(0, dtype=np.int64)]
    for part, start_s in zip(parts, starts_s, strict=True):
        bins, rate = _bins(part)
        first = np.searchsorted(part.times_s, np.arange(bins) / rate - 1e-9)
        first = first[first + 1 < part.num_frames]
        chosen.append(first + int(np.searchsorted(timeline.times_s, start_s - 1e-9)))
    first = np.unique(np.concatenate(chosen))
    requests = [FrameRequest(int(k), timeline.times_s[k : k + 2]) for k in first]
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    measured = []
    run = read_plan(uri, requests, FLOW_SIDE, stream=stream)
    for _, frames, shown_s in run:
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        flow = estimator.calc(grey[0], grey[1], np.zeros((*grey[0].shape, 2), np.float32))
        still = flow - camera_flow(flow)
        diagonal = float(np.hypot(*grey[0].shape))
        length = float(np.hypot(still[..., 0], still[..., 1]).mean())
        measured.append((float(shown_s[0]), length / diagonal / float(shown_s[1] - shown_s[0])))
    error = run.error or (f"{uri}: {len(run.failures)} frames are lost" if run.failures else None)
    return measured, error


def camera_flow(flow: np.ndarray, step: int = 8) -> np.ndarray:
    """The part of a flow field [H, W, 2] that one homography explains, fitted by RANSAC."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    start = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    stop = start + flow[y.ravel(), x.ravel()]
    matrix, _ = cv2.findHomography(start, stop, cv2.RANSAC, _RANSAC_PIXELS)
    if matrix is None:
        return np.zeros_like(flow)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    moved = cv2.perspectiveTransform(grid.reshape(1, -1, 2), matrix).reshape(height, width, 2)
    return moved - grid
