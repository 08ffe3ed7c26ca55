"""From a folder of embeddings to a session: what is read, placed on the map, and said meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from marey.configs.errors import InputError, MareyError
from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.explore.columns import columns_of
from marey.pipeline.explore.pixels import Pixels
from marey.pipeline.explore.session import Session, side_of
from marey.pipeline.report.of_embeddings import matched
from marey.pipeline.report.projection import LANDMARKS, project
from marey.pipeline.report.thumbnails import source_of


def open_session(
    location: str,
    *,
    data: str | None = None,
    baseline: str | None = None,
    labels: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Session:
    """Read embeddings, and those of a baseline beside them, and place them on a map.

    data: what was embedded; unset, what the embeddings say. labels: as for `marey eval`. say: told
    what happens now, and what is not to be had.
    Raises InputError for what are no embeddings, for a baseline of other frames, and for `data`
    that was given and is not there.
    """
    say("reading the embeddings")
    own = load_embeddings(location)
    named = [("these", own)]
    if baseline is not None:
        named = [("trained", own), ("untrained", matched(load_embeddings(baseline), own))]
    try:
        pixels = Pixels(source_of(own, data))
    except MareyError as error:
        if data is not None:
            raise
        say(f"no pictures: {error}")
        pixels = None
    if pixels is not None and str(own.video_id[0]) not in pixels.places:
        raise InputError(
            f"{pixels.source.location} has no {own.video_id[0]}: it is not what was embedded"
        )
    columns = columns_of(location, own, labels)
    sides = []
    for name, embeddings in named:
        count = min(len(embeddings), LANDMARKS)
        say(f"placing {count:,} of {len(embeddings):,} frames on the map of the {name} embeddings")
        sides.append(side_of(name, embeddings, *project(embeddings.features)))
    return Session(sides, columns, pixels)
