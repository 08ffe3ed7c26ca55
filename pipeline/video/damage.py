"""Which frames may show damage? The refused packets of a stream, and all that may refer to them.

A decoder paints over what it cannot read, with what it saw before, and hands on the result as if
nothing had happened: to every frame that refers to it, until a keyframe begins afresh.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

from marey.pipeline.video import bitstream
from marey.pipeline.video.packet_plan import group_starts
from marey.pipeline.video.timeline import Timeline


class DamageMap:
    """The damage that was found in a stream so far, and where it reaches.

    codec: the decoder's name, extradata: what its container says about the stream; from them it is
    known which packets nothing refers to. Damage in such a packet stays in its own frame.
    """

    def __init__(self, timeline: Timeline, codec: str, extradata: bytes) -> None:
        self._codec, self._extradata = codec, extradata
        self._by_order = timeline.by_order
        self._second = frozenset(np.flatnonzero(timeline.second).tolist())
        every = np.arange(len(timeline.pts), dtype=np.int64)
        self._starts = group_starts(timeline, every)
        self._spreading: list[int] = []
        self._alone: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._spreading or self._alone)

    def add(self, position: int, packet: bytes) -> None:
        """Packet number `position` in decode order is damaged."""
        if position in self._second:
            position -= 1  # where its frame begins
        if bitstream.nothing_refers_to(packet, self._codec, self._extradata):
            self._alone.add(position)
        elif position not in self._spreading:
            insort(self._spreading, position)

    def reaches(self, position: int) -> bool:
        """Whether the frame that begins with this packet may show damage.

        Where packets do not name their frames (`by_order`), all after the first damage may: a
        frame that is missing moves the count of all that follow.
        """
        if self._by_order:
            return min([*self._spreading, *self._alone], default=position + 1) <= position
        place = bisect_left(self._spreading, int(self._starts[position]))
        spread = place < len(self._spreading) and self._spreading[place] <= position
        return spread or position in self._alone
