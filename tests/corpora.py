"""Small corpora and index rows for tests of the pipeline."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from marey.configs.schema import DataConfig
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.index import Event, Index, Video
from marey.pipeline.data.source import Source
from marey.pipeline.stream.decode import DecodeStage
from marey.pipeline.stream.decode import Rows as DecodedRows
from marey.pipeline.stream.plan import Plan, Position, Unit
from tests.videos import encode_video

VIEWS = r"(?P<event>e\d+)_v(?P<view>\d)"


def make_video(
    name: str = "a.mp4",
    *,
    frames: int = 240,
    fps: float = 30.0,
    view: str = "0",
    event: str | None = None,
    cuts: tuple[float, ...] = (),
    motion: np.ndarray | None = None,
    motion_hz: float = 2.0,
    offset_s: float = 0.0,
    rate: float = 1.0,
) -> Video:
    """An index row that stands for no file: samplers look at rows only."""
    profile = np.ones(4) if motion is None else motion
    return Video(
        video_id=name, uri=name, event=event or name, view=view, label="", clock_offset_s=offset_s,
        clock_rate=rate, duration_s=frames / fps if fps else 0.0, fps=fps, frames=frames, width=64,
        height=48, stream=0, motion=np.asarray(profile, np.float32), motion_hz=motion_hz,
        cuts=cuts, status="ok",
    )  # fmt: skip


def make_event(*videos: Video) -> Event:
    """Rows as one event."""
    return Event(videos[0].event, tuple(videos))


class Rows:
    """Index rows without files: a source for plans, with a class for each event where given."""

    kind = "video"
    location = "rows"
    stills = False
    sample_kind = None

    def __init__(self, *events: Event, labels: list[int] | None = None) -> None:
        self._events = events
        self._labels = labels

    def __len__(self) -> int:
        return len(self._events)

    def event(self, number: int) -> Event:
        """The event at a position."""
        return self._events[number]

    def labels(self) -> list[int] | None:
        """As a source gives them."""
        return self._labels


def decoder(
    plan: Plan, source: Source, data: DataConfig
) -> Callable[[Unit], Iterator[DecodedRows]]:
    """The decode stage on a plan's units, supplied from a source that is open here."""
    stage = DecodeStage.of(plan, source, data)
    return lambda unit: stage(plan.work(unit, source, Position()))


def encode_corpus(
    folder: Path,
    *,
    events: int = 4,
    views: int = 2,
    num_frames: int = 24,
    fps: int = 12,
    size: tuple[int, int] = (64, 64),
) -> Path:
    """Encode a corpus of really synchronised views and index it; returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    for event in range(events):
        for view in range(views):
            name = f"e{event}_v{view}.mp4"
            encode_video(folder / name, num_frames, fps=fps, gop=8, size=size)
    table = make_index([str(folder)], views=VIEWS)
    location = folder / "index.parquet"
    write_index(table, str(location))
    return location


def load(location: Path) -> Index:
    """Open an index that a test has made."""
    return Index.load(str(location))
