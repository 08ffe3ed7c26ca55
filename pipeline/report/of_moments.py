"""The page of a search: the moment that was asked for, and those that are most like it."""

from __future__ import annotations

from collections.abc import Sequence

from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.nearest_moments import Moment
from marey.pipeline.report.page import Section, figure, grid, note, picture
from marey.pipeline.report.pictures import Fetch, open_fetch, try_fetch
from marey.pipeline.report.thumbnails import location_of


def moment_page(
    embeddings: Embeddings, asked: Moment, found: Sequence[Moment], data: str | None
) -> tuple[str, str, list[Section]]:
    """Title, subtitle and sections.

    data: what was embedded; None, what the embeddings say. Raises InputError where neither is
    there.
    """
    fetch = open_fetch(location_of(embeddings, data))
    figures = [
        _figure(asked, fetch, f"asked for: {asked.video_id}, {asked.time_s:.2f} s"),
        *(
            _figure(one, fetch, f"{one.similarity:.3f}: {one.video_id}, {one.time_s:.2f} s")
            for one in found
        ),
    ]
    about = note(
        "One moment from each event, with the cosine similarity of the two embeddings: 1 where "
        "they point the same way."
    )
    sections = [Section("The moment, and those most like it", grid(figures, smallest=200) + about)]
    subtitle = (
        f"among {len(embeddings):,} frames by the encoder {embeddings.meta.get('encoder', '')}"
    )
    return f"Moments like {asked.video_id} at {asked.time_s:.2f} s", subtitle, sections


def _figure(moment: Moment, fetch: Fetch, caption: str) -> str:
    """A frame with its caption; the caption alone where the frame cannot be read."""
    image = try_fetch(fetch, moment.video_id, moment.time_s)
    about = f"frame {moment.frame} of {moment.video_id}"
    return figure("" if image is None else picture(image, about), caption)
