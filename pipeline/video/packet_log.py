"""What did the demuxer say about each packet of a stream? Noted once, in decode order."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from av.packet import Packet

from marey.pipeline.runtime.stores import is_past
from marey.pipeline.video import bitstream
from marey.pipeline.video.container import VideoSource
from marey.pipeline.video.decoder_state import DecoderState
from marey.pipeline.video.fields import fields_of
from marey.pipeline.video.parameter_sets import ParameterSets, Sequence
from marey.pipeline.video.reasons import TIMEOUT, VideoError

MISSING = np.iinfo(np.int64).min
"""Stands for a time that the file does not give."""

SHOWN, KEY, SECOND = 1, 2, 4
"""Marks of a packet: its frame is shown; decoding can start there; it is a frame's second field."""

REORDERED = {
    **dict.fromkeys(("mpeg1video", "mpeg2video", "mpeg4", "vc1", "wmv3"), 1),
    **dict.fromkeys(("vp8", "vp9", "av1", "theora", "mjpeg", "flv1", "h263", "ffv1"), 0),
}
"""So many frames at most are decoded before a frame and shown after it, by the codec alone."""


class PacketLog:
    """What the demuxer said about each packet so far, in decode order.

    packets: the packets themselves, while they fit into `keep_bytes`; else None.
    state: what a decoder must know that starts at one of them.
    """

    def __init__(self, source: VideoSource, keep_bytes: int) -> None:
        context = source.stream.codec_context
        extradata = context.extradata or b""
        codec = context.codec.canonical_name
        self.source = source
        self.packets: list[Packet] | None = [] if keep_bytes else None
        self.damaged: list[int] = []
        self.grid: int | None = None
        self.state = DecoderState(extradata)
        self._sets = ParameterSets(codec, extradata) if codec in ("h264", "hevc") else None
        self._fields = fields_of(codec, self._sets)
        self._codec, self._extradata, self._room = codec, extradata, keep_bytes
        self._numbers = array("q")
        self._marks = bytearray()

    def __len__(self) -> int:
        return len(self._marks)

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [N, 5]: pts, dts, size, duration, byte position (-1: unknown); uint8 [N]: marks."""
        numbers = np.array(self._numbers, dtype=np.int64).reshape(-1, 5)
        return numbers, np.frombuffer(bytes(self._marks), dtype=np.uint8)

    @property
    def sequences(self) -> list[Sequence]:
        """The sequence parameter sets that are known so far."""
        return list(self._sets.sequences.values()) if self._sets else []

    @property
    def reorder(self) -> int | None:
        """So many frames at most are decoded before a frame and shown after it; None: unknown."""
        return self._sets.reorder if self._sets else REORDERED.get(self._codec)

    @property
    def ends_in_key(self) -> bool:
        """Whether decoding can start at the latest packet."""
        return bool(self._marks and self._marks[-1] & KEY)

    @property
    def ends_in_frame(self) -> bool:
        """Whether the latest packet begins a frame that is shown."""
        return bool(self._marks and self._marks[-1] & SHOWN)

    @property
    def has_sets(self) -> bool:
        """Whether the latest packet holds parameter sets."""
        return self._sets is not None and self._sets.seen

    def add(self, packet: Packet) -> None:
        """Note the next packet in decode order."""
        position = len(self._marks)
        if not position:
            self.grid = bitstream.scene_grid(bytes(packet))
        if packet.is_corrupt:
            self.damaged.append(position)
        self.state.see(position, packet, self._sets)
        second = self._fields is not None and self._fields.is_second(packet)
        marks = SECOND if second else KEY * self._restarts(packet) | SHOWN * self._shows(packet)
        self.note(packet, marks)
        if self.packets is not None:
            self.packets.append(packet)
            self._room -= packet.size
            if self._room < 0:
                self.packets = None

    def note(self, packet: Packet, marks: int) -> None:
        """Note what the demuxer says of a packet, and what is known of it beside."""
        pts, dts, place = packet.pts, packet.dts, packet.pos
        self._marks.append(marks)
        self._numbers.extend(
            (
                MISSING if pts is None else pts,
                MISSING if dts is None else dts,
                packet.size,
                packet.duration or 0,
                -1 if place is None else place,
            )
        )

    def _restarts(self, packet: Packet) -> bool:
        """Whether decoding can start at this packet, which the container may say too often."""
        if not packet.is_keyframe:
            return False
        if self._codec == "h264":
            return bitstream.restarts_at_once(bytes(packet), self._extradata)
        return self._codec != "mpeg4" or bitstream.is_intra_mpeg4(bytes(packet))

    def _shows(self, packet: Packet) -> bool:
        if packet.is_discard:
            return False
        return self._codec != "vp8" or not bitstream.hides_frame_vp8(bytes(packet))


def demux(source: VideoSource, deadline: float) -> Iterator[Packet]:
    """The packets of a stream that hold something.

    deadline: a value of `stores.clock()`. Raises VideoError: `timeout` when it is late,
    `io_error` when a remote file is not to be had to its end.
    """
    try:
        for packet in source.container.demux(source.stream):
            if is_past(deadline):
                raise VideoError(f"{source.uri}: its packets were not read in time", TIMEOUT)
            if packet.size:
                yield packet
    finally:
        source.check()
