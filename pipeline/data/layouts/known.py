"""Which layout lies at a location? Recognised, or named with `--layout`."""

from __future__ import annotations

from functools import partial

from marey.configs.errors import UsageError
from marey.configs.nearest import suggest
from marey.pipeline.data.layouts import archives, lerobot, video_tables
from marey.pipeline.data.layouts.frame_folders import list_frame_folders
from marey.pipeline.data.listing import LISTINGS, Listing

SHIPPED = (archives, video_tables, lerobot)
"""Each registers its layouts; the last is asked first."""
FILES, FRAMES = "files", "frames"
"""Layouts that nothing is recognised by."""


def layout_of(source: str, *, name: str | None = None, fps: float | None = None) -> Listing | None:
    """The layout of a source; None for folders of video files, and for list files.

    name: take this one. fps: the source is folders of frames, so many per second.
    Raises UsageError for a name that is none, and for a rate that cannot be.
    """
    if fps is not None or name == FRAMES:
        if fps is None or name not in (None, FRAMES):
            raise UsageError("folders of frames need --frames-fps, and no other --layout")
        if not 0 < fps <= 1000:
            raise UsageError(f"--frames-fps {fps:g}: a rate in (0, 1000] is needed")
        rows = partial(list_frame_folders, fps=fps)
        return Listing(f"{FRAMES} ({fps:g} per second)", lambda location: True, rows)
    if name == FILES:
        return None
    if name is None:
        return LISTINGS.at(source)
    if listing := LISTINGS.named(name):
        return listing
    names = sorted({FILES, FRAMES, *LISTINGS.names()})
    raise UsageError(f"--layout {name}: it is one of {', '.join(names)}{suggest(name, names)}")
