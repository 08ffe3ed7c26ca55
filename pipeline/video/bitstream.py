"""What does a coded packet say about itself? The few bits that containers do not pass on."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SLICE, _IDR, _SEI = 1, 5, 6  # NAL unit types, H.264 table 7-1
_RECOVERY_POINT = 6  # SEI payload type, H.264 annex D
_KEYINT = re.compile(rb"keyint=(\d+)")
_SCENECUT = re.compile(rb"scenecut=(\d+)")


def restarts_at_once(packet: bytes, extradata: bytes) -> bool:
    """Whether decoding an H.264 stream can start at this keyframe with the picture whole.

    With periodic intra refresh the containers mark frames as keyframes at which the picture only
    begins to heal; such a frame announces after how many frames it is whole (recovery_frame_cnt).
    """
    for unit in _nal_units(packet, extradata):
        if not unit:
            continue
        kind = unit[0] & 31
        if kind == _IDR:
            return True
        if kind == _SLICE:
            return True  # a keyframe by the container's word, without a recovery point
        if kind == _SEI:
            count = _recovery_frames(unit[1:])
            if count is not None:
                return count == 0
    return True


def nothing_refers_to(packet: bytes, codec: str, extradata: bytes) -> bool:
    """Whether no other frame is made of this packet's: a B-frame at the bottom of its pyramid.

    codec: the decoder's name. False for every other codec than H.264 (nal_ref_idc, 7.4.1), MPEG-1,
    2 and 4 (their B-pictures). HEVC has such packets too, but its decoder refuses those that name
    one in their list of pictures to keep.
    """
    if codec == "h264":
        slices = [u[0] for u in _nal_units(packet, extradata) if u and u[0] & 31 in range(1, 6)]
        return bool(slices) and not any(byte & 0x60 for byte in slices)
    if codec == "mpeg4":
        at = packet.find(b"\0\0\1\xb6")
        return 0 <= at < len(packet) - 4 and packet[at + 4] >> 6 == 2
    if codec in ("mpeg1video", "mpeg2video"):
        at = packet.find(b"\0\0\1\0")
        return 0 <= at < len(packet) - 5 and packet[at + 5] >> 3 & 7 == 3
    return False


def is_intra_mpeg4(packet: bytes) -> bool:
    """Whether an MPEG-4 packet begins with a picture that refers to no other (14496-2, 6.2.5).

    An MP4 without a table of its keyframes calls each packet one, and the decoder paints over what
    is missing without a word.
    """
    at = packet.find(b"\0\0\1\xb6")
    return not 0 <= at < len(packet) - 4 or packet[at + 4] >> 6 == 0


def hides_frame_vp8(packet: bytes) -> bool:
    """Whether a VP8 packet is an alternate reference that is never shown (RFC 6386, 9.1)."""
    return not packet[0] >> 4 & 1


def scene_grid(packet: bytes) -> int | None:
    """Longest distance of keyframes, if the encoder placed them at scene cuts and says so.

    x264 and x265 write their settings into the first packet. None where nothing is said, or where
    scene detection was off.
    """
    keyint, scenecut = _KEYINT.search(packet), _SCENECUT.search(packet)
    if keyint is None or scenecut is None or int(scenecut[1]) == 0:
        return None
    return int(keyint[1])


def _nal_units(packet: bytes, extradata: bytes) -> Iterator[bytes]:
    """The first bytes of each NAL unit, in either framing (Annex B, or lengths as in MP4)."""
    if extradata[:1] == b"\x01" and len(extradata) > 4:
        width = (extradata[4] & 3) + 1
        at = 0
        while at + width < len(packet):
            length = int.from_bytes(packet[at : at + width], "big")
            yield packet[at + width : at + width + min(length, 256)]
            at += width + length
        return
    at = packet.find(b"\0\0\1")
    while at >= 0:
        yield packet[at + 3 : at + 259]
        at = packet.find(b"\0\0\1", at + 3)


def _recovery_frames(sei: bytes) -> int | None:
    """recovery_frame_cnt if the SEI holds a recovery point."""
    at = 0
    while at + 2 < len(sei):
        kind = length = 0
        while at < len(sei) and sei[at] == 255:
            kind, at = kind + 255, at + 1
        if at + 1 >= len(sei):
            return None
        kind, at = kind + sei[at], at + 1
        while at < len(sei) and sei[at] == 255:
            length, at = length + 255, at + 1
        if at >= len(sei):
            return None
        length, at = length + sei[at], at + 1
        if kind == _RECOVERY_POINT:
            return _unsigned_golomb(sei[at : at + 8])
        at += length
    return None


def _unsigned_golomb(data: bytes) -> int:
    """The unsigned Exp-Golomb number with which `data` begins (H.264, 9.1)."""
    bits = "".join(f"{byte:08b}" for byte in data)
    zeros = len(bits) - len(bits.lstrip("0"))
    return int(bits[zeros : 2 * zeros + 1] or "1", 2) - 1
