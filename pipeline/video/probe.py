"""What is in a video file? Answered by demuxing: no pixel is decoded for the packet profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from marey.configs.errors import InputError, SettingError
from marey.pipeline.runtime.address import FrameFolder, frame_folder
from marey.pipeline.video import isolate
from marey.pipeline.video.container import VideoSource, deadline_after, open_video
from marey.pipeline.video.frame_clock import Knots, knots_of
from marey.pipeline.video.header_file import NoTable
from marey.pipeline.video.header_scan import may_have_table, scan_header
from marey.pipeline.video.profile import find_cuts, packet_motion
from marey.pipeline.video.reasons import PASSING, reason_of
from marey.pipeline.video.remote import RemoteFile
from marey.pipeline.video.span import FrameSpan, Span
from marey.pipeline.video.timeline import Timeline
from marey.pipeline.video.timeline import scan as scan_packets

Motion = Literal["packets", "vectors", "flow", "none"]
Status = Literal["ok", "damaged", "unreadable"]
Scan = Literal["header", "full"]
"""`header`: from the table of an MP4 or MOV file, where it has one; `full`: from its packets."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """One video stream, or a span of one, described. All times are seconds from its first frame.

    span: from the span's first frame to the end of its last one, seconds from the first frame shown
        of the file; None for a whole file.
    duration_s: from the first frame shown to the end of the last one.
    container_start_s: the container's own time of its first frame shown; streams of one file,
        or of cameras with a common clock, are aligned by it.
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
    scan: what it was described from. Of a header, keyframes are those of the file's table, and
        damage inside of frames was not looked for.
    read_bytes, requests: what was read of the whole file, as far as it is known: of files of object
        stores, and where headers were read.
    status: "ok"; "damaged": the file is readable in part, `error` says what is wrong; "unreadable".
        Where a span was cut to its file, `error` says so, whatever the status.
    passes: whether the error may be gone when the file is read again (a store gave no answer).
    """

    span: Span | None = None

    duration_s: float = 0.0
    container_start_s: float = 0.0
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
    passes: bool = False
    streams: int = 1
    scan: Scan = "full"
    read_bytes: int | None = field(default=None, compare=False)
    requests: int | None = field(default=None, compare=False)


def probe(
    uri: str,
    *,
    stream: int = 0,
    motion: Motion = "packets",
    time_limit_s: float | None = None,
    scan: Scan = "full",
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
    scan: `header` reads the table of an MP4 or MOV file alone, where it has one and `motion` does
        not decode; other files are read whole.
    Raises SettingError for an unknown `motion` or `scan`, or a negative `stream`.
    """
    return probe_spans(
        uri, [None], stream=stream, motion=motion, time_limit_s=time_limit_s, scan=scan
    )[0]


def probe_spans(
    uri: str,
    spans: Sequence[Span | FrameSpan | None],
    *,
    stream: int = 0,
    motion: Motion = "packets",
    time_limit_s: float | None = None,
    scan: Scan = "full",
) -> list[VideoInfo]:
    """Describe parts of one file, in their order; None is the whole. The file is read once.

    A span that ends after the file is cut there, one that shows no frame is unreadable; `error`
    says so. See `probe`.
    """
    if motion not in get_args(Motion):
        raise SettingError(f"motion={motion!r}: allowed are {', '.join(get_args(Motion))}")
    if scan not in get_args(Scan):
        raise SettingError(f"scan={scan!r}: allowed are {', '.join(get_args(Scan))}")
    limit = isolate.TIME_LIMIT_S if time_limit_s is None else time_limit_s
    by_header = scan == "header" and motion in ("packets", "none")

    def look() -> list[VideoInfo]:
        if place := frame_folder(uri):
            return _describe_images(place, spans, motion)
        deadline = deadline_after(limit)
        if by_header and may_have_table(uri):
            try:
                source, timeline = scan_header(uri, stream, deadline)
            except NoTable:
                pass  # its packets are read
            else:
                with source:
                    infos = _describe(source, timeline, 0, spans, motion, stream)
                    return [replace(info, scan="header", **_cost(source)) for info in infos]
        with open_video(uri, stream) as source:
            announced = _announced_packets(source)
            timeline, _ = scan_packets(source, deadline=deadline)
            infos = _describe(source, timeline, announced, spans, motion, stream)
            return [replace(info, **_cost(source)) for info in infos]

    try:
        return isolate.within(limit + isolate.GRACE_S, look, uri)
    except InputError as error:
        passes = reason_of(error) in PASSING
        return [VideoInfo(status="unreadable", error=str(error), passes=passes) for _ in spans]


def _cost(source: VideoSource) -> dict[str, int]:
    """What was read of a file, as far as it was not libav that read it. To open it is a request."""
    file = source.file
    if not isinstance(file, RemoteFile):
        return {}
    return {"read_bytes": file.bytes_read, "requests": file.requests + 1}


def _in_seconds(span: Span | FrameSpan | None, timeline: Timeline) -> Span | None:
    """A span in the file's time; frames that are not there are taken to follow at its mean rate."""
    if not isinstance(span, FrameSpan) or not timeline.num_frames:
        return span if isinstance(span, Span) else None
    edges = np.append(timeline.times_s, timeline.end_s)
    period_s = timeline.end_s / timeline.num_frames
    start_s, end_s = (
        float(edges[int(n)])
        if n <= timeline.num_frames
        else timeline.end_s + (n - timeline.num_frames) * period_s
        for n in span
    )
    return Span(start_s, end_s)


def _describe(
    source: VideoSource,
    timeline: Timeline,
    announced: int,
    spans: Sequence[Span | FrameSpan | None],
    motion: Motion,
    stream: int,
) -> list[VideoInfo]:
    context = source.stream.codec_context
    orientation = source.container_orientation()
    height, width = orientation.displayed(context.height, context.width)
    error = _damage(source, timeline, announced)
    whole = VideoInfo(
        container_start_s=timeline.start_s,
        fps=source.fps,
        width=width,
        height=height,
        rotation=orientation.rotation,
        sar=float(1 / source.sar if orientation.transpose else source.sar),
        codec=context.codec.canonical_name,
        status="damaged" if error else "ok",
        error=error,
        streams=source.num_streams,
    )
    cuts = find_cuts(timeline) if timeline.num_frames else np.empty(0)
    return _of_spans(source.uri, timeline, spans, whole, cuts, motion, stream)


def _of_spans(
    uri: str,
    timeline: Timeline,
    asked: Sequence[Span | FrameSpan | None],
    whole: VideoInfo,
    cuts: np.ndarray,
    motion: Motion,
    stream: int = 0,
) -> list[VideoInfo]:
    """What is known of parts of a file. whole: what they have in common. cuts: of the file."""
    if timeline.num_frames == 0:
        whole = replace(whole, status="unreadable", error=f"{uri}: none of its packets is shown")
        return [whole for _ in asked]
    spans = [_in_seconds(span, timeline) for span in asked]
    parts = [timeline if span is None else timeline.within(span) for span in spans]
    shown = [part for part in parts if part.num_frames]
    profiles = [(np.empty(0), 0.0)] * len(shown)
    error = whole.error
    if motion == "packets":
        pixels = whole.width * whole.height
        profiles = [packet_motion(part, pixels, whole.codec) for part in shown]
    elif motion != "none":
        from marey.pipeline.video.motion import decoded_motion

        starts = [_first_s(timeline, s) for s, p in zip(spans, parts, strict=True) if p.num_frames]
        profiles, failure = decoded_motion(uri, timeline, shown, starts, motion, stream)
        error = error or failure
    left = iter(profiles)
    infos = []
    for span, part in zip(spans, parts, strict=True):
        if not part.num_frames:
            why = _why_empty(uri, timeline, span)
            infos.append(VideoInfo(span, status="unreadable", error=why))
            continue
        profile, rate = next(left)
        start_s = _first_s(timeline, span)
        inside = cuts[(cuts > start_s) & (cuts < start_s + part.end_s)] - start_s
        infos.append(
            replace(
                whole,
                span=None if span is None else Span(start_s, start_s + part.end_s),
                duration_s=part.end_s,
                fps=_rate(timeline, part, whole.fps),
                frames=part.num_frames,
                keyframes=tuple(part.times_s[part.key[part.shown]].tolist()),
                motion=tuple(np.round(profile, 6).tolist()),
                motion_hz=rate,
                cuts=tuple(inside.tolist()),
                frame_times=knots_of(part.times_s, part.end_s),
                status="damaged" if error else "ok",
                error=error or _cut_off(uri, timeline, span),
            )
        )
    return infos


def _rate(timeline: Timeline, part: Timeline, stated: float) -> float:
    """Mean frame rate; of a span the file's own, but where it differs by more than rounding."""
    if part.end_s <= 0:
        return stated
    own, whole = part.num_frames / part.end_s, timeline.num_frames / timeline.end_s
    return whole if abs(own - whole) < 1e-9 * whole else own


def _first_s(timeline: Timeline, span: Span | None) -> float:
    """When the first frame of a span that has one is shown, in its file's time."""
    return 0.0 if span is None else float(timeline.times_s[timeline.places_within(span)[0]])


def _why_empty(uri: str, timeline: Timeline, span: Span | None) -> str:
    if span is None or span.start_s < timeline.end_s:
        return f"{uri}: no frame begins within the span {_words(span)}"
    return f"{uri}: the span {_words(span)} lies after the end of the file ({timeline.end_s:.3f} s)"


def _cut_off(uri: str, timeline: Timeline, span: Span | None) -> str | None:
    """That a span was cut where its file ends; None where it ends before, give or take a frame."""
    if span is None or span.end_s == float("inf"):
        return None
    period_s = timeline.end_s / timeline.num_frames
    if span.end_s <= timeline.end_s + period_s + timeline.tolerance_s:
        return None
    return f"{uri}: the span {_words(span)} is cut at the end of the file ({timeline.end_s:.3f} s)"


def _words(span: Span | None) -> str:
    return "" if span is None else f"{span.start_s:.3f}..{span.end_s:.3f} s"


def _describe_images(
    place: FrameFolder, spans: Sequence[Span | FrameSpan | None], motion: Motion
) -> list[VideoInfo]:
    """A folder of frames, or parts of it, described as videos; one of its images is decoded."""
    from marey.pipeline.video.frame_images import CODECS, FrameImages

    images = FrameImages(place)
    timeline = images.timeline(images.sizes())
    first = next(filter(None, map(images.decode, range(len(images.names)))), None)
    if first is None:
        error = f"{place.uri}: none of its images is readable"
        return [VideoInfo(status="unreadable", error=error) for _ in spans]
    faults = [f"{images.names[n]} is empty" for n in timeline.damaged]
    faults += [f"{name} has no number and is left out" for name in images.left_out]
    error = f"{place.uri}: {', '.join(faults[:3])} ({len(faults)} such)" if faults else None
    suffix = images.names[0][images.names[0].rindex(".") :].lower()
    whole = VideoInfo(
        container_start_s=timeline.start_s,
        width=first.width,
        height=first.height,
        codec=CODECS[suffix],
        status="damaged" if error else "ok",
        error=error,
    )
    return _of_spans(place.uri, timeline, spans, whole, np.empty(0), motion)


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
