"""What do the parameter sets of H.264 and HEVC say, and which are in force where in a stream?

A stream may carry its parameter sets inside its packets, not necessarily at each keyframe. A
decoder that starts in the middle has to be given those that came before (`ParameterSets`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from av.packet import Packet

HEAD_BYTES = 4096
"""In a packet that is no keyframe, parameter sets are looked for so far, or to its first slice."""

_HIGH_PROFILES = frozenset([100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135])


class Bits:
    """Reads the payload of a NAL unit bit by bit. Past its end all bits are 0."""

    def __init__(self, payload: bytes) -> None:
        data = payload.replace(b"\0\0\3", b"\0\0")  # emulation prevention, H.264 7.4.1
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    @property
    def ended(self) -> bool:
        """Whether more was read than there is."""
        return self._left < 0

    def fixed(self, count: int) -> int:
        """u(count)."""
        self._left -= count
        if self._left < 0:
            return 0
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """ue(v), H.264 9.1."""
        zeros = 0
        while self.fixed(1) == 0:
            zeros += 1
            if zeros > 32:
                return 0
        return (1 << zeros) - 1 + self.fixed(zeros)

    def skip_golomb(self, count: int) -> None:
        """Pass over so many ue(v)."""
        for _ in range(count):
            self.golomb()

    def signed(self) -> int:
        """se(v)."""
        code = self.golomb()
        return (code + 1) // 2 if code & 1 else -(code // 2)


@dataclass(frozen=True, slots=True)
class Sequence:
    """What of a sequence parameter set is used here.

    reorder: so many frames at most are decoded before a frame and shown after it; None where the
        stream does not say.
    fields: whether pictures may be coded as two fields. frame_num_bits, separate_planes: what the
        head of a slice depends on (H.264).
    """

    reorder: int | None
    fields: bool = False
    frame_num_bits: int = 4
    separate_planes: bool = False


def nal_units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """The NAL units of a packet, or of its first bytes.

    length_bytes: of the length before each unit (MP4, Matroska); 0 for start codes (Annex B).
    """
    if length_bytes:
        at = 0
        while at + length_bytes < len(data):
            start = at + length_bytes
            at = start + int.from_bytes(data[at:start], "big")
            yield data[start:at]
        return
    at = data.find(b"\0\0\1")
    while at >= 0:
        after = data.find(b"\0\0\1", at + 3)
        yield data[at + 3 : after if after >= 0 else len(data)].rstrip(b"\0")
        at = after


def length_bytes(extradata: bytes, codec: str) -> int:
    """How many bytes give the length of each NAL unit; 0 for streams with start codes."""
    if extradata[:1] != b"\x01":
        return 0
    if codec == "h264":
        return (extradata[4] & 3) + 1 if len(extradata) > 6 else 0
    return (extradata[21] & 3) + 1 if len(extradata) > 22 else 0


def sets_in_header(extradata: bytes, codec: str) -> list[bytes]:
    """The parameter sets that the container states for the whole stream (avcC, hvcC, Annex B)."""
    if not length_bytes(extradata, codec):
        return list(nal_units(extradata, 0))
    found: list[bytes] = []
    if codec == "h264":
        at = 5
        for mask in (31, 255):
            count = extradata[at] & mask if at < len(extradata) else 0
            at = _take_sets(extradata, at + 1, count, found)
        return found
    at = 23
    for _ in range(extradata[22] if len(extradata) > 22 else 0):
        count = int.from_bytes(extradata[at + 1 : at + 3], "big")
        at = _take_sets(extradata, at + 3, count, found)
    return found


def _take_sets(data: bytes, at: int, count: int, found: list[bytes]) -> int:
    for _ in range(count):
        size = int.from_bytes(data[at : at + 2], "big")
        found.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return at


class ParameterSets:
    """The parameter sets that are in force after the packets seen so far.

    codec: "h264" or "hevc". extradata: what the container states for the whole stream.
    seen: whether the latest packet holds any.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self._hevc = codec == "hevc"
        self._kinds = range(32, 35) if self._hevc else (7, 8)
        self.length_bytes = length_bytes(extradata, codec)
        self._stated = sets_in_header(extradata, codec)
        self.seen = False
        self._units: dict[tuple[int, int], bytes] = {}
        self.sequences: dict[int, Sequence] = {}
        self.fields = False
        """Whether pictures of the stream may be coded as two fields."""
        self.pictures: dict[int, int] = {}
        """Number of a picture parameter set -> of the sequence parameter set that it names."""
        for unit in filter(None, self._stated):
            self._learn(unit)
        self._units.clear()  # what the container states, a decoder knows when it is opened

    def see(self, packet: Packet) -> bool:
        """Take in the sets of one packet; returns whether those in force have changed."""
        self.seen = False
        # A packet offers Python's buffer protocol, which its type stub does not say.
        view = memoryview(cast(bytes, packet))
        if self._begins_with_slice(view):  # most packets do: no set can stand before it
            return False
        changed = False
        head = bytes(view if packet.is_keyframe else view[:HEAD_BYTES])
        for unit in nal_units(head, self.length_bytes):
            if not unit or unit[0] & 128:
                break  # no stream that a decoder could read
            kind = unit[0] >> 1 & 63 if self._hevc else unit[0] & 31
            if kind in self._kinds:
                self.seen = True
                changed |= self._learn(unit)
            elif (kind < 32) if self._hevc else kind in (1, 2, 5):
                break
        return changed

    def _begins_with_slice(self, view: memoryview) -> bool:
        """Whether the first NAL unit of a packet whose units have lengths is one of a picture."""
        size = self.length_bytes
        if not size or len(view) <= size or not any(view[:size]):
            return False
        first = view[size]
        if first & 128:
            return False
        return first >> 1 & 63 < 32 if self._hevc else first & 31 in (1, 2, 5)

    def prefix(self) -> bytes:
        """The sets in force that the container does not state, framed as the packets are."""
        framed = []
        for unit in self._units.values():
            size = len(unit).to_bytes(self.length_bytes, "big") if self.length_bytes else None
            framed.append((size or b"\0\0\0\1") + unit)
        return b"".join(framed)

    @property
    def reorder(self) -> int | None:
        """The greatest `Sequence.reorder`; None if any is unknown, or there is none."""
        known = [sequence.reorder for sequence in self.sequences.values()]
        return max((n for n in known if n is not None), default=None) if None not in known else None

    def _learn(self, unit: bytes) -> bool:
        """Remember one set; returns whether it differs from what a decoder was told before."""
        if self._hevc:
            kind, number = unit[0] >> 1 & 63, self._learn_hevc(unit)
        else:
            kind, number = unit[0] & 31, self._learn_h264(unit)
        self.fields = any(sequence.fields for sequence in self.sequences.values())
        before = self._units.get((kind, number))
        if before == unit or (before is None and unit in self._stated):
            return False
        self._units[kind, number] = unit
        return True

    def _learn_h264(self, unit: bytes) -> int:
        if unit[0] & 31 == 7:
            number, sequence = _sequence_h264(unit[1:])
            self.sequences[number] = sequence
            return number
        bits = Bits(unit[1:64])
        number = bits.golomb()
        self.pictures[number] = bits.golomb()
        return number

    def _learn_hevc(self, unit: bytes) -> int:
        kind, bits = unit[0] >> 1 & 63, Bits(unit[2:])
        if kind == 32:
            return bits.fixed(4)
        if kind == 33:
            number, sequence = _sequence_hevc(bits)
            self.sequences[number] = sequence
            return number
        return bits.golomb()


def _sequence_h264(payload: bytes) -> tuple[int, Sequence]:
    """Number and content of a sequence parameter set (H.264, 7.3.2.1.1)."""
    bits = Bits(payload)
    profile = bits.fixed(8)
    bits.fixed(16)
    number, planes = bits.golomb(), False
    if profile in _HIGH_PROFILES:
        chroma = bits.golomb()
        if chroma == 3:
            planes = bool(bits.fixed(1))
        bits.skip_golomb(2)
        bits.fixed(1)
        if bits.fixed(1):
            for n in range(8 if chroma != 3 else 12):
                if bits.fixed(1):
                    _skip_scaling_list(bits, 16 if n < 6 else 64)
    frame_num_bits = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.fixed(1)
        bits.signed()
        bits.signed()
        for _ in range(min(bits.golomb(), 255)):
            bits.signed()
    bits.golomb()
    bits.fixed(1)
    bits.skip_golomb(2)
    frames_only = bits.fixed(1)
    if not frames_only:
        bits.fixed(1)
    bits.fixed(1)
    if bits.fixed(1):
        bits.skip_golomb(4)
    reorder = 0 if order == 2 else _reorder_h264(bits)
    return number, Sequence(reorder, not frames_only, frame_num_bits, planes)


def _reorder_h264(bits: Bits) -> int | None:
    """max_num_reorder_frames of the VUI (H.264, annex E), None without it."""
    if not bits.fixed(1):
        return None
    if bits.fixed(1) and bits.fixed(8) == 255:  # aspect ratio
        bits.fixed(32)
    if bits.fixed(1):  # overscan
        bits.fixed(1)
    if bits.fixed(1):  # video signal type
        bits.fixed(4)
        if bits.fixed(1):
            bits.fixed(24)
    if bits.fixed(1):  # chroma location
        bits.skip_golomb(2)
    if bits.fixed(1):  # timing
        bits.fixed(65)
    buffered = [_skip_hrd(bits) for _ in range(2)]
    if any(buffered):
        bits.fixed(1)
    bits.fixed(1)
    if not bits.fixed(1):
        return None
    bits.fixed(1)
    bits.skip_golomb(4)
    reorder = bits.golomb()
    return None if bits.ended or reorder > 16 else reorder


def _skip_hrd(bits: Bits) -> bool:
    if not bits.fixed(1):
        return False
    count = bits.golomb() + 1
    bits.fixed(8)
    for _ in range(min(count, 32)):
        bits.skip_golomb(2)
        bits.fixed(1)
    bits.fixed(20)
    return True


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) & 255
        last = following or last


def _sequence_hevc(bits: Bits) -> tuple[int, Sequence]:
    """Number and content of a sequence parameter set (HEVC, 7.3.2.2.1)."""
    bits.fixed(4)
    layers = bits.fixed(3)
    bits.fixed(1)
    bits.fixed(96)  # general profile and level
    present = [(bits.fixed(1), bits.fixed(1)) for _ in range(layers)]
    if layers:
        bits.fixed(2 * (8 - layers))
    for profile, level in present:
        bits.fixed(88 * profile + 8 * level)
    number = bits.golomb()
    if bits.golomb() == 3:
        bits.fixed(1)
    bits.skip_golomb(2)
    if bits.fixed(1):
        bits.skip_golomb(4)
    bits.skip_golomb(3)
    every = bits.fixed(1)
    reorder = 0
    for _ in range(layers + 1 if every else 1):
        bits.golomb()
        reorder = max(reorder, bits.golomb())
        bits.golomb()
    return number, Sequence(None if bits.ended or reorder > 16 else reorder)
