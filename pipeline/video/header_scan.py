"""When is each frame of an MP4 or MOV file shown? Told by its table, without reading its frames."""

from __future__ import annotations

import os
from itertools import islice, pairwise

from av.error import FFmpegError
from av.packet import Packet

from marey.configs.errors import InputError
from marey.pipeline.runtime.address import byte_range
from marey.pipeline.runtime.storage import as_utf8
from marey.pipeline.video.bitstream import scene_grid
from marey.pipeline.video.container import VideoSource, is_remote, local_path, open_video
from marey.pipeline.video.header_file import HeaderFile, NoTable
from marey.pipeline.video.packet_log import KEY, SHOWN, PacketLog, demux
from marey.pipeline.video.reasons import VideoError
from marey.pipeline.video.timeline import Timeline, timeline_of

LOOKED_INTO = ("mpeg4", "mpeg2video", "mpeg1video", "vp8")
"""Codecs of which the frames themselves say where decoding starts, or which frame is shown."""


SETTINGS = 2**14
"""Bytes of the first packet in which an encoder's settings stand, if at all."""
SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp")


def may_have_table(uri: str) -> bool:
    """Whether a file is an MP4 or MOV file, by its name."""
    part = byte_range(uri)
    if part and part.packed:
        return False
    name = part.suffix if part else uri.partition("?")[0] if is_remote(uri) else uri
    if not name.lower().endswith(SUFFIXES) or as_utf8(uri) != uri:
        return False
    return is_remote(uri) or os.path.isfile(local_path(uri))  # a pipe may wait for ever


class TableLog(PacketLog):
    """Packets as the table has them. What is in them is looked at where it was read: that decoding
    can start at keyframes, and what the encoder wrote into the first packet."""

    def __init__(self, source: VideoSource, file: HeaderFile) -> None:
        super().__init__(source, keep_bytes=0)
        self._file = file
        self._keys = {entry.pos for entry in source.stream.index_entries if entry.is_keyframe}

    def add(self, packet: Packet) -> None:
        """Note the next packet in decode order. Raises NoTable where the table is wrong of it."""
        place = -1 if packet.pos is None else packet.pos
        key = place in self._keys
        real = key and self._file.is_real(place, min(packet.size, SETTINGS))
        if real and not self._restarts(packet):
            raise NoTable("its table has keyframes that are none")
        if packet.has_sidedata("encryption_info"):
            raise NoTable("it is encrypted")
        if not len(self):
            self.grid = scene_grid(bytes(packet))
        self.note(packet, KEY * key | SHOWN * (not packet.is_discard))


def scan_header(uri: str, stream: int, deadline: float) -> tuple[VideoSource, Timeline]:
    """The stream of a file, open, and its timeline.

    deadline: see `demux`. Raises NoTable where the file's packets have to be read, VideoError where
    it cannot be reached.
    """
    try:
        file = HeaderFile(uri)
    except VideoError:
        raise
    except InputError as error:
        raise NoTable(str(error)) from error  # said by who reads it whole
    try:
        source = _opened(uri, stream, file)
        if _read_some(source, file):  # what was there before was zeros
            source.container.close()
            source = _opened(uri, stream, file)
        log = TableLog(source, file)
        if any(s.fields for s in log.sequences):
            raise NoTable("its frames may be coded as fields")
        for packet in demux(source, deadline):
            log.add(packet)
        return source, timeline_of(log)
    except BaseException as error:
        file.close()
        if file.failure is not None:
            raise file.failure from error
        if isinstance(error, FFmpegError | OSError | InputError):
            raise NoTable(str(error)) from error
        raise


def _opened(uri: str, stream: int, file: HeaderFile) -> VideoSource:
    """Quickly, or else at leisure: of some codecs libav has to decode a frame."""
    file.seek(0)
    try:
        return open_video(uri, stream, quick=True, file=file)
    except VideoError:
        raise
    except InputError:
        file.seek(0)
        return open_video(uri, stream, file=file)


def _read_some(source: VideoSource, file: HeaderFile) -> bool:
    """Read the beginnings of the first packet and of the second keyframe; whether anything was new.

    Keyframes of one file are of one kind: where a muxer takes for one what is none (the recovery
    points of an intra refresh), the second shows it.
    Raises NoTable where the table is not to be relied on.
    """
    if source.stream.codec_context.codec.canonical_name in LOOKED_INTO:
        raise NoTable("its codec's frames have to be looked into")
    entries = source.stream.index_entries
    if not len(entries):
        raise NoTable("its table is empty")
    if max(entry.pos + entry.size for entry in entries) > file.size:
        raise NoTable("it is cut")
    if any(b.timestamp <= a.timestamp for a, b in pairwise(entries)):
        raise NoTable("its times do not ascend")  # the demuxer looks at frames to mend that
    second = next((e for e in islice(entries, 1, None) if e.is_keyframe), entries[0])
    before = file.requests
    for entry in (entries[0], second):
        file.hold(entry.pos, min(entry.size, SETTINGS))
    return file.requests > before
