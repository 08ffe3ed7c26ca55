"""How does one unit of work become a part of tracks?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from marey.configs.mining import TracksMining
from marey.pipeline.data.events import Video
from marey.pipeline.data.shards import counts_row, open_part, write_part
from marey.pipeline.data.source import Reopened
from marey.pipeline.mining.tracks import TrackMiner, TrackUnit, TrackUnits, track_table
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.runtime.stores import check_not_gone
from marey.pipeline.stream.graph import Rows
from marey.pipeline.video.reasons import PASSING, VideoError


@dataclass(frozen=True, slots=True)
class TrackWork:
    """A unit of work with the row that it is of: all that its process has to know of the corpus."""

    unit: TrackUnit
    video: Video


class TrackSupply:
    """Numbers of units in, units with their rows out: for the one process that knows the corpus."""

    def __init__(self, corpus: Reopened, settings: TracksMining) -> None:
        self._source = corpus.source
        self._units = TrackUnits(self._source, settings)

    def __call__(self, number: int) -> TrackWork:
        """One unit with the row that it is of."""
        unit = self._units[number]
        return TrackWork(unit, self._source.video(unit.row))


class TrackPart:
    """The one step of mining tracks: mines a unit, writes its part, gives its counts."""

    def __init__(self, out: str, settings: TracksMining) -> None:
        self._settings = settings
        self._miner = TrackMiner(settings)
        self._out = Folder(out)
        self.suspicious = False

    def __call__(self, work: TrackWork) -> Iterator[Rows]:
        """The `counts_row` of one part.

        A part of a video that could not be read for now is left open: not written.
        """
        self._miner.suspicious = self.suspicious
        try:
            mined, reasons = self._miner.unit(work.video, work.unit)
        except VideoError as error:
            if error.reason not in PASSING:
                raise
            check_not_gone(work.video.uri)
            yield open_part(work.unit.number, str(error))
            return
        table = track_table(work.video, mined, self._settings)
        number = work.unit.number
        yield counts_row(number, write_part(self._out, number, table, reasons))
