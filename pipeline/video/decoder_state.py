"""What must a decoder be told before it can start in the middle of a stream?

Keyframes restart the pictures, not all that a decoder knows. Parameter sets may come once, in the
packets or beside them (a second sequence header in FLV, a second sample entry in MP4), and so may
the palette of an 8-bit picture. libav hands such things over with one packet, and the decoder keeps
them. Here it is noted where in the stream they change, so that each run of packets is decoded with
those that are in force at its start, whatever the decoder has seen before.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any, cast

from av.packet import Packet, PacketSideData, packet_sidedata_type_from_literal

from marey.pipeline.video.parameter_sets import ParameterSets

BESIDE = ("new_extradata", "palette")
"""Side data of a packet that hold from it on, until others come."""


@dataclass(slots=True)
class DecoderState:
    """The changes of a stream's state, by the decode position of the packet that brings them.

    extradata: what the container states for the whole stream.
    beside: of each kind of side data, where it changes and to what.
    within: where the parameter sets inside of the packets change, and those in force from there on,
        framed as packets are.
    encrypted: the first packet that says it is encrypted (Common Encryption).
    """

    extradata: bytes = b""
    beside: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    within: list[tuple[int, bytes]] = field(default_factory=list)
    encrypted: int | None = None

    def see(self, position: int, packet: Packet, sets: ParameterSets | None) -> None:
        """Note what the packet at a position, the next in decode order, changes."""
        for side in packet.iter_sidedata():  # three times faster than to ask for each kind
            kind = side.data_type
            if kind in BESIDE:
                changes = self.beside.setdefault(kind, [])
                content = bytes(cast(Any, side))
                if not changes or changes[-1][1] != content:
                    changes.append((position, content))
            elif kind == "encryption_info" and self.encrypted is None:
                self.encrypted = position
        if sets is not None and sets.see(packet):
            self.within.append((position, sets.prefix()))

    def before(self, position: int, packet: Packet) -> Packet:
        """The packet at a position with all that the decoder must know, if a run begins with it."""
        if not self.beside and not self.within:
            return packet
        place = bisect_right(self.within, position, key=lambda change: change[0]) - 1
        sets = self.within[place][1] if place >= 0 else b""
        started = packet
        if sets and sets not in bytes(packet):
            started = Packet(sets + bytes(packet))
            started.pts, started.dts, started.duration = packet.pts, packet.dts, packet.duration
            started.time_base, started.is_keyframe = packet.time_base, packet.is_keyframe
        for kind, changes in self.beside.items():
            place = bisect_right(changes, position, key=lambda change: change[0]) - 1
            first = self.extradata if kind == "new_extradata" else b""
            content = changes[place][1] if place >= 0 else first
            if content:
                data: Any = PacketSideData(packet_sidedata_type_from_literal(kind), len(content))  # type: ignore[call-arg]
                data.update(content)
                data.to_packet(started, move=True)
        return started
