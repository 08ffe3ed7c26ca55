"""Which packets of an AV1 stream does a frame need? Read from the frame headers alone.

All that one AV1 frame takes from others (samples, motion, probabilities, segments, grain) lies in
eight slots, and each header names the slots that are read (`ref_frame_idx`) and written
(`refresh_frame_flags`); AV1 specification, sections 5.5, 5.9 and 7.20. So a packet can be left out,
bit for bit, if no wanted frame is reached from what it writes. Encoders build pyramids: half of
the packets or more are needed by nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6  # OBU types, section 6.2.2
_KEY, _INTRA_ONLY, _SWITCH = 0, 2, 3  # frame types, section 6.8.2
_ALL = 0xFF
_HEADER_BYTES = 320
"""More than the part of any header that is read here."""


def packets_needed(
    packets: Sequence[memoryview], wanted: np.ndarray, extradata: bytes
) -> np.ndarray | None:
    """Which packets must be decoded for the wanted ones.

    packets: temporal units in decode order, from a keyframe on.
    wanted: bool [N], the packets whose shown frame is wanted.
    extradata: of the stream; the sequence header may stand there alone.
    Returns bool [N]; None if the headers do not say it for certain, so that all must be decoded.
    """
    try:
        reads = _reads(packets, extradata)
    except (_UnclearError, IndexError):
        return None
    needed = wanted.copy()
    for position in range(len(packets) - 1, -1, -1):
        if needed[position]:
            needed[reads[position]] = True
    return needed


def _reads(packets: Sequence[memoryview], extradata: bytes) -> list[list[int]]:
    """For each packet, the earlier packets that wrote what its frames read."""
    stated = b""
    if extradata[:1] == b"\x81":  # the container's configuration record, then OBUs
        for kind, _, payload in _units(memoryview(extradata)[4:]):
            stated = bytes(payload) if kind == _SEQUENCE else stated
    sequence = _read_sequence(_Bits(memoryview(stated))) if stated else None
    slots: list[int | None] = [None] * 8  # the packet that wrote each slot
    keyed = [False] * 8  # whether it wrote a key frame
    reads: list[list[int]] = []
    for position, packet in enumerate(packets):
        sources: set[int | None] = set()
        frames = 0
        for kind, layers, payload in _units(packet):
            if kind == _SEQUENCE and payload != stated:
                if position:
                    raise _UnclearError  # a new stream begins in the middle of a run
                stated = bytes(payload)
                sequence = _read_sequence(_Bits(payload))
            elif kind in (_FRAME_HEADER, _FRAME):
                if sequence is None or not _is_taken(sequence.operating_points[0][0], layers):
                    raise _UnclearError
                frames += 1
                header = _read_frame(_Bits(payload), sequence, layers)
                sources.update(slots[slot] for slot in header.reads)
                writes, key = header.writes, header.is_key
                if header.shows_slot is not None and keyed[header.shows_slot]:
                    writes, key = _ALL, True  # a key frame shown late starts over (7.21)
                for slot in range(8):
                    if writes >> slot & 1:
                        slots[slot], keyed[slot] = position, key
        if not frames or None in sources:
            raise _UnclearError  # nothing known, or it reads what was written before the run
        sources.discard(position)
        reads.append([source for source in sources if source is not None])
    return reads


class _UnclearError(Exception):
    """The headers use something that is not followed here, or are damaged."""


class _Bits:
    """Reads unsigned numbers, most significant bit first."""

    def __init__(self, payload: memoryview) -> None:
        head = bytes(payload[:_HEADER_BYTES])
        self._value, self._left = int.from_bytes(head, "big"), 8 * len(head)

    def __call__(self, count: int = 1) -> int:
        self._left -= count
        if self._left < 0:
            raise _UnclearError
        return self._value >> self._left & (1 << count) - 1

    def variable(self) -> None:
        """Pass over a `uvlc` number (section 4.10.3)."""
        zeros = 0
        while not self():
            zeros += 1
        self(min(zeros, 32) if zeros < 32 else 0)


@dataclass(frozen=True, slots=True)
class _Sequence:
    """What the frame headers depend on; lengths in bits, 0 for fields that are absent.

    operating_points: (layers it takes, whether it has a decoder model).
    """

    presentation_bits: int
    removal_bits: int
    has_model: bool
    operating_points: tuple[tuple[int, bool], ...]
    frame_id_bits: int
    delta_id_bits: int
    screen_content: int
    integer_motion: int
    order_bits: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """reads: slots; writes: bit k for slot k; shows_slot: a frame decoded before is only shown."""

    reads: Sequence[int]
    writes: int
    is_key: bool = False
    shows_slot: int | None = None


def _units(data: memoryview) -> list[tuple[int, tuple[int, int], memoryview]]:
    """(type, (temporal, spatial layer), payload) of the OBUs of a packet (section 5.3)."""
    units, at = [], 0
    while at < len(data):
        head = data[at]
        at += 1
        layers = (0, 0)
        if head & 4:
            layers = (data[at] >> 5, data[at] >> 3 & 3)
            at += 1
        size = len(data) - at
        if head & 2:
            size = shift = 0
            while True:
                byte = data[at]
                size |= (byte & 127) << shift
                at, shift = at + 1, shift + 7
                if byte < 128:
                    break
        if size > len(data) - at:
            raise _UnclearError
        if layers[1]:
            raise _UnclearError  # several sizes of one picture
        units.append((head >> 3 & 15, layers, data[at : at + size]))
        at += size
    return units


def _read_sequence(bits: _Bits) -> _Sequence:
    """Section 5.5.1, up to the last field that frame headers depend on."""
    bits(3)
    if bits(2) & 1:
        raise _UnclearError  # a still picture
    presentation = removal = delay = 0
    has_model = False
    if bits():
        bits(32 + 32)
        equal_interval = bits()
        if equal_interval:
            bits.variable()
        has_model = bool(bits())
        if has_model:
            delay = bits(5) + 1
            bits(32)
            removal, presentation = bits(5) + 1, bits(5) + 1
            if equal_interval:
                presentation = 0
    has_delay = bits()
    points = []
    for _ in range(bits(5) + 1):
        layers = bits(12)
        if bits(5) > 7:
            bits()
        modelled = bool(has_model and bits())
        if modelled:
            bits(2 * delay + 1)
        if has_delay and bits():
            bits(4)
        points.append((layers, modelled))
    width, height = bits(4) + 1, bits(4) + 1
    bits(width + height)
    id_bits = delta_bits = 0
    if bits():
        delta_bits = bits(4) + 2
        id_bits = delta_bits + bits(3) + 1
    bits(3 + 4)  # block size and intra tools; compound and warped prediction, filters
    has_order = bits()
    if has_order:
        bits(2)
    screen = 2 if bits() else bits()
    integer = 2
    if screen and not bits():
        integer = bits()
    order_bits = bits(3) + 1 if has_order else 0
    return _Sequence(
        presentation,
        removal,
        has_model,
        tuple(points),
        id_bits,
        delta_bits,
        screen,
        integer,
        order_bits,
    )


def _is_taken(taken: int, layers: tuple[int, int]) -> bool:
    """Whether an operating point decodes a frame of these (temporal, spatial) layers."""
    return taken == 0 or bool(taken >> layers[0] & taken >> layers[1] + 8 & 1)


def _read_frame(bits: _Bits, sequence: _Sequence, layers: tuple[int, int]) -> _Frame:
    """Section 5.9.2, up to the slots."""
    if bits():
        slot = bits(3)
        return _Frame((slot,), 0, shows_slot=slot)
    kind, shown = bits(2), bits()
    if shown:
        bits(sequence.presentation_bits)
    else:
        bits()
    restarts = kind == _KEY and shown
    resilient = kind == _SWITCH or restarts or bits()
    bits()
    screen = bits() if sequence.screen_content == 2 else sequence.screen_content
    if screen and sequence.integer_motion == 2:
        bits()
    bits(sequence.frame_id_bits)
    if kind != _SWITCH:
        bits()
    bits(sequence.order_bits)
    intra = kind in (_KEY, _INTRA_ONLY)
    if not (intra or resilient):
        bits(3)
    if sequence.has_model and bits():
        for taken, modelled in sequence.operating_points:
            if modelled and _is_taken(taken, layers):
                bits(sequence.removal_bits)
    writes = _ALL if kind == _SWITCH or restarts else bits(8)
    if intra:
        return _Frame((), writes, is_key=kind == _KEY)
    if resilient and sequence.order_bits:
        return _Frame(range(8), writes)  # it states the order of what all slots hold
    if sequence.order_bits and bits():
        return _Frame(range(8), writes)  # which ones are read follows from the order in all
    reads = []
    for _ in range(7):
        reads.append(bits(3))
        bits(sequence.delta_id_bits)
    return _Frame(reads, writes)
