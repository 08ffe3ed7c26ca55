"""What is heard in a video? Its sound as one channel, on the clock of its pictures."""

from __future__ import annotations

import av
import numpy as np
from av.error import FFmpegError

from marey.configs.errors import InputError
from marey.pipeline.video.container import open_video
from marey.pipeline.video.span import Span
from marey.pipeline.video.timeline import scan


def read_sound(
    uri: str, rate_hz: int = 8000, stream: int = 0, span: Span | None = None
) -> np.ndarray:
    """Mono sound, float32 [n] in [-1, 1], sample k at k / `rate_hz` after the first frame shown.

    stream: the video stream that sets the clock; the first sound stream is read. span: part of the
    file to which its first frame and the sound are limited. What was recorded
    before the first frame is left out; where packets are missing or damaged, there is silence.
    Raises InputError when the file cannot be opened or has no sound that can be decoded.
    """
    with open_video(uri, stream) as source:
        start_s = scan(source)[0].start_s
    with open_video(uri, stream) as source:
        if not source.container.streams.audio:
            raise InputError(f"{uri}: has no sound")
        sound = source.container.streams.audio[0]
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
        pieces: list[tuple[int, np.ndarray]] = []
        try:
            for packet in source.container.demux(sound):
                try:
                    decoded = packet.decode()
                except FFmpegError:
                    continue
                for frame in [*decoded, *([] if packet.size else [None])]:
                    for piece in resampler.resample(frame):
                        if piece.pts is None or piece.time_base is None:
                            continue
                        time_s = float(piece.pts * piece.time_base) - start_s
                        pieces.append((round(time_s * rate_hz), piece.to_ndarray()[0]))
        except (FFmpegError, OSError) as error:
            if not pieces:
                raise InputError(f"{uri}: its sound cannot be read ({error})") from error
    whole = _placed(pieces, uri)
    if span is None:
        return whole
    start, stop = (int(min(edge * rate_hz + 0.5, len(whole))) for edge in span)
    return whole[start:stop]


def _placed(pieces: list[tuple[int, np.ndarray]], uri: str) -> np.ndarray:
    """Pieces at their places; gaps are silent."""
    stop = max((place + len(piece) for place, piece in pieces), default=0)
    if stop <= 0:
        raise InputError(f"{uri}: none of its sound can be decoded")
    whole = np.zeros(stop, dtype=np.float32)
    for place, piece in pieces:
        kept = piece[max(0, -place) :]
        whole[max(0, place) : max(0, place) + len(kept)] = kept
    return whole
