"""What is a corpus to the rest of the pipeline, and which layouts are recognised as one?

Somebody adds a layout from outside this repository with `register_source`. A layout of videos is
most easily opened as an `Index` over a table made in memory, one of pictures as `Images`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from marey.configs import plugins
from marey.configs.errors import InputError
from marey.pipeline.data.events import Event, Video
from marey.pipeline.data.images import ImageFolder, ImageTable, has_images, is_image_table
from marey.pipeline.data.index import Index
from marey.pipeline.data.index_manifest import is_index_folder
from marey.pipeline.data.reading import Reader
from marey.pipeline.data.recognised import Register
from marey.pipeline.data.shards import MANIFEST, UNFINISHED
from marey.pipeline.data.stored_samples import StoredSamples
from marey.pipeline.runtime.storage import Folder, is_remote, local_path


class Source(Protocol):
    """A corpus, opened: events by number, in an order that is the same in every process.

    An event is one video, a few synchronised ones, or a picture as a video of one frame. A source
    is opened again by its location in any process; only its `reader` touches pixels.
    """

    @property
    def kind(self) -> str:
        """`video`, `image` or `shards`, as results record it."""
        ...

    @property
    def location(self) -> str:
        """Where it was opened: the argument of `open_source`."""
        ...

    @property
    def stills(self) -> bool:
        """Whether every event has one frame. Neighbouring events are then stored together, and
        shuffled orders keep them near each other."""
        ...

    @property
    def sample_kind(self) -> str | None:
        """The kind of sample that each event is already (shards); None where a sampler has to find
        samples in the events."""
        ...

    @property
    def digest(self) -> str:
        """A short hash of all that samples depend on: a resumed run must find the same."""
        ...

    @property
    def reader(self) -> Reader:
        """Reads the frames of its events; small when pickled, whatever the size of the corpus."""
        ...

    def __len__(self) -> int:
        """Number of events."""
        ...

    def event(self, number: int) -> Event:
        """The event at a position of the fixed order."""
        ...

    def video(self, place: int) -> Video:
        """The video at a place of the fixed order, all events one after another."""
        ...

    def durations_s(self) -> np.ndarray:
        """float64 [videos]: how long each is, in that order; 0 where there is nothing to play."""
        ...

    def labels(self) -> list[int] | None:
        """The class of each event from 0, -1 where it has none; None where no event has one."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether events have labels, of classes or of any other kind."""
        ...

    def label_of(self, number: int) -> Any:
        """The label of an event as its source has it; None where it has none."""
        ...

    def without_frames(self) -> Iterator[Video]:
        """The videos of which nothing can be read, as the index already knows."""
        ...

    def check_present(self) -> None:
        """Raises InputError when nothing of what was described is left at its place."""
        ...


@dataclass(frozen=True, slots=True)
class Layout:
    """A way in which a corpus lies in storage."""

    name: str
    recognises: Callable[[str], bool]
    open: Callable[[str], Source]
    """Opens such a location. Raises InputError saying what is wrong with it."""


LAYOUTS: Register[Layout] = Register("layout")
"""The layouts that `open_source` knows."""


def register_source(
    name: str, recognises: Callable[[str], bool], open: Callable[[str], Source]
) -> None:
    """Make a layout known to `open_source`; the layouts registered last are asked first.

    Raises TypeError if another layout has this name.
    """
    LAYOUTS.add(Layout(name, recognises, open), open.__module__)


def open_source(location: str) -> Source:
    """Open whatever lies at a location. Raises InputError saying what it could be."""
    if layout := LAYOUTS.at(location):
        return layout.open(location)
    if local_path(location).is_dir():
        raise InputError(
            f"{location} is a folder without images; for videos, first run "
            f"`marey index {location} -o index.parquet` and give that file"
        )
    lost = "".join(f"; {fault}" for fault in plugins.faults().values())
    raise InputError(f"no such file or folder: {location}{lost}")


def events_at(source: Source, numbers: np.ndarray) -> list[Event]:
    """The events at some positions, int64 [n]: read together where the source can (`take`)."""
    take = getattr(source, "take", None)
    return [source.event(n) for n in numbers.tolist()] if take is None else take(numbers)


def in_order(source: Source) -> Iterator[Event]:
    """All events of a source, in its order: as it goes through them itself, where it can."""
    events = getattr(source, "events", None)
    return map(source.event, range(len(source))) if events is None else events()


class Reopened:
    """A source for a process that it is sent to: what is sent is its location alone."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __reduce__(self) -> tuple[Callable[[str], Reopened], tuple[str]]:
        return _reopened, (self.source.location,)


def _reopened(location: str) -> Reopened:
    return Reopened(open_source(location))


def need_frames(source: Source) -> None:
    """Raises InputError for shards: they hold finished samples, not videos or images to read."""
    if source.sample_kind is not None:
        raise InputError(
            f"{source.location} holds shards: give the index that they were mined from"
        )


def _is_file(location: str) -> bool:
    return is_remote(location) or local_path(location).is_file()


def _is_image_folder(location: str) -> bool:
    return not is_remote(location) and (path := local_path(location)).is_dir() and has_images(path)


def _is_image_table(location: str) -> bool:
    return _is_file(location) and is_image_table(location)


def _is_shards(location: str) -> bool:
    folder = Folder(location)
    return not location.endswith(".parquet") and (
        folder.exists(MANIFEST) or folder.exists(UNFINISHED)
    )


register_source(
    "index of videos", lambda place: _is_file(place) or is_index_folder(place), Index.load
)
register_source("table of images", _is_image_table, ImageTable)
register_source("folder of images", _is_image_folder, ImageFolder)


register_source("shards", _is_shards, StoredSamples)
