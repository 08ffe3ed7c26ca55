"""How do stages ask a corpus for frames? Samples in, pixels out, with a reason for each that fails.

Everything here is small and picklable: a worker needs a reader and the events of its own unit of
work, never the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np

from marey.configs.errors import InputError
from marey.pipeline.data.events import Event, Video
from marey.pipeline.runtime.stores import check_not_gone
from marey.pipeline.video import Clip, FrameRequest
from marey.pipeline.video.isolate import read_into
from marey.pipeline.video.reasons import PASSING, VideoError


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """The frames of one sample.

    views: int64 [F], positions in `event.videos`.
    times_s: float64 [F], presentation times in each view's own clock.
    """

    event: Event
    views: np.ndarray
    times_s: np.ndarray


@dataclass(frozen=True, slots=True)
class Lack:
    """Why a sample has no frames: the first of its views that failed, and how."""

    view: int
    reason: str
    """A reason code of `pipeline.video.reasons`, or words."""
    error: str | None = None
    """What the decoder said of the whole video, if it failed as a whole."""

    @property
    def passes(self) -> bool:
        """Whether it may be gone when the sample is read again."""
        return self.reason in PASSING


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """What was read for n samples of F frames each.

    frames: uint8 [n, F, H, W, 3], zeros where nothing was read. shown_s: float64 [n, F], when each
    frame began to be shown, in its view's own clock. lacks: for each sample why it is not whole,
    or None. columns: what stored samples carry beside their frames, [n, ...] each.
    """

    frames: np.ndarray
    shown_s: np.ndarray
    lacks: list[Lack | None]
    columns: dict[str, np.ndarray] = field(default_factory=dict)


def no_frames(wanted: Sequence[Wanted], shape: tuple[int, int]) -> Frames:
    """Room for the frames of `wanted`, all of which want as many."""
    size = len(wanted), len(wanted[0].times_s)
    frames = np.zeros((*size, *shape, 3), dtype=np.uint8)
    return Frames(frames, np.full(size, np.nan), [None] * len(wanted))


class Reader(Protocol):
    """Reads frames of the events of one source. Pickled to workers: it holds no corpus."""

    def read(
        self,
        wanted: Sequence[Wanted],
        shape: tuple[int, int],
        *,
        suspected: bool = False,
        backend: str = "pyav",
    ) -> Frames:
        """The frames of samples that want equally many each, scaled to cover (H, W) and cut.

        suspected: one of the videos may crash its reader: be sure to outlive that.
        backend: decoder of videos, see `DataConfig.backend`.
        What cannot be read is a `Lack`, never an exception, but for StoreError: no file of that
        store can be read now.
        """
        ...


class VideoReader:
    """Reads videos by the `uri` of their rows, each file once for all samples.

    Spans of one file are decoded together: it is opened once, and each group of pictures decoded
    at most once.
    """

    def read(
        self,
        wanted: Sequence[Wanted],
        shape: tuple[int, int],
        *,
        suspected: bool = False,
        backend: str = "pyav",
    ) -> Frames:
        """See `Reader.read`."""
        out = no_frames(wanted, shape)
        files: dict[tuple[str, int], list[_Piece]] = {}
        for sample, one in enumerate(wanted):
            for view in np.unique(one.views).tolist():
                video = one.event.videos[view]
                slot = np.flatnonzero(one.views == view)
                pieces = files.setdefault((video.uri, video.stream), [])
                pieces.append(_Piece(sample, view, video, slot, one.times_s[slot]))
        for pieces in files.values():
            _read_file(out, pieces, shape, suspected, backend)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """What one sample wants of one view. slot: int64 [f], where in the sample its frames stand."""

    sample: int
    view: int
    video: Video
    slot: np.ndarray
    times_s: np.ndarray


def _read_file(
    out: Frames,
    pieces: Sequence[_Piece],
    shape: tuple[int, int],
    suspected: bool,
    backend: str,
) -> None:
    """Fill what samples want of one file. Request n is of piece n."""

    def place(clip: Clip) -> None:
        piece = pieces[cast(int, clip.request_id)]
        out.frames[piece.sample, piece.slot] = clip.frames
        out.shown_s[piece.sample, piece.slot] = clip.shown_s

    video = pieces[0].video
    try:
        uri = video.location()
    except VideoError as error:
        for piece in pieces:
            lack = out.lacks[piece.sample]
            if lack is None or piece.view < lack.view:
                out.lacks[piece.sample] = Lack(piece.view, error.reason, str(error))
        return
    failures, error = read_into(
        place,
        uri,
        [FrameRequest(n, p.times_s, span=p.video.span) for n, p in enumerate(pieces)],
        shape,
        suspected=suspected,
        backend=backend,
        stream=video.stream,
        fit="cover",
        sound=video.status == "ok",
    )
    if any(reason in PASSING for reason in failures.values()):
        check_not_gone(uri)
    for request_id, reason in failures.items():
        piece = pieces[cast(int, request_id)]
        lack = out.lacks[piece.sample]
        if lack is None or piece.view < lack.view:
            out.lacks[piece.sample] = Lack(piece.view, reason, error)


def read_frames(
    reader: Reader, event: Event, view: int, times_s: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Frames of one view of an event at float64 [F] of its own clock: uint8 [F, H, W, 3].

    Raises InputError if one of them cannot be read.
    """
    read = reader.read([Wanted(event, np.full(len(times_s), view), times_s)], shape)
    if lack := read.lacks[0]:
        raise InputError(f"{event.videos[view].video_id}: {lack.error or lack.reason}")
    return read.frames[0]
