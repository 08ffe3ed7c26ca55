"""What did reading a video cost? Counts that every backend fills in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class DecodeStats:
    """Counts of one pass over a video.

    packets: fed to the decoder. decoded: frames that came out of it. delivered: distinct frames
    that some request received. damaged: packets that the demuxer or the decoder refused, and frames
    that the decoder painted over, each as often as it was met.
    retried: frames that came out only on a second try. Backends that hide a count leave it 0.
    """

    packets: int = 0
    decoded: int = 0
    delivered: int = 0
    damaged: int = 0
    retried: int = 0
