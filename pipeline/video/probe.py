"""What is in a video file? Answered by demuxing: no pixel is decoded for the packet profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from marey.configs.errors import InputError, SettingError
from marey.pipeline.runtime.address import FrameFolder, frame_folder
from marey.pipeline.video import isolate
from marey.pipeline.video.container import VideoSource, deadline_after, open_video
from marey.pipeline.video.frame_clock import Knots, knots_of
from marey.pipeline.video.profile import find_cuts, packet_motion
from marey.pipeline.video.timeline import Timeline, scan

Motion = Literal["packets", "vectors", "flow", "none"]
Status = Literal["ok", "damaged", "unreadable"]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """One video stream, described. All times are seconds from the first frame shown.

    duration_s: from the first frame shown to the end of the last one.
    start_s: the container's own time of the first frame shown; streams of one file, or of cameras
        with a common clock, are aligned by it.
    fps: mean rate of the frames shown; frames: how many are shown, counted from packets.
    width, height: as displayed, after rotation, in coded pixels (pixel aspect not applied).
    rotation: degrees clockwise from the coded to the displayed picture.
    sar: width over height of one displayed pixel.
    keyframes: when the frames are shown at which decoding can start.
    motion: how much happens over time, `motion_hz` values a second, the first from t = 0; its unit
        depends on how it was measured, see `probe`.
    frame_times: where the rate varies, points (frame number, seconds) from which the time of each
        frame follows, see `frame_clock`; empty where it is constant.
    cuts: estimated times at which a new shot begins.
    streams: video streams of the whole file, cover pictures left out.
    status: "ok"; "damaged": readable in part, `error` says what is wrong; "unreadable".
    """

    duration_s: float = 0.0
    start_s: float = 0.0
    fps: float = 0.0
    frames: int = 0
    width: int = 0
    height: int = 0
    rotation: int = 0
    sar: float = 1.0
    codec: str = ""
    keyframes: tuple[float, ...] = ()
    motion: tuple[float, ...] = ()
    motion_hz: float = 0.0
    cuts: tuple[float, ...] = ()
    frame_times: Knots = ()
    status: Status = "ok"
    error: str | None = None
    streams: int = 1


def probe(
    uri: str, *, stream: int = 0, motion: Motion = "packets", time_limit_s: float | None = None
) -> VideoInfo:
    """Describe one video stream of a file. Never raises for a bad file: `status` says so.

    stream: counts the file's video streams from 0, cover pictures left out.
    motion: how the motion profile is measured.
        "packets": bits a pixel of the frames that are not keyframes, from packet sizes; free.
        "vectors": mean length of the codec's motion vectors less their median, in picture
            diagonals a second; decodes the file.
        "flow": mean optical flow with the camera's homography removed, in picture diagonals a
            second; decodes the file at a short side of 128 pixels. The slowest and the surest.
        "none": no profile.
    time_limit_s: a file that takes longer is unreadable (default: `isolate.TIME_LIMIT_S`).
    Raises SettingError for an unknown `motion` or a negative `stream`.
    """
    if motion not in get_args(Motion):
        raise SettingError(f"motion={motion!r}: allowed are {', '.join(get_args(Motion))}")
    limit = isolate.TIME_LIMIT_S if time_limit_s is None else time_limit_s

    def look() -> VideoInfo:
        if place := frame_folder(uri):
            return _describe_images(place, motion)
        with open_video(uri, stream) as source:
            announced = _announced_packets(source)
            timeline, _ = scan(source, deadline=deadline_after(limit))
            return _describe(source, timeline, announced, motion, stream)

    try:
        return isolate.within(limit + isolate.GRACE_S, look, uri)
    except InputError as error:
        return VideoInfo(status="unreadable", error=str(error))


def _describe(
    source: VideoSource, timeline: Timeline, announced: int, motion: Motion, stream: int
) -> VideoInfo:
    if timeline.num_frames == 0:
        return VideoInfo(status="unreadable", error=f"{source.uri}: none of its packets is shown")
    context = source.stream.codec_context
    orientation = source.container_orientation()
    height, width = orientation.displayed(context.height, context.width)
    error = _damage(source, timeline, announced)
    profile, rate = np.empty(0), 0.0
    if motion == "packets":
        profile, rate = packet_motion(timeline, width * height, context.codec.canonical_name)
    elif motion != "none":
        from marey.pipeline.video.motion import decoded_motion

        profile, rate, failure = decoded_motion(source.uri, timeline, motion, stream)
        error = error or failure
    keyed = timeline.key[timeline.shown]
    return VideoInfo(
        duration_s=timeline.end_s,
        start_s=timeline.start_s,
        fps=timeline.num_frames / timeline.end_s if timeline.end_s > 0 else source.fps,
        frames=timeline.num_frames,
        width=width,
        height=height,
        rotation=orientation.rotation,
        sar=float(1 / source.sar if orientation.transpose else source.sar),
        codec=context.codec.canonical_name,
        keyframes=tuple(timeline.times_s[keyed].tolist()),
        motion=tuple(np.round(profile, 6).tolist()),
        motion_hz=rate,
        cuts=tuple(find_cuts(timeline).tolist()),
        frame_times=knots_of(timeline.times_s, timeline.end_s),
        status="damaged" if error else "ok",
        error=error,
        streams=source.num_streams,
    )


def _describe_images(place: FrameFolder, motion: Motion) -> VideoInfo:
    """A folder of frames, described as a video; one of its images is decoded."""
    from marey.pipeline.video.frame_images import CODECS, FrameImages

    images = FrameImages(place)
    sizes = images.sizes()
    timeline = images.timeline(sizes)
    first = next(filter(None, map(images.decode, range(len(images.names)))), None)
    if first is None:
        return VideoInfo(status="unreadable", error=f"{place.uri}: none of its images is readable")
    faults = [f"{images.names[n]} is empty" for n in timeline.damaged]
    faults += [f"{name} has no number and is left out" for name in images.left_out]
    error = f"{place.uri}: {', '.join(faults[:3])} ({len(faults)} such)" if faults else None
    profile, rate = np.empty(0), 0.0
    if motion == "packets":
        profile, rate = packet_motion(timeline, first.width * first.height)
    elif motion != "none":
        from marey.pipeline.video.motion import decoded_motion

        profile, rate, failure = decoded_motion(place.uri, timeline, motion)
        error = error or failure
    suffix = images.names[0][images.names[0].rindex(".") :].lower()
    return VideoInfo(
        duration_s=timeline.end_s,
        start_s=timeline.start_s,
        fps=timeline.num_frames / timeline.end_s,
        frames=timeline.num_frames,
        width=first.width,
        height=first.height,
        codec=CODECS[suffix],
        keyframes=tuple(timeline.times_s.tolist()),
        motion=tuple(np.round(profile, 6).tolist()),
        motion_hz=rate,
        frame_times=knots_of(timeline.times_s, timeline.end_s),
        status="damaged" if error else "ok",
        error=error,
    )


def _announced_packets(source: VideoSource) -> int:
    """How many packets the file says it has; 0 if it does not say.

    To be asked before they are read: libav drops those from its list that are not there. The
    header's count is taken only where there is no list: it also holds frames that an edit list
    leaves out, and in AVI those that were dropped while recording. What IVF calls a number of
    frames is with most writers a number of ticks.
    """
    listed = len(source.stream.index_entries)
    if source.container.format.name == "ivf":
        return 0
    return listed if listed > 1 else source.stream.frames


def _damage(source: VideoSource, timeline: Timeline, announced: int) -> str | None:
    """What the demuxer found wrong, in words; None if nothing."""
    if timeline.error:
        return f"{source.uri}: {timeline.error}"
    if len(timeline.damaged):
        return f"{source.uri}: {len(timeline.damaged)} of {len(timeline.pts)} packets are damaged"
    if not timeline.key.any():
        return f"{source.uri}: has no keyframe"
    if announced > len(timeline.pts):
        return (
            f"{source.uri}: it announces {announced} frames, "
            f"{len(timeline.pts)} are in the file (cut short?)"
        )
    return None
