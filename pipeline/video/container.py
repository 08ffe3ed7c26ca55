"""How a URI becomes an open video stream, with bounds on what a file may ask for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from marey.configs.errors import InputError, SettingError
from marey.pipeline.runtime.address import byte_range, frame_folder
from marey.pipeline.runtime.storage import as_utf8
from marey.pipeline.runtime.stores import clock
from marey.pipeline.video import display
from marey.pipeline.video.mp4_boxes import EditList, read_edit_list
from marey.pipeline.video.reasons import VideoError
from marey.pipeline.video.remote import PackedFile, RemoteFile, open_stored

T = TypeVar("T")
MAX_PIXELS = 2**26
"""Largest coded picture that is opened, in pixels: twice 8K UHD. Larger ones are refused."""

IO_TIMEOUT_S = 60.0
"""Longest wait for one read of a local file. An object store's client has limits of its own."""

ANY_TAGS: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
)
"""So that tags in other alphabets than UTF-8, which nobody reads here, keep no file from opening;
from PyAV 19 on they do not."""

FORMATS = (
    "3gp,amv,apng,asf,asf_o,av1,avi,avs2,avs3,bink,cavsvideo,dirac,dv,dxa,film_cpk,flic,flv,gif,gxf,"
    "h261,h263,h264,hevc,ivf,ivr,kux,live_flv,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mxf,nsv,"
    "nut,nuv,obu,ogg,pva,rm,roq,smk,ty,vc1,vc1test,vvc,wtv,yuv4mpegpipe"
)
"""Demuxers of libav that may read a file: those of single video files. Playlists, lists of files,
streams of pictures and devices are left out: they name other files or hosts, and libav tells what a
file is by its content, not by its name."""

REORDERING_CODECS = "h264,hevc,mpeg4,mpeg2video,mpeg1video,vc1"
"""Decoders from whose headers libav's probing learns by how many frames the output lags."""


@dataclass(slots=True)
class VideoSource:
    """One open video stream. Close it, or use it as a context manager."""

    uri: str
    container: InputContainer
    stream: VideoStream
    file: RemoteFile | PackedFile | None

    @property
    def time_base(self) -> Fraction:
        return self.stream.time_base or Fraction(1, 1000)

    @property
    def sar(self) -> Fraction:
        """Width over height of one coded pixel; 1 where the file does not say."""
        sar = self.stream.sample_aspect_ratio or Fraction(1)
        return sar if sar > 0 else Fraction(1)

    @property
    def fps(self) -> float:
        """Nominal frames per second as the container states or guesses it; 0.0 if neither."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate) if rate else 0.0

    @property
    def num_streams(self) -> int:
        """Video streams of the file, cover pictures left out."""
        return len(_video_streams(self.container))

    def container_orientation(self) -> display.Orientation:
        """Orientation from the headers of MP4, MOV, Matroska and WebM, without decoding.

        Upright for other formats.
        """
        return self._in_file(self._orientation_in)

    def edits(self) -> EditList:
        """The edit list of an MP4 or MOV file's track."""
        return self._in_file(lambda file: read_edit_list(file, self.stream.id))

    def _in_file(self, look: Callable[[BinaryIO], T]) -> T:
        """What `look` finds in the file's bytes; the demuxer goes on where it was."""
        if self.file is None:
            with open(local_path(self.uri), "rb") as file:
                return look(file)
        place = self.file.tell()
        try:
            return look(cast(BinaryIO, self.file))
        finally:
            self.file.seek(place)

    def _orientation_in(self, file: BinaryIO) -> display.Orientation:
        name = self.container.format.name
        if "mov" in name:
            return display.from_mp4(file, self.stream.id)
        if "matroska" in name:
            return display.from_matroska(file, self.stream.index)
        return display.UPRIGHT

    def check(self) -> None:
        """Raise the VideoError (`io_error`) that a read of a remote file ended with, if any."""
        if self.file is not None and self.file.failure is not None:
            raise self.file.failure

    def close(self) -> None:
        self.container.close()
        if self.file is not None:
            self.file.close()

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def deadline_after(time_limit_s: float | None) -> float:
    """The value of `stores.clock()` at which a time limit ends; infinite without one."""
    return float("inf") if time_limit_s is None else clock() + time_limit_s


def local_path(uri: str) -> str:
    """The path in a plain path or `file://` URI."""
    return uri.removeprefix("file://")


def is_remote(uri: str) -> bool:
    """Whether `uri` is more than a local path: an object store, or a range of bytes of a file."""
    scheme, found, _ = uri.partition("://")
    return bool(found) and scheme.replace("+", "").isalnum() and scheme != "file"


def open_video(
    uri: str,
    stream: int = 0,
    *,
    quick: bool = False,
    max_pixels: int = MAX_PIXELS,
    file: RemoteFile | None = None,
) -> VideoSource:
    """Open video stream number `stream` of a file; nothing is decoded for the caller.

    uri: a local path (taken as data: no protocol in it is followed), `file://`, or any URI that
        pyarrow's file systems know (`s3://`, `gs://`), or a range of bytes of one of these (see
        `runtime.address`).
    stream: counts the file's video streams in file order from 0, cover pictures left out.
    quick: keep libav from decoding the first frames to find out what the stream is like, which
        costs as much as several frames (15 to 20 ms at 768x576). Only for containers that say it
        themselves; pixel aspect and pixel format may then be known after the first decoded frame
        only. A file that cannot be opened so is opened once more at leisure.
    file: how its bytes are read, where not as its place asks for. It is closed with the stream; if
        there comes none, it is left open.
    Raises VideoError (`io_error`) if an object store does not answer, InputError if the file cannot
    be opened, has no such stream, no decoder is built for
    it, or its picture has more than `max_pixels` pixels; SettingError if `stream` is negative.
    """
    if stream < 0:
        raise SettingError(f"stream={stream}: streams count from 0")
    if frame_folder(uri):
        raise InputError(f"{uri}: is a folder of frames, which has neither packets nor sound")
    if file is not None:
        return _open(uri, stream, max_pixels, quick=quick, file=file)
    if quick and _is_explicit(uri):
        try:
            return _open(uri, stream, max_pixels, quick=True)
        except VideoError:
            raise
        except InputError:
            pass  # what its header lacks may be found in its frames
    return _open(uri, stream, max_pixels, quick=False)


def _open(
    uri: str,
    stream: int,
    max_pixels: int,
    *,
    quick: bool,
    file: RemoteFile | PackedFile | None = None,
) -> VideoSource:
    given = file is not None
    if not given and is_remote(uri):
        file = open_stored(uri)
    container = None
    try:
        container = _open_container(uri, file, max_pixels, quick=quick)
        video = _choose_stream(uri, container, stream, max_pixels)
    except BaseException:
        if container is not None:
            container.close()
        if file is not None and not given:
            file.close()
        raise
    return VideoSource(uri, container, video, file)


def _is_explicit(uri: str) -> bool:
    """Whether the container, by its name, states sizes, times and decoder settings itself."""
    part = byte_range(uri)
    path = part.suffix if part else uri.partition("?")[0] if is_remote(uri) else uri
    return path.lower().endswith((".mp4", ".m4v", ".mov", ".mkv", ".webm"))


def _open_container(
    uri: str, file: RemoteFile | PackedFile | None, max_pixels: int, *, quick: bool
) -> InputContainer:
    target: Any = file
    protocols = "file" if file is None else "none"  # a remote file is read by us, not by libav
    options = {"max_pixels": str(max_pixels), "format_whitelist": FORMATS, "enable_drefs": "0"}
    options["protocol_whitelist"] = protocols
    if quick:
        # Meant for the decoder inside of libav's probing. The decoders that reorder frames keep to
        # the first one; some of the others would decode all the same, and are not opened at all.
        options |= {"skip_frame": "all", "codec_whitelist": REORDERING_CODECS}
    if file is None:
        path = Path(local_path(uri))
        if as_utf8(uri) != uri:
            raise InputError(f"{uri}: its name is no UTF-8; rename it to have it read")
        if os.path.isdir(path):
            closed = not os.access(path, os.R_OK | os.X_OK)
            said = "may not be listed" if closed else "a video file was expected"
            raise InputError(f"{uri}: is a folder, {said}")
        if not os.path.exists(path):
            raise InputError(f"{uri}: no such file")
        if not os.path.isfile(path):
            raise InputError(f"{uri}: is a device or a pipe, a video file was expected")
        target = f"file:{path}"  # so that a name such as `http:x` stays a name
    try:
        limit = IO_TIMEOUT_S if file is None else None
        return cast(InputContainer, av.open(target, options=options, timeout=limit, **ANY_TAGS))
    except (FFmpegError, OSError, ValueError, UnicodeError) as error:
        if file is not None and file.failure is not None:
            raise file.failure from error
        why = _reason(error)
        if isinstance(error, FFmpegError) and error.errno == errno.EINVAL:  # not of `FORMATS`
            why = "it is none of the video containers that are read: a playlist, a picture?"
        raise InputError(f"{uri}: cannot be opened as a video ({why})") from error


def _choose_stream(
    uri: str, container: InputContainer, stream: int, max_pixels: int
) -> VideoStream:
    videos = _video_streams(container)
    if not videos:
        raise InputError(f"{uri}: has no video stream")
    if stream >= len(videos):
        raise InputError(f"{uri}: has {len(videos)} video stream(s), counted from 0: no {stream}")
    video = videos[stream]
    context = video.codec_context
    if context is None:
        raise InputError(f"{uri}: no decoder for its codec is built into this libav")
    if "enc_key_id" in video.metadata:
        raise InputError(f"{uri}: is encrypted; decrypt it to have it read")
    if context.width * context.height > max_pixels:
        raise InputError(
            f"{uri}: its picture is {context.width}x{context.height}, the bound is "
            f"{max_pixels} pixels; raise max_pixels to read it"
        )
    if context.width <= 0 or context.height <= 0:
        raise InputError(f"{uri}: its picture size is unknown; the stream holds no usable header")
    return video


def _video_streams(container: InputContainer) -> list[VideoStream]:
    """The video streams of a file but for cover pictures and thumbnails.

    A thumbnail is not always marked as one: it is known by its one frame beside a stream of more.
    """
    attached = Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & attached]
    counts = [_frames_by_header(stream) for stream in streams]
    if max(counts, default=0) <= 1:
        return streams
    return [stream for stream, count in zip(streams, counts, strict=True) if count != 1]


def _frames_by_header(stream: VideoStream) -> int:
    """How many frames the container says a stream has; 0 if it does not say."""
    said = stream.metadata.get("NUMBER_OF_FRAMES") or stream.metadata.get("NUMBER_OF_FRAMES-eng")
    return stream.frames or (int(said) if said and said.isdecimal() else 0)


def _reason(error: BaseException) -> str:
    """What went wrong in words; libav's errors carry a number and the name again, left out."""
    text = getattr(error, "strerror", None) or str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
