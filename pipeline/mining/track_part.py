"""How does one unit of work become a part of tracks?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from marey.configs.mining import TracksMining
from marey.pipeline.data.events import Video
from marey.pipeline.data.shards import write_part
from marey.pipeline.mining.tracks import TrackMiner, TrackUnit, track_table
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.graph import Rows


@dataclass(frozen=True, slots=True)
class TrackWork:
    """A unit of work with the row that it is of: all that its process has to know of the corpus."""

    unit: TrackUnit
    video: Video


class TrackPart:
    """The one step of mining tracks: mines a unit, writes its part, gives its counts."""

    def __init__(self, out: str, settings: TracksMining) -> None:
        self._settings = settings
        self._miner = TrackMiner(settings)
        self._out = Folder(out)
        self.suspicious = False

    def __call__(self, work: TrackWork) -> Iterator[Rows]:
        """The `rows` [1] and `reasons` (JSON) [1] of one part."""
        self._miner.suspicious = self.suspicious
        mined, reasons = self._miner.unit(work.video, work.unit)
        table = track_table(work.video, mined, self._settings)
        yield write_part(self._out, work.unit.number, table, reasons).as_rows()
