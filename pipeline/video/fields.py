"""Which packets hold only the second field of a frame that the packet before began?

Interlaced video may code the two fields of a frame as two pictures (H.264 PAFF, as camcorders and
broadcasters write it; MPEG-2 field pictures), and containers may give each a packet of its own. The
decoder makes one frame of both. HEVC has no such pairs: each of its fields comes out as a picture.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

from av.packet import Packet

from marey.pipeline.video.parameter_sets import Bits, ParameterSets, nal_units

_SLICES = (1, 2, 5)
_FRAME = 3
"""picture_structure of MPEG-2: 1 is a top field, 2 a bottom one (13818-2, table 6-14)."""


class Fields(Protocol):
    """Tells second fields from what begins a frame, for packets in decode order."""

    def is_second(self, packet: Packet) -> bool:
        """Whether this packet ends the frame that the packet before it began."""
        ...


class _Field(NamedTuple):
    frame_num: int
    bottom: bool
    refreshes: bool


class FieldsH264:
    """By the heads of slices (H.264, 7.3.3 and 7.4.1.2.4). sets: those in force, kept current."""

    def __init__(self, sets: ParameterSets) -> None:
        self._sets = sets
        self._open: _Field | None = None

    def is_second(self, packet: Packet) -> bool:
        """Whether this packet ends the frame that the packet before it began."""
        if not self._sets.fields:
            return False
        data = bytes(packet)
        fields = [
            _field(unit, self._sets)
            for unit in nal_units(data, self._sets.length_bytes)
            if unit and unit[0] & 31 in _SLICES
        ]
        if not fields:
            return False
        first, before = fields[0], self._open
        pairs = (
            first is not None
            and before is not None
            and first.bottom != before.bottom
            and first.frame_num == before.frame_num
            and not first.refreshes
        )
        whole = pairs or any(f is None or first is None or f.bottom != first.bottom for f in fields)
        self._open = None if whole else first
        return pairs


def _field(unit: bytes, sets: ParameterSets) -> _Field | None:
    """What a slice says of its field; None for a slice of a frame."""
    bits = Bits(unit[1:48])
    bits.skip_golomb(2)
    sequence = sets.sequences.get(sets.pictures.get(bits.golomb(), -1))
    if sequence is None or not sequence.fields:
        return None
    if sequence.separate_planes:
        bits.fixed(2)
    frame_num = bits.fixed(sequence.frame_num_bits)
    if not bits.fixed(1):
        return None
    return _Field(frame_num, bool(bits.fixed(1)), unit[0] & 31 == 5)


class FieldsMpeg2:
    """By the picture coding extension (13818-2, 6.2.3.1)."""

    def __init__(self) -> None:
        self._open = 0

    def is_second(self, packet: Packet) -> bool:
        """Whether this packet ends the frame that the packet before it began."""
        # A packet offers Python's buffer protocol, which its type stub does not say.
        structures = _structures(bytes(memoryview(cast(bytes, packet))))
        if not structures:
            return False
        pairs = self._open != 0 and structures[0] == 3 - self._open
        self._open = 0 if pairs or len(structures) > 1 or structures[0] == _FRAME else structures[0]
        return pairs


def _structures(data: bytes) -> list[int]:
    """picture_structure of each picture in a packet."""
    found = []
    at = data.find(b"\0\0\1\xb5")
    while at >= 0:
        if len(data) > at + 6 and data[at + 4] >> 4 == 8:
            found.append(data[at + 6] & 3)
            if found[-1] == _FRAME:
                break
        at = data.find(b"\0\0\1\xb5", at + 4)
    return found


def fields_of(codec: str, sets: ParameterSets | None) -> Fields | None:
    """How second fields are told in streams of a codec; None where each packet is a frame."""
    if codec == "h264" and sets is not None:
        return FieldsH264(sets)
    return FieldsMpeg2() if codec == "mpeg2video" else None
