"""Interlaced streams in which each field is a picture of its own, which no encoder here writes.

H.264 with raw macroblocks (I_PCM) and MPEG-2 with flat blocks. Each picture tells its number by
eight bars, white for 1 (`number_of`).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

SIDE = 64
BARS = 8


class Coded(NamedTuple):
    """One frame of a stream, in decode order."""

    number: int
    key: bool
    fields: tuple[bytes, ...]


class _Bits:
    def __init__(self) -> None:
        self.text: list[str] = []

    def put(self, value: int, count: int) -> _Bits:
        self.text.append(format(value, f"0{count}b") if count else "")
        return self

    def golomb(self, *values: int) -> _Bits:
        for value in values:
            code = format(value + 1, "b")
            self.text.append("0" * (len(code) - 1) + code)
        return self

    def aligned(self, *, stop: bool) -> bytes:
        text = "".join(self.text) + ("1" if stop else "")
        text += "0" * (-len(text) % 8)
        return bytes(int(text[n : n + 8], 2) for n in range(0, len(text), 8))


def picture_of(number: int) -> np.ndarray:
    """Luma of a frame: uint8 [SIDE, SIDE]."""
    bits = [number >> (BARS - 1 - n) & 1 for n in range(BARS)]
    row = np.repeat(np.array(bits), SIDE // BARS)
    return np.broadcast_to(np.where(row, 235, 16), (SIDE, SIDE)).astype(np.uint8)


def number_of(frame: np.ndarray) -> int:
    """The number that a decoded RGB picture shows."""
    row = frame[: len(frame) // 2].mean(axis=(0, 2)) > 128
    return int("".join(str(int(row[(2 * n + 1) * SIDE // BARS // 2])) for n in range(BARS)), 2)


def _order(count: int, gop: int) -> Iterator[tuple[int, bool, bool]]:
    """(number, keyframe, referred to) in decode order: one B-frame between two others."""
    for start in range(0, count, gop):
        size = min(gop, count - start)
        yield start, True, True
        for place in range(2, size, 2):
            yield start + place, False, True
            yield start + place - 1, False, False
        if size % 2 == 0:
            yield start + size - 1, False, True


def h264_fields(count: int, gop: int = 12, *, mixed: bool = False) -> list[Coded]:
    """H.264 in which frames are coded as two fields each; `mixed`: every third as a frame."""
    coded, frame_num, idr = [], 0, 0
    for number, key, referred in _order(count, gop):
        if key:
            frame_num, idr = 0, 1 - idr
        luma, order = picture_of(number), 2 * (number % gop)
        as_frame = mixed and number % 3 == 1
        parts = [(luma, None)] if as_frame else [(luma[0::2], 0), (luma[1::2], 1)]
        slices = [
            _h264_slice(part, key and not bottom, frame_num, order + (bottom or 0), bottom, idr,
                        referred)
            for part, bottom in parts
        ]  # fmt: skip
        head = _h264_sets() if key else b""
        coded.append(Coded(number, key, (head + slices[0], *slices[1:])))
        frame_num = (frame_num + referred) % 16
    return coded


def _unit(kind: int, payload: bytes, *, referred: bool = True) -> bytes:
    escaped, zeros = bytearray(), 0
    for byte in payload:
        if zeros >= 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes([96 * referred + kind]) + bytes(escaped)


def _h264_sets() -> bytes:
    sequence = _Bits().put(77, 8).put(0, 8).put(30, 8).golomb(0, 0, 0, 4, 2).put(0, 1)
    sequence.golomb(SIDE // 16 - 1, SIDE // 32 - 1).put(0, 2).put(1, 1).put(0, 1).put(1, 1)
    sequence.put(0, 4).put(1, 1).put(1, 32).put(50, 32).put(1, 1).put(0, 3)
    sequence.put(1, 1).put(1, 1).golomb(0, 0, 10, 10, 1, 2)
    pictures = _Bits().golomb(0, 0).put(0, 2).golomb(0, 0, 0).put(0, 3).golomb(0, 0, 0).put(4, 3)
    return _unit(7, sequence.aligned(stop=True)) + _unit(8, pictures.aligned(stop=True))


def _h264_slice(
    luma: np.ndarray, key: bool, frame_num: int, order: int, bottom: int | None, idr: int,
    referred: bool,
) -> bytes:  # fmt: skip
    head = _Bits().golomb(0, 7, 0).put(frame_num, 4).put(bottom is not None, 1)
    if bottom is not None:
        head.put(bottom, 1)
    if key:
        head.golomb(idr)
    head.put(order % 256, 8)
    if referred:
        head.put(0, 2 if key else 1)
    head.golomb(0, 1)
    chroma = np.full(64, 128, np.uint8)
    for top in range(0, len(luma), 16):
        for left in range(0, SIDE, 16):
            head.golomb(25)
            text = "".join(head.text)
            block = luma[top : top + 16, left : left + 16].ravel()
            raw = np.unpackbits(np.concatenate([block, chroma, chroma]))
            head.text = [text, "0" * (-len(text) % 8), "".join(map(str, raw))]
    return _unit(5 if key else 1, head.aligned(stop=True), referred=referred)


def mpeg2_fields(count: int) -> list[Coded]:
    """MPEG-2 of intra pictures, two fields each (13818-2)."""
    sequence = _Bits().put(0x1B3, 32).put(SIDE, 12).put(SIDE, 12).put(1, 4).put(3, 4)
    sequence.put(10000, 18).put(1, 1).put(100, 10).put(0, 3)
    extension = _Bits().put(0x1B5, 32).put(1, 4).put(0x48, 8).put(0, 1).put(1, 2).put(0, 4)
    extension.put(0, 12).put(1, 1).put(0, 8).put(0, 1).put(0, 7)
    head = sequence.aligned(stop=False) + extension.aligned(stop=False)
    coded = []
    for number in range(count):
        luma = picture_of(number)
        fields = [_mpeg2_picture(luma[n::2], n + 1, number) for n in range(2)]
        coded.append(Coded(number, True, (head + fields[0], fields[1])))
    return coded


_DC_SIZES = ("100", "00", "01", "101", "110", "1110", "11110", "111110", "1111110")
"""Codes of dct_dc_size_luminance (table B.12)."""


def _mpeg2_picture(luma: np.ndarray, structure: int, number: int) -> bytes:
    picture = _Bits().put(0x100, 32).put(number % 1024, 10).put(1, 3).put(0xFFFF, 16).put(0, 1)
    coding = _Bits().put(0x1B5, 32).put(8, 4).put(0xFFFF, 16).put(0, 2).put(structure, 2)
    coding.put(0, 10)
    data = picture.aligned(stop=False) + coding.aligned(stop=False)
    for row in range(len(luma) // 16):
        slices = _Bits().put(0x101 + row, 32).put(2, 5).put(0, 1)
        before = 128
        for left in range(0, SIDE, 16):
            slices.put(1, 1).put(1, 1)  # next macroblock, intra
            for top, inner in ((0, 0), (0, 8), (8, 0), (8, 8)):
                block = luma[row * 16 + top :, left + inner :][:8, :8]
                value = round(float(block.mean()))
                step, before = value - before, value
                size = abs(step).bit_length()
                slices.text.append(_DC_SIZES[size])
                slices.put(step if step > 0 else step + (1 << size) - 1, size)
                slices.text.append("10")
            slices.text += ["00", "10"] * 2  # no change of chroma, end of block
        data += slices.aligned(stop=False)
    return data


def mux_fields(
    coded: list[Coded], path: Path, codec: str, *, apart: bool, delay: int = 1
) -> list[float]:
    """Write a stream at 25 frames per second; returns when each frame is shown.

    apart: a packet a field, rather than a packet a frame.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 90000)
        stream.codec_context.time_base = Fraction(1, 25 if codec == "mpeg2video" else 90000)
        for place, (number, key, fields) in enumerate(coded):
            for n, data in enumerate(fields if apart else (b"".join(fields),)):
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, 90000)
                packet.pts = 3600 * (number + delay) + 1800 * n
                packet.dts = 3600 * place + 1800 * n
                packet.is_keyframe = key and n == 0
                container.mux(packet)
    return [number / 25 for number in range(len(coded))]
